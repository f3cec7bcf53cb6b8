"""Minimise E[X sin X] + (mu - 1)^2 / 2 + sigma - log sigma by SGD, with either estimator."""

# --8<-- [start:setup]
import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from genref.gradients.estimators import pathwise, score_function
from genref.gradients.stochastic_descent import (
    gradient,
    hessian,
    objective,
    pathwise_covariance,
    score_covariance,
    stationary_points,
    stochastic_gradient,
)

starts = [(-2.0, 0.0), (0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (5.5, 0.0)]
corner = torch.tensor([2 * math.pi, math.log(4)], dtype=torch.float64)


def descend(estimator, steps=1500, samples=16, seed=1):
    """The ways of projected SGD runs in (mu, tau), from all starts at once."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.tensor(starts, dtype=torch.float64)
    optimiser = torch.optim.SGD([theta], lr=0.05)
    schedule = LambdaLR(optimiser, lambda k: 1 / (1 + k / 200))
    way = [theta.clone()]
    for _ in range(steps):
        mu, tau = theta.unbind(-1)
        theta.grad = stochastic_gradient(mu, tau, samples, generator, estimator)
        optimiser.step()
        theta.clamp_(-corner, corner)
        schedule.step()
        way.append(theta.clone())
    return torch.stack(way, 1)


# --8<-- [end:setup]

# --8<-- [start:check]
points = stationary_points()
ways = {estimator: descend(estimator) for estimator in (score_function, pathwise)}
for estimator, way in ways.items():
    print(estimator.__name__)
    for start, (mu, tau) in zip(starts, way[:, -1], strict=True):
        end = torch.stack([mu, tau.exp()])
        nearest = (points - end).norm(dim=1).argmin()
        assert (points[nearest] - end).norm() < 0.3
        kind, F = ["global minimum", "local minimum", "saddle"][nearest], objective(*end)
        print(f"  from {start}: mu {mu:.1f}, sigma {end[1]:.1f}, F {F:.2f}, {kind}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """A contour map of F over mu and tau with two pits, a saddle between them, and a line through
    the saddle that parts their basins. Of five runs with either estimator those from 3 and 5.5 end
    in the upper pit, the global minimum, and those from -2, 0 and 1 in the lower one.
    """
    ax.figure.set_size_inches(4.2, 4)
    mu = torch.linspace(-3, 6.5, 39, dtype=torch.float64)
    tau = torch.linspace(-1.6, 1.4, 30, dtype=torch.float64)
    heights = objective(mu, tau.exp()[:, None])
    for height in (1.68, 1.74, 1.9, 2.4, 4, 7):
        level(ax, mu, tau, heights, height, color="C5", alpha=0.6, linewidth=0.6)
    shown = sorted({round(1500 * (i / 24) ** 3) for i in range(25)})
    for style, (estimator, way) in zip(("-", ":"), ways.items(), strict=True):
        ax.plot([], [], f"C0{style}", label=estimator.__name__)
        for run in way:
            form = f"C1s{style}" if run[-1, 1] > 0 else f"C0o{style}"
            ax.plot(*run[shown].T, form, linewidth=1, markersize=5, markevery=[0])
    ax.plot(*border().T, "C2--", label="border of the basins")
    mark(ax, points[:, 0], points[:, 1].log())
    ax.set(xlabel="mu", ylabel="tau", xlim=(-3, 6.5), ylim=(-1.6, 1.4))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_curves]
def figure_curves(ax):
    """The curves where the derivative by mu vanishes and where that by tau does, in mu and sigma.
    They cross at three marked points with mu below 1.4 and nowhere else, but come very close to
    one another near mu 3.8 and sigma 0.65.
    """
    ax.figure.set_size_inches(4.2, 3.4)
    mu = torch.linspace(-3, 13, 70, dtype=torch.float64)
    sigma = torch.linspace(0.02, 3, 40, dtype=torch.float64)
    slopes = gradient(mu, sigma[:, None]).unbind(-1)
    for name, slope, form in zip(("mu", "tau"), slopes, ("C0-", "C1--"), strict=True):
        level(ax, mu, sigma, slope, 0, color=form[:2], linestyle=form[2:])
        ax.plot([], [], form, label=f"derivative by {name} is 0")
    mark(ax, *points.T)
    ax.set(xlabel="mu", ylabel="sigma", xlim=(-3, 13), ylim=(0, 3))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure_curves]


# --8<-- [start:figure_variances]
def figure_variances(ax):
    """A map over mu and tau of the variance of the score estimator divided by that of the pathwise
    one. For each component there is a line where they are equal and one where the ratio is 16.
    Above both lines of equality, in a hatched region with the global minimum, the score wins.
    """
    ax.figure.set_size_inches(4.2, 4)
    mu = torch.linspace(-6.5, 6.5, 53, dtype=torch.float64)
    tau = torch.linspace(-2.6, 1.4, 33, dtype=torch.float64)
    law = (mu, tau.exp()[:, None])
    ratio = (score_covariance(*law) / pathwise_covariance(*law)).log2()
    for i, name, styles in ((0, "mu", ("--", "-")), (1, "tau", (":", "-."))):
        for power, style in zip((4, 0), styles, strict=True):
            lines = level(ax, mu, tau, ratio[..., i, i], power, color=f"C{i}", linestyle=style)
            ax.plot([], [], f"C{i}{style}", label=f"component {name}, ratio {2**power}")
    ax.fill_between(*lines[0].T, 1.4, hatch="///", alpha=0.15, label="score wins in both")
    laws = torch.tensor([[0, 1], [1, 1], [3, 0.3], [-3, 2], [1, 0.1], [5, 1]])
    ax.plot(laws[:, 0], laws[:, 1].log(), "C2o", label="laws of the table")
    ax.plot(points[0, 0], points[0, 1].log(), "C3*", markersize=9, label="global minimum")
    ax.set(xlabel="mu", ylabel="tau", xlim=(-6.5, 6.5), ylim=(-2.6, 1.4))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure_variances]


def level(ax, x, y, z, height, **style):
    """Draws the lines on which z has a given height, and returns them."""
    drawn = ax.contour(x, y, z, [height])
    drawn.remove()
    for line in drawn.allsegs[0]:
        ax.plot(*line.T, **style)
    return drawn.allsegs[0]


def mark(ax, x, y):
    for i, name in enumerate(("global minimum", "local minimum", "saddle")):
        ax.plot(x[i], y[i], "*Px"[i], color="C3", markersize=8, zorder=4, label=name)


def border():
    """The two ways up from the saddle."""
    mu, sigma = points[2]
    steepest = torch.linalg.eigh(hessian(mu, sigma)).eigenvectors[:, 1]
    theta = torch.stack([mu, sigma.log()]) + torch.stack([steepest, -steepest]) / 100
    ways = [theta]
    for _ in range(40):
        slope = gradient(theta[:, 0], theta[:, 1].exp())
        theta = theta + 0.15 * slope / (0.2 + slope.norm(dim=1, keepdim=True))
        ways.append(theta)
    one, other = torch.stack(ways, 1)
    return torch.cat([one.flip(0), other])


if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").subplots())
    figure_curves(plt.figure(layout="constrained").subplots())
    figure_variances(plt.figure(layout="constrained").subplots())
    plt.show()
