"""Six sets of the plane: where points are projected to, and that nothing in the set is nearer."""

# --8<-- [start:setup]
import math

import torch

from genref.projection.sets import affine, box, l1, l2, masked_box, simplex

low, high = torch.tensor([-0.6, -0.5]), torch.tensor([0.8, 0.7])
A, b = torch.tensor([[0.6, 1.2]]), torch.tensor([0.3])
known, image = torch.tensor([1, 0]), torch.tensor([0.4, 0.0])
projections = {
    "box": lambda y: box(y, low, high),
    "affine": lambda y: affine(y, A, b),
    "simplex": simplex,
    "l1": lambda y: l1(y, 0.9),
    "l2": lambda y: l2(y, 0.9),
    "masked box": lambda y: masked_box(y, known, image),
}

# Points whose convex hull is the set: its corners, two far points of the line, a circle.
turn = torch.linspace(0, 2 * math.pi, 361)
points = {
    "box": torch.cartesian_prod(*torch.stack([low, high], 1)),
    "affine": torch.tensor([[-9.5, 5.0], [10.5, -5.0]]),
    "simplex": torch.eye(2),
    "l1": 0.9 * torch.cat([torch.eye(2), -torch.eye(2)]),
    "l2": 0.9 * torch.stack([turn.cos(), turn.sin()], 1),
    "masked box": torch.tensor([[0.4, 0.0], [0.4, 1.0]]),
}
# --8<-- [end:setup]

# --8<-- [start:check]
cloud = 2 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
for name, project in projections.items():
    x = project(cloud)
    product = ((cloud - x)[:, None] * (points[name] - x[:, None])).sum(-1)
    assert product.max() < 1e-4, "the angle at x is acute for no point of the set"
    assert (project(x) - x).abs().max() < 1e-6, "a point of the set stays where it is"
    nearest = project(torch.tensor([[1.1, -0.7]]))[0].tolist()
    print(f"{name:10}  (1.1, -0.7) goes to", *(f"{entry:5.2f}" for entry in nearest))
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Six panels, one for each set: a box, a line, the simplex, a diamond, a disc, and a vertical
    segment. Of five points those outside the set have arrows to its nearest points. Around one of
    them a dashed circle is drawn through the tip of its arrow, and it meets the set nowhere else.
    """
    fig.set_size_inches(4.2, 6.3)
    y = torch.tensor([[1.1, -0.7], [-0.9, 1.2], [0.9, 1.3], [-1.2, -0.6], [0.1, -0.2]])
    for ax, (name, project) in zip(fig.subplots(3, 2).flat, projections.items(), strict=True):
        x = project(y)
        hull = points[name][[0, 1, 3, 2]] if name == "box" else points[name]
        ax.fill(*hull.T, facecolor=("C0", 0.3), edgecolor="C0", linewidth=2)
        for start, end in zip(y.tolist(), x.tolist(), strict=True):
            if start != end:
                arrow = {"arrowstyle": "->", "color": "C1", "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", end, start, arrowprops=arrow)
        ax.scatter(*y.T, s=14, color="C1", zorder=3)
        first = (y - x)[:4].norm(dim=1).argmin()
        circle = y[first] + (y - x)[first].norm() * torch.stack([turn.cos(), turn.sin()], 1)
        ax.plot(*circle[::5].T, "--", color="C2", linewidth=1.2)
        ax.set(title=name, aspect="equal", xlim=(-1.6, 1.9), ylim=(-1.5, 2))
        ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    fig.supxlabel("first coordinate", size="medium")
    fig.supylabel("second coordinate", size="medium")


# --8<-- [end:figure]


# --8<-- [start:figure_threshold]
def figure_threshold(ax):
    """The sum of the excesses of 0.9, 0.5 and -0.2 over a threshold: three straight pieces that
    fall, ever less steeply, to zero at 0.9. At 0.2 the height is one. Dashed lines continue the
    pieces; those for one coordinate and for all three have height one at -0.1 and at 0.07, off the
    curve. A thin level line marks height one.
    """
    u = torch.tensor([0.9, 0.5, -0.2])
    theta = torch.tensor([-0.45, -0.2, 0.5, 0.9, 1.1])
    ax.plot(theta, (u - theta[:, None]).relu().sum(1), linewidth=3, color=("C0", 0.5))
    ax.scatter(u, (u - u[:, None]).relu().sum(1), s=24, color="C0", label="coordinates of y")
    for j, mark in zip((1, 2, 3), "XDX", strict=True):
        total, solved = u[:j].sum(), (u[:j].sum() - 1) / j
        ends = torch.stack([(total - 2.3) / j, total / j])
        label = "j largest coordinates" if j == 1 else None
        ax.plot(ends, total - j * ends, "--", color="C1", linewidth=1, label=label)
        ax.scatter(solved, 1, s=40, marker=mark, color="C1", zorder=3)
        place = (-0.43, 1.4) if j == 1 else (ends[1] - 0.18, 0.04)
        ax.text(*place, f"j = {j}")
    ax.axhline(1, linewidth=0.8, color="C2", label="one")
    ax.set(xlabel="threshold", ylabel="sum of the excesses", xlim=(-0.45, 1.1), ylim=(-0.1, 2.3))
    ax.legend()


# --8<-- [end:figure_threshold]


# --8<-- [start:figure_regions]
def figure_regions(ax):
    """The simplex of three dimensions seen at right angles: a triangle in its plane. From each
    corner two dotted rays leave at right angles to the edges. In each of the three strips two
    parallel arrows end on an edge, two coordinates positive; in each of the three wedges two arrows
    end at the corner, one positive. A point inside has no arrow, three positive.
    """
    across, up = torch.tensor([-1.0, 1.0, 0.0]), torch.tensor([-1.0, -1.0, 2.0]) / 3**0.5
    plane = torch.stack([across, up], 1)
    corner = torch.eye(3)
    ax.fill(*(corner @ plane).T, facecolor=("C0", 0.3), edgecolor="C0", linewidth=2)
    for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
        if i != j:
            ray = torch.stack([corner[i], corner[i] + 0.5 * (1 - 3 * corner[j])])
            ax.plot(*(ray @ plane).T, ":", color="C2")
    y = torch.tensor([[0.9, 0.7, -0.6], [0.45, 0.95, -0.4], [1.9, -0.5, -0.4], [1.5, 0.0, -0.5]])
    y = torch.cat([*[y.roll(k, 1) for k in range(3)], torch.tensor([[0.5, 0.3, 0.2]])])
    for start, end in zip((y @ plane).tolist(), (simplex(y) @ plane).tolist(), strict=True):
        if math.dist(start, end) > 0.01:
            arrow = {"arrowstyle": "->", "color": "C1", "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", end, start, arrowprops=arrow)
    for m in (1, 2, 3):
        some = (simplex(y) > 0).sum(1) == m
        ax.scatter(*(y[some] @ plane).T, s=24, marker=" ^so"[m], color="C1", label=f"{m} positive")
    ax.set(aspect="equal")
    ax.axis("off")
    ax.legend(loc="upper left", bbox_to_anchor=(0.95, 1))


# --8<-- [end:figure_regions]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    for draw in (figure_threshold, figure_regions):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
