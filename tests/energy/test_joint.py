import math
import re
from itertools import combinations, permutations, product

import mpmath
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.special import entr, logsumexp, rel_entr, softmax

from genref._site.claims import mutant
from genref.energy.infonce import cap
from genref.energy.joint import (
    certificate,
    joint_codes,
    joint_scores,
    query,
    ring,
    two_encoder_cap,
    unreachable,
)

DOUBLE = torch.float64
X, Y = 3, 4
"""The numbers of values of x and of x' in enumerated laws."""


def sphere(generator, *shape):
    v = torch.randn(*shape, generator=generator, dtype=DOUBLE)
    return v / v.norm(dim=-1, keepdim=True)


def law(generator):
    """A joint law of x and x' with positive probabilities."""
    return torch.randn(X * Y, generator=generator, dtype=DOUBLE).softmax(0).view(X, Y)


def batches(p, M):
    """All x and x'_1..x'_M, the first of them paired, and their probabilities."""
    q = p.sum(0)
    for i, *js in product(range(X), *[range(Y)] * M):
        yield torch.tensor([i]), torch.tensor(js), p[i, js[0]] * q[js[1:]].prod()


def loss_by_hand(s):
    """L* of a score table, by scipy."""
    return -np.log(np.diagonal(softmax(s, axis=1))).mean()


def information(p):
    p = p.numpy()
    return rel_entr(p, p.sum(1, keepdims=True) * p.sum(0)).sum()


def mean_certificate(table, p, M):
    """E(log M - L*) of the scores in a table, by scipy."""
    rows = ((i.item(), j.tolist(), w.item()) for i, j, w in batches(p, M))
    return sum(w * (math.log(M) + np.log(softmax(table[i, j])[0])) for i, j, w in rows)


def position(p, M):
    """The information that x and x'_1..x'_M have about the place of the positive, by entropies."""
    p = p.numpy()
    q, total = p.sum(0), 0.0
    for i, *js in product(range(X), *[range(Y)] * M):
        each = np.array([p[i, j] * np.prod([q[o] for o in js]) / q[j] for j in js]) / M
        total += entr(each).sum() - entr(each.sum())
    return math.log(M) - total


@pytest.mark.claim("contrastive-joint", answers=["B4.3"])
def test_joint_objective(evidence, scores=joint_scores, value=certificate):
    g = evidence.generator
    tau = 0.4 + torch.rand(1, generator=g, dtype=DOUBLE).item()
    weight = torch.randn(5, 3, generator=g, dtype=DOUBLE)
    turn = torch.randn(2, 3, generator=g, dtype=DOUBLE)

    def h(x, x_prime):
        z = torch.tanh(torch.cat([x, x_prime, x[:, :1] * x_prime[:, :1]], -1) @ weight)
        return z / z.norm(dim=-1, keepdim=True)

    def text(x_prime):
        y = torch.sin(x_prime @ turn)
        return y / y.norm(dim=-1, keepdim=True)

    x, x_prime = (torch.randn(n, 2, generator=g, dtype=DOUBLE) for n in (4, 6))
    pairs = [[float(h(a[None], b[None])[0] @ text(b[None])[0]) for b in x_prime] for a in x]
    measured = scores(h, text, x, x_prime)
    evidence.numeric(measured, pairs, bound=1e-12, oracle="one pair at a time")
    parts = np.array(pairs) / tau
    align, uniform = np.diagonal(parts).mean(), np.log(np.exp(parts).mean(1)).mean()
    evidence.numeric(
        value(measured / tau),
        align - uniform,
        bound=1e-12,
        oracle="alignment less the mean log of a mean",
    )
    evidence.numeric(
        math.log(6) - value(measured / tau),
        loss_by_hand(np.array(pairs) / tau),
        bound=1e-12,
        oracle="softmax by scipy",
    )

    square = np.array(pairs)[:, :4] / tau
    shuffled = [scores(h, text, x, x_prime[list(order)]) for order in permutations(range(4))]
    evidence.ordered(
        value(torch.stack(shuffled) / tau).mean(),
        0.0,
        bound=1e-12,
        oracle="Jensen's inequality, over all 24 pairings",
    )
    evidence.numeric(
        value(torch.stack(shuffled) / tau).mean(),
        square.mean() - np.log(np.exp(square).mean(1)).mean(),
        bound=1e-12,
        oracle="the mean score in place of the positive one",
    )

    for M in (2, 3):
        p = law(g)
        codes, other = sphere(g, X, Y, 3), sphere(g, Y, 3)
        mean = torch.zeros((), dtype=DOUBLE)
        for i, j, w in batches(p, M):
            s = scores(lambda a, b, codes=codes: codes[a, b], lambda b, other=other: other[b], i, j)
            mean += w * value(s / tau)
        table = (torch.einsum("ijd,jd->ij", codes, other) / tau).numpy()
        evidence.numeric(mean, mean_certificate(table, p, M), bound=1e-12, oracle="enumeration")
        evidence.ordered(mean, min(math.log(M), information(p)), bound=1e-12, oracle="mutual information by scipy")

        ratio = (p / p.sum(1, keepdim=True) / p.sum(0)).log()
        best = ratio + torch.randn(X, 1, generator=g, dtype=DOUBLE)
        off = best + 0.5 * torch.randn(X, Y, generator=g, dtype=DOUBLE)
        reached, missed = (sum(w * value(s[i[:, None], j]) for i, j, w in batches(p, M)) for s in (best, off))
        evidence.numeric(reached, position(p, M), bound=1e-12, oracle="entropies of the position")
        evidence.numeric(
            reached - missed,
            shortfall(ratio.numpy(), off.numpy(), p.numpy(), M),
            bound=1e-12,
            oracle="mean divergence between two softmaxes",
        )

        leaked = torch.zeros((), dtype=DOUBLE)
        for i, j, w in batches(p, M):
            leaked += w * value(codes[i, j[:1]] @ other[j].T / tau)
        entropy = entr(p.sum(0).numpy()).sum()
        evidence.ordered(leaked, min(math.log(M), entropy), bound=1e-12, oracle="entropy by scipy")

    y = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=DOUBLE)).Q
    noise = torch.randn(5, 1, generator=g, dtype=DOUBLE)
    leak = value(y @ y.T)
    evidence.numeric(leak, math.log(5) + 1 - math.log(4 + math.e), bound=1e-12, oracle="the formula")
    evidence.exact(f"{leak:.6f}", "0.704605", oracle="the decimals that the claim states")
    evidence.numeric(
        value(scores(lambda a, b: b, lambda b: b, noise, y)),
        0.0,
        bound=1e-12,
        oracle="the same encoders, all scores equal",
    )


def shortfall(ratio, off, p, M):
    q, total = p.sum(0), 0.0
    for i, *js in product(range(X), *[range(Y)] * M):
        chance = np.mean([p[i, j] * np.prod([q[o] for o in js]) / q[j] for j in js])
        total += chance * rel_entr(softmax(ratio[i, js]), softmax(off[i, js])).sum()
    return total


@mutant(test_joint_objective, "one joint code for all columns: the objective leaks", of="scores")
def leaking(h, g, x, x_prime):
    return h(x, x_prime[: len(x)]) @ g(x_prime).T


@mutant(test_joint_objective, "the code of the positive in all columns", of="scores")
def own_text(h, g, x, x_prime):
    N, M = len(x), len(x_prime)
    z = h(x.repeat_interleave(M, 0), torch.cat([x_prime] * N)).view(N, M, -1)
    return (z * g(x_prime[:N])[:, None]).sum(-1)


@mutant(test_joint_objective, "negatives of x instead of x'", of="scores")
def other_side(h, g, x, x_prime):
    N, M = len(x), len(x_prime)
    one, other = x.repeat(M, *[1] * (x.dim() - 1))[: N * M], x_prime.repeat_interleave(N, 0)
    return (h(one, other) * g(other)).sum(-1).view(N, M)


@mutant(test_joint_objective, "the positive is left out of the denominator", of="value")
def excluded(s):
    s = s.clone()
    positive = s.diagonal(dim1=-2, dim2=-1).clone()
    s.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    return math.log(s.shape[-1]) + (positive - s.logsumexp(-1)).mean(-1)


@mutant(test_joint_objective, "the sign of the alignment", of="value")
def misaligned(s):
    return math.log(s.shape[-1]) - (s.diagonal(dim1=-2, dim2=-1) + s.logsumexp(-1)).mean(-1)


@mutant(test_joint_objective, "the denominator runs over the rows", of="value")
def columns(s):
    N = s.shape[-2]
    positive = s.diagonal(dim1=-2, dim2=-1)
    return math.log(s.shape[-1]) + (positive - s[..., :N].logsumexp(-2)).mean(-1)


def minimum(loss, start, steps=300):
    v = start.requires_grad_()
    optimiser = torch.optim.LBFGS(
        [v], max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def value_with_slope():
        optimiser.zero_grad()
        value = loss(v)
        value.backward()
        return value

    optimiser.step(value_with_slope)
    return loss(v).item()


def cross_entropy(s):
    return torch.nn.functional.cross_entropy(s, torch.arange(len(s)))


def of_two(v, N, tau):
    z, y = torch.nn.functional.normalize(v.view(2, N, -1), dim=-1)
    return cross_entropy(z @ y.T / tau)


def search(generator, N, D, tau, starts, steps=300):
    """The least losses that two encoders are led to from random codes."""
    draws = torch.randn(starts, 2 * N * D, generator=generator, dtype=DOUBLE)
    return [minimum(lambda v: of_two(v, N, tau), start, steps=steps) for start in draws]


def passes(scores, generator):
    rows = {"h": 0, "g": 0}

    def h(x, x_prime):
        rows["h"] += len(x)
        return x + x_prime

    def g(x_prime):
        rows["g"] += len(x_prime)
        return x_prime

    x, x_prime = (torch.randn(n, 2, generator=generator, dtype=DOUBLE) for n in (4, 7))
    scores(h, g, x, x_prime)
    return rows


@pytest.mark.claim("contrastive-tradeoffs", answers=["B4.4"])
def test_tradeoffs(evidence, most=cap, codes=joint_codes, scores=joint_scores):
    g = evidence.generator

    def least(pairs, tau, kind="batch"):
        return math.log(pairs) - most(pairs, tau, kind)

    for N, d in ((2, 1), (3, 1), (3, 2), (5, 3), (6, 5)):
        tau = 0.5 + torch.rand(1, generator=g, dtype=DOUBLE).item()
        found = search(g, N, d + 1, tau, 3)
        evidence.numeric(least(N, tau), min(found), bound=1e-7, oracle="L-BFGS on two encoders")
        draws = sphere(g, 50, 2, N, d + 1)
        losses = [cross_entropy(a @ b.T / tau) for a, b in draws]
        evidence.ordered(least(N, tau), min(losses), bound=1e-12, oracle="random codes")
        start = math.pi * torch.rand(N, N, generator=g, dtype=DOUBLE)
        free = minimum(lambda a, tau=tau: cross_entropy(a.cos() / tau), start)
        evidence.numeric(least(N, tau, "joint"), free, bound=1e-9, oracle="free scores in the box")
    crowded = min(search(g, 6, 4, 0.7, 2))
    evidence.ordered(least(6, 0.7) + 1e-3, crowded, bound=1e-12, oracle="too many pairs for the sphere")

    y = sphere(g, 5, 3)
    table = 2 * torch.rand(4, 5, generator=g, dtype=DOUBLE) - 1
    made = codes(table, y)
    dots = [[math.fsum(made[i, j] * y[j]) for j in range(5)] for i in range(4)]
    evidence.numeric(dots, table, bound=1e-12, oracle="the scores that were asked for")
    evidence.numeric(made.square().sum(-1), torch.ones(4, 5), bound=1e-12, oracle="unit vectors")

    wide, many = 2 * torch.rand(6, 6, generator=g, dtype=DOUBLE) - 1, sphere(g, 6, 3)
    products = torch.einsum("ijd,jd->ij", codes(wide, many), many)
    ranks = [torch.linalg.matrix_rank(products), torch.linalg.matrix_rank(many @ many.roll(1, 0).T)]
    evidence.exact([int(rank) for rank in ranks], [6, 3], oracle="six scores, three dimensions")

    angle = torch.arange(6, dtype=DOUBLE) * math.pi / 3
    hexagon = cross_entropy((angle[:, None] - angle).cos())
    values = [least(6, 1.0, "joint"), least(6, 1.0), hexagon]
    evidence.exact(
        [f"{v:.6f}" for v in values],
        ["0.516814", "0.918676", "1.027709"],
        oracle="the decimals that the claim states",
    )
    counted = passes(scores, g)
    evidence.exact(counted, {"h": 28, "g": 7}, oracle="rows counted by hand: 4 by 7, and 7")


@mutant(test_tradeoffs, "two encoders do as well as a joint one", of="most")
def alike(terms, temperature, kind):
    return cap(terms, temperature, "joint")


@mutant(test_tradeoffs, "orthonormal codes are best for two encoders", of="most")
def orthonormal(terms, temperature, kind):
    return cap(terms, temperature, "drawn" if kind == "batch" else kind)


@mutant(test_tradeoffs, "the temperature is left out of the exponent", of="most")
def untempered(terms, temperature, kind):
    return cap(terms, 1.0, kind) / temperature


@mutant(test_tradeoffs, "the joint encoder runs once for each pair", of="scores")
def diagonal_only(h, g, x, x_prime):
    return h(x, x_prime[: len(x)]) @ g(x_prime).T


@mutant(test_tradeoffs, "codes of the wrong length", of="codes")
def sheared(scores, y):
    side = torch.stack([-y[:, 1], y[:, 0], 0 * y[:, 2]], -1)
    return scores[..., None] * y + (1 - scores[..., None].abs()) * side


def ends(d, tau):
    """1 / tau less the log of a mean over the sphere, and this log, by integration over the latitude."""
    with mpmath.workdps(30):
        weight = lambda a: mpmath.sin(a) ** (d - 1)
        top = mpmath.quad(lambda a: weight(a) * mpmath.exp(mpmath.cos(a) / tau), [0, 1, mpmath.pi])
        log_c = mpmath.log(top / mpmath.quad(weight, [0, 1, mpmath.pi]))
        return float(1 / mpmath.mpf(tau) - log_c), float(log_c)


def of_law(p, z, y, tau):
    """E z.y / tau - E log E' exp(z.y' / tau) for a table of probabilities, in numpy."""
    p, s = p.numpy(), (z @ y.T / tau).numpy()
    return (p * s).sum() - p.sum(1) @ logsumexp(s, axis=1, b=p.sum(0))


@pytest.mark.claim("x-contrastive-two-encoders")
def test_two_encoders(evidence, most=two_encoder_cap):
    g = evidence.generator
    warm = (1, 0.5), (1, 1.0), (2, 1 / 3), (2, 1.0), (3, 1.4), (7, 0.125), (15, 0.25), (39, 0.11)
    for d, tau in warm:
        evidence.numeric(most(d, tau), ends(d, tau)[0], bound=1e-11, oracle="integral over the latitude")
    for d, tau in ((1, 0.1), (2, 0.05), (7, 0.03)):
        evidence.numeric(most(d, tau), max(ends(d, tau)), bound=1e-10, oracle="the larger number")
    for d, N, tau in ((1, 6, 1.0), (1, 9, 0.5), (1, 12, 0.2), (2, 12, 0.34), (3, 20, 1.0), (7, 30, 0.13)):
        found = min(search(g, N, d + 1, tau, 2, steps=25))
        evidence.ordered(-most(d, tau), found - math.log(N), bound=1e-9, oracle="L-BFGS on two encoders")
        codes = sphere(g, 40, 2, N, d + 1)
        codes[20:, 1] = codes[20:, 0] + 0.3 * codes[20:, 1]
        codes[:5, 1] = 0.3 * codes[:5, 1] - codes[:5, 0]
        codes /= codes.norm(dim=-1, keepdim=True)
        least = min(cross_entropy(z @ y.T / tau) - math.log(N) for z, y in codes)
        evidence.ordered(-most(d, tau), least, bound=1e-12, oracle="random codes, near and far")
        tables = torch.randn(20, N * N, generator=g, dtype=DOUBLE).mul(3).softmax(1).view(20, N, N)
        tables = torch.cat([tables, torch.diag_embed(tables.sum(2))])
        laws = zip(tables, codes.flip(0), strict=True)
        greatest = max(of_law(p, z, y, tau) for p, (z, y) in laws)
        evidence.ordered(-most(d, tau), -greatest, bound=1e-12, oracle="random laws of pairs")
    for tau in (0.5, 1.0, 2.3):
        angle = torch.arange(60, dtype=DOUBLE) * 2 * math.pi / 60
        even = math.log(60) - cross_entropy((angle[:, None] - angle).cos() / tau)
        evidence.numeric(most(1, tau), even, bound=1e-12, oracle="sixty codes evenly on the circle")
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a, b in product((-1, 1), repeat=2)]
    solid = torch.tensor([c[r:] + c[:r] for c in corners for r in range(3)], dtype=DOUBLE)
    solid /= solid.norm(dim=-1, keepdim=True)
    near = math.log(12) - cross_entropy(solid @ solid.T)
    evidence.numeric(most(2), near, bound=2e-3, oracle="the twelve corners of an icosahedron")
    evidence.exact(
        [f"{most(1):.6f}", f"{most(2):.6f}", f"{math.log(6) - most(1):.7f}"],
        ["0.764086", "0.838561", "1.0276738"],
        oracle="the decimals that the claim states",
    )
    evidence.numeric(most(10**5), 1.0, bound=1e-5, oracle="the limit of many dimensions")


@mutant(test_two_encoders, "the dimension of the space in place of that of the sphere")
def ambient(d, temperature=1.0):
    return two_encoder_cap(d + 1, temperature)


@mutant(test_two_encoders, "the certificate of aligned codes alone")
def aligned(d, temperature=1.0):
    return 1 / temperature


@mutant(test_two_encoders, "opposite codes, as if uniformity alone counted")
def opposite(d, temperature=1.0):
    return 2 / temperature


@mutant(test_two_encoders, "half of the exponent lost, as in a Gaussian kernel")
def halved(d, temperature=1.0):
    return 1 / temperature - 1 / (2 * (d + 1) * temperature**2)


def separable(y, chosen):
    """Whether some vector has larger products with the chosen rows than with all others."""
    others = [i for i in range(len(y)) if i not in chosen]
    less = np.array([(y[j] - y[i]).tolist() for i in chosen for j in others])
    result = linprog(
        np.zeros(less.shape[1]), A_ub=less, b_ub=-np.ones(len(less)), bounds=[(None, None)] * less.shape[1]
    )
    assert result.status in (0, 2)
    return result.status == 0


def angles(generator, n):
    """Different angles, no two of them close."""
    gap = 0.3 + torch.rand(n, generator=generator, dtype=DOUBLE)
    return gap.cumsum(0) * (2 * math.pi / gap.sum())


@pytest.mark.claim("x-contrastive-top-k")
def test_top_k(evidence, codes=ring, ask=query, out_of_reach=unreachable):
    g = evidence.generator
    for k, n in ((1, 6), (2, 7), (2, 10), (3, 8)):
        t = angles(g, n)
        y = codes(t, k)
        evidence.numeric(y.square().sum(-1), torch.ones(n), bound=1e-12, oracle="unit vectors")
        subsets = list(combinations(range(n), k))
        queries = torch.stack([ask(t[list(one)]) for one in subsets])
        length = queries.square().sum(-1)
        evidence.numeric(length, torch.ones(len(subsets)), bound=1e-12, oracle="unit vectors")
        products = queries @ y.T
        evidence.exact(
            [tuple(sorted(row.topk(k).indices.tolist())) for row in products],
            list(combinations(range(n), k)),
            oracle="all sets of k",
        )
        spread = products.topk(k).values[:, 0] - products.topk(k).values[:, -1]
        evidence.numeric(spread, torch.zeros(len(subsets)), bound=1e-12, oracle="equal products")
    for k, D in ((2, 2), (2, 3), (3, 3), (3, 4), (3, 5)):
        for n in (D + k, D + k + 2):
            y = sphere(g, n, D)
            chosen = out_of_reach(y, k)
            evidence.exact(len(set(chosen)), k, oracle="k rows")
            evidence.exact(separable(y, chosen), False, oracle="a linear programme")
    for n in (3, 6, 9):
        turn = angles(g, n)
        circle = torch.stack([turn.cos(), turn.sin()], 1)
        reached = {pair for pair in combinations(range(n), 2) if separable(circle, pair)}
        neighbours = {tuple(sorted((i, (i + 1) % n))) for i in range(n)}
        evidence.exact(reached, neighbours, oracle="a linear programme, against neighbours")


@mutant(test_top_k, "the query is the mean of the codes wanted", of="ask")
def average(t):
    return torch.nn.functional.normalize(ring(t, t.shape[-1]).mean(-2), dim=-1)


@mutant(test_top_k, "the signs of the coefficients", of="ask")
def backwards(t):
    return -query(t)


@mutant(test_top_k, "the coefficients, not of unit length", of="ask")
def unscaled(t):
    return query(t) * 2 ** (1 - t.shape[-1])


@mutant(test_top_k, "the first k rows", of="out_of_reach")
def first(y, k):
    return next(list(c) for c in combinations(range(len(y)), k) if separable(y, c))


@mutant(test_top_k, "frequencies counted from zero", of="codes")
def constant_too(t, k):
    angle = t[..., None] * torch.arange(k, dtype=t.dtype)
    return torch.cat([angle.cos(), angle.sin()], -1) / math.sqrt(k)


def test_every_log_ratio_within_two_over_tau_is_a_joint_score():
    generator = torch.Generator().manual_seed(3)
    p, y = law(generator), sphere(generator, Y, 2)
    ratio = (p / p.sum(1, keepdim=True) / p.sum(0)).log()
    middle = (ratio.amax(1, keepdim=True) + ratio.amin(1, keepdim=True)) / 2
    tau = 1 / (ratio - middle).abs().max()
    z = joint_codes((tau * (ratio - middle)).clamp(-1, 1), y)
    table = joint_scores(lambda a, b: z[a, b], lambda b: y[b], torch.arange(X), torch.arange(Y))
    torch.testing.assert_close(table / tau, ratio - middle)


def test_images_and_tokens_are_rows():
    images, tokens = torch.randn(3, 2, 4, 4), torch.arange(20).view(4, 5)
    h = lambda x, t: torch.stack([x.sum((1, 2, 3)), t.sum(1) + 0 * x[:, 0, 0, 0]], 1)
    table = joint_scores(h, lambda t: t[:, :2].float(), images, tokens)
    assert table.shape == (3, 4)
    sums = images.sum((1, 2, 3))[:, None] * tokens[:, 0] + (tokens.sum(1) * tokens[:, 1])
    torch.testing.assert_close(table, sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    y = torch.eye(3, dtype=dtype)
    z = joint_codes(torch.full((2, 3, 3), 0.5, dtype=dtype), y)
    assert z.dtype == dtype
    assert z.shape == (2, 3, 3, 3)
    assert certificate((z * y).sum(-1)).dtype == dtype
    assert certificate((z * y).sum(-1)).shape == (2,)
    t = torch.tensor([[0.1, 0.7], [1.0, 3.0]], dtype=dtype)
    assert ring(t, 3).dtype == dtype
    assert query(t).shape == (2, 4)
    assert query(t).dtype == dtype


def test_gradients_reach_both_encoders():
    a, b = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
    x = torch.randn(4, 3)
    certificate(joint_scores(lambda u, v: (u + v) @ a, lambda v: v @ b, x, x + 1)).backward()
    assert a.grad.abs().sum() > 0
    assert b.grad.abs().sum() > 0


def test_cold_and_large_are_finite():
    assert 989 < two_encoder_cap(3, 1e-3) < 990
    assert 90 < two_encoder_cap(511, 0.01) < 91
    assert math.isclose(certificate(1e4 * torch.eye(3)), math.log(3), rel_tol=1e-3)


Z3, Y3 = torch.zeros(3, 3), torch.eye(3)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: joint_scores(lambda a, b: a[:3], lambda b: b, Y3, Y3), "h must return codes of shape (9, 3)"),
        (lambda: joint_scores(lambda a, b: a[:, :1], lambda b: b, Y3, Y3), "h must return codes of shape (9, 3)"),
        (lambda: joint_scores(lambda a, b: a, lambda b: b[:2], Y3, Y3), "g must return 3 codes, got shape (2, 3)"),
        (lambda: joint_scores(lambda a, b: a, lambda b: b[:, 0], Y3, Y3), "g must return 3 codes, got shape (3,)"),
        (lambda: certificate(torch.zeros(3, 2)), "scores must have a column for each row, got (3, 2)"),
        (lambda: certificate(torch.zeros(0, 2)), "scores must have a column for each row, got (0, 2)"),
        (lambda: joint_codes(Z3, torch.ones(3, 1)), "y must have at least 2 dimensions, got 1"),
        (lambda: joint_codes(Z3, 2 * Y3), "y must be unit vectors, got a norm that is off by 1"),
        (lambda: joint_codes(Z3 + 1.5, Y3), "scores must be in [-1, 1], got 1.5 to 1.5"),
        (lambda: joint_codes(Z3 + math.nan, Y3), "scores must be in [-1, 1], got nan to nan"),
        (lambda: two_encoder_cap(0), "d must be at least 1, got 0"),
        (lambda: two_encoder_cap(1, 0.0), "temperature must be positive and finite, got 0.0"),
        (lambda: ring(torch.ones(2), 0), "k must be at least 1, got 0"),
        (lambda: query(torch.ones(0)), "t must hold at least 1 angle, got 0"),
        (lambda: unreachable(Y3, 1), "k must be at least 2, got 1"),
        (lambda: unreachable(torch.ones(9, 4), 2), "y must have D < 4 columns and at least D + 2 rows, got 9, 4"),
        (lambda: unreachable(torch.ones(4, 3), 2), "y must have D < 4 columns and at least D + 2 rows, got 4, 3"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
