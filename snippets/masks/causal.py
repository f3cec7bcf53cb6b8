"""Which stacks of masked convolutions are causal: who sees whom, and do the products sum to one?"""

# --8<-- [start:setup]
import torch
from torch import nn

from genref.masks.causal import MaskedConv2d, mask, total_probability


def stack(kinds, G=1):
    """Masked layers of the given kinds in G colours, tanh between, random weights."""
    network = nn.Sequential()
    for kind in kinds:
        network.append(MaskedConv2d(kind, G, G, kernel_size=3, colours=G))
        network.append(nn.Tanh())
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network[:-1]


def dependence(network, height, width):
    """Whether output pixel (row) depends on input pixel (column), in raster order."""
    image = torch.zeros(1, 1, height, width)
    jacobian = torch.autograd.functional.jacobian(network, image)
    return jacobian.view(height * width, height * width) != 0


# --8<-- [end:setup]

# --8<-- [start:check]
for kinds in ("AA", "AB", "BA", "BB"):
    sees = dependence(stack(kinds), 4, 4)
    itself = sees.diagonal().any().item()
    total = total_probability(stack(kinds), size=(3, 3))
    assert not sees.triu(1).any(), "no pixel sees a later one"
    assert itself == (kinds == "BB"), "BB alone sees itself"
    assert (abs(total - 1) < 1e-4) == (not itself), "one unless it sees itself"
    print(f"{kinds}  sees itself: {itself!s:5}  sum over all images: {total:.3f}")

total = total_probability(stack("AB", G=3), size=(2, 2), colours=3)
assert abs(total - 1) < 1e-4
print(f"AB in three colours     sum over all images: {total:.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Four tables of 16 by 16, one for each of AA, AB, BA and BB: which output pixel of a 4 by 4
    image sees which input pixel. The marks of AA, AB and BA lie strictly below the diagonal, those
    of AB and BA at the same places; BB has the marks of AB and the whole diagonal besides.
    """
    fig.set_size_inches(4.2, 4.6)
    panels = fig.subplots(2, 2, sharex=True, sharey=True)
    for ax, kinds in zip(panels.flat, ("AA", "AB", "BA", "BB"), strict=True):
        sees = dependence(stack(kinds), 4, 4)
        output, seen = sees.tril(-1).nonzero().T + 1
        itself = sees.diagonal().nonzero() + 1
        ax.axline((1, 1), slope=1, color="C1", linewidth=0.8, linestyle=":")
        ax.scatter(seen, output, s=14, marker="s", color="C0", label="sees an earlier pixel")
        ax.scatter(itself, itself, s=14, marker="D", color="C1", label="sees itself")
        ax.set(title=kinds, xticks=[1, 4, 8, 12, 16], yticks=[1, 4, 8, 12, 16])
        ax.set(xlim=(0, 17), ylim=(17, 0), aspect="equal")
    fig.supxlabel("input pixel", size="medium")
    fig.supylabel("output pixel", size="medium")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


def figure_blocks(fig):
    """Masks A and B of three colours, each as three rows of three 3 by 3 kernels, one for each pair
    of a colour predicted and a colour read. Every tap above the centre or left of it is kept. The
    centre tap is kept from red to green, red to blue and green to blue, and in B from each colour
    to itself too.
    """
    fig.set_size_inches(4.2, 2.5)
    for ax, kind in zip(fig.subplots(1, 2, sharey=True), "AB", strict=True):
        kept = mask(kind, 3, colours=3).permute(0, 2, 1, 3).reshape(9, 9)
        row, column = kept.nonzero().T
        centre = (row % 3 == 1) & (column % 3 == 1)
        ax.scatter(column[~centre], row[~centre], s=36, marker="s", color="C0")
        ax.scatter(column[centre], row[centre], s=36, marker="D", color="C1")
        row, column = (~kept).nonzero().T
        ax.scatter(column, row, s=3, marker="o", color="C0", alpha=0.5)
        ax.set(title=f"type {kind}", xlabel="colour read", aspect="equal")
        ax.set(xticks=[1, 4, 7], xticklabels="RGB", xlim=(-0.6, 8.6))
        ax.set(yticks=[1, 4, 7], yticklabels="RGB", ylim=(8.6, -0.6))
        ax.set_xticks([2.5, 5.5], minor=True)
        ax.set_yticks([2.5, 5.5], minor=True)
        ax.grid(which="minor")
        ax.tick_params(which="both", length=0)
    fig.axes[0].set_ylabel("colour predicted")


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_blocks(plt.figure(layout="constrained"))
    plt.show()
