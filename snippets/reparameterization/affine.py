"""The density of an affine map of Gaussian noise whose determinant is negative, and its price."""

# --8<-- [start:setup]
import math

import torch

from genref.reparameterization.affine import (
    Diagonal,
    LowRank,
    Triangular,
    cholesky_factor,
    log_abs_det,
    log_prob,
    multiplications,
    sample,
)

mu = torch.tensor([0.5, -1.0])
S = torch.tensor([[0.5, 1.5], [1.4, 0.2]])
x = sample(mu, S, (4,), torch.Generator().manual_seed(1))
# --8<-- [end:setup]

# --8<-- [start:check]
jacobian = torch.autograd.functional.jacobian(lambda z: mu + S @ z, torch.zeros(2))
direct = torch.linalg.slogdet(jacobian).logabsdet
ways = [log_abs_det(S), direct, (S @ S.T).logdet() / 2]
print(f"det S = {S.det():.2f}, log|det S| =", *(f"{way:.4f}" for way in ways))

z = torch.linalg.solve(S, (x - mu).T).T
noise = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
assert torch.allclose(log_prob(x, mu, S), noise - direct, atol=1e-5)

L = cholesky_factor(S)
law = torch.distributions.MultivariateNormal(mu, S @ S.T)
for scale in (S, L, Triangular(L)):
    assert torch.allclose(log_prob(x, mu, scale), law.log_prob(x), atol=1e-5)
print("triangular, with the same law:", *(f"{v:.2f}" for v in L[L != 0]))
# --8<-- [end:check]

turn = torch.linspace(0, 2 * math.pi, 200)
circle = torch.stack([turn.cos(), turn.sin()])


# --8<-- [start:figure]
def figure(fig):
    """The unit circle and, shaded, its image, an ellipse, in two panels. Three points of the circle
    are numbered anticlockwise. On the left the determinant is 2 and their images run anticlockwise
    too. On the right the columns of the matrix are exchanged, the determinant is -2, and the images
    run clockwise on the same ellipse.
    """
    fig.set_size_inches(4.8, 3.2)
    points = circle[:, [0, 66, 133]]
    for ax, A in zip(fig.subplots(1, 2, sharey=True), (S.flip(1), S), strict=True):
        for k, (path, marks) in enumerate([(circle, points), (A @ circle, A @ points)]):
            ax.plot(*path, color=f"C{k}", linestyle=":-"[k], label=("circle", "image")[k])
            ax.scatter(*marks, color=f"C{k}", marker="oD"[k], s=20)
            away = 1 + (-0.3, 0.3)[k] / marks.norm(dim=0)
            for number, place in enumerate((marks * away).T, 1):
                ax.text(*place, str(number), color=f"C{k}", ha="center", va="center")
        ax.fill(*path, color=("C1", 0.15))
        (a, b), (c, d) = path, path.roll(-1, dims=1)
        area = (a * d - b * c).sum() / 2 / math.pi
        ax.set(title=f"signed {area:+.1f}, absolute {abs(area):.1f}", aspect="equal")
        ax.set(xlim=(-2.1, 2.1), ylim=(-1.9, 1.9), xlabel="first coordinate")
    fig.axes[0].set_ylabel("second coordinate")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_law]
def figure_law(fig):
    """Three panels with one and the same ellipse around the origin. In each, two arrows from the
    origin to the ellipse show the columns of a matrix: the lower triangular one, whose second
    column points straight up, the matrix S, and the symmetric one. The arrows differ.
    """
    fig.set_size_inches(4.8, 2.4)
    value, vector = torch.linalg.eigh(S @ S.T)
    root = vector * value.sqrt() @ vector.T
    names = ("triangular", "S itself", "symmetric")
    for ax, A, name in zip(fig.subplots(1, 3, sharey=True), (L, S, root), names, strict=True):
        ax.plot(*(A @ circle), color="C0")
        for k, column in enumerate(A.T):
            ax.annotate("", column, (0, 0), arrowprops={"arrowstyle": "->", "color": f"C{k + 1}"})
            ax.text(*(1.25 * column), str(k + 1), color=f"C{k + 1}", ha="center", va="center")
        ax.set(title=name, aspect="equal", xlim=(-2.1, 2.1), ylim=(-1.9, 1.9))


# --8<-- [end:figure_law]


# --8<-- [start:figure_cost]
def figure_cost(ax):
    """The number of multiplications of a determinant against the dimension, from 4 to 1024, both
    axes logarithmic. The counts of a diagonal and of a triangular matrix coincide on a line of
    slope 1. Those of a diagonal plus rank 4 lie higher, by a factor that falls from 36 to 21. Those
    of a full matrix have slope 3 and are at 1024 more than 300000 times those of a diagonal.
    """
    K = [2**n for n in range(2, 11)]
    lines = [("full", "s-", {}), ("diagonal plus rank 4", "^-.", {"form": LowRank, "rank": 4})]
    lines += [("triangular", "o", {"form": Triangular}), ("diagonal", "-", {"form": Diagonal})]
    for name, style, options in lines:
        ax.loglog(K, [multiplications(k, **options) for k in K], style, label=name)
    ax.set(xlabel="dimension", ylabel="multiplications and divisions")
    ax.legend()


# --8<-- [end:figure_cost]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_law(plt.figure(layout="constrained"))
    figure_cost(plt.figure(layout="constrained").gca())
    plt.show()
