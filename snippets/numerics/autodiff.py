"""Log-determinants and dependences of any map, read off its Jacobian."""

# --8<-- [start:setup]
import torch
from torch.nn.functional import conv2d

from genref.numerics.autodiff import slogdet, sparsity

generator = torch.Generator().manual_seed(2)
u, w = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-1.0, 1.0, 0.5])


def planar(x):
    return x + u * torch.tanh(x @ w)[..., None]


# --8<-- [end:setup]

# --8<-- [start:check]
x = torch.randn(4, 3, generator=generator)
sign, log_det = slogdet(planar, x)
determinant = 1 + (u @ w) / torch.cosh(x @ w) ** 2
assert torch.equal(sign, determinant.sign())
assert torch.allclose(log_det, determinant.abs().log(), atol=1e-5)
print("signs at four points:", *(f"{value:+.0f}" for value in sign))

shrink = slogdet(lambda x: x / 2, torch.ones(2000))
print(f"2000 factors 1/2: log-determinant {shrink[1]:.2f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Logarithm of the product of D factors 1/2 against D from 1 to 2000. The sum of logarithms is
    a straight line down to -1386. The logarithm of the product itself follows it until the product
    leaves the range of the numbers: at D = 150 in float32, at D = 1075 in float64.
    """
    D = torch.arange(1, 2001)
    ax.plot(D, -D * torch.tensor(2.0).log(), color="C0", linewidth=1, label="sum of logarithms")
    for dtype, color, marker, step in (
        (torch.float64, "C1", "s", 120),
        (torch.float32, "C2", "o", 20),
    ):
        log = torch.full((2000,), 0.5, dtype=dtype).cumprod(0).log()
        last = int(log.isfinite().sum())
        name = str(dtype).removeprefix("torch.")
        ax.plot(D[:last:step], log[:last:step], marker, color=color, markersize=3, label=name)
        ax.plot(last, log[last - 1], "x", color=color, markersize=9, markeredgewidth=2)
        ax.text(last + 70, log[last - 1] + 15, f"zero from {last + 1} on")
    ax.set(xlabel="number of factors 1/2", ylabel="log-determinant")
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_patterns]
def figure_patterns(fig):
    """Four tables of output against input coordinate, marked where one depends on the other: a
    triangular map fills the lower triangle; a coupling layer has a full diagonal and a block of
    three rows and three columns; a planar map fills the table; a 1 by 1 convolution of two colours
    on three pixels has three parallel diagonals of slope one.
    """
    kernel = torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(1))
    w = torch.tensor([0.5, 1.0, -0.7, 0.4, 0.9, -0.3])
    x = torch.randn(6, generator=torch.Generator().manual_seed(1))
    maps = {
        "triangular": lambda x: x + torch.sin(x).cumsum(0),
        "coupling": lambda x: torch.cat([x[:3], x[3:] * x[:3].sum().exp()]),
        "planar": lambda x: x + w * torch.tanh(x @ w),
        r"$1 \times 1$ convolution": lambda x: conv2d(x.view(2, 1, 3), kernel).flatten(),
    }
    fig.set_size_inches(4.2, 4.5)
    panels = fig.subplots(2, 2, sharex=True, sharey=True)
    for ax, (name, f) in zip(panels.flat, maps.items(), strict=True):
        output, seen = sparsity(f, x).nonzero().T + 1
        ax.scatter(seen, output, s=60, marker="s", color="C0")
        ax.set(title=name, xlim=(0.4, 6.6), ylim=(6.6, 0.4), aspect="equal")
        ax.set(xticks=range(1, 7), yticks=range(1, 7))
    fig.supxlabel("input", size="medium")
    fig.supylabel("output", size="medium")


# --8<-- [end:figure_patterns]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_patterns(plt.figure(layout="constrained"))
    plt.show()
