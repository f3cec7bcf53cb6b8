import re
from fractions import Fraction
from functools import partial
from itertools import permutations, product
from math import log, prod

import mpmath
import pytest
import torch
import torch.nn.functional as F

from genref._site.claims import mutant
from genref.flows.plu import PLU, factors, to_data, to_latent
from genref.numerics.autodiff import jacobian, slogdet

DOUBLE = torch.float64


def mapped(layer):
    return lambda z: layer.to_data(z)[0]


def drawn(generator, C, batch=()):
    """Factors without special entries: scales of both signs, and a permutation of some 2 channels,
    or of some 4 in a cycle: it is odd, and from C = 4 on not its own inverse.
    """
    cycle = torch.randperm(C, generator=generator)[: 4 if C >= 4 else 2]
    order = torch.arange(C)
    order[cycle] = cycle.roll(1)
    L = torch.randn(*batch, C, C, generator=generator, dtype=DOUBLE).tril(-1)
    U = torch.randn(*batch, C, C, generator=generator, dtype=DOUBLE).triu(1)
    s = torch.rand(*batch, C, generator=generator, dtype=DOUBLE) + 0.3
    s = s * torch.tensor([-1.0, 1.0, 1.0, -1.0, -1.0], dtype=DOUBLE).repeat(C)[:C]
    return torch.eye(C, dtype=DOUBLE)[order], L + torch.eye(C, dtype=DOUBLE), U, s


def parity(order):
    return (-1) ** sum(a > b for i, b in enumerate(order) for a in order[:i])


def exact(matrix):
    return [[Fraction(entry) for entry in row] for row in matrix.tolist()]


def times(left, right):
    columns = list(zip(*right, strict=True))
    return [[sum(map(Fraction.__mul__, row, column)) for column in columns] for row in left]


def assembled(P, L, U, s):
    """The matrix of a layer, in fractions."""
    return times(times(exact(P), exact(L)), exact(U + s.diag()))


def leibniz(A):
    """The determinant as a sum over all permutations."""
    orders = permutations(range(len(A)))
    return sum((parity(o) * prod(A[i][j] for i, j in enumerate(o)) for o in orders), Fraction(0))


def log_abs(value):
    return mpmath.log(abs(mpmath.mpf(value.numerator) / value.denominator))


def pixel(generator, C):
    return torch.randn(C, 1, 1, generator=generator, dtype=DOUBLE)


@pytest.mark.claim("glow-plu-det", answers=["D4a"])
def test_determinant(evidence, layer=PLU):
    for C in (2, 3, 4, 5):
        P, L, U, s = drawn(evidence.generator, C)
        z = pixel(evidence.generator, C)
        x, log_det = layer(P, L, U, s).to_data(z)
        A = assembled(P, L, U, s)
        evidence.numeric(
            x.flatten(),
            [float(entry) for (entry,) in times(A, exact(z[:, 0]))],
            bound=1e-13,
            oracle="products of matrices of fractions",
        )
        evidence.numeric(
            log_det,
            float(log_abs(leibniz(A))),
            bound=1e-13,
            oracle="the sum over all permutations, in fractions",
        )
        sign, by_map = slogdet(mapped(layer(P, L, U, s)), z, 3)
        evidence.exact(
            int(sign),
            parity(P.argmax(1).tolist()) * prod(1 if entry > 0 else -1 for entry in s.tolist()),
            oracle="inversions of the permutation and negative scales, counted",
        )
        evidence.numeric(
            by_map,
            sum(log(abs(entry)) for entry in s.tolist()),
            bound=1e-12,
            oracle="logarithms of the scales",
        )


class Wrong(PLU):
    """A layer with another log-determinant."""

    def to_data(self, z):
        return super().to_data(z)[0], self.wrong(z) * torch.ones(z.shape[:-3], dtype=z.dtype)

    def matrix(self):
        return self.permutation @ self.lower @ (self.upper + self.s.diag())


@mutant(test_determinant, "no absolute value")
class Signed(Wrong):
    def wrong(self, z):
        return z[0, 0].numel() * self.s.log().sum()


@mutant(test_determinant, "the diagonal of A instead of s")
class DiagonalOfA(Wrong):
    def wrong(self, z):
        return self.matrix().diagonal().abs().log().sum()


@mutant(test_determinant, "the logarithm of the sum")
class LogOfSum(Wrong):
    def wrong(self, z):
        return self.s.sum().abs().log()


@mutant(test_determinant, "the scales of the columns are forgotten in the map")
class UnitUpper(PLU):
    def to_data(self, z):
        return self.permutation @ self.lower @ (self.upper + torch.eye(len(self.s))) @ z[..., 0], 0


@mutant(test_determinant, "the inverse of the permutation")
class PermutedBack(PLU):
    def to_data(self, z):
        return to_data(z, self.permutation.T, self.lower, self.upper, self.s)


@mutant(test_determinant, "the permutation is left out")
class Unpermuted(PLU):
    def to_data(self, z):
        return to_data(z, torch.eye(len(self.s), dtype=z.dtype), self.lower, self.upper, self.s)


def vectorised(h, X, written, read):
    """The sign of the determinant and its logarithm for h as a map of vectors.

    The output is written in one order of its entries, the input is read in another.
    """
    back = torch.argsort(read)
    return slogdet(lambda v: h(v[back].view(X.shape)).flatten()[written], X.flatten()[read])


@pytest.mark.claim("glow-reshape", answers=["D4b"])
def test_reshapes(evidence, determinant=vectorised):
    for shape, result in (((2, 1, 2), (2, 1, 2)), ((3, 1, 2), (3, 1, 2)), ((1, 2, 3), (3, 2, 1))):
        D = prod(shape)
        X = torch.randn(shape, generator=evidence.generator, dtype=DOUBLE)
        W = torch.randn(D, D, generator=evidence.generator, dtype=DOUBLE)
        c = torch.randn(D, generator=evidence.generator, dtype=DOUBLE)
        slopes = W + torch.diag(3 * c * X.flatten() ** 2)
        det = leibniz(exact(slopes))
        for turn in range(40):
            written, read = (torch.randperm(D, generator=evidence.generator) for _ in range(2))
            read = written if turn % 4 == 0 else read
            sign, log_det = determinant(cubic(W, c, result), X, written, read)
            evidence.numeric(
                log_det,
                float(log_abs(det)),
                bound=1e-11,
                oracle="the Jacobian by hand, its determinant in fractions, no order changed",
            )
            orders = parity(written.tolist()) * parity(read.tolist())
            evidence.exact(
                int(sign),
                orders * (1 if det > 0 else -1),
                oracle="the sign of that determinant and the inversions of both orders",
            )


def cubic(W, c, result):
    return lambda X: (W @ X.flatten() + c * X.flatten() ** 3).view(result)


@mutant(test_reshapes, "an entry is read twice")
def read_twice(h, X, written, read):
    return vectorised(h, X, torch.cat([written[:1], written[:-1]]), read)


@mutant(test_reshapes, "the vector is shaped back in another order than it was read in")
def not_shaped_back(h, X, written, read):
    return slogdet(lambda v: h(v.view(X.shape)).flatten()[written], X.flatten()[read])


@mutant(test_reshapes, "the sign never changes either")
def same_sign(h, X, written, read):
    return vectorised(h, X, written, written)


@mutant(test_reshapes, "the shape of the tensor counts")
def counted(h, X, written, read):
    sign, log_det = vectorised(h, X, written, read)
    return sign, log_det + log(X.shape[0])


@pytest.mark.claim("glow-conv", answers=["D4c"])
def test_convolution(evidence, layer=PLU):
    for C, H, W in ((2, 3, 2), (3, 1, 4), (4, 2, 3), (3, 2, 2)):
        P, L, U, s = drawn(evidence.generator, C)
        A = torch.tensor([[float(a) for a in row] for row in assembled(P, L, U, s)], dtype=DOUBLE)
        z = torch.randn(C, H, W, generator=evidence.generator, dtype=DOUBLE)
        x, log_det = layer(P, L, U, s).to_data(z)
        image = F.conv2d(z, A[:, :, None, None])
        evidence.numeric(x, image, bound=1e-12, oracle="torch.nn.functional.conv2d")
        evidence.numeric(
            log_det,
            torch.linalg.slogdet(tap_by_tap(A, H, W)).logabsdet,
            bound=1e-10,
            oracle="LU factors of the Jacobian, filled tap by tap",
        )
        J = jacobian(mapped(layer(P, L, U, s)), z, 3)
        by_pixel = torch.arange(C * H * W).view(C, H * W).T.flatten()
        evidence.numeric(
            J[by_pixel][:, by_pixel],
            torch.block_diag(*[A] * (H * W)),
            bound=1e-12,
            oracle="copies of the matrix along the diagonal",
        )


def tap_by_tap(A, H, W):
    J = torch.zeros(*A.shape[:1], H, W, *A.shape[:1], H, W, dtype=A.dtype)
    for i, j in product(range(len(A)), repeat=2):
        for r, c in product(range(H), range(W)):
            J[i, r, c, j, r, c] = A[i, j]
    return J.view(len(A) * H * W, -1)


@mutant(test_convolution, "one pixel counted instead of all")
class OnePixel(Wrong):
    def wrong(self, z):
        return self.s.abs().log().sum()


@mutant(test_convolution, "H + W instead of HW")
class HalfPerimeter(Wrong):
    def wrong(self, z):
        return (z.shape[-1] + z.shape[-2]) * self.s.abs().log().sum()


@mutant(test_convolution, "all channels counted for each scale")
class AllChannels(Wrong):
    def wrong(self, z):
        return z[..., :, :, :].numel() * self.s.abs().log().sum()


@mutant(test_convolution, "the filter as the sheet prints it, on the diagonal only")
class DiagonalFilter(PLU):
    def to_data(self, z):
        A = self.permutation @ self.lower @ (self.upper + self.s.diag())
        return A.diagonal()[:, None, None] * z, z[0].numel() * A.diagonal().abs().log().sum()


@mutant(test_convolution, "the filter with input and output exchanged")
class TransposedFilter(PLU):
    def to_data(self, z):
        A = self.permutation @ self.lower @ (self.upper + self.s.diag())
        return torch.einsum("ji,jhw->ihw", A, z), super().to_data(z)[1]


def network(first):
    """Factors that depend on every entry of the channels that are kept."""
    C = first.shape[0]
    place = torch.arange(1, first.numel() + 1, dtype=first.dtype)
    weights = torch.outer(torch.arange(1, C * C + 1, dtype=first.dtype), place).cos()
    square = torch.tanh(weights @ first.flatten()).view(C, C)
    sign = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=first.dtype)[:C]
    lower = square.tril(-1) + torch.eye(C, dtype=first.dtype)
    return lower, square.triu(1), sign * (0.4 + square.diagonal()).exp()


class Conditional:
    """A coupling layer with the network above."""

    def __init__(self, P):
        self.P = P

    def to_data(self, z):
        first, last = z.chunk(2)
        x, log_det = to_data(last, self.P, *network(first))
        return torch.cat([first, x]), log_det

    def to_latent(self, x):
        first, last = x.chunk(2)
        z, log_det = to_latent(last, self.P, *network(first))
        return torch.cat([first, z]), log_det


@pytest.mark.claim("glow-coupling", answers=["D4d"])
def test_coupling(evidence, layer=Conditional):
    for C, H, W in ((2, 1, 3), (2, 2, 2), (3, 2, 1), (4, 1, 2)):
        P = drawn(evidence.generator, C)[0]
        z = torch.randn(2 * C, H, W, generator=evidence.generator, dtype=DOUBLE)
        x, log_det = layer(P).to_data(z)
        evidence.numeric(x, convolved(z, P), bound=1e-12, oracle="conv2d with one kernel")
        evidence.numeric(
            log_det,
            slogdet(partial(convolved, P=P), z, 3)[1],
            bound=1e-10,
            oracle="autograd Jacobian of that convolution",
        )
        s = network(z[:C])[2].tolist()
        evidence.numeric(
            log_det,
            H * W * sum(log(abs(entry)) for entry in s),
            bound=1e-12,
            oracle="the scales at the channels kept",
        )
        back, inverse_log_det = layer(P).to_latent(convolved(z, P))
        evidence.numeric(back, z, bound=1e-11, oracle="the point that was mapped")
        evidence.numeric(
            inverse_log_det,
            -slogdet(partial(convolved, P=P), z, 3)[1],
            bound=1e-10,
            oracle="autograd Jacobian of that convolution",
        )
        J = jacobian(mapped(layer(P)), z, 3)
        half = C * H * W
        evidence.exact(
            [bool(block.any()) for block in (J[:half, half:], J[half:, :half])],
            [False, True],
            oracle="a block triangle that is not block diagonal",
        )


def convolved(z, P):
    """The same layer by a convolution whose kernel is multiplied out."""
    first, last = z.chunk(2)
    lower, upper, s = network(first)
    kernel = P @ lower @ (upper + s.diag())
    return torch.cat([first, F.conv2d(last[None], kernel[:, :, None, None])[0]])


@mutant(test_coupling, "the network reads the channels that are mapped")
class ReadsMapped(Conditional):
    def to_data(self, z):
        first, last = z.chunk(2)
        x, log_det = to_data(last, self.P, *network(last))
        return torch.cat([first, x]), log_det


@mutant(test_coupling, "the inverse of the permutation")
class CouplingPermutedBack(Conditional):
    def __init__(self, P):
        super().__init__(P.T)


@mutant(test_coupling, "the way back reads the mapped channels")
class BackReadsMapped(Conditional):
    def to_latent(self, x):
        first, last = x.chunk(2)
        z, log_det = to_latent(last, self.P, *network(last))
        return torch.cat([first, z]), log_det


@mutant(test_coupling, "one pixel counted instead of all")
class CouplingOnePixel(Conditional):
    def to_data(self, z):
        x, log_det = super().to_data(z)
        return x, log_det / z[0].numel()


@mutant(test_coupling, "the channels that are kept are counted too")
class KeptCounted(Conditional):
    def to_data(self, z):
        x, log_det = super().to_data(z)
        return x, 2 * log_det


@mutant(test_coupling, "the log-determinant of the other direction")
class OtherDirection(Conditional):
    def to_latent(self, x):
        z, log_det = super().to_latent(x)
        return z, -log_det


def solution(A, right):
    """Gauss-Jordan elimination in fractions."""
    rows = [[*a, b] for a, b in zip(A, right, strict=True)]
    for k in range(len(rows)):
        swap = next(i for i in range(k, len(rows)) if rows[i][k])
        rows[k], rows[swap] = rows[swap], rows[k]
        rows[k] = [entry / rows[k][k] for entry in rows[k]]
        for i, row in enumerate(rows):
            if i != k:
                rows[i] = [a - row[k] * b for a, b in zip(row, rows[k], strict=True)]
    return [row[-1] for row in rows]


def graded(generator, C, dtype, spread=7.7):
    """Factors of a badly conditioned matrix: large scales first, small ones last, both signs.

    They are multiplied by one number, so that their logarithms nearly cancel.
    """
    P, L, U, s = drawn(generator, C)
    L, U = (L + torch.eye(C)) / 2, U / 2
    s = s.sign() * 10 ** torch.linspace(spread, -spread, C, dtype=DOUBLE) * (0.5 + s.abs())
    s = s * ((0.03 - s.abs().log().sum()) / C).exp()
    return P.to(dtype), L.to(dtype), U.to(dtype), s.to(dtype)


def condition(P, L, U, s):
    """Largest singular value over smallest, in 50 digits."""
    with mpmath.workdps(50):
        parts = [mpmath.matrix(part.double().tolist()) for part in (P, L, U + s.diag())]
        values = mpmath.svd_r(parts[0] * parts[1] * parts[2], compute_uv=False)
        return float(values[0] / values[len(s) - 1])


def residual(x, z, P, L, U, s):
    """The largest entry of the residual, in units of u P |L| |U + diag(s)| |z|."""
    unit = Fraction(torch.finfo(s.dtype).eps) / 2
    images = times(assembled(P, L, U, s), exact(z.flatten(-2)))
    sizes = times(assembled(P, L.abs(), U.abs(), s.abs()), exact(z.flatten(-2).abs()))
    worst = Fraction(0)
    for rows in zip(exact(x.flatten(-2)), images, sizes, strict=True):
        for wanted, got, size in zip(*rows, strict=True):
            worst = max(worst, abs(wanted - got) / (unit * size))
    return float(worst)


@pytest.mark.claim("x-glow-inverse")
def test_inverse(evidence, layer=PLU):
    for C, H, W in ((2, 1, 2), (3, 2, 1), (5, 1, 3)):
        P, L, U, s = drawn(evidence.generator, C)
        A = assembled(P, L, U, s)
        x = torch.randn(C, H, W, generator=evidence.generator, dtype=DOUBLE)
        z, log_det = layer(P, L, U, s).to_latent(x)
        wanted = [solution(A, column) for column in exact(x.flatten(-2).T)]
        evidence.numeric(
            z.flatten(-2).T,
            [[float(entry) for entry in column] for column in wanted],
            bound=1e-11,
            oracle="Gauss-Jordan elimination of A in fractions",
        )
        evidence.numeric(
            log_det,
            float(-H * W * log_abs(leibniz(A))),
            bound=1e-12,
            oracle="the sum over all permutations, in fractions",
        )
    for C, dtype in ((4, torch.float32), (5, torch.float32), (4, DOUBLE), (5, DOUBLE)):
        P, L, U, s = graded(evidence.generator, C, dtype)
        x = torch.randn(C, 2, 3, generator=evidence.generator, dtype=dtype)
        x[:, 0, 0] = P @ L[:, 0]
        z, _ = layer(P, L, U, s).to_latent(x)
        evidence.ordered(
            residual(x, z.detach(), P, L, U, s),
            3 * (C + 1),
            bound=1e-9,
            oracle="the bound of the claim, the residual in fractions",
        )


@mutant(test_inverse, "the upper system is solved first")
class UpperFirst(PLU):
    def to_latent(self, x):
        upper, right = self.upper + self.s.diag(), self.permutation.mT @ x.flatten(-2)
        y = torch.linalg.solve_triangular(upper, right, upper=True)
        z = torch.linalg.solve_triangular(self.lower, y, upper=False)
        return z.view(x.shape), super().to_latent(x)[1]


@mutant(test_inverse, "the permutation instead of its inverse")
class SamePermutation(PLU):
    def to_latent(self, x):
        around = self.permutation @ self.permutation @ x.flatten(-2)
        return super().to_latent(around.view(x.shape))


@mutant(test_inverse, "the log-determinant of the other direction")
class SameSign(PLU):
    def to_latent(self, x):
        z, log_det = super().to_latent(x)
        return z, -log_det


@mutant(test_inverse, "the upper triangle is taken to have ones on its diagonal")
class UnitDiagonal(PLU):
    def to_latent(self, x):
        z, log_det = super().to_latent(x)
        y = (self.upper + self.s.diag()) @ z.flatten(-2)
        z = torch.linalg.solve_triangular(self.upper, y, upper=True, unitriangular=True)
        return z.view(x.shape), log_det


@mutant(test_inverse, "the inverse of A is formed and multiplied")
class Formed(PLU):
    def to_latent(self, x):
        A = self.permutation @ self.lower @ (self.upper + self.s.diag())
        return (torch.linalg.inv(A) @ x.flatten(-2)).view(x.shape), super().to_latent(x)[1]


def minors(A, P):
    """The leading minors of P^T A, in fractions."""
    turned = times(exact(P.T), exact(A))
    return [leibniz([row[:k] for row in turned[:k]]) for k in range(1, len(turned) + 1)]


def reached(made, A, P):
    """The factors with a given permutation, or nothing where there are none."""
    try:
        return made(A, P)
    except ValueError:
        return None


def small(generator, C, count):
    """Matrices of -1, 0 and 1: elimination in floating-point numbers is exact for C = 2, 3."""
    return torch.randint(-1, 2, (count, C, C), generator=generator).to(DOUBLE)


@pytest.mark.claim("x-glow-reach")
def test_reach(evidence, made=factors):
    for C in (2, 3, 4, 5):
        P = drawn(evidence.generator, C)[0]
        A = torch.randn(C, C, generator=evidence.generator, dtype=DOUBLE)
        d = [Fraction(1), *minors(A, P)]
        _, L, U, s = made(A, P)
        evidence.numeric(
            s,
            [float(d[k] / d[k - 1]) for k in range(1, C + 1)],
            bound=1e-9,
            relative=True,
            oracle="quotients of leading minors, in fractions",
        )
        evidence.numeric(P @ L @ (U + s.diag()), A, bound=1e-9, oracle="the matrix itself")
        formed = bool((L.triu() == torch.eye(C)).all() and (U.tril() == 0).all())
        evidence.exact(formed, True, oracle="the zeros and ones of the claim")
    for C, count in ((2, 40), (3, 40)):
        for P in torch.eye(C, dtype=DOUBLE)[torch.tensor(list(permutations(range(C))))]:
            batch = small(evidence.generator, C, count)
            evidence.exact(
                [reached(made, A, P) is not None for A in batch],
                [all(minors(A, P)) for A in batch],
                oracle="leading minors, in fractions",
            )
    swap = torch.eye(2, dtype=DOUBLE).flip(0)
    evidence.exact(reached(made, swap, torch.eye(2, dtype=DOUBLE)), None, oracle="a minor is 0")
    for C in (2, 3, 4):
        P = drawn(evidence.generator, C)[0]
        A = torch.randn(C, C, generator=evidence.generator, dtype=DOUBLE)
        flips = torch.tensor(list(product((-1.0, 1.0), repeat=C)), dtype=DOUBLE)
        evidence.exact(
            sorted(made(flip[:, None] * A, P)[3].sign().tolist() for flip in flips),
            sorted(flips.tolist()),
            oracle="all vectors of signs, each once",
        )
        first, last = (made(P @ (flip[:, None] * (P.T @ B)), P) for flip, B in same_cell(P, A))
        for t in (0.2, 0.5, 0.8):
            between = [(1 - t) * one + t * other for one, other in zip(first, last, strict=True)]
            evidence.exact(
                [minor > 0 for minor in minors(assembled_double(*between), P)],
                [True] * C,
                oracle="the signs of both ends, all positive",
            )
    for C in (2, 3):
        for A in small(evidence.generator, C, 40):
            Q, L, U, s = made(A, None)
            evidence.exact(assembled_double(Q, L, U, s), A, oracle="the matrix itself")
            evidence.ordered(L.abs(), 1, bound=1e-12, oracle="the bound of the claim")
            singular = leibniz(exact(A)) == 0
            evidence.exact(bool((s == 0).any()), singular, oracle="the determinant, in fractions")


def same_cell(P, A):
    """Two matrices with rows flipped so that all their leading minors are positive."""
    for B in (A, A.flip(0) + 2 * A.T):
        d = [1, *minors(B, P)]
        signs = [1.0 if d[k] / d[k - 1] > 0 else -1.0 for k in range(1, len(d))]
        yield torch.tensor(signs, dtype=DOUBLE), B


def assembled_double(P, L, U, s):
    return P @ L @ (U + s.diag())


@mutant(test_reach, "rows are exchanged although the permutation is given")
def exchanged(A, permutation=None):
    return permutation, *factors(A)[1:]


@mutant(test_reach, "a pivot of 0 is made a small number")
def patched(A, permutation=None):
    if permutation is None:
        return factors(A)
    for small in (0.0, 1e-12):
        try:
            return factors(A + small * torch.ones_like(A), permutation)
        except ValueError:
            continue
    return factors(torch.eye(len(A), dtype=A.dtype))


@mutant(test_reach, "the scales are the leading minors")
def minors_themselves(A, permutation=None):
    P, L, U, s = factors(A, permutation)
    return P, L, U, s.cumprod(-1) if permutation is not None else s


@mutant(test_reach, "all scales are positive")
def positive(A, permutation=None):
    P, L, U, s = factors(A, permutation)
    return P, L, U, s.abs()


@mutant(test_reach, "every matrix has factors without exchanges")
def never_exchanged(A, permutation=None):
    if permutation is not None:
        return factors(A, permutation)
    C = len(A)
    one = torch.eye(C, dtype=A.dtype)
    return one, A.tril(-1) + one, A.triu(1), A.diagonal()


@pytest.mark.claim("glow-float32")
def test_float32(evidence, layer=PLU):
    for C, H, W, spread in ((5, 28, 28, 7.8), (8, 3, 1, 6.5), (12, 16, 16, 6.0)):
        P, L, U, s = graded(evidence.generator, C, torch.float32, spread)
        assert condition(P, L, U, s) >= 6e16
        with mpmath.workdps(50):
            total = sum(mpmath.log(abs(mpmath.mpf(entry))) for entry in s.tolist())
            size = sum(abs(mpmath.log(abs(mpmath.mpf(entry)))) for entry in s.tolist())
            assert (C + 2) * size <= 2**27 * abs(total)
            place = mpmath.mpf(2) ** (mpmath.floor(mpmath.log(abs(H * W * total), 2)) - 23)
        images = torch.randn(C, H, W, generator=evidence.generator)
        for sign, way in ((1, "to_data"), (-1, "to_latent")):
            log_det = getattr(layer(P, L, U, s), way)(images)[1]
            assert log_det.dtype == torch.float32
            evidence.numeric(
                log_det.double() / float(place),
                float(sign * H * W * total / place),
                bound=1,
                oracle="logarithms in 50 digits, in units of the last place",
            )


class Naive(PLU):
    def to_data(self, z):
        return super().to_data(z)[0], self.other(z)

    def to_latent(self, x):
        return super().to_latent(x)[0], -self.other(x)


@mutant(test_float32, "LU factors of the matrix in float32")
class Multiplied(Naive):
    def other(self, z):
        A = self.permutation @ self.lower @ (self.upper + self.s.diag())
        return z[0].numel() * torch.linalg.slogdet(A).logabsdet


@mutant(test_float32, "LU factors of the matrix in float64")
class MultipliedDouble(Naive):
    def other(self, z):
        A = self.permutation @ self.lower @ (self.upper + self.s.diag())
        return (z[0].numel() * torch.linalg.slogdet(A.double()).logabsdet).float()


@mutant(test_float32, "the sum in float32")
class FloatSum(Naive):
    def other(self, z):
        return z[0].numel() * self.s.abs().log().sum()


def test_a_single_pixel_and_a_batch_agree():
    generator = torch.Generator().manual_seed(1)
    layer = PLU(*drawn(generator, 3))
    z = torch.randn(2, 4, 3, 5, 2, generator=generator, dtype=DOUBLE)
    x, log_det = layer.to_data(z)
    back, inverse = layer.to_latent(x)
    one, one_log_det = layer.to_data(z[1, 2, :, 3:4, 1:2])
    assert log_det.shape == inverse.shape == (2, 4)
    torch.testing.assert_close(one, x[1, 2, :, 3:4, 1:2])
    torch.testing.assert_close(10 * one_log_det, log_det[1, 2])
    torch.testing.assert_close(back, z)
    assert torch.equal(inverse, -log_det)


def test_each_event_may_have_its_own_factors():
    generator = torch.Generator().manual_seed(2)
    P, L, U, s = drawn(generator, 3, batch=(4,))
    z = torch.randn(4, 3, 2, 5, generator=generator, dtype=DOUBLE)
    for way in (to_data, to_latent):
        together = way(z, P, L, U, s)
        alone = [way(z[i], P, L[i], U[i], s[i]) for i in range(4)]
        torch.testing.assert_close(together[0], torch.stack([value for value, _ in alone]))
        torch.testing.assert_close(together[1], torch.stack([log_det for _, log_det in alone]))
        values, log_det = way(z[0], P, L, U, s)
        assert values.shape == (4, 3, 2, 5)
        assert log_det.shape == (4,)
    torch.testing.assert_close(PLU(P, L, U, s).to_data(z)[0], to_data(z, P, L, U, s)[0])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_results_keep_the_dtype(dtype):
    parts = [part.to(dtype) for part in drawn(torch.Generator().manual_seed(3), 4)]
    layer = PLU(*parts)
    for way in (layer.to_data, layer.to_latent):
        value, log_det = way(torch.ones(2, 4, 3, 3, dtype=dtype))
        assert value.dtype == log_det.dtype == dtype
    assert all(part.dtype == dtype for part in factors(parts[0] @ parts[1], parts[0]))
    assert layer.double().to_data(torch.ones(4, 1, 1, dtype=DOUBLE))[1].dtype == DOUBLE


def test_training_keeps_the_form_of_the_factors():
    generator = torch.Generator().manual_seed(4)
    layer = PLU(*drawn(generator, 3))
    start = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    x = torch.randn(5, 3, 2, 2, generator=generator, dtype=DOUBLE)
    for way in (layer.to_latent, layer.to_data):
        optimizer.zero_grad()
        value, log_det = way(x)
        (value.square().sum() - log_det.sum()).backward()
        optimizer.step()
    moved = {name: value != start[name] for name, value in layer.named_parameters()}
    strict = torch.ones(3, 3, dtype=torch.bool).tril(-1)
    assert torch.equal(moved["lower"], strict)
    assert torch.equal(moved["upper"], strict.T)
    assert moved["s"].all()
    assert set(layer.state_dict()) == {"permutation", "lower", "upper", "s"}


def test_gradients_agree_with_differences():
    generator = torch.Generator().manual_seed(5)
    P, L, U, s = drawn(generator, 3, batch=(2,))
    z = torch.randn(2, 3, 2, 1, generator=generator, dtype=DOUBLE)
    parts = [part.requires_grad_() for part in (z, L.tril(-1), U, s)]

    def way(z, L, U, s):
        one = torch.eye(3, dtype=DOUBLE)
        there = to_data(z, P, L.tril(-1) + one, U.triu(1), s)
        return *there, *to_latent(z, P, L.tril(-1) + one, U.triu(1), s)

    assert torch.autograd.gradcheck(way, parts)


def test_both_directions_agree_with_autograd():
    generator = torch.Generator().manual_seed(9)
    layer = PLU(*drawn(generator, 3))
    z = torch.randn(3, 2, 2, generator=generator, dtype=DOUBLE)
    for way in (layer.to_data, layer.to_latent):
        _, found = slogdet(lambda z, way=way: way(z)[0], z, 3)
        torch.testing.assert_close(way(z)[1], found)


@pytest.mark.parametrize("C", [1, 2])
def test_the_density_has_integral_one(C):
    P, L, U, s = drawn(torch.Generator().manual_seed(6), C)
    layer = PLU(P, L, U / 2, s)
    axis = torch.linspace(-20, 20, 801, dtype=DOUBLE)
    points = torch.cartesian_prod(*[axis] * C).view(-1, C, 1, 1)
    z, log_det = layer.to_latent(points)
    normal = (-0.5 * z.flatten(1).square().sum(1)).exp() / (2 * torch.pi) ** (C / 2)
    total = (normal * log_det.exp()).sum() * (axis[1] - axis[0]) ** C
    assert abs(total.item() - 1) < 1e-9


def test_scales_beyond_products_of_floats():
    P, L, U, _ = drawn(torch.Generator().manual_seed(7), 12)
    for scale in (1e-30, 1e30, 1e-40):
        s = torch.full((12,), scale)
        log_det = PLU(P.float(), L.float(), U.float(), s).to_data(torch.ones(12, 9, 9))[1].item()
        assert log_det == pytest.approx(12 * 81 * log(s[0].item()), rel=1e-6)


def test_batches_of_matrices_have_factors():
    A = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(8), dtype=DOUBLE)
    for permutation in (None, torch.eye(4, dtype=DOUBLE)[[2, 0, 3, 1]]):
        P, L, U, s = factors(A, permutation)
        torch.testing.assert_close(P @ L @ (U + s.diag_embed()), A)
    x, log_det = PLU(*factors(A[0, 0])).to_data(torch.ones(4, 1, 1, dtype=DOUBLE))
    torch.testing.assert_close(x[:, 0, 0], A[0, 0].sum(1))
    torch.testing.assert_close(log_det, A[0, 0].det().abs().log())


ONE, SWAP = torch.eye(2), torch.eye(2).flip(0)
GOOD = {"permutation": SWAP, "lower": ONE, "upper": torch.zeros(2, 2), "s": torch.ones(2)}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"permutation": torch.eye(3)}, "permutation must be 2 x 2, got shape (3, 3)"),
        (
            {"permutation": torch.ones(2, 2)},
            "permutation must have one 1 in each row and column, got [[1.0, 1.0], [1.0, 1.0]]",
        ),
        ({"permutation": 2 * SWAP}, "permutation must have one 1 in each row and column"),
        (
            {"permutation": torch.tensor([[1.0, 0.0], [1.0, 0.0]])},
            "permutation must have one 1 in each row and column",
        ),
        ({"permutation": SWAP - 0.5}, "permutation must have one 1 in each row and column"),
        ({"lower": torch.eye(3)}, "lower must be 2 x 2, got shape (3, 3)"),
        ({"lower": 2 * ONE}, "lower must have ones on its diagonal, zeros above it, got 2 there"),
        ({"lower": ONE.cumsum(1)}, "lower must have ones on its diagonal, zeros above it, got 1"),
        ({"upper": torch.zeros(2)}, "upper must be 2 x 2, got shape (2,)"),
        ({"upper": 3 * ONE}, "upper must have zeros on its diagonal and below it, got 3 there"),
        ({"upper": SWAP}, "upper must have zeros on its diagonal and below it, got 1 there"),
        ({"s": torch.tensor([0.0, 1.0])}, "s must be finite and not 0, got 0"),
        ({"s": torch.tensor([2.0, torch.nan])}, "s must be finite and not 0, got nan"),
        ({"s": torch.tensor([torch.inf, 1.0])}, "s must be finite and not 0, got inf"),
        ({"s": torch.tensor(1.0)}, "permutation must be 0 x 0, got shape (2, 2)"),
    ],
)
def test_factors_that_are_none_raise(options, words):
    z = torch.ones(2, 1, 1)
    for made in (PLU, lambda **all: to_data(z, **all), lambda **all: to_latent(z, **all)):
        with pytest.raises(ValueError, match=re.escape(words)):
            made(**GOOD | options)


@pytest.mark.usefixtures("untyped")
def test_images_that_do_not_fit_raise():
    layer = PLU(**GOOD)
    for name, way in (("z", layer.to_data), ("x", layer.to_latent)):
        for shape in ((2,), (2, 3), (3, 2, 2)):
            words = f"{name} must have shape (..., 2, H, W), got shape {shape}"
            with pytest.raises(ValueError, match=re.escape(words)):
                way(torch.ones(shape))
        with pytest.raises(ValueError, match=f"{name} must have the dtype torch.float32 of s"):
            way(torch.ones(2, 1, 1, dtype=DOUBLE))


@pytest.mark.usefixtures("untyped")
def test_matrices_without_factors_raise():
    with pytest.raises(ValueError, match="A must hold square matrices, got shape"):
        factors(torch.ones(2, 3))
    with pytest.raises(ValueError, match="permutation must be 2 x 2"):
        factors(ONE, torch.eye(3))
    with pytest.raises(ValueError, match="A must have factors with this permutation, got s = 0 at"):
        factors(SWAP, ONE)
