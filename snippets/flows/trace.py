"""The log-determinant of a residual layer from traces: cut off with a bound, or cut at random."""

# --8<-- [start:setup]
import torch

from genref.flows.residual import Residual
from genref.flows.trace import roulette, series

generator = torch.Generator().manual_seed(1)
V = torch.randn(16, 6, dtype=torch.float64, generator=generator)
V /= torch.linalg.matrix_norm(V, 2)


def f(z):
    """A branch whose Lipschitz constant is at most 0.9."""
    return -0.9 * torch.tanh(z @ V.T) @ V


z = torch.randn(6, dtype=torch.float64, generator=generator)
# --8<-- [end:setup]

# --8<-- [start:check]
with torch.no_grad():
    exact = Residual(f, 0.9).log_det(z)
    print(f"exact     {exact:.3f}")
    for n in (2, 10, 50):
        value, bound = series(f, z, n, 0.9)
        assert abs(value - exact) <= bound
        print(f"{n:2} terms  {value:.3f}, off by {bound:.3f} at most")
    many = z.expand(4000, 6)
    sample = roulette(f, many, 0.9, probes=1, generator=generator)
error = sample.std() / 4000**0.5
assert abs(sample.mean() - exact) < 5 * error
print(f"roulette  within 5 standard errors of {error:.2f} each")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """The error of the series against the number of terms, up to 60, on a logarithmic scale. A
    network errs less than its bound, by orders of magnitude. The branch minus 0.9 z lies on the
    bound. The first term left out, drawn as a dashed line, lies below that error.
    """
    n = torch.arange(1, 61, 2)
    with torch.no_grad():
        both = [series(f, z, k, 0.9) for k in n.tolist()]
        worst = [series(lambda z: -0.9 * z, z, k, 0.9)[0] for k in n.tolist()]
        true = Residual(lambda z: -0.9 * z, 0.9).log_det(z)
        ax.plot(n, [bound for _, bound in both], label="bound")
        ax.plot(n, [abs(value - true) for value in worst], "s", ms=4, label=r"$f = -0.9\,z$")
        ax.plot(n, [abs(value - exact) for value, _ in both], "o", ms=4, label="network")
    ax.plot(n, 6 * 0.9 ** (n + 1) / (n + 1), "--", label="first term left out")
    ax.set(xlabel="terms of the series", ylabel="error of the log-determinant", yscale="log")
    ax.set(ylim=(1e-16, 30))
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_keep]
def figure_keep(ax):
    """The standard deviation of the roulette for a constant of 0.9 against the probability of going
    on. It is largest at the square of the constant, 0.81, and falls slowly to the right; the band
    further left is marked as infinite. A dashed curve, the mean number of terms, rises steeply to
    the right.
    """
    ell, k = 0.9, torch.arange(1, 4001, dtype=torch.float64)
    tails = (ell**k / k).flip(0).cumsum(0).flip(0)
    squares = tails**2 - torch.cat([tails[1:], tails.new_zeros(1)]) ** 2
    keep = torch.linspace(0.81, 0.99, 61, dtype=torch.float64)
    log_chance = (k - 1) * keep.log()[:, None]
    second = (squares.log() - log_chance)[:, :3000].exp().sum(-1)
    ax.plot(keep, (second - tails[0] ** 2).sqrt(), label="standard deviation")
    ax.plot(keep[30], (second[30] - tails[0] ** 2).sqrt(), "o", color="C0", label=r"at $p = \ell$")
    ax.plot(keep, 0.1 / (1 - keep), "--", color="C1", label="mean number of terms / 10")
    ax.axvspan(0.76, 0.81, color=("C0", 0.15), linewidth=0)
    ax.text(0.785, 1.5, "infinite variance", rotation=90, ha="center", va="center")
    ax.set(xlabel="probability of going on", xlim=(0.76, 1), ylim=(0, 3))
    ax.legend(loc=(0.2, 0.72), fontsize="small")


# --8<-- [end:figure_keep]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.gca())
    figure_keep(plt.figure().gca())
    plt.show()
