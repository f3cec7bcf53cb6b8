import math
import re
from fractions import Fraction
from pathlib import Path
from runpy import run_path

import mpmath
import numpy as np
import pytest
import scipy.optimize
import torch
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.latent import finite
from genref.latent.beta import kl_parts, loss, optimal_loss, optimal_posterior

DOUBLE = torch.float64
WEIGHTS = (0.13, 0.4, 1.3, 2.6, 9.0)
ZEROS = [((), ()), ((1,), ()), ((), (2,)), ((0,), (3, 4))]
"""Places where the prior is zero, and places where the likelihood is."""


@pytest.fixture(autouse=True)
def one_thread():
    """Descents take thousands of products of tiny matrices, which several threads only delay."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def law(generator, n=5, zeros=()):
    """Probabilities as exact fractions, zero at the given places."""
    parts = (torch.randperm(60, generator=generator)[:n] + 1).tolist()
    parts = [0 if i in zeros else part for i, part in enumerate(parts)]
    return [Fraction(part, sum(parts)) for part in parts]


def heights(generator, n=5, zeros=()):
    """Different numbers below one as exact fractions, zero at the given places."""
    parts = (torch.randperm(60, generator=generator)[:n] + 1).tolist()
    return [Fraction(0 if i in zeros else part, 61) for i, part in enumerate(parts)]


def tensor(values):
    flat = torch.tensor([float(value) for value in np.ravel(values)], dtype=DOUBLE)
    return flat.view(np.shape(values))


def uniform(low, high, generator, size=()):
    return low + (high - low) * torch.rand(size, generator=generator, dtype=DOUBLE)


def logarithm(number):
    return mpmath.log(mpmath.mpf(number.numerator) / number.denominator) if number else -mpmath.inf


def mean_log(q, p):
    """The sum of q log p with 0 log 0 = 0."""
    pairs = [(a, logarithm(b)) for a, b in zip(q, p, strict=True) if a]
    return mpmath.fsum(mpmath.mpf(a.numerator) / a.denominator * b for a, b in pairs)


def exact_divergence(q, p):
    with mpmath.workdps(40):
        return float(mean_log(q, q) - mean_log(q, p))


def exact_loss(prior, likelihood, q, beta):
    with mpmath.workdps(40):
        return float(beta * (mean_log(q, q) - mean_log(q, prior)) - mean_log(q, likelihood))


def exact_posterior(prior, likelihood):
    joint = [p * h for p, h in zip(prior, likelihood, strict=True)]
    return [p / sum(joint) for p in joint]


def descend(objective, start):
    """The minimum of a function of a tensor, by quasi-Newton steps with its gradient."""

    def call(point):
        point = torch.tensor(point, dtype=DOUBLE, requires_grad=True)
        found = objective(point)
        (slope,) = torch.autograd.grad(found, point)
        return found.item(), slope.numpy()

    options = {"gtol": 1e-11, "maxiter": 5000}
    found = scipy.optimize.minimize(call, np.asarray(start), jac=True, options=options)
    return torch.tensor(found.x, dtype=DOUBLE), found.fun


def descended(prior, likelihood, beta, reconstruction=1):
    """The law of least loss and its loss, found on the simplex."""

    def objective(free):
        rate = free.softmax(0) @ (free.log_softmax(0) - tensor(prior).log())
        return beta * rate - reconstruction * free.softmax(0) @ tensor(likelihood).log()

    free, least = descend(objective, torch.zeros(len(prior)))
    return free.softmax(0), least


def slopes(q, prior, likelihood, beta):
    """The derivatives of the loss by the probabilities, less the first of them."""
    q = q.clone().requires_grad_()
    total = beta * (q * (q / tensor(prior)).log()).sum() - (q * tensor(likelihood).log()).sum()
    (slope,) = torch.autograd.grad(total, q)
    return slope - slope[0]


@pytest.mark.claim("x-betavae-optimal-q", answers=["B2.1", "B2.2"])
def test_optimal_q(evidence, best=optimal_posterior, least=optimal_loss):
    for beta in WEIGHTS:
        prior, likelihood = law(evidence.generator), heights(evidence.generator)
        p, h = tensor(prior), tensor(likelihood)
        q, value = descended(prior, likelihood, beta)
        evidence.numeric(best(p, h, beta), q, bound=1e-5, oracle="descent on the simplex")
        evidence.numeric(least(p, h, beta), value, bound=1e-8, oracle="descent on the simplex")
        evidence.numeric(
            slopes(best(p, h, beta), prior, likelihood, beta),
            torch.zeros(5, dtype=DOUBLE),
            bound=1e-12,
            oracle="at a minimum on the simplex all derivatives of a convex function are equal",
        )
    for beta in WEIGHTS:
        for empty, impossible in ZEROS:
            prior = law(evidence.generator, zeros=empty)
            likelihood = heights(evidence.generator, zeros=impossible)
            p, h = tensor(prior), tensor(likelihood)
            for zeros in (empty + impossible, (), (2, 3)):
                q = law(evidence.generator, zeros=zeros)
                divergence = finite.divergence(tensor(q), best(p, h, beta))
                evidence.numeric(
                    least(p, h, beta) + beta * divergence,
                    exact_loss(prior, likelihood, q, beta),
                    bound=1e-12,
                    oracle="the loss of another law in 40 digits",
                )
    prior, likelihood = law(evidence.generator), heights(evidence.generator)
    p, h = tensor(prior), tensor(likelihood)
    evidence.numeric(
        best(p, h, 1),
        tensor(exact_posterior(prior, likelihood)),
        bound=1e-15,
        oracle="Bayes' rule in fractions",
    )
    with mpmath.workdps(40):
        mean = float(mean_log(prior, likelihood))
        marginal = float(logarithm(sum(a * b for a, b in zip(prior, likelihood, strict=True))))
        ends = [float(logarithm(max(likelihood))), marginal, mean]
    for beta in ((0.0, 1.0, math.inf), (1e-12, 1.0, 1e12)):
        evidence.numeric(
            [-least(p, h, b) for b in beta],
            ends,
            bound=1e-10,
            oracle="logarithms of the maximum, the sum and the single terms in 40 digits",
        )
    beta = torch.logspace(-2, 2, 60, dtype=DOUBLE)
    steps = least(p, h, beta).diff()
    zero = torch.zeros(59, dtype=DOUBLE)
    evidence.ordered(-steps, zero, bound=0, oracle="an increasing function")
    bends = (steps / beta.diff()).diff()
    evidence.ordered(bends, zero[1:], bound=1e-12, oracle="a concave function")


@mutant(test_optimal_q, "the exponent is beta, not its inverse", of="best")
def exponent(prior, likelihood, beta):
    return optimal_posterior(prior, likelihood, 1 / beta)


@mutant(test_optimal_q, "the posterior for every weight", of="best")
def untempered(prior, likelihood, beta):
    return optimal_posterior(prior, likelihood, 1)


@mutant(test_optimal_q, "the prior is raised to the power too", of="best")
def tempered_posterior(prior, likelihood, beta):
    return (optimal_posterior(prior, likelihood, 1).log() / beta).softmax(-1)


@mutant(test_optimal_q, "the weight multiplies the logarithm of the prior", of="best")
def weighted_prior(prior, likelihood, beta):
    return (beta * prior.log() + likelihood.log()).softmax(-1)


@mutant(test_optimal_q, "the prior is left out", of="best")
def flat_prior(prior, likelihood, beta):
    return optimal_posterior(torch.full_like(prior, 1 / prior.shape[-1]), likelihood, beta)


@mutant(test_optimal_q, "the factor before the logarithm is missing", of="least")
def unscaled(prior, likelihood, beta):
    return optimal_loss(prior, likelihood, beta) / beta


@mutant(test_optimal_q, "the loss of the posterior", of="least")
def loss_of_posterior(prior, likelihood, beta):
    return loss(prior, likelihood, optimal_posterior(prior, likelihood, 1), beta)


def shared(prior, places):
    """The prior restricted to some places, in fractions."""
    kept = [p if i in places else Fraction(0) for i, p in enumerate(prior)]
    return [p / sum(kept) for p in kept]


def normal_on_grid(m, s):
    """Points around m and the weights of a normal law there; sums over them are its means."""
    unit = torch.linspace(-9, 9, 361, dtype=DOUBLE)
    return m + s * unit, (-unit.square() / 2).softmax(0)


@pytest.mark.claim("betavae-beta0", answers=["B2.1"])
def test_reconstruction_only(evidence, best=optimal_posterior, value=loss):
    for ties in ((3,), (1, 3), (0, 2, 4)):
        for empty in ((), (1,)):
            prior = law(evidence.generator, zeros=empty)
            likelihood = heights(evidence.generator)
            for i in ties:
                likelihood[i] = max(likelihood)
            top = max(h for p, h in zip(prior, likelihood, strict=True) if p)
            places = [i for i, h in enumerate(likelihood) if h == top and prior[i]]
            for beta in (0.0, 1e-6):
                evidence.numeric(
                    best(tensor(prior), tensor(likelihood), beta),
                    tensor(shared(prior, places)),
                    bound=1e-14,
                    oracle="the prior on the largest fractions",
                )
        prior = law(evidence.generator)
        log_likelihood = tensor(likelihood).log().numpy()
        oracle = scipy.optimize.linprog(-log_likelihood, A_eq=np.ones((1, 5)), b_eq=[1.0])
        q = torch.stack([best(tensor(prior), tensor(likelihood), 0.0), *torch.eye(5, dtype=DOUBLE)])
        found = value(tensor(prior), tensor(likelihood), q, 0.0)
        evidence.numeric(
            found[0],
            oracle.fun,
            bound=1e-12,
            oracle="linear programming",
        )
        evidence.exact(
            found[1:] < found[0] + 1e-6,
            torch.tensor([h == max(likelihood) for h in likelihood]),
            oracle="the largest fractions",
        )
    for s in (0.6, 0.2, 0.01):
        w, x, variance, m = uniform(0.5, 2, evidence.generator, (4,))
        z, q = normal_on_grid(m, s)
        density = torch.distributions.Normal(w * z, variance.sqrt()).log_prob(x).exp()
        infimum = (2 * torch.pi * variance).log() / 2
        evidence.numeric(
            value(q, density, q, 0.0) - infimum,
            ((x - w * m) ** 2 + w**2 * s**2) / (2 * variance),
            bound=1e-10,
            oracle="mean and variance of a normal law",
        )
    for variance in (1e-2, 1e-9):
        one = torch.ones(1, dtype=DOUBLE)
        evidence.numeric(
            value(one, one / math.sqrt(2 * math.pi * variance), one, 0.0),
            math.log(2 * math.pi * variance) / 2,
            bound=1e-12,
            oracle="the density of a normal law at its mean",
        )


@mutant(test_reconstruction_only, "the posterior", of="best")
def posterior_at_zero(prior, likelihood, beta):
    return optimal_posterior(prior, likelihood, 1)


@mutant(test_reconstruction_only, "all mass where the posterior is largest", of="best")
def most_probable(prior, likelihood, beta):
    return torch.nn.functional.one_hot((prior * likelihood).argmax(-1), 5).to(prior)


@mutant(test_reconstruction_only, "maximisers share the mass equally", of="best")
def equal_shares(prior, likelihood, beta):
    places = (optimal_posterior(prior, likelihood, 0) > 0).to(prior)
    return places / places.sum(-1, keepdim=True)


@mutant(test_reconstruction_only, "the first maximiser takes all", of="best")
def first_maximiser(prior, likelihood, beta):
    return torch.nn.functional.one_hot(likelihood.argmax(-1), 5).to(prior)


@mutant(test_reconstruction_only, "the divergence stays in the loss", of="value")
def evidence_bound(prior, likelihood, q, beta):
    return loss(prior, likelihood, q, 1)


@pytest.mark.claim("betavae-kl-only", answers=["B2.2"])
def test_divergence_only(evidence, best=optimal_posterior):
    for impossible in ((), (2,), (0, 3)):
        prior, data = law(evidence.generator), law(evidence.generator, 3)
        rows = [heights(evidence.generator, zeros=impossible) for _ in range(3)]
        encoder = best(tensor(prior).expand(3, 5), tensor(rows), math.inf)
        evidence.numeric(
            encoder,
            tensor(prior).expand(3, 5),
            bound=1e-15,
            oracle="the prior, for every datum and every decoder",
        )
        evidence.numeric(
            encoder[0],
            descended(prior, heights(evidence.generator), 1, reconstruction=0)[0],
            bound=1e-7,
            oracle="descent on the simplex",
        )
        evidence.numeric(
            [
                finite.divergence(encoder, tensor(prior)).abs().max(),
                finite.mutual_information(tensor(data)[:, None] * encoder),
            ],
            [0, 0],
            bound=1e-14,
            oracle="no divergence and no information",
        )
        evidence.numeric(
            best(tensor(prior), tensor(rows[1]), 1e12),
            tensor(shared(prior, [i for i in range(5) if i not in impossible])),
            bound=1e-10,
            oracle="the prior in fractions, where the likelihood is positive",
        )


@mutant(test_divergence_only, "the posterior")
def posterior_at_infinity(prior, likelihood, beta):
    return optimal_posterior(prior, likelihood, 1)


@mutant(test_divergence_only, "the uniform law")
def ignorance(prior, likelihood, beta):
    return torch.full_like(prior, 1 / prior.shape[-1])


@mutant(test_divergence_only, "all mass where the prior is largest")
def prior_mode(prior, likelihood, beta):
    return torch.nn.functional.one_hot(prior.argmax(-1), 5).to(prior)


@mutant(test_divergence_only, "the limit taken for the value at infinity")
def restricted_prior(prior, likelihood, beta):
    return optimal_posterior(prior, likelihood, min(beta, 1e15))


@pytest.mark.claim("x-betavae-bound")
def test_bound(evidence, value=loss, least=optimal_loss):
    for beta in (0.0, *WEIGHTS, 1.0):
        for empty, impossible in ZEROS:
            prior = law(evidence.generator, zeros=empty)
            likelihood = heights(evidence.generator, zeros=impossible)
            p, h = tensor(prior), tensor(likelihood)
            posterior = exact_posterior(prior, likelihood)
            marginal = sum(a * b for a, b in zip(prior, likelihood, strict=True))
            log_p = math.log(marginal)
            if beta >= 1:
                laws = [posterior, prior, *(law(evidence.generator) for _ in range(20))]
                evidence.ordered(
                    -value(p, h, tensor(laws), beta),
                    torch.full((22,), log_p, dtype=DOUBLE),
                    bound=1e-14,
                    oracle="the logarithm of a sum of fractions",
                )
            evidence.numeric(
                -value(p, h, tensor(posterior), beta) - log_p,
                (1 - beta) * exact_divergence(posterior, prior),
                bound=1e-13,
                oracle="the divergence of the posterior in 40 digits",
            )
    prior, likelihood = [Fraction(3, 10), Fraction(7, 10)], [Fraction(4, 5), Fraction(1, 10)]
    found = -least(tensor(prior), tensor(likelihood), 0.5)
    largest = -descended(prior, likelihood, 0.5)[1]
    evidence.numeric(found, largest, bound=1e-8, oracle="descent on the simplex")
    evidence.exact(f"{found:.3f}", "-0.807", oracle="the decimals of the claim")
    found = -least(tensor(prior), tensor(likelihood), 1)
    evidence.exact(f"{found:.3f}", "-1.171", oracle="the decimals of the claim")


@mutant(test_bound, "the divergence is taken from the posterior", of="value")
def from_posterior(prior, likelihood, q, beta):
    return loss(optimal_posterior(prior, likelihood, 1), likelihood, q, beta)


@mutant(test_bound, "the divergence is reversed", of="value")
def reversed_divergence(prior, likelihood, q, beta):
    return loss(prior, likelihood, q, 0) + beta * finite.divergence(prior, q)


@mutant(test_bound, "the weight is on the reconstruction", of="value")
def weighted_reconstruction(prior, likelihood, q, beta):
    return beta * loss(prior, likelihood, q, 0) + finite.divergence(q, prior)


@mutant(test_bound, "a weight below one still bounds", of="value")
def always_a_bound(prior, likelihood, q, beta):
    return loss(prior, likelihood, q, max(beta, 1))


@mutant(test_bound, "the evidence is the least loss at every weight", of="least")
def always_the_evidence(prior, likelihood, beta):
    return optimal_loss(prior, likelihood, 1)


@pytest.mark.claim("x-betavae-kl-decomposition")
def test_decomposition(evidence, parts=kl_parts):
    for empty, used in (((), ()), ((2,), ()), ((2,), (2,)), ((0, 3), (0, 3, 4))):
        data = law(evidence.generator, 3)
        prior = law(evidence.generator, zeros=empty)
        rows = [law(evidence.generator, zeros=used) for _ in data]
        found = torch.stack(parts(tensor(data), tensor(rows), tensor(prior)))
        q = [sum(d * row[z] for d, row in zip(data, rows, strict=True)) for z in range(5)]
        evidence.numeric(
            found.sum(),
            sum(d * exact_divergence(row, prior) for d, row in zip(data, rows, strict=True)),
            bound=1e-14,
            oracle="the divergence of each datum in 40 digits, averaged",
        )
        evidence.numeric(
            found,
            [
                finite.mutual_information(tensor(data)[:, None] * tensor(rows)),
                exact_divergence(q, prior),
            ],
            bound=1e-14,
            oracle="the information of the joint table, and the divergence of its margin",
        )
        evidence.numeric(
            torch.stack(parts(tensor(data), tensor(rows), tensor(q)))[1],
            0,
            bound=1e-14,
            oracle="a law does not differ from itself",
        )


@mutant(test_decomposition, "the mean over the data is unweighted")
def unweighted(data, encoder, prior):
    return kl_parts(torch.full_like(data, 1 / len(data)), encoder, prior)


@mutant(test_decomposition, "the information alone")
def information_alone(data, encoder, prior):
    return kl_parts(data, encoder, prior)[0], prior.new_zeros(())


@mutant(test_decomposition, "the entropy of the code for its information")
def entropy_of_code(data, encoder, prior):
    return finite.entropy(data @ encoder), kl_parts(data, encoder, prior)[1]


@mutant(test_decomposition, "the second divergence is reversed")
def reversed_margin(data, encoder, prior):
    return kl_parts(data, encoder, prior)[0], finite.divergence(prior, data @ encoder)


def in_many_digits(prior, likelihood, beta):
    """The optimum and its loss by their formulas in 60 digits."""
    with mpmath.workdps(60):
        powers = [
            mpmath.mpf(p) * mpmath.mpf(h) ** (1 / mpmath.mpf(beta)) if p * h else 0
            for p, h in zip(prior.tolist(), likelihood.tolist(), strict=True)
        ]
        total = mpmath.fsum(powers)
        q = [float(power / total) for power in powers]
        return torch.tensor(q, dtype=DOUBLE), float(-mpmath.mpf(beta) * mpmath.log(total))


@pytest.mark.parametrize("beta", [1e-300, 1e-9, 1e-3, 0.02, 0.5, 3.0, 1e3, 1e8])
def test_no_weight_loses_digits(beta):
    prior = torch.tensor([2**-13, 0.0, 0.25, 0.75 - 2**-13], dtype=DOUBLE)
    for likelihood in ([1e-3, 0.9, 2e-4, 1e-5], [3e-200, 0.5, 2e-201, 1e-201], [40.0, 1, 7, 7]):
        likelihood = torch.tensor(likelihood, dtype=DOUBLE)
        q, least = in_many_digits(prior, likelihood, beta)
        found = optimal_posterior(prior, likelihood, beta)
        torch.testing.assert_close(found, q, rtol=1e-9, atol=1e-300)
        assert abs(optimal_loss(prior, likelihood, beta) - least) < 1e-12 * (1 + abs(least))


def test_small_weights_in_single_precision():
    prior, likelihood = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([1e-30, 2e-30, 2e-30])
    for beta in (0, 1e-50, 1e-30, 1e-4):
        found = optimal_posterior(prior, likelihood, beta)
        torch.testing.assert_close(found, torch.tensor([0.0, 0.625, 0.375]))
        assert optimal_loss(prior, likelihood, beta).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    prior, likelihood = torch.tensor([0.25, 0.75], dtype=dtype), torch.ones(3, 2, dtype=dtype)
    beta = torch.tensor(0.5, dtype=DOUBLE)
    for result in (
        optimal_posterior(prior, likelihood, beta),
        optimal_loss(prior, likelihood, beta),
        loss(prior, likelihood, prior, beta),
        *kl_parts(prior, torch.eye(2, dtype=dtype), prior),
    ):
        assert result.dtype == dtype


def test_batches_broadcast():
    prior = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], dtype=DOUBLE)
    likelihood = torch.tensor([[[0.3, 0.4]], [[0.6, 0.1]]], dtype=DOUBLE)
    beta = torch.tensor([0.0, 0.7, math.inf], dtype=DOUBLE)
    q = optimal_posterior(prior, likelihood, beta)
    least = optimal_loss(prior, likelihood, beta)
    weight = torch.tensor([0.0, 0.7, 2.0], dtype=DOUBLE)
    values = loss(prior, likelihood, q, weight)
    assert (q.shape, least.shape, values.shape) == ((2, 3, 2), (2, 3), (2, 3))
    for i in range(2):
        for j in range(3):
            one = prior[j], likelihood[i, 0]
            torch.testing.assert_close(q[i, j], optimal_posterior(*one, beta[j].item()))
            torch.testing.assert_close(least[i, j], optimal_loss(*one, beta[j].item()))
            torch.testing.assert_close(values[i, j], loss(*one, q[i, j], weight[j].item()))
    encoder = torch.stack([prior[:2], prior[1:]])
    data = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    information, rest = kl_parts(data, encoder, prior[0])
    assert information.shape == rest.shape == (2,)
    assert rest[1] == kl_parts(data, encoder[1], prior[0])[1]


def test_the_loss_is_infinite_where_it_should_be():
    prior, likelihood = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.0, 0.4])
    for q, beta, value in (
        ([0.0, 0.0, 1.0], 0.5, math.inf),
        ([0.0, 0.0, 1.0], 0, -math.log(0.4)),
        ([0.5, 0.5, 0.0], 0, math.inf),
        ([1.0, 0.0, 0.0], 2, 2 * math.log(2) - math.log(0.2)),
    ):
        found = loss(prior, likelihood, torch.tensor(q), beta)
        torch.testing.assert_close(found, torch.tensor(value))
    assert optimal_loss(prior, likelihood, math.inf) == math.inf


def test_gradients_reach_all_arguments():
    generator = torch.Generator().manual_seed(5)
    free = torch.randn(2, 4, generator=generator, dtype=DOUBLE).requires_grad_()
    for start in (0.3, 2.0, 60.0):
        beta = torch.tensor(start, dtype=DOUBLE, requires_grad=True)
        for function in (optimal_posterior, optimal_loss):
            assert torch.autograd.gradcheck(
                lambda free, beta, f=function: f(free[0].softmax(0), free[1].sigmoid(), beta),
                (free, beta),
            )


def test_the_derivative_by_the_weight_is_the_divergence():
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    likelihood = torch.tensor([0.9, 0.2, 0.4], dtype=DOUBLE)
    for value in (0.2, 1.0, 7.0):
        beta = torch.tensor(value, dtype=DOUBLE, requires_grad=True)
        (slope,) = torch.autograd.grad(optimal_loss(prior, likelihood, beta), beta)
        q = optimal_posterior(prior, likelihood, value)
        torch.testing.assert_close(slope, finite.divergence(q, prior))


def test_gradients_stay_finite_beside_zeros_and_at_the_ends():
    for beta in (0.0, 1e-300, 0.5, math.inf):
        prior = torch.tensor([0.4, 0.6, 0.0], dtype=DOUBLE, requires_grad=True)
        likelihood = torch.tensor([0.0, 0.3, 0.8], dtype=DOUBLE, requires_grad=True)
        values = [optimal_posterior(prior, likelihood, beta)[1]]
        values += [optimal_loss(prior, likelihood, beta)] if beta < math.inf else []
        for value in values:
            for slope in torch.autograd.grad(value, (prior, likelihood)):
                assert slope.isfinite().all()
    prior, likelihood = torch.tensor([0.0, 1.0]), torch.tensor([0.2, 0.7])
    q = torch.tensor([0.4, 0.6], requires_grad=True)
    (slope,) = torch.autograd.grad(loss(prior, likelihood, q, 0), q)
    torch.testing.assert_close(slope, -likelihood.log())


@pytest.mark.usefixtures("untyped")
def test_what_is_no_probability_raises():
    good, table = torch.tensor([0.3, 0.7]), torch.tensor([[0.3, 0.7], [0.5, 0.5]])
    laws = {
        "prior": [
            lambda bad: loss(bad, good, good, 1),
            lambda bad: optimal_posterior(bad, good, 1),
            lambda bad: optimal_loss(bad, good, 1),
            lambda bad: kl_parts(good, table, bad),
        ],
        "q": [lambda bad: loss(good, good, bad, 1)],
        "data": [lambda bad: kl_parts(bad, table, good)],
        "encoder": [lambda bad: kl_parts(good, torch.stack([good, bad]), good)],
    }
    for name, calls in laws.items():
        for call in calls:
            with pytest.raises(ValueError, match=f"{name} must sum to 1, got a sum that is off by"):
                call(torch.tensor([0.3, 0.6]))
            if name != "encoder":
                with pytest.raises(ValueError, match=f"{name} must have 2 values of [xz], got 3"):
                    call(torch.tensor([0.3, 0.3, 0.4]))
    laws["likelihood"] = [
        lambda bad: loss(good, bad, good, 1),
        lambda bad: optimal_posterior(good, bad, 1),
        lambda bad: optimal_loss(good, bad, 1),
    ]
    for name, calls in laws.items():
        for call in calls:
            for bad in ([-0.1, 1.1], [math.nan, 0.5], [math.inf, 0.5]):
                with pytest.raises(ValueError, match=f"{name} must be finite and not negative"):
                    call(torch.tensor(bad))
    for call in (optimal_posterior, optimal_loss):
        for likelihood in ([0.0, 0.0], [0.0, 0.4]):
            words = "likelihood must be positive for some z of the prior, got 0 for all"
            with pytest.raises(ValueError, match=words):
                call(torch.tensor([1.0, 0.0]), torch.tensor(likelihood), 2)


@pytest.mark.usefixtures("untyped")
def test_wrong_weights_raise():
    p = torch.tensor([0.3, 0.7])
    for call, domain, bad in (
        (lambda b: loss(p, p, p, b), "at least 0 and finite", (-0.1, math.nan, math.inf)),
        (lambda b: optimal_posterior(p, p, b), "at least 0", (-0.1, math.nan)),
        (lambda b: optimal_loss(p, p, b), "at least 0", (-0.1, math.nan)),
    ):
        for number in bad:
            with pytest.raises(ValueError, match=re.escape(f"beta must be {domain}, got {number}")):
                call(number)
        with pytest.raises(ValueError, match=f"beta must be {domain}, got tensor"):
            call(torch.tensor([1.0, -0.1]))


def drawn(name):
    """The axes of a figure of the snippet."""
    figure = Figure(layout="constrained")
    run_path(str(Path(__file__).parents[2] / "snippets/latent/beta.py"))[name](figure.gca())
    return figure.gca()


def test_the_curves_go_from_the_best_value_to_the_prior():
    curves = [line for line in drawn("figure").lines if len(line.get_xdata()) > 2]
    prior, likelihood = [0.05, 0.15, 0.35, 0.45], [0.8, 0.5, 0.3, 0.05]
    ends = torch.tensor([[curve.get_ydata()[i] for curve in curves] for i in (0, 120, -1)])
    powers = [p * h ** (1 / 1000) for p, h in zip(prior, likelihood, strict=True)]
    joint = [p * h for p, h in zip(prior, likelihood, strict=True)]
    expected = [
        [1.0, 0.0, 0.0, 0.0],
        [p / sum(joint) for p in joint],
        [p / sum(powers) for p in powers],
    ]
    torch.testing.assert_close(ends, torch.tensor(expected))


def test_the_curve_of_the_bound_crosses_the_evidence_at_one():
    curves = drawn("figure_bound").lines
    evidence = math.log(0.05 * 0.8 + 0.15 * 0.5 + 0.35 * 0.3 + 0.45 * 0.05)
    for curve, i in ((curves[0], -1), (curves[1], 0)):
        assert abs(curve.get_xdata()[i] - 1) < 1e-6
        assert abs(curve.get_ydata()[i] - evidence) < 1e-6
    assert min(curves[0].get_ydata()) > evidence - 1e-6
    assert max(curves[1].get_ydata()) < evidence + 1e-6
