"""Five latents of a linear beta-VAE: which survive a weight, and which survive learnt noise."""

# --8<-- [start:setup]
import torch

from genref.latent.collapse import collapse_threshold, noise_variance, squared_weights

eigenvalues = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
# --8<-- [end:setup]

# --8<-- [start:check]
print("noise fixed at 1, collapse from beta =", *collapse_threshold(eigenvalues, 1.0).tolist())
thresholds = collapse_threshold(eigenvalues)
print("noise learnt,     collapse from beta =", *(f"{beta:.2f}" for beta in thresholds))
for beta in (1.2, 1.5, 2.0, 3.0):
    variance = noise_variance(eigenvalues, beta, 5)
    squares = squared_weights(eigenvalues, variance, beta)
    assert torch.equal(squares > 0, thresholds > beta)
    print(f"beta {beta}: noise {variance:.2f}, squared weights", *(f"{w:.2f}" for w in squares))


def mean_loss(W, beta=3.0):
    """The least loss for noise of variance 1, averaged over the data, less a constant."""
    c, S = beta * torch.eye(5), torch.diag(eigenvalues)
    model = W @ W.mT + c
    return beta / 2 * (model.logdet() - c.logdet() + torch.linalg.solve(model, S).diagonal().sum())


generator = torch.Generator().manual_seed(1)
best = torch.diag(squared_weights(eigenvalues, 1.0, 3.0).sqrt()).requires_grad_()
(slope,) = torch.autograd.grad(mean_loss(best), best)
assert slope.abs().max() < 1e-12
for size in (0.01, 0.1, 1.0):
    for _ in range(100):
        W = best + size * torch.randn(5, 5, generator=generator, dtype=torch.float64)
        assert mean_loss(W) > mean_loss(best)
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Two staircases that fall to no surviving latent as beta grows. With fixed noise the steps are
    at one half, one, two, four and eight, the eigenvalues. With learnt noise the stairs begin at
    one, where the first of five latents is lost, and end before three.
    """
    beta = torch.logspace(-0.6, 1.3, 800)
    above = beta[beta > 1]
    fixed = squared_weights(eigenvalues, 1.0, beta)
    alive = collapse_threshold(eigenvalues) > above[:, None]
    ax.semilogx(beta, (fixed > 0).sum(1), color="C0", label=r"noise fixed at $\sigma^2=1$")
    ax.semilogx(above, alive.sum(1), "--", color="C1", label="noise learnt")
    ax.plot(eigenvalues, torch.arange(5) + 0.5, "o", color="C0", label=r"$\lambda_i/\sigma^2$")
    ax.set(xlabel=r"$\beta$", ylabel="latents that survive")
    ax.set(xticks=[0.5, 1, 2, 4, 8, 16], xticklabels=["1/2", 1, 2, 4, 8, 16])
    ax.minorticks_off()
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_water]
def figure_water(ax):
    """Five bars of falling height, the eigenvalues, and a level line at 1.5. The parts of the bars
    below the line are hatched, those above it plain. Three bars reach above the line, two do not.
    """
    level, at = 1.5, range(1, 6)
    squares = squared_weights(eigenvalues, 1.0, level)
    error = (eigenvalues - squares).tolist()
    ax.bar(at, error, color=("C0", 0.3), edgecolor="C0", hatch="//", label="squared error")
    ax.bar(at, squares.tolist(), 0.8, error, color=("C1", 0.5), label="squared weight $w_i^2$")
    ax.axhline(level, color="C2", linestyle="--", label=r"level $\beta\,\sigma^2$")
    ax.set(xlabel="direction $i$", ylabel=r"eigenvalue $\lambda_i$")
    ax.legend()


# --8<-- [end:figure_water]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    for draw in (figure, figure_water):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
