import math
from fractions import Fraction
from itertools import product

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from genref._site.claims import mutant
from genref.latent.finite import (
    divergence,
    elbo,
    entropy,
    exact_bound,
    exact_proposal,
    log_evidence,
    mutual_information,
    posterior,
    table,
)

DOUBLE = torch.float64


def law(generator, n, zeros=()):
    """Probabilities as exact fractions, zero at the given places."""
    parts = torch.randint(1, 60, (n,), generator=generator).tolist()
    parts = [0 if i in zeros else part for i, part in enumerate(parts)]
    return [Fraction(part, sum(parts)) for part in parts]


def tensor(fractions):
    values = [float(fraction) for fraction in np.ravel(fractions)]
    return torch.tensor(values, dtype=DOUBLE).view(np.shape(fractions))


def model(generator, x=3, z=4, zeros=()):
    """A prior, and a likelihood with a row for each x, zero at the given places (x, z)."""
    prior = law(generator, z)
    columns = [law(generator, x, [i for i, k in zeros if k == j]) for j in range(z)]
    return prior, [[columns[j][i] for j in range(z)] for i in range(x)]


def logarithm(fraction):
    """In 40 digits."""
    with mpmath.workdps(40):
        return mpmath.log(mpmath.mpf(fraction.numerator) / fraction.denominator)


def mean_log(q, ratio):
    """The sum of q log ratio over the places where q is positive, rounded at the end."""
    pairs = [(a, b) for a, b in zip(q, ratio, strict=True) if a > 0]
    if any(b == 0 for _, b in pairs):
        return torch.tensor(-math.inf, dtype=DOUBLE)
    with mpmath.workdps(40):
        terms = [mpmath.mpf(a.numerator) / a.denominator * logarithm(b) for a, b in pairs]
        return torch.tensor(float(mpmath.fsum(terms)), dtype=DOUBLE)


def tuples(joint, q, K):
    """The probability, the values and the weights of every (z_1, ..., z_K) that q can draw."""
    covered = [z for z, mass in enumerate(q) if mass > 0]
    for values in product(covered, repeat=K):
        yield math.prod(q[z] for z in values), values, [joint[z] / q[z] for z in values]


def by_tuples(joint, q, K):
    """The bound, as the sum over all tuples."""
    every = list(tuples(joint, q, K))
    return mean_log([mass for mass, _, _ in every], [sum(w) / K for _, _, w in every])


def resampled(joint, q, K):
    """The law of one value of a tuple, chosen in proportion to its weight."""
    chosen = [Fraction(0)] * len(q)
    for mass, values, w in tuples(joint, q, K):
        for z, weight in zip(values, w, strict=True):
            chosen[z] += mass * weight / sum(w) if sum(w) else 0
    return chosen


CASES = [((), ()), ((), (1,)), (((1, 2),), (2,)), (((1, 0), (1, 3)), ()), (((1, 1),), (1, 3))]
"""Zeros of the likelihood, as (x, z), and of q: none, q too narrow, q exact, q too wide, mixed."""


@pytest.mark.claim("finite-posterior")
def test_posterior(evidence, after=posterior):
    for zeros, empty in CASES:
        _, likelihood = model(evidence.generator, zeros=zeros)
        prior = law(evidence.generator, 4, empty)
        joint = table(tensor(prior), tensor(likelihood))
        exact = [[p * row for p, row in zip(prior, rows, strict=True)] for rows in likelihood]
        found = after(joint)
        bayes = [[p / sum(rows) for p in rows] for rows in exact]
        evidence.numeric(
            found,
            tensor(bayes),
            bound=1e-15,
            oracle="Bayes' rule in fractions",
        )
        evidence.exact(
            found == 0,
            torch.tensor([[p == 0 for p in rows] for rows in exact]),
            oracle="the zeros of the prior and of the likelihood",
        )
        evidence.numeric(
            tensor([sum(rows) for rows in exact]) @ found,
            tensor(prior),
            bound=1e-14,
            oracle="the prior",
        )
        evidence.numeric(
            found.sum(-1),
            torch.ones(3, dtype=DOUBLE),
            bound=1e-14,
            oracle="a distribution sums to one",
        )
        drawn = after(torch.stack([joint, joint.roll(1, 0)]))[1]
        evidence.numeric(
            drawn,
            tensor(bayes[-1:] + bayes[:-1]),
            bound=1e-15,
            oracle="Bayes' rule in fractions, for two tables at once",
        )


@mutant(test_posterior, "divided by the sum over x")
def over_data(joint):
    return joint / joint.sum(-2, keepdim=True)


@mutant(test_posterior, "divided by the sum over both")
def over_both(joint):
    return joint / joint.sum((-2, -1), keepdim=True)


@mutant(test_posterior, "the prior left out")
def of_likelihood(joint):
    likelihood = joint / joint.sum(-2, keepdim=True)
    return likelihood / likelihood.sum(-1, keepdim=True)


@mutant(test_posterior, "a small number added to avoid zeros")
def smoothed(joint):
    return posterior(joint + 1e-8)


@pytest.mark.claim("finite-elbo")
def test_elbo(evidence, bound=elbo, kl=divergence, log_p=log_evidence):
    for zeros, narrow in CASES:
        prior, likelihood = model(evidence.generator, zeros=zeros)
        exact = [p * row for p, row in zip(prior, likelihood[1], strict=True)]
        total = sum(exact)
        joint = tensor(exact)
        q = law(evidence.generator, 4, narrow)
        ratio = [p / mass if mass else Fraction(1) for p, mass in zip(exact, q, strict=True)]
        evidence.numeric(
            bound(joint, tensor(q)),
            mean_log(q, ratio),
            bound=1e-14,
            oracle="logarithms of fractions in 40 digits",
        )
        evidence.numeric(
            kl(tensor(q), tensor([p / total for p in exact])),
            -mean_log(q, [r / total for r in ratio]),
            bound=1e-14,
            oracle="logarithms of fractions in 40 digits",
        )
        evidence.numeric(
            kl(tensor(q), tensor([p / total for p in exact])),
            scipy.stats.entropy(tensor(q).numpy(), tensor(exact).numpy()),
            bound=1e-14,
            oracle="the relative entropy of scipy",
        )
        evidence.numeric(
            [log_p(joint), bound(joint, tensor([p / total for p in exact]))],
            [float64(logarithm(total))] * 2,
            bound=1e-14,
            oracle="the logarithm of a fraction in 40 digits, which the posterior reaches",
        )
        evidence.ordered(
            bound(joint, torch.stack([tensor(law(evidence.generator, 4)) for _ in range(20)])),
            float64(logarithm(total)).expand(20),
            bound=0,
            oracle="the logarithm of a fraction in 40 digits",
        )


def float64(number):
    return torch.tensor(float(number), dtype=DOUBLE)


@mutant(test_elbo, "the entropy is dropped", of="bound")
def complete_data(joint, q):
    return torch.xlogy(q, joint).sum(-1)


@mutant(test_elbo, "the logarithm of the mean for the mean of the logarithm", of="bound")
def jensen(joint, q):
    return (q * (joint / q).where(q > 0, 0)).sum(-1).log()


@mutant(test_elbo, "the divergence is taken from the posterior to q", of="bound")
def reversed_gap(joint, q):
    return log_evidence(joint) - divergence(posterior(joint), q)


@mutant(test_elbo, "a small number added in the logarithm", of="bound")
def clamped(joint, q):
    return (q * ((joint + 1e-10).log() - (q + 1e-10).log())).sum(-1)


@mutant(test_elbo, "the arguments change places", of="kl")
def reverse(q, p):
    return divergence(p, q)


@mutant(test_elbo, "terms where q is zero count as infinite", of="kl")
def both_supports(q, p):
    return divergence(q, p) + torch.inf if ((q == 0) & (p > 0)).any() else divergence(q, p)


@mutant(test_elbo, "the sum of logarithms", of="log_p")
def log_inside(joint):
    return joint.log().sum(-1)


@pytest.mark.claim("finite-bound")
def test_bound(evidence, bound=exact_bound):
    for zeros, narrow in CASES:
        prior, likelihood = model(evidence.generator, zeros=zeros)
        exact = [p * row for p, row in zip(prior, likelihood[1], strict=True)]
        q = law(evidence.generator, 4, narrow)
        joint, proposal = tensor(exact), tensor(q)
        found = torch.stack([bound(joint, proposal, K) for K in range(1, 7)])
        evidence.numeric(
            found[:5],
            [by_tuples(exact, q, K) for K in range(1, 6)],
            bound=1e-14,
            oracle="all tuples of samples, logarithms of fractions in 40 digits",
        )
        reach = float64(logarithm(sum(p for p, mass in zip(exact, q, strict=True) if mass)))
        evidence.ordered(found[-1], reach, bound=0, oracle="the mass that q covers")
        if found[0] > -math.inf:
            evidence.ordered(
                [found[0], found[1], found[2]],
                [by_tuples(exact, q, K) for K in (2, 3, 4)],
                bound=0,
                oracle="all tuples with one sample more",
            )
    for K in (7, 40, 300):
        q, exact = law(evidence.generator, 2), law(evidence.generator, 2)
        missing, wanted = binomial(exact, q, K)
        found = bound(tensor(exact), tensor(q), K)
        evidence.numeric(found, wanted, bound=1e-14, oracle="a binomial sum in 40 digits")
        evidence.numeric(-found, missing, bound=1e-10, relative=True, oracle="its gap")
    exact, q = law(evidence.generator, 3), law(evidence.generator, 3, (1,))
    evidence.numeric(
        bound(tensor(exact), tensor(q), 600),
        float64(logarithm(1 - exact[1])),
        bound=2e-2,
        oracle="the mass that q covers, near which 600 samples bring it",
    )
    level = tensor(law(evidence.generator, 3))
    evidence.numeric(
        [bound(0.3 * level, level, K) for K in (1, 2, 9)],
        [float64(mpmath.log(0.3))] * 3,
        bound=1e-15,
        oracle="the logarithm of a constant weight",
    )


def binomial(joint, q, K):
    """The gap and the bound of two values, the joint numbers of which sum to one."""
    w = [p / mass for p, mass in zip(joint, q, strict=True)]
    value = mean_log(
        [math.comb(K, k) * q[0] ** k * q[1] ** (K - k) for k in range(K + 1)],
        [(k * w[0] + (K - k) * w[1]) / K for k in range(K + 1)],
    )
    return -value, value


@mutant(test_bound, "the mean of the logarithms")
def stays(joint, proposal, samples):
    return exact_bound(joint, proposal, 1)


@mutant(test_bound, "the logarithm of the mean: the evidence itself")
def arrived(joint, proposal, samples):
    return exact_bound(joint, posterior(joint), samples)


@mutant(test_bound, "the sum of the weights is not divided by K")
def undivided(joint, proposal, samples):
    return exact_bound(joint, proposal, samples) + math.log(samples)


@mutant(test_bound, "one sample too many")
def ahead(joint, proposal, samples):
    return exact_bound(joint, proposal, samples + 1)


@mutant(test_bound, "counts without their multinomial coefficients")
def unordered(joint, proposal, samples):
    counts = compositions(len(joint), samples)
    chance = (proposal**counts).prod(-1)
    w = (joint / proposal).where(proposal > 0, 0)
    return (torch.xlogy(chance, counts @ w / samples)).sum() / chance.sum()


def compositions(n, K):
    every = [k for k in product(range(K + 1), repeat=n) if sum(k) == K]
    return torch.tensor(every, dtype=DOUBLE)


@mutant(test_bound, "tuples of weight zero are passed over")
def passed_over(joint, proposal, samples):
    seen = (proposal > 0) & (joint > 0)
    kept = (proposal * seen).sum()
    return exact_bound(joint, proposal * seen / kept, samples) + kept.log()


@pytest.mark.claim("finite-proposal")
def test_proposal(evidence, chosen=exact_proposal):
    for zeros, narrow in CASES:
        prior, likelihood = model(evidence.generator, zeros=zeros)
        exact = [p * row for p, row in zip(prior, likelihood[1], strict=True)]
        q = law(evidence.generator, 4, narrow)
        for K in (2, 3, 4, 1):
            evidence.numeric(
                chosen(tensor(exact), tensor(q), K),
                tensor(resampled(exact, q, K)),
                bound=1e-14,
                oracle="all tuples of samples, in fractions",
            )
            lost = sum(mass for p, mass in zip(exact, q, strict=True) if not p)
            evidence.numeric(
                chosen(tensor(exact), tensor(q), K).sum(),
                float64(1 - lost**K),
                bound=1e-14,
                oracle="the chance that not all weights are zero",
            )
    exact, q = law(evidence.generator, 3), law(evidence.generator, 3)
    evidence.numeric(
        chosen(tensor(exact), tensor(q), 600),
        tensor(exact),
        bound=2e-2,
        oracle="the posterior, near which 600 samples bring it",
    )


@mutant(test_proposal, "the index is drawn uniformly")
def uniform_index(joint, proposal, samples):
    return proposal


@mutant(test_proposal, "the index is drawn in proportion to the joint numbers")
def by_joint(joint, proposal, samples):
    counts = compositions(len(joint), samples)
    ways = math.factorial(samples) / (counts + 1).lgamma().exp().prod(-1)
    chance = ways * (proposal**counts).prod(-1)
    total = counts @ joint
    return joint * ((chance / total.where(total > 0, torch.inf)) @ counts)


@mutant(test_proposal, "what is lost is made up for")
def rescaled(joint, proposal, samples):
    found = exact_proposal(joint, proposal, samples)
    return found / found.sum()


@mutant(test_proposal, "the posterior, whatever the number of samples")
def at_once(joint, proposal, samples):
    return posterior(joint)


@pytest.mark.claim("finite-information")
def test_information(evidence, shared=mutual_information):
    for zeros, _ in CASES:
        prior, likelihood = model(evidence.generator, zeros=zeros)
        rows = [[p * row for p, row in zip(prior, rows, strict=True)] for rows in likelihood]
        flat = [p for row in rows for p in row]
        data = [sum(row) for row in rows]
        found = shared(tensor(rows))
        product_law = [a * b for a in data for b in prior]
        ratio = [p / r if p else Fraction(1) for p, r in zip(flat, product_law, strict=True)]
        evidence.numeric(
            found,
            mean_log(flat, ratio),
            bound=1e-14,
            oracle="logarithms of fractions in 40 digits",
        )
        nonzero = [[p for p in law if p] for law in (data, prior, flat)]
        entropies = [-mean_log(law, law) for law in nonzero]
        evidence.numeric(
            found,
            entropies[0] + entropies[1] - entropies[2],
            bound=1e-14,
            oracle="entropies in 40 digits",
        )
        evidence.numeric(
            [entropy(tensor(data)), entropy(tensor(prior)), entropy(tensor(flat))],
            entropies,
            bound=1e-14,
            oracle="entropies in 40 digits",
        )
        gained = [scipy.stats.entropy(tensor(row).numpy(), tensor(prior).numpy()) for row in rows]
        evidence.numeric(
            found,
            tensor(data) @ torch.tensor(gained, dtype=DOUBLE),
            bound=1e-14,
            oracle="the mean divergence from the prior, with scipy",
        )
        evidence.ordered(
            [found, -found],
            [min(entropies[:2]), float64(0)],
            bound=0,
            oracle="the smaller entropy, and zero",
        )
        evidence.numeric(
            shared(tensor(product_law).view(3, 4)),
            float64(0),
            bound=1e-14,
            oracle="zero for independent variables",
        )
    evidence.numeric(
        shared(tensor(prior).diag()),
        -mean_log(prior, prior),
        bound=1e-14,
        oracle="the entropy, where one variable copies the other",
    )


@mutant(test_information, "in bits")
def bits(joint):
    return mutual_information(joint) / math.log(2)


@mutant(test_information, "the joint entropy is left out")
def no_joint(joint):
    return entropy(joint.sum(-1)) + entropy(joint.sum(-2))


@mutant(test_information, "the conditional entropy in its place")
def left_over(joint):
    return entropy(joint.sum(-2)) - mutual_information(joint)


@mutant(test_information, "the product of the marginals stands first in the divergence")
def turned(joint):
    apart = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return divergence(apart.flatten(-2), joint.flatten(-2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_broadcast_and_keep_the_dtype(dtype):
    generator = torch.Generator().manual_seed(1)
    joint = torch.rand(5, 1, 4, generator=generator, dtype=dtype)
    joint[2, 0, 1] = 0
    q = torch.rand(3, 4, generator=generator, dtype=dtype).softmax(-1)
    q[1] = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=dtype)
    found = {
        "elbo": elbo(joint, q),
        "divergence": divergence(q, posterior(joint)),
        "bound": exact_bound(joint, q, 3),
        "proposal": exact_proposal(joint, q, 3),
    }
    for name, result in found.items():
        assert result.shape == ((5, 3, 4) if name == "proposal" else (5, 3))
        assert result.dtype == dtype
    gap = log_evidence(joint) - found["elbo"]
    torch.testing.assert_close(gap, found["divergence"], atol=1e-5, rtol=1e-5)
    for i, j in product(range(5), range(3)):
        one = joint[i, 0]
        torch.testing.assert_close(exact_bound(one, q[j], 3), found["bound"][i, j])
        torch.testing.assert_close(exact_proposal(one, q[j], 3), found["proposal"][i, j])
    assert table(q[:, None], joint.mT.expand(5, 4, 4)[:3]).dtype == dtype
    assert mutual_information(q / 3).dtype == entropy(q).dtype == dtype


def test_a_table_has_a_row_for_each_x():
    prior = torch.tensor([0.4, 0.6])
    likelihood = torch.tensor([[0.5, 0.1], [0.2, 0.3], [0.3, 0.6]])
    joint = table(prior, likelihood)
    torch.testing.assert_close(joint.sum(-2), prior)
    torch.testing.assert_close(joint, prior * likelihood)
    assert log_evidence(joint).shape == (3,)
    assert table(prior, likelihood[1]).shape == (2,)


def test_densities_may_be_larger_than_one():
    joint = table(torch.tensor([0.4, 0.6]), torch.tensor([7.0, 2.0]))
    torch.testing.assert_close(log_evidence(joint), torch.tensor(4.0).log())


def test_an_impossible_datum():
    joint = torch.tensor([[0.2, 0.8], [0.0, 0.0]])
    assert log_evidence(joint).tolist()[1] == -math.inf
    with pytest.raises(ValueError, match="joint must have a positive sum over z for each x"):
        posterior(joint)
    assert exact_bound(joint, torch.tensor([0.5, 0.5]), 2).tolist()[1] == -math.inf
    assert exact_proposal(joint, torch.tensor([0.5, 0.5]), 2).tolist()[1] == [0, 0]


def test_the_bound_is_lost_even_where_losing_is_improbable():
    joint, proposal = tensor([[0.4, 0.0]])[0], tensor([[1 - 1e-9, 1e-9]])[0]
    assert exact_bound(joint, proposal, 60) == -math.inf
    assert exact_bound(joint, tensor([[1.0, 0.0]])[0], 60) == math.log(0.4)


def test_gradients_are_those_of_all_tuples():
    generator = torch.Generator().manual_seed(2)
    joint = torch.rand(3, generator=generator, dtype=DOUBLE).requires_grad_()
    logits = torch.randn(3, generator=generator, dtype=DOUBLE).requires_grad_()
    for K in (1, 2, 4):
        q = logits.softmax(-1)
        places = torch.cartesian_prod(*[torch.arange(3)] * K).view(-1, K)
        chance = q[places].prod(-1)
        w = (joint / q)[places]
        slow = (chance * w.mean(-1).log()).sum()
        by_tuples = torch.autograd.grad(slow, (joint, logits), retain_graph=True)
        found = torch.autograd.grad(exact_bound(joint, q, K), (joint, logits), retain_graph=True)
        torch.testing.assert_close(found, by_tuples)
        share = (chance[:, None] * w / w.sum(-1, keepdim=True)).where(places == 2, 0).sum()
        by_tuples = torch.autograd.grad(share, (joint, logits), retain_graph=True)
        found = exact_proposal(joint, q, K)[2]
        found = torch.autograd.grad(found, (joint, logits), retain_graph=True)
        torch.testing.assert_close(found, by_tuples)


def test_gradients_stay_finite_beside_zeros():
    joint = torch.tensor([0.3, 0.5, 0.0], requires_grad=True)
    q = torch.tensor([0.4, 0.6, 0.0])
    for value in (elbo(joint, q), exact_bound(joint, q, 3), exact_proposal(joint, q, 3)[0]):
        (slope,) = torch.autograd.grad(value, joint)
        assert slope.isfinite().all()
        assert slope[2] == 0


@pytest.mark.usefixtures("untyped")
def test_what_is_no_probability_raises():
    good, joint = torch.tensor([0.3, 0.7]), torch.tensor([0.1, 0.4])
    calls = {
        "prior": lambda bad: table(bad, joint),
        "p": entropy,
        "q": lambda bad: elbo(joint, bad),
        "proposal": lambda bad: exact_bound(joint, bad, 2),
        "joint": lambda bad: mutual_information(bad[None]),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"{name} must sum to 1, got a sum that is off by 0.1"):
            call(torch.tensor([0.3, 0.6]))
    calls |= {
        "likelihood": lambda bad: table(good, bad),
        "joint": log_evidence,
    }
    for name, call in calls.items():
        for bad in ([-0.1, 1.1], [math.nan, 0.5], [math.inf, 0.5]):
            with pytest.raises(ValueError, match=f"{name} must be finite and not negative, got"):
                call(torch.tensor(bad))
    bad = torch.tensor([-0.1, 1.1])
    for call in (
        posterior,
        lambda bad: elbo(bad, good),
        lambda bad: exact_proposal(bad, good, 2),
        lambda bad: divergence(good, bad),
        lambda bad: divergence(bad, good),
    ):
        with pytest.raises(ValueError, match=r"must be finite and not negative, got -0\.1"):
            call(bad)


@pytest.mark.usefixtures("untyped")
def test_sizes_that_differ_raise():
    one, joint = torch.ones(1), torch.tensor([0.1, 0.4])
    for name, call in {
        "prior": lambda: table(one, joint),
        "q": lambda: elbo(joint, one),
        "proposal": lambda: exact_bound(joint, one, 2),
    }.items():
        with pytest.raises(ValueError, match=f"{name} must have 2 values of z, got 1"):
            call()
    with pytest.raises(ValueError, match="q must have 2 values of z, got 1"):
        divergence(one, torch.tensor([0.2, 0.8]))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("samples", [0, -1])
def test_at_least_one_sample(samples):
    for function in (exact_bound, exact_proposal):
        with pytest.raises(ValueError, match=f"samples must be at least 1, got {samples}"):
            function(torch.tensor([0.1, 0.4]), torch.tensor([0.5, 0.5]), samples)
