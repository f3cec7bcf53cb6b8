"""A planar flow, inverted by a search that ends at neighbouring floating-point numbers."""

# --8<-- [start:setup]
import math

import torch

from genref.flows.planar import Planar

generator = torch.Generator().manual_seed(1)
u, w = torch.tensor([-0.9, 0.6, 0.3]), torch.tensor([0.8, -0.2, 0.5])
flow = Planar(u, w, 0.4)
z = torch.randn(1000, 3, generator=generator)
x, log_det = flow.to_data(z)
# --8<-- [end:setup]

# --8<-- [start:check]
back, log_det_back = flow.to_latent(x)
assert torch.allclose(back, z, atol=1e-5)
assert torch.allclose(log_det_back, -log_det, atol=1e-5)
jacobian = torch.autograd.functional.jacobian(lambda z: flow.to_data(z)[0], z[0])
assert torch.allclose(jacobian.det().log(), log_det[0], atol=1e-5)
print(f"w·u = {w @ u:.2f}, log-determinants from {log_det.min():.2f} to {log_det.max():.2f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Four curves of a plus c times the hyperbolic tangent of a, for a from -3 to 3. For c equal to
    2 and -0.5 they rise everywhere. For -1 the curve is flat at the origin and rises elsewhere. For
    -1.9 it falls around the origin, and a horizontal line meets it at three marked points.
    """
    ax = fig.subplots()
    a = torch.linspace(-3, 3, 151)
    for c, style in ((2, "-."), (-0.5, "--"), (-1, "-"), (-1.9, ":")):
        ax.plot(a, a + c * a.tanh(), style, label=rf"$w^\top u = {c}$")
    several = torch.tensor([-1.529714, -0.230680, 2.036367])
    ax.plot(several, several - 1.9 * several.tanh(), "oC4", label="one $x$, three $z$")
    ax.axhline(0.2, color="C4", linewidth=0.7, label=r"$w^\top x + b = 0.2$")
    ax.set(xlabel=r"$a = w^\top z + b$", ylabel=r"$w^\top x + b$", xlim=(-3, 3), ylim=(-2.2, 2.2))
    fig.legend(loc="outside upper center", ncols=3)


# --8<-- [end:figure]


# --8<-- [start:figure_density]
def figure_density(ax):
    """Three densities on a line from -4 to 4. With product 0 it is the normal curve. With product 4
    it has two hills at about -2 and 2 and a deep valley between them at zero. With product -0.7
    it has a narrow peak at zero, three times as high as the normal curve.
    """
    x, w = torch.linspace(-4, 4, 201)[:, None], torch.tensor([3.0])
    for c, style in ((-0.7, "--"), (0.0, "-"), (4.0, "-.")):
        z, log_det = Planar(c / w, w, 0.0).to_latent(x)
        p = (log_det - z[:, 0].square() / 2).exp() / math.sqrt(2 * math.pi)
        ax.plot(x[:, 0], p.detach(), style, label=rf"$w^\top u = {c:g}$")
    ax.set(xlabel="$x$", ylabel="density of the flow", xlim=(-4, 4), ylim=(0, None))
    ax.legend()


# --8<-- [end:figure_density]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_density(plt.figure().gca())
    plt.show()
