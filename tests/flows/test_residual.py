import math
import re
from fractions import Fraction
from itertools import pairwise, product

import mpmath
import pytest
import sympy
import torch
from torch import nn

from genref._site.claims import mutant
from genref.flows.residual import Residual, certificate, margin, steps
from genref.numerics.autodiff import jacobian, slogdet

DOUBLE = torch.float64
Z = sympy.Symbol("z", real=True)


def draw(generator, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


# On the line.

LINE = {
    "arctan": (lambda z: z.atan() - z, sympy.atan(Z), mpmath.tan),
    "exp": (lambda z: z.exp() - z, sympy.exp(Z), mpmath.log),
    "arsinh": (lambda z: z.asinh() - z, sympy.asinh(Z), mpmath.sinh),
    "sum": (lambda z: 0.4 * z - 0.9 * z.sin(), 1.4 * Z - 0.9 * sympy.sin(Z), None),
}


def images():
    """The ends of the image of each map, as the claim states them, and of the cube."""
    whole = (-math.inf, math.inf)
    half = math.pi / 2
    return {"arctan": (-half, half), "exp": (0, math.inf), "arsinh": whole, "cube": whole}


def between(f, y, z):
    """The least and the largest slope of the map from y to z."""
    slopes = margin(f, torch.linspace(float(y), float(z), 2001, dtype=DOUBLE)[:, None])
    return slopes.min(), slopes.max()


@pytest.mark.claim("flows-residual", answers=["A5.3"])
def test_on_the_line(evidence, slope=margin, slopes=between, image=images):
    for f, g, inverse in LINE.values():
        z = 1.5 * draw(evidence.generator, 6, 1)
        derivative = sympy.lambdify(Z, sympy.diff(g, Z), "mpmath")
        exact = [float(derivative(float(t))) for t in z]
        evidence.numeric(slope(f, z), exact, bound=1e-12, oracle="derivatives by sympy")
        if inverse:
            back = [float(mpmath.diff(inverse, float(t + f(t)))) for t in z]
            product_of_slopes = slope(f, z) * torch.tensor(back, dtype=DOUBLE)
            evidence.numeric(product_of_slopes, [1.0] * 6, bound=1e-8, oracle="the inverse, by name")
        for y, t in zip(z[:-1, 0], z[1:, 0], strict=True):
            value = sympy.lambdify(Z, g, "mpmath")
            quotient = float(value(float(y)) - value(float(t))) / float(y - t)
            low, high = slopes(f, y, t)
            evidence.ordered(low - quotient, 0.0, bound=1e-6, oracle="quotients of differences")
            evidence.ordered(quotient - high, 0.0, bound=1e-6, oracle="quotients of differences")
            evidence.ordered(-quotient, 0.0, bound=0, oracle="quotients of differences")
    maps = {name: g for name, (_, g, inverse) in LINE.items() if inverse} | {"cube": Z**3}
    ends = {name: tuple(float(sympy.limit(g, Z, end)) for end in (-sympy.oo, sympy.oo)) for name, g in maps.items()}
    evidence.exact(image(), ends, oracle="limits by sympy")
    zero = torch.zeros(1, dtype=DOUBLE)
    cube = slope(lambda z: z**3 - z, zero)
    evidence.numeric(cube, 0.0, bound=1e-15, oracle="the derivative of the cube at 0")
    a, b, width = 0.3, 0.8, 1e4  # a margin of at least 0.2, then onto at a speed
    f = lambda z: (a - 1) * z + 0.1 * (z - b).sin() + 2
    least = float(slope(f, torch.linspace(-9, 9, 2001, dtype=DOUBLE)[:, None]).min())
    for t in (-width, width):
        reached = abs(a * t + 0.1 * math.sin(t - b) + 2 - (2 - 0.1 * math.sin(b)))
        evidence.ordered(least * width - reached, 0.0, bound=1e-6, oracle="values far out")


@mutant(test_on_the_line, "the slope of the branch, without the one", of="slope")
def branch_alone(f, z):
    return margin(f, z) - 1


@mutant(test_on_the_line, "the quotient is the slope at the first point", of="slopes")
def at_the_first_point(f, y, z):
    return between(f, y, y)


@mutant(test_on_the_line, "the quotient is the slope half way", of="slopes")
def half_way(f, y, z):
    return between(f, (y + z) / 2, (y + z) / 2)


@mutant(test_on_the_line, "strictly increasing, so onto", of="image")
def onto():
    return dict.fromkeys(images(), (-math.inf, math.inf))


@mutant(test_on_the_line, "onto only if there is a margin", of="image")
def only_with_a_margin():
    return images() | {"arsinh": (-math.pi / 2, math.pi / 2)}


# In several dimensions.


def spiral(point):
    """The exponential of a complex number."""
    a, b = point.unbind(-1)
    return torch.stack([a.exp() * b.cos(), a.exp() * b.sin()], -1)


@pytest.mark.claim("x-flows-det-not-enough")
def test_determinants(evidence, least=margin):
    z = draw(evidence.generator, 20, 2) * torch.tensor([0.7, 3.0], dtype=DOUBLE)
    a, b = z.unbind(-1)
    sign, log_det = slogdet(spiral, z)
    evidence.exact(sign, torch.ones(20, dtype=DOUBLE), oracle="e²ᵃ, which is positive")
    evidence.numeric(log_det, 2 * a, bound=1e-12, oracle="e²ᵃ, which is positive")
    turn = torch.tensor([0, 2 * math.pi], dtype=DOUBLE)
    evidence.numeric(spiral(z + turn), spiral(z), bound=1e-12, oracle="the period of the sine")
    padded = torch.cat([z, z[:, :1] + 0.3], -1)
    sign, _ = slogdet(lambda p: torch.cat([spiral(p[..., :2]), p[..., 2:]], -1), padded)
    evidence.exact(sign, torch.ones(20, dtype=DOUBLE), oracle="e²ᵃ, which is positive")
    measured = least(lambda z: spiral(z) - z, z)
    evidence.numeric(measured, a.exp() * b.cos(), bound=1e-12, oracle="eᵃ cos b")
    for D in (1, 2, 3):
        A, B = draw(evidence.generator, D, D), draw(evidence.generator, D, D)
        S = 3 * (A - A.mT) + A @ A.mT / D
        C = 0.3 * B / torch.linalg.matrix_norm(B, 2)
        f = lambda z, S=S, C=C: z @ S.mT + (z @ C.mT).sin()
        y, z = 2 * draw(evidence.generator, 30, D), 2 * draw(evidence.generator, 30, D)
        t = torch.linspace(0, 1, 101, dtype=DOUBLE)[:, None, None]
        low = least(f, z + t * (y - z)).amin(0)
        change, apart = (y + f(y)) - (z + f(z)), y - z
        slope = (change * apart).sum(-1) / apart.square().sum(-1)
        stretch = change.norm(dim=-1) / apart.norm(dim=-1)
        evidence.ordered(low - slope, 0.0, bound=1e-3, oracle="differences of values")
        evidence.ordered(low - stretch, 0.0, bound=1e-3, oracle="differences of values")
        v = draw(evidence.generator, 4000, D)
        v = v / v.norm(dim=-1, keepdim=True)
        J = torch.eye(D, dtype=DOUBLE) + S + (z[0] @ C.mT).cos()[:, None] * C
        forms = torch.einsum("ni,ij,nj->n", v, J, v)
        evidence.ordered(least(f, z[0]) - forms.min(), 0.0, bound=1e-9, oracle="4000 directions")
        if D < 3:
            closest = forms.min()
            evidence.numeric(least(f, z[0]), closest, bound=1e-3, oracle="4000 directions")


@mutant(test_determinants, "the determinant")
def determinant(f, z):
    return slogdet(lambda z: z + f(z), z)[1].exp()


@mutant(test_determinants, "the least real part of an eigenvalue of the Jacobian")
def real_part(f, z):
    return torch.linalg.eigvals(jacobian(lambda z: z + f(z), z)).real.amin(-1)


@mutant(test_determinants, "the least singular value of the Jacobian")
def singular_value(f, z):
    return torch.linalg.svdvals(jacobian(lambda z: z + f(z), z)).amin(-1)


def branch(generator, D, L, width=8):
    """A network with one hidden layer whose Lipschitz constant is at most L."""
    V, W = draw(generator, width, D), draw(generator, D, width)
    V, W = V / torch.linalg.matrix_norm(V, 2), W / torch.linalg.matrix_norm(W, 2)
    return lambda z: L * torch.tanh(z @ V.mT) @ W.mT


def stretches(L):
    return 1 - L, 1 + L


@pytest.mark.claim("x-flows-residual-lipschitz")
def test_contraction(evidence, bound=certificate, count=steps, stretch=stretches):
    for c, start in product((Fraction(-9, 10), Fraction(7, 10), Fraction(-97, 100)), (0, 3)):
        L, x = abs(c), Fraction(5)
        z = [Fraction(start)]
        for _ in range(60):
            z.append(x - c * z[-1])
        error = [abs(each - x / (1 + c)) for each in z]
        step = [abs(new - old) for old, new in pairwise(z)]
        for k in range(1, 61):
            ratio = error[k] / step[k - 1]
            allowed = bound(float(L), 1.0)
            evidence.ordered(float(ratio) / allowed, 1.0, bound=1e-9, oracle="fractions")
            if c < 0:
                evidence.numeric(allowed, float(ratio), bound=1e-9, oracle="fractions")
        for tolerance in (0.95 * float(error[40]), 0.95 * float(error[7])):
            enough = count(float(L), float(step[0]), tolerance)
            reached = enough <= 60 and error[enough] <= tolerance
            evidence.exact(reached, True, oracle="fractions")
            if c < 0:
                evidence.exact(error[enough - 1] > tolerance, True, oracle="fractions")
    for D, L in ((1, 0.6), (2, 0.97), (5, 0.9)):
        f = branch(evidence.generator, D, L)
        star, z = 2 * draw(evidence.generator, 7, D), draw(evidence.generator, 7, D)
        x, first = star + f(star), (star - z).norm(dim=-1)
        low, high = stretch(L)
        for k in range(1, 40):
            z, old = x - f(z), z
            error, allowed = (z - star).norm(dim=-1), bound(L, (z - old).norm(dim=-1))
            evidence.ordered(error - allowed, 0.0, bound=1e-12, oracle="the point that x is made of")
            evidence.ordered(error, L**k * first, bound=1e-12, oracle="powers of ℓ")
        for g in (f, lambda z, L=L: -L * z, lambda z, L=L: L * z):
            J = jacobian(lambda z, g=g: z + g(z), star)
            s = torch.linalg.svdvals(J)
            evidence.ordered(low - s, 0.0, bound=1e-12, oracle="singular values")
            evidence.ordered(s - high, 0.0, bound=1e-12, oracle="singular values")
            sign, log_det = torch.linalg.slogdet(J)
            evidence.exact(sign, torch.ones(7, dtype=DOUBLE), oracle="signs of the pivots")
            evidence.ordered(D * math.log(low) - log_det, 0.0, bound=1e-12, oracle="LU factors")
            evidence.ordered(log_det - D * math.log(high), 0.0, bound=1e-12, oracle="LU factors")
            y = star.flip(0)[:3]
            apart = (y - star[:3]).norm(dim=-1)
            ratio = (y + g(y) - star[:3] - g(star[:3])).norm(dim=-1) / apart
            evidence.ordered(low - ratio, 0.0, bound=1e-12, oracle="differences of values")
            evidence.ordered(ratio - high, 0.0, bound=1e-12, oracle="differences of values")


@mutant(test_contraction, "the last step taken for the error", of="bound")
def last_step(lipschitz, step):
    return step


@mutant(test_contraction, "ℓ times the last step", of="bound")
def shorter(lipschitz, step):
    return lipschitz * step


@mutant(test_contraction, "1 + ℓ in place of 1 - ℓ", of="bound")
def wrong_sign(lipschitz, step):
    return lipschitz / (1 + lipschitz) * step


@mutant(test_contraction, "the error after k steps is at most ℓᵏ", of="count")
def powers_alone(lipschitz, step, tolerance):
    return max(1, math.ceil(math.log(tolerance) / math.log(lipschitz)))


@mutant(test_contraction, "the first step without 1 / (1 - ℓ)", of="count")
def no_denominator(lipschitz, step, tolerance):
    return max(1, math.ceil(math.log(tolerance / step) / math.log(lipschitz)))


@mutant(test_contraction, "the bounds of the inverse for the lower end", of="stretch")
def of_the_inverse(L):
    return 1 / (1 + L), 1 + L


@mutant(test_contraction, "a residual map contracts", of="stretch")
def contracts(L):
    return 1 - L, 1.0


L97 = 0.97


def diagonal(function):
    """A map of each coordinate on its own: in torch, and the inverse by a root with 50 digits."""

    def exact(x):
        g = lambda t, c: t + function(t, mpmath) - mpmath.mpf(c)
        return [mpmath.findroot(lambda t, c=c: g(t, c), (-400, 400), solver="anderson") for c in x]

    return (lambda z: function(z, torch)), exact


def linear(A):
    def exact(x):
        return mpmath.lu_solve(mpmath.eye(len(A)) + mpmath.matrix(A.tolist()), mpmath.matrix(x))

    return (lambda z: z @ A.mT), exact


def hidden(V, W):
    """A network; its inverse is found by Newton's method with 50 digits."""

    def exact(x):
        D, x, z = len(x), mpmath.matrix(x), mpmath.matrix(x)
        v, w = mpmath.matrix(V.tolist()), mpmath.matrix(W.tolist())
        for _ in range(100):
            h = (v * z).apply(mpmath.tanh)
            slopes = mpmath.diag([mpmath.mpf(L97) * (1 - t**2) for t in h])
            step = mpmath.lu_solve(mpmath.eye(D) + w * slopes * v, z + L97 * (w * h) - x)
            z = z - step
            if mpmath.norm(step) < mpmath.mpf(10) ** -45:
                return z
        raise AssertionError("Newton's method does not converge")

    return (lambda z: L97 * torch.tanh(z @ V.mT) @ W.mT), exact


def hard_branches(generator):
    turn = torch.linalg.qr(draw(generator, 3, 3)).Q
    V = draw(generator, 8, 5)
    V = V / torch.linalg.matrix_norm(V, 2)
    eye = torch.eye(2, dtype=DOUBLE)
    yield 2, linear(-L97 * eye)
    yield 2, linear(L97 * eye)
    yield 3, linear(L97 * turn)
    yield 1, diagonal(lambda t, m: -L97 * m.sin(t))
    yield 2, diagonal(lambda t, m: L97 * m.sin(t))
    yield 5, hidden(V, -V.mT)


@pytest.mark.claim("flows-residual-certificate")
def test_certificate(evidence, layer=Residual):
    for D, (f, exact) in hard_branches(evidence.generator):
        for size in (0.1, 3.0, 10.0):
            z = draw(evidence.generator, D)
            z = size * z / z.norm()
            x = z + f(z)
            found, error = layer(f, L97).invert(x)
            with mpmath.workdps(50):
                star = exact(x.tolist())
                true = float(mpmath.norm([a - b for a, b in zip(found.tolist(), star, strict=True)]))
            evidence.numeric(true, 0.0, bound=1e-12, oracle="the inverse with 50 digits")
            evidence.ordered(true / error, 1.0, bound=0, oracle="the inverse with 50 digits")
            evidence.ordered(error, 1e-11, bound=0, oracle="the number of the claim")


@mutant(test_certificate, "stopped at a short step, which is taken for the error")
class ShortStep(Residual):
    def invert(self, x):
        z, step = x, torch.ones(())
        while step > 1e-12:
            z, old = x - self.f(z), z
            step = (z - old).norm(dim=-1)
        return z, step


@mutant(test_certificate, "a fixed number of steps")
class HundredSteps(Residual):
    def invert(self, x):
        z = x
        for _ in range(100):
            z, old = x - self.f(z), z
        return z, certificate(self.lipschitz, (z - old).norm(dim=-1))


@mutant(test_certificate, "no allowance for rounding")
class NoRounding(Residual):
    def invert(self, x):
        z = x
        for _ in range(3000):
            z, old = x - self.f(z), z
        return z, certificate(self.lipschitz, (z - old).norm(dim=-1))


@mutant(test_certificate, "the sign of the iteration")
class WrongSign(Residual):
    def invert(self, x):
        z, error = super().invert(x)
        return x + self.f(z), error


# The layer.


def small_network(D, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(D)
    net = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D)).to(dtype)
    for p in net.parameters():
        nn.init.normal_(p, generator=generator)
    for m in (net[0], net[2]):
        m.weight.data *= 0.95 / torch.linalg.matrix_norm(m.weight.data, 2)
    return net


@pytest.mark.parametrize("D", [1, 2, 5])
def test_both_directions_have_the_jacobian_of_autograd(D):
    layer = Residual(small_network(D), 0.91)
    z = 2 * draw(torch.Generator().manual_seed(1), 2, 3, D)
    x, log_det = layer.to_data(z)
    sign, expected = slogdet(lambda z: layer.to_data(z)[0], z)
    assert (sign == 1).all()
    torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-13)
    back, minus = layer.to_latent(x)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-13)
    torch.testing.assert_close(minus, -log_det, rtol=0, atol=1e-12)
    _, expected = slogdet(lambda x: layer.to_latent(x)[0], x)
    torch.testing.assert_close(minus, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("D", [1, 2])
def test_the_density_has_the_integral_one(D):
    net = small_network(D)
    layer = Residual(lambda z: 0.6 * net(z), 0.6)
    line = torch.linspace(-12, 12, 401 if D == 1 else 121, dtype=DOUBLE)
    x = torch.cartesian_prod(*[line] * D).view(-1, D)
    with torch.no_grad():
        z, log_det = layer.to_latent(x)
    density = (log_det - z.square().sum(-1) / 2).exp() / (2 * math.pi) ** (D / 2)
    cell = (line[1] - line[0]) ** D
    assert abs(density.sum() * cell - 1) < 1e-9


def test_gradients_flow_through_the_inverse():
    w = torch.tensor([[0.3, -0.5], [0.4, 0.2]], dtype=DOUBLE, requires_grad=True)
    x = draw(torch.Generator().manual_seed(1), 3, 2).requires_grad_()

    def latent(x, w):
        return Residual(lambda z: torch.sin(z) @ w, 0.8).to_latent(x)

    torch.autograd.gradcheck(latent, (x, w))
    layer = Residual(small_network(2), 0.91)
    z, log_det = layer.to_latent(x)
    (z.sum() + log_det.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_without_parameters_nothing_wants_gradients():
    layer = Residual(lambda z: z.sin() / 2, 0.5)
    x, log_det = layer.to_data(torch.ones(2))
    z, other = layer.to_latent(x)
    assert not any(t.requires_grad for t in (x, log_det, z, other))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("options", [{}, {"series": 5}, {"series": 5, "probes": 2}, {"roulette": True}])
def test_results_keep_the_dtype_and_the_shape(dtype, options):
    layer = Residual(small_network(3, dtype), 0.91, **options)
    for shape in ((), (4,), (2, 1, 4), (0,)):
        z = torch.ones(*shape, 3, dtype=dtype)
        for value, log_det in (layer.to_data(z), layer.to_latent(z)):
            assert (value.dtype, value.shape) == (dtype, z.shape)
            assert (log_det.dtype, log_det.shape) == (dtype, shape)


def test_series_and_roulette_agree_with_the_exact_value():
    f, z = small_network(3), draw(torch.Generator().manual_seed(1), 4, 3)
    with torch.no_grad():
        exact = Residual(f, 0.91).log_det(z)
        assert (Residual(f, 0.91, series=200).log_det(z) - exact).abs().max() < 1e-9
        generator = torch.Generator().manual_seed(2)
        layer = Residual(f, 0.91, roulette=True, probes=1, generator=generator)
        sample = layer.log_det(z.expand(5000, 4, 3))
    error = sample.std(0) / math.sqrt(5000)
    assert ((sample.mean(0) - exact).abs() < 5 * error).all()


def test_the_inverse_certifies_in_single_precision_too():
    layer = Residual(small_network(4, torch.float32), 0.91)
    z = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x, _ = layer.to_data(z.double().float())
        found, bound = layer.invert(x)
        exact, _ = layer.double().invert(x.double())
    assert ((found - exact).norm(dim=-1) <= bound).all()
    assert bound.max() < 1e-3


def test_a_branch_without_slope_is_inverted_at_once():
    layer = Residual(lambda z: 0 * z + 2, 0)
    z, bound = layer.invert(torch.ones(2, dtype=DOUBLE))
    assert z.tolist() == [-1, -1]
    assert bound < 1e-14


def test_the_count_of_steps_is_the_least():
    for L, step, tolerance in product((0.0, 0.2, 0.5, 0.97), (0.3, 70.0), (2.0, 1e-3, 1e-9)):
        k = steps(L, step, tolerance)
        assert L**k / (1 - L) * step <= tolerance * (1 + 1e-12)
        assert k == 1 or L ** (k - 1) / (1 - L) * step > tolerance
    assert steps(0.5, 1e300, 1e-300) == 1995


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Residual(torch.sin, 1.0), "lipschitz must be at least 0 and less than 1, got 1.0"),
        (lambda: Residual(torch.sin, -0.5), "lipschitz must be at least 0 and less than 1, got -0.5"),
        (lambda: Residual(torch.sin, math.nan), "lipschitz must be at least 0 and less than 1"),
        (lambda: Residual(torch.sin, 0.5, series=0), "series must be at least 1, got 0"),
        (lambda: Residual(torch.sin, 0.5, roulette=True, probes=0), "probes must be at least 1"),
        (lambda: Residual(torch.sin, 0.5, probes=3), "probes must be None for exact"),
        (lambda: certificate(1.2, 0.1), "lipschitz must be at least 0 and less than 1, got 1.2"),
        (lambda: steps(1.2, 0.1, 0.1), "lipschitz must be at least 0 and less than 1, got 1.2"),
        (lambda: steps(0.5, 0.0, 0.1), "step and tolerance must be positive and finite, got 0.0 and 0.1"),
        (lambda: steps(0.5, 1.0, -0.1), "tolerance must be positive and finite, got 1.0 and -0.1"),
        (lambda: steps(0.5, math.inf, 0.1), "step and tolerance must be positive and finite, got inf"),
        (lambda: margin(torch.sin, torch.tensor(1.0)), "z must be floating, its last"),
        (lambda: Residual(torch.sin, 0.5).invert(torch.tensor(1.0)), "x must be floating, its"),
        (lambda: Residual(torch.sin, 0.5).to_data(torch.ones(2).long()), "z must be floating"),
        (lambda: Residual(lambda z: z[:1], 0.5).invert(torch.ones(2)), "f must keep the shape (2,)"),
        (lambda: Residual(lambda z: z[:1], 0.5).to_data(torch.ones(2)), "keep the shape (2,), got (1,)"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_a_constant_that_is_too_small_is_found_out():
    layer = Residual(lambda z: -0.8 * z, 0.5)
    with pytest.raises(ValueError, match=r"lipschitz must be at least 0\.8 here, got 0\.5"):
        layer.invert(torch.ones(3, 2, dtype=DOUBLE))
