import re
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.linalg import null_space
from scipy.optimize import brentq, lsq_linear
from sympy import Matrix, Rational, eye, zeros
from torch import inf, nan
from torch.autograd import gradcheck

from genref._site.claims import mutant
from genref.projection.sets import affine, box, l1, l2, masked_box, simplex

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/projection/sets.py"
N = 2000


def normal(generator, *shape, scale=1.5):
    return scale * torch.randn(*shape, dtype=DOUBLE, generator=generator)


def eighths(generator, *shape):
    """Multiples of 1/8: floats are exact, and ties and points on the boundary occur."""
    return torch.randint(-16, 17, shape, generator=generator).to(DOUBLE) / 8


def fractions(rows):
    return [[Fraction(entry) for entry in row] for row in rows.tolist()]


def floats(rows):
    return torch.tensor([[float(entry) for entry in row] for row in rows], dtype=DOUBLE)


def product_at(y, x, points):
    """The largest product of y - x with c - x over the given points c of the set."""
    return ((y - x)[:, None] * (points - x[:, None])).sum(-1).max()


def expansion(y, x):
    """By how much the squared distance of two projections exceeds its product with that of y."""
    return ((x - x.roll(1, 0)) * (x - x.roll(1, 0) - y + y.roll(1, 0))).sum(-1).max()


def corners(low, high):
    return torch.tensor(list(product(*zip(low.tolist(), high.tolist(), strict=True))), dtype=DOUBLE)


def nearest(y, candidates):
    """The one of the candidates that is nearest to y, all coordinates being fractions."""
    return min(candidates, key=lambda x: sum((p - q) ** 2 for p, q in zip(x, y, strict=True)))


def on_box(y, low, high):
    """Each coordinate is left as it is, if it may be, or put at one of its bounds."""
    places = [{a, b, p} if a <= p <= b else {a, b} for p, a, b in zip(y, low, high, strict=True)]
    return list(nearest(y, product(*places)))


def subsets(D):
    return [set(S) for size in range(1, D + 1) for S in combinations(range(D), size)]


def on_simplex(y):
    """Each set of coordinates is allowed to be positive in turn, the others being zero."""
    found = []
    for S in subsets(len(y)):
        theta = (sum(y[i] for i in S) - 1) / len(S)
        x = [p - theta if i in S else Fraction(0) for i, p in enumerate(y)]
        found += [x] if min(x) >= 0 else []
    return nearest(y, found)


def on_diamond(y, radius):
    """The point itself, if it is inside, or a point of the plane through one of the faces."""
    if sum(map(abs, y)) <= radius:
        return y
    found = []
    for S in subsets(len(y)):
        for signs in product((-1, 1), repeat=len(S)):
            sign = dict(zip(S, signs, strict=True))
            theta = (sum(sign[i] * y[i] for i in S) - radius) / len(S)
            x = [p - sign[i] * theta if i in S else Fraction(0) for i, p in enumerate(y)]
            found += [x] if sum(map(abs, x)) <= radius else []
    return nearest(y, found)


def by_kkt(y, A, b):
    """Solves x + A'z = y, Ax = b by elimination; z need not be unique, and x is."""
    A, m, D = Matrix([list(map(Rational, row)) for row in A]), len(A), len(y)
    system = Matrix.vstack(Matrix.hstack(eye(D), A.T), Matrix.hstack(A, zeros(m, m)))
    right = Matrix(list(map(Rational, [*y, *b])))
    reduced, pivots = Matrix.hstack(system, right).rref()
    assert pivots[:D] == tuple(range(D))
    return [Fraction(int(x.p), int(x.q)) for x in reduced[:D, -1]]


def least_squares(y, low, high):
    return lsq_linear(np.eye(len(y)), y, bounds=(low, high), method="bvls", tol=1e-15).x.tolist()


@pytest.mark.claim("projection-box", answers=["D2"])
def test_box(evidence, project=box):
    for D in (1, 2, 3, 6):
        low = normal(evidence.generator, D)
        high = low + normal(evidence.generator, D).abs()
        y = normal(evidence.generator, N, D)
        x = project(y, low, high)
        evidence.exact((x < low).sum() + (x > high).sum(), 0, oracle="the bounds of the box")
        largest = product_at(y, x, corners(low, high))
        evidence.ordered(largest, 0.0, bound=1e-12, oracle="the angle condition at every corner")
        evidence.ordered(expansion(y, x), 0.0, bound=1e-12, oracle="firm non-expansiveness")
        evidence.exact(project(x, low, high) - x, torch.zeros(N, D), oracle="points of the box")
        evidence.numeric(
            x[:20],
            floats(least_squares(p, low.numpy(), high.numpy()) for p in y[:20].numpy()),
            bound=1e-6,
            oracle="least squares with bounds, by an active-set method",
        )
    a = normal(evidence.generator, 1)
    segment = torch.tensor([[a, 0.0], [a, 1.0]], dtype=DOUBLE)
    for low, high in (eighths(evidence.generator, 2, 4).sort(0).values, segment):
        y = eighths(evidence.generator, 100, len(low))
        sides = fractions(torch.stack([low, high]))
        evidence.exact(
            fractions(project(y, low, high)),
            [on_box(p, *sides) for p in fractions(y)],
            oracle="the nearest of the points with each coordinate free or at a bound",
        )
    y = normal(evidence.generator, N, 2)
    x = project(y, *segment)
    evidence.exact(x[:, 0], a.expand(N), oracle="x_1 = a")
    largest = product_at(y, x, segment)
    evidence.ordered(largest, 0.0, bound=1e-12, oracle="the angle condition at both ends")
    low = torch.tensor([-inf, 0.3, -inf], dtype=DOUBLE)
    high = torch.tensor([0.2, inf, inf], dtype=DOUBLE)
    y = normal(evidence.generator, N, 3)
    expected = [[p if p < 0.2 else 0.2, q if q > 0.3 else 0.3, r] for p, q, r in y.tolist()]
    evidence.exact(project(y, low, high).tolist(), expected, oracle="one bound or none")


@mutant(test_box, "max and min are swapped")
def swapped(y, low, high):
    return y.minimum(low).maximum(high)


@mutant(test_box, "a coordinate with equal bounds is forgotten")
def forgotten(y, low, high):
    return torch.where(low == high, y, y.clamp(low, high))


@mutant(test_box, "only the upper bound is kept")
def one_sided(y, low, high):
    return y.minimum(high)


@mutant(test_box, "the values are rescaled into the bounds")
def rescaled(y, low, high):
    least, most = y.amin(0), y.amax(0)
    return low + (high - low) * (y - least) / (most - least)


@pytest.mark.claim("projection-masked-box", answers=["D3"])
def test_masked_box(evidence, project=masked_box):
    for D in (1, 2, 3, 6):
        low = normal(evidence.generator, D) - 1
        high = low + normal(evidence.generator, D).abs()
        known = torch.arange(D) % 3 == torch.randint(3, (1,), generator=evidence.generator)
        image = low + (high - low) * torch.rand(D, dtype=DOUBLE, generator=evidence.generator)
        y = normal(evidence.generator, N, D)
        x = project(y, known, image, low, high)
        evidence.exact(x[:, known], image[known].expand(N, -1), oracle="the known values")
        evidence.exact((x < low).sum() + (x > high).sum(), 0, oracle="the bounds of the box")
        face = corners(torch.where(known, image, low), torch.where(known, image, high))
        largest = product_at(y, x, face)
        evidence.ordered(largest, 0.0, bound=1e-12, oracle="the angle condition at every corner")
        evidence.ordered(expansion(y, x), 0.0, bound=1e-12, oracle="firm non-expansiveness")
        again = project(x, known, image, low, high)
        evidence.exact(again - x, torch.zeros(N, D), oracle="points of the set")
    known = torch.tensor([True, False, False, True])
    image = torch.tensor([0.25, 7.0, -3.0, 0.875], dtype=DOUBLE)
    sides = fractions(torch.where(known, image, torch.tensor([[0.0], [1.0]], dtype=DOUBLE)))
    y = eighths(evidence.generator, 100, 4)
    expected = [on_box(p, *sides) for p in fractions(y)]
    evidence.exact(
        fractions(project(y, known, image)),
        expected,
        oracle="the nearest of the points with each unknown free or at a bound",
    )
    before = project(torch.where(known, image, y), known, image)
    after = torch.where(known, image, project(y, torch.zeros(4), image))
    for either in (before, after):
        evidence.exact(fractions(either), expected, oracle="the same points")


@mutant(test_masked_box, "the known values are not put back")
def unmasked(y, known, image, low=0.0, high=1.0):
    return y.clamp(torch.as_tensor(low, dtype=DOUBLE), torch.as_tensor(high, dtype=DOUBLE))


@mutant(test_masked_box, "only the known values are clamped")
def clamped_where_known(y, known, image, low=0.0, high=1.0):
    return torch.where(known == 1, image, y)


@mutant(test_masked_box, "the mask is inverted")
def inverted(y, known, image, low=0.0, high=1.0):
    return torch.where(known == 1, unmasked(y, known, image, low, high), image)


@mutant(test_masked_box, "the known values are added, not put in place")
def added(y, known, image, low=0.0, high=1.0):
    return unmasked(y, known, image, low, high) + torch.where(known == 1, image, 0)


@pytest.mark.claim("projection-affine")
def test_affine(evidence, project=affine):
    for m, D, rank in ((1, 2, 1), (2, 5, 2), (3, 4, 3), (3, 5, 2), (5, 3, 2), (4, 12, 4)):
        A = normal(evidence.generator, m, rank) @ normal(evidence.generator, rank, D)
        b = A @ normal(evidence.generator, D)
        y = normal(evidence.generator, N, D)
        x = project(y, A, b)
        evidence.numeric(x @ A.T, b.expand(N, m), bound=1e-12, oracle="the equations")
        kernel = torch.tensor(null_space(A.numpy(), rcond=1e-10))
        evidence.exact(kernel.shape[1], D - rank, oracle="the dimension of the set")
        evidence.numeric(
            (y - x) @ kernel,
            torch.zeros(N, D - rank),
            bound=1e-11,
            oracle="right angles with the kernel of the matrix, from its singular vectors",
        )
        evidence.ordered(expansion(y, x), 0.0, bound=1e-11, oracle="firm non-expansiveness")
        again = project(x, A, b)
        evidence.numeric(again - x, torch.zeros(N, D), bound=1e-12, oracle="points of the set")
        if rank == m:
            solved = torch.linalg.solve(A @ A.T, A @ y.T - b[:, None])
            evidence.numeric(x, y - solved.T @ A, bound=1e-9, oracle="the normal equations")
    for m, D in ((1, 1), (2, 1), (3, 3), (4, 2)):
        A, y = normal(evidence.generator, m, D), normal(evidence.generator, N, D)
        one = normal(evidence.generator, D)
        for solution in (one, 0 * one):
            x = project(y, A, A @ solution)
            evidence.numeric(x, solution.expand(N, D), bound=1e-9, oracle="the only solution")
    for m, D in product((1, 2, 3), (2, 3, 4)):
        A = torch.randint(-3, 4, (m, D), generator=evidence.generator).to(DOUBLE)
        A[-1] = A[0] * (2 if m > 1 else 1)
        b = A @ eighths(evidence.generator, D)
        y = eighths(evidence.generator, 5, D)
        evidence.numeric(
            project(y, A, b),
            floats(by_kkt(p, fractions(A), *fractions(b[None])) for p in fractions(y)),
            bound=1e-12,
            oracle="elimination in the equations of Lagrange, in fractions",
        )


@mutant(test_affine, "the inverse of AA' is left out")
def without_inverse(y, A, b):
    return y - (y @ A.T - b) @ A


@mutant(test_affine, "the sign of the correction is wrong")
def wrong_sign(y, A, b):
    return 2 * y - affine(y, A, b)


@mutant(test_affine, "the solution of least norm, whatever y is")
def least_norm(y, A, b):
    return affine(torch.zeros_like(y), A, b)


@mutant(test_affine, "the right-hand side is forgotten")
def homogeneous(y, A, b):
    return affine(y, A, torch.zeros_like(b))


@mutant(test_affine, "the equations are met one after the other, once")
def in_turn(y, A, b):
    for row, value in zip(A, b, strict=True):
        y = affine(y, row[None], value[None])
    return y


@pytest.mark.claim("projection-simplex")
def test_simplex(evidence, project=simplex):
    for D in (1, 2, 3, 6, 40):
        y = normal(evidence.generator, N, D, scale=0.7)
        x = project(y)
        evidence.ordered(-x.min(), 0.0, bound=0.0, oracle="no coordinate is negative")
        evidence.numeric(x.sum(1), torch.ones(N), bound=1e-13, oracle="the sum is one")
        largest = product_at(y, x, torch.eye(D, dtype=DOUBLE))
        evidence.ordered(largest, 0.0, bound=1e-12, oracle="the angle condition at every corner")
        evidence.ordered(expansion(y, x), 0.0, bound=1e-12, oracle="firm non-expansiveness")
        again = project(x)
        evidence.numeric(again - x, torch.zeros(N, D), bound=1e-13, oracle="points of the simplex")
        order = fractions(y[:200].sort(descending=True).values)
        evidence.exact(
            [list(range(1, m + 1)) for m in (x[:200] > 0).sum(1).tolist()],
            [[j for j in range(1, D + 1) if j * u[j - 1] > sum(u[:j]) - 1] for u in order],
            oracle="the inequality of the claim, in fractions",
        )
    for D in (2, 3, 5):
        y = eighths(evidence.generator, 60, D)
        evidence.numeric(
            project(y),
            floats(on_simplex(p) for p in fractions(y)),
            bound=1e-13,
            oracle="the nearest of the points with each possible support, in fractions",
        )
    evidence.numeric(
        project(torch.tensor([0.5, 0.9, -0.2], dtype=DOUBLE)),
        torch.tensor([0.3, 0.7, 0.0], dtype=DOUBLE),
        bound=1e-14,
        oracle="the numbers of the claim",
    )


@mutant(test_simplex, "clipped at zero and divided by the sum")
def divided(y):
    return y.clamp(min=0) / y.clamp(min=0).sum(-1, keepdim=True).clamp(min=1e-300)


@mutant(test_simplex, "projected onto the plane, then clipped")
def clipped(y):
    return (y - (y.sum(-1, keepdim=True) - 1) / y.shape[-1]).clamp(min=0)


@mutant(test_simplex, "projected onto the plane only")
def plane(y):
    return y - (y.sum(-1, keepdim=True) - 1) / y.shape[-1]


@mutant(test_simplex, "the softmax")
def softmax(y):
    return y.softmax(-1)


@mutant(test_simplex, "one coordinate too many in the threshold")
def one_more(y):
    u = y.sort(descending=True).values
    theta = (u.cumsum(-1) - 1) / torch.arange(1, y.shape[-1] + 1)
    last = ((u > theta).sum(-1, keepdim=True)).clamp(max=y.shape[-1] - 1)
    return (y - theta.gather(-1, last)).clamp(min=0)


@mutant(test_simplex, "the largest coordinate takes all")
def winner(y):
    return torch.nn.functional.one_hot(y.argmax(-1), y.shape[-1]).to(y)


@pytest.mark.claim("projection-l1")
def test_l1(evidence, project=l1):
    for D, radius in product((1, 2, 3, 6, 40), (0.0, 0.7, 2.5)):
        y = normal(evidence.generator, N, D, scale=1 / D**0.5)
        x = project(y, radius)
        evidence.ordered((x.abs().sum(1) - radius).max(), 0.0, bound=1e-13, oracle="the radius")
        extreme = radius * torch.cat([torch.eye(D), -torch.eye(D)]).to(DOUBLE)
        largest = product_at(y, x, extreme)
        evidence.ordered(largest, 0.0, bound=1e-12, oracle="the angle condition at every corner")
        evidence.ordered(expansion(y, x), 0.0, bound=1e-12, oracle="firm non-expansiveness")
        again = project(x, radius)
        evidence.numeric(again - x, torch.zeros(N, D), bound=1e-13, oracle="points of the ball")
    for D, radius in product((2, 3, 4), (Fraction(11, 8), Fraction(3, 4))):
        y = eighths(evidence.generator, 40, D)
        x = project(y, float(radius))
        evidence.numeric(
            x,
            floats(on_diamond(p, radius) for p in fractions(y)),
            bound=1e-13,
            oracle="the nearest of the points below each face, in fractions",
        )
        outside = y.abs().sum(1) > float(radius)
        evidence.numeric(
            x[outside],
            floats(through_simplex(p, radius) for p in fractions(y[outside])),
            bound=1e-13,
            oracle="the simplex, by its supports, in fractions",
        )
    y = normal(evidence.generator, 20, 50)
    roots = torch.tensor([root(p, 2.5) for p in y.abs().numpy()], dtype=DOUBLE)[:, None]
    evidence.numeric(
        project(y, 2.5),
        y.sign() * (y.abs() - roots).clamp(min=0),
        bound=1e-11,
        oracle="the threshold, by a search for the root",
    )
    evidence.numeric(
        project(torch.tensor([1.2, -0.6, 0.1], dtype=DOUBLE), 1.0),
        torch.tensor([0.8, -0.2, 0.0], dtype=DOUBLE),
        bound=1e-14,
        oracle="the numbers of the claim",
    )


def through_simplex(y, radius):
    scaled = on_simplex([abs(p) / radius for p in y])
    return [radius * (q if p > 0 else -q) for p, q in zip(y, scaled, strict=True)]


def root(sizes, radius):
    return brentq(lambda t: np.maximum(sizes - t, 0).sum() - radius, 0, sizes.max(), xtol=1e-14)


@mutant(test_l1, "the point is scaled towards the origin")
def scaled(y, radius):
    norm = y.abs().sum(-1, keepdim=True)
    return torch.where(norm <= radius, y, y * radius / norm)


@mutant(test_l1, "each coordinate is clipped at its share of the radius")
def shares(y, radius):
    return y.clamp(-radius / y.shape[-1], radius / y.shape[-1])


@mutant(test_l1, "the signs are forgotten")
def unsigned(y, radius):
    return l1(y.abs(), radius)


@mutant(test_l1, "points inside are moved to the boundary")
def outward(y, radius):
    return y.sign() * radius * simplex(y.abs() / max(radius, 1e-9))


@mutant(test_l1, "the radius is the threshold")
def shrunk(y, radius):
    return y.sign() * (y.abs() - radius).clamp(min=0)


@pytest.mark.claim("projection-l2")
def test_l2(evidence, project=l2):
    for D, radius in product((1, 2, 3, 6, 40), (0.0, 0.7, 2.5)):
        y = normal(evidence.generator, N, D, scale=2 / D**0.5)
        x = project(y, radius)
        norm = x.square().sum(1).sqrt()
        evidence.ordered((norm - radius).max(), 0.0, bound=1e-13, oracle="the radius")
        largest = (radius * (y - x).norm(dim=1) - ((y - x) * x).sum(1)).max()
        evidence.ordered(largest, 0.0, bound=1e-12, oracle="the angle condition at its worst point")
        evidence.ordered(expansion(y, x), 0.0, bound=1e-12, oracle="firm non-expansiveness")
        again = project(x, radius)
        evidence.numeric(again - x, torch.zeros(N, D), bound=1e-13, oracle="points of the ball")
        if radius > 0:
            pulled = torch.tensor([1 + multiplier(p, radius) for p in y[:50].numpy()], dtype=DOUBLE)
            evidence.numeric(
                x[:50],
                y[:50] / pulled[:, None],
                bound=1e-11,
                oracle="the multiplier of Lagrange, by a search for the root",
            )


def multiplier(y, radius):
    if np.linalg.norm(y) <= radius:
        return 0.0
    return brentq(lambda t: np.linalg.norm(y / (1 + t)) - radius, 0, 1e4, xtol=1e-14, rtol=1e-14)


@mutant(test_l2, "each coordinate is clipped at its share of the radius")
def coordinates(y, radius):
    return y.clamp(-radius / y.shape[-1] ** 0.5, radius / y.shape[-1] ** 0.5)


@mutant(test_l2, "points inside are moved to the sphere")
def normalised(y, radius):
    return radius * y / y.norm(dim=-1, keepdim=True).clamp(min=1e-300)


@mutant(test_l2, "the norm is squared")
def squared(y, radius):
    return y * (radius / y.square().sum(-1, keepdim=True).clamp(min=1e-300)).clamp(max=1)


@mutant(test_l2, "the norm of the batch instead of that of each point")
def all_at_once(y, radius):
    return y * (radius / y.norm().clamp(min=1e-300)).clamp(max=1)


# What the claims do not say: dtypes, shapes, gradients, extremes, refusals.

SETS = {
    "box": lambda y: box(y, -0.3, 0.4),
    "masked box": lambda y: masked_box(y, torch.tensor([1, 0, 0, 1]), torch.full((4,), 0.6)),
    "affine": lambda y: affine(y, torch.tensor([[1.0, 2, -1, 0], [0, 1, 1, 3]]), torch.ones(2)),
    "simplex": simplex,
    "l1": lambda y: l1(y, 0.7),
    "l2": lambda y: l2(y, 0.7),
}


@pytest.mark.parametrize("project", SETS.values(), ids=SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_dtype_and_shape(project, dtype):
    y = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    x = project(y.to(dtype))
    assert (x.dtype, x.shape) == (dtype, y.shape)
    torch.testing.assert_close(x.to(DOUBLE), project(y), atol=1e-6, rtol=0)
    torch.testing.assert_close(x[1, 0, 3], project(y[1, 0, 3].to(dtype)))


def test_results_keep_the_device():
    assert simplex(torch.ones(4, device="meta")).is_meta


def test_batches_broadcast():
    generator = torch.Generator().manual_seed(1)
    y, radius = normal(generator, 3, 4), torch.tensor([[0.0], [0.4], [1.5]], dtype=DOUBLE)
    A, b = normal(generator, 2, 1, 3, 4), normal(generator, 2, 1, 3)
    low = normal(generator, 2, 3, 4)
    for i, j in product(range(3), range(3)):
        for ball in (l1, l2):
            torch.testing.assert_close(ball(y, radius)[i, j], ball(y[j], radius[i, 0].item()))
    for i, j in product(range(2), range(3)):
        torch.testing.assert_close(affine(y, A, b)[i, j], affine(y[j], A[i, 0], b[i, 0]))
        torch.testing.assert_close(box(y, low, 9)[i, j], box(y[j], low[i, j], 9))
        x = masked_box(y, low > 0, low, low, 9)[i, j]
        torch.testing.assert_close(x, masked_box(y[j], low[i, j] > 0, low[i, j], low[i, j], 9))


def test_masks_may_be_of_any_dtype():
    y, image = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)), torch.full((3,), 0.3)
    known = torch.tensor([True, False, True])
    x = masked_box(y, known, image)
    for other in (known.int(), known.float(), known.double()):
        assert torch.equal(masked_box(y, other, image), x)
    assert torch.equal(masked_box(y, known, torch.tensor([0.3, nan, 0.3])), x)


def test_gradients_reach_the_point_and_the_set():
    generator = torch.Generator().manual_seed(1)
    y, A, b = normal(generator, 5, 4), normal(generator, 2, 4), normal(generator, 2)
    low = normal(generator, 4)
    high, radius = low + low.abs(), low[:1].abs()
    known, image = torch.tensor([True, False, False, False]), low + 0.5 * low.abs()
    for function, arguments in (
        (simplex, (y,)),
        (l1, (y, radius)),
        (l2, (y, radius)),
        (affine, (y, A, b)),
        (lambda y, B, c: affine(y, B @ A, B @ A @ c), (y, normal(generator, 3, 2), low)),
        (box, (y, low, high)),
        (lambda y, *rest: masked_box(y, known, *rest), (y, image, low, high)),
    ):
        assert gradcheck(function, [x.clone().requires_grad_() for x in arguments])


def test_a_coordinate_with_equal_bounds_moves_with_the_bounds_alone():
    y = torch.tensor([0.4, 0.3, 0.9], requires_grad=True)
    a = torch.full((3,), 0.4, requires_grad=True)
    box(y, a, a).sum().backward()
    assert y.grad.tolist() == [0, 0, 0]
    assert a.grad.tolist() == [1, 1, 1]


def test_the_derivative_is_an_orthogonal_projection_almost_everywhere():
    y = torch.tensor([0.31, 0.82, -0.45, 0.17], dtype=DOUBLE)
    J = torch.autograd.functional.jacobian(simplex, y)
    positive = (simplex(y) > 0).to(DOUBLE)
    assert positive.tolist() == [1, 1, 0, 1]
    expected = positive.diag() - torch.outer(positive, positive) / positive.sum()
    torch.testing.assert_close(J, expected)


@pytest.mark.parametrize("ball", [l1, l2])
def test_gradients_are_finite_where_norms_have_none(ball):
    for y, radius, slope in ((0.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2.0, 0.0, 0.0)):
        point = torch.full((3,), y, dtype=DOUBLE)
        J = torch.autograd.functional.jacobian(lambda y, radius=radius: ball(y, radius), point)
        assert torch.equal(J, slope * torch.eye(3, dtype=DOUBLE))


def test_no_radius_leaves_the_origin():
    y = torch.tensor([[0.0, 0.0], [2.0, -1.0], [1.0, 1.0]])
    assert (l1(y, 0) == 0).all()
    assert (l2(y, 0) == 0).all()


def test_ties_are_treated_alike():
    torch.testing.assert_close(simplex(torch.full((7,), -3.0)), torch.full((7,), 1 / 7))
    assert simplex(torch.tensor([0.5, 0.5, 0.5, -1])).unique().numel() == 2
    assert l1(torch.tensor([2.0, -2, 2, 0]), 3).tolist() == [1, -1, 1, 0]


def test_points_of_the_set_come_back_bit_by_bit():
    y = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    for x in (box(y, -9, 9), l1(y, 30), l2(y, 30)):
        assert torch.equal(x, y)


def test_large_and_small_numbers_in_single_precision():
    assert simplex(torch.tensor([1e8, 1e8 + 8, -1e8])).tolist() == [0, 1, 0]
    assert simplex(torch.tensor([1e8, 1e8, 0.0])).tolist() == [0.5, 0.5, 0]
    assert simplex(torch.tensor([3e38, -3e38])).tolist() == [1, 0]
    assert l1(torch.tensor([3e38, -3e38, 1]), 2).tolist() == [1, -1, 0]
    torch.testing.assert_close(l2(torch.tensor([3e38, -3e38]), 2**0.5), torch.tensor([1.0, -1]))
    small = torch.tensor([3e-30, 4e-30])
    torch.testing.assert_close(l2(small, 5e-31) * 1e31, small * 1e30)
    subnormal = torch.tensor([1e-39, 2e-39])
    assert torch.equal(l2(subnormal, 5e-39), subnormal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_many_coordinates_still_sum_to_one(dtype):
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(100_000, dtype=DOUBLE, generator=generator)
    for y in (noise, 1 + 1e-5 * noise, torch.cat([torch.ones(1), 1e-5 * noise]), 5 * noise.logit()):
        x = simplex(y.to(dtype))
        assert (x >= 0).all()
        assert abs(x.to(DOUBLE).sum() - 1) < 8 * torch.finfo(dtype).eps


def test_undefined_numbers_stay_undefined():
    for y in (torch.tensor([nan, 0.5, 2.0]), torch.tensor([2.0, 0.5, nan])):
        for project in (simplex, lambda y: l1(y, 1), lambda y: l2(y, 1)):
            assert project(y).isnan().all()
        assert box(y, 0, 1).isnan().sum() == 1


def test_rows_of_very_different_size():
    A = torch.tensor([[1e-30, 2e-30, 0], [3e30, 0, 1e30]], dtype=DOUBLE)
    x = affine(torch.ones(3, dtype=DOUBLE), A, torch.tensor([4e-30, 7e30], dtype=DOUBLE))
    torch.testing.assert_close(x[0] + 2 * x[1], torch.tensor(4.0, dtype=DOUBLE))
    torch.testing.assert_close(3 * x[0] + x[2], torch.tensor(7.0, dtype=DOUBLE))


def test_no_equations_leave_the_point():
    y = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(affine(y, torch.zeros(2, 3), torch.zeros(2)), y)
    assert torch.equal(affine(y, torch.zeros(0, 3), torch.zeros(0)), y)


Y, ONE = torch.tensor([0.3, 1.2, -0.4]), torch.ones(3)
ROWS = torch.ones(2, 3)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("project", "words"),
    [
        (lambda: box(Y, 0.7, 0.2), "low must be at most high, with a number between, got 0.7"),
        (lambda: box(Y, ONE, torch.tensor([2, 2, 0.5])), "with a number between, got 1 and 0.5"),
        (lambda: box(Y, nan, 1), "low must be at most high, with a number between, got nan"),
        (lambda: box(Y, inf, inf), "low must be at most high, with a number between, got inf"),
        (lambda: box(Y, -inf, -inf), "low must be at most high, with a number between, got -inf"),
        (lambda: masked_box(Y, 0 * ONE, ONE, 2, 1), "low must be at most high"),
        (lambda: masked_box(Y, 0.5 * ONE, ONE), "known must be 0 or 1, got 0.5"),
        (lambda: masked_box(Y, nan * ONE, ONE), "known must be 0 or 1, got nan"),
        (lambda: masked_box(Y, ONE, Y), "where it is known, got 1.2"),
        (lambda: masked_box(Y, ONE, nan * ONE), "where it is known, got nan"),
        (lambda: masked_box(Y, ONE, inf * ONE, 0, inf), "where it is known, got inf"),
        (lambda: l1(Y, -1), "radius must be at least 0 and finite, got -1"),
        (lambda: l2(Y, -0.1), "radius must be at least 0 and finite, got -0.1"),
        (lambda: l2(Y, inf), "radius must be at least 0 and finite, got inf"),
        (lambda: l1(Y, nan), "radius must be at least 0 and finite, got nan"),
        (lambda: affine(Y, torch.ones(2, 4), ONE[:2]), "A must have 3 columns, like y, got shape"),
        (lambda: affine(Y, ONE, ONE), "A must have 3 columns, like y, got shape (3,)"),
        (lambda: affine(Y, ROWS, ONE), "b must have 2 entries, got shape (3,)"),
        (lambda: affine(Y, ROWS, ONE[:1]), "b must have 2 entries, got shape (1,)"),
        (lambda: affine(Y, ROWS, ONE[0]), "b must have 2 entries, got shape ()"),
        (lambda: affine(Y, ROWS, Y[:2]), "b must be in the range of A, missed by 0.45"),
        (lambda: affine(Y, 0 * ROWS, ONE[:2]), "b must be in the range of A, missed by 1"),
    ],
)
def test_bad_arguments_raise(project, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        project()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("project", SETS.values(), ids=SETS)
def test_integers_are_refused(project):
    with pytest.raises(ValueError, match=r"y must have a floating dtype, got torch\.int64"):
        project(torch.tensor([1, 0, 2, -1]))


def decimals(point):
    return [Fraction(f"{entry:.3f}") for entry in point]


def arrows(ax):
    return [(decimals(text.xyann), text.xy) for text in ax.texts]


def test_the_arrows_end_where_the_oracles_do():
    snippet = run_path(str(SNIPPET))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    oracles = {
        "box": lambda y: on_box(y, decimals([-0.6, -0.5]), decimals([0.8, 0.7])),
        "affine": lambda y: by_kkt(y, [decimals([0.6, 1.2])], decimals([0.3])),
        "simplex": on_simplex,
        "l1": lambda y: on_diamond(y, Fraction(9, 10)),
        "l2": lambda y: [p / (1 + multiplier(np.array(y, float), 0.9)) for p in map(float, y)],
        "masked box": lambda y: on_box(y, decimals([0.4, 0]), decimals([0.4, 1])),
    }
    for ax in figure.axes:
        assert len(arrows(ax)) in (4, 5)
        for y, end in arrows(ax):
            assert oracles[ax.get_title()](y) == pytest.approx(end, abs=1e-6)
