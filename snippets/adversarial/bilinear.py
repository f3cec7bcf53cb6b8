"""The game V(d, g) = d g: what simultaneous and alternating gradient steps do to its players."""

# --8<-- [start:setup]
import math

import torch

from genref.adversarial.bilinear import flow, invariant, spectral_radius, trajectory

start = torch.tensor([1.0, 0.0], dtype=torch.float64)
step, rounds = 0.5, 9
methods = ("simultaneous", "alternating")
runs = {name: trajectory(name, start, [step] * rounds) for name in methods}
# --8<-- [end:setup]

# --8<-- [start:check]
players = start
for _ in range(rounds):
    players = players.detach().requires_grad_()
    (slope,) = torch.autograd.grad(players.prod(), players)
    players = players + step * slope * torch.tensor([1, -1])
assert torch.allclose(players, runs["simultaneous"][-1])

kept = invariant(runs["alternating"], step)
assert torch.allclose(kept, kept[0])

for method, points in runs.items():
    radius, distance = spectral_radius(method, step), points.norm(dim=-1)
    print(f"{method:12}  radius {radius:.3f}  farthest {distance.max():.2f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Two portraits of the game in the plane of d and g, each with the circle of the flow. On the
    left simultaneous steps leave the circle in a clockwise spiral. On the right alternating steps
    stay on an ellipse that leans against the diagonal of d and g.
    """
    fig.set_size_inches(5.4, 3.5)
    circle = flow(start, torch.linspace(0, 2 * math.pi, 60, dtype=torch.float64))
    for ax, (method, points) in zip(fig.subplots(1, 2), runs.items(), strict=True):
        ax.plot(*circle.T, "C5--", linewidth=1, label="flow")
        if method == "alternating":
            ax.plot(*ellipse().T, "C2:", label="kept value")
        ax.plot(*points.T, "C0o-", linewidth=0.8, markersize=3, label="steps")
        ax.plot(*start, "C1s", label="start")
        ax.plot(0, 0, "C3x", label="equilibrium")
        ax.set(title=method, xlabel="d", ylabel="g", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure]


# --8<-- [start:figure_schedules]
def figure_schedules(ax):
    """The distance from the equilibrium against the number of steps, both logarithmic, for four
    schedules. It rises without bound for constant steps and for steps 1 over the root of k, and
    rises to a level above the start for 1 over k and for 1 over k to the power three quarters.
    """
    k = torch.arange(1, 2001, dtype=torch.float64)
    shown = sorted({round(10 ** (j / 12)) for j in range(40)} - {2000})
    for power, name, form in (
        (0.0, "0.1", "C0-"),
        (0.5, "k^(-1/2)", "C1--"),
        (0.75, "k^(-3/4)", "C2-."),
        (1.0, "1/k", "C3:"),
    ):
        steps = k**-power if power else 0.1 * torch.ones_like(k)
        distance = trajectory("simultaneous", start, steps).norm(dim=-1)
        ax.loglog(shown, distance[shown], form, label=f"step {name}")
    ax.set(xlabel="number k of steps", ylabel="distance", ylim=(0.8, 300))
    ax.legend()


# --8<-- [end:figure_schedules]


def ellipse():
    """The points where d^2 + g^2 + step d g has the value of the start."""
    angle = torch.linspace(0, 2 * math.pi, 60, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    return ring * (invariant(start, step) / invariant(ring, step)).sqrt()[:, None]


if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_schedules(plt.figure(layout="constrained").subplots())
    plt.show()
