import re
from itertools import product

import mpmath
import pytest
import torch

from genref._site.claims import mutant
from genref.flows.trace import powers, roulette, series, tail, traces, variance, weights
from genref.numerics.autodiff import jacobian, slogdet

DOUBLE = torch.float64


def matrix(generator, D, L):
    """A random matrix of operator norm L."""
    A = torch.randn(D, D, generator=generator, dtype=DOUBLE)
    return L * A / torch.linalg.matrix_norm(A, 2)


def linear(A):
    return lambda z: z @ A.mT


def network(generator, D, L):
    """A branch with one hidden layer whose Lipschitz constant is at most L."""
    V, W = torch.randn(2, 8, D, generator=generator, dtype=DOUBLE)
    V, W = (M / torch.linalg.matrix_norm(M, 2) for M in (V, W))
    return lambda z: L * torch.tanh(z @ V.mT) @ W


def precise_log_det(A):
    """The logarithm of det(I + A), to 40 digits."""
    with mpmath.workdps(40):
        return float(mpmath.log(mpmath.det(mpmath.eye(len(A)) + mpmath.matrix(A.tolist()))))


def precise_tail(L, n):
    """The sum of the terms from n + 1 on, a hypergeometric function, to 40 digits."""
    with mpmath.workdps(40):
        return mpmath.mpf(L) ** (n + 1) / (n + 1) * mpmath.hyp2f1(1, n + 1, n + 2, mpmath.mpf(L))


@pytest.mark.claim("x-flows-logdet-series")
def test_series(evidence, estimate=series):
    for L, D, n in product((0.3, 0.8, 0.97), (1, 2, 5), (1, 2, 3, 8, 40)):
        z = torch.randn(D, generator=evidence.generator, dtype=DOUBLE)
        A = matrix(evidence.generator, D, L)
        norm_above_one = A.triu(1) * 30 + (2 * torch.rand(D, dtype=DOUBLE) - 1).diag() * L
        for B in (A, -A.mT @ A / L, norm_above_one, A.triu() - A.triu().mT):
            radius = torch.linalg.eigvals(B).abs().max()
            B = B * (L / radius.clamp(min=L))
            value, bound = estimate(linear(B), z, n, L)
            evidence.ordered(
                abs(value - precise_log_det(B)) - bound,
                0.0,
                bound=1e-13,
                oracle="determinant with 40 digits",
            )
        f = network(evidence.generator, D, L)
        value, bound = estimate(f, z, n, L)
        sign, expected = slogdet(lambda z, f=f: z + f(z), z)
        evidence.exact(sign, torch.ones((), dtype=DOUBLE), oracle="sign of the pivots")
        evidence.ordered(abs(value - expected) - bound, 0.0, bound=1e-13, oracle="LU factors of I + J")
        rest = float(D * precise_tail(L, n))
        value, bound = estimate(lambda z, L=L: -L * z, z, n, L)
        exact = D * float(mpmath.log(1 - mpmath.mpf(L)))
        evidence.numeric(value - exact, rest, bound=1e-13, oracle="a hypergeometric function")
        evidence.ordered(rest / bound, 1.0, bound=0, oracle="a hypergeometric function")
        if rest > 1e-9:
            evidence.numeric(bound / rest, 1.0, bound=1e-5, oracle="a hypergeometric function")


@mutant(test_series, "the dimension left out of the bound")
def one_dimension(f, z, terms, lipschitz):
    return series(f, z, terms, lipschitz)[0], tail(lipschitz, terms)


@mutant(test_series, "the first term left out as the bound, as for alternating series")
def next_term(f, z, terms, lipschitz):
    bound = z.shape[-1] * lipschitz ** (terms + 1) / (terms + 1)
    return series(f, z, terms, lipschitz)[0], bound


@mutant(test_series, "no alternating signs")
def one_sign(f, z, terms, lipschitz):
    t, bound = traces(f, z, terms), tail(lipschitz, terms, z.shape[-1])
    return (t / torch.arange(1, terms + 1, dtype=t.dtype)).sum(), bound


@mutant(test_series, "factorials, as in the series of the exponential")
def factorials(f, z, terms, lipschitz):
    t, bound = traces(f, z, terms), tail(lipschitz, terms, z.shape[-1])
    k = torch.arange(1, terms + 1, dtype=t.dtype)
    return (-((-1) ** k) * t / (k + 1).lgamma().exp()).sum(), bound


@mutant(test_series, "the trace of the powers taken for the power of the trace")
def power_of_trace(f, z, terms, lipschitz):
    t = traces(f, z, 1).pow(torch.arange(1, terms + 1))
    return (weights(terms) * t).sum(), tail(lipschitz, terms, z.shape[-1])


def three_points(D, fourth):
    """All vectors of the law -a, 0, a with variance 1 and this fourth moment, and their chances."""
    a, p = fourth**0.5, 1 / (2 * fourth)
    values, chances = torch.tensor([[-a, 0, a], [p, 1 - 2 * p, p]], dtype=DOUBLE)
    v = torch.cartesian_prod(*[values] * D)
    return v, torch.cartesian_prod(*[chances] * D).prod(-1)


def enumerated(A, fourth):
    """Mean and variance of the quadratic form, over all vectors of that law."""
    v, chance = three_points(len(A), fourth)
    form = torch.einsum("ni,ij,nj->n", v, A, v)
    mean = (chance * form).sum()
    return mean, (chance * (form - mean) ** 2).sum()


def isserlis(A):
    """The variance under a normal law, from E v_i v_j v_k v_l as a sum over pairings."""
    n, total = range(len(A)), 0.0
    for i, j, k, m in product(n, n, n, n):
        total += float(A[i, j] * A[k, m]) * ((i == k) * (j == m) + (i == m) * (j == k))
    return total


@pytest.mark.claim("x-flows-hutchinson")
def test_hutchinson(evidence, law=variance, estimate=traces):
    for _ in range(3):
        A = torch.randn(5, 5, generator=evidence.generator, dtype=DOUBLE)
        for fourth in (1.0, 1.8, 3.0, 4.5):
            mean, expected = enumerated(A, fourth)
            evidence.numeric(mean, A.trace(), bound=1e-12, oracle="sum of the diagonal")
            evidence.numeric(law(A, fourth), expected, bound=1e-11, oracle="all 3⁵ vectors")
        evidence.numeric(law(A, 3.0), isserlis(A), bound=1e-11, oracle="pairings of a normal law")
        _, larger = enumerated(A, 1.2)
        evidence.ordered(law(A, 1.0), larger, bound=0, oracle="a law of larger fourth moment")
    z = torch.zeros(20_000, 5, dtype=DOUBLE)
    form = estimate(linear(A), z, 2, probes=1, generator=evidence.generator)
    for k, B in ((0, A), (1, A @ A)):
        mean, expected = enumerated(B, 1.0)
        evidence.statistical(form[k], float(mean), oracle="all 2⁵ signs", detects=0.5)
        spread = (form[k] - mean) ** 2
        evidence.statistical(spread, float(expected), oracle="all 2⁵ signs", detects=0.2 * expected)


@mutant(test_hutchinson, "the matrix is not symmetrised", of="law")
def unsymmetrised(A, fourth):
    diagonal = A.diagonal().square().sum()
    return (fourth - 1) * diagonal + 2 * (A.square().sum() - diagonal)


@mutant(test_hutchinson, "the variance of a normal law for all laws", of="law")
def always_normal(A, fourth):
    return 2 * ((A + A.mT) / 2).square().sum()


@mutant(test_hutchinson, "each pair counted once", of="law")
def once(A, fourth):
    return variance(A, fourth) - ((A + A.mT) / 2).tril(-1).square().sum() * 2


@mutant(test_hutchinson, "coins 0 and 1 instead of signs", of="estimate")
def coins(f, z, terms, probes, generator):
    v = torch.randint(2, z.shape, generator=generator).to(z.dtype)
    return (powers(f, z, v, terms) * v).sum(-1)


@mutant(test_hutchinson, "one sign for all coordinates", of="estimate")
def one_coin(f, z, terms, probes, generator):
    v = (2 * torch.randint(2, z.shape[:-1], generator=generator) - 1).to(z.dtype)
    v = v[:, None].expand(z.shape)
    return (powers(f, z, v, terms) * v).sum(-1)


@pytest.mark.claim("x-flows-roulette")
def test_roulette(evidence, w=weights, estimate=roulette):
    last = 600
    for L, m, p, sign in ((0.6, 1, 0.6, 1), (0.7, 3, 0.55, -1), (0.9, 2, 0.93, 1)):
        A = sign * matrix(evidence.generator, 4, L)
        for B in (A, -L * torch.eye(4, dtype=DOUBLE)):
            t = torch.stack([torch.linalg.matrix_power(B, k).trace() for k in range(1, last + 1)])
            N = torch.arange(m, last + 1)
            chance = p ** (N - m).double() * (1 - p)
            S = (w(last, m, p) * t).cumsum(0)[m - 1 :]
            evidence.numeric(
                (chance * S).sum(),
                precise_log_det(B),
                bound=1e-9,
                oracle="determinant with 40 digits",
            )
            k = torch.arange(1, last + 1, dtype=DOUBLE)
            a = -((-1.0) ** k) * t / k
            T = a.flip(0).cumsum(0).flip(0)
            P = torch.where(k <= m, 1.0, p ** (k - m))
            second = ((T**2 - torch.cat([T[1:], T.new_zeros(1)]) ** 2) / P).sum()
            evidence.numeric((chance * S**2).sum(), second, bound=1e-8, oracle="the sum over the tails")
    for L in (0.5, 0.8):  # the terms of the second moment for -LI
        for p in (0.9 * L**2, L**2):
            t = torch.tensor([(-L) ** k for k in range(1, 403)], dtype=DOUBLE)
            S = (w(402, 1, p) * t).cumsum(0)
            terms = p ** torch.arange(402, dtype=DOUBLE) * (1 - p) * S**2
            grows = bool(terms[400] > terms[200])
            evidence.exact(grows, p < L**2, oracle="the ratio ℓ²/p of the terms")
    V = matrix(evidence.generator, 3, 1.0)
    f, z = lambda z: -0.8 * torch.tanh(z @ V.mT) @ V, torch.full((3,), 0.2, dtype=DOUBLE)
    _, expected = slogdet(lambda z: z + f(z), z)
    many, k = z.expand(8000, 3), torch.arange(1, 1001, dtype=DOUBLE)
    t = (torch.linalg.eigvals(jacobian(f, z)) ** k[:, None]).sum(-1).real
    T = (-((-1.0) ** k) * t / k).flip(0).cumsum(0).flip(0)
    for first, keep, probes in ((1, None, None), (3, 0.7, None), (2, None, 2)):
        options = {"first": first, "keep": keep, "probes": probes}
        sample = estimate(f, many, 0.8, generator=evidence.generator, **options)
        evidence.statistical(sample, float(expected), oracle="LU factors of I + J", detects=0.05)
        if probes is None:
            P = (keep or 0.8) ** (k - first).clamp(min=0)
            second = float(((T[:-1] ** 2 - T[1:] ** 2) / P[:-1]).sum())
            evidence.statistical(
                sample**2, second, oracle="the sum over the tails, from eigenvalues", detects=0.2 * second
            )


@mutant(test_roulette, "no weights: a series cut off at random", of="w")
def unweighted(terms, first, keep):
    return weights(terms)


@mutant(test_roulette, "the probability of stopping there instead of getting there", of="w")
def stopping(terms, first, keep):
    return weights(terms, first, keep) / (1 - keep)


@mutant(test_roulette, "the probability of going on once more", of="w")
def shifted(terms, first, keep):
    return weights(terms + 1, first, keep)[1:] * -(1 + 1 / torch.arange(1, terms + 1))


@mutant(test_roulette, "no weights in the estimate", of="estimate")
def cut_off(f, z, lipschitz, first, keep, probes, generator):
    N = first + (torch.rand(len(z), generator=generator).log() / torch.tensor(lipschitz).log()).floor()
    t = traces(f, z, int(N.max()), probes, generator)
    k = torch.arange(1, len(t) + 1)[:, None]
    return (weights(len(t))[:, None] * t.where(k <= N, 0)).sum(0)


@mutant(test_roulette, "one law of stopping drawn from, another weighted by", of="estimate")
def other_law(f, z, lipschitz, first, keep, probes, generator):
    N = first + (torch.rand(len(z), generator=generator).log() / torch.tensor(lipschitz).log()).floor()
    t = traces(f, z, int(N.max()), probes, generator)
    k = torch.arange(1, len(t) + 1)[:, None]
    return (weights(len(t), first, 0.7)[:, None] * t.where(k <= N, 0)).sum(0)


@mutant(test_roulette, "the random end counted from the first term, not from the m-th", of="estimate")
def from_the_first(f, z, lipschitz, first, keep, probes, generator):
    p = torch.tensor(keep or lipschitz)
    N = 1 + (torch.rand(len(z), generator=generator).log() / p.log()).floor()
    t = traces(f, z, int(N.max()), probes, generator)
    k = torch.arange(1, len(t) + 1)[:, None]
    return (weights(len(t), first, p.item())[:, None] * t.where(k <= N, 0)).sum(0)


def test_tails_are_rounded_up():
    for L, n in product((1e-3, 0.01, 0.3, 0.7, 0.97, 0.9999), (1, 2, 7, 40, 90)):
        exact = precise_tail(L, n)
        assert exact <= tail(L, n) <= exact * 1.6 + mpmath.mpf(1e-15)
    assert all(precise_tail(L, n) <= tail(L, n) for L, n in product((1e-18, 7e-17, 3e-9), (1, 2, 7)))
    assert tail(0.0, 3, 5) == 0


def test_powers_of_a_batch():
    A = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    z, v = torch.ones(2, 4, 3, dtype=DOUBLE), torch.randn(5, 2, 4, 3, dtype=DOUBLE)
    expected = torch.stack([v @ A, v @ A @ A])
    torch.testing.assert_close(powers(linear(A), z, v, 2), expected)
    exact = torch.stack([A.trace(), (A @ A).trace()])[:, None, None].expand(2, 2, 4)
    torch.testing.assert_close(traces(linear(A), z, 2), exact)


def test_gradients_reach_points_and_parameters():
    z = torch.tensor([0.3, -0.8], dtype=DOUBLE, requires_grad=True)
    w = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)

    def log_det(z, w):
        return series(lambda z: w * z.sin(), z, 60, 0.5)[0]

    torch.autograd.gradcheck(log_det, (z, w))
    assert not log_det(z.detach(), w.detach()).requires_grad
    with torch.no_grad():
        assert not log_det(z, w).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_results_keep_the_dtype_and_the_shape(dtype):
    z = torch.ones(2, 3, 4, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    f = lambda z: z.sin() / 2
    assert series(f, z, 3, 0.5)[0].dtype == dtype
    for probes in (None, 3):
        value = roulette(f, z, 0.5, probes=probes, generator=generator)
        assert (value.dtype, value.shape) == (dtype, (2, 3))
    assert roulette(f, z[:0], 0.5).shape == (0, 3)
    assert variance(torch.ones(2, 3, 3, dtype=dtype)).dtype == dtype


def test_a_seed_gives_the_same_numbers():
    f, z = (lambda z: z.sin() / 2), torch.ones(5, 2)
    one, two = (roulette(f, z, 0.5, probes=1, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    assert torch.equal(one, two)
    assert one.unique().numel() > 1, "each point has its own chance"


def half(z):
    return z / 2


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda z: series(half, z, 0, 0.5), "terms must be at least 1, got 0"),
        (lambda z: series(half, z, 2, 1.0), "lipschitz must be at least 0 and less than 1, got 1.0"),
        (lambda z: series(half, z, 2, -0.1), "lipschitz must be at least 0 and less than 1, got -0.1"),
        (lambda z: series(half, z, 2, 0.5, probes=0), "probes must be at least 1, got 0"),
        (lambda z: series(half, z[0, 0], 2, 0.5), "z must be floating, its last dimension"),
        (lambda z: series(half, z.long(), 2, 0.5), "got torch.int64 of shape (3, 2)"),
        (lambda z: traces(lambda z: z[:, 0], z, 1), "f must keep the shape (2, 3, 2), got (2, 2)"),
        (lambda z: traces(lambda z: z.detach(), z, 1), "f must be differentiable"),
        (lambda z: powers(half, z, z, 0), "terms must be at least 1, got 0"),
        (lambda z: weights(0), "terms must be at least 1, got 0"),
        (lambda z: weights(3, 1, 0.0), "keep must be more than 0 and at most 1, got 0.0"),
        (lambda z: weights(3, 1, 1.5), "keep must be more than 0 and at most 1, got 1.5"),
        (lambda z: weights(3, -1, 0.5), "first must be at least 1, got -1"),
        (lambda z: tail(1.5, 3), "lipschitz must be at least 0 and less than 1, got 1.5"),
        (lambda z: tail(0.5, 0), "terms must be at least 1, got 0"),
        (lambda z: tail(0.5, 3, 0), "dim must be at least 1, got 0"),
        (lambda z: roulette(half, z, 0.8, keep=0.6), "keep must be less than 1 and at least"),
        (lambda z: roulette(half, z, 0.8, keep=1.0), "keep must be less than 1 and at least"),
        (lambda z: roulette(half, z, 0.0, keep=0.0), "keep must be less than 1 and at least"),
        (lambda z: roulette(half, z, 0.8, first=0), "first must be at least 1, got 0"),
        (variance, "A must be square, got shape (3, 2)"),
        (lambda z: variance(z[0]), "A must be square, got shape (2,)"),
        (lambda z: variance(z[:2], 0.5), "fourth must be at least 1, got 0.5"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(torch.ones(3, 2))
