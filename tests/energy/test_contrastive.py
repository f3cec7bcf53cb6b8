import math
import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from scipy.special import i0, iv, rel_entr
from torch.utils._python_dispatch import TorchDispatchMode

from genref._site.claims import mutant
from genref.energy.contrastive import (
    alignment,
    bias,
    expected_loss,
    fluctuation,
    info_nce,
    limit,
    uniform_value,
    uniformity,
)

DOUBLE = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def units(generator, *shape):
    """Points on the unit sphere."""
    points = normal(generator, *shape)
    return points / points.norm(dim=-1, keepdim=True)


def law(generator, *shape):
    table = normal(generator, *shape).exp()
    return table / table.sum()


def literal(scores, terms):
    """The loss as it is written down, row by row; `terms` says which columns row i sums."""
    rows = []
    for i, row in enumerate(scores.tolist()):
        below = math.fsum(math.exp(row[j]) for j in terms(i, len(row)))
        rows.append(-math.log(math.exp(row[i]) / below))
    return math.fsum(rows) / len(rows)


def every(i, columns):
    return range(columns)


def others(i, columns):
    return [j for j in range(columns) if j != i]


def three_terms(z, y):
    M = y.shape[-2]
    return -alignment(z, y[: len(z)]) + uniformity(z, y) + math.log(M)


def one_row(z, y):
    """The three terms of a single row whose positive pair is not among its terms."""
    return -alignment(z, y[:1]) + uniformity(z, y[1:]) + math.log(len(y) - 1)


@pytest.mark.claim("contrastive-decomposition", answers=["B2.4", "B4.2"])
def test_decomposition(evidence, total=three_terms, alone=one_row, loss=info_nce):
    g = evidence.generator
    for N, M, D in ((2, 2, 2), (3, 7, 3), (5, 5, 4), (4, 60, 2), (1, 9, 5)):
        tau = 0.2 + torch.rand((), generator=g, dtype=DOUBLE)
        z, y = units(g, N, D) / tau, units(g, M, D)
        scores = z @ y.T
        want = literal(scores, every)
        words = "the loss as it is written down, row by row"
        evidence.numeric(total(z, y), want, bound=1e-12, oracle=words)
        evidence.numeric(loss(scores), want, bound=1e-12, oracle=words)
        evidence.ordered(abs(loss(scores) - math.log(M)), 2 / tau, bound=0, oracle="2 / tau")
        if M > 2:
            left_out = literal(scores, others)
            evidence.numeric(loss(scores, "excluded"), left_out, bound=1e-12, oracle=words)
            evidence.ordered(
                abs(loss(scores, "excluded") - math.log(M - 1)),
                2 / tau,
                bound=0,
                oracle="2 / tau",
            )
            first = literal(scores[:1], others)
            evidence.numeric(alone(z[:1], y), first, bound=1e-12, oracle=words)
        scores = (4 * normal(g, N, M)).requires_grad_()
        (slope,) = torch.autograd.grad(loss(scores), scores)
        weight = np.exp(scores.detach().numpy())
        formula = weight / weight.sum(1, keepdims=True) - np.eye(N, M)
        evidence.numeric(
            slope,
            torch.tensor(formula / N),
            bound=1e-12,
            oracle="the slopes of the claim",
        )
        evidence.numeric(
            loss(torch.full((N, M), 0.7, dtype=DOUBLE)),
            math.log(M),
            bound=1e-12,
            oracle="the logarithm of M at equal scores",
        )


@mutant(test_decomposition, "E001-04: plus the alignment", of="total")
def plus(z, y):
    return alignment(z, y[: len(z)]) + uniformity(z, y) + math.log(len(y))


@mutant(test_decomposition, "the logarithm of M left out", of="total")
def without(z, y):
    return -alignment(z, y[: len(z)]) + uniformity(z, y)


@mutant(test_decomposition, "the number of rows for the number of terms", of="total")
def rows_counted(z, y):
    return -alignment(z, y[: len(z)]) + uniformity(z, y) + math.log(len(z))


@mutant(test_decomposition, "the mean of the logarithms for the logarithm of the mean", of="total")
def inside(z, y):
    return -alignment(z, y[: len(z)]) + (z @ y.T).mean() + math.log(len(y))


@mutant(test_decomposition, "one logarithm for all rows", of="total")
def pooled(z, y):
    unif = (z @ y.T).flatten().logsumexp(0) - math.log(len(z) * len(y))
    return -alignment(z, y[: len(z)]) + unif + math.log(len(y))


@mutant(test_decomposition, "M counts the positive pair that is left out", of="alone")
def counted(z, y):
    return -alignment(z, y[:1]) + uniformity(z, y[1:]) + math.log(len(y))


@mutant(test_decomposition, "the positive pair is left out", of="loss")
def left_out(scores, positive="included"):
    return info_nce(scores, "excluded") if scores.shape[-1] > 1 else info_nce(scores)


@mutant(test_decomposition, "the logarithm of M is subtracted", of="loss")
def subtracted(scores, positive="included"):
    return info_nce(scores, positive) - math.log(scores.shape[-1])


@mutant(test_decomposition, "the sum of the rows instead of the mean", of="loss")
def summed(scores, positive="included"):
    return scores.shape[-2] * info_nce(scores, positive)


def enumerated(joint, scores, terms, positive):
    """The mean loss of one row over all draws."""
    joint, scores = joint.numpy(), scores.numpy()
    drawn = terms - (positive == "included")
    alone, total = joint.sum(0), 0.0
    for x, chosen in product(range(joint.shape[0]), range(joint.shape[1])):
        for draw in product(range(joint.shape[1]), repeat=drawn):
            chance = joint[x, chosen] * math.prod(alone[k] for k in draw)
            below = math.fsum(math.exp(scores[x, k]) for k in draw)
            below += math.exp(scores[x, chosen]) if positive == "included" else 0
            total += chance * (math.log(below) - scores[x, chosen])
    return total


def counts(terms):
    """How often each of three values can be drawn."""
    first, second = np.meshgrid(*[np.arange(terms + 1)] * 2, indexing="ij")
    kept = first + second <= terms
    return np.stack([first[kept], second[kept], terms - first[kept] - second[kept]], 1)


def moments(joint, scores, terms, positive):
    """E L - log M, and the variance of the log-mean-exp for each x, over all counts of draws."""
    joint, scores = joint.numpy(), scores.numpy()
    alone, weight = joint.sum(0), np.exp(scores)
    n = counts(terms - (positive == "included"))
    lg = np.vectorize(math.lgamma)
    chance = np.exp(lg(n.sum(1) + 1) - lg(n + 1).sum(1) + n @ np.log(alone))
    mean, variance = 0.0, []
    for x, row in enumerate(weight):
        below = (n @ row)[:, None] + (row[None] if positive == "included" else 0 * row)
        value = np.log(below / terms)
        mean += ((chance[:, None] * value).sum(0) * joint[x]).sum()
        middle = chance @ value[:, 0]
        variance.append(chance @ (value[:, 0] - middle) ** 2)
    return mean - (joint * scores).sum(), np.array(variance)


def far(joint, scores):
    """The limit, in numpy."""
    joint, scores = joint.numpy(), scores.numpy()
    mean = np.exp(scores) @ joint.sum(0)
    return (joint.sum(1) * np.log(mean)).sum() - (joint * scores).sum()


def rate(joint, scores, positive):
    """The number c, from losses of 200 and 400 terms, with the next order removed."""
    end = far(joint, scores)
    one, two = (M * (moments(joint, scores, M, positive)[0] - end) for M in (200, 400))
    return 2 * two - one


def spread(joint, scores):
    one, two = (M * moments(joint, scores, M, "excluded")[1] for M in (200, 400))
    return torch.tensor(np.sqrt(2 * two - one))


@pytest.mark.claim("contrastive-limit", answers=["B4.2"])
def test_limit(evidence, loss=expected_loss, end=limit, c=bias, deviation=fluctuation):
    g = evidence.generator
    for rows in (2, 3, 1):
        joint, scores = law(g, rows, 3), normal(g, rows, 3)
        for positive in ("included", "excluded"):
            for M in (1, 2, 4):
                evidence.numeric(
                    loss(joint, scores, M, positive),
                    enumerated(joint, scores, M, positive),
                    bound=1e-12,
                    oracle="all draws, one by one",
                )
            evidence.numeric(
                loss(joint, scores, 300, positive) - math.log(300),
                moments(joint, scores, 300, positive)[0],
                bound=1e-10,
                oracle="all counts of 300 draws",
            )
            first = rest_times_terms(loss, end, c, joint, scores, positive, 1000)
            second = rest_times_terms(loss, end, c, joint, scores, positive, 8000)
            evidence.numeric(
                second / first,
                1 / 8,
                bound=0.01,
                oracle="eight times the terms leave one eighth of the rest times M",
            )
            evidence.numeric(
                c(joint, scores, positive),
                rate(joint, scores, positive),
                bound=2e-3,
                oracle="losses over all counts of 200 and 400 draws",
            )
        evidence.numeric(
            end(joint, scores),
            far(joint, scores),
            bound=1e-12,
            oracle="the two means in numpy",
        )
        evidence.numeric(
            deviation(joint, scores),
            spread(joint, scores),
            bound=2e-3,
            oracle="variances over all counts of 200 and 400 draws",
        )
    angle = 2 * math.pi * torch.arange(48, dtype=DOUBLE) / 48
    circle, even = angle.cos()[None], torch.full((1, 48), 1 / 48, dtype=DOUBLE)
    relative = float(i0(2.0) / i0(1.0) ** 2 - 1)
    given = c(even, circle, "excluded")
    evidence.numeric(given, -relative / 2, bound=1e-12, oracle="Bessel functions")
    evidence.numeric(deviation(even, circle), [relative**0.5], bound=1e-12, oracle="their root")
    evidence.exact(f"{given:.8f}", "-0.21107145", oracle="the decimals of the claim")
    evidence.exact(
        f"{deviation(even, circle).item():.4f}",
        "0.6497",
        oracle="the decimals of the claim",
    )


def rest_times_terms(loss, end, c, joint, scores, positive, M):
    rest = loss(joint, scores, M, positive) - math.log(M) - end(joint, scores)
    return M * rest - c(joint, scores, positive)


@mutant(test_limit, "no half in the variance", of="c")
def no_half(joint, scores, positive):
    return bias(joint, scores, positive) + bias(joint, scores, "excluded")


@mutant(test_limit, "the logarithm of a mean has no bias", of="c")
def unbiased(joint, scores, positive):
    return bias(joint, scores, positive) - bias(joint, scores, "excluded")


@mutant(test_limit, "the positive pair is one more draw", of="c")
def one_more(joint, scores, positive):
    return bias(joint, scores, "excluded")


@mutant(test_limit, "the logarithm of a mean is too large in the mean", of="c")
def above(joint, scores, positive):
    return -bias(joint, scores, positive)


@mutant(test_limit, "the variance of the terms, not relative to their mean", of="deviation")
def absolute(joint, scores):
    return fluctuation(joint, scores) * (scores.exp() @ joint.sum(0))


@mutant(test_limit, "the variance for the deviation", of="deviation")
def squared(joint, scores):
    return fluctuation(joint, scores).square()


@mutant(test_limit, "the negatives are drawn from positive pairs", of="end")
def positive_pairs(joint, scores):
    given = joint / joint.sum(1, keepdim=True)
    log_mean = (given * scores.exp()).sum(1).log()
    return (joint.sum(1) * log_mean).sum() - (joint * scores).sum()


@mutant(test_limit, "one logarithm for all x", of="end")
def one_logarithm(joint, scores):
    return (joint.sum(1) @ scores.exp() @ joint.sum(0)).log() - (joint * scores).sum()


@mutant(test_limit, "M negative pairs and the positive one", of="loss")
def beside(joint, scores, terms, positive):
    return expected_loss(joint, scores, terms + (positive == "included"), positive)


def table_information(joint):
    joint = joint.numpy()
    return rel_entr(joint, joint.sum(1, keepdims=True) * joint.sum(0)).sum()


def miss(joint, scores):
    """E KL(p(x' | x) || q(x' | x)), in numpy."""
    joint, weight = joint.numpy(), np.exp(scores.numpy()) * joint.numpy().sum(0)
    q = weight / weight.sum(1, keepdims=True)
    return rel_entr(joint, joint.sum(1, keepdims=True) * q).sum()


def by_angle(D, tau):
    """The mean over the sphere by the angle with the other code."""

    def weight(angle):
        return math.sin(angle) ** (D - 2)

    def weighted(angle):
        return math.exp((math.cos(angle) - 1) / tau) * weight(angle)

    above = quad(weighted, 0, math.pi, epsabs=0, epsrel=1e-12)[0]
    return math.log(above / quad(weight, 0, math.pi)[0]) + 1 / tau


@pytest.mark.claim("contrastive-infomax", answers=["B4.2"])
def test_infomax(evidence, end=limit, value=uniform_value, second=uniformity):
    g = evidence.generator
    for rows, columns in ((2, 2), (3, 5), (6, 4)):
        joint, scores = law(g, rows, columns), 2 * normal(g, rows, columns)
        evidence.numeric(
            -end(joint, scores),
            table_information(joint) - miss(joint, scores),
            bound=1e-12,
            oracle="the information less a mean divergence, by scipy",
        )
        ratio = joint / joint.sum(1, keepdim=True) / joint.sum(0)
        evidence.numeric(
            -end(joint, ratio.log() + normal(g, rows, 1)),
            table_information(joint),
            bound=1e-12,
            oracle="the information, at the density ratio",
        )
    for D, tau in product((2, 3, 4, 7), (0.1, 0.37, 1.0, 3.0)):
        evidence.numeric(
            value(D, tau),
            by_angle(D, tau),
            bound=1e-10,
            oracle="an integral over the angle",
        )
        bessel = math.gamma(D / 2) * (2 * tau) ** (D / 2 - 1) * iv(D / 2 - 1, 1 / tau)
        evidence.numeric(value(D, tau), math.log(bessel), bound=1e-12, oracle="a Bessel function")
        for points, force in ((2, 0), (5, 0), (40, 0), (40, 4)):
            z = F.normalize(normal(g, points, D) + force * units(g, 1, D), dim=-1)
            evidence.ordered(
                -second(z / tau, z),
                -by_angle(D, tau),
                bound=1e-10,
                oracle="uniform law",
            )
            y = z[torch.randperm(points, generator=g)]
            evidence.ordered(
                -second(z / tau, y) + alignment(z, y) / tau,
                -by_angle(D, tau) + 1 / tau,
                bound=1e-10,
                oracle="aligned and uniform codes",
            )
        e = units(g, 1, D)
        evidence.numeric(
            second(e / tau, -e),
            -1 / tau,
            bound=1e-12,
            oracle="the exponent of opposite codes",
        )
        evidence.ordered(-value(D, tau), 0.0, bound=0, oracle="a mean of hyperbolic cosines")
    angle = 2 * math.pi * torch.arange(60, dtype=DOUBLE) / 60
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    evidence.numeric(
        second(ring / 0.37, ring),
        by_angle(2, 0.37),
        bound=1e-10,
        oracle="an integral over the angle; a mean over 60 points is exact",
    )
    shown = [f"{value(2):.6f}", f"{value(3):.6f}"]
    evidence.exact(shown, ["0.235914", "0.161439"], oracle="the decimals of the claim")


@mutant(test_infomax, "the value of the circle in every dimension", of="value")
def circle_value(dimension, temperature=1.0):
    return uniform_value(2, temperature)


@mutant(test_infomax, "the dimension of the sphere for that of its space", of="value")
def sphere_dimension(dimension, temperature=1.0):
    return uniform_value(dimension - 1, temperature)


@mutant(test_infomax, "multiplied by the temperature", of="value")
def hot(dimension, temperature=1.0):
    return uniform_value(dimension, 1 / temperature)


@mutant(test_infomax, "the codes of the second view have another law", of="second")
def opposite(z, y):
    return uniformity(z, -y)


@mutant(test_infomax, "no point is compared with itself", of="second")
def without_itself(z, y):
    if len(z) == 1:
        return uniformity(z, y)
    scores = (z @ y.T).masked_fill(torch.eye(len(z), dtype=torch.bool), -math.inf)
    return (scores.logsumexp(1) - math.log(len(z) - 1)).mean()


@mutant(test_infomax, "normalised over x instead of over x'", of="end")
def other_side(joint, scores):
    return limit(joint.mT, scores.mT)


@mutant(test_infomax, "the divergence from the joint law left out", of="end")
def no_divergence(joint, scores):
    ratio = joint / joint.sum(1, keepdim=True) / joint.sum(0)
    return limit(joint, ratio.log())


class Largest(TorchDispatchMode):
    """Notes the number of entries of the largest tensor made, and how many of that size."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.sizes += [t.numel() for t in [out] if isinstance(t, torch.Tensor)]
        return out


def test_no_table_is_larger_than_the_scores():
    for positive in ("included", "excluded"):
        scores = torch.randn(40, 50, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with Largest() as seen:
            info_nce(scores, positive).backward()
        assert max(seen.sizes) == scores.numel()
        assert sum(size == scores.numel() for size in seen.sizes) < 12


def test_a_batch_of_4096():
    scores = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(2))
    blocks = [block.double().logsumexp(1) for block in scores.split(512)]
    expected = torch.cat(blocks).mean() - scores.diagonal().double().mean()
    assert abs(info_nce(scores) - expected) < 1e-4


def test_a_small_loss_keeps_its_digits():
    scores = torch.tensor([[30.0, 0.0], [0.0, 30.0]], requires_grad=True)
    loss = info_nce(scores)
    loss.backward()
    torch.testing.assert_close(loss.item(), math.exp(-30.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(scores.grad[0, 0].item(), -math.exp(-30.0) / 2, rtol=1e-5, atol=0)
    assert info_nce(torch.full((2, 2), 1e4)).item() == pytest.approx(math.log(2))


def test_one_row_without_negatives():
    scores = torch.tensor([[3.0]], requires_grad=True)
    loss = info_nce(scores)
    loss.backward()
    assert (loss.item(), scores.grad.item()) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_broadcast_and_keep_the_dtype(dtype):
    g = torch.Generator().manual_seed(3)
    z, y = (
        torch.randn(4, 1, 3, 2, generator=g, dtype=dtype),
        torch.randn(5, 3, 2, generator=g).to(dtype),
    )
    total = uniformity(z, y) - alignment(z, y) + math.log(3)
    assert total.shape == (4, 5)
    assert total.dtype == dtype
    torch.testing.assert_close(total, info_nce(z @ y.mT))
    joint = torch.rand(2, 3, 4, generator=g, dtype=dtype)
    joint = joint / joint.sum((-2, -1), keepdim=True)
    scores = torch.randn(5, 1, 3, 4, generator=g, dtype=dtype)
    for result in (limit, bias, lambda *tables: expected_loss(*tables, 7)):
        assert result(joint, scores).shape == (5, 2)
        assert result(joint, scores).dtype == dtype
        torch.testing.assert_close(result(joint, scores)[3, 1], result(joint[1], scores[3, 0]))
    assert fluctuation(joint, scores).shape == (5, 2, 3)
    exact = joint.double() / joint.double().sum((-2, -1), keepdim=True)
    near = expected_loss(exact, scores.double(), 7)
    torch.testing.assert_close(expected_loss(joint, scores, 7).double(), near, atol=1e-5, rtol=0)


def test_gradients_flow():
    g = torch.Generator().manual_seed(4)
    joint, scores = law(g, 3, 4), normal(g, 3, 4).requires_grad_()
    for function in (limit, bias, lambda *tables: expected_loss(*tables, 5)):
        assert torch.autograd.gradcheck(partial(function, joint), scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sharp_scores_and_impossible_values(dtype):
    joint = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=dtype)
    scores = torch.tensor([[80.0, -80.0, 900.0], [-80.0, 80.0, 900.0]], dtype=dtype).requires_grad_()
    torch.testing.assert_close(fluctuation(joint, scores), torch.ones(2, dtype=dtype))
    assert bias(joint, scores).item() == pytest.approx(0.5, abs=1e-5)
    for function in (limit, bias, lambda *tables: expected_loss(*tables, 4)):
        for s in (scores, torch.zeros_like(scores).requires_grad_()):
            (slope,) = torch.autograd.grad(function(joint, s), s)
            assert slope.isfinite().all()


def test_hot_and_cold_uniform_codes():
    assert uniform_value(3, 0.001) == pytest.approx(1000 + math.log(0.0005), abs=1e-9)
    assert uniform_value(5, 1e6) == pytest.approx(1e-12 / 10, rel=1e-3)
    assert uniform_value(1, 0.5) == pytest.approx(math.log(math.cosh(2)), abs=1e-14)


HALF = torch.full((2, 2), 0.25)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: info_nce(HALF, "left out"), "positive must be 'included' or 'excluded'"),
        (lambda: bias(HALF, HALF, "in"), "positive must be 'included' or 'excluded', got 'in'"),
        (lambda: expected_loss(HALF, HALF, 2, "in"), "positive must be"),
        (lambda: info_nce(torch.ones(3, 2)), "scores must have a column for each row, got (3, 2)"),
        (lambda: info_nce(torch.ones(0, 2)), "scores must have a column for each row, got (0, 2)"),
        (lambda: info_nce(torch.ones(1, 1), "excluded"), "scores must have a negative pair"),
        (lambda: alignment(HALF, torch.ones(1, 2)), "y must have (2, 2) entries, got (1, 2)"),
        (lambda: uniformity(HALF, torch.ones(2, 3)), "y must have 2 coordinates, got 3"),
        (lambda: uniform_value(0), "dimension must be at least 1, got 0"),
        (lambda: uniform_value(3, 0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: uniform_value(3, math.inf), "temperature must be positive and finite, got inf"),
        (lambda: expected_loss(HALF, HALF, 0), "terms must be at least 1, got 0"),
        (lambda: limit(HALF, torch.ones(1, 2)), "scores must match the size (2, 2) of joint"),
        (lambda: limit(HALF, HALF / 0), "scores must be finite, got inf to inf"),
        (lambda: limit(-HALF, HALF), "joint must not be negative, got -0.25"),
        (lambda: fluctuation(2 * HALF, HALF), "joint must sum to 1, got a sum that is off by 1"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
