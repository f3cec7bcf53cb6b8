import math
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from runpy import run_path
from typing import NamedTuple

import mpmath
import pytest
import torch
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.latent.finite import exact_bound
from genref.latent.importance import (
    bound,
    doubly_reparameterized,
    effective_size,
    gap,
    jackknife,
)
from genref.numerics.estimate import Estimate

DOUBLE = torch.float64


def number(value):
    """In float64: a Python number would be compared in float32."""
    return torch.tensor(float(value), dtype=DOUBLE)


# Finite models: every tuple of samples.


def law(generator, n, zeros=()):
    parts = torch.randint(1, 60, (n,), generator=generator).tolist()
    parts = [0 if i in zeros else part for i, part in enumerate(parts)]
    return torch.tensor([part / sum(parts) for part in parts], dtype=DOUBLE)


def table(generator, n):
    """The numbers p(x, z) for one x, of sum less than one."""
    return law(generator, n) * torch.rand(1, generator=generator, dtype=DOUBLE) * 0.9


def enumerated(estimate, joint, q, K):
    """The mean of an estimate over all tuples that q can draw."""
    draws = torch.cartesian_prod(*[q.nonzero()[:, 0]] * K).view(-1, K)
    return q[draws].prod(1) @ estimate((joint / q).log()[draws])


class TwoWeights(NamedTuple):
    """A weight with two values, and the probability of the first."""

    chance: Fraction
    first: Fraction
    second: Fraction

    def log(self):
        return torch.tensor([float(self.first), float(self.second)], dtype=DOUBLE).log()

    def counts(self, K):
        """The log-weights of K samples, the first value k times, and the chance of each k."""
        k = torch.arange(K + 1)
        log_w = torch.where(torch.arange(K) < k[:, None], *self.log())
        p, q = float(self.chance), 1 - float(self.chance)
        k = k.double()
        log_ways = math.lgamma(K + 1) - torch.lgamma(k + 1) - torch.lgamma(K - k + 1)
        return log_w, (log_ways + k * math.log(p) + (K - k) * math.log(q)).exp()

    def mean(self, estimate, K):
        log_w, chance = self.counts(K)
        return chance @ estimate(log_w) / chance.sum()

    def evidence(self):
        return self.chance * self.first + (1 - self.chance) * self.second

    def exact(self, K):
        """The gap in 40 digits, from its binomial sum."""
        with mpmath.workdps(40):
            p, a, b, total = (mpf(part) for part in (*self, self.evidence()))
            chance = [mpmath.binomial(K, k) * p**k * (1 - p) ** (K - k) for k in range(K + 1)]
            means = [(k * a + (K - k) * b) / (K * total) for k in range(K + 1)]
            return -mpmath.fdot(chance, map(mpmath.log, means))

    def coefficients(self):
        """The coefficients of 1/K and of 1/K² in the gap, as fractions."""
        relative = (self.first / self.evidence(), self.second / self.evidence())
        weights = (self.chance, 1 - self.chance)
        pairs = list(zip(weights, relative, strict=True))
        second, third = (sum(p * (w - 1) ** power for p, w in pairs) for power in (2, 3))
        return second / 2, Fraction(3, 4) * second**2 - third / 3


def mpf(fraction):
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def two_weights(generator):
    a, b, c = torch.randint(1, 10, (3,), generator=generator).tolist()
    return TwoWeights(Fraction(a, 11), Fraction(b, 7), Fraction(b + c, 7))


STATED = TwoWeights(Fraction(3, 10), Fraction(2), Fraction(2, 5))
EXAMPLE = (
    torch.tensor([0.1, 0.25, 0.05], dtype=DOUBLE),
    torch.tensor([0.2, 0.3, 0.5], dtype=DOUBLE),
)


def extrapolated(values):
    """The limit of a sequence in powers of 1/K, from its values where K doubles each time."""
    for power in range(1, len(values)):
        scale = 2**power
        values = [(scale * late - early) / (scale - 1) for early, late in pairwise(values)]
    return values[0]


# The normal model: z ~ N(theta, 1), x ~ N(z, 1), proposal N(phi, exp(2 tau)).


class Normal(NamedTuple):
    theta: torch.Tensor
    phi: torch.Tensor
    tau: torch.Tensor
    x: float

    def log_weight(self, z):
        joint = -((z - self.theta).square() + (self.x - z).square()) / 2 - math.log(2 * math.pi)
        noise = (z - self.phi) * (-self.tau).exp()
        return joint + noise.square() / 2 + self.tau + math.log(2 * math.pi) / 2

    def log_evidence(self):
        return -((self.x - self.theta) ** 2) / 4 - math.log(4 * math.pi) / 2

    def leaves(self, n):
        """The same parameters, once for each of n draws, so that gradients come draw by draw."""
        every = (torch.full((n, 1), float(v), dtype=DOUBLE) for v in self[:3])
        return Normal(*(v.requires_grad_() for v in every), self.x)


def normal(generator):
    theta, phi, tau, x = torch.rand(4, generator=generator, dtype=DOUBLE).tolist()
    centre = theta / 2 + 0.7 + x / 4
    parts = (theta, centre - 0.3 - 0.2 * phi, -0.22 + 0.12 * tau)
    return Normal(*(torch.tensor(v, dtype=DOUBLE) for v in parts), 1.4 + x / 2)


def gradients(estimate, model, noise, kind="standard"):
    """For each draw: the gradient by theta, phi and tau."""
    at = model.leaves(len(noise))
    held = at._replace(phi=at.phi.detach(), tau=at.tau.detach())
    z = at.phi + at.tau.exp() * noise
    if kind == "doubly":
        value = estimate(held.log_weight, z)
    else:
        value = estimate((held if kind == "dropped" else at).log_weight(z))
    return torch.cat(torch.autograd.grad(value.sum(), at[:3]), 1)


def grid(K):
    """Points of K standard normal numbers with weights, exact for smooth functions."""
    h = {1: 0.2, 2: 0.3, 3: 0.45}[K]
    side = torch.arange(-9, 9 + h / 2, h, dtype=DOUBLE)
    mass = (-side.square() / 2).exp() * h / math.sqrt(2 * math.pi)
    points = torch.cartesian_prod(*[side] * K).view(-1, K)
    return points, torch.cartesian_prod(*[mass] * K).view(-1, K).prod(1)


class Transform:
    """Means over K samples from one-dimensional integrals: 1/S^n is a mean of t^(n-1) exp(-t S)."""

    def __init__(self, theta, phi, tau, x):
        z = torch.arange(-11, 11, 0.05, dtype=DOUBLE)
        noise = (z - phi) * (-tau).exp()
        q = (-noise.square() / 2 - tau).exp() * 0.05 / math.sqrt(2 * math.pi)
        after = (-(z - (theta + x) / 2).square()).exp() / math.sqrt(math.pi)
        self.q, self.w = q, after * 0.05 / q
        self.log_t = torch.arange(-42, 24, 0.1, dtype=DOUBLE)
        self.t = self.log_t.exp()
        self.decay = torch.exp(-self.t[:, None] * self.w)
        self.less = (q * torch.expm1(-self.t[:, None] * self.w)).sum(1)
        self.score = torch.stack([noise * (-tau).exp(), noise.square() - 1])
        slope = x + theta - 2 * z + noise * (-tau).exp()
        self.path = slope * torch.stack([torch.ones_like(z), noise * tau.exp()])
        self.model = z - theta - (x - theta) / 2

    def power(self, K):
        return (K * self.less.clamp(min=-1 + 1e-15).log1p()).exp()

    def log_mean(self, K):
        """The mean of log (w_1 + ... + w_K) / K, for weights of mean one."""
        return 0.1 * ((-self.t).exp() - self.power(K)).sum() - math.log(K)

    def moments(self, f, K, power=1):
        """Mean and variance of the sum of f(z_j) (w_j / S)^power, where S is the sum of the w_j."""

        def mean(values, n, others):
            weight = self.t**n / math.factorial(n - 1) * self.power(others)
            return 0.1 * weight @ values

        def against(f, n):
            return self.decay @ (self.q * self.w**n * f)

        first = K * mean(against(f, power), power, K - 1)
        second = K * mean(against(f * f, 2 * power), 2 * power, K - 1)
        if K > 1:
            both = mean(against(f, power).square(), 2 * power, K - 2)
            second = second + K * (K - 1) * both
        return first, second - first.square()

    def expect(self, f):
        return self.q @ f

    def variance(self, f):
        return self.expect((f - self.expect(f)).square())


def transform(model):
    return Transform(*model)


def slope_of(log_snr, sizes):
    """The slope of the line of least squares through the points (log K, log SNR)."""
    log_k = torch.tensor(sizes, dtype=DOUBLE).log()
    centred = log_k - log_k.mean()
    return centred / centred.square().sum() @ log_snr, centred / centred.square().sum()


def fitted(samples):
    """The fitted slope of log SNR with its standard error, from gradients for each K."""
    log_snr, errors = [], []
    for values in samples.values():
        mean, deviation = values.mean(), values.std()
        unit = (values - mean) / deviation
        influence = (values - mean) / mean - unit.square() / 2
        log_snr.append((mean.abs() / deviation).log())
        errors.append(influence.std() / math.sqrt(len(values)))
    slope, parts = slope_of(torch.stack(log_snr), list(samples))
    return Estimate(slope, (parts * torch.stack(errors)).square().sum().sqrt())


def ratio(moments):
    return moments[0].abs() / moments[1].sqrt()


def drawn(n, K, generator):
    return torch.randn(n, K, dtype=DOUBLE, generator=generator)


SIZES = (4, 8, 16, 32, 64)


# The bound.


@pytest.mark.claim("iwae-monotone", answers=["A4.2"])
def test_monotone(evidence, estimate=bound):
    for zeros in ((), (), (1,), (0, 2)):
        joint, q = table(evidence.generator, 4), law(evidence.generator, 4, zeros)
        found = [enumerated(estimate, joint, q, K) for K in range(1, 6)]
        expected = [exact_bound(joint, q, K) for K in range(1, 7)]
        evidence.numeric(
            found,
            expected[:5],
            bound=1e-13,
            oracle="a sum over the counts of each value in place of tuples",
        )
        evidence.ordered(found, expected[1:], bound=0.0, oracle="the bound of one sample more")
        covered = joint[q > 0].sum().log()
        evidence.ordered(
            found,
            covered.expand(5),
            bound=0.0,
            oracle="the logarithm of the covered mass",
        )
    joint = joint * torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=DOUBLE)
    evidence.numeric(
        [enumerated(estimate, joint, law(evidence.generator, 4), K) for K in (1, 2, 3)],
        torch.full((3,), -torch.inf, dtype=DOUBLE),
        bound=0.0,
        oracle="all weights can be zero",
    )
    for w in (STATED, two_weights(evidence.generator)):
        evidence.numeric(
            extrapolated([w.mean(estimate, n) for n in (32, 64, 128, 256, 512)]),
            number(math.log(w.evidence())),
            bound=1e-8,
            oracle="the evidence",
        )
    model = normal(evidence.generator)
    for K in (1, 2, 3):
        points, mass = grid(K)
        z = model.phi + model.tau.exp() * points
        evidence.numeric(
            mass @ estimate(model.log_weight(z)),
            model.log_evidence() + transform(model).log_mean(K),
            bound=1e-9,
            oracle="a normal model, by an integral over Laplace transforms",
        )


@mutant(test_monotone, "the mean of the logarithms")
def mean_of_logs(log_w, dim=-1):
    return log_w.mean(dim)


@mutant(test_monotone, "the sum is not divided by K")
def undivided(log_w, dim=-1):
    return log_w.logsumexp(dim)


@mutant(test_monotone, "the largest weight alone")
def largest(log_w, dim=-1):
    return log_w.amax(dim) - math.log(log_w.shape[dim])


@mutant(test_monotone, "divided by K - 1")
def one_less(log_w, dim=-1):
    return log_w.logsumexp(dim) - math.log(max(log_w.shape[dim] - 1, 1))


def exact_shares(log_w):
    """The logarithm of the mean weight, and the shares, in 60 digits."""
    with mpmath.workdps(60):
        w = [mpmath.exp(mpmath.mpf(value)) for value in log_w.tolist()]
        total = mpmath.fsum(w)
        shares = torch.tensor([float(weight / total) for weight in w], dtype=DOUBLE)
        return float(mpmath.log(total / len(w))), shares


def extreme(generator):
    """Log-weights in float32: all sizes up to 10^4, near and far from each other, few and many."""
    for size in (1.0, 90.0, 1e3, 1e4):
        for spread in (0.0, 0.3, 5.0, 1e3, 2e4):
            centre = size * (2 * torch.rand(1, generator=generator) - 1)
            yield (centre + spread * torch.randn(17, generator=generator)).clamp(-1e4, 1e4)
    for size, K in ((-1e4, 17), (1e4, 17), (-1e4, 1000), (1e4, 1000)):
        yield size * (1 - 2e-4 * torch.rand(K, generator=generator))


@pytest.mark.claim("x-iwae-extreme")
def test_extreme(evidence, estimate=bound):
    for log_w in extreme(evidence.generator):
        log_w = log_w.requires_grad_()
        value = estimate(log_w)
        (slope,) = torch.autograd.grad(value, log_w)
        evidence.numeric(
            value,
            number(exact_shares(log_w)[0]),
            bound=5e-4,
            oracle="the weights themselves, in 60 digits",
        )
        evidence.numeric(
            slope,
            exact_shares(log_w)[1],
            bound=1e-6,
            oracle="the shares, in 60 digits",
        )
    rows = torch.tensor([[0.3, -torch.inf, -8e3], [-torch.inf] * 3, [-torch.inf, -7e3, -torch.inf]])
    rows.requires_grad_()
    value = estimate(rows)
    (slope,) = torch.autograd.grad(value.sum(), rows)
    with_zeros = torch.tensor([0.3 - math.log(3), -math.inf, -7e3 - math.log(3)])
    evidence.numeric(value, with_zeros, bound=5e-4, oracle="the mean of what is not zero")
    alone = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    evidence.exact(slope, alone, oracle="one share of one, or none")


@mutant(test_extreme, "exponential first, logarithm last")
def exp_then_log(log_w, dim=-1):
    return log_w.exp().mean(dim).log()


@mutant(test_extreme, "a small number against the logarithm of zero")
def clamped(log_w, dim=-1):
    return (log_w.exp().mean(dim) + 1e-10).log()


@mutant(test_extreme, "the gradient recomputed from the rounded value")
def from_rounded(log_w, dim=-1):
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])


@mutant(test_extreme, "shifted by the mean in place of the maximum")
def shifted_by_mean(log_w, dim=-1):
    centre = log_w.detach().mean(dim, keepdim=True)
    return ((log_w - centre).exp().mean(dim, keepdim=True).log() + centre).squeeze(dim)


def softmax_loss(log_w):
    """The loss in circulation: log-weights, averaged with their shares held constant."""
    return (log_w.softmax(-1).detach() * log_w).sum(-1)


def plain_gradient(log_w):
    """By automatic differentiation of the logarithm of the mean, as it is written."""
    x = log_w.detach().requires_grad_()
    return torch.autograd.grad(x.exp().mean(-1).log().sum(), x)[0]


def exact_entropy(log_w):
    with mpmath.workdps(40):
        rows = [exact_shares(row)[1] for row in log_w]
        found = [-mpmath.fsum(s * mpmath.log(s) for s in row.tolist()) for row in rows]
        return torch.tensor([float(value) for value in found], dtype=DOUBLE)


@pytest.mark.claim("x-iwae-softmax-loss")
def test_softmax_loss(evidence, estimate=bound, loss=softmax_loss):
    for K in (2, 5, 17):
        log_w = 3 * torch.randn(20, K, dtype=DOUBLE, generator=evidence.generator)
        log_w.requires_grad_()
        excess = math.log(K) - exact_entropy(log_w)
        evidence.numeric(
            loss(log_w) - estimate(log_w),
            excess,
            bound=1e-13,
            oracle="the entropy of the shares, in 40 digits",
        )
        evidence.ordered(estimate(log_w) - loss(log_w), 0 * excess, bound=0.0, oracle="zero")
        evidence.ordered(
            loss(log_w) - estimate(log_w),
            0 * excess + math.log(K),
            bound=0.0,
            oracle="the logarithm of K",
        )
        for function in (loss, estimate):
            (slope,) = torch.autograd.grad(function(log_w).sum(), log_w)
            evidence.numeric(
                slope,
                plain_gradient(log_w),
                bound=1e-14,
                oracle="automatic differentiation of log mean exp, as it is written",
            )
    stated = {"loss": "-0.820103", "bound": "-1.056329", "log p(x)": "-0.916291"}
    evidence.exact(
        {
            "loss": f"{enumerated(loss, *EXAMPLE, 3):.6f}",
            "bound": f"{enumerated(estimate, *EXAMPLE, 3):.6f}",
            "log p(x)": f"{EXAMPLE[0].sum().log():.6f}",
        },
        stated,
        oracle="the decimals that the claim states",
    )


@mutant(test_softmax_loss, "the loss reported as the bound", of="estimate")
def reported(log_w):
    return softmax_loss(log_w)


@mutant(test_softmax_loss, "the shares are not held constant", of="loss")
def attached(log_w):
    return (log_w.softmax(-1) * log_w).sum(-1)


@mutant(test_softmax_loss, "averaged without shares", of="loss")
def unweighted(log_w):
    return log_w.mean(-1)


# The gap.


@pytest.mark.claim("x-iwae-gap")
def test_gap(evidence, estimate=bound, correction=gap):
    for w in (STATED, two_weights(evidence.generator), two_weights(evidence.generator)):
        truth = math.log(w.evidence())
        for K in (1, 7, 50):
            evidence.numeric(
                truth - w.mean(estimate, K),
                number(w.exact(K)),
                bound=1e-13,
                oracle="a binomial sum in 40 digits",
            )
        sizes = [32, 64, 128, 256, 512]
        scaled = [n * (truth - w.mean(estimate, n)) for n in sizes]
        limit = number(w.coefficients()[0])
        evidence.numeric(
            extrapolated(scaled),
            limit,
            bound=1e-7,
            oracle="half the variance, as a fraction",
        )
        rest = [n * (value - limit) for n, value in zip(sizes, scaled, strict=True)]
        evidence.numeric(
            extrapolated(rest),
            number(w.coefficients()[1]),
            bound=1e-5,
            oracle="the second and third central moment, as fractions",
        )
        p = w.chance
        every = torch.cat([value.expand(n) for value, n in zip(w.log(), split(p), strict=True)])
        evidence.numeric(
            len(every) * correction(every),
            limit,
            bound=1e-12,
            oracle="half the variance, as a fraction",
        )
    first, second = STATED.coefficients()
    stated = ("0.347107", "0.193156")
    evidence.exact(
        (f"{float(first):.6f}", f"{float(second):.6f}"),
        stated,
        oracle="the decimals that the claim states",
    )


def split(p):
    """How many of 20 times the denominator are of each kind, in the exact proportion."""
    return 20 * p.numerator, 20 * (p.denominator - p.numerator)


@mutant(test_gap, "the mean of the logarithms", of="estimate")
def never_closing(log_w):
    return log_w.mean(-1)


@mutant(test_gap, "divided by K - 1", of="estimate")
def not_quite(log_w):
    return log_w.logsumexp(-1) - math.log(max(log_w.shape[-1] - 1, 1))


@mutant(test_gap, "the half left out", of="correction")
def whole(log_w):
    return 2 * gap(log_w)


@mutant(test_gap, "not divided by the squared mean", of="correction")
def unscaled(log_w):
    return log_w.exp().var(correction=0) / (2 * len(log_w))


@mutant(test_gap, "the second moment in place of the variance", of="correction")
def raw_moment(log_w):
    return log_w.softmax(-1).square().sum() / 2


def leading(r, K):
    """The leading term of the gap for the posterior Exp(1) and the proposal Exp(r)."""
    a = r / (r - 1)
    if r < 2:
        return (r - 1) ** 2 / (2 * r * (2 - r)) / K
    if r == 2:
        return (mpmath.log(2 * K) - mpmath.mpf(3) / 2) / (4 * K)
    return mpmath.pi * r**-a / mpmath.sin(mpmath.pi * (a - 1)) * K ** (1 - a)


def frullani(r, K):
    """The gap, as the integral of (phi(t/K)^K - exp(-t)) / t, where phi is E exp(-s w / p)."""
    a = r / (r - 1)

    def integrand(t):
        phi = a * mpmath.expint(a + 1, t / (K * r))
        return phi**K - mpmath.exp(-t)

    return mpmath.fsum(integrand(mpmath.exp(mpmath.mpf(y) / 4)) for y in range(-90, 17)) / 4


@pytest.mark.claim("x-iwae-gap-heavy")
def test_heavy(evidence, estimate=bound, formula=leading):
    y = torch.arange(-36, 4.5, 0.1, dtype=DOUBLE)
    for r in (1.5, 1.8, 2.0, 2.6, 3.0):
        z = y.exp() / r
        mass = 0.1 * (y - y.exp()).exp()
        log_w = (r - 1) * z - math.log(r)
        pairs = torch.cartesian_prod(log_w, log_w)
        measured = -torch.outer(mass, mass).flatten() @ estimate(pairs)
        evidence.numeric(
            measured,
            number(frullani(r, 2)),
            bound=1e-12,
            oracle="an integral of the transform",
        )
    with mpmath.workdps(40):
        for r, K, accuracy in (
            ("1.5", 10**9, 1e-6),
            ("1.6", 10**9, 1e-5),
            ("2", 10**9, 1e-7),
            ("2.6", 10**18, 1e-5),
            ("3", 10**14, 1e-6),
        ):
            r = mpmath.mpf(r)
            evidence.numeric(
                number(formula(r, K) / frullani(r, K)),
                number(1),
                bound=accuracy,
                oracle="an integral of the transform, in 40 digits",
            )
        constant = mpmath.nstr(formula(mpmath.mpf(3), 1), 6, strip_zeros=False)
    evidence.exact(constant, "0.604600", oracle="the decimals that the claim states")


@mutant(test_heavy, "the mean of the logarithms", of="estimate")
def logs_of_heavy(log_w):
    return log_w.mean(-1)


@mutant(test_heavy, "always of the order 1/K", of="formula")
def always_one(r, K):
    return leading(r, K) if r <= 2 else leading(r, 1) / K


@mutant(test_heavy, "the smallest weight taken for one", of="formula")
def scale_lost(r, K):
    return leading(r, K) * (r ** (r / (r - 1)) if r > 2 else 1)


@mutant(test_heavy, "the order of the tail, not one less", of="formula")
def order_of_tail(r, K):
    return leading(r, K) / (K if r > 2 else 1)


@mutant(test_heavy, "log K / (4 K), the constants left out", of="formula")
def bare_logarithm(r, K):
    return mpmath.log(K) / (4 * K) if r == 2 else leading(r, K)


@mutant(test_heavy, "the variance without its half", of="formula")
def whole_variance(r, K):
    return leading(r, K) * (2 if r < 2 else 1)


# The jackknife.


def by_leaving_out(log_w):
    """The jackknife of one set of weights, as it is defined, in 60 digits."""
    K = len(log_w)
    whole = mpmath.mpf(exact_log_mean(log_w))
    parts = [exact_log_mean([*log_w[:i], *log_w[i + 1 :]]) for i in range(K)]
    return float(K * whole - (K - 1) * mpmath.fsum(parts) / K)


def exact_log_mean(log_w):
    w = [mpmath.exp(mpmath.mpf(value)) for value in log_w]
    return mpmath.log(mpmath.fsum(w) / len(w))


@pytest.mark.claim("x-iwae-jackknife")
def test_jackknife(evidence, estimate=jackknife):
    for K in (2, 3, 9):
        for spread in (0.1, 3.0, 400.0):
            log_w = spread * torch.randn(K, dtype=DOUBLE, generator=evidence.generator)
            with mpmath.workdps(60):
                defined = by_leaving_out(log_w.tolist())
            evidence.numeric(
                estimate(log_w),
                number(defined),
                bound=1e-14 * max(spread, 1) * K,
                oracle="every weight left out in turn, in 60 digits",
            )
    for w in (STATED, two_weights(evidence.generator)):
        truth = math.log(w.evidence())
        for K in (2, 5, 40):
            evidence.numeric(
                w.mean(estimate, K),
                number(truth - K * w.exact(K) + (K - 1) * w.exact(K - 1)),
                bound=1e-12,
                oracle="two binomial sums in 40 digits",
            )
        scaled = [K**2 * (w.mean(estimate, K) - truth) for K in (32, 64, 128, 256, 512)]
        evidence.numeric(
            extrapolated(scaled),
            number(w.coefficients()[1]),
            bound=1e-5,
            oracle="the second and third central moment, as fractions",
        )
    evidence.ordered(
        -STATED.mean(estimate, 16),
        number(-math.log(STATED.evidence())),
        bound=0.0,
        oracle="the evidence, where the second coefficient is positive",
    )


@mutant(test_jackknife, "the bound itself")
def uncorrected(log_w, dim=-1):
    return bound(log_w, dim)


@mutant(test_jackknife, "twice the bound less the mean of the others")
def twice(log_w, dim=-1):
    K = log_w.shape[dim]
    return bound(log_w, dim) + (jackknife(log_w, dim) - bound(log_w, dim)) / (K - 1)


@mutant(test_jackknife, "the weights that are left divided by K")
def wrong_count(log_w, dim=-1):
    K = log_w.shape[dim]
    return jackknife(log_w, dim) + (K - 1) * math.log(K / (K - 1))


@mutant(test_jackknife, "the bound plus the plug-in gap")
def plugged_in(log_w, dim=-1):
    return bound(log_w, dim) + gap(log_w, dim)


# The gradients.


def limits(transform, f, decoder):
    """The limit of K^(-1/2) SNR, or of K^(1/2) SNR, for the derivative f of log w."""
    w = transform.w
    if decoder:
        mean = transform.expect(w * f)
        return mean.abs() / transform.variance(w * f - w * mean).sqrt()
    return transform.expect(w * w * f).abs() / transform.variance(w * f).sqrt()


def snr_of(transform, f, K, power=1):
    mean, variance = transform.moments(f, K, power)
    return mean.abs() / variance.sqrt()


@pytest.mark.claim("x-iwae-snr")
def test_snr(evidence, estimate=bound, limit=limits):
    model = normal(evidence.generator)
    exact = transform(model)
    partials = [exact.model + exact.expect(exact.w * shift(model)), *(exact.path - exact.score)]
    for K in (2, 3):
        points, mass = grid(K)
        found = gradients(estimate, model, points)
        mean = mass @ found
        evidence.numeric(
            torch.cat([mean, mass @ (found - mean).square()]),
            torch.stack([exact.moments(f, K)[i] for i in (0, 1) for f in partials]),
            bound=1e-8,
            oracle="integrals over Laplace transforms",
        )
    samples = {n: gradients(estimate, model, drawn(20000, n, evidence.generator)) for n in SIZES}
    for i, f in enumerate(partials[:2]):
        truth = torch.stack([snr_of(exact, f, K) for K in SIZES]).log()
        evidence.statistical(
            fitted({n: values[:, i] for n, values in samples.items()}),
            slope_of(truth, SIZES)[0],
            oracle="the slope of the exact ratios, from integrals over Laplace transforms",
            detects=0.3,
        )
    K = 2.0**20
    for i, f in enumerate(partials):
        evidence.numeric(
            limit(exact, f, decoder=i == 0),
            snr_of(exact, f, K) * K ** (0.5 if i else -0.5),
            bound=1e-4,
            relative=True,
            oracle="the exact ratio for a million samples",
        )
    phi = torch.tensor(model.phi.item(), dtype=DOUBLE, requires_grad=True)
    moved = transform(model._replace(phi=phi))
    (slope,) = torch.autograd.grad(moved.expect(moved.w.square()) / 2, phi)
    evidence.numeric(
        K * exact.moments(partials[1], K)[0],
        -slope,
        bound=1e-5,
        oracle="half the variance of the weights, differentiated",
    )


def shift(model):
    return (model.x - model.theta) / 2


@mutant(test_snr, "the mean of the logarithms", of="estimate")
def averaged(log_w):
    return log_w.mean(-1)


@mutant(test_snr, "the gradient of the best sample", of="estimate")
def best(log_w):
    return log_w.amax(-1)


@mutant(test_snr, "more samples sharpen every gradient", of="estimate")
def squared_shares(log_w):
    return (log_w.softmax(-1).detach().square() * log_w).sum(-1)


@mutant(test_snr, "the noise of the mean weight forgotten", of="limit")
def fixed_denominator(transform, f, decoder):
    w = transform.w
    if decoder:
        return transform.expect(w * f).abs() / transform.variance(w * f).sqrt()
    return limits(transform, f, decoder)


@mutant(test_snr, "the change of the variance without its half", of="limit")
def doubled(transform, f, decoder):
    return limits(transform, f, decoder) * (1 if decoder else 2)


def bound_slopes(model, K):
    """The derivatives of L_K by theta, phi and tau, from its integral."""
    at = [torch.tensor(v.item(), dtype=DOUBLE, requires_grad=True) for v in model[:3]]
    moved = Normal(*at, model.x)
    value = moved.log_evidence() + transform(moved).log_mean(K)
    return torch.stack(torch.autograd.grad(value, at))


def dreg_limit(transform, g):
    b = transform.w.square() * g
    B = transform.expect(b)
    return B.abs() / transform.variance(b - 2 * B * transform.w).sqrt()


@pytest.mark.claim("x-iwae-dreg")
def test_doubly_reparameterized(evidence, estimate=doubly_reparameterized, limit=dreg_limit):
    model = normal(evidence.generator)
    exact = transform(model)
    for K in (1, 2, 3):
        points, mass = grid(K)
        found = gradients(estimate, model, points, "doubly")
        mean = mass @ found
        evidence.numeric(
            mean,
            bound_slopes(model, K),
            bound=1e-8,
            oracle="the integral for the bound, differentiated",
        )
        evidence.numeric(
            (mass @ (found - mean).square())[1:],
            torch.stack([exact.moments(g, K, 2)[1] for g in exact.path]),
            bound=1e-8,
            oracle="integrals over Laplace transforms",
        )
    noise = {n: drawn(20000, n, evidence.generator) for n in SIZES}
    samples = {n: gradients(estimate, model, noise[n], "doubly") for n in SIZES}
    truth = torch.stack([snr_of(exact, exact.path[0], K, 2) for K in SIZES]).log()
    evidence.statistical(
        fitted({n: values[:, 1] for n, values in samples.items()}),
        slope_of(truth, SIZES)[0],
        oracle="the slope of the exact ratios, from integrals over Laplace transforms",
        detects=0.3,
    )
    K = 2.0**20
    for g in exact.path:
        evidence.numeric(
            limit(exact, g),
            snr_of(exact, g, K, 2) / K**0.5,
            bound=1e-4,
            relative=True,
            oracle="the exact ratio for a million samples",
        )


def reweighted(through_z, otherwise):
    """A bound with other weights of the gradient, through z and otherwise."""

    def estimate(log_weight, z):
        def total(log_w, weight):
            share = log_w.detach().softmax(-1)
            return (weight(share) * log_w).sum(-1)

        return (
            total(log_weight(z), through_z)
            + total(log_weight(z.detach()), otherwise)
            - total(log_weight(z.detach()), through_z)
        )

    return estimate


mutant(test_doubly_reparameterized, "the score dropped, the shares not squared", of="estimate")(
    reweighted(lambda share: share, lambda share: share)
)
mutant(test_doubly_reparameterized, "the part of the score alone", of="estimate")(
    reweighted(lambda share: share * (1 - share), lambda share: share)
)
mutant(test_doubly_reparameterized, "squared shares for the model too", of="estimate")(
    reweighted(lambda share: share**2, lambda share: share**2)
)
mutant(test_doubly_reparameterized, "squared shares, scaled to sum to one", of="estimate")(
    reweighted(lambda share: share**2 / (share**2).sum(-1, keepdim=True), lambda share: share)
)


@mutant(test_doubly_reparameterized, "the noise of the mean weight forgotten", of="limit")
def noiseless(transform, g):
    b = transform.w.square() * g
    return transform.expect(b).abs() / transform.variance(b).sqrt()


@pytest.mark.claim("x-iwae-stl-bias")
def test_dropped_score(evidence, estimate=bound):
    model = normal(evidence.generator)
    exact = transform(model)
    for K in (1, 2, 3):
        points, mass = grid(K)
        bias = torch.stack([exact.moments(s, K)[0] for s in exact.score])
        evidence.numeric(
            (mass @ gradients(estimate, model, points, "dropped"))[1:],
            bound_slopes(model, K)[1:] + bias,
            bound=1e-8,
            oracle="the integral for the bound, differentiated, and that of the weighted score",
        )
        if K == 1:
            evidence.numeric(
                (mass @ gradients(estimate, model, points, "dropped"))[1:],
                bound_slopes(model, 1)[1:],
                bound=1e-8,
                oracle="the integral for the bound, differentiated",
            )
    width = 0.6 + torch.rand((), generator=evidence.generator, dtype=DOUBLE)
    edge = width.clone().requires_grad_()
    z = edge * (torch.arange(100, dtype=DOUBLE)[:, None] + 0.5) / 100
    evidence.numeric(
        torch.autograd.grad(estimate(z + width.log()).mean(), edge)[0],
        (1 / 2 + 1 / width) - 1 / width,
        bound=1e-12,
        oracle="z uniform up to phi and p(x, z) = exp(z): L_1 = phi / 2 + log phi, s = -1 / phi",
    )
    at = [torch.tensor(v.item(), dtype=DOUBLE, requires_grad=True) for v in (model.phi, model.tau)]
    centre = (model.theta + model.x) / 2
    divergence = at[1] + ((centre - at[0]).square() + 0.5) * (-2 * at[1]).exp() / 2
    forward = torch.stack(torch.autograd.grad(divergence, at))
    evidence.numeric(
        torch.stack([exact.moments(g, 2.0**20)[0] for g in exact.path]),
        -forward,
        bound=1e-5,
        oracle="the divergence of the posterior from the proposal, differentiated",
    )


@mutant(test_dropped_score, "unbiased: squared shares")
def squared(log_w, dim=-1):
    return (log_w.softmax(dim).detach().square() * log_w).sum(dim)


@mutant(test_dropped_score, "equal shares")
def equal_shares(log_w, dim=-1):
    return log_w.mean(dim)


@mutant(test_dropped_score, "the score kept with the opposite sign")
def unscored(log_w, dim=-1):
    share = log_w.softmax(dim).detach()
    return (share * (2 - share) * log_w).sum(dim)


# Plain tests.


def rows(shape, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_any_dimension_holds_the_samples():
    log_w = rows((2, 3, 4))
    for function in (bound, gap, effective_size, jackknife):
        along = [function(log_w, dim) for dim in (0, 1, 2, -1, -2)]
        assert [tuple(value.shape) for value in along] == [(3, 4), (2, 4), (2, 3), (2, 3), (2, 4)]
        torch.testing.assert_close(along[1], function(log_w.mT))
        torch.testing.assert_close(along[1], along[4])
        assert function(log_w[0, 0]).shape == ()


def test_equal_weights_are_their_own_mean():
    for value in (-1e4, 0.3, 7e3):
        log_w = torch.full((5,), value)
        assert bound(log_w) == log_w[0]
        torch.testing.assert_close(jackknife(log_w), log_w[0])
        torch.testing.assert_close(effective_size(log_w), torch.tensor(5.0))
        assert gap(log_w) == 0


def test_the_gap_is_another_form_of_the_effective_size():
    log_w = 2 * rows((6, 9))
    w = log_w.exp()
    torch.testing.assert_close(effective_size(log_w), w.sum(1).square() / w.square().sum(1))
    torch.testing.assert_close(gap(log_w), (1 / effective_size(log_w) - 1 / 9) / 2)
    one = torch.tensor([3.0, -torch.inf, -2e3])
    assert effective_size(one) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_keep_the_dtype_and_the_device(dtype):
    log_w = rows((3, 4)).to(dtype)
    for function in (bound, gap, effective_size, jackknife):
        assert function(log_w).dtype == dtype
        expected = function(log_w.double())
        torch.testing.assert_close(function(log_w).double(), expected, **NEAR[dtype])
        assert function(log_w.to("meta")).is_meta
    assert doubly_reparameterized(lambda z: z.sum(-1), rows((3, 4, 2)).to(dtype)).dtype == dtype


NEAR = {
    torch.float32: {"atol": 1e-6, "rtol": 1e-5},
    torch.float64: {"atol": 0, "rtol": 0},
    torch.bfloat16: {"atol": 5e-2, "rtol": 5e-2},
}


def test_gradients_flow():
    log_w = rows((3, 4)).requires_grad_()
    for function in (bound, gap, effective_size, jackknife):
        assert torch.autograd.gradcheck(function, log_w)
    assert torch.autograd.gradgradcheck(bound, log_w)


def test_the_jackknife_keeps_its_digits_far_from_zero():
    log_w = rows((50, 300))
    near = jackknife(log_w)
    for shift in (-8192.0, 8192.0):
        far = jackknife((log_w + shift).float()).double() - shift
        torch.testing.assert_close(far, near, atol=2e-3, rtol=0)


def test_weights_of_zero():
    log_w = torch.tensor([[-torch.inf] * 3, [-torch.inf, 0.4, -torch.inf]], requires_grad=True)
    value = jackknife(log_w)
    assert value.tolist() == [-torch.inf, torch.inf]
    (slope,) = torch.autograd.grad(value.sum(), log_w)
    assert slope.isfinite().all()
    assert gap(log_w).isnan().tolist() == effective_size(log_w).isnan().tolist() == [True, False]
    lost = torch.tensor([0.2, 0.5], requires_grad=True)
    value = doubly_reparameterized(lambda z: z - torch.inf, lost)
    assert value == -torch.inf
    assert torch.autograd.grad(value, lost)[0].tolist() == [0, 0]


def test_what_is_not_a_number_stays_so():
    assert bound(torch.tensor([0.0, torch.nan])).isnan()
    assert jackknife(torch.tensor([0.0, torch.nan])).isnan()
    assert bound(torch.tensor([0.0, torch.inf])) == torch.inf


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("function", [bound, gap, effective_size, jackknife])
def test_no_samples_are_refused(function):
    least = 2 if function is jackknife else 1
    words = f"log_w must hold {least} or more weights along dim -1, got 0"
    with pytest.raises(ValueError, match=words):
        function(torch.ones(3, 0))
    with pytest.raises(ValueError, match=words.replace("-1", "0")):
        function(torch.ones(0, 3), 0)


@pytest.mark.usefixtures("untyped")
def test_one_sample_has_no_jackknife():
    with pytest.raises(ValueError, match="log_w must hold 2 or more weights along dim -1, got 1"):
        jackknife(torch.ones(3, 1))


@pytest.mark.usefixtures("untyped")
def test_a_weight_for_each_sample():
    words = "one number for each sample, for z of shape (5, 4), got shape (4, 5)"
    with pytest.raises(ValueError, match=re.escape(words)):
        doubly_reparameterized(lambda z: z.mT, torch.ones(5, 4))
    with pytest.raises(ValueError, match="log_weight must return one number for each sample"):
        doubly_reparameterized(lambda z: z.sum(0), torch.ones(5, 4))


def test_the_squared_shares_reach_every_coordinate_of_z():
    z = rows((3, 4, 2)).requires_grad_()
    slope = rows((2,)).requires_grad_()

    def log_weight(z):
        return (z.square() * slope).sum(-1)

    found = doubly_reparameterized(log_weight, z)
    torch.testing.assert_close(found, log_weight(z).logsumexp(-1) - math.log(4))
    through, otherwise = torch.autograd.grad(found.sum(), (z, slope))
    share = log_weight(z).softmax(-1)[..., None]
    torch.testing.assert_close(through, share.square() * 2 * z * slope)
    torch.testing.assert_close(otherwise, (share * z.square()).sum((0, 1)))
    along = doubly_reparameterized(log_weight, z, dim=0)
    (through,) = torch.autograd.grad(along.sum(), z)
    share = log_weight(z).softmax(0)[..., None]
    torch.testing.assert_close(through, share.square() * 2 * z * slope)


def test_other_uses_of_z_are_left_alone():
    z = rows((3, 4)).requires_grad_()
    doubly_reparameterized(torch.sin, z)
    assert torch.equal(torch.autograd.grad(z.sum(), z)[0], torch.ones(3, 4, dtype=DOUBLE))
    with torch.no_grad():
        torch.testing.assert_close(doubly_reparameterized(torch.sin, z), bound(z.sin()))
    torch.testing.assert_close(doubly_reparameterized(torch.sin, z.detach()), bound(z.sin()))


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_the_figures_draw_what_is_exact():
    snippet = run_path(str(Path(__file__).parents[2] / "snippets/latent/importance.py"))
    ax = Figure().gca()
    snippet["figure"](ax)
    for rate in (1.5, 2, 3):
        size, value = lines(ax)[f"$r={rate}$"].get_data()
        for i in (0, 6, 12):
            K = int(size[i])
            exact = K * frullani(mpmath.mpf(rate), K)
            assert abs(value[i] / float(exact) - 1) < 1e-8
    for container in ax.containers:
        (size,), (value,) = container[0].get_data()
        rate = {"C0": 3, "C1": 2, "C2": 1.5}[container[0].get_color()]
        exact = float(size * frullani(mpmath.mpf(rate), int(size)))
        (low, high) = container[2][0].get_segments()[0][:, 1]
        assert abs(value - exact) < (high - low)
    ax = Figure().gca()
    snippet["figure_noise"](ax)
    x, theta, phi, scale = (float(snippet[name]) for name in ("x", "theta", "phi", "scale"))
    exact = Transform(theta, torch.tensor(phi), torch.tensor(scale).log(), x)
    model, path = exact.model + (x - theta) / 2, exact.path[0]
    curves = (model, 1), (path - exact.score[0], 1), (path, 2)
    labels = r"$\theta$", r"$\phi$", r"$\phi$, doubly reparameterised"
    for (f, power), label in zip(curves, labels, strict=True):
        for size, value in zip(*lines(ax)[label].get_data(), strict=True):
            expected = snr_of(exact, f, int(size), power)
            assert abs(value - expected) < 5 * (1 + expected) / math.sqrt(20_000)
