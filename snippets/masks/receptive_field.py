"""What an output pixel sees through two masked layers, and what no number of layers shows."""

# --8<-- [start:setup]
from functools import partial

import torch
from torch.nn.functional import conv2d

from genref.masks.causal import mask
from genref.masks.receptive_field import receptive_field


def slope(kinds, weights, at=(3, 4), size=(5, 5), past="below"):
    """The derivative of an output pixel by the input: a sum over paths."""
    image = torch.zeros(1, 1, *size, requires_grad=True)
    layer = image
    for kind in kinds:
        kernel = weights(1, 1, 3, 3) * mask(kind, past=past)
        layer = conv2d(layer, kernel, padding=1)
    layer[0, 0, at[0] - 1, at[1] - 1].backward()
    return image.grad[0, 0]


# --8<-- [end:setup]

# --8<-- [start:check]
positive = partial(torch.rand, generator=torch.Generator().manual_seed(3))
for kinds in ("AA", "AB", "BA", "BB"):
    seen = (slope(kinds, positive).nonzero() + 1).tolist()
    assert receptive_field(kinds, at=(3, 4), past="below") == set(map(tuple, seen))
    print(kinds, *(10 * row + column for row, column in seen))
# --8<-- [end:check]


# --8<-- [start:figure]
def board(ax, numbers, missed, output):
    """A number in each pixel seen, hatching in the earlier ones missed, a frame for the output."""
    cell(ax, numbers, color=[("C0", n / 8) for n in numbers.values()], label="seen")
    cell(ax, missed, fill=False, hatch="////", linewidth=0, label="earlier, not seen")
    cell(ax, [output], fill=False, edgecolor="C1", linewidth=2.5, zorder=2, label="output pixel")
    for (row, column), n in numbers.items():
        ax.text(column, row, str(n), ha="center", va="center")
    ax.grid(which="minor")
    ax.tick_params(which="both", length=0)


def cell(ax, pixels, **style):
    row, column = zip(*pixels, strict=True)
    ax.bar(column, 1, width=1, bottom=[r - 0.5 for r in row], **style)


def figure(fig):
    """Four boards of 5 by 5 pixels for AA, AB, BA and BB, output pixel 34 framed. Each pixel that
    it sees shows the number of paths to it; the earlier ones that it misses are hatched. AA misses
    31, 33, 41, 45 and 51. AB and BA are alike and miss 31, 41 and 51. BB misses the same three and
    sees 34 itself.
    """
    fig.set_size_inches(4.2, 4.8)
    panels = fig.subplots(2, 2, sharex=True, sharey=True)
    for ax, kinds in zip(panels.flat, ("AA", "AB", "BA", "BB"), strict=True):
        paths = slope(kinds, torch.ones)
        numbers = {(r + 1, c + 1): int(paths[r, c]) for r, c in paths.nonzero().tolist()}
        past = {(3, 1), (3, 2), (3, 3)} | {(r, c) for r in (4, 5) for c in range(1, 6)}
        board(ax, numbers, sorted(past - numbers.keys()), output=(3, 4))
        ax.set(title=kinds, xticks=range(1, 6), yticks=range(1, 6), aspect="equal")
        ax.set(xlim=(0.5, 5.5), ylim=(5.5, 0.5))
        ax.set_xticks([1.5, 2.5, 3.5, 4.5], minor=True)
        ax.set_yticks([1.5, 2.5, 3.5, 4.5], minor=True)
    fig.supxlabel("column", size="medium")
    fig.supylabel("row", size="medium")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure]


# --8<-- [start:figure_blindspot]
def figure_blindspot(fig):
    """Two maps of 5 rows and 9 columns, one for each order of the rows, the output pixel framed in
    the middle of its row. Each earlier pixel shows the number of layers, 1 to 4, from which on it
    is seen: rows back or columns to the side, whichever are more. A wedge of 6 pixels, further to
    the right than back, is hatched, above the output in one order and below it in the other.
    """
    fig.set_size_inches(4.2, 5.6)
    panels = zip(fig.subplots(2, 1, sharex=True), ("above", "below"), (5, 1), strict=True)
    for ax, past, row in panels:
        layers = {}
        for depth in (4, 3, 2, 1):
            field = receptive_field("A" + "B" * (depth - 1), (row, 5), size=(5, 9), past=past)
            layers |= {(r, c - 5): depth for r, c in field}
        earlier = {(r, b) for r in range(1, 6) if r != row for b in range(-4, 5)}
        board(ax, layers, sorted(earlier - layers.keys()), output=(row, 0))
        ax.set(title=f"the rows {past} are the past", ylabel="rows back", aspect="equal")
        ax.set(xlim=(-4.5, 4.5), ylim=(5.5, 0.5), xticks=range(-4, 5), yticks=range(1, 6))
        ax.set_yticklabels([abs(r - row) for r in range(1, 6)])
        ax.set_xticks([b + 0.5 for b in range(-4, 4)], minor=True)
        ax.set_yticks([r + 0.5 for r in range(1, 5)], minor=True)
    ax.set(xlabel="columns to the right")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure_blindspot]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_blindspot(plt.figure(layout="constrained"))
    plt.show()
