"""The refined proposal: its law, its draws and its bound, beside those of K samples."""

# --8<-- [start:setup]
import math
from itertools import pairwise

import torch

from genref.latent.finite import divergence, elbo, exact_bound, log_evidence, posterior
from genref.latent.refined import law, log_refined, sample

q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
joint = torch.tensor([0.1, 0.25, 0.05], dtype=torch.float64)
log_q, log_w = q.log(), (joint / q).log()
# --8<-- [end:setup]

# --8<-- [start:check]
print("K    L_K    L_1[q_K]  log p(x)  KL(q_K||posterior)")
for K in (1, 2, 3, 4, 5):
    refined = law(log_q, log_w, K)
    ladder = elbo(joint, q), exact_bound(joint, q, K), elbo(joint, refined), log_evidence(joint)
    assert all(low <= high + 1e-12 for low, high in pairwise(ladder))
    bounds = "    ".join(f"{bound:.3f}" for bound in ladder[1:])
    print(f"{K}  {bounds}    {divergence(refined, posterior(joint)):.3f}")

mass = log_refined(log_q, log_w, log_w[:, None, None]).exp().sum(1)
assert torch.isclose(mass @ q, torch.tensor(1.0).double())
print("masses of the refined proposals for K = 2", *(f"{m:.3f}" for m in mass))

generator = torch.Generator().manual_seed(1)
z = torch.multinomial(q, 5 * 20000, replacement=True, generator=generator).view(-1, 5)
frequency = sample(z, log_w[z], generator).bincount() / len(z)
assert torch.allclose(frequency.double(), law(log_q, log_w, 5), atol=0.02)
print("law of the resampled value for K = 5     ", *(f"{p:.3f}" for p in refined))
# --8<-- [end:check]


# A standard normal z, whose square is observed as 1.5 with noise of deviation 0.5.
def normal(z, loc, scale):
    return -(((z - loc) / scale) ** 2) / 2 - math.log(scale * math.sqrt(2 * math.pi))


def log_proposal(z):
    return normal(z, 0.4, 1)


def log_weight(z):
    return normal(z, 0, 1) + normal(z**2, 1.5, 0.5) - log_proposal(z)


grid = torch.linspace(-6, 6, 481, dtype=torch.float64)
cell = 12 / 480
shown = slice(100, 381, 2)


def refined_density(K):
    """The density of the refined proposal on the grid."""
    return law(log_proposal(grid).log_softmax(0), log_weight(grid), K) / cell


# --8<-- [start:figure]
def figure(ax):
    """Densities over the latent. The proposal has one hump in the middle. Refined with 2, 5 and 20
    samples it sinks there and grows into the two narrow peaks of the posterior. A histogram of
    resampled draws follows the refined density for 5 samples.
    """
    z = 0.4 + torch.randn(4000, 5, generator=torch.Generator().manual_seed(3))
    z_J = sample(z, log_weight(z), torch.Generator().manual_seed(4))
    draws = {"bins": 50, "range": (-2.5, 2.5), "density": True}
    ax.hist(z_J, **draws, color=("C1", 0.3), label="draws, $K=5$")
    ax.plot(grid[shown], log_proposal(grid[shown]).exp(), ":", color="C5", label="$q$")
    for K, line, color in ((2, "-.", "C2"), (5, "-", "C1"), (20, "-", "C0")):
        density = refined_density(K)[shown]
        ax.plot(grid[shown], density, line, color=color, label=f"$q_{{{K}}}$")
    posterior = (log_proposal(grid) + log_weight(grid)).softmax(0) / cell
    ax.plot(grid[shown], posterior[shown], "--", color="C3", label="posterior")
    ax.set(xlabel="$z$", ylabel="density", xlim=(-2.5, 2.5))
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_given]
def figure_given(ax):
    """Refined proposals for two samples, given the second one, with their masses. Where the weight
    of the second sample is small, the curve is high and its mass above one; where it lies on a peak
    of the posterior, the curve is low. A bold line shows their mean, of mass one.
    """
    for place, line in ((0.0, ":"), (0.8, "-."), (1.2, "--")):
        other = log_weight(torch.tensor([place]))
        given = log_refined(log_proposal(grid), log_weight(grid), other.double()).exp()
        label = f"$z_2={place}$: mass {given.sum() * cell:.2f}"
        ax.plot(grid[shown], given[shown], line, label=label)
    mean = refined_density(2)[shown]
    ax.plot(grid[shown], mean, color="C3", linewidth=2.5, label="mean: $q_2$, mass 1.00")
    ax.set(xlabel="$z$", ylabel="density", xlim=(-2.5, 2.5), ylim=(0, 1.05))
    ax.legend(loc="upper left")


# --8<-- [end:figure_given]


# --8<-- [start:figure_ladder]
def figure_ladder(ax):
    """Four levels against the number of samples on a logarithmic axis. The bound of one sample is
    a horizontal line at the bottom, the evidence one at the top. Between them the bound of K
    samples climbs, and above it, much nearer to the evidence, that of the refined proposal.
    """
    samples = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    ax.axhline(log_evidence(joint), color="C3", linestyle="--", label=r"$\log p(x)$")
    refined = [elbo(joint, law(log_q, log_w, K)) for K in samples]
    ax.plot(samples, refined, "o-", markersize=4, label="$L_1[q_K]$")
    bounds = [exact_bound(joint, q, K) for K in samples]
    ax.plot(samples, bounds, "s-", markersize=4, label="$L_K[q]$")
    ax.axhline(elbo(joint, q), color="C5", linestyle=":", label="$L_1[q]$")
    ax.set(xscale="log", xlabel="number of samples $K$", ylabel="nats")
    ax.set(xticks=[1, 2, 4, 8, 16, 32, 64], xticklabels=[1, 2, 4, 8, 16, 32, 64])
    ax.minorticks_off()
    ax.legend(loc="center right")


# --8<-- [end:figure_ladder]


# --8<-- [start:figure_gaps]
def figure_gaps(ax):
    """Two gaps below the evidence against the number of samples, both axes logarithmic: that of K
    samples falls along a line of slope minus one, that of the refined proposal along a steeper one
    of slope minus two.
    """
    samples = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128])
    top, r = log_evidence(joint), posterior(joint) / q
    mean = posterior(joint) @ r
    bounds = [top - exact_bound(joint, q, int(K)) for K in samples]
    refined = [divergence(law(log_q, log_w, int(K)), posterior(joint)) for K in samples]
    ax.loglog(samples, bounds, "s", color="C1", label=r"$\log p(x)-L_K[q]$")
    ax.loglog(samples, (mean - 1) / 2 / samples, ":", color="C1", label=r"$c_1/K$")
    ax.loglog(samples, refined, "o", color="C0", label=r"$\log p(x)-L_1[q_K]$")
    limit = posterior(joint) @ (r - mean) ** 2 / 2
    ax.loglog(samples, limit / samples**2, "--", color="C0", label=r"$v/(2K^2)$")
    ax.set(xlabel="number of samples $K$", ylabel="gap in nats")
    ax.set(xticks=[1, 4, 16, 64], xticklabels=[1, 4, 16, 64])
    ax.minorticks_off()
    ax.legend()


# --8<-- [end:figure_gaps]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    for draw in (figure, figure_given, figure_ladder, figure_gaps):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
