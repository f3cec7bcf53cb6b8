import math
import re
from fractions import Fraction
from itertools import product
from pathlib import Path
from runpy import run_path

import mpmath
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.latent.finite import exact_bound, exact_proposal
from genref.latent.refined import density, law, log_refined, resample, sample

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/latent/refined.py"
Q = [Fraction(1, 5), Fraction(3, 10), Fraction(1, 2)]
JOINT = [Fraction(1, 10), Fraction(1, 4), Fraction(1, 20)]


def tensor(values):
    return torch.tensor([float(value) for value in values], dtype=DOUBLE)


def shares(generator, n, zeros=()):
    """Probabilities as exact fractions, zero at the given places."""
    parts = torch.randint(1, 60, (n,), generator=generator).tolist()
    parts = [0 if i in zeros else part for i, part in enumerate(parts)]
    return [Fraction(part, sum(parts)) for part in parts]


def models(generator):
    """The example of the page, and random ones: a proposal and joint numbers of any sum."""
    yield Q, JOINT
    for n in (2, 3, 4):
        yield shares(generator, n), [share * Fraction(3, 7) for share in shares(generator, n)]


def logs(q, joint):
    """The logarithms of the proposal and of the weights, as the functions take them."""
    log_q = tensor(q).log()
    return log_q, tensor(joint).log() - log_q


def tuples(q, joint, K):
    """The probability, the values and the weights of every (z_1, ..., z_K) that q can draw."""
    drawn = [z for z, mass in enumerate(q) if mass]
    for values in product(drawn, repeat=K):
        mass = math.prod((q[z] for z in values), start=Fraction(1))
        yield mass, values, [joint[z] / q[z] for z in values]


def digits(fraction):
    """In the precision of the context."""
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def mean_log(pairs):
    """The sum of mass times log ratio, in 40 digits."""
    with mpmath.workdps(40):
        return float(mpmath.fsum(digits(a) * mpmath.log(digits(b)) for a, b in pairs if a))


def ladder(q, joint, K):
    """L_K as the sum over all tuples."""
    return mean_log((mass, sum(w) / K) for mass, _, w in tuples(q, joint, K))


def chosen(q, joint, K):
    """The law of a value that is picked from each tuple in proportion to the weights."""
    picked = [Fraction(0)] * len(q)
    for mass, values, w in tuples(q, joint, K):
        for z, weight in zip(values, w, strict=True):
            picked[z] += mass * weight / sum(w) if sum(w) else 0
    return picked


def everywhere(refined, q, joint, K):
    """For all tuples z_2, ..., z_K their probabilities, and log q~ at every z."""
    log_q, log_w = logs(q, joint)
    places = list(product(range(len(q)), repeat=K - 1))
    rest = log_w[torch.tensor(places, dtype=torch.long).view(len(places), K - 1)]
    chance = tensor(math.prod((q[z] for z in place), start=Fraction(1)) for place in places)
    return chance, refined(log_q, log_w, rest[:, None])


def defined(q, joint, K):
    """q~ as it is defined, for all tuples z_2, ..., z_K at every z, in fractions."""
    rows = [w[:-1] for _, _, w in tuples(q, joint, K)][:: len(q)]
    every = [p / mass for p, mass in zip(joint, q, strict=True)]
    pairs = list(zip(joint, every, strict=True))
    return torch.stack([tensor(K * p / (w + sum(row)) for p, w in pairs) for row in rows])


def average(refined, q, joint, K):
    """The mean over z_2, ..., z_K of the bound of one sample."""
    chance, log_q = everywhere(refined, q, joint, K)
    return chance @ (log_q.exp() * (tensor(joint).log() - log_q)).sum(-1)


@pytest.mark.claim("iwae-refined-proposal", answers=["A4.1"])
def test_refined_proposal(evidence, refined=log_refined, mean=average):
    for q, joint in models(evidence.generator):
        for K in (3, 2, 4, 1):
            evidence.numeric(
                mean(refined, q, joint, K),
                ladder(q, joint, K),
                bound=1e-14,
                oracle="L_K over all tuples, logarithms of fractions in 40 digits",
            )
            evidence.numeric(
                everywhere(refined, q, joint, K)[1].exp(),
                defined(q, joint, K),
                bound=1e-14,
                oracle="the definition in fractions",
            )
    evidence.exact(f"{mean(refined, Q, JOINT, 3):.6f}", "-1.056329", oracle="stated decimals")
    mass = everywhere(refined, Q, JOINT, 2)[1].exp().sum(-1)
    stated = ["0.741667", "0.557143", "1.369048"]
    evidence.exact([f"{m:.6f}" for m in mass], stated, oracle="stated decimals")


@mutant(test_refined_proposal, "q~ is taken to be normalised", of="refined")
def normalised(log_q, log_w, rest):
    return log_refined(log_q, log_w, rest).log_softmax(-1)


@mutant(test_refined_proposal, "K - 1 in place of K in the mean", of="refined")
def one_fewer(log_q, log_w, rest):
    K = rest.shape[-1] + 1
    return log_refined(log_q, log_w, rest) + math.log(max(K - 1, 1) / K)


@mutant(test_refined_proposal, "the weight of z itself is not in the mean", of="refined")
def without_itself(log_q, log_w, rest):
    mean = rest.logsumexp(-1) - math.log(rest.shape[-1]) if rest.shape[-1] else log_w
    return log_q + log_w - mean


@mutant(test_refined_proposal, "joint numbers in the mean, the 1/q is lost", of="refined")
def no_proposal(log_q, log_w, rest):
    return log_q + log_refined(log_q, log_w, rest)


@mutant(test_refined_proposal, "E002-12: the factor K stays after the sum", of="mean")
def stray(refined, q, joint, K):
    return K * average(refined, q, joint, K)


@mutant(test_refined_proposal, "E002-10: the mean moved past q~ to the logarithm", of="mean")
def moved(refined, q, joint, K):
    chance, log_q = everywhere(refined, q, joint, K)
    return (chance @ log_q.exp()) @ (tensor(joint).log() - chance @ log_q)


@mutant(test_refined_proposal, "E002-11: the logarithm of p / mean w", of="mean")
def inverted(refined, q, joint, K):
    chance, log_q = everywhere(refined, q, joint, K)
    return chance @ (log_q.exp() * log_q).sum(-1)


@mutant(test_refined_proposal, "E002-13: the weights are exchanged", of="mean")
def exchanged(refined, q, joint, K):
    every = list(tuples(q, joint, K))
    return sum(float(mass * sum(w)) * math.log(sum(w) / K) for mass, _, w in every)


@pytest.mark.claim("iwae-qK-density", answers=["A4.2"])
def test_density(evidence, exact=law, estimated=density):
    for q, joint in models(evidence.generator):
        log_q, log_w = logs(q, joint)
        for K in (2, 3, 4, 1):
            evidence.numeric(
                exact(log_q, log_w, K),
                tensor(chosen(q, joint, K)),
                bound=1e-14,
                oracle="all tuples of samples, in fractions",
            )
            evidence.numeric(exact(log_q, log_w, K).sum(), 1.0, bound=1e-14, oracle="a law")
            evidence.ordered(
                exact(log_q, log_w, K),
                K * tensor(q),
                bound=1e-15,
                oracle="K times the proposal",
            )
    evidence.numeric(
        exact(*logs(Q, JOINT), 2),
        tensor([Fraction(151, 600), Fraction(303, 700), Fraction(53, 168)]),
        bound=1e-15,
        oracle="the fractions that the claim states",
    )
    for zeros, narrow in (((1,), ()), ((1, 2), ()), ((3,), (0,)), ((0,), (0,))):
        q, joint = shares(evidence.generator, 4, narrow), shares(evidence.generator, 4, zeros)
        q_0 = sum(mass for mass, p in zip(q, joint, strict=True) if not p)
        for K in (1, 2, 5):
            found = exact(*logs(q, joint), K)
            evidence.numeric(
                found.sum(),
                1 - q_0**K,
                bound=1e-14,
                oracle="the chance of a positive weight",
            )
            evidence.numeric(
                found,
                tensor(chosen(q, joint, K)),
                bound=1e-14,
                oracle="all tuples of samples, in fractions",
            )
            value = exact_bound(tensor(joint), tensor(q), K) > -math.inf
            evidence.exact(bool(value), not q_0, oracle="a tuple can have no positive weight")
    q, joint = shares(evidence.generator, 2), shares(evidence.generator, 2)
    for K in (40, 900):
        evidence.numeric(
            exact(*logs(q, joint), K),
            binomial(q, joint, K),
            bound=1e-13,
            oracle="a binomial sum in 40 digits",
        )
    nodes, cells = (torch.tensor(a, dtype=DOUBLE) for a in np.polynomial.legendre.leggauss(60))
    low = 0.2 + torch.rand((), generator=evidence.generator).item()
    w = low + (1 + nodes) / 2
    for K in (2, 3):
        evidence.numeric(
            exact((cells / 2).log(), w.log(), K) / (cells / 2),
            closed(w, low, K),
            bound=1e-12,
            oracle="integrals of 1/(c + u) and 1/(c + u + v) over the unit interval and square",
        )
    q, joint = [Fraction(1, 4)] * 4, shares(evidence.generator, 4)
    log_q, log_w = logs(q, joint)
    for K in (2, 3, 5):
        every = log_w[torch.cartesian_prod(*[torch.arange(4)] * (K - 1)).view(-1, 1, K - 1)]
        evidence.numeric(
            estimated(log_q, log_w, every).mean,
            tensor(chosen(q, joint, K)),
            bound=1e-14,
            oracle="fractions; under a uniform proposal all tuples have one probability",
        )
    log_q, log_w = logs(Q, JOINT)
    drawn = torch.multinomial(tensor(Q), 3 * 20000, True, generator=evidence.generator)
    found = estimated(log_q, log_w, log_w[drawn].view(-1, 1, 3))
    for z, expected in enumerate(chosen(Q, JOINT, 4)):
        mean, error = (value[z] for value in found)
        evidence.statistical(
            found._replace(mean=mean, standard_error=error),
            float(expected),
            oracle="all tuples, in fractions",
            detects=0.02,
        )


def binomial(q, joint, K):
    """q_K of two values: k of the other K - 1 samples are the first one."""
    w = [p / mass for p, mass in zip(joint, q, strict=True)]
    found = [mpmath.mpf(0)] * 2
    with mpmath.workdps(40):
        for k in range(K):
            chance = math.comb(K - 1, k) * digits(q[0]) ** k * digits(q[1]) ** (K - 1 - k)
            others = k * w[0] + (K - 1 - k) * w[1]
            found = [
                value + chance * digits(K * p / (weight + others))
                for value, p, weight in zip(found, joint, w, strict=True)
            ]
    return tensor(found)


def closed(w, low, K):
    """q_K for the uniform law on the unit interval and the weights low + z."""
    c = w + (K - 1) * low
    if K == 2:
        return 2 * w * ((c + 1) / c).log()
    return 3 * w * ((c + 2) * (c + 2).log() - 2 * (c + 1) * (c + 1).log() + c * c.log())


@mutant(test_density, "E002-14: the factor 1/q is lost", of="exact")
def times_q(log_q, log_w, samples):
    return log_q.exp() * law(log_q, log_w, samples)


@mutant(test_density, "E002-16: the mass is one, whatever the supports", of="exact")
def made_one(log_q, log_w, samples):
    found = law(log_q, log_w, samples)
    return found / found.sum()


@mutant(test_density, "the inverse of the mean weight's mean", of="exact")
def inverse_of_mean(log_q, log_w, samples):
    q, w = log_q.exp(), log_w.exp().where(log_q > -math.inf, 0)
    return samples * q * w / (w + (samples - 1) * (q * w).sum())


@mutant(test_density, "K samples beside z", of="exact")
def one_more(log_q, log_w, samples):
    return law(log_q, log_w, samples + 1)


@mutant(test_density, "the posterior, whatever K is", of="exact")
def at_once(log_q, log_w, samples):
    return (log_q + log_w).softmax(-1) if samples > 1 else law(log_q, log_w, samples)


@mutant(test_density, "the logarithm of q~ is averaged", of="estimated")
def geometric(log_q, log_w, rest):
    found = density(log_q, log_w, rest)
    return found._replace(mean=log_refined(log_q, log_w, rest).mean(0).exp())


@mutant(test_density, "z is drawn anew and its weight left out", of="estimated")
def left_out(log_q, log_w, rest):
    found = density(log_q, log_w, rest)
    return found._replace(mean=without_itself(log_q, log_w, rest).exp().mean(0))


def refined_bound(q, joint, K):
    """The bound of one sample at the refined proposal, and that proposal."""
    found = law(*logs(q, joint), K)
    return (found * (tensor(joint) / found).log()).sum(), found


@pytest.mark.claim("iwae-tighter", answers=["A4.2"])
def test_tighter(evidence, bound=refined_bound):
    for q, joint in models(evidence.generator):
        evidence_of_x = mean_log([(Fraction(1), sum(joint))])
        after = [p / sum(joint) for p in joint]
        for K in (2, 3, 4):
            found, law_of_z = bound(q, joint, K)
            lower, q_K = ladder(q, joint, K), chosen(q, joint, K)
            evidence.ordered(-found, -lower, bound=0, oracle="L_K over all tuples")
            evidence.ordered(found, evidence_of_x, bound=0, oracle="log p(x) in 40 digits")
            evidence.ordered(ladder(q, joint, 1), lower, bound=0, oracle="L_K over all tuples")
            evidence.numeric(
                found,
                mean_log((a, p / a) for a, p in zip(q_K, joint, strict=True)),
                bound=1e-14,
                oracle="the law of z_J over all tuples, in fractions and 40 digits",
            )
            evidence.ordered(
                (law_of_z * (law_of_z / tensor(after)).log()).sum(),
                mean_log((a, a / p) for a, p in zip(q, after, strict=True)),
                bound=0,
                oracle="KL(q || posterior) in 40 digits",
            )
    names = [ladder(Q, JOINT, 1), ladder(Q, JOINT, 4), bound(Q, JOINT, 4)[0], math.log(0.4)]
    evidence.exact(
        [f"{value:.9f}" for value in names],
        ["-1.344618450", "-1.016090279", "-0.942435034", "-0.916290732"],
        oracle="the decimals that the claim states",
    )
    q = shares(evidence.generator, 3)
    level = [share * Fraction(2, 5) for share in q]
    evidence.numeric(
        [bound(q, level, K)[0] for K in (2, 3)],
        [math.log(0.4)] * 2,
        bound=1e-15,
        oracle="the logarithm of a constant weight",
    )
    wide = [*level, Fraction(1, 7)]
    evidence.numeric(
        exact_bound(tensor(wide), tensor([*q, 0]), 3),
        math.log(0.4),
        bound=1e-15,
        oracle="the same where q does not cover the posterior: log p(x) is larger",
    )


@mutant(test_tighter, "the refined proposal is below L_K: it is q")
def still_q(q, joint, K):
    return refined_bound(q, joint, 1)


@mutant(test_tighter, "E002-15: the mean is over q, not q_K")
def over_q(q, joint, K):
    found = law(*logs(q, joint), K)
    return tensor(q) @ (tensor(joint) / found).log(), found


@mutant(test_tighter, "the divergence with its arguments exchanged")
def turned(q, joint, K):
    found, after = law(*logs(q, joint), K), tensor(joint) / tensor(joint).sum()
    return tensor(joint).sum().log() - after @ (after / found).log(), found


@mutant(test_tighter, "the mean of E q~ and E log (p / q~) apart")
def apart(q, joint, K):
    return moved(log_refined, q, joint, K), law(*logs(q, joint), K)


@mutant(test_tighter, "L_K is already the bound of q_K")
def same(q, joint, K):
    return average(log_refined, q, joint, K), law(*logs(q, joint), K)


@mutant(test_tighter, "the index chosen by the joint numbers")
def joint_index(q, joint, K):
    found = by_joint(q, joint, K)
    return (found * (tensor(joint) / found).log()).sum(), found


def by_joint(q, joint, K):
    """The law of a value picked from each tuple in proportion to p(x, z), not to the weights."""
    picked = [Fraction(0)] * len(q)
    for mass, values, _ in tuples(q, joint, K):
        for z in values:
            picked[z] += mass * joint[z] / sum(joint[j] for j in values)
    return tensor(picked)


def draw(z, log_p, log_q, generator):
    """z_J and its tuple's other values, by the functions of the stem."""
    log_w = (log_p - log_q)[z]
    J = resample(log_w, generator)
    others = z[torch.arange(z.shape[-1]) != J[:, None]].view(len(z), -1)
    return z.gather(1, J[:, None])[:, 0], others


@pytest.mark.claim("iwae-resampling", answers=["A4.2"])
def test_resampling(evidence, pick=draw):
    for q, joint in models(evidence.generator):
        log_q, log_p = tensor(q).log(), tensor(joint).log()
        for K in (2, 4):
            z = torch.multinomial(tensor(q), K * 40000, True, generator=evidence.generator)
            z = z.view(-1, K)
            z_J, others = pick(z, log_p, log_q, evidence.generator)
            for value, expected in enumerate(chosen(q, joint, K)):
                evidence.statistical(
                    (z_J == value).double(),
                    float(expected),
                    oracle="all tuples, in fractions",
                    detects=0.02,
                )
            log_w = log_p - log_q
            single = log_p[z_J] - log_refined(log_q[z_J], log_w[z_J], log_w[others])
            evidence.numeric(
                single[:500],
                tensor(mean_weight(q, joint, row) for row in z[:500].tolist()).log(),
                bound=1e-13,
                oracle="the mean weight of the tuple, in fractions",
            )
            if q is Q:
                evidence.statistical(
                    single,
                    ladder(q, joint, K),
                    oracle="L_K over all tuples",
                    detects=0.05,
                )
    q, joint = shares(evidence.generator, 3), shares(evidence.generator, 3, (1,))
    z = torch.multinomial(tensor(q), 3 * 40000, True, generator=evidence.generator).view(-1, 3)
    some = (z != 1).any(-1)
    z_J, _ = pick(z[some], tensor(joint).log(), tensor(q).log(), evidence.generator)
    for value, expected in enumerate(chosen(q, joint, 3)):
        counted = torch.zeros(len(z), dtype=DOUBLE)
        counted[some] = (z_J == value).double()
        if expected:
            evidence.statistical(
                counted,
                float(expected),
                oracle="all tuples, in fractions",
                detects=0.02,
            )
        else:
            evidence.exact(int(counted.sum()), 0, oracle="a weight of zero is never chosen")


def mean_weight(q, joint, row):
    return sum(joint[z] / q[z] for z in row) / len(row)


def rest_of(z, J):
    return z[torch.arange(z.shape[-1]) != J[:, None]].view(len(z), -1)


def taken(z, log_w, generator):
    J = resample(log_w, generator)
    return z.gather(1, J[:, None])[:, 0], rest_of(z, J)


@mutant(test_resampling, "the index is uniform")
def uniform(z, log_p, log_q, generator):
    return taken(z, torch.zeros_like(log_p)[z], generator)


@mutant(test_resampling, "the index is chosen by p(x, z), not by the weight")
def by_numbers(z, log_p, log_q, generator):
    return taken(z, log_p[z], generator)


@mutant(test_resampling, "the largest weight wins")
def largest(z, log_p, log_q, generator):
    J = (log_p - log_q)[z].argmax(-1)
    return z.gather(1, J[:, None])[:, 0], rest_of(z, J)


@mutant(test_resampling, "one pool of all tuples: that is near the posterior")
def pooled(z, log_p, log_q, generator):
    w = (log_p - log_q)[z].exp().flatten()
    place = torch.multinomial(w, len(z), True, generator=generator)
    return z.flatten()[place], z[:, 1:]


@mutant(test_resampling, "logarithms of weights as probabilities")
def unexponentiated(z, log_p, log_q, generator):
    w = (log_p - log_q)[z]
    return taken(z, (w - w.min() + 0.1).log(), generator)


DIVERGENCES = {
    "KL(q || p)": lambda u: torch.xlogy(u, u),
    "KL(p || q)": lambda u: -u.log(),
    "total variation": lambda u: (u - 1).abs() / 2,
    "chi-squared(q || p)": lambda u: (u - 1) ** 2,
    "chi-squared(p || q)": lambda u: (1 - u) ** 2 / u,
    "Hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "hockey stick": lambda u: (u - 1.3).clamp(min=0),
}
"""Convex functions f of u = q/p, zero at one."""


def divergences(q, p):
    return torch.stack([p @ f(q / p) for f in DIVERGENCES.values()])


@pytest.mark.claim("x-iwae-closer")
def test_closer(evidence, refined=law):
    for q, joint in models(evidence.generator):
        after = tensor([p / sum(joint) for p in joint])
        order = sorted(range(len(q)), key=lambda z: joint[z] / q[z])
        for K in (1, 2, 3, 4):
            known, further = tensor(chosen(q, joint, K)), refined(*logs(q, joint), K + 1)
            evidence.ordered(
                divergences(further, after),
                divergences(known, after),
                bound=1e-15,
                oracle="divergences of q_K over all tuples, in fractions",
            )
            nearer = tensor(chosen(q, joint, K + 1)) / known
            up, down = (further / known)[order], (after / further)[order]
            evidence.ordered(up[:-1], nearer[order][1:], bound=1e-13, oracle="all tuples")
            evidence.ordered(
                down[:-1],
                (after / nearer / known)[order][1:],
                bound=1e-13,
                oracle="all tuples",
            )
            evidence.ordered(
                (after**2 / further).sum() - 1,
                ((after**2 / tensor(q)).sum() - 1) / (K + 1),
                bound=1e-14,
                oracle="the divergence of q in fractions, by K",
            )
    q, joint = [*Q, Fraction(0)], [*JOINT, Fraction(1, 7)]
    after = tensor([p / sum(joint) for p in joint])
    kept = ["KL(q || p)", "total variation", "chi-squared(q || p)", "Hellinger", "hockey stick"]
    for K in (1, 2, 3):
        known, further = tensor(chosen(q, joint, K)), refined(*logs(q, joint), K + 1)
        evidence.ordered(
            [after @ DIVERGENCES[name](further / after) for name in kept],
            [after @ DIVERGENCES[name](known / after) for name in kept],
            bound=1e-15,
            oracle="divergences of q_K where q does not cover the posterior",
        )


@mutant(test_closer, "squared weights go past the posterior")
def squared(log_q, log_w, samples):
    return law(log_q, 2 * log_w, samples)


@mutant(test_closer, "the largest weight wins, and goes past it")
def winner(log_q, log_w, samples):
    return law(log_q, 400 * log_w, samples)


@mutant(test_closer, "the index is chosen by p(x, z)")
def by_number(log_q, log_w, samples):
    return law(log_q, log_w + log_q.where(log_q > -math.inf, 0), samples)


@mutant(test_closer, "the index is uniform: no sample helps")
def unmoved(log_q, log_w, samples):
    return law(log_q, 0 * log_w.where(log_q > -math.inf, 0), samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_broadcast_and_keep_the_dtype(dtype):
    generator = torch.Generator().manual_seed(1)
    q = torch.rand(3, 4, generator=generator, dtype=dtype).softmax(-1)
    q[1] = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=dtype)
    joint = torch.rand(5, 1, 4, generator=generator, dtype=dtype)
    joint[2, 0, 3] = 0
    log_w = (joint / q).log()
    found = law(q.log(), log_w, 3)
    assert (found.shape, found.dtype) == ((5, 3, 4), dtype)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14}[dtype]
    known = exact_proposal(joint.double(), q.double() / q.double().sum(-1, keepdim=True), 3)
    torch.testing.assert_close(found.double(), known, atol=tolerance, rtol=tolerance)
    rest = torch.randn(7, 1, 1, 1, 2, generator=generator, dtype=dtype)
    refined = log_refined(q.log(), log_w, rest)
    assert (refined.shape, refined.dtype) == ((7, 5, 3, 4), dtype)
    assert refined[:, 2, :, 3].eq(-math.inf).all()
    assert refined[:, :, 1, 1].eq(-math.inf).all()
    mean, error = density(q.log(), log_w, rest)
    assert (mean.shape, error.dtype) == ((5, 3, 4), dtype)
    ratio = density(0.0, log_w.where(q > 0, 0), rest).mean
    torch.testing.assert_close(q * ratio, mean)
    z = torch.randn(6, 2, 8, 5, 3, generator=generator, dtype=dtype)
    log_w = torch.randn(6, 2, 8, generator=generator, dtype=dtype)
    assert sample(z, log_w, generator).shape == (6, 2, 5, 3)
    assert sample(z, log_w, generator).dtype == dtype
    assert resample(log_w, generator, dim=0).shape == (2, 8)
    assert sample(torch.arange(8).expand(6, 2, 8), log_w, generator).dtype == torch.int64


def test_a_scale_of_the_weights_changes_nothing():
    log_q, log_w = logs(Q, JOINT)
    for shift in (-9000.0, 9000.0):
        torch.testing.assert_close(law(log_q, log_w + shift, 4), law(log_q, log_w, 4))
        far = log_refined(log_q, log_w + shift, log_w[None, :2] + shift)
        torch.testing.assert_close(far, log_refined(log_q, log_w, log_w[None, :2]))
        one, other = (torch.Generator().manual_seed(1) for _ in range(2))
        drawn = resample((log_w + shift).expand(99, 3), one)
        assert drawn.equal(resample(log_w.expand(99, 3), other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_are_far_apart(dtype):
    half = torch.tensor([0.5, 0.5], dtype=dtype).log()
    for far in (80.0, 1000.0):
        log_w = torch.tensor([0.0, -far], dtype=dtype)
        expected = torch.tensor([1 - 0.5**5, 0.5**5], dtype=dtype)
        torch.testing.assert_close(law(half, log_w, 5), expected)
    log_w = torch.tensor([1.0, 0.0], dtype=dtype)
    many = law(half, log_w, 10**7)
    torch.testing.assert_close(many, log_w.softmax(0), atol=1e-6, rtol=0)


def test_no_weight_is_positive():
    half, none = torch.tensor([0.5, 0.5]).log(), torch.tensor([-math.inf, -math.inf])
    assert law(half, none, 3).tolist() == [0, 0]
    assert law(torch.tensor([0.0, -math.inf]), torch.tensor([-math.inf, 0]), 2).tolist() == [0, 0]
    assert log_refined(half, none, none).tolist() == [-math.inf] * 2
    found = log_refined(half, torch.zeros(2), none).exp()
    torch.testing.assert_close(found, torch.tensor([1.5, 1.5]))


def test_gradients_are_those_of_all_tuples():
    generator = torch.Generator().manual_seed(2)
    log_p = torch.randn(3, generator=generator, dtype=DOUBLE).requires_grad_()
    logits = torch.randn(3, generator=generator, dtype=DOUBLE).requires_grad_()
    q = logits.softmax(-1)
    for K in (1, 2, 4):
        slow = exact_proposal(log_p.exp(), q, K)
        fast = law(q.log(), log_p - q.log(), K)
        for z in range(3):
            found = torch.autograd.grad(fast[z], (log_p, logits), retain_graph=True)
            by_counts = torch.autograd.grad(slow[z], (log_p, logits), retain_graph=True)
            torch.testing.assert_close(found, by_counts)
    rest = torch.randn(2, generator=generator, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(log_refined, (logits, log_p, rest))


def test_gradients_stay_finite_beside_zeros():
    log_q = torch.tensor([0.4, 0.35, 0.25, 0.0]).log()
    log_w = torch.tensor([0.3, -math.inf, -90.0, math.nan], requires_grad=True)
    rest = torch.tensor([-math.inf, -math.inf], requires_grad=True)
    (slope,) = torch.autograd.grad(law(log_q, log_w, 3)[0], log_w)
    assert slope.isfinite().all()
    found = log_refined(log_q, log_w, rest)
    assert found.exp().tolist()[1::2] == [0, 0]
    slopes = torch.autograd.grad(found[0] + found[2], (log_w, rest))
    assert all(slope.isfinite().all() for slope in slopes)


def test_one_sample_gives_the_proposal():
    log_q, log_w = logs(Q, JOINT)
    torch.testing.assert_close(law(log_q, log_w, 1), tensor(Q))
    torch.testing.assert_close(log_refined(log_q, log_w, torch.zeros(0, dtype=DOUBLE)), log_q)
    assert resample(log_w[:, None]).tolist() == [0, 0, 0]


def test_a_weight_of_zero_is_never_drawn():
    log_w = torch.tensor([-math.inf, 0.0, -math.inf, -80.0]).expand(4000, 4)
    assert resample(log_w, torch.Generator().manual_seed(3)).unique().tolist() == [1]


def test_the_generator_decides():
    z, log_w = torch.randn(2, 50, 4).unbind()
    one, other = (torch.Generator().manual_seed(4) for _ in range(2))
    assert sample(z, log_w, one).equal(sample(z, log_w, other))
    assert not sample(z, log_w, one).equal(sample(z, log_w, torch.Generator().manual_seed(5)))


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_raise():
    log_q, log_w = torch.tensor([0.4, 0.6]).log(), torch.tensor([0.1, -0.2])
    none = torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]])
    off = "log_q must be of probabilities, got a sum that is off by 1"
    shapes = "z must hold one draw for each weight, for log_w of shape (2,), got shape (3,)"
    zero = "log_w must have a positive weight along dim -1, got all -inf"
    flat = "rest must have 3 or more dimensions, got shape (2, 5)"
    calls = {
        "samples must be at least 1, got 0": lambda: law(log_q, log_w, 0),
        off: lambda: law(torch.zeros(2), log_w, 2),
        zero: lambda: resample(none),
        "log_w must have 2 values of z, got 1": lambda: law(log_q, log_w[:1], 2),
        shapes: lambda: sample(torch.zeros(3), log_w),
        "samples must be 2 or more": lambda: density(log_q, log_w, log_w.view(1, 1, 2)),
        flat: lambda: density(log_q, log_w, torch.zeros(2, 5)),
        "rest must have 2 or more": lambda: density(0.0, log_w[0], torch.zeros(5)),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=re.escape(words)):
            call()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_weights_are_numbers(bad):
    log_q, log_w = torch.tensor([0.4, 0.6]).log(), torch.tensor([0.1, -0.2])
    for call in (
        lambda wrong: law(log_q, wrong, 2),
        lambda wrong: log_refined(log_q, wrong, log_w),
        lambda wrong: density(log_q, wrong, torch.zeros(3, 1, 2)),
        resample,
        lambda wrong: sample(torch.zeros(2), wrong),
    ):
        with pytest.raises(ValueError, match=f"log_w must be finite or -inf, got {bad}"):
            call(torch.tensor([0.3, bad]))
    with pytest.raises(ValueError, match=f"rest must be finite or -inf, got {bad}"):
        log_refined(log_q, log_w, torch.tensor([0.3, bad]))
    with pytest.raises(ValueError, match="log_q must be of probabilities"):
        law(torch.tensor([0.0, bad]), log_w, 2)


def drawn(name=""):
    figure = Figure()
    run_path(str(SNIPPET))["figure" + name](figure.gca())
    return figure.gca()


def test_the_curves_have_mass_one_and_the_histogram_is_that_of_five_samples():
    ax = drawn()
    _, *curves = (line.get_xydata() for line in ax.lines)
    for curve in curves:
        assert abs(np.trapezoid(curve[:, 1], curve[:, 0]) - 1) < 0.02
    heights = np.array([bar.get_height() for bar in ax.patches[:-1]])
    places = np.array([bar.get_x() + bar.get_width() / 2 for bar in ax.patches[:-1]])
    five = curves[1]
    assert np.abs(np.interp(places, *five.T) - heights).mean() < 0.03


def test_the_refined_proposals_have_the_masses_of_their_labels():
    *given, mean = drawn("_given").lines
    masses = [float(line.get_label().split()[-1]) for line in given]
    for line, mass in zip(given, masses, strict=True):
        curve = line.get_xydata()
        assert abs(np.trapezoid(curve[:, 1], curve[:, 0]) - mass) < 0.02
    assert masses[0] > 1 > masses[1] > masses[2]
    assert abs(np.trapezoid(mean.get_ydata(), mean.get_xdata()) - 1) < 0.02


def test_the_ladder_and_the_gaps_are_those_of_all_tuples():
    top, refined, bounds, _ = (line.get_ydata() for line in drawn("_ladder").lines)
    assert abs(top[0] - math.log(0.4)) < 1e-12
    for K in (1, 2, 3, 4):
        q_K = chosen(Q, JOINT, K)
        value = mean_log((a, p / a) for a, p in zip(q_K, JOINT, strict=True))
        assert abs(refined[K - 1] - value) < 1e-12
        assert abs(bounds[K - 1] - ladder(Q, JOINT, K)) < 1e-12
    marks, limit, refined, second = (line.get_ydata() for line in drawn("_gaps").lines)
    assert abs(marks[-1] / limit[-1] - 1) < 0.03
    assert abs(refined[-1] / second[-1] - 1) < 0.03
