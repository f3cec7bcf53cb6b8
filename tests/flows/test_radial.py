import math
import re
from pathlib import Path
from runpy import run_path

import mpmath as mp
import numpy as np
import pytest
import sympy
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from genref._site.claims import mutant
from genref.flows.radial import Radial, radius
from genref.numerics.autodiff import slogdet

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/flows/radial.py"
mp.mp.dps = 50


def normal(generator, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def uniform(generator, low, high):
    return low + (high - low) * torch.rand((), dtype=DOUBLE, generator=generator).item()


def strengths(generator, number):
    """Pairs of alpha and beta, from the boundary, included, to ten times alpha."""
    for shares in np.linspace(-1, 10, number):
        alpha = 10 ** uniform(generator, -2, 2)
        share = shares if shares == -1 else max(-1.0, shares - uniform(generator, 0, 1))
        yield alpha, -alpha if share == -1 else share * alpha


def bisected(rho, alpha, beta):
    """The r in 50 digits: the interval is halved, and no formula for the root is used."""
    rho, alpha, beta = mp.mpf(rho), mp.mpf(alpha), mp.mpf(beta)
    low, high = mp.mpf(0), 2 * (rho + abs(beta)) + mp.sqrt(4 * alpha * rho)
    for _ in range(250):
        r = (low + high) / 2
        low, high = (r, high) if r + beta * r / (alpha + r) < rho else (low, r)
    return high


def moved(z, centre, alpha, beta):
    """The map as the sheet writes it."""
    h = 1 / (alpha + (z - centre).norm(dim=-1, keepdim=True))
    return z + beta * h * (z - centre)


def origin(x, centre, alpha, beta):
    """The z of one x by bisection along its ray, in floats at the end."""
    y = [mp.mpf(a) - mp.mpf(b) for a, b in zip(x.tolist(), centre.tolist(), strict=True)]
    rho = mp.sqrt(sum(entry**2 for entry in y))
    r = bisected(rho, alpha, beta)
    z = [mp.mpf(c) + r * entry / rho for c, entry in zip(centre.tolist(), y, strict=True)]
    return torch.tensor([float(entry) for entry in z], dtype=DOUBLE)


def preimages(alpha, beta, at):
    """How many r lead to a point x: exact counts of real roots, with x on either side of z."""
    r = sympy.Symbol("r")
    if at == 0:
        return sympy.Poly(r * (alpha + r + beta), r).count_roots(0)
    ahead = sympy.Poly(r * (alpha + r + beta) - at * (alpha + r), r)
    behind = sympy.Poly(r * (alpha + r + beta) + at * (alpha + r), r)
    return ahead.count_roots(0) + behind.count_roots(0)


def accepts(layer, alpha, beta):
    try:
        layer(torch.zeros(2), float(alpha), float(beta))
    except ValueError:
        return False
    return True


@pytest.mark.claim("flows-radial-r", answers=["A5.4i"])
def test_radius(evidence, invert=radius, layer=Radial):
    cases = [
        (10 ** uniform(evidence.generator, -6, 3) * alpha, alpha, beta)
        for alpha, beta in strengths(evidence.generator, 60)
    ]
    evidence.numeric(
        [invert(torch.tensor(rho, dtype=DOUBLE), alpha, beta) for rho, alpha, beta in cases],
        [float(bisected(*case)) for case in cases],
        bound=1e-14,
        relative=True,
        oracle="bisection of the map in 50 digits",
    )
    shares = (-3, -1.5, -1 - 2**-10, -1 - 2**-40, -1, -0.75, -0.5, 0.5, 2, 16)
    softenings = [sympy.Rational(alpha) for alpha in (0.25, 0.875, 3)]
    pairs = [(alpha, alpha * sympy.Rational(share)) for alpha in softenings for share in shares]
    places = [0, *(sympy.Rational(1, 2**k) for k in (24, 8, 4, 1)), 1, 20]
    evidence.exact(
        {pair: accepts(layer, *pair) for pair in pairs},
        {(a, b): all(preimages(a, b, at) == 1 for at in places) for a, b in pairs},
        oracle="exact numbers of real roots: each x has one r",
    )
    alpha = uniform(evidence.generator, 0.5, 2)
    tiny = torch.logspace(-30, -20, 5, dtype=DOUBLE)
    evidence.numeric(
        invert(tiny, alpha, -alpha) / tiny.sqrt(),
        torch.full((5,), math.sqrt(alpha), dtype=DOUBLE),
        bound=1e-9,
        relative=True,
        oracle="the square root of the claim",
    )


@mutant(test_radius, "the strength acts at the distance of x", of="invert")
def at_x(distance, alpha, beta):
    return distance / (1 + beta / (alpha + distance))


@mutant(test_radius, "the other root of the quadratic", of="invert")
def other_root(distance, alpha, beta):
    return -alpha * distance / radius(distance, alpha, beta)


@mutant(test_radius, "the strength is added instead of subtracted", of="invert")
def added(distance, alpha, beta):
    d = distance - alpha + beta
    return (d + (d**2 + 4 * alpha * distance).sqrt()) / 2


@mutant(test_radius, "the strength must not be negative", of="layer")
def only_pushing(centre, alpha, beta):
    if beta < 0:
        raise ValueError
    return Radial(centre, alpha, beta)


@mutant(test_radius, "the boundary does not suffice", of="layer")
def strictly(centre, alpha, beta):
    if beta <= -alpha:
        raise ValueError
    return Radial(centre, alpha, beta)


@mutant(test_radius, "the boundary with a tolerance", of="layer")
def tolerant(centre, alpha, beta):
    if beta < -alpha * (1 + 1e-9):
        raise ValueError
    return Radial(centre, alpha, max(beta, -alpha))


@mutant(test_radius, "the factor need only be positive at a typical point", of="layer")
def typical(centre, alpha, beta):
    if 1 + beta / (alpha + 1) < 0:
        raise ValueError
    return Radial(centre, alpha, max(beta, -alpha))


@mutant(test_radius, "every strength will do: a length has no sign", of="layer")
def any_strength(centre, alpha, beta):
    return Radial(centre, alpha, max(beta, -alpha))


def extremes(generator):
    """Triples over many powers of ten, and the points that the claim names."""
    yield 1e-12, 1.0, 1.0
    yield 1e-6, 1e-3, 100 - 1e-3
    for _ in range(150):
        alpha = 10 ** uniform(generator, -6, 6)
        beta = alpha * (10 ** uniform(generator, -14, 7) - uniform(generator, 0, 1))
        s = alpha + beta
        near, anywhere = s * uniform(generator, 0.5, 1.5), 10 ** uniform(generator, -14, 8)
        yield (near if uniform(generator, 0, 1) < 0.4 and s > 0 else anywhere), alpha, beta
    for _ in range(20):
        alpha = 10 ** uniform(generator, -6, 6)
        yield 10 ** uniform(generator, -14, 8), alpha, -alpha


@pytest.mark.claim("flows-radial-accuracy")
def test_accuracy(evidence, invert=radius):
    cases = list(extremes(evidence.generator))
    exact = [bisected(*case) for case in cases]
    found = [mp.mpf(invert(torch.tensor(c[0], dtype=DOUBLE), *c[1:]).item()) for c in cases]
    errors = [float(abs(got - true) / true) for got, true in zip(found, exact, strict=True)]
    kappas = [slope(*case, root) for case, root in zip(cases, exact, strict=True)]
    evidence.ordered(errors[:2], [1e-14] * 2, bound=0.0, oracle="the bound, at the points named")
    evidence.ordered(
        errors,
        [1e-15 * max(1, kappa) for kappa in kappas],
        bound=0.0,
        oracle="bisection and the derivative of the map, in 50 digits",
    )
    caps = [cap(*case) for case in cases]
    evidence.ordered(kappas, caps, bound=1e-14, oracle="the bounds of the claim")
    stated = []
    for (rho, alpha, beta), r in zip(cases, exact, strict=True):
        s = mp.mpf(alpha) + mp.mpf(beta)
        stated.append(float((s + r) / (s + 2 * r - mp.mpf(rho))))
    evidence.numeric(
        stated,
        kappas,
        bound=1e-15,
        relative=True,
        oracle="the derivative of the map",
    )


def slope(rho, alpha, beta, r):
    """The derivative of log r by log rho, from the derivative of the map by its definition."""
    alpha, beta = mp.mpf(alpha), mp.mpf(beta)
    derivative = mp.diff(lambda r: r + beta * r / (alpha + r), r, h=r * mp.mpf(10) ** -20)
    return float(mp.mpf(rho) / (r * derivative))


def cap(rho, alpha, beta):
    s = alpha + beta
    bounds = [max(1, (1 + math.sqrt(max(s, 0) / alpha)) / 2)]
    return min(bounds + [1] * (beta <= 0) + [2] * (2 * rho <= s))


@mutant(test_accuracy, "the root that cancels")
def cancelling(distance, alpha, beta):
    d = distance - (alpha + beta)
    return (d + (d**2 + 4 * alpha * distance).sqrt()) / 2


@mutant(test_accuracy, "bisection, stopped when the interval is 1e-12 long")
def coarse(distance, alpha, beta):
    low, high = torch.zeros_like(distance), 2 * (distance + abs(beta) + alpha)
    while (high - low) > 1e-12 and low < (r := (low + high) / 2) < high:
        low, high = (r, high) if r + beta * r / (alpha + r) < distance else (low, r)
    return high


@mutant(test_accuracy, "single precision inside")
def single(distance, alpha, beta):
    return radius(distance.float(), alpha, beta).double()


@pytest.mark.claim("flows-radial-direction", answers=["A5.4ii"])
def test_direction(evidence, layer=Radial):
    for size in (1, 2, 3, 7):
        for alpha, beta in strengths(evidence.generator, 6):
            centre, x = normal(evidence.generator, 2, size)
            flow = layer(centre, alpha, beta)
            z = flow.to_latent(x)[0].detach()
            evidence.numeric(
                z,
                origin(x, centre, alpha, beta),
                bound=1e-12,
                oracle="bisection along the ray from the centre to x, in 50 digits",
            )
            r = (z - centre).norm()
            evidence.numeric(
                (x - centre) / (r * (1 + beta / (alpha + r))),
                (x - centre) / (x - centre).norm(),
                bound=1e-11,
                oracle="the unit vector from the centre to x",
            )
            evidence.exact(flow.to_latent(centre)[0].detach(), centre, oracle="the centre stays")
            evidence.exact(flow.to_data(centre)[0].detach(), centre, oracle="the centre stays")


class Wrong(Radial):
    """The radius is right, and `direction` is wrong; the centre is mapped as it should be."""

    def to_latent(self, x):
        z, log_det = super().to_latent(x)
        away, r = x - self.centre, (z - self.centre).norm()
        wrong = self.direction(x, away, r)
        return (self.centre + r * wrong if r > 0 else z), log_det


@mutant(test_direction, "the factor is r plus beta over alpha plus r")
class LostFactor(Wrong):
    def direction(self, x, away, r):
        return away / (r + self.beta / (self.alpha + r))


@mutant(test_direction, "the length r is left out of the divisor")
class LostLength(Wrong):
    def direction(self, x, away, r):
        return away / (1 + self.beta / (self.alpha + r))


@mutant(test_direction, "the direction is that of x from the origin")
class FromOrigin(Wrong):
    def direction(self, x, away, r):
        return x / x.norm()


@mutant(test_direction, "a negative strength turns the direction round")
class Turned(Wrong):
    def direction(self, x, away, r):
        return away / away.norm() * (-1 if self.beta < 0 else 1)


@pytest.mark.claim("x-flows-radial-det")
def test_determinant(evidence, layer=Radial):
    for size in (1, 2, 3, 6):
        for alpha, beta in strengths(evidence.generator, 5):
            centre, *z = normal(evidence.generator, 4, size)
            z = torch.stack([*z, centre]) if beta > -alpha else torch.stack(z)
            where = (centre, alpha, beta)
            sign, log_det = slogdet(lambda z, where=where: moved(z, *where), smooth(z, centre))
            flow = layer(*where)
            evidence.numeric(flow.to_data(z)[1], log_det, bound=1e-9, oracle="autograd")
            evidence.exact(sign, torch.ones(len(z), dtype=DOUBLE), oracle="the sign of the claim")
            x = moved(z, *where)
            evidence.numeric(flow.to_latent(x)[1], -log_det, bound=1e-9, oracle="autograd at z")
    for size in (1, 2, 3):
        flow = layer(torch.zeros(size, dtype=DOUBLE), 0.7, -0.7)
        singular = flow.to_data(torch.zeros(size, dtype=DOUBLE))[1].exp()
        evidence.exact(singular.item(), 0.0, oracle="the derivative of a quadratic at its vertex")
    for beta in (-0.6, 1.7):
        for size in (1, 2):
            flow = layer(0.3 * torch.ones(size, dtype=DOUBLE), 0.8, beta)
            evidence.numeric(total(flow, size), 1.0, bound=1e-10, oracle="a density sums to one")


def smooth(z, centre):
    """The centre itself is no point for autograd, and the Jacobian is continuous there."""
    return torch.where(z == centre, centre + 1e-14, z)


def total(flow, size):
    """The integral of the density of the flow over rays from its centre."""
    node, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(300))
    rho, weight = 3.6 * (node + 1) ** 2, 7.2 * (node + 1) * weight
    if size == 1:
        rays, share = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE), torch.ones_like(rho)
    else:
        angle = torch.arange(48, dtype=DOUBLE) * (2 * math.pi / 48)
        rays, share = torch.stack([angle.cos(), angle.sin()], -1), rho * 2 * math.pi / 48
    x = flow.centre.detach() + rho[:, None, None] * rays
    z, log_det = flow.to_latent(x)
    log_p = -z.square().sum(-1) / 2 - size / 2 * math.log(2 * math.pi) + log_det
    return ((weight * share)[:, None] * log_p.exp()).sum()


@mutant(test_determinant, "r is taken for a constant")
class ConstantLength(Radial):
    def to_data(self, z):
        x, _ = super().to_data(z)
        r = (z - self.centre).norm(dim=-1)
        return x, z.shape[-1] * (1 + self.beta / (self.alpha + r)).log()

    def to_latent(self, x):
        z, _ = super().to_latent(x)
        return z, -self.to_data(z)[1]


@mutant(test_determinant, "the determinant at x instead of z")
class AtX(Radial):
    def to_latent(self, x):
        return super().to_latent(x)[0], -self.to_data(x)[1]


@mutant(test_determinant, "both directions return the determinant of one")
class OneDirection(Radial):
    def to_latent(self, x):
        z, log_det = super().to_latent(x)
        return z, -log_det


@mutant(test_determinant, "the factor across the ray has power D")
class OnceTooOften(Radial):
    def to_data(self, z):
        x, log_det = super().to_data(z)
        r = (z - self.centre).norm(dim=-1)
        return x, log_det + (1 + self.beta / (self.alpha + r)).log()


@mutant(test_determinant, "the denominator along the ray is not squared")
class NotSquared(Radial):
    def to_data(self, z):
        x, log_det = super().to_data(z)
        alpha, beta, r = self.alpha, self.beta, (z - self.centre).norm(dim=-1)
        wrong = (1 + alpha * beta / (alpha + r)).abs() / (1 + alpha * beta / (alpha + r) ** 2)
        return x, log_det + wrong.log()


LAYERS = [(0.7, 2.3), (0.7, -0.4), (0.7, -0.69), (0.7, -0.7)]


@pytest.mark.parametrize(("alpha", "beta"), LAYERS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_both_directions_against_autograd(size, alpha, beta):
    generator = torch.Generator().manual_seed(1)
    flow = Radial(normal(generator, size), alpha, beta)
    for map in (flow.to_data, flow.to_latent):
        points = normal(generator, 4, size)
        sign, log_det = slogdet(lambda point, map=map: map(point)[0], points)
        torch.testing.assert_close(map(points)[1], log_det, atol=1e-11, rtol=0)
        assert (sign == 1).all()


@pytest.mark.parametrize(("alpha", "beta"), LAYERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (DOUBLE, 1e-13)])
def test_round_trips_keep_dtype_and_shape(alpha, beta, dtype, bound):
    generator = torch.Generator().manual_seed(2)
    flow = Radial(normal(generator, 3).to(dtype), alpha, beta)
    z = normal(generator, 2, 5, 3).to(dtype)
    x, log_det = flow.to_data(z)
    back, log_det_back = flow.to_latent(x)
    assert log_det.shape == (2, 5)
    assert x.dtype == log_det.dtype == back.dtype == log_det_back.dtype == dtype
    torch.testing.assert_close(back, z, atol=bound, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=10 * bound, rtol=0)


def test_batches_broadcast():
    generator = torch.Generator().manual_seed(3)
    centre, alpha, beta = normal(generator, 4, 1, 3), torch.tensor([0.5, 2.0]), torch.tensor(-0.4)
    z = normal(generator, 3)
    x, log_det = Radial(centre, alpha, beta).to_data(z)
    back, _ = Radial(centre, alpha, beta).to_latent(x)
    assert x.shape == (4, 2, 3)
    assert log_det.shape == (4, 2)
    torch.testing.assert_close(back, z.expand(4, 2, 3))
    one = Radial(centre[2, 0], alpha[1], beta).to_data(z)
    torch.testing.assert_close(one, (x[2, 1], log_det[2, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_centre_and_its_neighbourhood(dtype):
    centre = torch.tensor([1.5, -0.25], dtype=dtype)
    for alpha, beta in LAYERS:
        z, log_det = Radial(centre, alpha, beta).to_latent(centre)
        assert torch.equal(z, centre)
        expected = math.inf if beta == -alpha else -2 * math.log1p(beta / alpha)
        torch.testing.assert_close(log_det, torch.tensor(expected, dtype=dtype))
    assert Radial(torch.tensor([0.5]), 0.7, -0.7).to_data(torch.tensor([0.5]))[1] == -math.inf


def test_a_distance_so_small_that_its_square_is_zero():
    z, _ = Radial(torch.zeros(2), 1.0, -1.0).to_latent(torch.tensor([3e-200, 4e-200], dtype=DOUBLE))
    expected = math.sqrt(5e-200) * torch.tensor([0.6, 0.8], dtype=DOUBLE)
    torch.testing.assert_close(z, expected, atol=0, rtol=1e-14)
    z, _ = Radial(torch.zeros(2), 1.0, 2.0).to_latent(torch.tensor([3e30, 4e30]))
    torch.testing.assert_close(z, torch.tensor([3e30, 4e30]))


def test_both_directions_are_accurate_near_the_centre_and_near_the_identity():
    z = torch.tensor([3e-9, 4e-9])
    for beta in (-1.0, -1 + 1e-9, -0.5, 2.0):
        flow = Radial(torch.zeros(2), 1.0, beta)
        x, _ = flow.to_data(z)
        r = mp.mpf(z.double().norm().item())
        exact = float(1 + mp.mpf(beta) / (1 + r)) * z
        torch.testing.assert_close(x, exact, atol=0, rtol=1e-6)
        torch.testing.assert_close(flow.to_latent(x)[0], z, atol=0, rtol=1e-6)
    flow, z = Radial(torch.tensor([1e6, 1e6]), 1.0, 1e-12), torch.tensor([0.3, 0.4])
    for map in (flow.to_data, flow.to_latent):
        assert torch.equal(map(z)[0], z)


def test_a_weak_flow_keeps_the_digits_of_its_log_determinant():
    z = torch.tensor([0.3, -0.7], dtype=DOUBLE)
    r = mp.sqrt(mp.mpf(z[0].item()) ** 2 + mp.mpf(z[1].item()) ** 2)
    for beta in (1e-13, -1e-9, -0.99999999, 3.0):
        _, log_det = Radial(torch.zeros(2), 1.0, beta).to_data(z)
        a = 1 + r
        exact = float(mp.log(1 + mp.mpf(beta) / a) + mp.log(1 + mp.mpf(beta) / a**2))
        assert log_det.item() == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize(("alpha", "beta"), LAYERS)
def test_gradients(alpha, beta):
    generator = torch.Generator().manual_seed(4)
    inputs = [normal(generator, 2, 3), normal(generator, 3), alpha, beta]
    inputs = [torch.as_tensor(value, dtype=DOUBLE).requires_grad_() for value in inputs]
    free = inputs if beta > -alpha else inputs[:2]  # no difference quotient across the boundary
    rest = [value.detach() for value in inputs[len(free) :]]
    for name in ("to_data", "to_latent"):

        def map(point, *rest_of, name=name):
            return getattr(Radial(*rest_of, *rest), name)(point)

        assert gradcheck(map, free)
        assert gradgradcheck(map, free)


def test_the_gradient_where_the_distance_is_alpha_plus_beta():
    distance = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda rho: radius(rho, 0.5, 1.5), distance)


def test_the_gradient_at_the_centre_is_the_jacobian():
    flow = Radial(torch.tensor([0.25, 0.5]), 0.5, 1.0)
    point = torch.tensor([0.25, 0.5], dtype=DOUBLE)
    for map, scale in ((flow.to_data, 3.0), (flow.to_latent, 1 / 3)):
        J = torch.autograd.functional.jacobian(lambda point, map=map: map(point)[0], point)
        torch.testing.assert_close(J, scale * torch.eye(2, dtype=DOUBLE))


def test_what_becomes_a_parameter():
    alpha = torch.tensor(0.4, requires_grad=True)
    beta = torch.tensor(0.8)
    flow = Radial(torch.zeros(2), alpha.exp(), beta)
    assert set(flow.state_dict()) == {"centre", "beta"}
    sum(flow.to_latent(torch.tensor([0.3, 0.9]))).sum().backward()
    assert alpha.grad != 0
    assert flow.beta.grad != 0
    assert (flow.centre.grad != 0).all()
    with torch.no_grad():
        flow.beta.add_(1)
    assert beta == torch.tensor(0.8), "the tensor that was given is left alone"
    assert isinstance(Radial(nn.Parameter(torch.ones(2)), 1, 2).centre, nn.Parameter)


def test_a_parameter_that_has_left_its_domain_is_noticed():
    flow = Radial(torch.zeros(1), 1.0, -0.9)
    with torch.no_grad():
        flow.beta.sub_(0.2)
    for map in (flow.to_data, flow.to_latent):
        with pytest.raises(ValueError, match=re.escape("beta must be at least -alpha and finite")):
            map(torch.ones(1))


def test_alpha_plus_beta_is_added_before_rounding():
    x = torch.tensor([1e-12, 0.0])
    z, _ = Radial(torch.zeros(2), 1.0, -1 + 1e-9).to_latent(x)
    expected = float(bisected(x[0].item(), 1.0, -1 + 1e-9))
    assert z[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Radial(torch.zeros(1), 0.0, 1.0), "alpha must be positive and finite, got 0"),
        (
            lambda: Radial(torch.zeros(1), math.inf, 1.0),
            "alpha must be positive and finite, got inf",
        ),
        (
            lambda: Radial(torch.zeros(1), math.nan, 1.0),
            "alpha must be positive and finite, got nan",
        ),
        (
            lambda: Radial(torch.zeros(1), 1, -1.5),
            "beta must be at least -alpha and finite, got -1.5",
        ),
        (
            lambda: Radial(torch.zeros(1), 1.0, math.inf),
            "beta must be at least -alpha and finite, got inf",
        ),
        (
            lambda: Radial(torch.zeros(1), 1.0, math.nan),
            "beta must be at least -alpha and finite, got nan",
        ),
        (
            lambda: Radial(torch.zeros(1), torch.tensor([1.0, 2.0]), torch.tensor(-1.5)),
            "beta must be at least -alpha and finite, got -1.5",
        ),
        (lambda: Radial(torch.tensor(0.0), 1.0, 1.0), "centre must be a vector, got shape ()"),
        (lambda: Radial(torch.zeros(0), 1.0, 1.0), "centre must be a vector, got shape (0,)"),
        (
            lambda: Radial(torch.zeros(1), 1.0, 1.0).to_data(torch.ones(2)),
            "z must have 1 coordinates",
        ),
        (
            lambda: Radial(torch.zeros(3), 1.0, 1.0).to_latent(torch.ones(4, 1)),
            "x must have 3 coord",
        ),
        (lambda: Radial(torch.zeros(3), 1.0, 1.0).to_latent(torch.ones(())), "x must have 3 coord"),
        (
            lambda: Radial(torch.zeros(1), 1.0, 1.0).to_data(torch.tensor([1])),
            "z must have a floating dtype",
        ),
        (lambda: radius(torch.tensor([1.0, -2.0]), 1, 1), "distance must be at least 0, got -2"),
        (lambda: radius(torch.tensor([1.0]), 1, -2), "beta must be at least -alpha and finite"),
        (lambda: radius(torch.tensor([1]), 0.5, 0.5), "distance must have a floating dtype, got"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_the_figures_show_what_the_oracles_say():
    snippet = run_path(str(SNIPPET))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    *curves, several, _, _ = figure.axes[0].lines
    for line, beta in zip(curves, (2, -0.5, -1, -1.5), strict=True):
        r, phi = line.get_data()
        assert phi == pytest.approx(r + beta * r / (1 + r), abs=1e-6)
    assert several.get_ydata() == pytest.approx([-0.0375, -0.0375, 0.0375], abs=1e-6)
    ax = Figure().subplots()
    snippet["figure_error"](ax)
    obvious, stable = (line.get_ydata() for line in ax.lines)
    assert obvious.max() > 1e-5
    assert stable.max() < 1e-15
