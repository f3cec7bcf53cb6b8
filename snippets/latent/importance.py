"""The bound of K importance weights: how it closes the gap, and how sharp its gradients are."""

# --8<-- [start:setup]
import math

import torch
from torch.distributions import Normal

from genref.latent.importance import bound, doubly_reparameterized, gap, jackknife

x, theta, phi, scale = torch.tensor([2.0, -0.5, 0.1, 0.9])


def log_weight(z, theta=theta, phi=phi):
    """The model z ~ N(theta, 1), x ~ N(z, 1) and the proposal z ~ N(phi, scale²)."""
    joint = Normal(theta, 1).log_prob(z) + Normal(z, 1).log_prob(x)
    return joint - Normal(phi, scale).log_prob(z)


def gradients(K, runs, generator):
    """One gradient for each run: by theta, by phi, and by phi doubly reparameterised."""
    at = theta.repeat(runs, 1).requires_grad_()
    to = phi.repeat(runs, 1).requires_grad_()
    z = to + scale * torch.randn(runs, K, generator=generator)
    plain = bound(log_weight(z, at, to))
    doubly = doubly_reparameterized(lambda z: log_weight(z, at, to.detach()), z)
    return (
        *torch.autograd.grad(plain.sum(), (at, to), retain_graph=True),
        *torch.autograd.grad(doubly.sum(), to),
    )


# --8<-- [end:setup]

# --8<-- [start:check]
generator = torch.Generator().manual_seed(1)
truth = Normal(theta, math.sqrt(2)).log_prob(x)
print(f"log p(x) {truth:.3f}")
print("  K   bound  plus gap  jackknife")
for K in (1, 2, 4, 16, 64):
    z = phi + scale * torch.randn(8000, K, generator=generator)
    log_w = log_weight(z)
    found = [bound(log_w), bound(log_w) + gap(log_w)]
    found += [jackknife(log_w)] if K > 1 else []
    assert found[0].mean() < truth
    print(f"{K:3}", *(f"{value.mean():8.2f}" for value in found))
# --8<-- [end:check]


# --8<-- [start:figure]
def exact_gap(rate, K):
    """The gap for the posterior Exp(1) and the proposal Exp(rate), by two nested integrals."""
    y, log_t = (torch.arange(low, 5, 0.1, dtype=torch.float64) for low in (-36, -24))
    w = ((rate - 1) / rate * y.exp()).exp() / rate
    mass, t = 0.1 * (y - y.exp()).exp(), log_t.exp()
    transform = torch.expm1(-t[:, None] / K * w) @ mass
    return 0.1 * ((K * transform.log1p()).exp() - (-t).exp()).sum()


def figure(ax):
    """The number of samples times the gap, on logarithmic axes, for the posterior Exp(1) and three
    proposals. For the rate 1.5 the curve levels off at the dashed line of its limit, one sixth. For
    the rate 2 it keeps rising, slowly, and for the rate 3 it rises with the slope one half. The
    means of sampled bounds, drawn with error bars, lie on the curves.
    """
    sizes = 2 ** torch.arange(13)
    generator = torch.Generator().manual_seed(2)
    for i, (rate, mark) in enumerate({3: "D", 2: "s", 1.5: "o"}.items()):
        curve = [K * exact_gap(rate, K) for K in sizes]
        ax.loglog(sizes, curve, color=f"C{i}", label=f"$r={rate}$")
        for K in (1, 4, 16):
            z = torch.empty(16_000, K).exponential_(rate, generator=generator)
            value = -K * bound((rate - 1) * z - math.log(rate))
            error = 2 * value.std() / math.sqrt(len(value))
            ax.errorbar(K, value.mean(), error, color=f"C{i}", marker=mark, markersize=4)
    ax.axhline(1 / 6, color="C3", linestyle="--", label="$c_1=1/6$")
    ax.set(xlabel="number of samples $K$", ylabel=r"$K\,(\log\,p(x)-L_K)$ in nats")
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_noise]
def figure_noise(ax):
    """Signal-to-noise ratios against the number of samples, on logarithmic axes, with dashed lines
    of slope plus or minus one half. The ratio of the gradient by theta and that of the doubly
    reparameterised gradient by phi rise along such lines, that of the plain gradient by phi falls.
    """
    sizes = [1, 2, 4, 8, 16, 32, 64]
    kinds = {r"$\theta$": 0.5, r"$\phi$": -0.5, r"$\phi$, doubly reparameterised": 0.5}
    generator = torch.Generator().manual_seed(3)
    found = [[g.mean().abs() / g.std() for g in gradients(K, 20_000, generator)] for K in sizes]
    for i, (name, slope) in enumerate(kinds.items()):
        values = torch.stack([ratios[i] for ratios in found])
        line = torch.tensor(sizes) ** slope
        line = line * (values / line)[-3:].mean()
        ax.loglog(sizes, line, color=f"C{i}", linestyle="--")
        ax.loglog(sizes, values, "osD"[i], color=f"C{i}", markersize=5, label=name)
    ax.set(xlabel="number of samples $K$", ylabel="signal-to-noise ratio")
    ax.set(xticks=sizes, xticklabels=sizes, yticks=[0.1, 1, 10], yticklabels=[0.1, 1, 10])
    ax.minorticks_off()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)


# --8<-- [end:figure_noise]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_noise(plt.figure(layout="constrained").gca())
    plt.show()
