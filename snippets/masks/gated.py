"""How much of the past is seen by one stack of masked convolutions, and by gated stacks."""

# --8<-- [start:setup]
import torch
from torch import nn

from genref.masks.causal import MaskedConv2d, mask
from genref.masks.gated import GatedStack, depth, receptive_field


def single(layers):
    """A stack of masked convolutions, the first of type A, the others of type B."""
    network = nn.Sequential()
    for kind, channels in zip("A" + "B" * (layers - 1), [1] + [4] * (layers - 1), strict=True):
        network.append(MaskedConv2d(kind, channels, 4, kernel_size=3))
        network.append(nn.Tanh())
    return network.append(MaskedConv2d("B", 4, 1, kernel_size=1))


def dependence(network):
    """The pairs of an output pixel and an input pixel that moves it, on a map of 5 by 5 pixels."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.double().parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    image = torch.zeros(1, 1, 5, 5, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(network, image)[0, 0, :, :, 0, 0]
    return {tuple(1 + i for i in pair) for pair in jacobian.nonzero().tolist()}


# --8<-- [end:setup]

# --8<-- [start:check]
pixels = [(row, column) for row in range(1, 6) for column in range(1, 6)]
past = {(*i, *j) for i in pixels for j in pixels if j < i}
print(f"{len(past)} pairs of a pixel and an earlier one; layers needed: {depth((5, 5))}")
for layers in range(1, 6):
    pair = dependence(GatedStack(layers, in_channels=1, channels=4, out_channels=1))
    assert pair == {(*i, *j) for i in pixels for j in receptive_field(layers, at=i)}
    assert pair <= past, "no pixel sees itself or a later one"
    assert (pair == past) == (layers >= depth((5, 5))), "from there on, all of the past"
    print(f"{layers} layers: one stack {len(dependence(single(layers)))}, gated {len(pair)}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Two maps of 5 rows and 9 columns, the output pixel in the middle of the last row. Earlier
    pixels show the number of layers from which on they are seen. In one stack, a wedge of 6 pixels
    on the right is hatched and never seen. In the gated stacks all earlier pixels have a number
    from 1 to 4: columns to the side, or rows back less one, whichever are more, and at least 1.
    """
    fig.set_size_inches(4.2, 5.4)
    one = {(-a, b): max(a, abs(b)) for a in range(5) for b in range(-4, a + 1) if a > 0 or b < 0}
    two = {}
    for layers in (4, 3, 2, 1):
        two |= {(r - 5, c - 5): layers for r, c in receptive_field(layers, (5, 5), size=(5, 9))}
    panels = zip(fig.subplots(2, 1, sharex=True), (one, two), strict=True)
    for ax, numbers in panels:
        for (row, column), n in numbers.items():
            ax.text(column, row, str(n), ha="center", va="center")
        cell(ax, numbers, color=[("C0", n / 8) for n in numbers.values()], label="seen")
        missed = sorted(two.keys() - numbers.keys()) or [(-9, 0)]
        cell(ax, missed, fill=False, hatch="////", linewidth=0, label="earlier, never seen")
        frame = {"edgecolor": "C1", "linewidth": 2.5, "zorder": 2}
        cell(ax, [(0, 0)], fill=False, label="output pixel", **frame)
        ax.set(title="one stack" if numbers is one else "gated stacks", ylabel="rows back")
        ax.set(aspect="equal", xlim=(-4.5, 4.5), ylim=(0.5, -4.5))
        ax.set(xticks=range(-4, 5), yticks=range(-4, 1), yticklabels=[4, 3, 2, 1, 0])
        ax.tick_params(length=0)
    ax.set(xlabel="columns to the right")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def cell(ax, places, **style):
    row, column = zip(*places, strict=True)
    ax.bar(column, 1, width=1, bottom=[r - 0.5 for r in row], **style)


# --8<-- [end:figure]


# --8<-- [start:figure_move]
def figure_move(fig):
    """The taps of one layer around a framed pixel, kernels of size 5. On the left the vertical
    kernel covers two rows above and the whole row of the pixel, the pixel and two later ones
    crossed. On the right it is one row higher and covers rows one to three back. The horizontal
    kernel has the two pixels on the left.
    """
    fig.set_size_inches(4.6, 2.8)
    rows, columns = (mask("B", 5) | mask("B", 5).flip(1)).nonzero().T - 2
    for ax, move in zip(fig.subplots(1, 2, sharey=True), (0, 1), strict=True):
        leak = (rows - move == 0) & (columns >= 0)
        taps = {"s": 70, "marker": "s", "color": "C0", "alpha": 0.5}
        ax.scatter(columns[~leak], (rows - move)[~leak], label="vertical", **taps)
        ax.scatter([-2, -1], [0, 0], s=40, marker="D", color="C1", label="horizontal, type A")
        taps = {"s": 50, "marker": "x", "color": "C2"}
        ax.scatter(columns[leak], (rows - move)[leak], label="not allowed", **taps)
        ax.bar(0, 1, width=1, bottom=-0.5, fill=False, edgecolor="C1", linewidth=2)
        ax.set(title="moved by one row" if move else "not moved", xlabel="columns to the right")
        ax.set(xlim=(-2.7, 2.7), ylim=(0.8, -3.7), aspect="equal", xticks=range(-2, 3))
        ax.set(yticks=[-3, -2, -1, 0], yticklabels=[3, 2, 1, 0])
    fig.axes[0].set_ylabel("rows back")
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure_move]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_move(plt.figure(layout="constrained"))
    plt.show()
