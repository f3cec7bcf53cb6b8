import math
from fractions import Fraction
from itertools import product
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy.special import entr, rel_entr

from genref._site.claims import mutant
from genref.latent.finite import mutual_information
from genref.latent.information import (
    best_reconstruction,
    contrastive_bound,
    cross_entropy,
    excess,
    information_bound,
    views,
)

DOUBLE = torch.float64
BITS = torch.tensor(list(product((0.0, 1.0), repeat=3)), dtype=DOUBLE)
"""The eight values of three bits."""


def uniform(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=DOUBLE)


def laws(generator, *shape):
    """Random laws along the last dimension, from nearly uniform to nearly certain."""
    noise = torch.randn(*shape, generator=generator, dtype=DOUBLE)
    return (4 * uniform(generator, *shape[:-1], 1) * noise).softmax(-1)


def pairs(generator, number=400, codes=5, values=8):
    """Joint tables of random data and random encoders, a quarter of them deterministic."""
    encoder = laws(generator, number, values, codes)
    chosen = F.one_hot(encoder[::4].argmax(-1), codes)
    encoder[::4] = chosen.to(DOUBLE)
    return laws(generator, number, values)[..., None] * encoder


def products(x_hat):
    """The probabilities of all x under independent bits with these means, multiplied out."""
    factors = [torch.where(BITS[:, None, j] == 1, x_hat[..., j][..., None, :], 0) for j in range(3)]
    for j in range(3):
        factors[j] += torch.where(BITS[:, None, j] == 0, 1 - x_hat[..., j][..., None, :], 0)
    return factors[0] * factors[1] * factors[2]


def gap(joint, r):
    """I - (H - l), as the mean divergence of p(x | y) from r(x | y)."""
    joint, r = joint.numpy(), r.numpy()
    return torch.tensor(rel_entr(joint, joint.sum(-2, keepdims=True) * r).sum((-2, -1)))


def information(joint):
    joint = joint.numpy()
    x, y = joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True)
    return torch.tensor(rel_entr(joint, x * y).sum((-2, -1)))


def autoencoder(joint, x, x_hat):
    return information_bound(joint, cross_entropy(x, x_hat))


@pytest.mark.claim("ae-mi-bound", answers=["B2.3"])
def test_bound(evidence, bound=autoencoder, passes=excess):
    g = evidence.generator
    joint, drawn = pairs(g), uniform(g, 400, 5, 3)
    for x_hat in (drawn, drawn**20, drawn.round()):
        reached = bound(joint, BITS, x_hat)
        evidence.numeric(
            reached,
            information(joint) - gap(joint, products(x_hat)),
            bound=1e-11,
            oracle="I less the mean divergence from a product of bits, both by scipy",
        )
        evidence.ordered(reached, information(joint), bound=1e-11, oracle="I by scipy")
    factored = laws(g, 400, 5)[..., None, :] * products(drawn)
    evidence.numeric(
        bound(factored, BITS, drawn),
        information(factored),
        bound=1e-11,
        oracle="equality: independent bits given the code, and their means",
    )
    evidence.numeric(
        bound(joint, BITS, best_reconstruction(joint, BITS)),
        torch.tensor(entr(joint.sum(-1).numpy()).sum(-1) - bitwise(joint)),
        bound=1e-11,
        oracle="the entropies of the single bits given the code",
    )

    loss = 3 * torch.randn(50, 4, 5, generator=g, dtype=DOUBLE)
    weight = (-loss).exp()
    most = passes(loss)
    evidence.numeric(
        most,
        torch.tensor([max(map(math.fsum, w.T.tolist())) for w in weight], dtype=DOUBLE).log(),
        bound=1e-12,
        oracle="sums of exponentials",
    )
    worst = F.one_hot(weight.sum(-2).argmax(-1), 5)[:, None] * weight / weight.sum(-2, keepdim=True)
    evidence.numeric(most, over(worst, loss), bound=1e-11, oracle="H - l of the worst law, I = 0")
    evidence.ordered(
        -most,
        -over(pairs(g, 50, values=4), loss),
        bound=1e-11,
        oracle="H - l - I of random laws, by scipy",
    )
    evidence.numeric(
        passes(cross_entropy(BITS, drawn)),
        torch.zeros(400, dtype=DOUBLE),
        bound=1e-12,
        oracle="the probabilities of independent bits sum to one",
    )

    x_hat = torch.arange(1, 200, dtype=DOUBLE).expand(3, 199) / 200
    grey = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)[:, None].expand(3, 199)
    nats = F.binary_cross_entropy(x_hat, grey, reduction="none")
    tables = {
        "0.405465": (nats, math.log(3) - math.log(2), 1),
        "0.568147": ((grey - x_hat)[::2] ** 2 / 2, math.log(2) - 1 / 8, 1),
        "0.3069": (math.log(2) * nats[::2], 1 - math.log(2), math.log(2)),
    }
    for decimals, (table, formula, unit) in tables.items():
        most = passes(table.T[..., None]) / unit
        evidence.numeric(most.max(), formula, bound=1e-12, oracle="the formula of the claim")
        evidence.exact(most.argmax().item(), 99, oracle="one half is the worst constant")
        shown = f"{most.max():.{len(decimals) - 2}f}"
        evidence.exact(shown, decimals, oracle="the decimals of the claim")


def over(joint, loss):
    """H - l - I."""
    h = torch.tensor(entr(joint.sum(-1).numpy()).sum(-1))
    return h - (joint * loss).sum((-2, -1)) - information(joint)


def bitwise(joint):
    """The sum of H(X_j | Y)."""
    bits = [joint[:, BITS[:, j] == value].sum(-2) for j in range(3) for value in (0, 1)]
    return (entr(np.stack(bits)).sum(0) - 3 * entr(joint.sum(-2).numpy())).sum(-1)


@mutant(test_bound, "the loss is a mean over the bits, the default of libraries", of="bound")
def averaged(joint, x, x_hat):
    h = torch.special.entr(joint.sum(-1)).sum(-1)
    loss = cross_entropy(x, x_hat) / x.shape[-1]
    return h - (joint * loss.where(joint > 0, 0)).sum((-2, -1))


@mutant(test_bound, "half the squared error", of="bound")
def squared(joint, x, x_hat):
    h = torch.special.entr(joint.sum(-1)).sum(-1)
    loss = (x[:, None] - x_hat[..., None, :, :]).square().sum(-1) / 2
    return h - (joint * loss).sum((-2, -1))


@mutant(test_bound, "the entropy in bits, the loss in nats", of="bound")
def bits(joint, x, x_hat):
    h = torch.special.entr(joint.sum(-1)).sum(-1)
    return autoencoder(joint, x, x_hat) + h * (1 / math.log(2) - 1)


@mutant(test_bound, "only the pixels that are on", of="bound")
def lit_only(joint, x, x_hat):
    h = torch.special.entr(joint.sum(-1)).sum(-1)
    loss = -torch.xlogy(x[:, None], x_hat[..., None, :, :]).sum(-1)
    return h - (joint * loss.clamp(max=1e9)).sum((-2, -1))


@mutant(test_bound, "the entropy of the code for that of the datum", of="bound")
def of_code(joint, x, x_hat):
    change = torch.special.entr(joint.sum(-2)).sum(-1) - torch.special.entr(joint.sum(-1)).sum(-1)
    return autoencoder(joint, x, x_hat) + change


@mutant(test_bound, "equality for every code, as if the decoder were exact", of="bound")
def always_equal(joint, x, x_hat):
    return mutual_information(joint)


@mutant(test_bound, "the sum over the codes", of="passes")
def over_codes(loss):
    return torch.logsumexp(-loss, -1).amax(-1)


@mutant(test_bound, "the mean of the codes for the worst one", of="passes")
def mean_code(loss):
    return torch.logsumexp(-loss, -2).mean(-1)


def partitions(n):
    """Every way to write n values as codes: growing strings, one for each set partition."""
    strings = [(0,)]
    for _ in range(n - 1):
        strings = [(*s, k) for s in strings for k in range(max(s) + 2)]
    return strings


def augmentation():
    """The law of x = 2s + v given s."""
    a = torch.zeros(4, 8, dtype=DOUBLE)
    for s, v in product(range(4), range(2)):
        a[s, 2 * s + v] = 0.5
    return a


def by_tuples(joint, score, terms):
    """The bound as a sum over z and all M-tuples of z'."""
    joint, score = joint.tolist(), score.tolist()
    law = [math.fsum(row[y] for row in joint) for y in range(len(joint[0]))]
    total = []
    for z, values in product(range(len(joint)), product(range(len(law)), repeat=terms)):
        mass = joint[z][values[0]] * math.prod(law[y] for y in values[1:])
        e = [math.exp(score[z][y]) for y in values]
        total.append(mass * math.log(e[0] / (math.fsum(e) / terms)))
    return math.fsum(total)


@pytest.mark.claim("ssl-replacement", answers=["B2.4"])
def test_replacement(evidence, bound=contrastive_bound, two=views):
    g = evidence.generator
    for terms, steep in product((1, 2, 3, 5), (0.5, 2.0)):
        joint = laws(g, 12).view(3, 4)
        ratio = (joint / (joint.sum(1, keepdim=True) * joint.sum(0))).log()
        for score in (steep * torch.randn(3, 4, generator=g, dtype=DOUBLE), ratio, steep * ratio):
            value = bound(joint, score, terms)
            evidence.numeric(
                value,
                torch.tensor(by_tuples(joint, score, terms), dtype=DOUBLE),
                bound=1e-11,
                oracle="a sum over all tuples",
            )
            limit = torch.minimum(information(joint), torch.tensor(terms, dtype=DOUBLE).log())
            evidence.ordered(value, limit, bound=1e-12, oracle="log M, and I by scipy")

    pair = torch.zeros(8, 8, dtype=DOUBLE)
    for s, v, other in product(range(4), range(2), range(2)):
        pair[2 * s + v, 2 * s + other] = 1 / 16
    x = pair.sum(-1)
    evidence.exact(
        two(torch.full((4,), 0.25, dtype=DOUBLE), augmentation()),
        pair,
        oracle="sixteen equally likely pairs, listed",
    )
    evidence.numeric(
        mutual_information(two(rising(3), laws_of_three())),
        information(listed(rising(3), laws_of_three())),
        bound=1e-12,
        oracle="triples of a datum and two views, listed",
    )
    encoder, other = laws(g, 200, 8, 3), laws(g, 200, 8, 3)
    codes = encoder.mT @ pair @ other
    limit = torch.minimum(information(codes), torch.tensor(3.0, dtype=DOUBLE).log())
    score = torch.randn(200, 3, 3, generator=g, dtype=DOUBLE)
    evidence.ordered(bound(codes, score, 3), limit, bound=1e-12, oracle="log M, and I by scipy")
    evidence.ordered(information(codes), math.log(4), bound=1e-12, oracle="two bits are shared")
    for beta in (0.3, 0.7):
        z_x = x[:, None] * encoder
        z_s = z_x.unflatten(-2, (4, 2)).sum(-2)
        evidence.numeric(
            information(encoder.mT @ pair) - beta * information(z_x),
            (1 - beta) * information(z_s) - beta * (information(z_x) - information(z_s)),
            bound=1e-12,
            oracle="I(z; s) and I(z; v | s) of random codes, by scipy",
        )
    strings = partitions(8)
    hard = torch.stack([F.one_hot(torch.tensor(s), 8) for s in strings]).to(DOUBLE)
    kept, held = information(hard.mT @ pair), information(x[:, None] * hard)
    for beta in (0.3, 0.7):
        for name, gain, best, most in (
            ("z = s", kept - beta * held, (0, 0, 1, 1, 2, 2, 3, 3), math.log(4)),
            ("z = x", held - beta * held, tuple(range(8)), math.log(8)),
        ):
            evidence.numeric(gain.max(), (1 - beta) * most, bound=1e-12, oracle="the maximum")
            first = {s for s, e in zip(strings, gain, strict=True) if e > gain.max() - 1e-9}
            evidence.exact(first, {best}, oracle=f"{name}, alone of all 4140 deterministic codes")

    to_s = F.one_hot(torch.arange(8) // 2, 4).to(DOUBLE)
    same = torch.eye(4, dtype=DOUBLE).log()
    for terms in (2, 3, 6, 17):
        value = bound(to_s.mT @ pair @ to_s, same, terms)
        number = Fraction(1, 4 ** (terms - 1))
        chance = [number * math.comb(terms - 1, n) * 3 ** (terms - 1 - n) for n in range(terms)]
        evidence.numeric(
            value,
            math.fsum(p * math.log(terms / (1 + n)) for n, p in enumerate(chance)),
            bound=1e-12,
            oracle="binomial probabilities as fractions",
        )
    far = bound(to_s.mT @ pair @ to_s, same, 120)
    evidence.ordered(-far, -math.log(120 / (1 + 119 / 4)), bound=1e-12, oracle="Jensen's bound")
    evidence.ordered(far, math.log(4), bound=1e-12, oracle="log 4, to which that bound tends")


def rising(n):
    return torch.arange(1, n + 1, dtype=DOUBLE) / (n * (n + 1) / 2)


def laws_of_three():
    return torch.tensor([[1, 2, 3, 4], [7, 0, 2, 1], [3, 3, 3, 1]], dtype=DOUBLE) / 10


def listed(datum, augmentation):
    table = torch.zeros(4, 4, dtype=DOUBLE)
    for s, x, other in product(range(3), range(4), range(4)):
        table[x, other] += datum[s] * augmentation[s, x] * augmentation[s, other]
    return table


@mutant(test_replacement, "the positive left out of the denominator", of="bound")
def excluded(joint, score, terms):
    n, law = joint.shape[-1], joint.sum(-2)
    if terms == 1 or terms > 6:
        return contrastive_bound(joint, score, terms)
    draws = torch.cartesian_prod(*[torch.arange(n)] * (terms - 1)).view(-1, terms - 1)
    chance = law[..., draws].prod(-1)
    score = score.clamp(min=-30)
    negative = score[..., draws].logsumexp(-1) - math.log(terms - 1)
    positive = (joint * score).sum((-2, -1))
    return positive - (joint.sum(-1) * (chance[..., None, :] * negative).sum(-1)).sum(-1)


@mutant(test_replacement, "the sum in place of the mean", of="bound")
def summed(joint, score, terms):
    return contrastive_bound(joint, score, terms) - math.log(terms)


@mutant(test_replacement, "M negatives beside the positive", of="bound")
def one_more(joint, score, terms):
    return contrastive_bound(joint, score, terms + 1)


@mutant(test_replacement, "the information itself, for any score", of="bound")
def claimed(joint, score, terms):
    return mutual_information(joint)


@mutant(test_replacement, "one augmentation for both views", of="two")
def copied(datum, augmentation):
    return torch.diag(datum @ augmentation)


@mutant(test_replacement, "views of different data", of="two")
def strangers(datum, augmentation):
    view = datum @ augmentation
    return view[:, None] * view


def test_best_reconstruction_is_the_conditional_mean():
    joint = torch.tensor([[0.1, 0.3, 0.0], [0.4, 0.2, 0.0]])
    x = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
    expected = torch.tensor([[0.6, 1.0], [-0.2, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(best_reconstruction(joint, x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_batches_and_gradients(dtype):
    g = torch.Generator().manual_seed(4)
    x = BITS.to(dtype)
    joint = pairs(g, 6).to(dtype)
    x_hat = uniform(g, 2, 1, 5, 3).to(dtype).requires_grad_()
    value = information_bound(joint, cross_entropy(x, x_hat))
    assert value.shape == (2, 6)
    assert value.dtype == best_reconstruction(joint, x).dtype == dtype
    value.sum().backward()
    assert x_hat.grad.isfinite().all()
    score = torch.randn(5, 5, generator=g, dtype=dtype).requires_grad_()
    square = joint[..., :5, :] / joint[..., :5, :].sum((1, 2), keepdim=True)
    value = contrastive_bound(square, score, 3)
    assert value.shape == (6,)
    assert value.dtype == dtype
    value.sum().backward()
    assert score.grad.abs().sum() > 0


def test_zeros_of_a_table_cost_nothing():
    joint = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    x = torch.tensor([[0.0], [1.0]])
    loss = cross_entropy(x, x)
    assert loss.isinf().sum() == 2
    assert information_bound(joint, loss).item() == pytest.approx(math.log(2))
    assert information_bound(joint.roll(1, 0), loss).item() == -math.inf


def test_pairs_of_weight_zero():
    law, score = torch.full((2, 2), 0.25, requires_grad=True), torch.eye(2).log()
    for terms in (1, 2, 4):
        assert contrastive_bound(law, score, terms) == -math.inf
    same = torch.eye(2) / 2
    score = torch.tensor([[0.0, -math.inf], [-math.inf, 3.0]], requires_grad=True)
    value = contrastive_bound(same, score, 5)
    assert value.isfinite()
    (slope,) = torch.autograd.grad(value, score)
    assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_far_apart_do_not_underflow(dtype):
    law = torch.tensor([[0.3, 0.2], [0.1, 0.4]], dtype=dtype)
    score = torch.tensor([[0.0, -900.0], [7000.0, 8000.0]], dtype=dtype)
    assert contrastive_bound(law, score, 1) == 0
    unequal = 0.3 * 0.6 + 0.2 * 0.4 + 0.1 * 0.6 + 0.4 * 0.4
    exact = unequal * math.log(2) - 0.2 * 0.4 * 900 - 0.1 * 0.6 * 1000
    found = contrastive_bound(law, score, 2)
    assert abs(found.item() - exact) < 1e-4


@pytest.mark.usefixtures("untyped")
def test_sizes_that_differ_raise():
    x, half = torch.tensor([[0.0], [1.0]]), torch.full((2, 2), 0.25)
    calls = {
        r"x_hat must match the size \(1,\), got \(3,\)": lambda: cross_entropy(x, torch.ones(2, 3)),
        r"loss must match the size \(2, 2\), got \(2, 1\)": lambda: information_bound(half, x),
        r"score must match the size \(2, 2\), got \(2, 1\)": lambda: contrastive_bound(half, x, 2),
        r"augmentation must match the size \(1,\)": lambda: views(torch.ones(1), 2 * half),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_raise():
    half = torch.full((2, 2), 0.25)
    x = torch.tensor([[0.0], [1.0]])
    with pytest.raises(ValueError, match=r"x must be 0 or 1, got values from 0 to 0\.5"):
        cross_entropy(x / 2, x)
    with pytest.raises(ValueError, match=r"x_hat must be in \[0, 1\], got 0 to 2"):
        cross_entropy(x, 2 * x)
    with pytest.raises(ValueError, match=r"loss must have an excess of at most 0, got 0\.693"):
        information_bound(half, torch.zeros(2, 2))
    for wrong in (2 * half, half * torch.nan):
        for made in (
            lambda p: information_bound(p, torch.ones(2, 2)),
            lambda p: best_reconstruction(p, x),
            lambda p: contrastive_bound(p, torch.ones(2, 2), 2),
        ):
            with pytest.raises(ValueError, match="joint must"):
                made(wrong)
    with pytest.raises(ValueError, match=r"joint must not be negative, got -0\.5"):
        information_bound(torch.tensor([[-0.5, 0.5], [0.5, 0.5]]), torch.ones(2, 2))
    with pytest.raises(ValueError, match="datum must sum to 1"):
        views(torch.ones(2), 2 * half)
    with pytest.raises(ValueError, match="augmentation must sum to 1"):
        views(torch.tensor([0.5, 0.5]), half)
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        contrastive_bound(half, half, 0)
    with pytest.raises(ValueError, match="score must have a finite maximum in each row"):
        contrastive_bound(half, half.log() - math.inf, 2)


def test_the_figure_separates_bounds_from_the_others():
    snippet = run_path(str(Path(__file__).parents[2] / "snippets/latent/information.py"))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    sound, *wrong = (marks.get_offsets() for marks in figure.axes[0].collections)
    assert (sound[:, 1] <= sound[:, 0] + 1e-5).all()
    for marks in wrong:
        assert (marks[:, 1] > marks[:, 0]).any()
