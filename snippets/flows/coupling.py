"""Coupling flows: their Jacobians, a cloud of points that two of them bend, and rounding."""

# --8<-- [start:setup]
import math

import torch
from torch import nn
from torch.distributions import Independent, Normal

from genref.flows.coupling import Additive, Affine, Flow, mask


def normal(dim):
    return Independent(Normal(torch.zeros(dim), torch.ones(dim)), 1)


def network(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))


torch.manual_seed(0)
masks = [mask(6), ~mask(6), mask(6)]
stack = Flow([Affine(m, network(3, 6)) for m in masks], normal(6))
z = torch.randn(6)


def to_data(z):
    return stack.to_data(z)[0]


# Two flows for points along a parabola: one knows their mean, one their width too.
first = torch.randn(2000)
points = torch.stack([first, first**2 - 1 + 0.2 * torch.randn(2000)], 1)
width = torch.tensor(0.2).log()
additive = Additive(mask(2), lambda x: x**2 - 1)
affine = Affine(mask(2), lambda x: torch.cat([x**2 - 1, width + 0 * x], -1))
fits = {"additive": Flow([additive], normal(2)), "affine": Flow([affine], normal(2))}
# --8<-- [end:setup]

# --8<-- [start:check]
x, log_det = stack.to_data(z)
jacobian = torch.autograd.functional.jacobian(to_data, z)
assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, log_det, atol=1e-5)
assert torch.allclose(stack.to_latent(x)[0], z, atol=1e-5)

for name, flow in fits.items():
    print(f"{name:8} {flow.log_prob(points).mean():.1f} nats for each point")
print(f"no additive stack exceeds {-math.log(2 * math.pi):.1f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Three square grids of 6 by 6 cells, the non-zero entries of the Jacobian after one, two and
    three layers. One layer fills the lower left block and the diagonal, two layers all but the
    off-diagonal entries of the lower right block, three layers all 36 cells.
    """
    fig.set_size_inches(6.4, 2.6)
    for depth, ax in enumerate(fig.subplots(1, 3, sharey=True), 1):
        part = Flow(stack.layers[:depth], stack.base)
        J = torch.autograd.functional.jacobian(lambda z, part=part: part.to_data(z)[0], z)
        row, column = J.nonzero().T + 1
        ax.bar(column, 1, width=1, bottom=row - 0.5, color=("C0", 0.4), edgecolor="C0")
        ax.set(title=f"{depth} layer{'s' * (depth > 1)}: {len(row)} of 36", aspect="equal")
        ax.set(xlim=(0.5, 6.5), ylim=(6.5, 0.5), xticks=range(1, 7), yticks=range(1, 7))
        ax.axhline(3.5, color="C1")
        ax.axvline(3.5, color="C1")
    fig.supxlabel("coordinate of the latent point", size="medium")
    fig.supylabel("of the data point", size="medium")


# --8<-- [end:figure]


# --8<-- [start:figure_density]
def figure_density(fig):
    """Two panels with the same points along a parabola and, at the same two levels, the lines of
    the two densities. Those of the additive flow are bent like the parabola but lie far to both
    sides of the points; its density is at most 0.16. Those of the affine flow lie close to the
    points, where its density goes up to 0.80.
    """
    fig.set_size_inches(6.4, 3.6)
    across, up = torch.linspace(-3, 3, 121), torch.linspace(-3.5, 6, 191)
    grid = torch.cartesian_prod(across, up)
    for (name, flow), ax in zip(fits.items(), fig.subplots(1, 2, sharey=True), strict=True):
        density = flow.log_prob(grid).exp().view(121, 191).T
        ax.scatter(*points[:120].T, s=6, color="C1")
        ax.contour(across, up, density, levels=[0.01, 0.1], colors="C0")
        ax.set(title=f"{name}: at most {density.max():.2f}", xlabel="first coordinate")
    fig.axes[0].set(ylabel="second coordinate")


# --8<-- [end:figure_density]


# --8<-- [start:figure_rounding]
def figure_rounding(ax):
    """Error of the round trip against the size of the shift, both on logarithmic axes: a band of
    points that rises in proportion to the shift, from the size of the rounding of the latent point
    itself up to the latent point, which a shift of ten to the thirteen wipes out. The bound of the
    claim runs along the top of the band.
    """
    generator = torch.Generator().manual_seed(1)
    z = 1e-3 * (1 + torch.rand(60, 2, dtype=torch.float64, generator=generator))
    t = torch.logspace(-6, 13, 60, dtype=torch.float64)[:, None] * math.pi / 3
    layer = Additive(mask(2), lambda kept: t)
    error = (layer.to_latent(layer.to_data(z)[0])[0] - z).abs()[:, 1]
    bound = 2.0**-53 * (1.1 * t.abs() + 3 * z.abs().amax())
    ax.loglog(t, bound, "--", color="C1", label="bound of the claim")
    ax.loglog(t, error, ".", color="C0", label="error")
    ax.axhline(1e-3, color="C2", linestyle=":", label="size of the latent coordinate")
    ax.set(xlabel="shift $|t|$", ylabel="error of the round trip", ylim=(1e-20, 1e7))
    ax.legend(loc="upper left")


# --8<-- [end:figure_rounding]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_density(plt.figure(layout="constrained"))
    figure_rounding(plt.figure(layout="constrained").subplots())
    plt.show()
