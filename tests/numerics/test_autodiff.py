import math
import re
from functools import cache
from itertools import product
from pathlib import Path
from runpy import run_path

import mpmath
import pytest
import sympy
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.numerics.autodiff import jacobian, slogdet, sparsity

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/numerics/autodiff.py"


def draw(generator, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def affine(generator):
    A, b = draw(generator, 5, 5), draw(generator, 5)
    return lambda x: x @ A.T + b, lambda x: A.det().expand(x.shape[:-1])


def elementwise(generator):
    a, b = draw(generator, 5), 2 * draw(generator, 5)
    return lambda x: a * x**3 - b * x, lambda x: (3 * a * x**2 - b).prod(-1)


def triangular(generator):
    A, s = draw(generator, 5, 5).tril(-1), draw(generator, 5)
    return lambda x: s * x + torch.sin(x @ A.T), lambda x: s.prod().expand(x.shape[:-1])


def coupling(generator):
    A, B, order = draw(generator, 3, 2), draw(generator, 3, 2), [3, 0, 4, 1, 2]

    def f(x):
        kept, moved = x[..., order[:2]], x[..., order[2:]]
        return torch.cat([kept, torch.sinh(kept @ A.T) * moved + torch.cos(kept @ B.T)], -1)

    cycles = -1  # of the order: 0 3 1 and 2 4, one of them of even length
    return f, lambda x: cycles * torch.sinh(x[..., order[:2]] @ A.T).prod(-1)


def planar(generator):
    u, w = 2 * draw(generator, 5), draw(generator, 5)
    return (
        lambda x: x + u * torch.tanh(x @ w + 0.3)[..., None],
        lambda x: 1 + (u @ w) / torch.cosh(x @ w + 0.3) ** 2,
    )


def radial(generator):
    centre, alpha, beta = draw(generator, 4), 0.7, -2.9

    def f(x):
        r = (x - centre).norm(dim=-1, keepdim=True)
        return x + beta * (x - centre) / (alpha + r)

    def determinant(x):
        r = (x - centre).norm(dim=-1)
        return (1 + beta / (alpha + r)) ** 3 * (1 + beta * alpha / (alpha + r) ** 2)

    return f, determinant


def convolution(generator):
    W = draw(generator, 3, 3)
    return (
        lambda x: F.conv2d(x, W[:, :, None, None]),
        lambda x: (W.det() ** 15).expand(x.shape[:-3]),
    )


VECTORS = {affine: 5, elementwise: 5, triangular: 5, coupling: 5, planar: 5, radial: 4}


@cache
def symbols():
    """A map of three coordinates without structure, and its determinant, differentiated by hand."""
    x, y, z = sympy.symbols("x y z", real=True)
    formulas = [x * y - sympy.exp(z / 3), sympy.sin(x) + z**3 * y, z * x - y**2 / 2]
    determinant = sympy.Matrix(formulas).jacobian([x, y, z]).det()
    return (x, y, z), formulas, determinant


def without_structure(point):
    x, y, z = point.unbind(-1)
    return torch.stack([x * y - torch.exp(z / 3), torch.sin(x) + z**3 * y, z * x - y**2 / 2], -1)


def digits(points):
    """Sign and logarithm of the determinants, at 50 digits."""
    names, _, determinant = symbols()
    values = [determinant.evalf(50, subs=dict(zip(names, point, strict=True))) for point in points]
    logs = [mpmath.log(abs(mpmath.mpf(str(value)))) for value in values]
    return torch.tensor([[float(sympy.sign(v)) for v in values], logs], dtype=DOUBLE)


@pytest.mark.claim("numerics-logdet")
def test_log_det(evidence, slogdet=slogdet):
    for family, D in VECTORS.items():
        f, determinant = family(evidence.generator)
        x = draw(evidence.generator, 2, 6, D)
        sign, log_det = slogdet(f, x)
        evidence.exact(sign, determinant(x).sign(), oracle="closed forms of the determinant")
        evidence.numeric(
            log_det,
            determinant(x).abs().log(),
            bound=1e-10,
            oracle="closed forms of the determinant",
        )
    for _ in range(3):
        f, determinant = convolution(evidence.generator)
        x = draw(evidence.generator, 2, 3, 5, 3)
        sign, log_det = slogdet(f, x, 3)
        evidence.exact(sign, determinant(x).sign(), oracle="closed forms of the determinant")
        evidence.numeric(
            log_det,
            determinant(x).abs().log(),
            bound=1e-10,
            oracle="closed forms of the determinant",
        )
    x = draw(evidence.generator, 8, 3)
    evidence.numeric(
        torch.stack(slogdet(without_structure, x)),
        digits(x.tolist()),
        bound=1e-10,
        oracle="symbolic derivatives, at 50 digits",
    )
    sign, log_det = slogdet(lambda x: x.roll(1) / 2, torch.ones(2000, dtype=DOUBLE))
    evidence.exact(sign, -1.0, oracle="a cycle of even length is an odd permutation")
    half = torch.tensor(-2000 * mpmath.log(2), dtype=DOUBLE)
    evidence.numeric(log_det, half, bound=1e-9, oracle="2000 times the logarithm of 1/2")
    evidence.exact(f"{log_det:.6f}", "-1386.294361", oracle="the decimals of the claim")


@mutant(test_log_det, "the logarithm of the determinant")
def logarithm(f, x, event_dims=1):
    determinant = jacobian(f, x, event_dims).det()
    return determinant.sign(), determinant.log()


@mutant(test_log_det, "the logarithm of the absolute determinant")
def absolute(f, x, event_dims=1):
    determinant = jacobian(f, x, event_dims).det()
    return determinant.sign(), determinant.abs().log()


@mutant(test_log_det, "the sign left out")
def unsigned(f, x, event_dims=1):
    sign, log_det = slogdet(f, x, event_dims)
    return sign.abs(), log_det


@mutant(test_log_det, "float32 on the way")
def single(f, x, event_dims=1):
    sign, log_det = torch.linalg.slogdet(jacobian(f, x, event_dims).float())
    return sign.double(), log_det.double()


@mutant(test_log_det, "the diagonal alone")
def diagonal(f, x, event_dims=1):
    entries = jacobian(f, x, event_dims).diagonal(dim1=-2, dim2=-1)
    return entries.sign().prod(-1), entries.abs().log().sum(-1)


@mutant(test_log_det, "the trace of J - I, the first term of a series")
def trace(f, x, event_dims=1):
    sign, _ = slogdet(f, x, event_dims)
    J = jacobian(f, x, event_dims)
    return sign, J.diagonal(dim1=-2, dim2=-1).sum(-1) - J.shape[-1]


@mutant(test_log_det, "the log-determinant of the inverse")
def inverse(f, x, event_dims=1):
    sign, log_det = slogdet(f, x, event_dims)
    return sign, -log_det


@mutant(test_log_det, "the first point for all")
def first_point(f, x, event_dims=1):
    parts = slogdet(f, x.flatten(0, -event_dims - 1)[:1], event_dims)
    return tuple(part.expand(x.shape[: x.dim() - event_dims]) for part in parts)


def products(support, generator):
    """An analytic map; output i depends on the inputs in row i, and all slopes vanish at 0."""
    weights = 0.01 * draw(generator, *support.shape) * support

    def f(x):
        return torch.sin(x**2 @ weights.T) + (1 + support * (x**3 - 1)).prod(-1)

    return f


@pytest.mark.claim("numerics-sparsity")
def test_sparsity(evidence, sparsity=sparsity):
    for outputs, inputs in ((5, 5), (3, 7), (6, 2)):
        support = torch.rand(outputs, inputs, generator=evidence.generator) < 0.4
        f = products(support, evidence.generator)
        evidence.exact(
            sparsity(f, draw(evidence.generator, 1, inputs)),
            support,
            oracle="the factors of which the map was made",
        )
    names, formulas, _ = symbols()
    used = [[name in part.free_symbols for name in names] for part in sympy.Matrix(formulas)]
    evidence.exact(
        sparsity(without_structure, draw(evidence.generator, 1, 3)),
        torch.tensor(used),
        oracle="the symbols of the formulas",
    )
    kernel = draw(evidence.generator, 2, 2, 3, 3)
    kernel[:, :, 2], kernel[:, :, 1, 1:] = 0, 0
    pixels = list(product(range(2), range(4), range(3)))
    near = [[(r - 1, c - 1), (r - 1, c), (r - 1, c + 1), (r, c - 1)] for _, r, c in pixels]
    evidence.exact(
        sparsity(
            lambda x: torch.tanh(F.conv2d(x, kernel, padding=1)),
            draw(evidence.generator, 1, 2, 4, 3),
            3,
        ),
        torch.tensor([[(r, c) in around for _, r, c in pixels] for around in near]),
        oracle="the neighbours of each pixel, listed",
    )
    corners = draw(evidence.generator, 40, 6)
    found = sparsity(lambda x: torch.relu(x - x.roll(1, -1)), corners)
    ring = torch.eye(6, dtype=torch.bool)
    evidence.exact(found, ring | ring.roll(1, 0), oracle="the neighbours in a ring")
    faint = sparsity(lambda x: x + 1e-30 * x.roll(1, -1) ** 2, corners[:1])
    evidence.exact(faint, ring | ring.roll(1, 0), oracle="the neighbours in a ring")
    mirrored = sparsity(torch.square, torch.stack([corners[0], -corners[0]]))
    evidence.exact(mirrored, ring, oracle="each output is made of its own input")


@mutant(test_sparsity, "rows and columns exchanged")
def columns(f, x, event_dims=1):
    inputs = math.prod(x.shape[x.dim() - event_dims :])
    found = sparsity(f, x, event_dims)
    return found.T if len(found) == inputs else found


@mutant(test_sparsity, "the derivative at zero")
def at_zero(f, x, event_dims=1):
    return sparsity(f, torch.zeros_like(x), event_dims)


@mutant(test_sparsity, "derivatives below a hundredth taken for none")
def threshold(f, x, event_dims=1):
    J = jacobian(f, x, event_dims)
    return (J.abs() > 0.01).reshape(-1, *J.shape[-2:]).any(0)


@mutant(test_sparsity, "what is close to zero taken for zero")
def close_to_zero(f, x, event_dims=1):
    J = jacobian(f, x, event_dims)
    return (~torch.isclose(J, torch.zeros_like(J))).reshape(-1, *J.shape[-2:]).any(0)


@mutant(test_sparsity, "one point for a map with flat pieces")
def one_point(f, x, event_dims=1):
    return sparsity(f, x[:1], event_dims)


@mutant(test_sparsity, "the mean Jacobian of the points, in which slopes cancel")
def mean_of_points(f, x, event_dims=1):
    return jacobian(f, x, event_dims).flatten(0, -3).mean(0) != 0


@mutant(test_sparsity, "only what all points show")
def every_point(f, x, event_dims=1):
    J = jacobian(f, x, event_dims)
    return (J != 0).reshape(-1, *J.shape[-2:]).all(0)


def test_rows_are_outputs_and_columns_inputs():
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=DOUBLE)
    J = jacobian(lambda x: torch.stack([x[..., 0] * x[..., 1], x[..., 2] ** 2], -1), x)
    assert J.tolist() == [[[2, 1, 0], [0, 0, 6]], [[5, 4, 0], [0, 0, 12]]]


def test_events_of_all_sizes():
    x = torch.tensor([0.5, 2.0], dtype=DOUBLE)
    assert jacobian(torch.square, x, 0).tolist() == [[[1.0]], [[4.0]]]
    assert slogdet(torch.square, x, 0)[1].tolist() == [0.0, math.log(4)]
    assert jacobian(torch.sum, torch.ones(2, 3), 2).tolist() == [[1.0] * 6]
    image = torch.ones(4, 2, 3, 5)
    assert jacobian(lambda x: x.mean(0), image, 3).shape == (4, 15, 30)
    assert slogdet(lambda x: 2 * x, image, 2)[0].shape == (4, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype)
    x = torch.ones(3, 2, dtype=dtype)
    sign, log_det = slogdet(lambda x: x @ A.T, x)
    assert (sign.dtype, log_det.dtype) == (dtype, dtype)
    torch.testing.assert_close(sign, torch.tensor([-1.0] * 3, dtype=dtype))
    torch.testing.assert_close(log_det, torch.full((3,), math.log(2), dtype=dtype))
    assert sparsity(lambda x: x @ A.T, x).dtype == torch.bool


def test_gradients_flow_where_asked():
    x = torch.tensor([[0.5, -1.5], [2.0, 3.0]], dtype=DOUBLE, requires_grad=True)
    a = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    _, log_det = slogdet(lambda x: a * x**3, x, create_graph=True)
    by_x, by_a = torch.autograd.grad(log_det.sum(), [x, a])
    torch.testing.assert_close(by_x, 2 / x)
    torch.testing.assert_close(by_a, 4 / a)
    _, log_det = slogdet(lambda x: a * x**3, x.detach(), create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(log_det.sum(), a)[0], 4 / a)
    assert not slogdet(lambda x: a * x**3, x)[1].requires_grad


def test_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert slogdet(torch.exp, torch.tensor([1.0, 2.0]))[1] == 3.0


def test_maps_may_work_in_place_and_leave_the_points_alone():
    def f(x):
        x[..., 0] *= 3
        return x.exp_()

    x = torch.ones(2, 2, dtype=DOUBLE)
    torch.testing.assert_close(slogdet(f, x)[1], torch.full((2,), math.log(3) + 4, dtype=DOUBLE))
    assert torch.equal(x, torch.ones_like(x))


def test_parameters_receive_no_gradient():
    layer = torch.nn.Linear(2, 2)
    slogdet(layer, torch.ones(3, 2))
    assert layer.weight.grad is None


def test_outputs_that_read_nothing_have_rows_of_zeros():
    f = lambda x: torch.stack([x[0], torch.ones_like(x[0])])
    assert jacobian(f, torch.ones(2)).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert sparsity(f, torch.ones(2)).tolist() == [[True, False], [False, False]]
    sign, log_det = slogdet(f, torch.ones(2))
    assert (sign.item(), log_det.item()) == (0.0, -math.inf)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jacobian(torch.sin, torch.arange(3)), "x must be floating, got torch.int64"),
        (lambda: slogdet(torch.sin, torch.ones(3), 2), "event_dims must be from 0 to 1, got 2"),
        (lambda: slogdet(torch.sin, torch.ones(3), -1), "event_dims must be from 0 to 1, got -1"),
        (lambda: slogdet(lambda x: (x, 0), torch.ones(3)), "f must return one tensor, got tuple"),
        (
            lambda: slogdet(lambda x: x.float(), torch.ones(3, dtype=DOUBLE)),
            "f must keep the dtype torch.float64, got torch.float32",
        ),
        (
            lambda: slogdet(lambda x: x.double(), torch.ones(3)),
            "f must keep the dtype torch.float32, got torch.float64",
        ),
        (
            lambda: sparsity(lambda x: x.detach().exp(), torch.ones(3)),
            "f must be differentiable, got a result that autograd cannot follow",
        ),
        (
            lambda: slogdet(lambda x: x[..., :2], torch.ones(4, 3)),
            "f must keep the number of entries 3, got 2",
        ),
        (
            lambda: sparsity(lambda x: x.sqrt(), torch.zeros(3)),
            "f must have a finite Jacobian at x, got one that is not",
        ),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_the_figures_draw_what_they_say():
    snippet = run_path(str(SNIPPET))
    ax = Figure().add_subplot()
    snippet["figure"](ax)
    assert [text.get_text() for text in ax.texts] == ["zero from 1075 on", "zero from 150 on"]
    figure = Figure()
    snippet["figure_patterns"](figure)
    indices = list(product(range(1, 7), repeat=2))
    rules = (
        lambda i, j: j <= i,
        lambda i, j: i == j or (j <= 3 < i),
        lambda i, j: True,
        lambda i, j: (i - j) % 3 == 0,
    )
    for ax, rule in zip(figure.axes, rules, strict=True):
        drawn = {(i, j) for j, i in ax.collections[0].get_offsets().tolist()}
        assert drawn == {(i, j) for i, j in indices if rule(i, j)}
