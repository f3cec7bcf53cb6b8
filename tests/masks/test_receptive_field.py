import re
from fractions import Fraction
from itertools import product
from pathlib import Path
from runpy import run_path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.masks.receptive_field import receptive_field

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/masks/receptive_field.py"
MAPS = list(product(range(1, 6), repeat=2))
PAST = {31, 32, 33, 41, 42, 43, 44, 45, 51, 52, 53, 54, 55}
SHEET = {
    "A": torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=DOUBLE),
    "B": torch.tensor([[0, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=DOUBLE),
}


def pixels(size):
    return list(product(range(1, size[0] + 1), range(1, size[1] + 1)))


PLACES = [(size, at) for size in MAPS for at in pixels(size)]


def everywhere(field, kinds):
    return {(size, at): field(kinds, at, size, past="below") for size, at in PLACES}


def names(seen):
    return {10 * row + column for row, column in seen}


def gradient(kinds, at, size, generator):
    """The pixels that move one output of a network with the masks written on the sheet."""
    image = torch.randn(1, 1, *size, dtype=DOUBLE, generator=generator).requires_grad_()
    layer = image
    for kind in kinds:
        weight = torch.rand(1, 1, 3, 3, dtype=DOUBLE, generator=generator) * SHEET[kind]
        layer = F.softplus(F.conv2d(layer, weight, padding=1))
    (slope,) = torch.autograd.grad(layer[0, 0, at[0] - 1, at[1] - 1], image)
    return {(row + 1, column + 1) for row, column in slope[0, 0].nonzero().tolist()}


def paths(kinds, size, past="below", radius=1):
    """For each output pixel, the number of chains to it of steps from near and earlier pixels."""
    down = 1 if past == "above" else -1

    def leads(j, i):
        near = abs(i[0] - j[0]) <= radius and abs(i[1] - j[1]) <= radius
        return near and (down * j[0], j[1]) < (down * i[0], i[1])

    grid = pixels(size)
    back = torch.tensor([[leads(j, i) for j in grid] for i in grid], dtype=DOUBLE)
    number = torch.eye(len(grid), dtype=DOUBLE)
    for kind in kinds:
        number = back @ number + (number if kind == "B" else 0)
    rows = zip(grid, number, strict=True)
    return {i: {grid[j]: int(row[j]) for j in row.nonzero()} for i, row in rows}


def chained(kinds):
    return {(size, at): set(seen) for size in MAPS for at, seen in paths(kinds, size).items()}


@pytest.mark.claim("masks-AA", answers=["A1.1"])
def test_a_then_a(evidence, field=receptive_field):
    sees = field("AA", at=(3, 4), past="below")
    by_slope = gradient("AA", (3, 4), (5, 5), evidence.generator)
    evidence.exact(sees, by_slope, oracle="autograd on random positive weights")
    stated = {32, 42, 43, 44, 52, 53, 54, 55}
    evidence.exact(names(sees), stated, oracle="the pixels that the claim names")
    missed = {31, 33, 41, 45, 51}
    evidence.exact(PAST - names(sees), missed, oracle="the pixels that the claim names")
    evidence.exact(everywhere(field, "AA"), chained("AA"), oracle="products of neighbour matrices")


@pytest.mark.claim("masks-AB", answers=["A1.2"])
def test_a_then_b(evidence, field=receptive_field):
    sees = field("AB", at=(3, 4), past="below")
    by_slope = gradient("AB", (3, 4), (5, 5), evidence.generator)
    evidence.exact(sees, by_slope, oracle="autograd on random positive weights")
    stated = {32, 33, 42, 43, 44, 45, 52, 53, 54, 55}
    evidence.exact(names(sees), stated, oracle="the pixels that the claim names")
    missed = {31, 41, 51}
    evidence.exact(PAST - names(sees), missed, oracle="the pixels that the claim names")
    evidence.exact(everywhere(field, "AB"), chained("AB"), oracle="products of neighbour matrices")


@pytest.mark.claim("masks-BA", answers=["A1.3"])
def test_b_then_a(evidence, field=receptive_field):
    sees = field("BA", at=(3, 4), past="below")
    by_slope = gradient("BA", (3, 4), (5, 5), evidence.generator)
    evidence.exact(sees, by_slope, oracle="autograd on random positive weights")
    stated = {32, 33, 42, 43, 44, 45, 52, 53, 54, 55}
    evidence.exact(names(sees), stated, oracle="the pixels that the claim names")
    missed = {31, 41, 51}
    evidence.exact(PAST - names(sees), missed, oracle="the pixels that the claim names")
    evidence.exact(everywhere(field, "BA"), chained("BA"), oracle="products of neighbour matrices")


@pytest.mark.claim("masks-BB", answers=["A1.4"])
def test_b_then_b(evidence, field=receptive_field):
    sees = field("BB", at=(3, 4), past="below")
    by_slope = gradient("BB", (3, 4), (5, 5), evidence.generator)
    evidence.exact(sees, by_slope, oracle="autograd on random positive weights")
    stated = {32, 33, 34, 42, 43, 44, 45, 52, 53, 54, 55}
    evidence.exact(names(sees), stated, oracle="the pixels that the claim names")
    missed = {31, 41, 51}
    evidence.exact(PAST - names(sees), missed, oracle="the pixels that the claim names")
    evidence.exact(everywhere(field, "BB"), chained("BB"), oracle="products of neighbour matrices")


@mutant(test_a_then_a, "rows above are the past")
@mutant(test_a_then_b, "rows above are the past")
@mutant(test_b_then_a, "rows above are the past")
@mutant(test_b_then_b, "rows above are the past")
def above(kinds, at, size=(5, 5), past="below"):
    return receptive_field(kinds, at, size, past="above")


@mutant(test_a_then_a, "the kernels are flipped")
@mutant(test_a_then_b, "the kernels are flipped")
@mutant(test_b_then_a, "the kernels are flipped")
@mutant(test_b_then_b, "the kernels are flipped")
def flipped(kinds, at, size=(5, 5), past="below"):
    turn = (size[0] + 1, size[1] + 1)
    seen = receptive_field(kinds, (turn[0] - at[0], turn[1] - at[1]), size, past=past)
    return {(turn[0] - row, turn[1] - column) for row, column in seen}


@mutant(test_a_then_a, "the fields of the layers are united, not composed")
@mutant(test_a_then_b, "the fields of the layers are united, not composed")
@mutant(test_b_then_a, "the fields of the layers are united, not composed")
@mutant(test_b_then_b, "the fields of the layers are united, not composed")
def united(kinds, at, size=(5, 5), past="below"):
    return set().union(*[receptive_field(kind, at, size, past=past) for kind in kinds])


@mutant(test_a_then_a, "the hidden map has no edges")
def unclipped(kinds, at, size=(5, 5), past="below"):
    wide = (size[0] + 4, size[1] + 4)
    seen = receptive_field(kinds, (at[0] + 2, at[1] + 2), wide, past=past)
    return {(row - 2, column - 2) for row, column in seen} & set(pixels(size))


@mutant(test_a_then_a, "type A keeps the centre")
@mutant(test_a_then_b, "the type of the last layer decides")
@mutant(test_b_then_a, "the type of the first layer decides")
def two_b(kinds, at, size=(5, 5), past="below"):
    return receptive_field("BB", at, size, past=past)


@mutant(test_a_then_b, "the type of the first layer decides")
@mutant(test_b_then_a, "the type of the last layer decides")
def two_a(kinds, at, size=(5, 5), past="below"):
    return receptive_field("AA", at, size, past=past)


@mutant(test_b_then_b, "no pixel sees itself")
def blind_to_itself(kinds, at, size=(5, 5), past="below"):
    return receptive_field(kinds, at, size, past=past) - {at}


@pytest.mark.claim("x-masks-blindspot")
def test_blind_spot(evidence, field=receptive_field):
    depths = range(1, 16)
    kinds = {L: "A" + "B" * (L - 1) for L in depths}
    fields = {L: field(kinds[L], (1, L + 1), (L + 1, 2 * L + 1), past="below") for L in depths}
    reach = {L: {(r - 1, c - L - 1) for r, c in fields[L]} for L in depths}
    evidence.exact(reach, {L: cone(L) for L in depths}, oracle="the inequalities of the claim")
    evidence.exact(
        fields,
        {L: gradient(kinds[L], (1, L + 1), (L + 1, 2 * L + 1), evidence.generator) for L in depths},
        oracle="autograd on random positive weights",
    )
    evidence.exact(
        {L: len(reach[L]) for L in depths},
        {L: Fraction(3 * L**2 + 5 * L, 2) for L in depths},
        oracle="the number of the claim",
    )
    evidence.exact(
        {L: Fraction(len(past(L) - reach[L]), len(past(L))) for L in depths},
        {L: Fraction(L - 1, 4 * (L + 1)) for L in depths},
        oracle="the share of the claim",
    )
    evidence.exact(
        {(a, b): [L for L in depths if (a, b) in reach[L]] for a, b in past(15)},
        {(a, b): [L for L in depths if b <= a and max(a, abs(b)) <= L] for a, b in past(15)},
        oracle="the depth of the claim",
    )
    places = [(L, size, at) for L in (1, 2, 3, 4) for size, at in PLACES]
    evidence.exact(
        {(L, size, at): field(kinds[L], at, size, past="below") for L, size, at in places},
        {(L, size, at): cut(L, size, at) for L, size, at in places},
        oracle="the inequalities of the claim, cut at the edges",
    )
    board = list(product(range(1, 9), pixels((5, 5))))
    evidence.exact(
        {(L, at): field(kinds[L], at, (5, 5), past="below") for L, at in board},
        {(L, at): gradient(kinds[L], at, (5, 5), evidence.generator) for L, at in board},
        oracle="autograd on random positive weights, for every output pixel",
    )
    evidence.exact(
        {L: (4, 5) in field(kinds[L], (3, 3), (5, 5), past="below") for L in depths},
        dict.fromkeys(depths, False),
        oracle="pixel 45 is two columns to the right of 33 and one row back",
    )
    evidence.exact(
        {n: blind_share(field, n) for n in range(2, 9)},
        {n: Fraction((3 * n - 1) * (n - 2), 12 * n * (n + 1)) for n in range(2, 9)},
        oracle="the share of the claim",
    )


def past(L):
    return {(a, b) for a, b in product(range(L + 1), range(-L, L + 1)) if a > 0 or b < 0}


def cone(L):
    return {(a, b) for a, b in past(L) if b <= a}


def cut(L, size, at):
    return {(at[0] + a, at[1] + b) for a, b in cone(L)} & set(pixels(size))


def blind_share(field, n):
    """Of all pairs of a pixel and an earlier one, those that 2n layers do not join."""
    kinds = "A" + "B" * (2 * n - 1)
    joined = sum(len(field(kinds, at, (n, n), past="below")) for at in pixels((n, n)))
    pairs = n**2 * (n**2 - 1) // 2
    return Fraction(pairs - joined, pairs)


def windowed(seen, kinds, at, size):
    """All of the past in the window of the stack that `seen(a, b)` accepts."""
    L = len(kinds)
    return {(at[0] + a, at[1] + b) for a, b in past(L) if seen(a, b)} & set(pixels(size))


@mutant(test_blind_spot, "there is no blind spot")
def whole_past(kinds, at, size, past):
    return windowed(lambda a, b: True, kinds, at, size)


@mutant(test_blind_spot, "the blind spot begins one column further to the left")
def narrower(kinds, at, size, past):
    return windowed(lambda a, b: b < a, kinds, at, size)


@mutant(test_blind_spot, "every layer uncovers one more column of the blind spot")
def uncovered(kinds, at, size, past):
    return windowed(lambda a, b: b < a + len(kinds), kinds, at, size)


@mutant(test_blind_spot, "the blind spot is on the left")
def on_the_left(kinds, at, size, past):
    return windowed(lambda a, b: -b <= a or a == 0, kinds, at, size)


@mutant(test_blind_spot, "every layer is of type A")
def all_a(kinds, at, size, past):
    return receptive_field("A" * len(kinds), at, size, past=past)


@mutant(test_blind_spot, "the first layer is of type B")
def sees_itself(kinds, at, size, past):
    return receptive_field("B" * len(kinds), at, size, past=past)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("past", ["above", "below"])
def test_every_word_kernel_and_order(kernel_size, past):
    for kinds in map("".join, product("AB", repeat=3)):
        for at, seen in paths(kinds, (4, 5), past, kernel_size // 2).items():
            assert receptive_field(kinds, at, (4, 5), kernel_size, past) == set(seen)


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("past", ["above", "below"])
def test_the_graph_is_the_sparsity_of_the_jacobian(kernel_size, past):
    generator, radius = torch.Generator().manual_seed(1), kernel_size // 2
    place = list(product(range(-radius, radius + 1), repeat=2))
    down = 1 if past == "above" else -1
    for depth in range(1, 9):
        layer = images = torch.zeros(25, 1, 5, 5, dtype=DOUBLE, requires_grad=True)
        for number in range(depth):
            kept = [(down * a, b) < (0, 0) or (a == b == 0 and number > 0) for a, b in place]
            weight = torch.rand(len(place), dtype=DOUBLE, generator=generator) * torch.tensor(kept)
            weight = weight.view(1, 1, kernel_size, kernel_size)
            layer = F.softplus(F.conv2d(layer, weight, padding=radius))
        (slope,) = torch.autograd.grad(layer.flatten(1).diagonal().sum(), images)
        for at, seen in zip(pixels((5, 5)), slope[:, 0], strict=True):
            field = receptive_field("A" + "B" * (depth - 1), at, (5, 5), kernel_size, past)
            assert field == {(row + 1, column + 1) for row, column in seen.nonzero().tolist()}


def test_kernels_may_have_two_sides():
    assert receptive_field("A", (3, 3), kernel_size=(1, 5)) == {(3, 1), (3, 2)}
    assert receptive_field("B", (3, 3), kernel_size=(5, 1)) == {(1, 3), (2, 3), (3, 3)}


def test_the_two_orders_are_mirror_images():
    for kinds, at in product(("AA", "AB", "BB", "BABB"), pixels((4, 5))):
        mirrored = receptive_field(kinds, (5 - at[0], at[1]), (4, 5), past="below")
        assert receptive_field(kinds, at, (4, 5)) == {(5 - row, column) for row, column in mirrored}


def test_kinds_are_read_from_any_iterable():
    expected = receptive_field("ABB", (4, 3))
    assert receptive_field(["A", "B", "B"], (4, 3)) == expected
    assert receptive_field(iter("ABB"), (4, 3)) == expected


def test_the_first_pixel_has_no_past():
    assert receptive_field("ABB", (1, 1)) == set()
    assert receptive_field("BBB", (1, 1)) == {(1, 1)}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ""}, "kinds must be one or more of 'A' and 'B', got []"),
        ({"kinds": "AC"}, "kinds must be one or more of 'A' and 'B', got ['A', 'C']"),
        ({"kinds": "ab"}, "kinds must be one or more of 'A' and 'B', got ['a', 'b']"),
        ({"kinds": ["AB"]}, "kinds must be one or more of 'A' and 'B', got ['AB']"),
        ({"at": (0, 4)}, "at must be a pixel from (1, 1) to (5, 5), got (0, 4)"),
        ({"at": (3, 6)}, "at must be a pixel from (1, 1) to (5, 5), got (3, 6)"),
        ({"at": (-1, 4)}, "at must be a pixel from (1, 1) to (5, 5), got (-1, 4)"),
        ({"at": (2.5, 4)}, "at must be a pixel from (1, 1) to (5, 5), got (2.5, 4)"),
        ({"at": (4, 3), "size": (3, 4)}, "at must be a pixel from (1, 1) to (3, 4), got (4, 3)"),
        ({"size": (0, 5)}, "size must be at least (1, 1), got (0, 5)"),
        ({"size": (5, -1)}, "size must be at least (1, 1), got (5, -1)"),
        ({"kernel_size": 2}, "kernel_size must be odd and positive, got 2"),
        ({"kernel_size": 0}, "kernel_size must be odd and positive, got 0"),
        ({"kernel_size": (3, 4)}, "kernel_size must be odd and positive, got (3, 4)"),
        ({"past": "left"}, "past must be 'above' or 'below', got 'left'"),
    ],
)
def test_bad_arguments_raise(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        receptive_field(**{"kinds": "AB", "at": (3, 4)} | options)


def drawn(ax):
    """The numbers printed on a board, and the pixels seen, missed and framed."""
    numbers = {text.get_position()[::-1]: int(text.get_text()) for text in ax.texts}
    bars = [{(bar.get_y() + 0.5, bar.get_x() + 0.5) for bar in cells} for cells in ax.containers]
    return numbers, *bars


def test_the_boards_show_what_the_oracle_counts():
    figure = Figure(layout="constrained")
    run_path(str(SNIPPET))["figure"](figure)
    for ax, kinds in zip(figure.axes, ("AA", "AB", "BA", "BB"), strict=True):
        numbers, seen, missed, output = drawn(ax)
        assert numbers == paths(kinds, (5, 5))[3, 4]
        assert names(seen) == names(numbers)
        assert names(missed) == PAST - names(numbers)
        assert output == {(3, 4)}


def test_the_cone_shows_the_depth_of_each_pixel():
    figure = Figure(layout="constrained")
    run_path(str(SNIPPET))["figure_blindspot"](figure)
    for ax, row, down in zip(figure.axes, (5, 1), (-1, 1), strict=True):
        numbers, seen, missed, output = drawn(ax)
        assert numbers == {(row + down * a, b): max(a, abs(b)) for a, b in cone(4)}
        assert seen == numbers.keys()
        assert missed == {(row + down * a, b) for a, b in past(4) - cone(4)}
        assert output == {(row, 0)}
