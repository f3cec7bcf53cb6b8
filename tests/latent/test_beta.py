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
from genref.latent.beta import (
    collapse_threshold,
    kl_parts,
    linear_posterior,
    loss,
    noise_variance,
    optimal_loss,
    optimal_posterior,
    squared_weights,
)

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


def tempered_moments(x, w, variance, beta):
    """Mean and variance of the law in proportion to p(z) p(x | z)^(1 / beta), by quadrature."""
    x, w, variance = (mpmath.mpf(number.item()) for number in (x, w, variance))

    def density(z):
        return mpmath.npdf(z) * mpmath.exp(-((x - w * z) ** 2) / (2 * variance * beta))

    edges = [-12, *range(-6, 7), 12]
    total, first, second = (mpmath.quad(lambda z, k=k: z**k * density(z), edges) for k in (0, 1, 2))
    return float(first / total), float(second / total - (first / total) ** 2)


def tempered_moments_in_the_plane(x, W, variance, beta):
    """The same for two latents, as sums over a fine grid, which are exact for such laws."""
    axis = torch.linspace(-8, 8, 801, dtype=DOUBLE)
    z = torch.cartesian_prod(axis, axis)
    squares = z.square().sum(1) + (x - z @ W.T).square().sum(1) / (variance * beta)
    weight = (-squares / 2).softmax(0)
    mean = weight @ z
    return mean, (z - mean).T @ (weight[:, None] * (z - mean))


def best_normal(x, w, variance, beta):
    """Mean and variance of the normal law of least loss, whose means are sums over nodes."""
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(12))
    weights = weights / weights.sum()

    def objective(law):
        z = law[0] + law[1].exp() * nodes
        log_q = -nodes.square() / 2 - law[1]
        return weights @ ((x - w * z) ** 2 / (2 * variance) + beta * (log_q + z.square() / 2))

    m, log_s = descend(objective, [0.0, 0.0])[0]
    return m, (2 * log_s).exp()


@pytest.mark.claim("x-betavae-linear-gaussian")
def test_linear_gaussian(evidence, linear=linear_posterior):
    for beta in WEIGHTS:
        x, w, variance = uniform(0.4, 1.8, evidence.generator, (3,))
        mean, covariance = linear(x[None], w[None, None], variance, beta)
        moments = torch.stack([mean[0], covariance[0, 0]])
        evidence.numeric(
            moments,
            tempered_moments(x, w, variance, beta),
            bound=1e-12,
            oracle="quadrature of the prior times a power of the likelihood",
        )
        evidence.numeric(
            moments,
            best_normal(x, w, variance, beta),
            bound=1e-7,
            oracle="descent over mean and variance of a normal law",
        )
        evidence.numeric(
            moments,
            [w * x / (w**2 + beta * variance), beta * variance / (w**2 + beta * variance)],
            bound=1e-14,
            oracle="the fractions of the claim",
        )
    for beta in (0.4, 2.6):
        x, variance = uniform(-2, 2, evidence.generator, (3,)), uniform(0.3, 1, evidence.generator)
        W = torch.randn(3, 2, generator=evidence.generator, dtype=DOUBLE)
        mean, covariance = linear(x, W, variance, beta)
        expected_mean, expected = tempered_moments_in_the_plane(x, W, variance, beta)
        evidence.numeric(mean, expected_mean, bound=1e-11, oracle="sums over a grid of the plane")
        evidence.numeric(covariance, expected, bound=1e-11, oracle="sums over a grid of the plane")
        mean, covariance = linear(x, W, variance, math.inf)
        evidence.numeric(mean, torch.zeros(2), bound=1e-15, oracle="the prior")
        evidence.numeric(covariance, torch.eye(2), bound=1e-15, oracle="the prior")
        W = W[:, :1] * uniform(0.5, 1, evidence.generator, (2,))
        inverse = torch.linalg.pinv(W)
        mean, covariance = linear(x, W, variance, 1e-8)
        evidence.numeric(mean, inverse @ x, bound=1e-6, oracle="the pseudo-inverse")
        kernel = torch.eye(2) - inverse @ W
        evidence.numeric(covariance, kernel, bound=1e-6, oracle="the projection on the kernel")


@mutant(test_linear_gaussian, "the posterior for every weight")
def true_posterior(x, W, variance, beta):
    return linear_posterior(x, W, variance, 1)


@mutant(test_linear_gaussian, "the noise is divided by the weight")
def divided_noise(x, W, variance, beta):
    return linear_posterior(x, W, variance, 1 / beta if beta < math.inf else 1e-9)


@mutant(test_linear_gaussian, "the covariance of the posterior times the weight")
def widened(x, W, variance, beta):
    mean, covariance = linear_posterior(x, W, variance, 1)
    return mean, beta * covariance


@mutant(test_linear_gaussian, "the covariance without the weight before it")
def too_narrow(x, W, variance, beta):
    mean, covariance = linear_posterior(x, W, variance, beta)
    return mean, covariance / beta


@mutant(test_linear_gaussian, "the mean is not shrunk")
def unshrunk(x, W, variance, beta):
    return torch.linalg.pinv(W) @ x, linear_posterior(x, W, variance, beta)[1]


def data(generator, D=3):
    """Eigenvalues in descending order that differ clearly, and the covariance they belong to."""
    eigenvalues = torch.tensor([6.0, 2.5, 0.8], dtype=DOUBLE)[:D]
    eigenvalues = eigenvalues * uniform(0.8, 1.2, generator, (D,))
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=DOUBLE))[0]
    return eigenvalues, basis @ torch.diag(eigenvalues) @ basis.T


def mean_loss(S, W, A, L, variance, beta):
    """Mean loss of data with covariance S for the decoder W and the encoder N(Ax, LL')."""
    D, d = W.shape
    residual = torch.eye(D, dtype=DOUBLE) - W @ A
    error = (residual @ S @ residual.T).trace() + (W @ L).square().sum()
    log_det = L.diagonal().abs().log().sum()
    rate = ((A @ S @ A.T).trace() + L.square().sum() - d) / 2 - log_det
    log_normaliser = D / 2 * (2 * torch.pi * variance).log()
    return error / (2 * variance) + log_normaliser + beta * rate, error, rate


def trained(S, d, beta, generator, variance=None):
    """Squared singular values, noise variance, squared error and rate of the better of two runs."""
    D = len(S)

    def unpack(free):
        W, A = free[: D * d].view(D, d), free[D * d : 2 * D * d].view(d, D)
        L = free[2 * D * d : -1].view(d, d).tril()
        return S, W, A, L, variance if variance is not None else free[-1].exp(), beta

    runs = []
    for _ in range(2):
        start = torch.randn(2 * D * d + d * d + 1, generator=generator, dtype=DOUBLE)
        start[2 * D * d : -1] += torch.eye(d, dtype=DOUBLE).flatten()
        start[-1] = 0
        runs.append(descend(lambda free: mean_loss(*unpack(free))[0], start))
    free = min(runs, key=lambda run: run[1])[0]
    _, W, *_, noise, _ = unpack(free)
    return torch.linalg.svdvals(W).square(), noise, *mean_loss(*unpack(free))[1:]


def curvature(beta, eigenvalue, variance):
    """Second derivative by w at w = 0 of the mean least loss of a decoder in one dimension.

    Logarithms of means over the prior, averaged over normal data, both as sums over nodes.
    """
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(20))
    log_weights = (weights / weights.sum()).log()
    w = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    x = math.sqrt(eigenvalue) * nodes[:, None]
    exponent = -((x - w * nodes) ** 2) / (2 * beta * variance) + log_weights
    total = -beta * (log_weights.exp() * exponent.logsumexp(1)).sum()
    (slope,) = torch.autograd.grad(total, w, create_graph=True)
    return torch.autograd.grad(slope, w)[0].item()


@pytest.mark.claim("x-betavae-collapse")
def test_collapse(evidence, weights=squared_weights, threshold=collapse_threshold):
    eigenvalues = data(evidence.generator)[0]
    variance = uniform(0.3, 0.7, evidence.generator).item()
    evidence.numeric(
        threshold(eigenvalues, variance),
        [
            scipy.optimize.brentq(curvature, 0.1, 100, (eigenvalue, variance), xtol=1e-13)
            for eigenvalue in eigenvalues.tolist()
        ],
        bound=1e-9,
        oracle="where the loss bends down at a weight of zero, by automatic differentiation",
    )
    for level in (0.3, 1.4, 4.0, 9.0):
        eigenvalues, S = data(evidence.generator)
        variance = uniform(0.3, 0.7, evidence.generator)
        beta = level / variance.item()
        for d in (1, 2, 3):
            squares = weights(eigenvalues[:d], variance, beta)
            found, _, error, rate = trained(S, d, beta, evidence.generator, variance)
            evidence.numeric(squares, found, bound=1e-6, oracle="descent over decoder and encoder")
            W = torch.diag(squares.sqrt())
            x = torch.diag(eigenvalues[:d].sqrt())
            mean, covariance = linear_posterior(x, W, variance, beta)
            spread = covariance[0].diagonal()
            errors = (x - mean @ W).square().sum(0) + squares * spread
            rates = (mean.diagonal() ** 2 + spread - 1 - spread.log()) / 2
            evidence.numeric(
                [errors.sum() + eigenvalues[d:].sum(), rates.sum()],
                [error, rate],
                bound=1e-6,
                oracle="descent over decoder and encoder",
            )
            kept = eigenvalues[:d] > level
            evidence.numeric(
                errors,
                eigenvalues[:d].where(~kept, level),
                bound=1e-13,
                oracle="the error of the claim",
            )
            evidence.numeric(
                rates,
                ((eigenvalues[:d] / level).log() / 2).where(kept, 0),
                bound=1e-13,
                oracle="the cost of the claim",
            )


@mutant(test_collapse, "the weight plays no part", of="weights")
def principal_components(eigenvalues, variance, beta):
    return squared_weights(eigenvalues, variance, 1)


@mutant(test_collapse, "all directions collapse together", of="weights")
def together(eigenvalues, variance, beta):
    alive = eigenvalues.mean() > beta * variance
    return (eigenvalues - beta * variance).where(alive, 0).clamp(min=0)


@mutant(test_collapse, "nothing is subtracted from what survives", of="weights")
def hard_threshold(eigenvalues, variance, beta):
    return eigenvalues.where(eigenvalues > beta * variance, 0)


@mutant(test_collapse, "the threshold does not depend on the data", of="threshold")
def of_noise_alone(eigenvalues, variance):
    return torch.full_like(eigenvalues, 1 / variance)


@mutant(test_collapse, "the threshold is inverted", of="threshold")
def inverted(eigenvalues, variance):
    return variance / eigenvalues


@mutant(test_collapse, "standard deviations for variances", of="threshold")
def ratio_of_deviations(eigenvalues, variance):
    return (eigenvalues / variance).sqrt()


def profile_slope(log_variance, eigenvalues, d, beta):
    """Derivative by log variance of the mean loss, where the spectrum of WW' + beta s I is free."""
    s = torch.tensor(log_variance, dtype=DOUBLE).exp().requires_grad_()
    D = len(eigenvalues)
    spectrum = torch.maximum(eigenvalues, beta * s.detach())
    spectrum = torch.cat([spectrum[:d], (beta * s.detach()).expand(D - d)])
    weights = spectrum - beta * s.detach()
    spectrum = weights + beta * s
    rate = (spectrum / (beta * s)).log() + eigenvalues / spectrum
    total = D / 2 * s.log() + beta / 2 * rate.sum()
    return (torch.autograd.grad(total, s)[0] * s.detach()).item()


def profiled(eigenvalues, d, beta):
    """The noise variance of least loss: a zero of the derivative."""
    arguments = (eigenvalues, d, beta)
    return math.exp(scipy.optimize.brentq(profile_slope, -20, 5, arguments, xtol=1e-14))


def last_breath(eigenvalues, j):
    """The weight at which the j-th eigenvalue is beta times the learnt variance."""

    def alive(beta):
        return eigenvalues[j].item() - beta * profiled(eigenvalues, j + 1, beta)

    return scipy.optimize.brentq(alive, 0.5 if j + 1 < len(eigenvalues) else 1.001, 20, xtol=1e-12)


@pytest.mark.claim("betavae-learnt-noise")
def test_learnt_noise(
    evidence,
    noise=noise_variance,
    threshold=collapse_threshold,
    least=optimal_loss,
):
    eigenvalues = data(evidence.generator)[0]
    evidence.numeric(
        threshold(eigenvalues)[:2],
        [last_breath(eigenvalues, 0), last_breath(eigenvalues, 1)],
        bound=1e-9,
        oracle="where an eigenvalue meets the weighted variance, which a derivative gives",
    )
    evidence.numeric(threshold(eigenvalues)[2], 1, bound=1e-14, oracle="the last one dies at one")
    evidence.exact(noise(eigenvalues, 0.8, 3), 0.0, oracle="no lower bound")
    evidence.numeric(noise(eigenvalues, 1, 3), eigenvalues[2], bound=1e-14, oracle="the smallest")
    eigenvalue = eigenvalues[:1]
    evidence.numeric(noise(eigenvalue, 1.7, 1), eigenvalue[0], bound=1e-14, oracle="the claim")
    z, prior = normal_on_grid(0.0, 1.0)
    for beta in (0.6, 1.0):
        variances = eigenvalue * torch.tensor([0.9, 0.5, 0.2], dtype=DOUBLE)
        w = (eigenvalue - beta * variances).sqrt()[:, None]
        law = torch.distributions.Normal(w * z, variances.sqrt()[:, None])
        values = least(prior, law.log_prob(eigenvalue.sqrt()).exp(), beta)
        evidence.numeric(
            values.diff(),
            (1 - beta) / 2 * variances.log().diff(),
            bound=1e-9,
            oracle="level at one, a logarithm without bound below it",
        )
    nine = torch.tensor([9.0, 1.0, 1.0], dtype=DOUBLE)
    found = noise(nine, 1.3, 1)
    evidence.numeric(found, Fraction(20, 17), bound=1e-15, oracle="2 / (3 - 1.3)")
    evidence.exact(
        [f"{found:.6f}", f"{squared_weights(nine[:1], found, 1.3)[0]:.6f}"],
        ["1.176471", "7.470588"],
        oracle="the decimals of the claim",
    )
    for d, beta in ((1, 0.7), (1, 1.6), (2, 0.6), (2, 1.4), (3, 1.2), (3, 2.2), (2, 4.0)):
        eigenvalues, S = data(evidence.generator)
        found = noise(eigenvalues, beta, d)
        squares, learnt, error, _ = trained(S, d, beta, evidence.generator)
        oracle = "descent over decoder, encoder and variance"
        evidence.numeric(found, learnt, bound=1e-6, oracle=oracle)
        evidence.numeric(3 * found, error, bound=1e-6, oracle="the squared error of that descent")
        weights = squared_weights(eigenvalues[:d], found, beta)
        evidence.numeric(weights, squares, bound=1e-6, oracle=oracle)
        evidence.numeric(
            found,
            profiled(eigenvalues, d, beta),
            bound=1e-12,
            oracle="a zero of the derivative of the mean loss",
        )
        alive = (threshold(eigenvalues)[:d] > beta).sum()
        evidence.exact(alive, (squares > 1e-4).sum(), oracle=oracle)


@mutant(test_learnt_noise, "the mean of the discarded eigenvalues", of="noise")
def discarded(eigenvalues, beta, latents):
    return eigenvalues[latents:].mean() if latents < len(eigenvalues) else eigenvalues.new_zeros(())


@mutant(test_learnt_noise, "every latent is taken to survive", of="noise")
def all_survive(eigenvalues, beta, latents):
    return eigenvalues[latents:].sum() / (len(eigenvalues) - beta * latents + 1e-12)


@mutant(test_learnt_noise, "all collapses above one, as in one dimension", of="noise")
def all_collapse(eigenvalues, beta, latents):
    return eigenvalues.mean() if beta > 1 else noise_variance(eigenvalues, beta, latents)


@mutant(test_learnt_noise, "every direction dies at one", of="threshold")
def at_one(eigenvalues):
    return torch.ones_like(eigenvalues)


@mutant(test_learnt_noise, "compared with the mean of all eigenvalues", of="threshold")
def against_mean(eigenvalues):
    return eigenvalues / eigenvalues.mean()


@mutant(test_learnt_noise, "a weight other than one only scales the loss", of="least")
def only_scaled(prior, likelihood, beta):
    return beta * optimal_loss(prior, likelihood, 1)


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
    W, x = torch.ones(3, 2, dtype=dtype), torch.ones(3, dtype=dtype)
    beta = torch.tensor(0.5, dtype=DOUBLE)
    for result in (
        optimal_posterior(prior, likelihood, beta),
        optimal_loss(prior, likelihood, beta),
        loss(prior, likelihood, prior, beta),
        *kl_parts(prior, torch.eye(2, dtype=dtype), prior),
        *linear_posterior(x, W, 0.5, beta),
        squared_weights(x, 0.5, beta),
        collapse_threshold(x, 0.5),
        collapse_threshold(x),
        noise_variance(x, beta, 1),
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


def test_batches_of_linear_decoders_broadcast():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 1, 3, generator=generator, dtype=DOUBLE)
    W = torch.randn(5, 3, 2, generator=generator, dtype=DOUBLE)
    beta, variance = uniform(0.2, 2, generator, (5,)), uniform(0.2, 2, generator, (4, 1))
    mean, covariance = linear_posterior(x, W, variance, beta)
    one = linear_posterior(x[2, 0], W[3], variance[2, 0], beta[3])
    torch.testing.assert_close((mean[2, 3], covariance[2, 3]), one)
    eigenvalues = uniform(0.1, 3, generator, (5, 3))
    noise = noise_variance(eigenvalues, beta, 2)
    squares = squared_weights(eigenvalues, variance, beta)
    fixed, learnt = collapse_threshold(eigenvalues, beta), collapse_threshold(eigenvalues)
    assert squares.shape == (4, 5, 3)
    torch.testing.assert_close(noise[3], noise_variance(eigenvalues[3], beta[3], 2))
    one = squared_weights(eigenvalues[3], variance[2, 0], beta[3])
    torch.testing.assert_close(squares[2, 3], one)
    torch.testing.assert_close(fixed[3], collapse_threshold(eigenvalues[3], beta[3]))
    torch.testing.assert_close(learnt[3], collapse_threshold(eigenvalues[3]))


def test_the_order_of_the_eigenvalues_and_spare_latents_do_not_matter():
    eigenvalues = torch.tensor([1.0, 9.0, 0.5, 4.0], dtype=DOUBLE)
    for latents in (0, 1, 3, 4):
        ordered = noise_variance(eigenvalues.sort(descending=True).values, 1.4, latents)
        torch.testing.assert_close(noise_variance(eigenvalues, 1.4, latents), ordered)
    spare = noise_variance(eigenvalues, 1.4, 7)
    torch.testing.assert_close(spare, noise_variance(eigenvalues, 1.4, 4))
    torch.testing.assert_close(noise_variance(eigenvalues, 0, 1), eigenvalues.sum() / 4 - 9 / 4)


def test_directions_without_variance_are_never_used():
    flat = torch.tensor([2.0, 0.0], dtype=DOUBLE)
    assert collapse_threshold(flat).tolist() == [2.0, 0.0]
    assert collapse_threshold(flat, 0.5).tolist() == [4.0, 0.0]
    assert squared_weights(flat, 0.5, math.inf).tolist() == [0.0, 0.0]
    assert squared_weights(flat, 0.5, 0).tolist() == [2.0, 0.0]


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
        W = torch.randn(3, 2, generator=generator, dtype=DOUBLE).requires_grad_()
        x = torch.randn(3, generator=generator, dtype=DOUBLE).requires_grad_()
        assert torch.autograd.gradcheck(linear_posterior, (x, W, beta.detach() / 7, beta))


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
    laws["eigenvalues"] = [
        lambda bad: squared_weights(bad, 1, 1),
        collapse_threshold,
        lambda bad: noise_variance(bad, 1, 1),
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
def test_wrong_numbers_raise():
    p, W = torch.tensor([0.3, 0.7]), torch.ones(2, 1)
    for call, domain, bad in (
        (lambda b: loss(p, p, p, b), "at least 0 and finite", (-0.1, math.nan, math.inf)),
        (lambda b: optimal_posterior(p, p, b), "at least 0", (-0.1, math.nan)),
        (lambda b: optimal_loss(p, p, b), "at least 0", (-0.1, math.nan)),
        (lambda b: linear_posterior(p, W, 1, b), "positive", (-0.1, 0, math.nan)),
        (lambda b: squared_weights(p, 1, b), "at least 0", (-0.1, math.nan)),
        (lambda b: noise_variance(p, b, 1), "at least 0 and finite", (-0.1, math.nan, math.inf)),
    ):
        for number in bad:
            with pytest.raises(ValueError, match=re.escape(f"beta must be {domain}, got {number}")):
                call(number)
        with pytest.raises(ValueError, match=f"beta must be {domain}, got tensor"):
            call(torch.tensor([1.0, -0.1]))
    for call in (
        lambda s: linear_posterior(p, W, s, 1),
        lambda s: squared_weights(p, s, 1),
        lambda s: collapse_threshold(p, s),
    ):
        for number in (0, -0.1, math.nan, math.inf):
            words = f"variance must be positive and finite, got {number}"
            with pytest.raises(ValueError, match=re.escape(words)):
                call(number)
    with pytest.raises(ValueError, match="latents must be at least 0, got -1"):
        noise_variance(p, 1, -1)


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


def test_the_stairs_fall_at_the_thresholds():
    fixed, learnt, dots = drawn("figure_collapse").lines
    eigenvalues = [8.0, 4.0, 2.0, 1.0, 0.5]
    assert dots.get_xdata().tolist() == eigenvalues
    thresholds = [5 * a / sum(min(a, b) for b in eigenvalues) for a in eigenvalues]
    for stairs, steps in ((fixed, eigenvalues), (learnt, thresholds)):
        for beta, alive in zip(stairs.get_xdata(), stairs.get_ydata(), strict=True):
            if min(abs(beta / step - 1) for step in steps) > 1e-4:
                assert alive == sum(step > beta for step in steps)
