"""One datum and one weight: the expected log-joint, the bound and the evidence, and steps of EM."""

# --8<-- [start:setup]
import math

import torch
from torch.distributions import Normal, kl_divergence

from genref.latent.elbo import em_step, expected_log_joint, m_step
from genref.numerics.quadrature import hermite

x = torch.tensor([[2.0]])


def evidence(theta):
    """The log-density of x, where z is standard normal and x ~ N(theta z, 1)."""
    return Normal(0.0, (1 + theta**2).sqrt()).log_prob(x[0])


def posterior(theta):
    """The law of z given x."""
    theta = torch.as_tensor(theta)
    return Normal(theta * x[0] / (1 + theta**2), (1 + theta**2).rsqrt())


def mean_log_joint(theta, q):
    """The mean of log p(x, z) under a normal q, for each theta."""
    nodes, weights = hermite(3, q.mean.dtype)
    z = q.mean + q.stddev * nodes
    log_joint = Normal(theta[:, None] * z, 1.0).log_prob(x[0]) + Normal(0.0, 1.0).log_prob(z)
    return expected_log_joint(log_joint, weights.log())


laws = {
    "some law": Normal(torch.tensor([0.3]), math.sqrt(0.5)),
    "on the arc": Normal(torch.tensor([0.6]), math.sqrt(0.332820)),
    "posterior at 1.732": posterior(math.sqrt(3)),
    "posterior at 0.500": posterior(0.5),
}
# --8<-- [end:setup]

# --8<-- [start:check]
theta = torch.linspace(0, 4, 401)
log_p = evidence(theta)
print(f"log p(x)            greatest at {theta[log_p.argmax()]:.2f}: {log_p.max():.3f}")
for name, q in laws.items():
    line = mean_log_joint(theta, q)
    bound = log_p - kl_divergence(q, posterior(theta))
    assert torch.allclose(line, bound - q.entropy(), atol=1e-5)
    best = m_step(x, q.mean[None], q.variance[None])
    assert abs(best - theta[line.argmax()]) < 0.01
    assert abs(best - theta[bound.argmax()]) < 0.01
    print(f"{name:18}  greatest at {best.item():.2f}:", end="")
    print(f" E log p(x, z) {line.max():.3f}, bound {bound.max():.3f}")

steps = [torch.tensor([[0.5]])]
for _ in range(40):
    steps.append(em_step(x, steps[-1]))
assert abs(steps[-1] - math.sqrt(3)) < 1e-5
print("EM", *(f"{step.item():.3f}" for step in steps[:7]), "…", f"{steps[-1].item():.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Three curves over theta. The mean of log p(x, z) lies below the bound by the same distance
    everywhere, so that the two are highest at the same theta, about 1. The evidence lies above the
    bound by a varying distance and is highest further to the right, at 1.73.
    """
    q = laws["some law"]
    theta = torch.linspace(-0.6, 3.2, 77)
    line = mean_log_joint(theta, q)
    bound, log_p = line + q.entropy(), evidence(theta)
    curves = {
        r"$\log\,p_\theta(x)$": (log_p, "C2", "--", "s"),
        r"bound $\log\,p_\theta(x)-\mathrm{KL}$": (bound, "C0", "-", "o"),
        r"$E_q\,\log\,p_\theta(x,z)$": (line, "C1", "-.", "o"),
    }
    for label, (curve, colour, style, marker) in curves.items():
        top = curve.argmax()
        ax.plot(theta, curve, color=colour, linestyle=style, label=label)
        ax.plot(theta[top], curve[top], marker, color=colour)
    ax.fill_between(theta[::2], bound[::2], log_p[::2], color="C2", alpha=0.15, linewidth=0)
    ax.fill_between(theta[::2], line[::2], bound[::2], color="C1", alpha=0.15, linewidth=0)
    ax.annotate("KL", (2.3, -3.0), ha="center", va="center")
    ax.annotate("$H(q)$", (1.02, -3.3), ha="center", va="center")
    ax.set(xlabel=r"$\theta$", ylabel="nats", xlim=(-0.6, 3.2), ylim=(-5.6, -1.9))
    ax.legend(loc="lower center")


# --8<-- [end:figure]


# --8<-- [start:figure_laws]
def figure_laws(fig):
    """The plane of all normal laws, mean to the right and deviation upwards. Half circles through
    the origin join the laws that lead to the same theta. One of them, drawn thick, belongs to the
    maximum likelihood. The dashed curve of the posteriors crosses it once, and steps of EM follow
    this curve to the crossing.
    """
    fig.set_size_inches(5, 3.4)
    ax = fig.subplots()
    angle = torch.linspace(0, math.pi, 61)
    root = math.sqrt(3)
    for goal in (steps[1].item(), steps[2].item(), root, 2.4, 4.0):
        m, s = (1 + angle.cos()) / goal, angle.sin() / goal
        ax.plot(m, s, color="C0", linewidth=2.5 if goal == root else 0.8)
        ax.annotate(f"{goal:.2f}", (m[6], s[6]), (4, 0), textcoords="offset points", size="small")
    curve = posterior(torch.linspace(0, 2.5, 61).expm1())
    ax.plot(curve.mean, curve.stddev, color="C1", linestyle="--", label="posteriors")
    path = posterior(torch.cat(steps[:6]))
    ax.plot(path.mean, path.stddev, "o", color="C1", markersize=5, label="steps of EM")
    ax.plot(root / 2, 0.5, "s", color="C2", label="posterior at 1.73")
    ax.plot(0.6, math.sqrt(0.332820), "D", color="C3", label="another law")
    ax.set(xlabel="mean $m$", ylabel="standard deviation", aspect="equal")
    ax.set(xlim=(0, 1.95), ylim=(0, 1.05))
    fig.legend(loc="outside upper center", ncols=2)


# --8<-- [end:figure_laws]


# --8<-- [start:figure_touch]
def figure_touch(fig):
    """The evidence over theta, and three bounds below it. The first touches it at 0.5 and is
    highest at 1.11, where the second touches it; that one is highest at 1.38, where the third does.
    At each touching point the slopes agree.
    """
    ax = fig.subplots()
    theta = torch.linspace(0, 2.6, 66)
    ax.plot(theta, evidence(theta), color="C2", linewidth=2.5, label=r"$\log\,p_\theta(x)$")
    for k, style in enumerate(("-", "--", "-.")):
        here, there = steps[k][0], steps[k + 1][0]
        q = posterior(here)
        bound = mean_log_joint(theta, q) + q.entropy()
        ax.plot(theta, bound, style, color="C0", label=rf"bound with $q_{k}$")
        ax.plot(here, evidence(here), "o", color="C2")
        ax.plot(there, mean_log_joint(there, q) + q.entropy(), "^", color="C0")
    ax.set(xlabel=r"$\theta$", ylabel="nats", xlim=(0.2, 2.6), ylim=(-2.75, -2.05))
    fig.legend(loc="outside upper center", ncols=2)


# --8<-- [end:figure_touch]


# --8<-- [start:figure_staircase]
def figure_staircase(ax):
    """The curve of one step of EM over its start, and the diagonal. They meet at 0, where the curve
    is steeper than the diagonal, and at 1.73, where it is flatter. A staircase between them climbs
    from 0.5 to the second meeting point.
    """
    grid = torch.linspace(0, 2.6, 53)
    ax.plot(grid, em_step(x, grid.view(-1, 1, 1)).flatten(), color="C0", label="one step of EM")
    ax.plot(grid, grid, color="C1", linestyle="--", label="no change")
    path = torch.cat(steps[:9]).flatten()
    stairs = path.repeat_interleave(2)
    ax.plot(stairs[:-1], stairs[1:], color="C2", label="from 0.5")
    ax.plot(path[:-1], path[1:], "o", color="C2", markersize=4)
    root = math.sqrt(3)
    ax.plot([0, root], [0, root], "s", color="C3", label="fixed points")
    ax.set(xlabel=r"$\theta_k$", ylabel=r"$\theta_{k+1}$", xlim=(-0.1, 2.6), ylim=(-0.1, 2.6))
    ax.legend(loc="lower right")


# --8<-- [end:figure_staircase]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    for draw in (figure, figure_staircase):
        draw(plt.figure(layout="constrained").gca())
    for draw in (figure_laws, figure_touch):
        draw(plt.figure(layout="constrained"))
    plt.show()
