import re
from fractions import Fraction
from functools import reduce
from itertools import pairwise, product
from pathlib import Path
from runpy import run_path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from genref._site.claims import mutant
from genref.masks.causal import MaskedConv2d, mask, total_probability

DOUBLE = torch.float64
MAPS = list(product(range(1, 8), repeat=2))


def stack(kinds, generator, kernel_size=3, past="above", colours=1):
    """Random layers, tanh between them, with two hidden channels for each colour."""
    widths = [colours, *[2 * colours] * (len(kinds) - 1), colours]
    network = nn.Sequential()
    for kind, channels in zip(kinds, pairwise(widths), strict=True):
        network.append(MaskedConv2d(kind, *channels, kernel_size, past, colours, dtype=DOUBLE))
        network.append(nn.Tanh())
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return network[:-1]


def dependence(network, size, colours=1):
    """Which output value (row) moves with which input value (column), pixel by pixel."""
    count = colours * size[0] * size[1]
    images = torch.zeros(count, colours, *size, dtype=DOUBLE, requires_grad=True)
    outputs = network(images).permute(0, 2, 3, 1).reshape(count, count)
    (gradient,) = torch.autograd.grad(outputs.diagonal().sum(), images)
    return gradient.permute(0, 2, 3, 1).reshape(count, count) != 0


def chains(kinds, size, radius=1, past="above", colours=1):
    """Which values are joined by a chain of steps to near and earlier values; B may also stay."""
    values = list(product(range(size[0]), range(size[1]), range(colours)))
    down = 1 if past == "above" else -1

    def leads(j, i):
        near = abs(i[0] - j[0]) <= radius and abs(i[1] - j[1]) <= radius
        return near and (down * j[0], *j[1:]) < (down * i[0], *i[1:])

    back = torch.tensor([[leads(j, i) for j in values] for i in values], dtype=DOUBLE)
    step = {"A": back, "B": back + torch.eye(len(values))}
    return torch.linalg.multi_dot([step[kind] for kind in reversed(kinds)]) > 0


@pytest.mark.claim("masks-causal", answers=["A1.1", "A1.2", "A1.3", "A1.4"])
def test_one_a_suffices(evidence, build=stack):
    for past in ("above", "below"):
        for kinds in ("AA", "AB", "BA", "BB"):
            network = build(kinds, evidence.generator, past=past)
            evidence.exact(
                [dependence(network, size) for size in MAPS],
                [chains(kinds, size, past=past) for size in MAPS],
                oracle="products of the matrix of near and earlier pixels",
            )
            evidence.exact(
                dependence(build(kinds, evidence.generator, 5, past), (4, 5)),
                chains(kinds, (4, 5), 2, past),
                oracle="products of the matrix of near and earlier pixels",
            )
        words = ["".join(word) for n in (1, 2, 3, 4) for word in product("AB", repeat=n)]
        evidence.exact(
            {w: strictly_causal(build(w, evidence.generator, past=past), past) for w in words},
            {w: "A" in w for w in words},
            oracle="the letters of the word",
        )
        evidence.exact(
            [dependence(build("AB", evidence.generator, past=past), size) for size in MAPS],
            [chains("BA", size, past=past) for size in MAPS],
            oracle="AB measured, BA counted",
        )


def strictly_causal(network, past):
    sees = dependence(network, (3, 4)).view(3, 4, 3, 4)
    if past == "below":
        sees = sees.flip(0, 2)
    return not sees.reshape(12, 12).triu().any().item()


@mutant(test_one_a_suffices, "rows above are the past, always")
def above(kinds, generator, kernel_size=3, past="above"):
    return stack(kinds, generator, kernel_size)


@mutant(test_one_a_suffices, "the kernel is flipped, as in a convolution")
def flipped(kinds, generator, kernel_size=3, past="above"):
    network = stack(kinds, generator, kernel_size, past)
    for layer in network[::2]:
        layer.mask = layer.mask.flip(-2, -1)
    return network


@mutant(test_one_a_suffices, "type A keeps the centre")
def centred(kinds, generator, kernel_size=3, past="above"):
    return stack("B" * len(kinds), generator, kernel_size, past)


@mutant(test_one_a_suffices, "type B loses the pixel's own row and keeps the one after it")
def wrong_row(kinds, generator, kernel_size=3, past="above"):
    network = stack(kinds, generator, kernel_size, past)
    for kind, layer in zip(kinds, network[::2], strict=True):
        if kind == "B":
            own = torch.arange(kernel_size) == kernel_size // 2
            layer.mask = ~own[:, None].expand(kernel_size, kernel_size)
    return network


@mutant(test_one_a_suffices, "only the first layer can be of type A")
def first_only(kinds, generator, kernel_size=3, past="above"):
    return stack(kinds[0] + "B" * (len(kinds) - 1), generator, kernel_size, past)


@pytest.mark.claim("masks-channel-groups")
def test_channel_groups(evidence, build=stack):
    cases = product(("AB", "BA"), (1, 3, 5, 7), ("above", "below"), (1, 2, 3))
    for kinds, size, past, colours in cases:
        network = build(kinds, evidence.generator, size, past, colours)
        total = total_probability(network, (2, 2), colours, dtype=DOUBLE)
        evidence.numeric(total, 1.0, bound=1e-13, oracle="a distribution sums to one")
        evidence.exact(
            dependence(network, (2, 3), colours),
            chains(kinds, (2, 3), size // 2, past, colours),
            oracle="products of the matrix of near and earlier values",
        )
    for radius, depth in product((1, 2, 3), range(1, 9)):
        kinds = "A" + "B" * (depth - 1)
        seen = reach(build(kinds, evidence.generator, 2 * radius + 1), radius * depth)
        evidence.exact(seen, cone(radius, depth), oracle="the inequalities of the claim")
        earlier = 2 * (radius * depth) * (radius * depth + 1)
        evidence.exact(
            Fraction(earlier - len(seen), earlier),
            Fraction(depth - 1, 4 * (radius * depth + 1)),
            oracle="the fraction of the claim",
        )


def reach(network, far):
    """The (rows back, columns right) that the last row sees in a map that clips no path."""
    image = torch.zeros(1, 1, far + 1, 2 * far + 1, dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0, 0, far, far], image)
    return {(far - row, column - far) for row, column in gradient[0, 0].nonzero().tolist()}


def cone(radius, depth):
    far = radius * depth
    return {
        (a, b)
        for a, b in product(range(far + 1), range(-far, far + 1))
        if b <= radius * min(a, depth) and (a > 0 or b < 0)
    }


@mutant(test_channel_groups, "type A keeps the centre of its own colour")
def keeps_own_colour(kinds, generator, kernel_size, past="above", colours=1):
    return stack("B" * len(kinds), generator, kernel_size, past, colours)


@mutant(test_channel_groups, "rows above are the past of a pixel with colours, always")
def above_in_colours(kinds, generator, kernel_size, past="above", colours=1):
    return stack(kinds, generator, kernel_size, past if colours == 1 else "above", colours)


@mutant(test_channel_groups, "type B keeps the centre of all colours")
def keeps_all_colours(kinds, generator, kernel_size, past="above", colours=1):
    network = stack(kinds, generator, kernel_size, past, colours)
    for kind, layer in zip(kinds, network[::2], strict=True):
        layer.mask[..., kernel_size // 2, kernel_size // 2] |= kind == "B"
    return network


@mutant(test_channel_groups, "type A cuts the centre of all colours")
def cuts_all_colours(kinds, generator, kernel_size, past="above", colours=1):
    network = stack(kinds, generator, kernel_size, past, colours)
    for kind, layer in zip(kinds, network[::2], strict=True):
        layer.mask[..., kernel_size // 2, kernel_size // 2] &= kind == "B"
    return network


@pytest.mark.claim("x-masks-normalisation")
def test_normalisation(evidence, total=total_probability, layer=MaskedConv2d):
    for kinds in ("AA", "AB", "BA", "BB"):
        weights = torch.randn(2, 3, 3, generator=evidence.generator, dtype=DOUBLE)
        biases = torch.randn(2, generator=evidence.generator, dtype=DOUBLE)
        measured = total(pair(layer, kinds, weights, biases), dtype=DOUBLE)
        evidence.numeric(
            measured,
            enumerated(kinds, weights, biases),
            bound=1e-13,
            oracle="dense matrices filled tap by tap, over the same 512 images",
        )
        if kinds != "BB":
            evidence.numeric(measured, 1.0, bound=1e-13, oracle="a distribution sums to one")
    ones = torch.ones(2, 3, 3, dtype=DOUBLE)
    measured = total(pair(layer, "BB", ones, torch.zeros(2, dtype=DOUBLE)), dtype=DOUBLE)
    evidence.numeric(
        measured,
        enumerated("BB", ones, torch.zeros(2, dtype=DOUBLE)),
        bound=1e-13,
        oracle="dense matrices filled tap by tap, over the same 512 images",
    )
    evidence.exact(f"{measured:.6f}", "1.492728", oracle="the decimals that the claim states")
    for n in (1, 2, 5):
        alpha, beta = torch.rand(2, n, generator=evidence.generator, dtype=DOUBLE)
        ring = lambda x, a=alpha, b=beta: torch.logit(a + (b - a) * x.roll(1, -1))
        after = torch.stack([alpha, beta], 1)
        matrices = torch.stack([1 - after, after], 2)
        evidence.numeric(
            total(ring, (1, n), dtype=DOUBLE),
            reduce(torch.matmul, matrices).trace(),
            bound=1e-13,
            oracle="the trace of a product of stochastic matrices",
        )
        evidence.numeric(
            total(ring, (1, n), dtype=DOUBLE),
            1 + (beta - alpha).prod(),
            bound=1e-13,
            oracle="the formula of the claim",
        )


def pair(layer, kinds, weights, biases):
    """Two layers of one channel with the given weights and biases, tanh between them."""
    layers = [layer(kind, 1, 1, 3, dtype=DOUBLE) for kind in kinds]
    for module, weight, bias in zip(layers, weights, biases, strict=True):
        module.load_state_dict({"weight": weight[None, None], "bias": bias[None]})
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


def enumerated(kinds, weights, biases):
    images = torch.tensor(list(product((0.0, 1.0), repeat=9)), dtype=DOUBLE)
    values = images
    for kind, weight, bias in zip(kinds, weights, biases, strict=True):
        matrix = torch.zeros(9, 9, dtype=DOUBLE)
        for r, c, a, b in product(range(3), range(3), (-1, 0, 1), (-1, 0, 1)):
            kept = a < 0 or (a == 0 and b < 0) or (a == b == 0 and kind == "B")
            if kept and 0 <= r + a < 3 and 0 <= c + b < 3:
                matrix[3 * r + c, 3 * (r + a) + c + b] = weight[a + 1, b + 1]
        logits = values @ matrix.T + bias
        values = logits.tanh()
    one = logits.sigmoid()
    return (images * one + (1 - images) * (1 - one)).prod(1).sum()


@mutant(test_normalisation, "the test passes BB", of="layer")
def always_b(kind, *arguments, **options):
    return MaskedConv2d("B", *arguments, **options)


@mutant(test_normalisation, "the padding wraps around", of="layer")
class Circular(MaskedConv2d):
    def forward(self, input):
        around = F.pad(input, (1, 1, 1, 1), mode="circular")
        return F.conv2d(around, self.weight.where(self.mask, 0), self.bias)


@mutant(test_normalisation, "zeros are left out of the product", of="total")
def lit_only(network, size=(3, 3), colours=1, dtype=None):
    bits = torch.tensor([0.0, 1.0], dtype=dtype)
    images = torch.cartesian_prod(*[bits] * (size[0] * size[1])).view(-1, 1, *size)
    return network(images).sigmoid().pow(images).flatten(1).prod(1).sum()


def test_rows_columns_and_centre():
    assert mask("A", (1, 5)).tolist() == [[True, True, False, False, False]]
    assert mask("B", (5, 1)).flatten().tolist() == [True, True, True, False, False]
    assert mask("B", (5, 1), past="below").flatten().tolist() == [False, False, True, True, True]
    wide = mask("B", (3, 5), past="below").int().tolist()
    assert wide == [[0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert mask("A", 1).tolist() == [[False]]
    assert mask("B", 1).tolist() == [[True]]
    assert mask("A", 3, colours=3).shape == (3, 3, 3, 3)


def test_red_before_green_before_blue():
    centre = {kind: mask(kind, 3, colours=3)[:, :, 1, 1].int().tolist() for kind in "AB"}
    assert centre["A"] == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert centre["B"] == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_colour_is_a_block_of_channels():
    layer = MaskedConv2d("A", 6, 9, 3, colours=3)
    assert layer.mask[3:6, :2, 1, 1].all(), "green reads red"
    assert not layer.mask[3:6, 2:, 1, 1].any(), "green reads neither itself nor blue"


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "C"}, "kind must be 'A' or 'B', got 'C'"),
        ({"past": "left"}, "past must be 'above' or 'below', got 'left'"),
        ({"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
        ({"kernel_size": 0}, "kernel_size must be odd and positive, got 0"),
        ({"kernel_size": -3}, "kernel_size must be odd and positive, got -3"),
        ({"kernel_size": (3, 2)}, "kernel_size must be odd and positive, got (3, 2)"),
        ({"kernel_size": (-1, -1)}, "kernel_size must be odd and positive, got (-1, -1)"),
        ({"colours": 0}, "colours must be at least 1, got 0"),
    ],
)
def test_bad_masks_and_layers_raise(options, words):
    for made in (mask, lambda **all: MaskedConv2d(in_channels=1, out_channels=1, **all)):
        with pytest.raises(ValueError, match=re.escape(words)):
            made(**{"kind": "A", "kernel_size": 3} | options)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colours": 3, "in_channels": 4}, "in_channels must be divisible by colours, got 4"),
        ({"colours": 3, "out_channels": 4}, "out_channels must be divisible by colours, got 4"),
        ({"colours": 3, "groups": 3}, "groups must be 1 where colours > 1, got 3"),
        ({"padding": 0}, "padding must be 'same' or (1, 1), got 0"),
        ({"padding": "valid"}, "padding must be 'same' or (1, 1), got 'valid'"),
        ({"padding": 1, "dilation": 2}, "padding must be 'same' or (2, 2), got 1"),
        ({"padding": 1, "stride": 2}, "stride must be 1, got (2, 2)"),
        ({"stride": 2}, "strided"),
        ({"padding_mode": "circular"}, "padding_mode must be 'zeros', got 'circular'"),
        ({"padding_mode": "reflect"}, "padding_mode must be 'zeros', got 'reflect'"),
        ({"padding_mode": "replicate"}, "padding_mode must be 'zeros', got 'replicate'"),
    ],
)
def test_options_that_break_the_order_raise(options, words):
    plain = {"kind": "A", "in_channels": 6, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(ValueError, match=re.escape(words)):
        MaskedConv2d(**plain | options)


@pytest.mark.parametrize(
    "options",
    [
        {"dilation": 2},
        {"dilation": 2, "padding": 2},
        {"kernel_size": (3, 5)},
        {"kernel_size": (1, 3)},
        {"padding": 1},
        {"groups": 2},
        {"bias": False},
    ],
)
def test_options_that_keep_the_order(options):
    layer = MaskedConv2d("A", 2, 2, **{"kernel_size": 3} | options, dtype=DOUBLE)
    pixels = dependence(layer, (4, 5), colours=2).view(20, 2, 20, 2).any(3).any(1)
    assert pixels.any()
    assert not pixels.triu().any()


def test_a_layer_is_a_plain_convolution_with_a_masked_kernel():
    images = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    layer = MaskedConv2d("B", 3, 6, 5, past="below", colours=3, dtype=DOUBLE)
    plain = F.conv2d(images, layer.weight * layer.mask, layer.bias, padding=2)
    torch.testing.assert_close(layer(images), plain)


def test_weights_outside_the_mask_do_nothing():
    layer = MaskedConv2d("A", 2, 4, 3, colours=2)
    outside = ~layer.mask.expand_as(layer.weight)
    images = torch.ones(1, 2, 4, 4)
    before = layer(images)
    with torch.no_grad():
        layer.weight[outside] = torch.nan
    after = layer(images)
    after.sum().backward()
    assert torch.equal(before, after)
    assert (layer.weight.grad[outside] == 0).all()
    assert (layer.weight.grad[~outside] != 0).any()


def test_the_state_is_that_of_a_plain_convolution():
    layer = MaskedConv2d("A", 1, 2, 3)
    layer.load_state_dict(nn.Conv2d(1, 2, 3).state_dict())
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_keep_the_dtype(dtype):
    layer = MaskedConv2d("A", 1, 1, 3).to(dtype)
    assert layer(torch.ones(1, 1, 3, 3, dtype=dtype)).dtype == dtype
    assert layer.mask.dtype == torch.bool
    total = total_probability(layer, (2, 2), dtype=dtype)
    assert total.dtype == dtype
    assert abs(total - 1) < 16 * torch.finfo(dtype).eps


def test_the_mask_follows_the_device():
    assert MaskedConv2d("A", 1, 1, 3, device="meta").mask.is_meta
    assert MaskedConv2d("A", 1, 1, 3).to("meta").mask.is_meta


def test_a_network_of_another_shape_raises():
    with pytest.raises(ValueError, match="network must keep the shape"):
        total_probability(lambda images: images.sum(1), (1, 2))


def test_the_figures_draw_what_the_oracle_counts():
    snippet = run_path(str(Path(__file__).parents[2] / "snippets/masks/causal.py"))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    for ax, kinds in zip(figure.axes, ("AA", "AB", "BA", "BB"), strict=True):
        drawn = {(p, q) for marks in ax.collections for q, p in marks.get_offsets().tolist()}
        assert drawn == {(p + 1, q + 1) for p, q in chains(kinds, (4, 4)).nonzero().tolist()}
    figure = Figure(layout="constrained")
    snippet["figure_blocks"](figure)
    for ax, own in zip(figure.axes, (False, True), strict=True):
        corner, centre, removed = (marks.get_offsets().tolist() for marks in ax.collections)
        blocks = {(row // 3, column // 3) for column, row in centre}
        assert blocks == {(g, h) for g, h in product(range(3), repeat=2) if h < g + own}
        assert (len(corner), len(corner + centre + removed)) == (36, 81)
