"""Dropout in linear regression: the loss averaged over all masks, and its minimiser."""

# --8<-- [start:setup]
import torch

from genref.regularization.dropout import expected_loss, ridge, solution

X = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 2.0], [2.0, 3.0, 1.0], [1.0, 2.0, 4.0]])
y = torch.tensor([2.0, -1.0, 3.0, 1.0])
keep = 0.7

bits = [torch.tensor([0.0, 1.0])] * X.numel()
masks = torch.cartesian_prod(*bits).view(-1, *X.shape)
chance = (keep * masks + (1 - keep) * (1 - masks)).flatten(1).prod(1)
# --8<-- [end:setup]

# --8<-- [start:check]
w = torch.tensor([1.5, -0.5, 0.25])
losses = (y - (X * masks) @ w).square().sum(1)
assert torch.isclose(chance @ losses, expected_loss(X, y, w, keep))
print(f"{len(masks)} masks, mean loss {expected_loss(X, y, w, keep):.4f}")

w = solution(X, y, keep).requires_grad_()
losses = (y - (X * masks) @ w).square().sum(1)
(slope,) = torch.autograd.grad(chance @ losses, w)
assert slope.abs().max() < 1e-4

norm = X.norm(dim=0)
unit_ridge = ridge(X / norm, y, penalty=(1 - keep) / keep)
assert torch.allclose(keep * w, unit_ridge / norm)

alone = (X.T @ y) / norm**2
assert torch.allclose(solution(X, y, keep=1e-6), alone, rtol=1e-4)

for name, weights in {
    "least squares": ridge(X, y, 0),
    "dropout": w,
    "one feature at a time": alone,
}.items():
    print(f"{name:21}", *(f"{weight:6.3f}" for weight in weights))
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Three panels against the penalty from 0.01 to 1000, with three weights in each, which
    start near least squares at about 1.4, 0.1 and -0.3. Left, p times w of dropout: all end at
    0, the second after a rise and the third after a change of sign. Middle, w of dropout itself:
    the weights move to 1.14, 0.71 and 0.32, marked at the right edge. Right, w of ridge
    regression: all end at 0, in the manner of the left panel.
    """
    fig.set_size_inches(4.8, 2.9)
    penalty = torch.logspace(-2, 3, 80)
    p = 1 / (1 + penalty)
    w, nothing = solution(X, y, p), torch.zeros(3)
    panels = {
        "dropout, $pw$": (p[:, None] * w, nothing),
        "dropout, $w$": (w, X.T @ y / X.square().sum(0)),
        "ridge, $w$": (ridge(X, y, penalty), nothing),
    }
    for ax, title in zip(fig.subplots(1, 3, sharey=True), panels, strict=True):
        path, end = panels[title]
        ax.axhline(0, color="C5", linewidth=0.6)
        for k, style in enumerate(("-", "--", "-.")):
            colour, label = f"C{k}", f"weight {k + 1}"
            ax.semilogx(penalty, path[:, k], style, color=colour, label=label)
            ax.plot(1000, end[k], "osD"[k], color=colour, clip_on=False)
        ax.set(title=title, xlabel=r"penalty $\lambda$")
        ax.set(xlim=(0.01, 1000), xticks=[0.01, 1, 100])
        ax.minorticks_off()
    fig.axes[0].set_ylabel("weight")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    plt.show()
