"""Convolutions on a torus and by exponentials: determinants without factors."""

# --8<-- [start:setup]
import math

import torch

from genref.flows.convolution import Circular, Exponential
from genref.numerics.autodiff import slogdet

generator = torch.Generator().manual_seed(2)
images = torch.randn(2, 4, 5, generator=generator, dtype=torch.double)
kernel = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.double)
exponent = torch.randn(2, 2, generator=generator, dtype=torch.double)
# --8<-- [end:setup]

# --8<-- [start:check]
for layer in (Circular(kernel), Exponential(exponent)):
    x, log_det = layer.to_data(images)
    z, _ = layer.to_latent(x)
    _, by_autograd = slogdet(lambda z, layer=layer: layer.to_data(z)[0], images, 3)
    assert torch.allclose(z, images)
    print(f"{type(layer).__name__:11} {log_det:9.4f}, by autograd {by_autograd:9.4f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """A curve against the frequency from 0 to 1: the size of 1 + 2 cos of two pi f, 3 at both ends,
    1 in the middle and 0 at one third and two thirds. Eight equally spaced dots on it all lie above
    zero; of nine equally spaced diamonds two lie exactly at zero.
    """
    size = lambda f: (1 + 2 * (2 * math.pi * f).cos()).abs()
    f = torch.linspace(0, 1, 181)
    ax.plot(f, size(f), color="C0", linewidth=1)
    for n, marker, colour in ((8, "o", "C0"), (9, "D", "C1")):
        points = torch.arange(n) / n
        ax.plot(points, size(points), marker, color=colour, label=f"width {n}")
    ax.axhline(0, linewidth=0.5, color="C2")
    ax.set(xlabel="frequency over width", ylabel="size of the transfer", ylim=(-0.1, 3.9))
    ax.legend(loc="upper center", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_reach]
def figure_reach(ax):
    """The plane of trace and determinant of 2 by 2 matrices, with dots for sixty exponentials. All
    dots lie above the axis and to the right of the left branch of the parabola det = tr squared
    over 4. The half plane below the axis and the region left of the parabola, shaded, are empty.
    """
    trace = torch.linspace(-4, 4, 81)
    edge = trace.square() / 4
    ax.fill_between(trace, -2, 0, color=("C0", 0.15), linewidth=0, label="not reached")
    left = trace <= 0
    ax.fill_between(trace[left], 0, edge[left], color=("C0", 0.15), linewidth=0)
    ax.plot(trace, edge, color="C0", label="equal eigenvalues")
    M = 2 * torch.randn(300, 2, 2, generator=torch.Generator().manual_seed(1))
    M -= 0.4 * M.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * torch.eye(2)
    pixel = torch.eye(2)[:, :, None, None]
    A = torch.stack([Exponential(m).to_data(pixel)[0][:, :, 0, 0].T.detach() for m in M])
    traces, dets = A.diagonal(dim1=-2, dim2=-1).sum(-1), A.det()
    inside = (traces.abs() < 4) & (dets < 4)
    points = traces[inside][:60], dets[inside][:60]
    ax.plot(*points, "o", markersize=3, color="C1", label="exponentials")
    ax.set(xlabel="trace", ylabel="determinant", xlim=(-4, 4), ylim=(-2, 4))
    ax.legend(loc="lower right")


# --8<-- [end:figure_reach]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").subplots())
    figure_reach(plt.figure(layout="constrained").subplots())
    plt.show()
