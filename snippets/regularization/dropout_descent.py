"""Descent with a new dropout mask in every step finds the minimiser and leaves it again."""

# --8<-- [start:setup]
import torch

from genref.regularization.dropout import solution
from genref.regularization.dropout_descent import (
    gradient_covariance,
    stationary_covariance,
)

X = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 3.0], [1.0, 2.0]])
y = torch.tensor([2.0, -1.0, 3.0, 1.0])
keep = 0.7
best = solution(X, y, keep)


def descend(step, steps, runs, generator):
    """The weights of all runs after each step, from the minimiser on."""
    w, path = best.expand(runs, 2), []
    for _ in range(steps):
        Z = X * torch.bernoulli(torch.full((runs, 4, 2), keep), generator=generator)
        miss = torch.einsum("rij,rj->ri", Z, w) - y
        w = w - step * 2 * torch.einsum("rij,ri->rj", Z, miss)
        path.append(w)
    return torch.stack(path)


# --8<-- [end:setup]

# --8<-- [start:check]
masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 8).view(-1, 4, 2)
chance = (keep * masks + (1 - keep) * (1 - masks)).flatten(1).prod(1)
Z = X * masks
slopes = 2 * torch.einsum("rij,ri->rj", Z, Z @ best - y)
noise = gradient_covariance(X, y, best, keep)
assert (chance @ slopes).abs().max() < 1e-4
assert torch.allclose(slopes.T @ (chance[:, None] * slopes), noise, rtol=1e-4)
print("slopes at the minimiser", *(f"{s:.2f}" for s in noise.diagonal().sqrt()))

generator = torch.Generator().manual_seed(2)
for step in (0.04, 0.01):
    spread = stationary_covariance(X, y, keep, step)
    ends = descend(step, 400, 3000, generator)[-1]
    assert torch.allclose(ends.T.cov(), spread, rtol=0.2)
    print(f"weights, step {step:<8}", *(f"{s:.2f}" for s in spread.diagonal().sqrt()))
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Two panels of two weights, with thin ellipses on which the expected loss is constant, and
    150 iterates of descent with a new mask in each step, started at the minimiser. With the
    step 0.04 most of them lie in an ellipse that is about 1.2 long, with the step 0.01 in one of
    about half that length: those of two standard deviations by the formula.
    """
    fig.set_size_inches(4.8, 3.1)
    angle = torch.linspace(0, 2 * torch.pi, 60)
    circle = torch.stack([angle.cos(), angle.sin()])
    curvature = keep * (keep * X.T @ X + (1 - keep) * X.square().sum(0).diag())
    level = torch.linalg.cholesky(curvature.inverse()) @ circle
    panels = fig.subplots(1, 2, sharex=True, sharey=True)
    for ax, step in zip(panels, (0.04, 0.01), strict=True):
        for radius in (0.5, 1, 1.5, 2, 2.5):
            ax.plot(*(best[:, None] + radius * level), color="C5", linewidth=0.6)
        iterates = descend(step, 3000, 1, torch.Generator().manual_seed(4))[19::20, 0]
        root = torch.linalg.cholesky(stationary_covariance(X, y, keep, step))
        ax.scatter(*iterates.T, s=7, color="C0", linewidth=0, label="iterates")
        ax.plot(*(best[:, None] + 2 * root @ circle), color="C1", label="exact spread")
        ax.plot(*best, "X", color="C3", label="minimiser")
        ax.set(title=rf"step $\alpha={step}$", xlabel="first weight", aspect="equal")
        ax.set(xlim=(0, 1.7), ylim=(-0.4, 1.1))
    fig.axes[0].set_ylabel("second weight")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    plt.show()
