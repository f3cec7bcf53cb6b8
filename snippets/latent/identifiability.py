"""Turned, swirled and sheared latents: what the prior and the data can tell apart."""

# --8<-- [start:setup]
import math

import torch

from genref.latent.identifiability import alignment, rotation, swirl
from genref.latent.linear_gaussian import LinearGaussian

generator = torch.Generator().manual_seed(4)
x, z = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
W = torch.tensor([[1.0, 0.4], [-0.5, 1.2], [0.3, 0.8]])
R = rotation(2.5)
shear = torch.tensor([[1.0, 0.8], [0.0, 1.0]])
# --8<-- [end:setup]

# --8<-- [start:check]
x_hat = z @ W.T
models = {"first": W, "turned": W @ R.T, "sheared": W @ shear.inverse()}
codes = {"first": z, "turned": z @ R.T, "sheared": z @ shear.T}
for name, weights in models.items():
    assert torch.allclose(codes[name] @ weights.T, x_hat, atol=1e-5)
    evidence = LinearGaussian(weights, 0.5).log_evidence(x).sum()
    mean = LinearGaussian(weights, 0.5).posterior(x).loc[0]
    print(f"{name:8} log p(x) {evidence:.2f}  mean of z {mean[0]:5.2f} {mean[1]:5.2f}")

assert torch.allclose(alignment(W, W @ R.T), R.T, atol=1e-5)

maps = {"swirl": swirl, "shear": lambda z: z @ shear.T}
for name, h in maps.items():
    jacobian = torch.func.vmap(torch.func.jacrev(h))(z)
    volume, norm = torch.linalg.det(jacobian), h(z).norm(dim=1) / z.norm(dim=1)
    print(f"{name}: volume {volume.min():.3f} to {volume.max():.3f}", end=", ")
    print(f"norm {norm.min():.3f} to {norm.max():.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Four planes with a grid of lines and three contours of the normal density. The grid is
    straight at first, then turned, then swirled into spirals; the contours stay the same circles.
    In the last panel it is sheared, and the circles have become ellipses.
    """
    fig.set_size_inches(4.4, 4.7)
    ticks = torch.linspace(-2, 2, 9)
    around = torch.linspace(0, 2 * math.pi, 41)
    maps = {
        "first": lambda z: z,
        "turned": lambda z: z @ rotation(0.5).T,
        "swirled": lambda z: swirl(z, 0.4),
        "sheared": lambda z: z @ shear.T,
    }
    for ax, (name, h) in zip(fig.subplots(2, 2).flat, maps.items(), strict=True):
        line = torch.linspace(-2, 2, 49 if name == "swirled" else 2)
        for t in ticks:
            ax.plot(*h(torch.stack([line, t.expand_as(line)], 1)).T, color="C0", linewidth=0.8)
            ax.plot(*h(torch.stack([t.expand_as(line), line], 1)).T, color="C2", linewidth=0.8)
        for radius in (0.7, 1.4, 2.1):
            ring = radius * torch.stack([around.cos(), around.sin()], 1)
            ax.plot(*h(ring).T, color="C1", linewidth=2, linestyle="--", gid="contour")
        ax.set(title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=(), yticks=())


# --8<-- [end:figure]


# --8<-- [start:figure_turned]
def figure_turned(ax):
    """Loss in expected log density against the angle by which two latents were turned. For normal
    latents it is zero at every angle. For Laplace latents it is zero at multiples of 90 degrees
    and largest, 0.12 nats, half way between. Dots from 4000 samples lie near the curves.
    """
    angle, dots = torch.linspace(0, 180, 121), torch.linspace(0, 180, 13)
    uniform = torch.rand(4000, 2, generator=generator).clamp(1e-6, 1 - 1e-6) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs()) / math.sqrt(2)
    normal = torch.randn(4000, 2, generator=generator)
    c, s = angle.deg2rad().cos().abs(), angle.deg2rad().sin()
    kinds = {
        "Laplace": (
            laplace,
            lambda z: math.sqrt(2) * z.abs().sum(-1),
            2 * (1 + c * s) / (c + s) - 2,
        ),
        "normal": (normal, lambda z: z.square().sum(-1) / 2, 0 * c),
    }
    for row, (name, (drawn, minus_log_p, curve)) in enumerate(kinds.items()):
        turned = drawn @ rotation(dots.deg2rad()).mT
        lost = (minus_log_p(turned) - minus_log_p(drawn)).mean(1)
        ax.plot(angle, curve, ("-", "--")[row], color=f"C{row}", label=f"{name} prior")
        ax.plot(dots, lost, "os"[row], color=f"C{row}", markersize=4)
    ax.set(xlabel="angle of $R$ in degrees", ylabel="lost by $Rz$, nats", xticks=range(0, 181, 45))
    ax.legend()


# --8<-- [end:figure_turned]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_turned(plt.figure(layout="constrained").gca())
    plt.show()
