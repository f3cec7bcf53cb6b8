import math
import re
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from runpy import run_path

import mpmath
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.optimize import brentq, lsq_linear, minimize_scalar
from scipy.stats import norm
from torch import inf, nan

from genref._site.claims import mutant
from genref.data import digits
from genref.numerics.autodiff import slogdet
from genref.projection.inpainting import inpaint, residual, transformed

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/projection/inpainting.py"


def rand(generator, *shape):
    return torch.rand(*shape, dtype=DOUBLE, generator=generator)


def gaussian(P, m):
    """The log-density, up to a constant, of the normal law with precision P and mean m."""
    return lambda x: -0.5 * ((x - m) @ P * (x - m)).sum(-1)


def case(generator, D, flat=1.0):
    """A precision and a mean in whole hundredths, a mask with two or more unknowns, an image."""
    S = torch.randint(-9, 10, (D, D), generator=generator).to(DOUBLE) / 10
    P = S @ S.T + flat * torch.eye(D, dtype=DOUBLE)
    m = torch.randint(-50, 151, (D,), generator=generator).to(DOUBLE) / 100
    known = torch.arange(D) % 3 == 1
    image = torch.randint(0, 101, (D,), generator=generator).to(DOUBLE) / 100
    return P, m, known, image


def eigenvalues(P, known):
    return np.linalg.eigvalsh(P[~known][:, ~known].numpy())[[0, -1]].tolist()


def by_cases(P, m, known, image):
    """Each unknown pixel free, 0 or 1: the case whose solution meets all conditions, in fractions."""
    P, m, x = ([*map(Fraction, t.flatten().tolist())] for t in (P, m, image))
    D, found = len(m), []
    unknown = [i for i in range(D) if not known[i]]
    for places in product((None, 0, 1), repeat=len(unknown)):
        for i, place in zip(unknown, places, strict=True):
            x[i] = place
        free = [i for i in range(D) if x[i] is None]
        fixed = [i for i in range(D) if x[i] is not None]
        rows = [[P[i * D + j] for j in free] + [-sum(P[i * D + j] * (x[j] - m[j]) for j in fixed)] for i in free]
        for i, step in zip(free, eliminated(rows), strict=True):
            x[i] = m[i] + step
        slope = [sum(P[i * D + j] * (x[j] - m[j]) for j in range(D)) for i in range(D)]
        low = all(slope[i] >= 0 for i in unknown if x[i] == 0)
        high = all(slope[i] <= 0 for i in unknown if x[i] == 1)
        if low and high and all(0 <= x[i] <= 1 for i in unknown):
            found.append([float(entry) for entry in x])
    assert len({tuple(point) for point in found}) == 1
    return torch.tensor(found[0], dtype=DOUBLE)


def eliminated(rows):
    n = len(rows)
    for i in range(n):
        rows[i] = [entry / rows[i][i] for entry in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [p - rows[k][i] * q for p, q in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


def least_squares(P, m, known, image):
    """The same problem as least squares with bounds, by an active-set method."""
    P, m, k, u = P.numpy(), m.numpy(), image.numpy(), ~known.numpy()
    C = np.linalg.cholesky(P).T
    x = k.copy()
    right = C @ m - C[:, ~u] @ k[~u]
    x[u] = lsq_linear(C[:, u], right, bounds=(0, 1), method="bvls", tol=1e-15).x
    return torch.tensor(x)


def wavy(generator, D):
    """A function with several valleys, its slope and a Lipschitz constant of that by `unknown`."""
    P, m, known, image = case(generator, D)
    w = 4 + 3 * rand(generator, D)

    def log_prob(x):
        return gaussian(P, m)(x) - 0.3 * (w * x).cos().sum(-1)

    def slope(x):
        return (x - m) @ P - 0.3 * w * (w * x).sin()

    return log_prob, slope, eigenvalues(P, known)[1] + 0.3 * w.square().max().item(), known, image


def walk(fill, log_prob, image, known, steps, size):
    """The images after 0, 1, ... steps, the last one made by a single call."""
    path = [fill(log_prob, image, known, 0, size)]
    for _ in range(steps - 2):
        path.append(fill(log_prob, torch.where(known, image, path[-1]), known, 1, size))
    return [*path, fill(log_prob, image, known, steps - 1, size)]


@pytest.mark.claim("inpainting-pgd", answers=["D3"])
def test_projected_gradient(evidence, fill=inpaint, left=residual):
    for D in (2, 3, 5, 6):
        P, m, known, image = case(evidence.generator, D)
        log_prob, (mu, ell) = gaussian(P, m), eigenvalues(P, known)
        best = by_cases(P, m, known, image)
        evidence.numeric(
            fill(log_prob, image, known, steps=600, step_size=1 / ell),
            best,
            bound=1e-8,
            oracle="the conditions of Karush, Kuhn and Tucker, case by case, in fractions",
        )
        evidence.numeric(left(log_prob, best, known), torch.zeros(D), bound=1e-12, oracle="it rests there")
        for share in (0.3, 1.0, 1.7):
            path = walk(fill, log_prob, image, known, 12, share / ell)
            q = max(abs(1 - share * mu / ell), abs(1 - share))
            away = torch.stack([(x - best).norm() for x in path])
            evidence.ordered(
                away,
                (image - best).norm() * torch.tensor([q**n for n in range(12)], dtype=DOUBLE),
                bound=1e-10,
                oracle="the distance of the start, contracted by the rate of the claim",
            )
        corners = torch.tensor(list(product((0.0, 1.0), repeat=D)), dtype=DOUBLE)
        inside = rand(evidence.generator, 50, D)
        for x in [*path, *(torch.where(known, image, y) for y in (inside, corners))]:
            distance = (x - best).norm(dim=-1) * mu / (1 + ell)
            short = distance - left(log_prob, x, known).norm(dim=-1)
            evidence.ordered(short.max(), 0.0, bound=1e-9, oracle="the residual bounds the error")
    for D in (12, 20):
        P, m, known, image = case(evidence.generator, D)
        evidence.numeric(
            fill(gaussian(P, m), image, known, 1500, 1.5 / eigenvalues(P, known)[1]),
            least_squares(P, m, known, image),
            bound=1e-6,
            oracle="least squares with bounds, by an active-set method",
        )
    for D in (2, 4, 7):
        log_prob, slope, ell, known, image = wavy(evidence.generator, D)
        for share in (0.5, 1.0, 1.9):
            path = torch.stack(walk(fill, log_prob, image, known, 40, share / ell))
            measured = image[known].expand(40, -1)
            evidence.exact(path[:, known], measured, oracle="the measured values, bit by bit")
            evidence.exact(((path < 0) | (path > 1)).sum(), 0, oracle="the box")
            f, moved = -log_prob(path), path.diff(dim=0).square().sum(-1)
            evidence.ordered(
                f.diff() + (ell / share - ell / 2) * moved,
                torch.zeros(39),
                bound=1e-12,
                oracle="no gain is less than the one of the claim",
            )
        places = torch.where(known, image, (1.4 * rand(evidence.generator, 9, D) - 0.2).clamp(0, 1))
        by_hand = torch.where(known, 0, places - (places - slope(places)).clamp(0, 1))
        evidence.numeric(left(log_prob, places, known), by_hand, bound=1e-12, oracle="the slope by hand, clamped")
        x = fill(log_prob, image, known, 1500, 1 / ell)
        g = torch.where(known, 0, slope(x))
        wrong = torch.where(x == 0, (-g).relu(), torch.where(x == 1, g.relu(), g.abs()))
        evidence.numeric(wrong, torch.zeros(D), bound=1e-9, oracle="the signs of the slope by hand")
    P = torch.tensor([[2, -1.5], [-1.5, 2]], dtype=DOUBLE)
    m = torch.tensor([1.4, 0.5], dtype=DOUBLE)
    evidence.numeric(
        fill(gaussian(P, m), rand(evidence.generator, 2), torch.zeros(2), 200, 0.2),
        torch.tensor([1.0, 0.2], dtype=DOUBLE),
        bound=1e-9,
        oracle="x_1 = 1 and the minimum of the rest, by hand",
    )


def stepped(log_prob, image, known, steps, step_size, project, sign=1.0, last=None):
    """Projected gradient steps written out, with another projection or another sign."""
    x = project(image.double(), known, image)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_prob(x).sum(), x)
        x = project(x.detach() + sign * step_size * slope, known, image)
    return (last or project)(x.detach(), known, image)


def measured_and_clamped(y, known, image):
    return torch.where(known == 1, image, y.clamp(0, 1))


def measured_only(y, known, image):
    return torch.where(known == 1, image, y)


@mutant(test_projected_gradient, "the unconstrained optimum, clipped", of="fill")
def clipped_at_the_end(log_prob, image, known, steps=300, step_size=1e-3):
    args = log_prob, image, known, steps, step_size
    return stepped(*args, measured_only, last=measured_and_clamped)


@mutant(test_projected_gradient, "the mask is forgotten", of="fill")
def unmasked(log_prob, image, known, steps=300, step_size=1e-3):
    args = log_prob, image, known, steps, step_size
    return stepped(*args, lambda y, known, image: y.clamp(0, 1))


@mutant(test_projected_gradient, "measured values are put back at the end only", of="fill")
def put_back_late(log_prob, image, known, steps=300, step_size=1e-3):
    args = log_prob, image, known, steps, step_size
    return stepped(*args, lambda y, known, image: y.clamp(0, 1), last=measured_and_clamped)


@mutant(test_projected_gradient, "the mask is inverted", of="fill")
def inverted(log_prob, image, known, steps=300, step_size=1e-3):
    return inpaint(log_prob, image, 1 - known.int(), steps, step_size)


@mutant(test_projected_gradient, "the likelihood is minimised", of="fill")
def descends(log_prob, image, known, steps=300, step_size=1e-3):
    return stepped(log_prob, image, known, steps, step_size, measured_and_clamped, sign=-1.0)


@mutant(test_projected_gradient, "the density climbs, not its logarithm", of="fill")
def unlogged(log_prob, image, known, steps=300, step_size=1e-3):
    return inpaint(lambda x: log_prob(x).exp(), image, known, steps, step_size)


@mutant(test_projected_gradient, "the box is forgotten", of="fill")
def unbounded(log_prob, image, known, steps=300, step_size=1e-3):
    return stepped(log_prob, image, known, steps, step_size, measured_only)


@mutant(test_projected_gradient, "the gradient, whatever the bounds", of="left")
def gradient(log_prob, image, known):
    x = image.detach().requires_grad_()
    return torch.where(known == 1, 0, torch.autograd.grad(log_prob(x).sum(), x)[0])


@mutant(test_projected_gradient, "the way of a step of another size", of="left")
def of_other_size(log_prob, image, known):
    return image - inpaint(log_prob, image, known, 1, 0.5)


@mutant(test_projected_gradient, "the gradient where a pixel is inside, zero at a bound", of="left")
def zero_at_bounds(log_prob, image, known):
    return gradient(log_prob, image, known) * ((image > 0) & (image < 1))


def beta(a, b):
    def log_prob(x):
        return ((a - 1) * x.log() + (b - 1) * (1 - x).log()).sum(-1)

    return log_prob


def beta_mode_by_cdf(a, b):
    """Where the derivative of Pr(logit X <= y) by y is largest: no density is transformed."""
    with mpmath.workdps(40):

        def bend(y):
            return mpmath.diff(lambda y: cdf_of_logit(y, a, b), y, 2, h=mpmath.mpf(10) ** -12)

        y = mpmath.findroot(bend, (-3, 3), solver="anderson", tol=1e-20)
        return float(1 / (1 + mpmath.exp(-y)))


def mode(density):
    """The place of the largest value, by a search without derivatives."""
    found = minimize_scalar(
        lambda x: -density(torch.tensor([x], dtype=DOUBLE)).item(),
        bounds=(0.02, 0.98),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return found.x


@pytest.mark.claim("x-map-not-invariant")
def test_coordinates(evidence, density=transformed):
    ab = (1.3 + 4 * rand(evidence.generator, 2, 2)).tolist()
    for a, b in [[2.0, 4.0], *ab]:
        in_logit = density(beta(a, b), torch.logit)
        found = mode(in_logit)
        evidence.numeric(found, beta_mode_by_cdf(a, b), bound=1e-6, oracle="derivatives of the CDF of logit X")
        evidence.numeric(found, a / (a + b), bound=1e-6, oracle="the formula of the claim")
        found = mode(density(beta(a, b), lambda x: 255 * x - 7))
        at = (a - 1) / (a + b - 2)
        evidence.numeric(found, at, bound=1e-6, oracle="the formula of the claim")
        x = rand(evidence.generator, 9, 1) * 0.8 + 0.1
        by_cdf = torch.tensor([log_density_by_cdf(p, a, b) for p in x[:, 0].tolist()], dtype=DOUBLE)
        evidence.numeric(
            in_logit(x).diff(),
            by_cdf.diff(),
            bound=1e-8,
            oracle="derivatives of the CDF of logit X",
        )
    for a, b in (0.6, 0.8), (0.5, 1.5):
        found = mode(density(beta(a, b), torch.logit))
        evidence.numeric(found, a / (a + b), bound=1e-6, oracle="the formula of the claim")
    for wanted in (0.15, 0.6, 0.85):
        found = mode(density(beta(2, 3), Wish(2, 3, wanted)))
        evidence.numeric(found, wanted, bound=1e-6, oracle="the point that was wished for")
    for _ in range(2):
        P = case(evidence.generator, 3)[0]
        log_prob = gaussian(P, 0.2 + 0.6 * rand(evidence.generator, 3))
        x, base = 0.1 + 0.8 * rand(evidence.generator, 2, 3)
        in_logit = density(log_prob, torch.logit)
        y, other = x.logit(), base.logit()
        change = slogdet(torch.sigmoid, y)[1] - slogdet(torch.sigmoid, other)[1]
        evidence.numeric(
            in_logit(x) - in_logit(base),
            log_prob(torch.sigmoid(y)) - log_prob(torch.sigmoid(other)) + change,
            bound=1e-9,
            oracle="the determinant of the inverse map, by autograd",
        )


def log_density_by_cdf(p, a, b):
    """The logarithm of the derivative of Pr(logit X <= y) at the logit of p."""
    with mpmath.workdps(40):
        y = mpmath.log(mpmath.mpf(p) / (1 - mpmath.mpf(p)))
        return float(mpmath.log(mpmath.diff(lambda y: cdf_of_logit(y, a, b), y)))


def cdf_of_logit(y, a, b):
    return mpmath.betainc(a, b, 0, 1 / (1 + mpmath.exp(-y)), regularized=True)


class Wish:
    """A coordinate h whose slope is p times the exponential of (x - wanted)^2, by quadrature."""

    def __init__(self, a, b, wanted):
        self.a, self.b, self.wanted = a, b, wanted

    def __call__(self, x):
        nodes, weights = np.polynomial.legendre.leggauss(30)
        t = (torch.tensor(nodes) + 1) / 2 * x[..., None]
        slope = t ** (self.a - 1) * (1 - t) ** (self.b - 1) * ((t - self.wanted) ** 2).exp()
        return (slope * torch.tensor(weights) / 2).sum(-1) * x


@mutant(test_coordinates, "the most likely value is the same in all coordinates")
def invariant(log_prob, h):
    return log_prob


@mutant(test_coordinates, "multiplied by the slope instead of divided")
def multiplied(log_prob, h):
    return lambda x: 2 * log_prob(x) - transformed(log_prob, h)(x)


@mutant(test_coordinates, "divided by the slope of one pixel only")
def first_only(log_prob, h):
    flat = transformed(lambda x: 0 * x.sum(-1), h)
    return lambda x: log_prob(x) + flat(x[..., :1])


@mutant(test_coordinates, "divided by the coordinate instead of its slope")
def by_value(log_prob, h):
    return lambda x: log_prob(x) - h(x).abs().log().sum(-1)


def wells(x):
    """The log-density of a mixture of two normal laws, one pixel."""
    parts = torch.stack([-((x - 0.2) ** 2) / 0.02 + math.log(0.3), -((x - 0.8) ** 2) / 0.02 + math.log(0.7)])
    return (parts.logsumexp(0) - math.log(0.1 * math.sqrt(2 * math.pi))).sum(-1)


def mixture(x):
    return 0.3 * norm.pdf(x, 0.2, 0.1) + 0.7 * norm.pdf(x, 0.8, 0.1)


def rise(x):
    parts = 0.3 * norm.pdf(x, 0.2, 0.1) * (0.2 - x) + 0.7 * norm.pdf(x, 0.8, 0.1) * (0.8 - x)
    return parts / 0.01 / mixture(x)


@cache
def upper(s0, nodes=500):
    """The probability to end above the top between the valleys: the law of the chain, by quadrature.

    It has a density inside and an atom at each bound. The last 60 noisy steps are too small to
    carry it across the top.
    """
    t, w = np.polynomial.legendre.leggauss(nodes)
    points = np.concatenate([[0.0], (t + 1) / 2, [1.0]])
    law, centre = np.ones(1), np.array([0.3 + 1e-3 * rise(0.3)])
    for j in range(240):
        s = s0 * (1 - j / 300)
        inside = law @ norm.pdf(points[None, 1:-1], centre[:, None], s) * w / 2
        law = np.concatenate([[law @ norm.cdf(0, centre, s)], inside, [law @ norm.sf(1, centre, s)]])
        centre = points + 1e-3 * rise(points)
    assert abs(law.sum() - 1) < 1e-6
    top = brentq(rise, 0.4, 0.6)
    assert law[abs(points - top) < 0.1].sum() < 1e-4
    return law[points > top].sum()


def factor(sizes, c):
    """The product of the claim, with forty digits."""
    with mpmath.workdps(40):
        return float(mpmath.fprod(1 - mpmath.mpf(size) * mpmath.mpf(c) for size in sizes))


def variance(sizes, noises, c):
    """The sum of the claim, term by term, with forty digits."""
    with mpmath.workdps(40):
        found = mpmath.mpf(0)
        for size, noise in zip(sizes, noises, strict=True):
            found = (1 - mpmath.mpf(size) * mpmath.mpf(c)) ** 2 * found + mpmath.mpf(noise) ** 2
        return float(found)


def valley(c, bottom=0.5):
    return lambda x: -0.5 * c * (x - bottom).square().sum(-1)


@pytest.mark.claim("x-inpainting-schedule", answers=["D3"])
def test_schedules(evidence, fill=inpaint):
    unknown = torch.zeros(1)
    start = torch.tensor([0.62], dtype=DOUBLE)
    n, mean = 300, 1e-3
    shapes = {
        "constant": [mean] * n,
        "linear": [2 * mean * (n - j) / (n + 1) for j in range(n)],
        "halved": [1.5 * mean] * 150 + [0.5 * mean] * 150,
    }
    for sizes in shapes.values():
        for c in (0.7, 4.0, 10.0, 40.0, 300.0, 550.0):
            end = fill(valley(c), start, unknown, n, lambda j, sizes=sizes: sizes[j])
            left = (end.item() - 0.5) / 0.12
            evidence.numeric(left, factor(sizes, c), bound=1e-12, oracle="the product, to forty digits")
            if max(sizes) * c <= 0.5:
                A, squares = sum(sizes), sum(size**2 for size in sizes)
                lower, upper_ = math.exp(-c * A - c**2 * squares), (1 - c * A / n) ** n
                evidence.ordered(lower - left, 0.0, bound=1e-12, oracle="the lower bound")
                evidence.ordered(left, upper_, bound=1e-12, oracle="the constant step of that sum")
                evidence.ordered(left, math.exp(-c * A), bound=1e-12, oracle="exponential")
    for c, sign in ((15.2333, -1), (1984.7667, 1)):
        for shift in (-1e-4, 1e-4):
            end = fill(valley(c + shift), start, unknown)
            over = abs(end.item() - 0.5) / 0.12 - 0.01
            evidence.exact(over > 0, sign * shift > 0, oracle="the bounds of the claim")
    chains = torch.full((20_000, 1), 0.5, dtype=DOUBLE)
    cases = (
        (30.0, [2e-3] * 120, [0.01] * 120),
        (10.0, [10 / (100 + j) / 5 for j in range(150)], [10 / (100 + j) / 5 for j in range(150)]),
        (45.0, [1e-3 * (j % 7 + 1) for j in range(60)], [0.02 * (1 - j / 60) for j in range(60)]),
    )
    for c, sizes, noises in cases:
        end = fill(
            valley(c, 0.45),
            chains,
            unknown,
            len(sizes),
            lambda j, sizes=sizes: sizes[j],
            lambda j, noises=noises: noises[j],
            evidence.generator,
        )
        centre = 0.45 + 0.05 * factor(sizes, c)
        exact = variance(sizes, noises, c)
        evidence.statistical((end - centre).square() / exact, 1.0, oracle="the sum, to forty digits", detects=0.1)
    a, s, c = 2e-3, 0.01, 30.0
    limit = s**2 / (1 - (1 - a * c) ** 2)
    evidence.numeric(variance([a] * 400, [s] * 400, c), limit, bound=1e-12, oracle="the limit")
    late = [variance(*[[10 / (100 + j) for j in range(n)]] * 2, 3.0) for n in (400, 1600, 6400)]
    evidence.ordered(late[1], 0.3 * late[0], bound=0.0, oracle="a variance that falls")
    evidence.ordered(late[2], 0.3 * late[1], bound=0.0, oracle="a variance that falls")
    start = torch.full((4000, 1), 0.3, dtype=DOUBLE)
    plain = fill(wells, start[0], unknown, 600)
    evidence.numeric(plain.item(), brentq(rise, 0.15, 0.25), bound=1e-9, oracle="the lower root")
    evidence.numeric(-wells(plain).item(), -0.180, bound=5e-4, oracle="the number of the claim")
    for s0, stated in ((0.1, 0.56), (0.05, 0.10)):
        probability = upper(s0)
        evidence.numeric(probability, stated, bound=5e-3, oracle="the number of the claim")
        ends = fill(
            wells,
            start,
            unknown,
            600,
            1e-3,
            lambda j, s0=s0: s0 * max(0, 1 - j / 300),
            evidence.generator,
        )
        evidence.statistical(
            (ends > 0.5).double(),
            probability,
            oracle="the law of the chain, by quadrature",
            detects=0.06,
        )
        lower, higher = brentq(rise, 0.15, 0.25), brentq(rise, 0.75, 0.85)
        away = torch.minimum((ends - lower).abs(), (ends - higher).abs()).max()
        evidence.numeric(away, 0.0, bound=1e-9, oracle="the roots of the slope")
    evidence.numeric(-math.log(mixture(higher)), -1.027, bound=5e-4, oracle="the number of the claim")


@mutant(test_schedules, "noise never helps, and is left out")
def silent(log_prob, image, known, steps=300, step_size=1e-3, noise=0.0, generator=None):
    return inpaint(log_prob, image, known, steps, step_size)


@mutant(test_schedules, "noise is left on to the end")
def noisy(log_prob, image, known, steps=300, step_size=1e-3, noise=0.0, generator=None):
    level = noise(0) if callable(noise) else noise
    return inpaint(log_prob, image, known, steps, step_size, level, generator)


@mutant(test_schedules, "the noise is scaled by the root of the step, as in Langevin sampling")
def langevin(log_prob, image, known, steps=300, step_size=1e-3, noise=0.0, generator=None):
    def scaled(j):
        size = step_size(j) if callable(step_size) else step_size
        return (noise(j) if callable(noise) else noise) * math.sqrt(2 * size)

    return inpaint(log_prob, image, known, steps, step_size, scaled, generator)


@mutant(test_schedules, "the first step size is used throughout")
def constant(log_prob, image, known, steps=300, step_size=1e-3, noise=0.0, generator=None):
    size = step_size(0) if callable(step_size) else step_size
    return inpaint(log_prob, image, known, steps, size, noise, generator)


@mutant(test_schedules, "the noise adds its standard deviation to the gradient")
def in_the_gradient(log_prob, image, known, steps=300, step_size=1e-3, noise=0.0, generator=None):
    def scaled(j):
        size = step_size(j) if callable(step_size) else step_size
        return (noise(j) if callable(noise) else noise) * size

    return inpaint(log_prob, image, known, steps, step_size, scaled, generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_pixels_keep_their_bits_and_the_dtype_is_kept(dtype):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(3, 1, 4, 5, dtype=dtype, generator=generator)
    image[..., 0, 0] = -0.0
    known = torch.rand(2, 4, 5, generator=generator) < 0.6
    known[:, 0, 0] = True
    x = inpaint(lambda x: -3 * (x - 0.7).square().sum((-1, -2)), image, known, 20, 0.1, 0.3, generator)
    assert x.dtype == dtype
    assert x.shape == (3, 2, 4, 5)
    assert not x.requires_grad
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    expected = image.expand_as(x).contiguous().view(bits)
    assert torch.equal(x.view(bits)[known.expand_as(x)], expected[known.expand_as(x)])
    assert ((x >= 0) & (x <= 1)).all()
    left = residual(lambda x: -3 * (x - 0.7).square().sum((-1, -2)), x, known)
    assert left.dtype == dtype
    assert (left[known.expand_as(x)] == 0).all()


def test_a_batch_is_filled_like_its_images():
    generator = torch.Generator().manual_seed(2)
    P, m, known, _ = case(generator, 5)
    images = rand(generator, 4, 5)
    x = inpaint(gaussian(P, m), images, known, 50, 0.05)
    for one, alone in zip(x, images, strict=True):
        torch.testing.assert_close(one, inpaint(gaussian(P, m), alone, known, 50, 0.05))
    for mask in (known.float(), known.int(), known.double()):
        assert torch.equal(inpaint(gaussian(P, m), images, mask, 50, 0.05), x)


def test_the_start_is_projected_and_no_step_is_no_step():
    image = torch.tensor([0.3, -inf, 1.7, 0.2])
    x = inpaint(lambda x: -x.sum(-1), image, torch.tensor([1, 0, 0, 0]), steps=0)
    assert x.tolist() == pytest.approx([0.3, 0, 1, 0.2])


def test_parameters_get_no_gradient_and_none_is_needed():
    weight = torch.ones(2, requires_grad=True)
    image = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        x = inpaint(lambda x: (weight * x).sum(-1), image, torch.tensor([1, 0]), 5, 0.1)
    assert weight.grad is None
    assert x.tolist() == pytest.approx([0.3, 1])


def test_a_density_in_new_coordinates_can_be_evaluated_alone():
    x = torch.tensor([[0.3, 0.9], [0.5, 0.2]])
    value = transformed(lambda x: 0 * x.sum(-1), torch.logit)(x)
    torch.testing.assert_close(value, (x * (1 - x)).log().sum(-1))
    assert not value.requires_grad
    single = transformed(lambda x: x.log(), lambda x: -2 * x)(x)
    torch.testing.assert_close(single, (x / 2).log())


X, KNOWN = torch.tensor([0.3, 0.8, 0.5]), torch.tensor([1, 0, 0])


def bell(x):
    return -x.square().sum(-1)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda: inpaint(bell, X, KNOWN, steps=-1), "steps must be at least 0, got -1"),
        (lambda: inpaint(bell, X, KNOWN, 3, -0.1), "must be positive and finite, got -0.1 in step 0"),
        (lambda: inpaint(bell, X, KNOWN, 3, nan), "step_size must be positive and finite, got nan"),
        (lambda: inpaint(bell, X, KNOWN, 3, lambda j: 1 - j), "and finite, got 0 in step 1"),
        (lambda: inpaint(bell, X, KNOWN, 3, 0.1, -1), "noise must be at least 0 and finite, got -1"),
        (lambda: inpaint(bell, X, KNOWN, 3, 0.1, nan), "noise must be at least 0 and finite, got nan"),
        (lambda: inpaint(bell, 255 * X, KNOWN), "image must be in [0, 1] where known, a number"),
        (lambda: inpaint(bell, X * nan, 0 * KNOWN), "a number elsewhere, got nan"),
        (lambda: inpaint(bell, KNOWN, KNOWN), "image must have a floating dtype, got torch.int64"),
        (lambda: inpaint(bell, X, KNOWN * 2), "known must be 0 or 1, got 2"),
        (lambda: inpaint(bell, X, KNOWN[:2]), "must have shapes that broadcast, got (3,) and (2,)"),
        (lambda: inpaint(lambda x: x.log().sum(-1), 0 * X, KNOWN), "must have a finite gradient"),
        (lambda: residual(bell, X, 1.5 * KNOWN), "known must be 0 or 1, got 1.5"),
        (lambda: residual(bell, X * nan, KNOWN), "image must be in [0, 1] where known"),
    ],
)
def test_bad_arguments_raise(fill, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        fill()


def test_the_snippet_holds_fives_of_the_package():
    images, labels = digits()
    fives = run_path(str(SNIPPET))["fives"]
    assert torch.equal(fives, images[labels == 5][: len(fives)].flatten(1).double())


def test_the_figure_reaches_what_the_claim_says():
    figure = Figure()
    ax = figure.subplots()
    run_path(str(SNIPPET))["figure_reach"](ax)
    for line, size in zip(ax.lines[:3:2], (1e-3, 5e-3), strict=True):
        for c, left in zip(*line.get_data(), strict=True):
            if np.isfinite(left):
                assert left == pytest.approx(abs(factor([size] * 300, float(c))), rel=1e-4)
