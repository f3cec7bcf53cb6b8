import re
from itertools import product
from pathlib import Path
from runpy import run_path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from genref._site.claims import mutant
from genref.masks.causal import MaskedConv2d, total_probability
from genref.masks.gated import GatedLayer, GatedStack, depth, gate, receptive_field

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/masks/gated.py"
MAPS = [(3, 6), (6, 2), (1, 5), (1, 1)]
BOARD = (5, 5)


def stack(layers, generator, kernel_size=3, past="above", colours=1):
    """A gated stack with random weights and two channels for each colour."""
    sizes = (colours, 2 * colours, colours)
    network = GatedStack(layers, *sizes, kernel_size, past, colours).to(DOUBLE)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return network


def dependence(network, size, colours=1):
    """Which output value (row) moves with which input value (column), pixel by pixel."""
    count = colours * size[0] * size[1]
    images = torch.zeros(count, colours, *size, dtype=DOUBLE, requires_grad=True)
    outputs = network(images).permute(0, 2, 3, 1).reshape(count, count)
    (gradient,) = torch.autograd.grad(outputs.diagonal().sum(), images)
    return gradient.permute(0, 2, 3, 1).reshape(count, count) != 0


def pixels(size):
    return list(product(range(1, size[0] + 1), range(1, size[1] + 1)))


def fields(field, layers, size, kernel_size, past):
    """The receptive fields of all output pixels, as a table like that of `dependence`."""
    seen = [field(layers, at, size, kernel_size, past) for at in pixels(size)]
    return torch.tensor([[pixel in one for pixel in pixels(size)] for one in seen])


def offsets(size, past):
    """For each output and each input pixel, rows into the past and columns to the right."""
    place = torch.tensor(pixels(size))
    back, right = (place[:, None] - place).unbind(2)
    return (back if past == "above" else -back), -right


def window(layers, size, radius, past):
    """The inequalities of the claim."""
    back, right = offsets(size, past)
    own = (back == 0) & (right < 0) & (right >= -radius * layers)
    rows = (back > 0) & (back <= radius * layers + 1) & (right.abs() <= radius * layers)
    return own | rows


def graph(layers, size, radius, past):
    """Products of tables of neighbours, one row of the product for each map of features."""
    back, right = offsets(size, past)
    near = right.abs() <= radius
    rows = (near & (back >= 0) & (back <= radius)).double()
    moved = ((back == 1) & (right == 0)).double()
    before = (near & (back == 0) & (right < 0)).double()
    v = h = same = torch.eye(len(back), dtype=DOUBLE)
    for layer in range(layers):
        v = rows @ v
        h = (before if layer == 0 else before + same) @ h + moved @ v
    return h > 0


def colourful(seen, colours):
    """All colours of the pixels seen, and the earlier colours of the pixel itself."""
    pixel = torch.eye(len(seen)).kron(torch.ones(colours, colours).tril(-1))
    return (pixel + seen.float().kron(torch.ones(colours, colours))) > 0


def fewest(size, radius):
    """The least number of layers with which the graph joins each pixel to its whole past."""
    back, right = offsets(size, "above")
    whole = (back > 0) | ((back == 0) & (right < 0))
    return next(L for L in range(1, 99) if torch.equal(graph(L, size, radius, "above"), whole))


@pytest.mark.claim("x-masks-gated")
def test_whole_past(evidence, build=stack, field=receptive_field, needed=depth):
    for colours, past in product((2, 3), ("above", "below")):
        network = build(2, evidence.generator, past=past, colours=colours)
        evidence.exact(
            dependence(network, (2, 4), colours),
            colourful(window(2, (2, 4), 1, past), colours),
            oracle="the inequalities of the claim, colour by colour",
        )
        total = total_probability(network, (2, 2), colours, dtype=DOUBLE)
        evidence.numeric(total, 1.0, bound=1e-13, oracle="a distribution sums to one")
    for size in (BOARD, *MAPS):
        evidence.exact(
            [needed(size, kernel_size) for kernel_size in (3, 5, 7)],
            [fewest(size, radius) for radius in (1, 2, 3)],
            oracle="the first depth at which the tables reach the whole past",
        )
    for past, layers in product(("above", "below"), range(1, 9)):
        evidence.exact(
            dependence(build(layers, evidence.generator, past=past), BOARD).sum(),
            torch.tensor({1: 111, 2: 206, 3: 275}.get(layers, 300)),
            oracle="300 pairs of a pixel and an earlier one, all of them from 4 layers on",
        )
    boards = list(product([BOARD], (1, 2, 3), range(1, 9)))
    for size, radius, layers in (*boards, *product(MAPS, (1, 2), (1, 2, 3))):
        for past in ("above", "below"):
            sees = dependence(build(layers, evidence.generator, 2 * radius + 1, past), size)
            joined = graph(layers, size, radius, past)
            evidence.exact(sees, joined, oracle="products of tables of neighbours, for two maps")
            claimed = window(layers, size, radius, past)
            evidence.exact(sees, claimed, oracle="the inequalities of the claim")
            counted = fields(field, layers, size, 2 * radius + 1, past)
            evidence.exact(counted, joined, oracle="products of tables of neighbours")


def altered(change):
    """Builds stacks whose layers are then changed."""

    def build(layers, generator, kernel_size=3, past="above", colours=1):
        network = stack(layers, generator, kernel_size, past, colours)
        for number, layer in enumerate(network.layers):
            change(layer, number)
        return network

    return build


def unmoved(layer, number):
    layer.moved = lambda rows: rows


def rolled(layer, number):
    layer.moved = lambda rows: rows.roll(1 if layer.past == "above" else -1, -2)


def downwards(layer, number):
    layer.moved = lambda rows: F.pad(rows, (0, 0, 1, -1))


def unlinked(layer, number):
    nn.init.zeros_(layer.link.weight)


def skipping(layer, number):
    if number == 0:
        layer.register_forward_hook(lambda _, maps, new: (new[0], new[1] + twice(maps[1])))


def twice(image):
    return image.repeat_interleave(2, 1)


def cut_across(layer, number):
    layer.colours = 1


def masked_mixing(layer, number):
    if number == 0:
        layer.mix.mask[:] = False


def own_pixel(layer, number):
    layer.horizontal.mask[..., layer.horizontal.mask.shape[-1] // 2] = True


def whole_kernel(layer, number):
    layer.vertical.mask[:] = True


def causal_kernel(layer, number):
    layer.vertical.mask = MaskedConv2d("B", 1, 1, layer.vertical.kernel_size, layer.past).mask


def earlier_rows(layer, number):
    layer.vertical.mask[layer.vertical.kernel_size[0] // 2] = False


for change, name in (
    (unmoved, "the vertical map is not moved by a row"),
    (rolled, "the row that leaves the map comes in at the other side"),
    (downwards, "the vertical map is always moved downwards"),
    (unlinked, "the vertical map does not join the horizontal one"),
    (skipping, "the first layer has a residual connection too"),
    (cut_across, "the gate takes its halves across the colours"),
    (masked_mixing, "the mixing of the first layer is of type A"),
    (own_pixel, "the first horizontal kernel is of type B"),
    (whole_kernel, "the vertical kernel has no mask"),
    (causal_kernel, "the vertical kernel has a causal mask"),
    (earlier_rows, "the vertical kernel leaves out the pixel's own row"),
):
    mutant(test_whole_past, name, of="build")(altered(change))


@mutant(test_whole_past, "as many rows as columns are seen", of="field")
def without_the_move(layers, at, size, kernel_size, past):
    seen = receptive_field(layers, at, size, kernel_size, past)
    return {pixel for pixel in seen if abs(pixel[0] - at[0]) <= kernel_size // 2 * layers}


@mutant(test_whole_past, "what the horizontal map has seen, it loses", of="field")
def last_only(layers, at, size, kernel_size, past):
    seen = receptive_field(layers, at, size, kernel_size, past)
    return {pixel for pixel in seen if pixel[0] != at[0] or layers == 1}


@mutant(test_whole_past, "the row that the move gains is forgotten", of="needed")
def one_row_more(size, kernel_size):
    return max(depth(size, kernel_size), depth((size[0] + 1, size[1]), kernel_size))


@mutant(test_whole_past, "a layer moves by the whole kernel", of="needed")
def by_the_kernel(size, kernel_size):
    return depth(size, 2 * kernel_size - 1)


def test_the_gate_halves_each_colour():
    x = torch.randn(2, 8, 3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gate(x), x[:, :4].tanh() * x[:, 4:].sigmoid())
    red = x[:, :2].tanh() * x[:, 2:4].sigmoid()
    green = x[:, 4:6].tanh() * x[:, 6:].sigmoid()
    torch.testing.assert_close(gate(x, colours=2), torch.cat([red, green], 1))
    torch.testing.assert_close(gate(x[1], colours=2), gate(x, colours=2)[1])


def test_a_layer_is_made_of_plain_convolutions():
    generator = torch.Generator().manual_seed(1)
    layer = GatedLayer("B", 4, 4, 5).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    v, h = torch.randn(2, 3, 4, 6, 7, dtype=DOUBLE, generator=generator)
    weight = layer.vertical.weight[:, :, :3]
    rows = F.conv2d(F.pad(v, (2, 2, 2, 0)), weight, layer.vertical.bias)
    before = torch.cat([torch.zeros_like(rows[:, :, :1]), rows[:, :, :-1]], 2)
    weight = layer.horizontal.weight[..., :3]
    new = F.conv2d(F.pad(h, (2, 0)), weight, layer.horizontal.bias) + layer.link(before)
    found = layer(v, h)
    torch.testing.assert_close(found[0], gate(rows))
    torch.testing.assert_close(found[1], h + layer.mix(gate(new)))


def test_the_first_layer_forgets_the_image():
    layer = GatedLayer("A", 2, 2)
    image = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        layer.mix.weight.zero_()
        layer.mix.bias.zero_()
    assert (layer(image, image)[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_dtype_and_shape(dtype):
    network = GatedStack(2, 3, 6, 12, 5, colours=3).to(dtype)
    image = torch.zeros(2, 3, 4, 7, dtype=dtype)
    assert (network(image).dtype, network(image).shape) == (dtype, (2, 12, 4, 7))
    torch.testing.assert_close(network(image)[0], network(image[0]))
    assert network.to("meta")(image.to("meta")).is_meta


def test_gradients_reach_all_weights_that_are_read():
    network = GatedStack(3, 1, 4, 1)
    image = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    network(image).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad != 0).any(), name


def test_weights_are_those_of_plain_convolutions():
    plain = nn.Conv2d(2, 8, 3)
    layer = GatedLayer("B", 2, 2)
    assert {key.split(".")[1] for key in layer.state_dict()} == set(plain.state_dict())


def test_the_field_of_a_single_layer():
    assert receptive_field(1, (3, 2), (3, 4)) == {(3, 1), *product((1, 2), (1, 2, 3))}
    below = receptive_field(1, (1, 2), (4, 3), kernel_size=5, past="below")
    assert below == {(1, 1), *product((2, 3, 4), (1, 2, 3))}
    assert receptive_field(9, (1, 1)) == set()
    assert receptive_field(1, (3, 3), kernel_size=1) == {(2, 3)}


def test_the_two_orders_are_mirror_images():
    for layers, at in product((1, 2, 3), pixels((4, 5))):
        mirrored = receptive_field(layers, (5 - at[0], at[1]), (4, 5), past="below")
        expected = {(5 - row, column) for row, column in mirrored}
        assert receptive_field(layers, at, (4, 5)) == expected


def test_depths():
    assert depth((5, 5)) == 4
    assert [depth((28, 28), k) for k in (3, 5, 7, 9)] == [27, 14, 9, 7]
    assert [depth(size) for size in ((1, 1), (1, 2), (2, 1), (3, 1), (4, 1))] == [1, 1, 1, 1, 2]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GatedStack(0, 1, 2, 1), "layers must be at least 1, got 0"),
        (lambda: GatedStack(2, 1, 2, 1, 4), "kernel_size must be odd and positive, got 4"),
        (lambda: GatedStack(2, 1, 2, 1, past="left"), "past must be 'above' or 'below'"),
        (lambda: GatedStack(2, 3, 6, 4, colours=3), "out_channels must be divisible by colours"),
        (lambda: GatedStack(2, 3, 5, 3, colours=3), "channels must be divisible by colours, got 5"),
        (lambda: GatedStack(2, 2, 3, 2, colours=2), "channels must be divisible by colours, got 3"),
        (lambda: GatedStack(2, 3, 4, 2, colours=2), "in_channels must be divisible by colours"),
        (lambda: GatedStack(2, 1, 2, 1, colours=0), "colours must be at least 1, got 0"),
        (lambda: GatedLayer("C", 2, 2), "kind must be 'A' or 'B', got 'C'"),
        (lambda: GatedLayer("B", 1, 2), "in_channels must be 2 in type B, got 1"),
        (lambda: gate(torch.ones(1, 3, 2, 2)), "colours must cut 3 channels into even"),
        (lambda: gate(torch.ones(1, 6, 2, 2), 2), "colours must cut 6 channels into even blocks"),
        (lambda: gate(torch.ones(1, 6, 2, 2), 0), "into even blocks, got 0"),
        (lambda: gate(torch.ones(1, 6, 2, 2), -3), "into even blocks, got -3"),
        (lambda: receptive_field(0, (1, 1)), "layers must be at least 1, got 0"),
        (lambda: receptive_field(1, (0, 1)), "at must be a pixel from (1, 1) to (5, 5), got"),
        (lambda: receptive_field(1, (1, 1), (0, 5)), "size must be at least (1, 1), got (0, 5)"),
        (lambda: receptive_field(1, (1, 1), kernel_size=2), "kernel_size must be odd and positive"),
        (lambda: receptive_field(1, (1, 1), past="left"), "past must be 'above' or 'below'"),
        (lambda: depth((0, 3)), "size must be at least (1, 1), got (0, 3)"),
        (lambda: depth((3, 3), 1), "kernel_size must be odd and at least 3, got 1"),
        (lambda: depth((3, 3), 4), "kernel_size must be odd and at least 3, got 4"),
    ],
)
def test_bad_arguments_raise(make, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_the_boards_show_what_the_oracle_counts():
    figure = Figure(layout="constrained")
    run_path(str(SNIPPET))["figure"](figure)
    past = {(-a, b) for a in range(5) for b in range(-4, 5) if a > 0 or b < 0}
    for ax, depth_of in zip(
        figure.axes,
        (lambda a, b: max(a, abs(b)), lambda a, b: max(a - 1, abs(b), 1)),
        strict=True,
    ):
        numbers = {text.get_position()[::-1]: int(text.get_text()) for text in ax.texts}
        assert numbers == {(r, b): depth_of(-r, b) for r, b in numbers}
        missed = {(bar.get_y() + 0.5, bar.get_x() + 0.5) for bar in ax.containers[1]}
        assert missed & past == past - numbers.keys()
    assert numbers.keys() == past


def test_the_taps_that_are_crossed_are_not_earlier():
    figure = Figure(layout="constrained")
    run_path(str(SNIPPET))["figure_move"](figure)
    for ax, crossed in zip(figure.axes, ({(0, 0), (0, 1), (0, 2)}, set()), strict=True):
        taps = [{(r, c) for c, r in marks.get_offsets().tolist()} for marks in ax.collections]
        assert taps[2] == crossed
        assert all(tap < (0, 0) for tap in taps[0] | taps[1])
    assert taps[0] == set(product((-3, -2, -1), range(-2, 3)))
    assert taps[1] == {(0, -2), (0, -1)}
