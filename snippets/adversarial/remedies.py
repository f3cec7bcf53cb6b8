"""Nine ways to step in the game V(d, g) = d g: which of them converge, and how fast."""

# --8<-- [start:setup]

import torch

from genref.adversarial.bilinear import spectral_radius, trajectory
from genref.adversarial.remedies import best_momentum, best_step, largest_step

step, beta, radius = best_momentum()
updates = {
    "extragradient": ("extragradient", best_step("extragradient"), {}),
    "proximal": ("proximal", 1.0, {}),
    "optimistic": ("optimistic", best_step("optimistic"), {}),
    "consensus": ("consensus", best_step("consensus", gamma=1.0), {"gamma": 1.0}),
    "momentum at once": ("momentum", 0.6, {"beta": -0.5}),
    "momentum in turn": ("momentum", step, {"beta": beta, "alternating": True}),
}
# --8<-- [end:setup]

# --8<-- [start:check]
start = torch.tensor([1.0, 0.0], dtype=torch.float64)
print("                  step  radius  after 30")
for name, (method, size, options) in updates.items():
    distance = trajectory(method, start, [size] * 30, **options)[-1].norm()
    rho = spectral_radius(method, size, **options)
    assert (rho < 1) == (distance < 0.1)
    print(f"{name:16}  {size:.2f}   {rho:.3f}   {distance:.0e}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Six portraits of the game in the plane of d and g, all from the point (1, 0). Extragradient,
    the proximal update and consensus wind straight into the origin; optimistic steps and momentum
    in turn swing out before they fall in; momentum at once spirals out.
    """
    fig.set_size_inches(5.6, 4.4)
    for ax, (name, update) in zip(fig.subplots(2, 3).flat, updates.items(), strict=True):
        method, size, options = update
        points = trajectory(method, start, [size] * 24, **options)
        ax.plot(*points.T, "C0o-", linewidth=0.8, markersize=3)
        ax.plot(*start, "C1s")
        ax.plot(0, 0, "C3x")
        reach = 1.15 * float(points.abs().max())
        ax.set(title=name, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    fig.supxlabel("d")
    fig.supylabel("g")


# --8<-- [end:figure]


# --8<-- [start:figure_radius]
def figure_radius(ax):
    """The spectral radius against the step for seven updates. It is above 1 for simultaneous steps
    and equal to 1 for alternating ones up to step 2. It dips below 1 for optimistic steps up to
    0.58, extragradient up to 1, two looks ahead up to 1.27, with a zero at 1, momentum in turn up
    to 1.86 with the least value at 1.82, and falls for ever for the proximal update.
    """
    ax.figure.set_size_inches(5, 4)
    steps = torch.linspace(0.005, 2.2, 100, dtype=torch.float64)
    steps = torch.cat([steps, torch.tensor([0.5, 1, step, 2]).double()]).sort().values
    for name, method, form, options in (
        ("simultaneous", "simultaneous", "C5:", {}),
        ("alternating", "alternating", "C4-", {}),
        ("optimistic", "optimistic", "C1--", {}),
        ("extragradient", "extragradient", "C0-", {}),
        ("the same, two looks", "extragradient", "C0--", {"inner_steps": 2}),
        ("proximal", "proximal", "C2-.", {}),
        ("best momentum, in turn", "momentum", "C3-", {"beta": beta, "alternating": True}),
    ):
        rho = spectral_radius(method, steps, **options)
        ax.plot(steps, rho.where(rho < 1.4, torch.nan), form, label=name)
    ax.plot(step, radius, "C3*", markersize=9)
    ax.set(xlabel="step", ylabel="spectral radius", xlim=(0, 2.2), ylim=(0, 1.4))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure_radius]


# --8<-- [start:figure_momentum]
def figure_momentum(ax):
    """A map over step and momentum for alternating heavy ball. It converges in a triangle between
    momentum -1 and 0 and below the line step = 2 (1 + momentum), shaded. Level lines of the
    spectral radius close in on a star in the upper right corner of the triangle.
    """
    ax.figure.set_size_inches(4.6, 3.8)
    alpha = torch.linspace(0.01, 2.3, 90, dtype=torch.float64)
    momentum = torch.linspace(-1.1, 0.3, 81, dtype=torch.float64)
    rho = spectral_radius("momentum", alpha, beta=momentum[:, None], alternating=True)
    edge = torch.tensor([-0.999, -0.001], dtype=torch.float64)
    limits = [float(largest_step("momentum", beta=float(b), alternating=True)) for b in edge]
    ax.fill_between(limits, edge, 0, alpha=0.15, label="converges")
    for height, form in ((0.8, "-"), (0.9, "--"), (0.95, "-."), (1.1, ":")):
        drawn = ax.contour(alpha, momentum, rho, [height])
        drawn.remove()
        for line in drawn.allsegs[0]:
            ax.plot(*line.T, f"C0{form}", linewidth=1)
        ax.plot([], [], f"C0{form}", label=f"radius {height}")
    ax.plot(step, beta, "C3*", markersize=9, label=f"least, {radius:.2f}")
    ax.axhline(0, color="C5", linewidth=0.6)
    ax.set(xlabel="step", ylabel="momentum", xlim=(0, 2.3), ylim=(-1.1, 0.3))
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure_momentum]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_radius(plt.figure(layout="constrained").subplots())
    figure_momentum(plt.figure(layout="constrained").subplots())
    plt.show()
