import math
import re
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import logsumexp, rel_entr
from scipy.stats import binom

from genref._site.claims import mutant
from genref.energy.contrastive import expected_loss, info_nce
from genref.energy.infonce import best_score, both_views, bound, cap, two_sided

DOUBLE = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def law(generator, *shape):
    table = normal(generator, *shape).exp()
    return table / table.sum()


def information(joint):
    joint = joint.numpy()
    return rel_entr(joint, joint.sum(1, keepdims=True) * joint.sum(0)).sum()


def pointwise(joint):
    joint = joint.numpy()
    return np.log(joint / np.outer(joint.sum(1), joint.sum(0)))


def identified(joint, terms):
    """I - E m log m, over all independent draws of x and M values of x'."""
    joint = joint.numpy()
    row, column = joint.sum(1), joint.sum(0)
    ratio, lost = joint / np.outer(row, column), 0.0
    for x, *drawn in product(range(len(row)), *[range(len(column))] * terms):
        m = ratio[x, drawn].mean()
        lost += row[x] * column[drawn].prod() * m * np.log(m)
    return rel_entr(joint, np.outer(row, column)).sum() - lost


def drawn(joint, scores, terms, positive="included"):
    """The mean of log M minus the loss, draw by draw."""
    joint, scores = joint.numpy(), scores.numpy()
    column, value = joint.sum(0), 0.0
    number = terms - (positive == "included")
    for (x, first), mass in np.ndenumerate(joint):
        for rest in product(range(len(column)), repeat=number):
            below = [*rest, first] if positive == "included" else list(rest)
            loss = logsumexp(scores[x, below]) - scores[x, first]
            value += mass * column[list(rest)].prod() * (math.log(terms) - loss)
    return value


@pytest.mark.claim("x-infonce-bound", answers=["B2.4"])
def test_bound(evidence, value=bound, score=best_score):
    g = evidence.generator
    for rows, columns in ((2, 3), (3, 3), (4, 2)):
        joint = law(g, rows, columns)
        evidence.numeric(score(joint), pointwise(joint), bound=1e-12, oracle="the ratio in numpy")
        best = score(joint) + normal(g, rows, 1)
        reached = [value(joint, best, M) for M in (1, 2, 3, 5)]
        evidence.numeric(
            reached,
            [identified(joint, M) for M in (1, 2, 3, 5)],
            bound=1e-12,
            oracle="I less the mean of m log m, draw by draw",
        )
        evidence.ordered(
            reached[:-1],
            [identified(joint, M) for M in (2, 3, 5)],
            bound=1e-12,
            oracle="the value of more terms",
        )
        evidence.numeric(
            value(joint, best, 10**7),
            information(joint),
            bound=1e-5,
            oracle="I by scipy",
        )
        for M in (2, 3, 4):
            scores = normal(g, 1) * 3 * normal(g, 70, rows, columns)
            found = value(joint.expand(70, -1, -1), scores, M)
            least = min(information(joint), math.log(M), identified(joint, M))
            evidence.ordered(found, least, bound=1e-12, oracle="I, log M, and I_M draw by draw")
            evidence.numeric(
                found[0],
                drawn(joint, scores[0], M),
                bound=1e-12,
                oracle="all draws, one by one",
            )
        against = torch.tensor(-pointwise(joint))
        evidence.ordered(
            [value(joint, against, 2), value(joint, against, 4)],
            [0.0, drawn(joint, against, 2)],
            bound=1e-12,
            oracle="the value of fewer terms, draw by draw",
        )
    equal = torch.eye(3, dtype=DOUBLE)
    for size in (0.7, 2.0, 6.0):
        scores = size * (2 * equal - 1)
        found = value(equal / 3, scores, 2, "excluded")
        tail = math.log(2) - math.log1p(math.exp(-2 * size))
        evidence.numeric(
            found,
            8 / 9 * size + 4 / 9 * tail,
            bound=1e-12,
            oracle="the formula of the claim",
        )
        evidence.numeric(
            found,
            drawn(equal / 3, scores, 2, "excluded"),
            bound=1e-12,
            oracle="all nine draws",
        )
    evidence.exact(f"{found:.4f}", "5.6414", oracle="the decimals of the claim")
    evidence.ordered(-found, -information(equal / 3), bound=0, oracle="I, which it passes")


@mutant(test_bound, "E001-05: the positive pair is not among the terms", of="value")
def excluded(joint, scores, terms, positive="included"):
    return bound(joint, scores, terms, "excluded")


@mutant(test_bound, "the logarithm of the number of negatives", of="value")
def fewer(joint, scores, terms, positive="included"):
    count = max(terms - 1, 1) if positive == "included" else terms
    return math.log(count) - expected_loss(joint, scores, terms, positive)


@mutant(test_bound, "a value that grows with M for every score", of="value")
def growing(joint, scores, terms, positive="included"):
    value = bound(joint, scores, terms, positive)
    return value if positive == "excluded" else value.abs()


@mutant(test_bound, "the score learns the logarithm of p(x' given x)", of="score")
def conditional(joint):
    return joint.log() - joint.sum(1, keepdim=True).log()


@mutant(test_bound, "the score learns the joint law, with p(x') free", of="score")
def free_in_the_other_view(joint):
    return best_score(joint) - joint.sum(0).log() / 2


@mutant(test_bound, "the other conditional law, which is as good a score", of="score")
def other_conditional(joint):
    return joint.log() - joint.sum(0).log()


@mutant(test_bound, "half of the density ratio", of="score")
def half(joint):
    return best_score(joint) / 2


def simplex(n):
    """The corners of a regular simplex around the origin, by their inner products."""
    return (n * np.eye(n) - 1) / (n - 1)


def corners(n):
    centred = np.eye(n) - 1 / n
    return torch.tensor(centred / np.linalg.norm(centred, axis=1, keepdims=True))


def in_batch(scores):
    """The value log N - L of a batch."""
    scores = np.asarray(scores)
    return math.log(len(scores)) - (logsumexp(scores, axis=1) - np.diag(scores)).mean()


@pytest.mark.claim("x-contrastive-sphere-cap", answers=["B4.4"])
def test_cap(evidence, most=cap, value=bound):
    g = evidence.generator
    for N, tau in product((2, 3, 5, 12), (0.3, 1.0, 2.5)):
        evidence.numeric(
            most(N, tau, "batch"),
            in_batch(simplex(N) / tau),
            bound=1e-12,
            oracle="a simplex",
        )
        evidence.numeric(
            most(N, tau, "joint"),
            in_batch((2 * np.eye(N) - 1) / tau),
            bound=1e-12,
            oracle="scores at the ends of their interval",
        )
        found = []
        for D in (2, 3, N):
            z, y = (F.normalize(normal(g, N, D), dim=-1).numpy() for _ in range(2))
            found += [in_batch(z @ z.T / tau), in_batch(z @ y.T / tau)]
        evidence.ordered(
            [-most(N, tau, "batch")] * 6,
            [-other for other in found],
            bound=1e-12,
            oracle="batches of random codes",
        )
        scores = (2 * torch.rand(N, N, generator=g, dtype=DOUBLE).numpy() - 1) / tau
        scores += np.diag(1 / tau - np.diag(scores))
        evidence.ordered(
            -most(N, tau, "joint"),
            -in_batch(scores),
            bound=1e-12,
            oracle="random scores",
        )
    for M, tau in product((2, 4, 300), (0.3, 1.0)):
        joint = law(g, 4, 5)
        z, y = (F.normalize(normal(g, n, 3), dim=-1) for n in (4, 5))
        scores = z @ y.T / tau
        alone = joint.sum(1, keepdim=True) * joint.sum(0)
        apart = ((joint - alone) * scores).sum()
        jensen = -(1 / M + (1 - 1 / M) * (-apart).exp()).log()
        got = value(joint, scores, M)
        evidence.ordered(got, jensen, bound=1e-12, oracle="the mean difference of the scores")
        evidence.ordered(jensen, (1 - 1 / M) * apart, bound=1e-12, oracle="the same times 1 - 1/M")
        evidence.ordered(apart, 1 / tau, bound=1e-12, oracle="1 / tau")
    for n, M in ((5, 4), (80, 50), (60, 500)):
        codes = corners(n)
        near = value(torch.eye(n, dtype=DOUBLE) / n, codes @ codes.T, M)
        equal = np.arange(M)
        chance = binom.pmf(equal, M - 1, 1 / n)
        below = 1 + equal + (M - 1 - equal) * math.exp(-n / (n - 1))
        evidence.numeric(
            near,
            math.log(M) - chance @ np.log(below),
            bound=1e-10,
            oracle="how many draws equal the positive one",
        )
        evidence.ordered(
            -most(M, 1.0, "drawn"),
            chance @ np.log(below) - math.log(M),
            bound=1e-12,
            oracle="simplex codes",
        )
    evidence.numeric(
        [most(10**9, 0.7, "drawn"), most(10**9, 0.7, "batch"), most(10**9, 0.7, "joint")],
        [1 / 0.7, 1 / 0.7, 2 / 0.7],
        bound=1e-7,
        oracle="one and two over the temperature",
    )


@mutant(test_cap, "two nats for codes of one view each", of="most")
def two_nats(terms, temperature, kind):
    return cap(terms, temperature, "joint")


@mutant(test_cap, "one nat for scores of both views", of="most")
def one_nat(terms, temperature, kind):
    return cap(terms, temperature, "drawn" if kind == "joint" else kind)


@mutant(test_cap, "negative codes at right angles in a batch", of="most")
def orthogonal(terms, temperature, kind):
    return cap(terms, temperature, "drawn" if kind == "batch" else kind)


@mutant(test_cap, "multiplied by the temperature", of="most")
def hot(terms, temperature, kind):
    return cap(terms, 1 / temperature, kind)


@mutant(test_cap, "no cap but log M", of="most")
def log_terms(terms, temperature, kind):
    return math.log(terms)


@mutant(test_cap, "the positive pair excluded", of="value")
def left_out(joint, scores, terms):
    return bound(joint, scores, terms, "excluded")


def row_losses(scores, terms):
    rows = enumerate(np.asarray(scores))
    return [logsumexp(row[terms(i, len(row))]) - row[i] for i, row in rows]


def all_terms(i, columns):
    return list(range(columns))


def batches(joint, pairs):
    """All batches of so many pairs, as x and x', with their probabilities."""
    cells = list(np.ndindex(*joint.shape))
    for chosen in product(cells, repeat=pairs):
        x, x_prime = zip(*chosen, strict=True)
        yield list(x), list(x_prime), math.prod(joint[c].item() for c in chosen)


@pytest.mark.claim("x-contrastive-denominators", answers=["B4.2"])
def test_denominators(evidence, sides=two_sided, both=both_views, one=info_nce):
    g = evidence.generator
    for N in (2, 3, 5, 8):
        scores = 2 * normal(g, N, N)
        rows, columns = (np.mean(row_losses(s, all_terms)) for s in (scores, scores.T))
        evidence.numeric(
            sides(scores),
            (rows + columns) / 2,
            bound=1e-12,
            oracle="rows and columns, one by one",
        )
        z, y, tau = normal(g, N, 3), normal(g, N, 3), 0.7
        table = np.concatenate([z.numpy(), y.numpy()])
        table = table @ table.T / tau
        losses = []
        for i in range(2 * N):
            kept = [j for j in range(2 * N) if j != i]
            losses.append(logsumexp(table[i, kept]) - table[i, (i + N) % (2 * N)])
        evidence.numeric(
            both(z, y, tau),
            np.mean(losses),
            bound=1e-12,
            oracle="2N codes, one by one",
        )
        evidence.numeric(
            [sides(torch.full((N, N), 0.4)), both(torch.ones(N, 2), torch.ones(N, 2), tau)],
            [math.log(N), math.log(2 * N - 1)],
            bound=1e-6,
            oracle="the logarithm of the number of terms, at equal scores",
        )
    for N, sharp in product((2, 3), (0.5, 2.0, 6.0)):
        joint = law(g, 2, 2)
        joint = (joint + joint.mT) / 2
        codes = sharp * normal(g, 2, 2)
        means = torch.zeros(2, dtype=DOUBLE)
        for x, x_prime, chance in batches(joint, N):
            z, y = codes[x], codes[x_prime]
            means += chance * torch.stack([sides(z @ y.T), both(z, y, 1.0)])
        evidence.ordered(math.log(N) - means, information(joint), bound=1e-12, oracle="I, by scipy")
    flat = torch.full((3, 7), 0.4, dtype=DOUBLE)
    evidence.numeric(
        [one(flat, "included"), one(flat, "excluded")],
        [math.log(7), math.log(6)],
        bound=1e-12,
        oracle="the logarithm of the number of terms, at equal scores",
    )
    joint, codes = torch.eye(2, dtype=DOUBLE) / 2, torch.tensor([[-3.0], [3.0]], dtype=DOUBLE)
    means = torch.zeros(2, dtype=DOUBLE)
    for x, x_prime, chance in batches(joint, 3):
        scores = codes[x] @ codes[x_prime].T
        means += chance * torch.stack([one(scores, "included"), one(scores, "excluded")])
    evidence.ordered(math.log(3) - means[0], math.log(2), bound=0, oracle="I = log 2")
    evidence.ordered(means[1] - math.log(2), -math.log(2), bound=0, oracle="I = log 2, passed")
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=5)), dtype=DOUBLE)[..., None]
    found = math.log(9) - both(signs, signs, 1 / 20).mean()
    others = sum(math.comb(4, k) * math.log(1 + 2 * k) for k in range(5)) / 16
    evidence.numeric(
        found,
        math.log(9) - others,
        bound=1e-12,
        oracle="how many of four other pairs agree",
    )
    evidence.exact(f"{found:.6f}", "0.695228", oracle="the decimals of the claim")
    evidence.ordered(-found, -math.log(2) - 0.002, bound=0, oracle="I = log 2, and some more")


@mutant(test_denominators, "the positive pair is included anyway", of="one")
def included_anyway(scores, positive):
    return info_nce(scores)


@mutant(test_denominators, "the rows only", of="sides")
def one_sided(scores):
    return info_nce(scores)


@mutant(test_denominators, "the sum of the two sides", of="sides")
def sum_of_sides(scores):
    return info_nce(scores) + info_nce(scores.T)


@mutant(test_denominators, "log(2N - 1) for N terms", of="sides")
def all_codes(scores):
    return two_sided(scores) + math.log((2 * len(scores) - 1) / len(scores))


@mutant(test_denominators, "each code is compared with itself too", of="both")
def with_itself(z, y, temperature):
    codes = torch.cat([z, y], -2)
    return info_nce((codes @ codes.mT / temperature).roll(-z.shape[-2], -1))


@mutant(test_denominators, "only the codes of the other view", of="both")
def other_view(z, y, temperature):
    return two_sided(z @ y.mT / temperature)


@mutant(test_denominators, "the partner is left out", of="both")
def without_partner(z, y, temperature):
    n = z.shape[-2]
    codes = torch.cat([z, y], -2)
    own = torch.eye(2 * n, dtype=torch.bool)
    scores = (codes @ codes.mT / temperature).masked_fill(own, -math.inf)
    return info_nce(scores.roll(-n, -1), "excluded")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_broadcast_and_keep_the_dtype(dtype):
    g = torch.Generator().manual_seed(3)
    z = torch.randn(4, 1, 3, 2, generator=g, dtype=dtype).requires_grad_()
    y = torch.randn(5, 3, 2, generator=g, dtype=dtype)
    loss = both_views(z, y, 0.5)
    assert (loss.shape, loss.dtype) == ((4, 5), dtype)
    torch.testing.assert_close(loss[2, 3], both_views(z[2, 0], y[3], 0.5))
    assert two_sided(z @ y.mT).shape == (4, 5)
    loss.sum().backward()
    assert z.grad.isfinite().all()
    joint = torch.rand(2, 3, 4, generator=g, dtype=dtype)
    joint = joint / joint.sum((-2, -1), keepdim=True)
    value = bound(joint, best_score(joint), 7)
    assert (value.shape, value.dtype) == ((2,), dtype)


def test_both_views_lie_between_n_terms_and_twice_as_many():
    g = torch.Generator().manual_seed(5)
    z, y = torch.randn(6, 3, generator=g), torch.randn(6, 3, generator=g)
    assert two_sided(z @ y.T) < both_views(z, y)


HALF = torch.full((2, 2), 0.25)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bound(HALF, HALF, 0), "terms must be at least 1, got 0"),
        (lambda: bound(HALF, HALF, 2, "out"), "positive must be 'included' or 'excluded'"),
        (lambda: best_score(torch.eye(2) / 2), "joint must be positive, got 0"),
        (lambda: best_score(torch.ones(3, 3)), "joint must sum to 1, got a sum that is off by 8"),
        (lambda: cap(1), "terms must be at least 2, got 1"),
        (lambda: cap(2, 0.0), "temperature must be positive, got 0.0"),
        (lambda: cap(2, 1.0, "both"), "kind must be 'drawn', 'batch' or 'joint', got 'both'"),
        (lambda: two_sided(torch.ones(2, 3)), "scores must be square, got (2, 3)"),
        (lambda: both_views(HALF, torch.ones(1, 2)), "y must have (2, 2) entries, got (1, 2)"),
        (lambda: both_views(HALF, HALF, -1.0), "temperature must be positive, got -1.0"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
