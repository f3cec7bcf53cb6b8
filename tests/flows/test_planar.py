import math
import re
from itertools import pairwise
from pathlib import Path
from runpy import run_path

import mpmath as mp
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from genref._site.claims import mutant
from genref.flows.planar import Planar, root
from genref.numerics.autodiff import slogdet

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/flows/planar.py"
mp.mp.dps = 50


def normal(generator, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def uniform(generator, low, high):
    return low + (high - low) * torch.rand((), dtype=DOUBLE, generator=generator).item()


def planes(generator, size, c):
    """Random u, w and b with the given product of u and w."""
    u, w = normal(generator, 2, size)
    return u + (c - u @ w) * w / (w @ w), w, uniform(generator, -1.5, 1.5)


def moved(z, u, w, b):
    """The map as it is defined."""
    return z + u * torch.tanh(z @ w + b)[..., None]


def origin(x, u, w, b):
    """The z of one x in 50 digits: the share of u that was added is found by bisection."""
    wx = mp.mpf(b) + sum(mp.mpf(p) * mp.mpf(q) for p, q in zip(w.tolist(), x.tolist(), strict=True))
    wu = sum(mp.mpf(p) * mp.mpf(q) for p, q in zip(w.tolist(), u.tolist(), strict=True))
    low, high = mp.mpf(-1), mp.mpf(1)
    for _ in range(120):
        share = (low + high) / 2
        low, high = (share, high) if mp.tanh(wx - share * wu) > share else (low, share)
    return x - float(high) * u


def bisected(y, c):
    """The root of a + c tanh a = y in 50 digits, for y > 0."""
    y, c = mp.mpf(y), mp.mpf(c)
    low, high = mp.mpf(0), y + abs(c)
    for _ in range(260):
        a = (low + high) / 2
        low, high = (a, high) if a + c * mp.tanh(a) < y else (low, a)
    return high


def origins(c):
    """The number of points on the hyperplane's normal with the image of 0, by changes of sign."""
    places = [mp.mpf(2) ** k for k in range(-40, 12)]
    signs = [mp.sign(a + c * mp.tanh(a)) for a in places]
    return 1 + 2 * sum(p != q for p, q in pairwise(signs))


def accepts(layer, c):
    w = torch.tensor([2.0, -1.0], dtype=DOUBLE)
    try:
        layer(torch.tensor([1.0, 2.0 - c], dtype=DOUBLE), w, 0.3)
    except ValueError:
        return False
    return True


@pytest.mark.claim("x-flows-planar", answers=["C3.2"])
def test_planar(evidence, layer=Planar):
    products = [-5.0, -1.9, -1.125, -1 - 2**-20, -1.0, -1 + 2**-20, -0.75, 0.5, 1.5, 20.0]
    evidence.exact(
        {c: accepts(layer, c) for c in products},
        {c: origins(c) == 1 for c in products},
        oracle="changes of sign along the normal: one point has the image of 0",
    )
    for size in (1, 2, 3, 6):
        for c in (-0.97, -0.4, 0.7, 5.5):
            u, w, b = planes(evidence.generator, size, c)
            z = normal(evidence.generator, 4, size)
            sign, log_det = slogdet(lambda z, u=u, w=w, b=b: moved(z, u, w, b), z)
            flow = layer(u, w, b)
            evidence.exact(sign, torch.ones(4, dtype=DOUBLE), oracle="the sign of the claim")
            evidence.numeric(flow.to_data(z)[1], log_det, bound=1e-11, oracle="autograd")
            x = moved(z, u, w, b)
            evidence.numeric(flow.to_latent(x)[1], -log_det, bound=1e-9, oracle="autograd at z")
            x = 3 * normal(evidence.generator, 4, size)
            evidence.numeric(
                flow.to_latent(x)[0],
                torch.stack([origin(point, u, w, b) for point in x]),
                bound=1e-12,
                oracle="bisection for the share of u, in 50 digits",
            )
    w, point = torch.tensor([0.5, 0.25], dtype=DOUBLE), torch.tensor([-3.0, 2.0], dtype=DOUBLE)
    flow = layer(torch.tensor([-1.5, -1.0], dtype=DOUBLE), w, 1.0)
    on_and_off = torch.stack([point, point + w])
    measured = flow.to_data(on_and_off)[1].exp()
    slope = 1 - 1 / math.cosh(0.3125) ** 2
    evidence.numeric(measured, [0.0, slope], bound=1e-14, oracle="the determinant by hand")
    for c in (-0.5, 1.7):
        for size in (1, 2):
            u = torch.full((size,), c / 0.8 / size, dtype=DOUBLE)
            flow = layer(u, torch.full((size,), 0.8, dtype=DOUBLE), 0.3)
            evidence.numeric(total(flow, size), 1.0, bound=1e-8, oracle="a density sums to one")


def total(flow, size):
    """The integral of the density of the flow by the trapezoid rule."""
    line = torch.arange(-100, 101, dtype=DOUBLE) / 10
    x = torch.cartesian_prod(*[line] * size).view(-1, size)
    z, log_det = flow.to_latent(x)
    log_p = -z.square().sum(-1) / 2 - size / 2 * math.log(2 * math.pi) + log_det
    return log_p.exp().sum() / 10**size


@mutant(test_planar, "the determinant at x instead of z")
class AtX(Planar):
    def to_latent(self, x):
        return super().to_latent(x)[0], -self.to_data(x)[1]


@mutant(test_planar, "the inverse is a step back with the value at x")
class StepBack(Planar):
    def to_latent(self, x):
        z = x - self.u * torch.tanh((self.w * x).sum(-1, keepdim=True) + self.b)
        return z, -self.to_data(z)[1]


@mutant(test_planar, "the slope of the hyperbolic tangent is left out")
class NoSlope(Planar):
    def to_data(self, z):
        x, log_det = super().to_data(z)
        return x, (1 + (self.u * self.w).sum(-1)).log().expand_as(log_det)


@mutant(test_planar, "the product of the lengths instead of the inner product")
class Lengths(Planar):
    def to_data(self, z):
        a = (self.w * z).sum(-1) + self.b
        return super().to_data(z)[0], (1 + self.u.norm() * self.w.norm() / a.cosh() ** 2).log()


@mutant(test_planar, "no condition on the product")
def any_product(u, w, b):
    c = u @ w
    return Planar(u if c >= -1 else -u, w, b)


@mutant(test_planar, "the product must not be negative")
def not_negative(u, w, b):
    if u @ w < 0:
        raise ValueError
    return Planar(u, w, b)


@mutant(test_planar, "the product must lie above -1")
def strictly(u, w, b):
    if u @ w <= -1:
        raise ValueError
    return Planar(u, w, b)


@mutant(test_planar, "the movement must be a contraction")
def contraction(u, w, b):
    if u.norm() * w.norm() >= 1:
        raise ValueError
    return Planar(u, w, b)


def extremes(generator):
    """Pairs of y and c over many powers of ten, the boundary and its neighbourhood among them."""
    for _ in range(120):
        case = uniform(generator, 0, 1)
        c = 10 ** uniform(generator, -6, 6)
        if case < 0.2:
            c = -1.0
        elif case < 0.6:
            c = -1 + 10 ** uniform(generator, -15, 0)
        near = (1 + c) * uniform(generator, 0.5, 1.5)
        yield near if case > 0.8 else 10 ** uniform(generator, -30, 4), c


@pytest.mark.claim("flows-planar-root")
def test_root(evidence, solve=root):
    cases = list(extremes(evidence.generator))
    exact = [bisected(*case) for case in cases]
    found = [mp.mpf(solve(torch.tensor(y, dtype=DOUBLE), c).item()) for y, c in cases]
    errors = [float(abs(got - true) / true) for got, true in zip(found, exact, strict=True)]
    kappas = [kappa(*case, a) for case, a in zip(cases, exact, strict=True)]
    evidence.ordered(
        errors,
        [1e-15 * max(1, k) for k in kappas],
        bound=0.0,
        oracle="bisection and the derivative of the equation, in 50 digits",
    )
    evidence.ordered(
        kappas,
        [max(1, 1 + c) for _, c in cases],
        bound=1e-12,
        oracle="the bounds of the claim",
    )
    y, c = torch.tensor(cases, dtype=DOUBLE).T
    mirrored = [-float(a) for a in exact]
    evidence.numeric(
        solve(-y[:20], c[:20]),
        mirrored[:20],
        bound=1e-11,
        relative=True,
        oracle="the mirror image of the bisection",
    )


def kappa(y, c, a):
    derivative = mp.diff(lambda a: a + c * mp.tanh(a), a, h=a * mp.mpf(10) ** -15)
    return float(mp.mpf(y) / (a * derivative))


def halved(y, c, tolerance, value):
    low, high = torch.zeros_like(y), y.abs() + max(-c, 0)
    while (high - low) > tolerance and low < (a := (low + high) / 2) < high:
        low, high = (a, high) if value(a, c) < y.abs() else (low, a)
    return high.copysign(y)


@mutant(test_root, "the equation as it stands: its terms cancel")
def cancelling(y, c):
    if y.dim():
        return root(y, c)
    return halved(y, c, 0, lambda a, c: a + c * a.tanh())


@mutant(test_root, "bisection, stopped when the interval is 1e-12 long")
def coarse(y, c):
    if y.dim():
        return root(y, c)
    return halved(y, c, 1e-12, lambda a, c: a + c * a.tanh())


@mutant(test_root, "ten steps of the iteration a = y - c tanh a")
def iterated(y, c):
    a = y
    for _ in range(10):
        a = y - c * a.tanh()
    return a


PRODUCTS = (-1.0, -1 + 1e-9, -0.6, 0.0, 2.5)


@pytest.mark.parametrize("c", PRODUCTS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_both_directions_against_autograd(size, c):
    generator = torch.Generator().manual_seed(1)
    flow = Planar(*planes(generator, size, c))
    for map in (flow.to_data, flow.to_latent):
        points = normal(generator, 4, size)
        sign, log_det = slogdet(lambda point, map=map: map(point)[0], points)
        torch.testing.assert_close(map(points)[1], log_det, atol=1e-10, rtol=0)
        assert (sign == 1).all()


@pytest.mark.parametrize("c", PRODUCTS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (DOUBLE, 1e-13)])
def test_round_trips_keep_dtype_and_shape(c, dtype, bound):
    generator = torch.Generator().manual_seed(2)
    u, w, b = planes(generator, 3, c)
    flow = Planar(u.to(dtype), w.to(dtype), b)
    z = normal(generator, 2, 5, 3).to(dtype)
    x, log_det = flow.to_data(z)
    back, log_det_back = flow.to_latent(x)
    assert log_det.shape == (2, 5)
    assert x.dtype == log_det.dtype == back.dtype == log_det_back.dtype == dtype
    slowest = max(1, (-log_det).exp().max().item())
    torch.testing.assert_close(back, z, atol=bound * slowest, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=10 * bound * slowest**2, rtol=0)


def test_the_boundary_survives_rounding():
    generator = torch.Generator().manual_seed(3)
    for size in (1, 2, 3, 10, 100):
        for dtype in (torch.float32, DOUBLE):
            w = normal(generator, 50, size).to(dtype)
            flow = Planar(-w / (w * w).sum(-1, keepdim=True), w, 0.0)
            z = normal(generator, 50, size).to(dtype)
            back, _ = flow.to_latent(flow.to_data(z)[0])
            assert back.isfinite().all()


def test_batches_broadcast():
    generator = torch.Generator().manual_seed(4)
    u, w, b = normal(generator, 4, 1, 3), 0.2 * normal(generator, 3), torch.tensor([0.5, 2.0])
    z = normal(generator, 3)
    x, log_det = Planar(u, w, b).to_data(z)
    back, _ = Planar(u, w, b).to_latent(x)
    assert x.shape == (4, 2, 3)
    assert log_det.shape == (4, 2)
    torch.testing.assert_close(back, z.expand(4, 2, 3))
    one = Planar(u[2, 0], w, b[1]).to_data(z)
    torch.testing.assert_close(one, (x[2, 1], log_det[2, 1]))


def test_extreme_arguments():
    y = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-310, 1e300], dtype=DOUBLE)
    for c in PRODUCTS:
        a = root(y, c)
        assert a[:2].tolist() == [0, 0]
        assert a[2:4].tolist() == [math.inf, -math.inf]
        assert a[4].isnan()
        assert (a[5:] > 0).all()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a = root(torch.tensor([0.7, -2.0], dtype=dtype), -0.5)
        assert a.dtype == dtype
        eps = torch.finfo(dtype).eps
        a = a.double()
        torch.testing.assert_close(a - a.tanh() / 2, a.new_tensor([0.7, -2]), rtol=4 * eps, atol=0)


def test_log_determinants_keep_their_digits():
    for c in (1e-13, -1e-9, -1 + 1e-12, 1e6):
        for a in (1e-7, 0.4, 30.0):
            flow = Planar(torch.tensor([c], dtype=DOUBLE), torch.ones(1, dtype=DOUBLE), 0.0)
            _, log_det = flow.to_data(torch.tensor([a], dtype=DOUBLE))
            exact = mp.log(1 + mp.mpf(c) * mp.sech(mp.mpf(a)) ** 2)
            assert log_det.item() == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("c", [-0.9, 0.8])
def test_gradients(c):
    generator = torch.Generator().manual_seed(5)
    u, w, b = planes(generator, 3, c)
    inputs = [normal(generator, 2, 3), u, w, torch.tensor(b, dtype=DOUBLE)]
    inputs = [value.requires_grad_() for value in inputs]
    for name in ("to_data", "to_latent"):

        def map(point, u, w, b, name=name):
            return getattr(Planar(u, w, b), name)(point)

        assert gradcheck(map, inputs)
        assert gradgradcheck(map, inputs)


def test_what_becomes_a_parameter():
    scale = torch.tensor(0.4, requires_grad=True)
    w = torch.tensor([0.5, -0.3])
    flow = Planar(scale * torch.tensor([1.0, 2.0]), w, 0.1)
    assert set(flow.state_dict()) == {"w", "b"}
    sum(flow.to_latent(torch.tensor([0.3, 0.9]))).sum().backward()
    assert scale.grad != 0
    assert flow.b.grad != 0
    assert (flow.w.grad != 0).all()
    with torch.no_grad():
        flow.w.add_(1)
    assert w[0] == torch.tensor(0.5), "the tensor that was given is left alone"
    assert isinstance(Planar(nn.Parameter(torch.ones(2)), w, 0).u, nn.Parameter)


def test_a_parameter_that_has_left_its_domain_is_noticed():
    flow = Planar(torch.tensor([0.5]), torch.tensor([-1.5]), 0.0)
    with torch.no_grad():
        flow.u.add_(0.5)
    for map in (flow.to_data, flow.to_latent):
        with pytest.raises(ValueError, match=re.escape("u must have w·u at least -1 and finite")):
            map(torch.ones(1))


ONE, TWO = torch.ones(1), torch.ones(2)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Planar(-1.9 * ONE, ONE, 0), "u must have w·u at least -1 and finite, got -1.9"),
        (lambda: Planar(math.inf * ONE, ONE, 0), "u must have w·u at least -1 and finite, got inf"),
        (lambda: Planar(math.nan * ONE, ONE, 0), "u must have w·u at least -1 and finite, got nan"),
        (lambda: Planar(ONE, ONE, math.inf), "b must be finite, got inf"),
        (lambda: Planar(ONE[0], ONE, 0), "u must be a vector, u and w of one length, got shape ()"),
        (lambda: Planar(TWO, ONE, 0), "w must be a vector, u and w of one length, got shape (1,)"),
        (lambda: Planar(TWO, TWO, 0).to_data(ONE), "z must have 2 coordinates, got shape (1,)"),
        (lambda: Planar(ONE, ONE, 0).to_latent(ONE[0]), "x must have 1 coordinates, got shape ()"),
        (lambda: Planar(ONE, ONE, 0).to_latent(ONE.long()), "x must have a floating dtype"),
        (lambda: root(ONE, -1.5), "c must be at least -1 and finite, got -1.5"),
        (lambda: root(ONE, math.nan), "c must be at least -1 and finite, got nan"),
        (lambda: root(ONE.long(), 1), "y must have a floating dtype, got torch.int64"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_the_figure_shows_what_the_equation_says():
    figure = Figure(layout="constrained")
    run_path(str(SNIPPET))["figure"](figure)
    *curves, several, _ = figure.axes[0].lines
    for line, c in zip(curves, (2, -0.5, -1, -1.9), strict=True):
        a, y = (torch.as_tensor(data) for data in line.get_data())
        torch.testing.assert_close(y, a + c * a.tanh())
    assert several.get_ydata() == pytest.approx([0.2] * 3, abs=1e-5)
