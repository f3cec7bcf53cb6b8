import math
import re
from fractions import Fraction
from functools import partial, reduce
from itertools import permutations, product
from operator import mul
from pathlib import Path
from runpy import run_path

import mpmath
import pytest
import scipy.stats
import sympy
import torch
from matplotlib.figure import Figure
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, Normal

from genref._site.claims import mutant
from genref.reparameterization.affine import (
    Diagonal,
    LowRank,
    Triangular,
    cholesky_factor,
    log_abs_det,
    log_prob,
    multiplications,
    sample,
)

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/reparameterization/affine.py"


def normal(generator, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def signed(generator, K):
    """Numbers between 1/2 and 2 in size, every other one negative."""
    size = 0.5 + 1.5 * torch.rand(K, dtype=DOUBLE, generator=generator)
    return size * torch.tensor([(-1.0) ** (i + 1) for i in range(K)], dtype=DOUBLE)


def orthogonal(generator, K):
    return torch.linalg.qr(normal(generator, K, K)).Q


def square(generator, K, sign):
    """A matrix with singular values between 1/2 and 2 and a determinant of the given sign."""
    S = orthogonal(generator, K) @ signed(generator, K).diag() @ orthogonal(generator, K)
    S[0] *= sign * torch.linalg.det(S).sign()
    return S


def fractions(matrix):
    return [[Fraction(entry) for entry in row] for row in matrix.tolist()]


def leibniz(rows):
    """The determinant as a sum over permutations, in the arithmetic of the entries."""
    total = 0
    for order in permutations(range(len(rows))):
        swaps = sum(order[i] > order[j] for j in range(len(rows)) for i in range(j))
        total += (-1) ** swaps * reduce(mul, [row[j] for row, j in zip(rows, order, strict=True)])
    return total


def log_abs(fraction):
    with mpmath.workdps(30):
        size = mpmath.log(abs(fraction.numerator)) - mpmath.log(fraction.denominator)
        return torch.tensor(float(size), dtype=DOUBLE)


def digits(matrix):
    return mpmath.matrix(matrix.tolist())


def gaussian(x, loc, S):
    """The log-densities of N(loc, S S^T) at points, from the covariance, in 40 digits."""
    with mpmath.workdps(40):
        covariance = digits(S) * digits(S).T
        constant = len(S) * mpmath.log(2 * mpmath.pi) + mpmath.log(mpmath.det(covariance))
        residuals = [digits(point - loc) for point in x]
        squares = [(r.T * mpmath.lu_solve(covariance, r))[0] for r in residuals]
        return torch.tensor([float(-(constant + square) / 2) for square in squares], dtype=DOUBLE)


def changed(g, z):
    """The log-density of g(z) by the change of variables, the Jacobian by autograd."""
    logs = [torch.linalg.slogdet(jacobian(g, point)).logabsdet for point in z]
    return Normal(0.0, 1.0).log_prob(z).sum(-1) - torch.stack(logs)


class Counted:
    """A number that counts the multiplications and divisions made with its kind."""

    made = 0

    def __init__(self, value):
        self.value = value

    def __mul__(self, other):
        Counted.made += 1
        return Counted(self.value * other.value)

    def __truediv__(self, other):
        Counted.made += 1
        return Counted(self.value / other.value)

    def __add__(self, other):
        return Counted(self.value + other.value)

    def __sub__(self, other):
        return Counted(self.value - other.value)


def counted(function, *arguments):
    Counted.made = 0
    result = function(*arguments)
    return Counted.made, result


def wrapped(rows):
    return [[Counted(entry) for entry in row] for row in rows]


def eliminated(rows, exchange=False):
    """The pivots of Gaussian elimination, and the sign of its row exchanges."""
    rows, sign = [list(row) for row in rows], 1
    for k in range(len(rows)):
        if exchange:
            best = max(range(k, len(rows)), key=lambda i: abs(rows[i][k].value))
            sign *= 1 if best == k else -1
            rows[k], rows[best] = rows[best], rows[k]
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] / rows[k][k]
            for j in range(k + 1, len(rows)):
                rows[i][j] = rows[i][j] - factor * rows[k][j]
    return [rows[k][k] for k in range(len(rows))], sign


def determinant(rows):
    pivots, _ = eliminated(rows)
    return reduce(mul, pivots)


def lemma(d, U, V):
    """The product det D det(I + V^T D^-1 U), each product and quotient made once."""
    K, R = len(d), len(U[0])
    W = [[U[i][s] / d[i] for s in range(R)] for i in range(K)]
    C = [[sum_of([V[i][r] * W[i][s] for i in range(K)]) for s in range(R)] for r in range(R)]
    for r in range(R):
        C[r][r] = C[r][r] + Counted(1)
    return reduce(mul, d) * determinant(C)


def sum_of(terms):
    return reduce(lambda one, other: one + other, terms)


@pytest.mark.claim("reparam-diag", answers=["A2.1"])
def test_diagonal(evidence, density=log_prob):
    for K in (1, 2, 3, 5):
        loc, sigma = normal(evidence.generator, K), signed(evidence.generator, K)
        z = normal(evidence.generator, 4, K)
        x = loc + sigma * z
        evidence.numeric(
            density(x, loc, sigma),
            changed(lambda z, loc=loc, sigma=sigma: loc + sigma * z, z),
            bound=1e-12,
            oracle="the change of variables with the Jacobian by autograd",
        )
        evidence.numeric(
            density(x, loc, sigma),
            torch.stack([slopes(point, loc, sigma) for point in x]),
            bound=1e-12,
            oracle="the derivative of each distribution function, in 30 digits",
        )
        law = scipy.stats.multivariate_normal(loc.numpy(), sigma.square().diag().numpy())
        evidence.numeric(
            density(x, loc, sigma),
            torch.from_numpy(law.logpdf(x.numpy())),
            bound=1e-12,
            oracle="the normal law of scipy with covariance diag(sigma^2)",
        )


def slopes(x, loc, sigma):
    """The log-density of independent m + s z: the slopes of Pr(m + s z <= t), one by one."""

    def below(t, m, s):
        u = (t - m) / s
        return mpmath.ncdf(u) if s > 0 else 1 - mpmath.ncdf(u)

    with mpmath.workdps(30):
        triples = zip(x.tolist(), loc.tolist(), sigma.tolist(), strict=True)
        densities = [mpmath.diff(lambda t, m=m, s=s: below(t, m, s), t) for t, m, s in triples]
        return torch.tensor(float(sum(map(mpmath.log, densities))), dtype=DOUBLE)


@mutant(test_diagonal, "the log-determinant added instead of subtracted")
def added(x, loc, sigma):
    return log_prob(x, loc, sigma) + 2 * log_abs_det(sigma)


@mutant(test_diagonal, "a density of x that is only that of the noise")
def noise_only(x, loc, sigma):
    return log_prob(x, loc, sigma) + log_abs_det(sigma)


@mutant(test_diagonal, "the product of the scales without its absolute value")
def with_sign(x, loc, sigma):
    return log_prob(x, loc, sigma) + log_abs_det(sigma) - sigma.prod().log()


@mutant(test_diagonal, "the scales taken for variances")
def variances(x, loc, sigma):
    return log_prob(x, loc, sigma.abs().sqrt())


@pytest.mark.claim("reparam-cost-diag", answers=["A2.2"])
def test_cost_of_a_diagonal(evidence, count=multiplications, log_det=log_abs_det):
    for K, stated in ((10, 9), (100, 99), (1000, 999)):
        sigma = signed(evidence.generator, K)
        used, value = counted(reduce, mul, [Counted(Fraction(s)) for s in sigma.tolist()])
        evidence.exact(count(K, Diagonal), used, oracle="a product of fractions that counts")
        evidence.exact(count(K, Diagonal), stated, oracle="the numbers of the claim")
        evidence.numeric(
            log_det(sigma),
            log_abs(value.value),
            bound=1e-11,
            oracle="the exact product of the entries",
        )
    sigma = signed(evidence.generator, 7)
    whole = jacobian(lambda z, sigma=sigma: 0.3 + sigma * z, normal(evidence.generator, 7))
    evidence.numeric(
        log_det(sigma),
        torch.linalg.slogdet(whole).logabsdet,
        bound=1e-12,
        oracle="LU factors of the Jacobian by autograd",
    )
    halves = torch.full((2000,), 0.5, dtype=DOUBLE)
    evidence.exact(halves.prod().item(), 0.0, oracle="2^-2000 is below the least double, 2^-1074")
    evidence.exact(f"{log_det(halves):.6f}", "-1386.294361", oracle="the decimals of the claim")
    exact = log_abs(Fraction(1, 2**2000))
    evidence.numeric(log_det(halves), exact, bound=1e-10, oracle="the logarithm of 2^-2000")


@mutant(test_cost_of_a_diagonal, "one multiplication for each factor", of="count")
def each_factor(dimension, form):
    return dimension


@mutant(test_cost_of_a_diagonal, "elimination of a matrix that is diagonal already", of="count")
def eliminated_zeros(dimension, form):
    return multiplications(dimension)


@mutant(test_cost_of_a_diagonal, "the logarithm of the product", of="log_det")
def product_first(sigma):
    return sigma.prod().abs().log()


@mutant(test_cost_of_a_diagonal, "the sum of the scales for their product", of="log_det")
def summed(sigma):
    return sigma.sum().abs().log()


@mutant(test_cost_of_a_diagonal, "the absolute value left out", of="log_det")
def logs_of_signed(sigma):
    return sigma.log().sum()


@pytest.mark.claim("reparam-full", answers=["A2.3"])
def test_full(evidence, density=log_prob, log_det=log_abs_det):
    for K, sign in product((1, 2, 3, 6), (1, -1)):
        loc, S = normal(evidence.generator, K), square(evidence.generator, K, sign)
        z = normal(evidence.generator, 4, K)
        x = loc + z @ S.mT
        evidence.numeric(
            density(x, loc, S),
            changed(lambda z, loc=loc, S=S: loc + S @ z, z),
            bound=1e-12,
            oracle="the change of variables with the Jacobian by autograd",
        )
        evidence.numeric(
            density(x, loc, S),
            gaussian(x, loc, S),
            bound=1e-12,
            oracle="the density of N(mu, S S^T) in 40 digits",
        )
        whole = jacobian(lambda z, loc=loc, S=S: loc + S @ z, z[0])
        rows = fractions(S)
        squared = [[sum(map(mul, one, other)) for other in rows] for one in rows]
        evidence.numeric(
            log_det(S),
            torch.linalg.slogdet(whole).logabsdet,
            bound=1e-12,
            oracle="LU factors of the Jacobian by autograd",
        )
        evidence.numeric(
            log_det(S),
            log_abs(leibniz(rows)),
            bound=1e-12,
            oracle="the sum over all permutations, in fractions",
        )
        evidence.numeric(
            log_det(S),
            log_abs(leibniz(squared)) / 2,
            bound=1e-12,
            oracle="half the logarithm of det S S^T, in fractions",
        )
    for sign in (1, -1):
        loc, S = normal(evidence.generator, 2), square(evidence.generator, 2, sign)
        axis = torch.arange(-18, 18, 0.25, dtype=DOUBLE)
        total = density(loc + torch.cartesian_prod(axis, axis), loc, S).exp().sum() * 0.25**2
        evidence.numeric(total, 1.0, bound=1e-12, oracle="the integral of a density, on a grid")


@mutant(test_full, "the absolute value left out", of="density")
def without_absolute_value(x, loc, S):
    return log_prob(x, loc, S) + log_abs_det(S) - torch.logdet(S)


@mutant(test_full, "the log-determinant added instead of subtracted", of="density")
def added_for_a_matrix(x, loc, S):
    return log_prob(x, loc, S) + 2 * log_abs_det(S)


@mutant(test_full, "S^T S for S S^T", of="density")
def transposed(x, loc, S):
    return log_prob(x, loc, S.mT)


@mutant(test_full, "the root of the determinant of the covariance forgotten", of="density")
def no_root(x, loc, S):
    return log_prob(x, loc, S) - log_abs_det(S)


@mutant(test_full, "only the diagonal of S in the determinant", of="log_det")
def diagonal_only(S):
    return S.diagonal().abs().log().sum()


@mutant(test_full, "E002-03: the last entry of the Jacobian taken from row 1", of="log_det")
def first_row(S):
    J = S.clone()
    J[-1, -1] = S[0, -1]
    return torch.linalg.slogdet(J).logabsdet


@mutant(test_full, "the logarithm of the determinant with its sign", of="log_det")
def signed_determinant(S):
    return torch.linalg.det(S).log()


@pytest.mark.claim("reparam-cost-triangular", answers=["A2.4"])
def test_cost_of_a_triangle(evidence, count=multiplications, log_det=log_abs_det):
    for K in (1, 2, 3, 6):
        S = normal(evidence.generator, K, K).tril(-1) + signed(evidence.generator, K).abs().diag()
        other = normal(evidence.generator, K, K).fill_diagonal_(0) + S.diagonal().diag()
        blank = torch.full((K, K), math.nan, dtype=DOUBLE)
        blank.diagonal().copy_(S.diagonal())
        for matrix in (S, other, blank):
            evidence.numeric(
                log_det(Triangular(matrix)),
                log_abs(leibniz(fractions(S))),
                bound=1e-12,
                oracle="the sum over all permutations of the rows of S, in fractions",
            )
        whole = jacobian(lambda z, S=S: 0.3 + S @ z, normal(evidence.generator, K))
        evidence.numeric(
            log_det(Triangular(S)),
            torch.linalg.slogdet(whole).logabsdet,
            bound=1e-12,
            oracle="LU factors of the Jacobian by autograd",
        )
    for K in (10, 100, 1000):
        pivots = [Counted(Fraction(k + 2, k + 3)) for k in range(K)]
        used, _ = counted(reduce, mul, pivots)
        evidence.exact(count(K, Triangular), used, oracle="a product of fractions that counts")


@mutant(test_cost_of_a_triangle, "elimination, where nothing is left to eliminate", of="count")
def as_full(dimension, form):
    return multiplications(dimension)


@mutant(test_cost_of_a_triangle, "the cost of solving, not of the determinant", of="count")
def substitution(dimension, form):
    return dimension * (dimension + 1) // 2


@mutant(test_cost_of_a_triangle, "the trace for the product of the diagonal", of="log_det")
def trace(scale):
    return scale.S.diagonal().sum().log()


@mutant(test_cost_of_a_triangle, "the other entries are read", of="log_det")
def reads_all(scale):
    return torch.linalg.slogdet(scale.S).logabsdet


@pytest.mark.claim("x-reparam-lu-cost", answers=["A2.4"])
def test_cost_of_elimination(evidence, count=multiplications):
    K, k = sympy.symbols("K k", positive=True, integer=True)
    steps = sympy.summation((K - k) + (K - k) ** 2, (k, 1, K - 1))
    evidence.symbolic(K * (K - 1) * (K + 1) / 3, steps, oracle="the sum over the steps, by sympy")
    for n in (*range(1, 13), 40):
        rows = normal(evidence.generator, n, n).tolist()
        for exchange in (False, True):
            used, (pivots, _) = counted(eliminated, wrapped(rows), exchange)
            more, _ = counted(reduce, mul, pivots)
            oracle = "elimination with numbers that count, rows exchanged or not"
            evidence.exact(count(n), used + more, oracle=oracle)
            evidence.exact(count(n) - (n - 1), used, oracle=oracle)
        evidence.exact(count(n), int(steps.subs(K, n)) + n - 1, oracle="the sum of sympy")
    for n, exchange in product((2, 3, 5), (False, True)):
        rows = fractions(normal(evidence.generator, n, n))
        pivots, sign = eliminated(wrapped(rows), exchange)
        by_pivots = sign * reduce(mul, pivots).value
        evidence.exact(by_pivots, leibniz(rows), oracle="the sum over all permutations")


@mutant(test_cost_of_elimination, "a third of the cube, the rest dropped")
def cube(dimension):
    return dimension**3 // 3 + dimension - 1


@mutant(test_cost_of_elimination, "entries above the pivots eliminated too (Gauss-Jordan)")
def gauss_jordan(dimension):
    return dimension * (dimension - 1) * (dimension + 1) // 2 + dimension - 1


@mutant(test_cost_of_elimination, "the divisions forgotten")
def products_only(dimension):
    return multiplications(dimension) - dimension * (dimension - 1) // 2


@mutant(test_cost_of_elimination, "subtractions counted as well")
def flops(dimension):
    return multiplications(dimension) + (dimension - 1) * dimension * (2 * dimension - 1) // 6


@mutant(test_cost_of_elimination, "the product of the pivots forgotten")
def no_product(dimension):
    return (dimension**3 - dimension) // 3


@pytest.mark.claim("x-reparam-det-lemma")
def test_low_rank(evidence, log_det=log_abs_det, density=log_prob, count=multiplications):
    for (K, R), sign in product(((1, 1), (3, 1), (5, 2), (6, 3), (4, 4), (2, 3)), (1, -1)):
        d, U, V = low_rank(evidence.generator, K, R, sign)
        S = d.diag() + U @ V.mT
        evidence.numeric(
            log_det(LowRank(d, U, V)),
            log_abs(leibniz(dense(d, U, V))),
            bound=1e-12,
            oracle="the sum over all permutations of D + U V^T, in fractions",
        )
        loc = normal(evidence.generator, K)
        x = loc + normal(evidence.generator, 4, K) @ S.mT
        evidence.numeric(
            density(x, loc, LowRank(d, U, V)),
            gaussian(x, loc, S),
            bound=1e-10,
            oracle="the density of N(mu, S S^T) with the dense S, in 40 digits",
        )
    for K, R in product((1, 2, 5, 20), (1, 2, 5)):
        U, V = normal(evidence.generator, 2, K, R).tolist()
        d = [Counted(entry) for entry in signed(evidence.generator, K).tolist()]
        used, _ = counted(lemma, d, wrapped(U), wrapped(V))
        evidence.exact(count(K, LowRank, R), used, oracle="the lemma with numbers that count")


def low_rank(generator, K, R, sign):
    """A diagonal of both signs, and factors whose C has a determinant of the given sign."""
    d = signed(generator, K)
    while True:
        U, V = normal(generator, 2, K, R) / 2
        C = torch.eye(R, dtype=DOUBLE) + V.mT @ (U / d[:, None])
        if sign * torch.linalg.det(C) > 0.2:
            return d, U, V


def dense(d, U, V):
    U, V, d = fractions(U), fractions(V), [Fraction(entry) for entry in d.tolist()]
    entry = lambda i, j: sum(map(mul, U[i], V[j])) + (d[i] if i == j else 0)
    return [[entry(i, j) for j in range(len(d))] for i in range(len(d))]


@mutant(test_low_rank, "the identity forgotten in C", of="log_det")
def no_identity(scale):
    C = scale.V.mT @ (scale.U / scale.d[:, None])
    return scale.d.abs().log().sum() + torch.linalg.slogdet(C).logabsdet


@mutant(test_low_rank, "D left out of C", of="log_det")
def no_diagonal(scale):
    C = torch.eye(scale.U.shape[-1]) + scale.V.mT @ scale.U
    return scale.d.abs().log().sum() + torch.linalg.slogdet(C).logabsdet


@mutant(test_low_rank, "the determinant of D left out", of="log_det")
def small_only(scale):
    return log_abs_det(scale) - scale.d.abs().log().sum()


@mutant(test_low_rank, "the absolute value left out", of="log_det")
def logs_of_signed_entries(scale):
    return log_abs_det(scale) + scale.d.log().sum() - scale.d.abs().log().sum()


@mutant(test_low_rank, "a plus in the inverse", of="density")
def plus(x, loc, scale):
    z = torch.linalg.solve(scale.d.diag() + scale.U @ scale.V.mT, (x - loc)[..., None])[..., 0]
    wrong = 2 * (x - loc) / scale.d - z
    return log_prob(x, loc, scale) + (z.square() - wrong.square()).sum(-1) / 2


@mutant(test_low_rank, "D + U V^T taken for the covariance", of="density")
def as_covariance(x, loc, scale):
    S = scale.d.diag() + scale.U @ scale.V.mT
    r = (x - loc)[..., None]
    squared = (r.mT @ torch.linalg.solve(S, r))[..., 0, 0]
    return -(squared + len(S) * math.log(2 * math.pi) + torch.linalg.slogdet(S).logabsdet) / 2


@mutant(test_low_rank, "the small matrix costs nothing", of="count")
def linear(dimension, form, rank):
    return dimension * (2 * rank + 1)


@mutant(test_low_rank, "as much as the full matrix", of="count")
def formed(dimension, form, rank):
    return multiplications(dimension)


@pytest.mark.claim("x-reparam-nonunique")
def test_same_law(evidence, factor=cholesky_factor, density=log_prob):
    for K, sign in product((1, 2, 3, 5), (1, -1)):
        loc, S = normal(evidence.generator, K), square(evidence.generator, K, sign)
        turn = orthogonal(evidence.generator, K)
        mirror = turn @ signed(evidence.generator, K).sign().diag()
        x = loc + normal(evidence.generator, 4, K) @ S.mT
        for T in (S, S @ turn, S @ mirror):
            evidence.numeric(
                density(x, loc, T),
                gaussian(x, loc, S),
                bound=1e-11,
                oracle="the density of N(mu, S S^T) in 40 digits",
            )
            evidence.numeric(
                factor(T),
                cholesky(S),
                bound=1e-12,
                oracle="the recursion for the Cholesky factor of S S^T, in 40 digits",
            )
        L = factor(S)
        Q = torch.linalg.solve(S, L)
        evidence.numeric(
            Q @ Q.mT,
            torch.eye(K, dtype=DOUBLE),
            bound=1e-12,
            oracle="the definition of an orthogonal matrix",
        )
    for K in (2, 3):
        S = torch.randint(1, 9, (K, K), generator=evidence.generator) + 9 * torch.eye(K)
        S = S.to(DOUBLE).flip(0)
        flips = [torch.tensor(f, dtype=DOUBLE) for f in product((-1.0, 1.0), repeat=K)]
        evidence.numeric(
            [factor(S) * flip for flip in flips],
            triangles(S),
            bound=1e-12,
            oracle="all solutions of T T^T = S S^T with T lower triangular, by sympy",
        )


def cholesky(S):
    """The lower triangular factor with positive diagonal, entry after entry."""
    with mpmath.workdps(40):
        covariance, K = digits(S) * digits(S).T, len(S)
        L = mpmath.zeros(K)
        for i, j in product(range(K), range(K)):
            if j <= i:
                rest = covariance[i, j] - mpmath.fsum(L[i, k] * L[j, k] for k in range(j))
                L[i, j] = mpmath.sqrt(rest) if i == j else rest / L[j, j]
        return torch.tensor([[float(L[i, j]) for j in range(K)] for i in range(K)], dtype=DOUBLE)


def triangles(S):
    """All lower triangular T with T T^T = S S^T, ordered by the signs of their diagonals."""
    A, K = sympy.Matrix(S.int().tolist()), len(S)
    entries = {(i, j): sympy.Symbol(f"t{i}{j}") for i in range(K) for j in range(i + 1)}
    T = sympy.Matrix(K, K, lambda i, j: entries.get((i, j), 0))
    equations = [(T * T.T - A * A.T)[i, j] for i, j in entries]
    found = sympy.solve(equations, list(entries.values()), dict=True)
    made = [torch.tensor(T.subs(one).evalf(30).tolist(), dtype=DOUBLE) for one in found]
    return sorted(made, key=lambda matrix: matrix.diagonal().sign().tolist())


@mutant(test_same_law, "signs as the QR decomposition leaves them", of="factor")
def any_sign(S):
    return torch.linalg.qr(S.mT).R.mT


@mutant(test_same_law, "the factor of S^T S", of="factor")
def of_the_other_product(S):
    return cholesky_factor(S.mT)


@mutant(test_same_law, "the upper triangular factor", of="factor")
def upper(S):
    return cholesky_factor(S).mT


@mutant(test_same_law, "the lower triangle of S itself", of="factor")
def lower_part(S):
    return S.tril()


@mutant(test_same_law, "S^T S for S S^T", of="density")
def turned_on_the_left(x, loc, S):
    return log_prob(x, loc, S.mT)


@mutant(test_same_law, "an orthogonal factor changes the sign of the volume", of="density")
def volume_with_sign(x, loc, S):
    return log_prob(x, loc, S) + log_abs_det(S) - torch.logdet(S)


FORMS = {
    "diagonal": lambda S: Diagonal(S[..., 0]),
    "triangular": Triangular,
    "full": lambda S: S,
    "low rank": lambda S: LowRank(S[..., 0], S[..., 1:], S[..., :2]),
}


def as_matrix(scale):
    match scale:
        case Diagonal(sigma):
            return torch.diag_embed(sigma)
        case Triangular(S):
            return S.tril()
        case LowRank(d, U, V):
            return torch.diag_embed(d) + U @ V.mT
    return scale


def three(generator, *batch, dtype=DOUBLE):
    """Matrices of size 3 that are far from singular in every form."""
    return (2 * torch.eye(3) + 0.2 * normal(generator, *batch, 3, 3)).to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    ("x", "loc", "scale"),
    [
        ((), (), ()),
        ((5,), (), ()),
        ((5, 4), (4,), ()),
        ((), (), (2,)),
        ((5, 2), (2,), (2,)),
        ((3,), (4, 3), (4, 1)),
    ],
)
def test_batches_broadcast_and_keep_the_dtype(form, dtype, x, loc, scale):
    generator = torch.Generator().manual_seed(5)
    S = FORMS[form](three(generator, *scale, dtype=dtype))
    x, loc = normal(generator, *x, 3).to(dtype), normal(generator, *loc, 3).to(dtype)
    matrix = as_matrix(S).double()
    law = MultivariateNormal(loc.double(), matrix @ matrix.mT)
    measured = log_prob(x, loc, S)
    close = partial(torch.testing.assert_close, rtol=1e3 * torch.finfo(dtype).eps, atol=1e-5)
    close(measured, law.log_prob(x.double()).to(dtype))
    close(log_abs_det(S), torch.linalg.slogdet(matrix).logabsdet.to(dtype))
    drawn = sample(loc, S, (7,), torch.Generator().manual_seed(6))
    batch = torch.broadcast_shapes(loc.shape[:-1], scale)
    z = torch.randn(7, *batch, 3, dtype=dtype, generator=torch.Generator().manual_seed(6))
    expected = (loc.double() + (matrix @ z.double()[..., None])[..., 0]).to(dtype)
    close(drawn, expected)


@pytest.mark.parametrize("form", FORMS)
def test_batches_may_be_empty(form):
    S = three(torch.Generator().manual_seed(5))
    assert log_prob(torch.ones(0, 3, dtype=DOUBLE), 0.0, FORMS[form](S)).shape == (0,)
    assert sample(0.0, FORMS[form](S), (0,)).shape == (0, 3)
    assert log_abs_det(FORMS[form](S[None][:0])).shape == (0,)


def test_parts_of_a_low_rank_scale_broadcast():
    generator = torch.Generator().manual_seed(7)
    d, U, V = normal(generator, 2, 3).exp(), normal(generator, 3, 1), normal(generator, 4, 1, 3, 1)
    S, x = LowRank(d, U, V), normal(generator, 3)
    torch.testing.assert_close(log_prob(x, 0.0, S), log_prob(x, 0.0, as_matrix(S)))
    assert sample(0.0, S).shape == (4, 2, 3)


def test_a_number_shifts_all_coordinates():
    S, x = three(torch.Generator().manual_seed(8)), torch.ones(3, dtype=DOUBLE)
    assert torch.equal(log_prob(x, 0.3, S), log_prob(x, torch.full((3,), 0.3, dtype=DOUBLE), S))
    assert torch.equal(log_prob(x, torch.tensor(0.3, dtype=DOUBLE), S), log_prob(x, 0.3, S))
    assert sample(0.3, S, (2,)).shape == (2, 3)


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form):
    generator = torch.Generator().manual_seed(9)
    S, x, loc = three(generator), normal(generator, 2, 3), normal(generator, 3)

    def drawn(loc, S):
        return sample(loc, FORMS[form](S), (2,), torch.Generator().manual_seed(6))

    S, x, loc = (tensor.requires_grad_() for tensor in (S, x, loc))
    assert gradcheck(lambda x, loc, S: log_prob(x, loc, FORMS[form](S)), (x, loc, S))
    assert gradcheck(lambda S: log_abs_det(FORMS[form](S)), (S,))
    assert gradcheck(drawn, (loc, S))
    assert gradcheck(cholesky_factor, (S,))


def test_what_stands_above_the_diagonal_is_never_used():
    S = three(torch.Generator().manual_seed(10))
    blank = S.masked_fill(torch.ones(3, 3).triu(1).bool(), math.nan)
    x = torch.ones(3, dtype=DOUBLE)
    assert torch.equal(log_prob(x, 0.0, Triangular(blank)), log_prob(x, 0.0, Triangular(S)))
    drawn = sample(0.0, Triangular(blank), (2,), torch.Generator().manual_seed(1))
    assert torch.equal(drawn, sample(0.0, S.tril(), (2,), torch.Generator().manual_seed(1)))


def test_single_precision_sums_in_double():
    sigma = torch.full((2000,), 0.3)
    exact = sigma.double().log().sum()
    assert abs(log_abs_det(sigma).double() - exact) <= 2e-4, "one unit in the last place"
    x = torch.full((2000,), 0.1)
    exact = Normal(0.0, sigma.double()).log_prob(x.double()).sum()
    assert abs(log_prob(x, 0.0, sigma).double() - exact) <= 2e-4


def test_the_condition_number_is_not_squared():
    S = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2.0**-40]], dtype=DOUBLE)
    assert log_abs_det(S).item() == pytest.approx(-40 * math.log(2), rel=1e-15)
    assert log_prob(S @ torch.tensor([1.0, 2.0], dtype=DOUBLE), 0.0, S).isfinite()
    by_factor = cholesky_factor(S).diagonal().log().sum().item()
    assert by_factor == pytest.approx(-40 * math.log(2), abs=1e-2)


@pytest.mark.usefixtures("untyped")
def test_the_logarithm_for_integer_scales_is_not_cut_off():
    for scale in (torch.tensor([2, -3]), Triangular(torch.tensor([[2, 9], [1, -3]]))):
        torch.testing.assert_close(log_abs_det(scale), torch.tensor(math.log(6)))


def hilbert(K, dtype):
    return 1 / (torch.arange(K, dtype=dtype)[:, None] + torch.arange(K) + 1)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_scales_and_bad_units_are_not_singular(dtype):
    big = 1e30
    for rows in ([[1, 0], [big, 1]], [[1, big], [0, 1]], [[1 / big, 0], [0, big]]):
        assert log_abs_det(torch.tensor(rows, dtype=dtype)) == pytest.approx(0, abs=1e-5)
    assert log_abs_det(1e-30 * torch.eye(50, dtype=dtype)) == pytest.approx(-1500 * math.log(10))
    for seed in range(20):
        S = torch.randn(200, 200, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        assert log_abs_det(S).isfinite()
    K = 4 if dtype == torch.float32 else 10
    S = hilbert(K, dtype)
    torch.testing.assert_close(log_abs_det(S), torch.linalg.slogdet(S).logabsdet)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 2.0], [2.0, 4.0]],
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]],
        [[1.0, 4.0, 7.0], [2.0, 5.0, 8.0], [3.0, 6.0, 9.0]],
        [[3.0, 2.0, -2.0], [-6.0, -3.0, 0.0], [18.0, 9.0, 0.0]],
        [[0.1, 0.2], [0.3, 0.6]],
        [[1.0, 0.0], [0.0, math.nan]],
        [[1.0, 0.0], [0.0, math.inf]],
    ],
)
def test_singular_matrices_are_refused(rows, dtype):
    S = torch.tensor(rows, dtype=dtype)
    words = re.escape(f"scale must be finite and non-singular, got one singular in {dtype}")
    with pytest.raises(ValueError, match=words):
        log_prob(torch.ones(len(S), dtype=dtype), 0.0, S)
    with pytest.raises(ValueError, match=words):
        log_abs_det(torch.stack([torch.eye(len(S), dtype=dtype), S]))
    with pytest.raises(ValueError, match="scale must have independent rows"):
        cholesky_factor(S)


def test_a_singular_scale_can_be_sampled():
    x = sample(1.0, torch.tensor([[1.0, 2.0], [2.0, 4.0]]), (5,), torch.Generator().manual_seed(1))
    torch.testing.assert_close(x[:, 1] - 1, 2 * (x[:, 0] - 1))
    assert (sample(1.0, torch.zeros(3)) == 1).all()


def test_wide_scales_have_a_factor():
    S = normal(torch.Generator().manual_seed(2), 4, 2, 5)
    L = cholesky_factor(S)
    torch.testing.assert_close(L @ L.mT, S @ S.mT)
    assert torch.equal(L, L.tril())
    assert (L.diagonal(dim1=-2, dim2=-1) > 0).all()


ONES = torch.ones(3, 2)
THIRDS = torch.full((3, 1), 1 / 3)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.tensor([1.0, 0.0]), "scale must be finite and not 0, got 0.0"),
        (lambda: torch.tensor([1.0, math.inf]), "scale must be finite and not 0, got inf"),
        (lambda: Diagonal(torch.tensor([[1.0, 2.0], [0.0, 3.0]])), "scale must be finite and not"),
        (lambda: Triangular(torch.zeros(2, 2)), "the diagonal of scale must be finite and not 0"),
        (lambda: LowRank(torch.zeros(3), ONES, ONES), "d must be finite and not 0, got 0.0"),
        (lambda: LowRank(torch.ones(3), THIRDS, -3 * THIRDS), "scale must be finite and non-si"),
        (lambda: ONES, "got Tensor of shape [(3, 2)]; for a batch of vectors use Diagonal"),
        (lambda: torch.tensor(2.0), "got Tensor of shape [()]; for a batch"),
        (lambda: 2.0, "got float of shape []; for a batch"),
        (lambda: Diagonal(torch.tensor(2.0)), "got Diagonal of shape [()]; for a batch"),
        (lambda: Triangular(torch.ones(3)), "got Triangular of shape [(3,)]; for a batch"),
        (lambda: LowRank(torch.ones(2), ONES, ONES), "got LowRank of shape [(2,), (3, 2), (3, 2)]"),
        (lambda: LowRank(torch.ones(3), ONES, ONES[:, :1]), "of shape [(3,), (3, 2), (3, 1)]"),
    ],
)
def test_bad_scales_raise(make, words):
    scale = make()
    with pytest.raises(ValueError, match=re.escape(words)):
        log_abs_det(scale)
    with pytest.raises(ValueError, match=re.escape(words)):
        log_prob(torch.ones(3 if isinstance(scale, LowRank) else 2), 0.0, scale)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("x", "loc", "words"),
    [
        (torch.ones(2), 0.0, "x must hold vectors of length 3, got shape (2,)"),
        (torch.ones(4, 1), 0.0, "x must hold vectors of length 3, got shape (4, 1)"),
        (torch.tensor(1.0), 0.0, "x must hold vectors of length 3, got shape ()"),
        (1.0, 0.0, "x must hold vectors of length 3, got shape ()"),
        (torch.ones(3), torch.ones(1), "loc must hold vectors of length 3, got shape (1,)"),
        (torch.ones(3), torch.ones(3, 4), "loc must hold vectors of length 3, got shape (3, 4)"),
    ],
)
def test_bad_points_and_shifts_raise(x, loc, words):
    for scale in (torch.ones(3), torch.eye(3)):
        with pytest.raises(ValueError, match=re.escape(words)):
            log_prob(x, loc, scale)
        if words.startswith("loc"):
            with pytest.raises(ValueError, match=re.escape(words)):
                sample(loc, scale)


@pytest.mark.usefixtures("untyped")
def test_bad_counts_and_factors_raise():
    with pytest.raises(ValueError, match="dimension and rank must be at least 1, got 0 and 1"):
        multiplications(0)
    with pytest.raises(ValueError, match="dimension and rank must be at least 1, got 3 and 0"):
        multiplications(3, LowRank, 0)
    with pytest.raises(ValueError, match=r"form must be Diagonal, .* got <class 'float'>"):
        multiplications(3, float)
    with pytest.raises(ValueError, match="scale must have independent rows"):
        cholesky_factor(ONES)


def drawn(name):
    figure = Figure(layout="constrained")
    snippet = run_path(str(SNIPPET))
    snippet[name](figure.gca() if name == "figure_cost" else figure)
    return snippet["S"].double(), figure.axes


def test_the_circle_is_mapped_and_its_area_measured():
    S, axes = drawn("figure")
    for ax, A, sign in zip(axes, (S.flip(1), S), "+-", strict=True):
        circle, image = (torch.tensor(line.get_xydata(), dtype=DOUBLE) for line in ax.lines)
        torch.testing.assert_close(circle.norm(dim=1), torch.ones(len(circle), dtype=DOUBLE))
        torch.testing.assert_close(image, circle @ A.mT, rtol=0, atol=1e-6)
        assert ax.get_title() == f"signed {sign}2.0, absolute 2.0"
        assert f"{torch.linalg.det(A):+.1f}" == f"{sign}2.0"
        before, after = (torch.tensor(marks.get_offsets().data) for marks in ax.collections[:2])
        for points, turns in ((before, 1), (after, 1 if sign == "+" else -1)):
            (a, b), (c, d) = points[1] - points[0], points[2] - points[0]
            assert (a * d - b * c) * turns > 0


def test_the_arrows_are_columns_of_scales_with_one_law():
    S, axes = drawn("figure_law")
    covariance = S @ S.mT
    found = []
    for ax in axes:
        x = torch.tensor(ax.lines[0].get_xydata(), dtype=DOUBLE)
        distance = (x * torch.linalg.solve(covariance, x.mT).mT).sum(1)
        torch.testing.assert_close(distance, torch.ones_like(distance), rtol=0, atol=1e-5)
        arrows = [text.xy for text in ax.texts if hasattr(text, "xy")]
        columns = torch.tensor([[float(v) for v in arrow] for arrow in arrows], dtype=DOUBLE).mT
        torch.testing.assert_close(columns @ columns.mT, covariance, rtol=0, atol=1e-5)
        found.append(columns)
    assert found[0][0, 1] == 0
    torch.testing.assert_close(found[1], S, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], found[2].mT, rtol=0, atol=1e-6)


def test_the_counts_drawn_are_those_of_elimination():
    (ax,) = drawn("figure_cost")[1]
    lines = {line.get_label(): dict(line.get_xydata().tolist()) for line in ax.lines}
    for K in (4, 8, 16, 32):
        rows = normal(torch.Generator().manual_seed(K), K, K).tolist()
        U = [[entry + 2 for entry in row[:4]] for row in rows]
        d = [Counted(k + 1.0) for k in range(K)]
        assert lines["full"][K] == counted(determinant, wrapped(rows))[0]
        assert lines["diagonal"][K] == lines["triangular"][K] == counted(reduce, mul, d)[0]
        assert lines["diagonal plus rank 4"][K] == counted(lemma, d, wrapped(U), wrapped(U))[0]
    assert lines["full"][1024] / lines["diagonal"][1024] > 300_000
    ratios = [lines["diagonal plus rank 4"][K] / k for K, k in lines["diagonal"].items()]
    assert ratios == sorted(ratios, reverse=True)
    assert (round(ratios[0]), round(ratios[-1])) == (36, 21)
