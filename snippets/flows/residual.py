"""A residual layer, its inverse with a certificate, and three growing maps on the line."""

# --8<-- [start:setup]
import math

import torch

from genref.flows.residual import Residual, certificate

generator = torch.Generator().manual_seed(5)
V = torch.randn(8, 3, dtype=torch.float64, generator=generator)
V /= torch.linalg.matrix_norm(V, 2)


def f(z):
    """A branch whose Lipschitz constant is at most 0.97, and 0.97 at the origin."""
    return -0.97 * torch.tanh(z @ V.T) @ V


flow = Residual(f, lipschitz=0.97)
# --8<-- [end:setup]

# --8<-- [start:check]
z = 3 * torch.randn(1000, 3, dtype=torch.float64, generator=generator)
x, log_det = flow.to_data(z)
found, bound = flow.invert(x)
error = (found - z).norm(dim=-1)
assert (error <= bound).all()
assert bound.max() < 1e-11
_, minus_log_det = flow.to_latent(x)
assert torch.allclose(log_det, -minus_log_det)
print(f"log-determinants from {log_det.min():.2f} to {log_det.max():.2f}")
print(f"largest error below 1e-12: {bool(error.max() < 1e-12)}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Three increasing curves through the plane. The inverse hyperbolic sine goes on growing in
    both directions. The arctangent stays in the grey band between minus and plus half of pi. The
    exponential stays above zero.
    """
    z = torch.linspace(-4, 4, 161)
    ax.axhspan(-math.pi / 2, math.pi / 2, color=("C0", 0.12), linewidth=0)
    ax.plot(z, z.atan(), label=r"$f = -z + \arctan z$, onto the band")
    ax.plot(z, z.exp(), "--", label=r"$f = -z + e^z$, onto the upper half")
    ax.plot(z, z.asinh(), "-.", label=r"$f = -z + \operatorname{arsinh}\, z$, onto the line")
    ax.axhline(0, linewidth=0.6, color="C1", linestyle=":")
    ax.set(xlabel="z", ylabel="g(z) = z + f(z)", ylim=(-2.6, 4.2), xlim=(-4, 4))
    ax.legend(loc="upper left", fontsize="small")


# --8<-- [end:figure]


# --8<-- [start:figure_certificate]
def figure_certificate(fig):
    """Two panels on a logarithmic scale against the number of steps, up to 250. Left, the branch
    is minus 0.97 z: error and certificate lie on one straight line, the last step runs about 30
    times lower. Right, a network: all three fall faster. The certificate stays above the error,
    the last step below it.
    """
    fig.set_size_inches(5.6, 3.2)
    branches = {"slowest branch": lambda z: -0.97 * z, "network": f}
    for ax, (name, branch) in zip(fig.subplots(1, 2, sharey=True), branches.items(), strict=True):
        z = torch.full((3,), 2.0, dtype=torch.float64)
        target = z + branch(z)
        guess, error, step = target, [], []
        for _ in range(250):
            guess, old = target - branch(guess), guess
            error.append((guess - z).norm().item())
            step.append((guess - old).norm().item())
        k, some = range(1, 251), slice(0, None, 6)
        ax.plot(k[some], error[some], "o", markersize=3, label="error")
        ax.plot(k[some], [certificate(0.97, s) for s in step[some]], label="certificate")
        ax.plot(k[some], step[some], "--", label="last step")
        ax.set(title=name, xlabel="steps", yscale="log")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure_certificate]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.gca())
    figure_certificate(plt.figure(layout="constrained"))
    plt.show()
