import math
import re
from functools import partial
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch
from matplotlib.figure import Figure
from scipy.special import digamma, log_ndtr, ndtr, polygamma
from scipy.stats import multivariate_normal, norm

from genref._site.claims import mutant
from genref.flows.duality import (
    AffineMap,
    divergence,
    forward_loss,
    moment_match,
    pushforward,
    reverse_loss,
)
from genref.numerics.autodiff import slogdet
from genref.numerics.quadrature import grid

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/flows/duality.py"
PARTITIONS = "probabilities of cells from distribution functions, no density and no Jacobian"


def uniform(low, high, generator, *size):
    return low + (high - low) * torch.rand(size, generator=generator, dtype=DOUBLE)


def normal(loc, scale):
    """The log-density of a normal law with the given mean and square matrix of scales."""
    log_det = torch.linalg.slogdet(scale).logabsdet + 0.5 * len(loc) * math.log(2 * math.pi)

    def log_prob(x):
        z = torch.linalg.solve(scale, (x - loc).reshape(-1, len(loc)).mT).mT.reshape(x.shape)
        return -0.5 * z.square().sum(-1) - log_det

    return log_prob


def one(loc, scale):
    return normal(torch.as_tensor([loc], dtype=DOUBLE), torch.as_tensor([[scale]], dtype=DOUBLE))


BASE = one(0.0, 1.0)


def interval(z):
    """The log-density 3/4 (1 - z^2) from -1 to 1."""
    return (1 - z[..., 0].square()).clamp(min=0).log() + math.log(0.75)


class Sinh:
    """The map a + b sinh(c z + d) of each coordinate."""

    def __init__(self, a, b, c, d):
        self.numbers = a, b, c, d

    def to_data(self, z):
        a, b, c, d = self.numbers
        y = c * z + d
        return a + b * y.sinh(), ((b * c).abs() * y.cosh()).log().sum(-1)

    def to_latent(self, x):
        a, b, c, d = self.numbers
        y = (x - a) / b
        return (y.asinh() - d) / c, -((b * c).abs() * (1 + y * y).sqrt()).log().sum(-1)


class Exp:
    """From the line to the positive numbers."""

    def to_data(self, z):
        return z.exp(), z.sum(-1)

    def to_latent(self, x):
        return x.log(), -x.log().sum(-1)


class Bent:
    """A map of the plane that turns it over: asinh, and a shear whose slope depends on it."""

    def to_data(self, z):
        u, v = z.unbind(-1)
        x = torch.stack([u.sinh(), 0.2 * u * u - v * (0.3 * u).exp()], -1)
        return x, u.cosh().log() + 0.3 * u

    def to_latent(self, x):
        u = x[..., 0].asinh()
        v = (0.2 * u * u - x[..., 1]) * (-0.3 * u).exp()
        return torch.stack([u, v], -1), -u.cosh().log() - 0.3 * u


def normal_cells(edges, loc=0.0, scale=1.0):
    """The logarithms of probabilities between edges, rising or not, from the nearer tail."""
    t = (np.sort(edges) - loc) / scale
    left, right = t[:-1], t[1:]
    above = left + right > 0
    near, far = np.where(above, -left, right), np.where(above, -right, left)
    top = log_ndtr(near)
    inside = top + np.log(-np.expm1(log_ndtr(far) - top))
    return inside if edges[0] < edges[-1] else inside[::-1]


def partition(law_p, law_q, carried, sizes=(25_000, 50_000, 100_000), reach=8.5):
    """Both divergences of the laws of finitely many cells, extrapolated to ever finer ones.

    The edges are carried from one space to the other, and each law is asked in its own.
    """
    values = []
    for n in sizes:
        z = np.linspace(-reach, reach, n + 1)
        p, q = law_p(carried(z)), law_q(z)
        values.append([np.sum(np.exp(p) * (p - q)), np.sum(np.exp(q) * (q - p))])
    table = np.array(values)
    for power in (4, 16):
        table = table[1:] + (table[1:] - table[:-1]) / (power - 1)
    return torch.tensor(table[0], dtype=DOUBLE)


def law(loc, scale):
    return lambda edges: normal_cells(edges, loc, scale)


def normal_divergence(m, C, mu, Q):
    """Between two normal laws, in closed form with inverses and traces."""
    r = mu - m
    inverse = np.linalg.inv(Q)
    dets = np.linalg.slogdet(Q)[1] - np.linalg.slogdet(C)[1]
    return 0.5 * (np.trace(inverse @ C) + r @ inverse @ r - len(m) + dets)


def sinh_case(generator):
    a, d = uniform(-0.4, 0.4, generator, 2)
    b, c = uniform(0.6, 0.9, generator, 2)
    sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
    return a, sign * b, c, d


def below_model(x, numbers):
    a, b, c, d = numbers
    return float(ndtr((math.asinh((x - a) / b) - d) / c))


def below_seen(z, numbers, loc, scale):
    a, b, c, d = numbers
    return float(ndtr((a + b * math.sinh(c * z + d) - loc) / scale))


def slope(below, t, h=2e-3):
    """The absolute derivative, by differences that are exact up to degree six."""
    t = float(t)
    first, second = below(t + h) - below(t - h), below(t + 2 * h) - below(t - 2 * h)
    third = below(t + 3 * h) - below(t - 3 * h)
    return abs(45 * first - 9 * second + third) / (60 * h)


def by_columns(m, C):
    """Those of the bent map: first coordinate by cells, second given it in closed form."""
    s, r = math.sqrt(C[0, 0]), C[1, 1] - C[0, 1] ** 2 / C[0, 0]
    first = partition(law(m[0], s), normal_cells, np.sinh)

    def second(x, forward):
        mean, loc = m[1] + C[0, 1] / C[0, 0] * (x - m[0]), 0.2 * np.arcsinh(x) ** 2
        variance = np.exp(0.6 * np.arcsinh(x))
        p, q = (mean, r), (loc, variance)
        (a, v), (b, w) = (p, q) if forward else (q, p)
        return 0.5 * (v / w + (b - a) ** 2 / w - 1 + np.log(w / v))

    t, h = np.linspace(-9, 9, 4001, retstep=True)
    weight = h * np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    means = [weight @ second(m[0] + s * t, True), weight @ second(np.sinh(t), False)]
    return first + torch.tensor(means, dtype=DOUBLE)


@pytest.mark.claim("flow-kl-duality", answers=["C3.1"])
def test_duality(evidence, density=pushforward, kl=divergence):
    generator = evidence.generator
    sheet = tuple(torch.tensor(v, dtype=DOUBLE) for v in (0.0, 1.0, 1.0, 0.0))
    cases = [(sheet, 0.5, 1.2)]
    for _ in range(3):
        loc, scale = uniform(-0.6, 0.6, generator).item(), uniform(0.8, 1.3, generator).item()
        cases.append((sinh_case(generator), loc, scale))
    for numbers, loc, scale in cases:
        flow, data = Sinh(*numbers), one(loc, scale)
        a, b, c, d = (v.item() for v in numbers)
        expected = partition(law(loc, scale), normal_cells, sinh_of((a, b, c, d)))
        model, seen = density(flow.to_latent, BASE), density(flow.to_data, data)
        x = uniform(-1.7, 1.7, generator, 4, 1)
        below = partial(below_model, numbers=(a, b, c, d))
        seen_below = partial(below_seen, numbers=(a, b, c, d), loc=loc, scale=scale)
        evidence.numeric(
            model(x).exp(),
            [slope(below, t) for t in x],
            bound=1e-8,
            oracle="differences of the distribution function",
        )
        evidence.numeric(
            seen(x).exp(),
            [slope(seen_below, t) for t in x],
            bound=1e-8,
            oracle="differences of the distribution function",
        )
        far = sorted((a + b * np.sinh(c * np.array([-8.5, 8.5]) + d)).tolist())
        near = loc - 9 * scale, loc + 9 * scale
        evidence.numeric(
            [kl(data, model, *near), kl(model, data, *far, 100_000)],
            expected,
            bound=1e-7,
            oracle=PARTITIONS,
        )
        evidence.numeric(
            [kl(seen, BASE, -8.5, 8.5), kl(BASE, seen, -8.5, 8.5)],
            expected,
            bound=1e-7,
            oracle=PARTITIONS,
        )
    stated = partition(law(0.5, 1.2), normal_cells, np.sinh)
    decimals = [f"{value:.6f}" for value in stated.tolist()]
    evidence.exact(decimals, ["0.145225", "0.503771"], oracle="the decimals of the claim")
    shape, scale = uniform(3.0, 4.0, generator).item(), uniform(0.3, 0.5, generator).item()
    data = gamma(shape, scale)
    model, seen = density(Exp().to_latent, BASE), density(Exp().to_data, data)
    mean, variance = digamma(shape) + math.log(scale), polygamma(1, shape)
    constant = math.lgamma(shape) + shape * math.log(scale)
    half_log = 0.5 * math.log(2 * math.pi)
    expected = [
        (mean**2 + variance) / 2 + half_log + shape * (mean - 1) - constant,
        constant + math.exp(0.5) / scale - half_log - 0.5,
    ]
    evidence.numeric(
        [kl(seen, BASE, -15.0, 6.0), kl(BASE, seen, -8.5, 8.5)],
        expected,
        bound=1e-7,
        oracle="moments of a gamma law and of its logarithm, in closed form",
    )
    evidence.numeric(
        kl(data, model, 0.0, 50 * scale, 100_000),
        expected[0],
        bound=1e-7,
        oracle="moments of a gamma law and of its logarithm, in closed form",
    )
    evidence.exact(
        [
            kl(data, density(Exp().to_latent, interval), 0.0, 50 * scale, 100_000).item(),
            kl(seen, interval, -15.0, 6.0, 100_000).item(),
        ],
        [math.inf, math.inf],
        oracle="data with mass where the flow has none",
    )
    m, S = uniform(-0.5, 0.5, generator, 2), torch.eye(2, dtype=DOUBLE)
    S = S + uniform(-0.3, 0.3, generator, 2, 2)
    flow, data = Bent(), normal(m, S)
    base = normal(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    model, seen = density(flow.to_latent, base), density(flow.to_data, data)
    expected = by_columns(m.numpy(), (S @ S.mT).numpy())
    box = torch.tensor([8.0, 16.0], dtype=DOUBLE)
    evidence.numeric(
        [kl(seen, base, -box, box, 400), kl(base, seen, -box, box, 400)],
        expected,
        bound=1e-7,
        oracle="the chain rule of the divergence: cells, then normal laws in closed form",
    )
    evidence.numeric(
        kl(data, model, m - box, m + box, 400),
        expected[0],
        bound=1e-7,
        oracle="the chain rule of the divergence: cells, then normal laws in closed form",
    )
    for D, sign in ((1, -1), (2, -1), (3, 1)):
        m, mu = uniform(-0.5, 0.5, generator, 2, D)
        S, T = torch.eye(D, dtype=DOUBLE) + uniform(-0.2, 0.2, generator, 2, D, D)
        T[0] *= sign * 1.3
        flow, data = AffineMap(mu, T), normal(m, S)
        base = normal(torch.zeros(D, dtype=DOUBLE), torch.eye(D, dtype=DOUBLE))
        model, seen = density(flow.to_latent, base), density(flow.to_data, data)
        laws = m.numpy(), (S @ S.mT).numpy(), mu.numpy(), (T @ T.mT).numpy()
        box = torch.full((D,), 13.0, dtype=DOUBLE)
        with torch.no_grad():
            evidence.numeric(
                [kl(data, model, -box, box, 70), kl(model, data, -box, box, 70)],
                [normal_divergence(*laws), normal_divergence(*laws[2:], *laws[:2])],
                bound=1e-8,
                oracle="two normal laws in closed form",
            )
            evidence.numeric(
                [kl(seen, base, -box, box, 70), kl(base, seen, -box, box, 70)],
                [normal_divergence(*laws), normal_divergence(*laws[2:], *laws[:2])],
                bound=1e-8,
                oracle="two normal laws in closed form",
            )


def gamma(shape, scale):
    """The log-density of a gamma law."""
    constant = math.lgamma(shape) + shape * math.log(scale)
    return lambda x: ((shape - 1) * x.log() - x / scale).sum(-1) - constant


@mutant(test_duality, "the Jacobian of the flow at x instead of at its latent", of="density")
def misplaced(back, log_prob):
    there = {"to_latent": "to_data", "to_data": "to_latent"}[back.__name__]
    return lambda y: log_prob(back(y)[0]) - getattr(back.__self__, there)(y)[1]


@mutant(test_duality, "multiplied by the Jacobian of the flow, not divided", of="density")
def multiplied(back, log_prob):
    def carried(y):
        w, log_det = back(y)
        return log_prob(w) - log_det

    return carried


@mutant(test_duality, "the determinant left out", of="density")
def undivided(back, log_prob):
    return lambda y: log_prob(back(y)[0])


@mutant(test_duality, "the derivative of the flow by itself: a determinant of one", of="density")
def by_itself(back, log_prob):
    return lambda y: log_prob(back(y)[0]) + slogdet(lambda t: t, y)[1]


@mutant(test_duality, "the arguments of the divergence exchanged", of="kl")
def exchanged(p, q, low, high, n=500):
    x, cell = box_of(low, high, n)
    return (q(x).exp() * (q(x) - p(x))).sum() * cell


@mutant(test_duality, "the difference of two entropies", of="kl")
def entropies(p, q, low, high, n=500):
    x, cell = box_of(low, high, n)
    return sum(s * torch.special.entr(f(x).exp()).sum() * cell for s, f in ((-1, p), (1, q)))


def box_of(low, high, n):
    """Midpoints of the cells of a box, and their volume."""
    low, high = (torch.as_tensor(v, dtype=DOUBLE).reshape(-1) for v in (low, high))
    steps = (torch.arange(n, dtype=DOUBLE) + 0.5) / n
    sides = [a + (b - a) * steps for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*sides).view(-1, len(low)), ((high - low) / n).prod()


def noise(n=800):
    """Midpoints on a line, and their weights under the standard normal law."""
    z, _ = box_of(-8.5, 8.5, n)
    weights = BASE(z).exp()
    return z, weights / weights.sum()


@pytest.mark.claim("flow-kl-choice", answers=["C3.2"])
def test_choice(evidence, forward=forward_loss, reverse=reverse_loss):
    generator = evidence.generator
    z, w = noise()
    half_log = 0.5 * math.log(2 * math.pi * math.e)
    for _ in range(3):
        theta = torch.stack(sinh_case(generator)).requires_grad_()
        loc, scale = uniform(-0.6, 0.6, generator).item(), uniform(0.8, 1.3, generator).item()
        c = uniform(2.0, 9.0, generator).item()
        data, flow = one(loc, scale), Sinh(*theta)

        def target(x, data=data, c=c):
            return data(x) + math.log(c)

        x = loc + scale * z
        losses = forward(flow.to_latent, BASE, x), reverse(flow.to_data, target, z)
        both = torch.stack([w @ loss for loss in losses])
        entropy = torch.tensor([half_log + math.log(scale), half_log - math.log(c)], dtype=DOUBLE)
        evidence.numeric(
            both - entropy,
            partition(law(loc, scale), normal_cells, sinh_of(theta.tolist())),
            bound=1e-7,
            oracle=PARTITIONS,
        )
        slopes = [torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in both]
        numbers = theta.tolist()
        evidence.numeric(
            torch.stack(slopes),
            torch.stack([derivative(law(loc, scale), numbers, i) for i in range(4)], 1),
            bound=1e-5,
            oracle="central differences of the divergence of cells",
        )
    sheet = Sinh(*(torch.tensor(v, dtype=DOUBLE) for v in (0.0, 1.0, 1.0, 0.0)))
    evidence.numeric(
        w @ reverse(sheet.to_data, one(0.5, 1.2), z) - half_log,
        partition(law(0.5, 1.2), normal_cells, np.sinh)[1],
        bound=1e-7,
        oracle=PARTITIONS,
    )


def sinh_of(numbers):
    a, b, c, d = numbers
    return lambda z: a + b * np.sinh(c * z + d)


def derivative(laws, numbers, i, h=1e-3):
    """Both divergences by the number in place i, by differences exact to degree four."""
    ends = {}
    for k in (-2, -1, 1, 2):
        moved = list(numbers)
        moved[i] += k * h
        ends[k] = partition(laws, normal_cells, sinh_of(moved), (10_000, 20_000, 40_000))
    return (8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * h)


@mutant(test_choice, "the forward divergence in the latent space read as the reverse", of="reverse")
def misread(to_data, target, z):
    seen = pushforward(to_data, target)(z)
    ratio = seen - BASE(z)
    return ratio.exp() * ratio - BASE(z)


@mutant(test_choice, "the log-determinant left out, reverse", of="reverse")
def volume_lost(to_data, target, z):
    return -target(to_data(z)[0])


@mutant(test_choice, "the log-determinant with the wrong sign, reverse", of="reverse")
def wrong_sign(to_data, target, z):
    x, log_det = to_data(z)
    return log_det - target(x)


@mutant(test_choice, "the target asked at the noise instead of at its image", of="reverse")
def target_at_noise(to_data, target, z):
    return -target(z) - to_data(z)[1]


@mutant(test_choice, "the log-determinant left out, forward", of="forward")
def latent_only(to_latent, base, x):
    return -base(to_latent(x)[0])


@mutant(test_choice, "the log-determinant with the wrong sign, forward", of="forward")
def latent_wrong_sign(to_latent, base, x):
    z, log_det = to_latent(x)
    return log_det - base(z)


@mutant(test_choice, "the determinant of the flow at x", of="forward")
def latent_misplaced(to_latent, base, x):
    return to_latent.__self__.to_data(x)[1] - base(to_latent(x)[0])


def components(generator, D, n=3):
    """Weights, means and square matrices of scales of a mixture."""
    w = uniform(0.5, 1.5, generator, n)
    m = uniform(-2.5, 2.5, generator, n, D)
    S = torch.eye(D, dtype=DOUBLE) + uniform(-0.4, 0.4, generator, n, D, D)
    return w / w.sum(), m, S


def mixture(w, m, S):
    def log_prob(x):
        parts = [v.log() + normal(a, T)(x) for v, a, T in zip(w, m, S, strict=True)]
        return torch.stack(parts).logsumexp(0)

    return log_prob


def bhattacharyya(m, C, k, j):
    """The integral of the root of the product of two normal densities."""
    mean = (C[k] + C[j]) / 2
    r = m[k] - m[j]
    ends = np.linalg.slogdet(C[k])[1] + np.linalg.slogdet(C[j])[1]
    dets = np.linalg.slogdet(mean)[1] - 0.5 * ends
    return math.exp(-r @ np.linalg.solve(mean, r) / 8 - 0.5 * dets)


TWO = torch.tensor([0.7, 0.3], dtype=DOUBLE)
ENDS = torch.tensor([[2.0], [-2.0]], dtype=DOUBLE)
HALF = torch.full((2, 1, 1), 0.5, dtype=DOUBLE)


def humps(x):
    return 0.7 * norm.pdf(x, 2, 0.5), 0.3 * norm.pdf(x, -2, 0.5)


def paid(mu, sigma):
    """The reverse divergence of a normal law, in the data space."""

    def cost(x):
        return norm.pdf(x, mu, sigma) * (norm.logpdf(x, mu, sigma) - math.log(sum(humps(x))))

    ends = mu - 9 * sigma, mu + 9 * sigma
    return scipy.integrate.quad(cost, *ends, points=[-0.05, mu], epsabs=1e-13, limit=200)[0]


def pull(numbers):
    """The derivatives of the reverse divergence, from the score of the target alone."""
    mu, sigma = numbers
    z, h = np.linspace(-9, 9, 3001, retstep=True)
    a, b = humps(mu + sigma * z)
    score = -4 * ((mu + sigma * z - 2) * a + (mu + sigma * z + 2) * b) / (a + b)
    weight = h * norm.pdf(z)
    return np.array([-weight @ score, -weight @ (z * score) - 1 / sigma])


def optimum(sign):
    return scipy.optimize.root(pull, (2 * sign, 0.5), tol=1e-14).x


@pytest.mark.claim("x-flow-moment-matching")
def test_moment_matching(evidence, match=moment_match, forward=forward_loss, reverse=reverse_loss):
    generator = evidence.generator
    for D in (1, 2, 3):
        w, m, S = components(generator, D)
        unit, weight = grid(12, D)
        nodes = (m[:, None] + unit @ S.mT).flatten(0, 1)
        weights = (w[:, None] * weight).flatten()
        loc, scale = match(nodes, weights)
        mean = (w.numpy()[:, None] * m.numpy()).sum(0)
        r, C = m.numpy() - mean, (S @ S.mT).numpy()
        total = np.einsum("k,kij->ij", w.numpy(), C + r[:, :, None] * r[:, None, :])
        evidence.numeric(loc, mean, bound=1e-11, oracle="the mean of the means")
        evidence.numeric(scale @ scale.mT, total, bound=1e-10, oracle="the law of total variance")
        mu, T = uniform(-1, 1, generator, D), torch.eye(D, dtype=DOUBLE)
        T = 1.6 * T + uniform(-0.3, 0.3, generator, D, D)
        base = normal(torch.zeros(D, dtype=DOUBLE), torch.eye(D, dtype=DOUBLE))
        crossed = normal_divergence(mean, total, mu.numpy(), (T @ T.mT).numpy())
        entropy = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * total)[1]
        evidence.numeric(
            weights @ forward(AffineMap(mu, T).to_latent, base, nodes).detach(),
            entropy + crossed,
            bound=1e-10,
            oracle="moments of the mixture in the closed form for normal laws",
        )
        best = scipy.optimize.minimize(
            crossing, np.zeros(D * (D + 3) // 2), (nodes.numpy(), weights.numpy()), tol=1e-12
        )
        corner = np.zeros((D, D))
        corner[np.tril_indices(D)] = best.x[D:]
        corner[np.diag_indices(D)] = np.exp(np.diag(corner))
        evidence.numeric(loc, best.x[:D], bound=1e-4, oracle="descent on the cross-entropy")
        evidence.numeric(scale @ scale.mT, corner @ corner.T, bound=1e-3, oracle="the same descent")
    sample = torch.randn(6, 2, generator=generator, dtype=DOUBLE)
    loc, scale = match(sample)
    expected = np.cov(sample.T, bias=True)
    evidence.numeric(scale @ scale.mT, expected, bound=1e-12, oracle="numpy, divisor n")
    z, w = noise()
    half_log = 0.5 * math.log(2 * math.pi * math.e)
    for case in ((TWO, ENDS, HALF), components(generator, 1), components(generator, 1)):
        target, C = mixture(*case), (case[2] @ case[2].mT).numpy()
        for k in range(len(C)):
            flow = AffineMap(case[1][k], case[2][k])
            cost = (w @ reverse(flow.to_data, target, z)).detach() - half_log
            room = [
                math.sqrt(case[0][j] / case[0][k]) * bhattacharyya(case[1].numpy(), C, k, j)
                for j in range(len(C))
                if j != k
            ]
            evidence.ordered(cost, -math.log(case[0][k]), bound=1e-10, oracle="-log of the weight")
            evidence.ordered(
                -math.log(case[0][k]) - cost,
                math.fsum(room),
                bound=1e-10,
                oracle="overlaps of normal laws in closed form",
            )
    target = mixture(TWO, ENDS, HALF)

    def price(numbers):
        mu, sigma = numbers

        def to_data(z):
            return mu + sigma * z, sigma.log().expand(z.shape[:-1])

        return w @ reverse(to_data, target, z) - half_log

    for sign, weight, said in ((1, 0.7, "0.356615"), (-1, 0.3, "1.203826")):
        best = optimum(sign)
        at = torch.tensor(best.tolist(), dtype=DOUBLE, requires_grad=True)
        value = price(at)
        evidence.numeric(value, paid(*best), bound=1e-9, oracle="scipy's quad over the data")
        evidence.exact(f"{value.item():.6f}", said, oracle="the decimals of the claim")
        evidence.numeric(
            torch.autograd.grad(value, at)[0],
            torch.zeros(2),
            bound=1e-9,
            oracle="a root of the derivatives, which are means of the score of the target",
        )
        evidence.numeric(
            torch.autograd.functional.hessian(price, at.detach()),
            curvature(best),
            bound=1e-5,
            oracle="differences of those derivatives",
        )
        assert np.linalg.eigvalsh(curvature(best)).min() > 3
        steps = torch.linspace(-0.08, 0.08, 17, dtype=DOUBLE)
        edge = [(s, e) for s in (-0.08, 0.08) for e in steps]
        edge += [(e, s) for s, e in edge]
        assert all(abs(v) < 0.08 for v in (best[0] - 2 * sign, math.log(2 * best[1])))
        places = [[2 * sign + a, 0.5 * math.exp(b)] for a, b in edge]
        border = [price(torch.tensor(place, dtype=DOUBLE)) for place in places]
        evidence.ordered(
            -torch.stack(border),
            math.log(weight) - 5e-4,
            bound=1e-6,
            oracle="the logarithm of the weight: the border costs more than the component",
        )


def crossing(numbers, nodes, weights):
    """Minus the mean log-density of a normal law, given its mean and a logarithmic factor."""
    D = nodes.shape[1]
    S = np.zeros((D, D))
    S[np.tril_indices(D)] = numbers[D:]
    S[np.diag_indices(D)] = np.exp(np.diag(S))
    return -weights @ multivariate_normal(numbers[:D], S @ S.T, allow_singular=True).logpdf(nodes)


def curvature(best, h=1e-4):
    """The second derivatives of the reverse divergence, by differences of the first."""
    return np.stack([(pull(best + step) - pull(best - step)) / (2 * h) for step in h * np.eye(2)])


@mutant(test_moment_matching, "the covariance itself as the matrix of scales", of="match")
def unrooted(x, weights=None):
    loc, scale = moment_match(x, weights)
    return loc, scale @ scale.mT


@mutant(test_moment_matching, "the divisor n - 1", of="match")
def unbiased(x, weights=None):
    loc, scale = moment_match(x, weights)
    n = len(x)
    return (loc, scale) if weights is not None else (loc, scale * math.sqrt(n / (n - 1)))


@mutant(test_moment_matching, "second moments that are not centred", of="match")
def uncentred(x, weights=None):
    loc, _ = moment_match(x, weights)
    w = torch.full((len(x),), 1 / len(x), dtype=x.dtype) if weights is None else weights
    return loc, torch.linalg.cholesky(x.mT @ (w[:, None] * x))


@mutant(test_moment_matching, "the densest node as the mean", of="match")
def densest(x, weights=None):
    _, scale = moment_match(x, weights)
    return (x[0] if weights is None else x[weights.argmax()]), scale


@mutant(test_moment_matching, "the scale of the data where its inverse belongs", of="forward")
def inflated(to_latent, base, x):
    z, log_det = to_latent(x)
    return log_det - base(z)


@mutant(test_moment_matching, "the forward divergence in place of the reverse", of="reverse")
def covering(to_data, target, z):
    seen = pushforward(to_data, target)(z)
    ratio = seen - BASE(z)
    return ratio.exp() * ratio - BASE(z)


@mutant(test_moment_matching, "the log-determinant left out", of="reverse")
def peaked(to_data, target, z):
    return -target(to_data(z)[0])


@mutant(test_moment_matching, "only the nearer component of the target counts", of="reverse")
def nearer(to_data, target, z):
    x, log_det = to_data(z)
    right, left = one(2.0, 0.5)(x) + math.log(0.7), one(-2.0, 0.5)(x) + math.log(0.3)
    near = torch.where(x[..., 0] > 0, right, left)
    return -near - log_det


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype_and_gradients_flow(dtype):
    z = torch.linspace(-2, 2, 30, dtype=dtype).view(2, 5, 3).requires_grad_()
    flow = AffineMap(torch.ones(3, dtype=dtype), 2 * torch.eye(3, dtype=dtype))
    base = normal(torch.zeros(3, dtype=dtype), torch.eye(3, dtype=dtype))
    for points in (*flow.to_data(z), *flow.to_latent(z), reverse_loss(flow.to_data, base, z)):
        assert points.dtype == dtype
        assert points.shape[:2] == (2, 5)
    loss = forward_loss(flow.to_latent, base, z).mean()
    loss.backward()
    assert all(v.grad.abs().sum() > 0 for v in (z, flow.loc, flow.scale))
    shift = torch.tensor([0.3], dtype=dtype, requires_grad=True)

    def moved(x):
        return base_1(x - shift)

    def base_1(x):
        return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)

    edge = torch.tensor([6.0], dtype=dtype)
    kl = divergence(base_1, moved, -edge, edge)
    kl.backward()
    assert kl.dtype == dtype
    assert abs(kl.item() - 0.045) < 1e-4
    assert abs(shift.grad.item() - 0.3) < 1e-4
    x = z.detach().transpose(-1, -2).requires_grad_()
    loc, scale = moment_match(x[..., :1])
    assert (loc.dtype, loc.shape, scale.shape) == (dtype, (2, 1), (2, 1, 1))
    scale.sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_the_affine_map_against_its_autograd_jacobian(D, sign):
    generator = torch.Generator().manual_seed(D)
    S = torch.eye(D, dtype=DOUBLE) + uniform(-0.3, 0.3, generator, D, D)
    S[0] *= sign
    flow, z = AffineMap(uniform(-1, 1, generator, D), S), uniform(-2, 2, generator, 4, 5, D)
    x, log_det = flow.to_data(z)
    back, inverse_log_det = flow.to_latent(x)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(inverse_log_det, -log_det)
    measured = slogdet(lambda t: flow.to_data(t)[0], z)
    assert (measured[0] == torch.linalg.det(S).sign()).all()
    torch.testing.assert_close(log_det, measured[1])
    torch.testing.assert_close(inverse_log_det, slogdet(lambda t: flow.to_latent(t)[0], x)[1])


@pytest.mark.parametrize("unit", [1e-12, 1e-30])
def test_an_affine_map_may_have_coordinates_in_very_different_units(unit):
    x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]]) * torch.tensor([1.0, unit**0.5])
    flow = AffineMap(*moment_match(x))
    whitened = flow.to_latent(x)[0]
    torch.testing.assert_close(whitened.mT @ whitened / 3, torch.eye(2), atol=1e-5, rtol=0)
    AffineMap(torch.zeros(2), torch.diag(torch.tensor([1.0, unit])))
    with pytest.raises(ValueError, match="scale must be non-singular"):
        AffineMap(torch.zeros(2), torch.diag(torch.tensor([unit, 0.0])))


def test_the_affine_map_leaves_its_arguments_alone():
    loc, scale = torch.zeros(2), torch.eye(2)
    flow = AffineMap(loc, scale)
    with torch.no_grad():
        flow.loc += 1
        flow.scale *= 2
    assert (loc == 0).all()
    assert (scale == torch.eye(2)).all()


def test_divergences_of_a_batch_and_of_laws_on_an_interval():
    def shifted(x):
        return torch.stack([BASE(x - shift) for shift in (0.5, -1.5)])

    values = divergence(BASE, shifted, -9.0, 9.0)
    torch.testing.assert_close(values, torch.tensor([0.125, 1.125], dtype=DOUBLE))
    uniform_law = torch.distributions.Uniform(0.0, 1.0, validate_args=False)
    twice = torch.distributions.Uniform(-1.0, 1.0, validate_args=False)

    def inner(x):
        return uniform_law.log_prob(x).sum(-1).double()

    def outer(x):
        return twice.log_prob(x).sum(-1).double()

    assert abs(divergence(inner, outer, -1.0, 1.0) - math.log(2)) < 1e-6
    assert divergence(outer, inner, -1.0, 1.0) == math.inf


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("low", "high", "n", "words"),
    [
        (-1.0, 9.0, 500, "p must integrate to 1 over the box, got 0.84"),
        (-9.0, 9.0, 4, "p must integrate to 1 over the box, got 0.285"),
        (9.0, -9.0, 500, "low and high must be finite and low < high, got 9.0 and -9.0"),
        (-9.0, math.inf, 500, "low and high must be finite and low < high, got -9.0 and inf"),
        (-9.0, 9.0, 0, "n must be at least 1, got 0"),
    ],
)
def test_boxes_that_lose_mass_raise(low, high, n, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        divergence(BASE, one(0.5, 1.0), low, high, n)


def test_densities_that_are_none_raise():
    with pytest.raises(ValueError, match=re.escape("q must integrate to at most 1 over the box")):
        divergence(BASE, lambda x: BASE(x) + 0.1, -9.0, 9.0)
    unsummed = torch.distributions.Normal(0.0, 1.0).log_prob
    with pytest.raises(ValueError, match=re.escape("one number a point, 500, got (500, 1)")):
        divergence(unsummed, BASE, -9.0, 9.0)
    flow, x = AffineMap(torch.zeros(1), torch.eye(1)), torch.zeros(7, 1)
    for loss, way in ((forward_loss, flow.to_latent), (reverse_loss, flow.to_data)):
        with pytest.raises(ValueError, match=re.escape("a point, (7,), got ((7,), (7, 1))")):
            loss(way, unsummed, x)
    with pytest.raises(ValueError, match=re.escape("one number a point, (7,), got ((7, 1), (7,))")):
        pushforward(lambda y: (y, y), lambda y: y.sum(-1))(x)


@pytest.mark.usefixtures("untyped")
def test_affine_maps_that_are_none_raise():
    with pytest.raises(ValueError, match=re.escape("scale must be non-singular, got [[1.0, 2.0]")):
        AffineMap(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
    for loc, scale in ((torch.zeros(2), torch.ones(2)), (torch.zeros(()), torch.eye(1))):
        with pytest.raises(ValueError, match=re.escape("must have shapes (D,) and (D, D), got")):
            AffineMap(loc, scale)
    flow = AffineMap(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match=re.escape("z must hold vectors of length 2, got shape")):
        flow.to_data(torch.zeros(5, 1))
    with pytest.raises(ValueError, match=re.escape("x must hold vectors of length 2, got shape")):
        flow.to_latent(torch.tensor(1.0))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.5, 0.6, 0.1], "weights must be 3 numbers from 0 on with sum 1, got [0.5"),
        ([-0.5, 1.0, 0.5], "weights must be 3 numbers from 0 on with sum 1, got [-0.5"),
        ([0.5, 0.5], "weights must be 3 numbers from 0 on with sum 1, got [0.5, 0.5]"),
        ([0.5, 0.5, 0.0], "x must have a non-singular covariance, got [["),
    ],
)
def test_samples_that_fix_no_normal_law_raise(weights, words):
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=re.escape(words)):
        moment_match(x, torch.tensor(weights))


def test_the_figures_draw_what_the_page_says():
    snippet = run_path(str(SNIPPET))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    fits, cost = figure.axes
    curves = {line.get_label(): line.get_xydata() for line in fits.lines}
    for name, mean, deviation in (("forward", 0.8, 1.9), ("heavier", 2, 0.5), ("lighter", -2, 0.5)):
        (curve,) = [xy for label, xy in curves.items() if name in label]
        top = curve[curve[:, 1].argmax()]
        assert abs(top[0] - mean) < 0.05
        assert abs(top[1] - norm.pdf(0) / deviation) < 0.01
    valleys = {line.get_label(): line.get_xydata() for line in cost.lines}
    for name, places in (("forward", [0.8]), ("reverse", [-2, 2])):
        (curve,) = [xy for label, xy in valleys.items() if name in label]
        inner = (curve[1:-1, 1] < curve[:-2, 1]) & (curve[1:-1, 1] < curve[2:, 1])
        found = curve[1:-1, 0][inner]
        assert len(found) == len(places)
        assert np.abs(found - places).max() < 0.1
