import math
import re
from fractions import Fraction
from itertools import product
from pathlib import Path
from runpy import run_path

import mpmath
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from genref._site.claims import mutant
from genref.flows.monotone import SigmoidMixture, radius, witness
from genref.numerics.autodiff import slogdet

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/flows/monotone.py"
SIGNS = list(product((-1, 0, 1), repeat=3))


def fraction(generator, low=1, high=99):
    top, bottom = torch.randint(low, high, (2,), generator=generator).tolist()
    return Fraction(top, bottom)


def layer_value(z, a, b, c, leak=0):
    y = b * z + c
    return a * (y if y > 0 else leak * y)


@pytest.mark.claim("flows-relu", answers=["A5.1"])
def test_a_rectifier_is_not_invertible(evidence, witness=witness):
    for _ in range(3):
        for signs in SIGNS:
            a, b, c = (sign * fraction(evidence.generator) for sign in signs)
            points = witness(a, b, c)
            heights = {layer_value(z, a, b, c) for z in points}
            evidence.exact(
                {"points": len(set(points)), "values": len(heights)},
                {"points": 2, "values": 1},
                oracle="the formula, in exact fractions: two points, one value",
            )
            values = [layer_value(z, a, b, c) for z in range(-99, 100)]
            evidence.exact(
                sum(a * value < 0 or (a == 0 and value != 0) for value in values),
                0,
                oracle="the sign of a: the other one is never taken",
            )
            if signs[0] * signs[1]:
                flat = [-c / b - step / b for step in (0, 1, Fraction(7, 3), 500)]
                values = [layer_value(z, a, b, c) for z in (*flat, *points)]
                evidence.exact(values, [0] * 6, oracle="the half-line where bz + c is at most 0")


@mutant(test_a_rectifier_is_not_invertible, "the formula that divides by b, also where b is 0")
def divided(a, b, c):
    return tuple(-(c + k) / b if b else -math.inf for k in (1, 2))


@mutant(test_a_rectifier_is_not_invertible, "the flat side is always the left one")
def left(a, b, c):
    return tuple(-(abs(c) + k) / (abs(b) or 1) for k in (1, 2))


@mutant(test_a_rectifier_is_not_invertible, "the kink is taken for the point where z is 0")
def uncentred(a, b, c):
    return tuple(Fraction(-k) / (b or 1) for k in (1, 2))


@pytest.mark.claim("x-flows-leaky-relu")
def test_a_leak_makes_it_invertible(evidence, witness=witness):
    for signs in product((-1, 0, 1), repeat=4):
        a, b, c, leak = (sign * fraction(evidence.generator) for sign in signs)
        found = witness(a, b, c, leak)
        kink = -c / b if b else Fraction(0)
        left, middle, right = (layer_value(kink + step, a, b, c, leak) for step in (-1, 0, 1))
        one_to_one = (middle - left) * (right - middle) > 0
        evidence.exact(
            found is None,
            one_to_one,
            oracle="difference quotients on both sides of the kink have one sign, and are not 0",
        )
        points = found or (kink - 2, kink + 3)
        heights = {layer_value(z, a, b, c, leak) for z in points}
        evidence.exact(
            {"points": len(set(points)), "values": len(heights)},
            {"points": 2, "values": 2 if one_to_one else 1},
            oracle="the formula, in exact fractions",
        )
        if found is None:
            x = fraction(evidence.generator) - 1
            y = x / a
            z = ((y if y > 0 else y / leak) - c) / b
            evidence.exact(layer_value(z, a, b, c, leak), x, oracle="the value that z was made of")


@mutant(test_a_leak_makes_it_invertible, "a kink is enough to be flagged: leaks are ignored")
def no_leak(a, b, c, leak):
    return witness(a, b, c)


@mutant(test_a_leak_makes_it_invertible, "any leak but 0 will do")
def any_leak(a, b, c, leak):
    return witness(a, b, c, abs(leak))


@mutant(test_a_leak_makes_it_invertible, "a leak mends a = 0 and b = 0 as well")
def degenerate(a, b, c, leak):
    return None if leak > 0 else witness(a, b, c, leak)


def uniform(generator, n, low, high):
    return low + (high - low) * torch.rand(n, dtype=DOUBLE, generator=generator)


def mixtures(generator):
    """Random mixtures, then a steep one with a flat one, a plateau and a tiny weight."""
    made = []
    for n in (1, 2, 3, 5, 8):
        a = uniform(generator, n, math.log(0.05), math.log(20)).exp()
        b = uniform(generator, n, -20, 20)
        made.append((a, b, torch.randn(n, dtype=DOUBLE, generator=generator).mul(2).softmax(0)))
    hard = [
        ([0.05, 19.9], [-7.3, 4.1], [0.3, 0.7]),
        ([1.3, 2.9], [-19.5, 19.1], [0.55, 0.45]),
        ([0.4, 6.0, 2.2], [3.1, -9.2, 15.7], [1e-12, 0.4, 0.6 - 1e-12]),
    ]
    return made + [tuple(torch.tensor(v, dtype=DOUBLE) for v in each) for each in hard]


def image(z, a, b, w, size=0.0):
    """The formula of the question, as it stands, with 50 digits more than 1 - F has zeros."""
    with mpmath.workdps(50 + int(abs(size))):
        total = mpmath.fsum(w.tolist())
        terms = zip(a.tolist(), b.tolist(), w.tolist(), strict=True)
        F = mpmath.fsum(v / total / (1 + mpmath.exp(-(s * mpmath.mpf(z) + t))) for s, t, v in terms)
        return mpmath.log(F / (1 - F))


def quotient(z, *mixture, size=0.0, step=1e-18):
    """The slope of `image`, as a central difference quotient."""
    with mpmath.workdps(50 + int(abs(size))):
        high, low = (image(mpmath.mpf(z) + h, *mixture, size=size) for h in (step, -step))
        return (high - low) / (2 * step)


def values(function, points, *mixture, **options):
    return [function(z, *mixture, **options) for z in points.flatten().tolist()]


@pytest.mark.claim("flows-sigmoid-mixture", answers=["A5.2"])
def test_a_mixture_of_sigmoids_is_a_bijection(evidence, mixture=SigmoidMixture):
    for a, b, w in mixtures(evidence.generator):
        layer = mixture(a, b, w)
        z = uniform(evidence.generator, 24, -6, 6).sort().values
        value, _ = layer.to_data(z)
        lines = a * z[:, None] + b
        size = lines.abs().max().item()
        expected = [float(v) for v in values(image, z, a, b, w, size=size)]
        evidence.numeric(value, expected, bound=1e-12, oracle="the formula, with enough digits")
        evidence.numeric(
            layer.to_data(z[:, None])[1],
            [float(mpmath.log(s)) for s in values(quotient, z, a, b, w, size=size)],
            bound=1e-12,
            oracle="difference quotients of the formula, with enough digits",
        )
        evidence.ordered(value[:-1] - value[1:], 0.0, bound=0, oracle="what increasing means")
        evidence.ordered(value, lines.amax(1), bound=1e-12, oracle="the uppermost line")
        evidence.ordered(-value, -lines.amin(1), bound=1e-12, oracle="the lowest line")
        x = uniform(evidence.generator, 12, -300, 300)
        latent, log_det = layer.to_latent(x)
        images = values(image, latent.detach(), a, b, w, size=300)
        evidence.numeric([float(y) for y in images], x, bound=1e-12, oracle="the value asked for")
        slopes = values(quotient, latent.detach(), a, b, w, size=300)
        evidence.numeric(
            log_det + sum(float(mpmath.log(slope)) for slope in slopes),
            0.0,
            bound=1e-11,
            oracle="the slopes of a map and of its inverse have the product 1",
        )
        ends = (x[:, None] - b) / a
        evidence.ordered(latent, ends.amax(1), bound=1e-11, oracle="the largest end of the bracket")
        evidence.ordered(-latent, -ends.amin(1), bound=1e-11, oracle="the least end of the bracket")


class Literal:
    """The formula as it stands, in float64."""

    def __init__(self, a, b, w):
        self.a, self.b, self.w = a, b, w

    def parts(self, z):
        s = torch.sigmoid(self.a * z[..., None] + self.b)
        return (self.w * s).sum(-1), (self.w * self.a * s * (1 - s)).sum(-1)

    def to_data(self, z):
        F, slope = self.parts(z)
        return torch.logit(F), (slope / (F * (1 - F))).log().sum(-1)


@mutant(test_a_mixture_of_sigmoids_is_a_bijection, "weights that sum to 1.2")
def heavy(a, b, w):
    return Literal(a, b, 1.2 * w)


@mutant(test_a_mixture_of_sigmoids_is_a_bijection, "weights that sum to 0.8")
def light(a, b, w):
    return Literal(a, b, 0.8 * w)


@mutant(test_a_mixture_of_sigmoids_is_a_bijection, "one slope is negative")
def falling(a, b, w):
    return Literal(torch.cat([-a[:1], a[1:]]), b, w)


@mutant(test_a_mixture_of_sigmoids_is_a_bijection, "the outer inverse undoes each sigmoid")
class Averaged(SigmoidMixture):
    def _map(self, z):
        a, w = self.log_a.exp(), self.log_w.exp()
        x = (w * (a * z[..., None] + self.b)).sum(-1)
        return x, torch.full_like(x, (w * a).sum().log().item())


@mutant(test_a_mixture_of_sigmoids_is_a_bijection, "the outer inverse is not differentiated")
class InnerSlope(SigmoidMixture):
    def to_data(self, z):
        x, _ = super().to_data(z)
        a, w = self.log_a.exp(), self.log_w.exp()
        s = torch.sigmoid(a * z[..., None] + self.b)
        return x, (w * a * s * (1 - s)).sum(-1).log().sum(-1)


@mutant(test_a_mixture_of_sigmoids_is_a_bijection, "log-determinant of the other direction")
class Reversed(SigmoidMixture):
    def to_latent(self, x):
        z, log_det = super().to_latent(x)
        return z, -log_det


def slope_of_mixture(z, a, b, w):
    return SigmoidMixture(a, b, w).to_data(z[..., None])[1].exp()


@pytest.mark.claim("x-flows-sigmoid-slope")
def test_slopes_between_the_tails(evidence, slope=slope_of_mixture):
    for a, b, w in mixtures(evidence.generator):
        z = uniform(evidence.generator, 20, -4, 4)
        measured = slope(z, a, b, w)
        size = (a * z[:, None] + b).abs().max().item()
        evidence.numeric(
            measured,
            [float(s) for s in values(quotient, z, a, b, w, size=size)],
            bound=1e-11,
            oracle="difference quotients of the formula, with enough digits",
        )
        evidence.ordered(measured, a.max(), bound=1e-11, oracle="the largest slope of the mixture")
        evidence.ordered(-measured, 0.0, bound=0, oracle="zero")
    for n in (2, 3, 6):
        a = uniform(evidence.generator, n, 0.3, 0.9).cumsum(0)
        b, w = uniform(evidence.generator, n, -9, 9), uniform(evidence.generator, n, 0.1, 0.9)
        w = w / w.sum()
        evidence.numeric(
            slope(torch.tensor([-300.0, 300.0], dtype=DOUBLE), a.roll(1), b, w),
            a.min().expand(2),
            bound=1e-12,
            oracle="the smallest slope of the mixture",
        )
        zero = torch.zeros(1, dtype=DOUBLE)
        halves = torch.cat([zero + 0.5, zero.new_full((n - 1,), 0.5 / (n - 1))])
        for t in (2.0, 8.0, 15.0):
            apart = torch.full((n,), t, dtype=DOUBLE)
            apart[0] = -t
            evidence.numeric(
                slope(zero, a, apart, halves),
                (halves @ a / math.cosh(t / 2) ** 2).view(1),
                bound=1e-11,
                relative=True,
                oracle="the closed form where the offsets are -t and t",
            )
        evidence.numeric(
            slope(zero, a, b[0].expand(n), w),
            (w @ a).view(1),
            bound=1e-12,
            oracle="the mean of the slopes where all lines meet, which comes near the largest",
        )
    pair = [torch.tensor(v, dtype=DOUBLE) for v in ([1.0, 3.0], [-2.0, 9.0], [0.5, 0.5])]
    measured = slope(torch.zeros(1, dtype=DOUBLE), *pair).item()
    evidence.exact(f"{measured:.6f}", "0.213759", oracle="the decimals that the claim states")


@mutant(test_slopes_between_the_tails, "the mean of the slopes")
def mean_slope(z, a, b, w):
    return (w * a).sum().expand(z.shape)


@mutant(test_slopes_between_the_tails, "slopes averaged with the shares in F")
def shares(z, a, b, w):
    parts = w * torch.sigmoid(a * z[:, None] + b)
    return (parts * a).sum(-1) / parts.sum(-1)


@mutant(test_slopes_between_the_tails, "the slope of the steepest line far out")
def steepest(z, a, b, w):
    found = slope_of_mixture(z, a, b, w)
    return torch.where(z.abs() > 100, a.max(), found)


@mutant(test_slopes_between_the_tails, "the slope of F, with no denominator")
def bare(z, a, b, w):
    return Literal(a, b, w).parts(z)[1]


@mutant(test_slopes_between_the_tails, "never below the smallest slope")
def floored(z, a, b, w):
    return slope_of_mixture(z, a, b, w).clamp(min=a.min())


@pytest.mark.claim("x-flows-sigmoid-certificate")
def test_the_error_bound_holds(evidence, radius=radius, mixture=SigmoidMixture):
    for a, b, w in mixtures(evidence.generator):
        A = a.max().item()
        z = uniform(evidence.generator, 16, -4, 4).requires_grad_()
        (bend,) = torch.autograd.grad(mixture(a, b, w).to_data(z)[1], z)
        evidence.ordered(bend.abs(), A, bound=1e-11, oracle="the largest slope of the mixture")
        z = z.detach()
        shift = uniform(evidence.generator, 16, -0.95, 0.95)
        slopes = [float(s) for s in values(quotient, z, a, b, w, size=100)]
        slopes = torch.tensor(slopes, dtype=DOUBLE)
        residual = shift.abs() * slopes / A
        bound = radius(residual, slopes, A)
        points = torch.stack([z, slopes, bound, shift], -1).tolist()
        for at, slope, far, by in points:
            with mpmath.workdps(150):
                x = image(at, a, b, w, size=100) + mpmath.mpf(by) * slope / A
                low, high = (image(mpmath.mpf(at) + d, a, b, w, size=100) for d in (-far, far))
                outside = max(float(low - x), float(x - high))
            evidence.ordered(
                outside,
                0.0,
                bound=1e-12,
                oracle="signs of the formula at both ends of the interval",
            )
        x = uniform(evidence.generator, 16, -30, 30)
        x[8:] /= 10
        x[: len(w)] = torch.logit(w.clamp(max=0.9))  # the height of a plateau, where one is
        found, bound = mixture(a, b, w).invert(x)
        for at, far, goal in zip(found.tolist(), bound.tolist(), x.tolist(), strict=True):
            with mpmath.workdps(150):
                low, high = (image(mpmath.mpf(at) + d, a, b, w, size=100) for d in (-far, far))
                outside = max(float(low - goal), float(goal - high))
            evidence.ordered(outside, 0.0, bound=0, oracle="signs of the formula at both ends")


@mutant(test_the_error_bound_holds, "the residual over the slope", of="radius")
def first_order(residual, slope, steepest):
    return residual / slope


@mutant(test_the_error_bound_holds, "the residual alone", of="radius")
def bare_residual(residual, slope, steepest):
    return residual


@mutant(test_the_error_bound_holds, "the logarithm of a sum, which bounds from below", of="radius")
def from_below(residual, slope, steepest):
    return torch.log1p(steepest * residual / slope) / steepest


@mutant(test_the_error_bound_holds, "the size of the last step", of="mixture")
class LastStep(SigmoidMixture):
    def invert(self, x):
        z, _ = super().invert(x)
        value, log_slope = self._map(z)
        return z, ((value - x) / log_slope.exp()).abs().detach()


@mutant(test_the_error_bound_holds, "one unit in the last place of the latent point", of="mixture")
class LastPlace(SigmoidMixture):
    def invert(self, x):
        z, _ = super().invert(x)
        return z, z.abs() * torch.finfo(z.dtype).eps


@mutant(test_the_error_bound_holds, "the error of the value, as if the slope were 1", of="mixture")
class UnitSlope(SigmoidMixture):
    def invert(self, x):
        z, _ = super().invert(x)
        error = (self._map(z)[0] - x).abs().detach()
        return z, error + torch.finfo(x.dtype).eps * (1 + x.abs())


HARD = torch.tensor([0.0, 1e-3, 0.7, 16.6, 36.8, 88.5, 745.2, 3e3, 1e4], dtype=DOUBLE)


@pytest.mark.claim("x-flows-sigmoid-roundtrip")
def test_the_round_trip_loses_nothing(evidence, mixture=SigmoidMixture):
    for a, b, w in mixtures(evidence.generator):
        layer = mixture(a, b, w)
        x = torch.cat([-HARD, HARD, uniform(evidence.generator, 30, -1e4, 1e4)])
        z = layer.to_latent(x)[0].detach()
        evidence.numeric(
            (layer.to_data(z)[0] - x) / (1 + x.abs()),
            torch.zeros_like(x),
            bound=1e-13,
            oracle="the point from which the round trip starts",
        )
        few = torch.cat([HARD[::2], -HARD[1::2]])
        latent = torch.cat([z[9:18:2], z[1:9:2]])
        goals = zip(latent.tolist(), few.tolist(), strict=True)
        images = [float(image(at, a, b, w, size=goal)) for at, goal in goals]
        evidence.numeric(
            torch.tensor(images, dtype=DOUBLE) / (1 + few.abs()),
            few / (1 + few.abs()),
            bound=2e-13,
            oracle="the value asked for, and the formula with as many digits as its tail needs",
        )


@mutant(test_the_round_trip_loses_nothing, "F is rounded to 1 before its logit is taken")
class Rounded(SigmoidMixture):
    def _map(self, z):
        F = (self.log_w.exp() * torch.sigmoid(self.log_a.exp() * z[..., None] + self.b)).sum(-1)
        return torch.logit(F), super()._map(z)[1]


@mutant(test_the_round_trip_loses_nothing, "F is kept away from 0 and 1 by clamping it")
class Clamped(SigmoidMixture):
    def _map(self, z):
        F = (self.log_w.exp() * torch.sigmoid(self.log_a.exp() * z[..., None] + self.b)).sum(-1)
        return torch.logit(F.clamp(1e-7, 1 - 1e-7)), super()._map(z)[1]


@mutant(test_the_round_trip_loses_nothing, "log(1 - F) is made of log F")
class OneTail(SigmoidMixture):
    def _map(self, z):
        v = self.log_a.exp() * z[..., None] + self.b
        log_F = (self.log_w + torch.nn.functional.logsigmoid(v)).logsumexp(-1)
        return log_F - torch.log(-torch.expm1(log_F)), super()._map(z)[1]


@mutant(test_the_round_trip_loses_nothing, "single precision inside")
class Single(SigmoidMixture):
    def _map(self, z):
        return tuple(part.to(z.dtype) for part in super()._map(z.float()))


def pair(dtype=DOUBLE):
    numbers = [[1.3, 0.4, 3.1], [-2.0, 0.7, 4.0], [0.2, 0.5, 0.3]]
    return SigmoidMixture(*torch.tensor(numbers, dtype=dtype))


def test_log_dets_are_those_of_the_jacobian():
    layer, points = pair(), uniform(torch.Generator().manual_seed(1), 24, -9, 9).view(2, 4, 3)
    for name in ("to_data", "to_latent"):
        value, log_det = getattr(layer, name)(points)
        assert (value.shape, log_det.shape) == ((2, 4, 3), (2, 4))
        sign, expected = slogdet(lambda p, name=name: getattr(layer, name)(p)[0], points)
        assert (sign == 1).all()
        torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_densities_integrate_to_one():
    layer = pair()
    normal = torch.distributions.Normal(torch.tensor(0.3, dtype=DOUBLE), 1.7)

    for dimensions, points in ((1, 641), (2, 321)):
        axis, h = torch.linspace(-16, 16, points, dtype=DOUBLE), 32 / (points - 1)
        grid = torch.cartesian_prod(*[axis] * dimensions).view(-1, dimensions)
        z, log_det = layer.to_latent(grid)
        total = (normal.log_prob(z).sum(-1) + log_det).exp().sum() * h**dimensions
        assert abs(total - 1) < 1e-6


def test_quantiles_of_a_mixture_of_logistic_laws():
    layer = pair()
    a, b, w = layer.log_a.exp().tolist(), layer.b.tolist(), layer.log_w.exp().tolist()
    u = torch.tensor([[1e-9], [0.2], [0.5], [0.93]], dtype=DOUBLE)
    z, log_det = layer.to_latent(torch.logit(u))
    laws = [stats.logistic(loc=-t / s, scale=1 / s) for s, t in zip(a, b, strict=True)]
    at = z.detach().numpy()
    below = sum(v * law.cdf(at) for v, law in zip(w, laws, strict=True))
    density = sum(v * law.pdf(at) for v, law in zip(w, laws, strict=True))
    torch.testing.assert_close(torch.from_numpy(below), u, rtol=1e-12, atol=0)
    measured = (-log_det).exp()[:, None] * u * (1 - u)
    torch.testing.assert_close(measured, torch.from_numpy(density), rtol=1e-10, atol=0)


def test_derivatives_of_the_inverse():
    x = torch.tensor([[-4.0, 0.3]], dtype=DOUBLE, requires_grad=True)
    parameters = dict(Both().named_parameters())

    def inverse(x, *values):
        names = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(Both(), names, (x,))

    inputs = (x, *(p.detach().requires_grad_() for p in parameters.values()))
    assert torch.autograd.gradcheck(inverse, inputs, atol=1e-6)
    assert torch.autograd.gradgradcheck(inverse, inputs, atol=1e-5)


class Both(SigmoidMixture):
    def __init__(self):
        super().__init__(*torch.tensor([[1.3, 3.1], [-2.0, 4.0], [0.6, 0.4]], dtype=DOUBLE))

    def forward(self, x):
        return self.to_latent(x)


def test_likelihood_trains_all_parameters():
    x = uniform(torch.Generator().manual_seed(4), 40, -3, 5)[:, None]
    layer = SigmoidMixture([1.0, 1.2], [-1.0, 1.0], [0.5, 0.5]).double()
    steps = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(15):
        z, log_det = layer.to_latent(x)
        loss = (z.square().sum(-1) / 2 - log_det).mean()
        steps.zero_grad()
        loss.backward()
        assert all((p.grad != 0).all() for p in layer.parameters())
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    z, _ = layer.to_latent(x)
    torch.testing.assert_close(layer.to_data(z)[0], x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("held", [torch.float32, DOUBLE])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_results_keep_the_dtype(held, dtype):
    layer = pair(held)
    x = torch.tensor([[-9e3, -3.0], [0.1, 2e3]], dtype=dtype)
    z, log_det = layer.to_latent(x)
    back, opposite = layer.to_data(z)
    assert {t.dtype for t in (z, log_det, back, opposite, *layer.invert(x))} == {dtype}
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(back, x, rtol=20 * eps, atol=20 * eps)
    torch.testing.assert_close(opposite, -log_det, rtol=0, atol=2e4 * eps)


def test_the_error_bound_is_of_use_in_single_precision_too():
    for dtype in (torch.float32, DOUBLE):
        x = torch.linspace(-20, 20, 41, dtype=dtype)
        z, bound = pair(dtype).invert(x)
        exact = pair().invert(x.double())[0]
        assert ((z.double() - exact).abs() <= bound.double() * (1 + 1e-6)).all()
        assert (bound <= 2000 * torch.finfo(dtype).eps * (1 + x.abs())).all()


def test_the_error_bound_holds_for_the_parameters_held():
    layer, x = pair(torch.float32), torch.linspace(-20, 20, 9, dtype=DOUBLE)
    a, b, w = (p.detach().double() for p in (layer.log_a.double().exp(), layer.b, layer.log_w.double().exp()))
    for at, far, goal in zip(*(t.tolist() for t in (*layer.invert(x), x)), strict=True):
        with mpmath.workdps(60):
            low, high = (image(mpmath.mpf(at) + d, a, b, w, size=60) for d in (-far, far))
            assert low <= goal <= high


def test_where_the_slope_underflows_the_bracket_is_the_bound():
    layer = SigmoidMixture([1.0, 3.0], [-900.0, 900.0], [0.5, 0.5]).double()
    x = torch.tensor([0.0, 2.0, -5.0], dtype=DOUBLE, requires_grad=True)
    _, bound = layer.invert(x)
    assert bound[0] > 100
    assert (bound[1:] < 1e-9).all()
    latent, _ = layer.to_latent(x)
    latent.sum().backward()
    assert x.grad.isfinite().all()


def test_points_that_are_not_finite_end():
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0], dtype=DOUBLE)
    z, bound = pair().invert(x)
    assert z[3].isfinite()
    assert bound[3] < 1e-12
    assert z[0].isnan()
    empty, log_det = pair().to_latent(torch.empty(0, 2, dtype=DOUBLE))
    assert (empty.shape, log_det.shape) == ((0, 2), (0,))


def test_one_component_is_affine():
    layer = SigmoidMixture(*torch.tensor([[2.5], [-0.75], [1.0]], dtype=DOUBLE))
    z = torch.linspace(-50, 50, 7, dtype=DOUBLE)
    x, log_det = layer.to_data(z)
    torch.testing.assert_close(x, 2.5 * z - 0.75, rtol=1e-14, atol=1e-14)
    assert log_det.item() == pytest.approx(7 * math.log(2.5), abs=1e-13)


def test_a_common_factor_of_the_weights_is_divided_out():
    layer, other = pair(), pair()
    with torch.no_grad():
        other.log_w += 3.0
    x = torch.linspace(-20, 20, 9, dtype=DOUBLE)
    for one, two in zip(layer.to_latent(x), other.to_latent(x), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-13, atol=1e-13)


def test_the_radius_is_infinite_where_the_residual_proves_nothing():
    slope = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=DOUBLE)
    residual = torch.tensor([0.0, 0.25, 0.5, 0.0], dtype=DOUBLE)
    expected = [0.0, math.log(2) / 2, math.inf, math.inf]
    assert radius(residual, slope, 2.0).tolist() == pytest.approx(expected)
    assert radius(residual.float(), slope.float(), torch.tensor(2.0)).dtype == torch.float32


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": [1.0, 0.0]}, "a must be positive, got 0"),
        ({"a": [1.0, -2.0]}, "a must be positive, got -2"),
        ({"a": [1.0, math.nan]}, "a must be finite, got [1.0, nan]"),
        ({"b": [math.inf, 0.0]}, "b must be finite, got [inf, 0.0]"),
        ({"w": [1.5, -0.5]}, "w must be positive, got -0.5"),
        ({"w": [0.5, 0.7]}, "w must sum to one, got 1.2"),
        ({"w": [0.5, 0.3]}, "w must sum to one, got 0.8"),
        ({"w": [0.2, 0.3, 0.5]}, "a, b and w must be equally long, got 2, 2, 3"),
        ({"a": [1, 2]}, "a must be floating, got torch.int64"),
        ({"b": [[0.0, 1.0]]}, "b must be a vector, got shape (1, 2)"),
        ({"b": []}, "b must be a vector, got shape (0,)"),
        ({"a": 2.0}, "a must be a vector, got shape ()"),
    ],
)
def test_bad_mixtures_raise(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        SigmoidMixture(**{"a": [1.0, 2.0], "b": [0.0, 1.0], "w": [0.4, 0.6]} | change)


@pytest.mark.usefixtures("untyped")
def test_bad_points_raise():
    layer = pair()
    for name, method in {"z": layer.to_data, "x": layer.to_latent}.items():
        with pytest.raises(ValueError, match=f"{name} must be floating, got torch.int64"):
            method(torch.arange(3))
        with pytest.raises(ValueError, match=f"{name} must have a dimension for the event"):
            method(torch.tensor(1.0))


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_of_the_functions_raise():
    for name in ("a", "b", "c", "leak"):
        with pytest.raises(ValueError, match=f"{name} must be finite, got nan"):
            witness(**{"a": 1.0, "b": 2.0, "c": 0.5, "leak": 0.1} | {name: math.nan})
    one = torch.ones(2)
    with pytest.raises(ValueError, match=re.escape("steepest must be positive, got 0.0")):
        radius(one, one, 0.0)
    with pytest.raises(ValueError, match="residual must not be negative, got -1"):
        radius(-one, one, 2.0)
    with pytest.raises(ValueError, match="slope must not be negative, got -1"):
        radius(one, -one, 2.0)


def test_witnesses_are_exact_where_floats_would_not_be():
    assert witness(1, Fraction(10**400), 10**500, 2) is None
    points = witness(2.0, 1e-300, 1e20)
    assert len(set(points)) == 2
    assert all(Fraction(1e-300) * z + Fraction(1e20) <= 0 for z in points)


def test_the_figures_draw_what_the_formulas_say():
    snippet = run_path(str(SNIPPET))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    lines, curve = figure.axes[0].lines[:2], figure.axes[0].lines[2]
    one, other = (torch.as_tensor(line.get_ydata()).flatten() for line in lines)
    g = torch.as_tensor(curve.get_ydata()).flatten()
    assert (torch.minimum(one, other) <= g).all()
    assert (g <= torch.maximum(one, other)).all()
    ax = Figure().subplots()
    snippet["figure_rectifier"](ax)
    assert list(ax.lines[2].get_ydata()) == [0, 0]
    ax = Figure().subplots()
    snippet["figure_roundtrip"](ax)
    literal, layer, bound = (torch.as_tensor(line.get_ydata()).flatten() for line in ax.lines)
    assert (layer < bound).all()
    assert (literal[-10:] == math.inf).all()
