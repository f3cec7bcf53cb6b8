"""A radial flow, its inverse in closed form, and what the obvious form of the inverse loses."""

# --8<-- [start:setup]
import torch

from genref.flows.radial import Radial, radius

generator = torch.Generator().manual_seed(1)
centre = torch.tensor([0.5, -1.0, 0.3])
flow = Radial(centre, alpha=1.0, beta=-0.8)
z = torch.randn(1000, 3, generator=generator)
x, log_det = flow.to_data(z)
# --8<-- [end:setup]

# --8<-- [start:check]
back, log_det_back = flow.to_latent(x)
assert torch.allclose(back, z, atol=1e-5)
assert torch.allclose(log_det_back, -log_det, atol=1e-5)
jacobian = torch.autograd.functional.jacobian(lambda z: flow.to_data(z)[0], z[0])
assert torch.allclose(jacobian.det().log(), log_det[0], atol=1e-5)
print(f"log-determinants from {log_det.min():.2f} to {log_det.max():.2f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Four curves of the signed distance of x from the centre over that of z, from 0 to 1.5, for a
    softening of 1. For the strengths 2 and -0.5 they rise from the origin with a positive slope.
    For -1 the slope at the origin is 0. For -1.5 the curve falls below zero first, returns to zero
    at 0.5, and a horizontal line at 0.0375 and its mirror image meet it three times, marked.
    """
    ax = fig.subplots()
    r = torch.linspace(0, 1.5, 151)
    for beta, style in ((2, "-."), (-0.5, "--"), (-1, "-"), (-1.5, ":")):
        ax.plot(r, r + beta * r / (1 + r), style, label=rf"$\beta = {beta}$")
    several = torch.tensor([0.104852, 0.357648, 0.6])
    ax.plot(several, several - 1.5 * several / (1 + several), "oC4", label="one $x$, three $r$")
    for level, label in ((-0.0375, None), (0.0375, r"$\rho = 0.0375$")):
        ax.axhline(level, color="C4", linewidth=0.7, label=label)
    ax.set(xlabel=r"$r$", ylabel=r"$\varphi(r)$", xlim=(0, 1.5), ylim=(-0.15, 0.75))
    fig.legend(loc="outside upper center", ncols=3)


# --8<-- [end:figure]


# --8<-- [start:figure_error]
def figure_error(ax):
    """Relative errors of two formulas for the root over the distance from 1e-12 to 1, on
    logarithmic axes. The obvious formula loses a digit for each power of ten on the way to zero,
    down to an error of 1e-4; the other one stays below 1e-15.
    """
    r = torch.logspace(-12, 0, 90, dtype=torch.float64)
    rho = r + r / (1 + r)
    obvious = (rho - 2 + ((rho - 2) ** 2 + 4 * rho).sqrt()) / 2
    for name, root, style in (("obvious", obvious, "-"), ("stable", radius(rho, 1.0, 1.0), "--")):
        ax.loglog(rho, ((root - r).abs() / r).clamp(min=1e-17), style, label=name)
    ax.set(xlabel=r"$\rho$", ylabel="relative error", ylim=(1e-18, 1e-2))
    ax.legend()


# --8<-- [end:figure_error]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_error(plt.figure().gca())
    plt.show()
