import math
import operator
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

from genref._site.claims import mutant
from genref.numerics.quadrature import expectation, grid, hermite, joint_expectation

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/numerics/quadrature.py"


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def moment(degree, mean=Fraction(0), variance=Fraction(1)):
    """The mean of x to a power, in exact fractions."""
    pairs = [math.prod(range(1, 2 * k, 2)) * variance**k for k in range(degree // 2 + 1)]
    ways = [math.comb(degree, 2 * k) * mean ** (degree - 2 * k) for k in range(len(pairs))]
    return sum(map(operator.mul, pairs, ways), Fraction(0))


@cache
def zeros(n):
    """Zeros and weights by Newton's method at 40 digits, on the polynomials He_k themselves."""
    with mpmath.workdps(40):
        points = [mpmath.mpf(x) for x in np.polynomial.hermite_e.hermegauss(n)[0].tolist()]
        for _ in range(2):
            values = [recurrence(n, x) for x in points]
            points = [x - He[n] / (n * He[n - 1]) for x, He in zip(points, values, strict=True)]
        values = [recurrence(n, x)[:n] for x in points]
        squares = [[He**2 / mpmath.factorial(k) for k, He in enumerate(row)] for row in values]
        weights = [1 / mpmath.fsum(row) for row in squares]
        return double([points, weights])


def recurrence(n, x):
    He = [mpmath.mpf(1), x]
    for k in range(1, n):
        He.append(x * He[k] - k * He[k - 1])
    return He


@pytest.mark.claim("numerics-hermite-exact")
def test_exactness(evidence, rule=hermite, mean=expectation, joint=joint_expectation):
    for n in (1, 2, 7, 40, 101):
        expected = zeros(n)
        nodes, weights = rule(n)
        evidence.numeric(
            nodes,
            expected[0],
            bound=1e-14,
            oracle="Newton's method at 40 digits, from the recurrence",
        )
        evidence.numeric(
            weights,
            expected[1],
            bound=3e-13,
            relative=True,
            oracle="Newton's method at 40 digits, from the recurrence",
        )
    for n, (loc, scale) in product((1, 2, 3, 5, 8, 12), ((0.0, 1.0), (-0.75, 1.375))):
        mu, variance = Fraction(loc), Fraction(scale) ** 2
        for degree in range(2 * n):
            size = math.sqrt(moment(2 * degree, mu, variance))
            evidence.numeric(
                mean(lambda x, degree=degree: x**degree, loc, scale, n) / size,
                double(moment(degree, mu, variance) / Fraction(size)),
                bound=1e-13,
                oracle="moments of the normal law in exact fractions",
            )
        mean_of_power = moment(2 * n, mu, variance)
        evidence.numeric(
            mean(lambda x, n=n: x ** (2 * n) + x + 0.5, loc, scale, n),
            double(mean_of_power + mu + Fraction(1, 2) - math.factorial(n) * variance**n),
            bound=1e-12,
            relative=True,
            oracle="moments in exact fractions, less the shortfall of the claim",
        )
    x, w = rule(3)
    evidence.numeric((w * x**6).sum(), double(9), bound=1e-13, oracle="15 less 3!")
    for n, D in ((2, 3), (4, 2)):
        loc, form = torch.randn(2, D, dtype=DOUBLE, generator=evidence.generator)
        scale = torch.randn(D, D, dtype=DOUBLE, generator=evidence.generator)
        mu, variance = Fraction((form @ loc).item()), Fraction((form @ scale).square().sum().item())
        for degree in range(2 * n):
            size = math.sqrt(moment(2 * degree, mu, variance))
            evidence.numeric(
                joint(lambda x, w=form, d=degree: (x @ w) ** d, loc, scale, n) / size,
                double(moment(degree, mu, variance) / Fraction(size)),
                bound=1e-12,
                oracle="the law of a linear form, its moments in exact fractions",
            )


def physicists(n):
    x, w = np.polynomial.hermite.hermgauss(n)
    return torch.from_numpy(x), torch.from_numpy(w)


@mutant(test_exactness, "the physicists' nodes and weights, unscaled", of="rule")
def unscaled(n):
    return physicists(n)


@mutant(test_exactness, "the physicists' nodes with weights that sum to one", of="rule")
def half_scaled(n):
    x, w = physicists(n)
    return x, w / w.sum()


@mutant(test_exactness, "the densities at the nodes as weights", of="rule")
def densities(n):
    x, _ = hermite(n)
    return x, torch.softmax(-(x**2) / 2, 0)


@mutant(test_exactness, "exact for degree 2n too", of="mean")
def one_more(f, loc, scale, n):
    return expectation(f, loc, scale, n + 1)


@mutant(test_exactness, "one node fewer", of="mean")
def one_fewer(f, loc, scale, n):
    return expectation(f, loc, scale, max(n - 1, 1))


@mutant(test_exactness, "the variance for the standard deviation", of="mean")
def variance_for_scale(f, loc, scale, n):
    return expectation(f, loc, scale**2, n)


@mutant(test_exactness, "the matrix transposed", of="joint")
def transposed(f, loc, scale, n):
    return joint_expectation(f, loc, scale.T, n)


@mutant(test_exactness, "the covariance for its factor", of="joint")
def covariance(f, loc, scale, n):
    return joint_expectation(f, loc, scale @ scale.T, n)


@pytest.mark.claim("numerics-hermite-error")
def test_error_bound(evidence, mean=expectation):
    for n, (loc, scale) in product((1, 2, 5, 9, 14), ((0.0, 1.0), (0.7, 1.6))):
        share = math.factorial(n) / math.factorial(2 * n) * scale ** (2 * n)
        for frequency in (0.4, 1.9):
            measured = mean(lambda x, w=frequency: torch.cos(w * x + 0.3), loc, scale, n)
            expected = math.exp(-((frequency * scale) ** 2) / 2) * math.cos(frequency * loc + 0.3)
            evidence.ordered(
                abs(measured - expected),
                double(frequency ** (2 * n) * share),
                bound=1e-14,
                oracle="the characteristic function of the normal law, and the bound of the claim",
            )
        mu, variance = Fraction(loc), Fraction(scale) ** 2
        evidence.numeric(
            mean(lambda x, n=n: x ** (2 * n), loc, scale, n),
            double(moment(2 * n, mu, variance) - math.factorial(2 * n) * Fraction(share)),
            bound=1e-12,
            relative=True,
            oracle="moments in exact fractions, less the bound of the claim",
        )


@pytest.mark.claim("numerics-hermite-pole")
def test_pole(evidence, mean=expectation):
    for a, n in product((0.6, 1.7), (1, 2, 3, 8, 13, 30)):
        with mpmath.workdps(30):
            rho = mpmath.pcfd(-n - 1, a) / mpmath.pcfd(-n - 1, -mpmath.mpf(a))
            exact = mpmath.erfc(a / mpmath.sqrt(2)) * mpmath.sqrt(mpmath.pi / 2)
            exact *= mpmath.exp(mpmath.mpf(a) ** 2 / 2) / a
            factor = mpmath.sqrt(2 * mpmath.pi) * mpmath.exp(mpmath.mpf(a) ** 2 / 2) / a
            short = (-1) ** n * factor * rho / (1 + (-1) ** n * rho)
        measured = mean(lambda x, a=a: 1 / (a**2 + x**2), 0.0, 1.0, n)
        evidence.numeric(
            measured,
            double(exact - short),
            bound=1e-14,
            oracle="the mean by the error function, the integrals by parabolic cylinder functions",
        )
        error = double(exact) - measured
        found = (-1) ** n * error / (double(factor) - error)
        middle = 2 * a * math.sqrt(n)
        if found > 1e-8:
            evidence.ordered(
                found,
                double(math.exp(a**2 / 2 - middle)),
                bound=1e-13,
                oracle="the upper bound of the claim",
            )
            evidence.ordered(
                -found,
                double(-math.exp(-(a**2) / 2 - 2 * a * math.sqrt(n + 1))),
                bound=1e-13,
                oracle="the lower bound of the claim",
            )


@pytest.mark.claim("numerics-hermite-kink")
def test_kink(evidence, mean=expectation):
    limits = (math.pi * math.sqrt(2 * math.pi) / 24, -math.pi * math.sqrt(2 * math.pi) / 12)
    for n in (300, 301, 499, 500):
        evidence.numeric(
            n * (mean(torch.abs, 0.0, 1.0, n) - math.sqrt(2 / math.pi)),
            double(limits[n % 2]),
            bound=1e-3,
            oracle="the limits of the claim",
        )
    for n in (6, 7):
        evidence.numeric(
            mean(torch.abs, 0.0, 1.0, n),
            double(kink(n)),
            bound=1e-12,
            oracle="an integral over poles, by parabolic cylinder functions",
        )


def kink(n):
    """The value of the rule for |x|, from its errors for the functions with poles at ± ia."""

    def share(a):
        rho = mpmath.pcfd(-n - 1, a) / mpmath.pcfd(-n - 1, -a)
        return a * mpmath.exp(a**2 / 2) * rho / (1 + (-1) ** n * rho)

    total = mpmath.quad(share, [0, 0.5, 2, 6, 15, 40])  # the rest is below 1e-15 from n = 6 on
    return mpmath.sqrt(2 / mpmath.pi) * (1 + (-1) ** n * 2 * total)


@mutant(test_error_bound, "one node fewer")
@mutant(test_pole, "one node fewer")
def fewer(f, loc, scale, n):
    return expectation(f, loc, scale, max(n - 1, 1))


@mutant(test_error_bound, "the physicists' nodes, unscaled")
@mutant(test_pole, "the physicists' nodes, unscaled")
@mutant(test_kink, "the physicists' nodes, unscaled")
def physical(f, loc, scale, n):
    x, w = physicists(n) if n < 300 else (part / math.sqrt(2) for part in hermite(n))
    return (w * f(loc + scale * x)).sum() / w.sum()


@mutant(test_error_bound, "the variance for the standard deviation")
def wide(f, loc, scale, n):
    return expectation(f, loc, scale**2, n)


@mutant(test_error_bound, "equal steps in place of the zeros")
@mutant(test_pole, "equal steps in place of the zeros")
@mutant(test_kink, "equal steps in place of the zeros")
def equal_steps(f, loc, scale, n):
    x = torch.linspace(-6, 6, n + 1, dtype=DOUBLE)
    return (torch.softmax(-(x**2) / 2, 0) * f(loc + scale * x)).sum()


@mutant(test_kink, "both parities alike")
def even(f, loc, scale, n):
    return expectation(f, loc, scale, n + n % 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    nodes, weights = hermite(20, dtype)
    assert nodes.dtype == weights.dtype == dtype
    assert torch.equal(nodes, hermite(20)[0].to(dtype)), "computed in float64, rounded once"
    loc, scale = torch.tensor([0.3, 0.9], dtype=dtype), torch.tensor(1.4, dtype=dtype)
    for arguments in ((loc, scale), (loc, 1.4), (0.3, scale)):
        found = expectation(torch.cos, *arguments, 20)
        assert (found.dtype, found.shape) == (dtype, torch.as_tensor(arguments[0]).shape)
    matrix = torch.tensor([[1.2, 0.0], [0.4, 0.7]], dtype=dtype)
    found = joint_expectation(lambda x: x.cos().sum(-1), loc, matrix, 12)
    expected = ((-matrix.square().sum(1) / 2).exp() * loc.cos()).sum()
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)


def test_python_numbers_count_as_float64():
    assert expectation(torch.cos, 0.3, 1.4, 30).dtype == DOUBLE
    assert expectation(torch.cos, 0, 1, 30).dtype == DOUBLE


def test_batches_broadcast_and_values_may_have_any_shape():
    loc, scale = double([[0.3], [0.9]]), double([0.5, 1.4, 2.0])
    found = expectation(lambda x: torch.stack([x, x**2], -1), loc, scale, 5)
    expected = torch.stack([loc.expand(2, 3), loc**2 + scale**2], -1)
    torch.testing.assert_close(found, expected)


def test_joint_batches_broadcast():
    generator = torch.Generator().manual_seed(3)
    loc = torch.randn(5, 1, 2, generator=generator, dtype=DOUBLE)
    scale = torch.randn(3, 2, 2, generator=generator, dtype=DOUBLE)
    found = joint_expectation(lambda x: x[..., :, None] * x[..., None, :], loc, scale, 2)
    expected = loc[..., :, None] * loc[..., None, :] + scale @ scale.mT
    torch.testing.assert_close(found, expected)


def test_the_grid_has_all_points():
    nodes, weights = hermite(3)
    points, products = grid(3, 2)
    pairs = list(product(range(3), repeat=2))
    assert points.tolist() == [[nodes[i].item(), nodes[j].item()] for i, j in pairs]
    assert products.tolist() == [(weights[i] * weights[j]).item() for i, j in pairs]
    assert [part.shape for part in grid(4, 1)] == [(4, 1), (4,)]


def test_rules_are_symmetric_and_of_total_weight_one():
    for n in (*range(1, 30), 99, 500):
        nodes, weights = hermite(n)
        assert torch.equal(nodes, -nodes.flip(0))
        assert (nodes.diff() > 0).all()
        assert (weights >= 0).all()
        assert abs(weights.sum() - 1) < 1e-15


def test_indicators_and_complex_values_are_averaged():
    assert expectation(lambda x: x > 0, 0.0, 1.0, 6) == 0.5
    found = expectation(lambda x: torch.exp(1j * x), 0.4, 1.0, 30)
    assert abs(found - np.exp(0.4j - 0.5)) < 1e-14


def test_gradients_flow():
    loc, scale = double([0.3, -0.8]).requires_grad_(), double(1.2).requires_grad_()
    (slope,) = torch.autograd.grad(expectation(torch.sin, loc, scale, 30).sum(), scale)
    expected = (-scale * torch.exp(-(scale**2) / 2) * loc.sin()).sum()
    torch.testing.assert_close(slope, expected)
    matrix = double([[1.2, 0.0], [0.4, 0.7]]).requires_grad_()
    joint = joint_expectation(lambda x: x.square().sum(-1), loc, matrix, 3)
    torch.testing.assert_close(torch.autograd.grad(joint, matrix)[0], 2 * matrix)


def test_results_follow_the_device():
    assert hermite(3, device="meta")[0].is_meta
    assert expectation(torch.cos, torch.ones(2, device="meta"), 1.0, 3).is_meta
    matrix = torch.eye(2, device="meta")
    assert joint_expectation(torch.cos, torch.ones(2, device="meta"), matrix, 3).is_meta


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hermite(0), "n must be from 1 to 500, got 0"),
        (lambda: expectation(torch.cos, 0.0, 1.0, 501), "n must be from 1 to 500, got 501"),
        (lambda: hermite(3, torch.int64), "dtype must be floating, got torch.int64"),
        (
            lambda: expectation(torch.cos, torch.tensor(1), 2, 3),
            "dtype must be floating, got torch.int64",
        ),
        (lambda: grid(3, 0), "dimension must be at least 1, got 0"),
        (
            lambda: expectation(lambda x: x.sum(), 0.0, 1.0, 3),
            "f must return one value for each of 3 points, got ()",
        ),
        (
            lambda: expectation(lambda x: x.T, torch.ones(2), 1.0, 3),
            "f must return one value for each of 3 points, got (2, 3)",
        ),
        (
            lambda: expectation(lambda x: x.float(), 0.0, 1.0, 3),
            "f must keep the dtype torch.float64, got torch.float32",
        ),
        (
            lambda: expectation(lambda x: torch.exp(1j * x.float()), 0.0, 1.0, 3),
            "f must keep the dtype torch.float64, got torch.complex64",
        ),
        (
            lambda: joint_expectation(torch.cos, torch.ones(3), torch.ones(3), 2),
            "scale must end in shape (3, 3), got (3,)",
        ),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_the_figures_draw_shortfalls_and_laws():
    snippet = run_path(str(SNIPPET))
    ax = Figure().add_subplot()
    snippet["figure"](ax)
    for n, line in zip((3, 5, 8), ax.lines, strict=True):
        short = dict(line.get_xydata().tolist())
        assert all(short[degree] < 3e-15 for degree in range(2, 2 * n, 2))
        expected = math.factorial(n) / math.prod(range(1, 2 * n, 2))
        assert abs(short[2 * n] / expected - 1) < 1e-9
    ax = Figure().add_subplot()
    snippet["figure_nodes"](ax)
    kinks, poles, _, _, even, odd, law = (dict(x.get_xydata().tolist()) for x in ax.lines)
    for n in range(10, 61):
        assert abs(kinks[n] / (odd if n % 2 else even)[n] - 1) < 0.05
        assert abs(poles[n] / law[n] - 1) < 0.25
