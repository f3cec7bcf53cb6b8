"""A latent with four values under every weight of the divergence."""

# --8<-- [start:setup]
import torch

from genref.latent.beta import loss, optimal_loss, optimal_posterior

prior = torch.tensor([0.05, 0.15, 0.35, 0.45])
likelihood = torch.tensor([0.80, 0.50, 0.30, 0.05])
# --8<-- [end:setup]

# --8<-- [start:check]
for beta in (0.0, 0.1, 1.0, 10.0, float("inf")):
    q = optimal_posterior(prior, likelihood, beta)
    print(f"beta {beta:4}:", *(f"{p:.2f}" for p in q))

generator = torch.Generator().manual_seed(1)
others = torch.rand(1000, 4, generator=generator)
others = others / others.sum(1, keepdim=True)
for beta in (0.1, 1.0, 10.0):
    q = optimal_posterior(prior, likelihood, beta)
    least = loss(prior, likelihood, q, beta)
    assert torch.isclose(least, optimal_loss(prior, likelihood, beta))
    assert (loss(prior, likelihood, others, beta) > least).all()
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Four probabilities against the weight beta, on a logarithmic axis from one thousandth to one
    thousand. On the left the first value has all the mass. One after the other the second, the
    third and the fourth come up. At one they are the posterior, led by the third value, and on the
    right they are level with four dots, the prior, led by the fourth.
    """
    beta = torch.logspace(-3, 3, 241)
    q = optimal_posterior(prior, likelihood, beta)
    for z, style in enumerate(("-", "--", "-.", ":")):
        ax.semilogx(beta, q[:, z], style, color=f"C{z}", label=f"$z={z + 1}$")
        ax.plot(1, q[120, z], "s", color=f"C{z}", markersize=4)
        ax.plot(1000, prior[z], "o", color=f"C{z}", clip_on=False)
    ax.axvline(1, linewidth=0.8, linestyle=":", color="C5")
    ax.set(xlabel=r"$\beta$", ylabel=r"$q_\beta^\star(z)$")
    ax.set(xlim=(1e-3, 1e3), ylim=(0, 1.05))
    ax.legend(loc="upper right", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_bound]
def figure_bound(ax):
    """Minus the least loss against beta, on a logarithmic axis: a falling curve. It starts at the
    logarithm of the largest likelihood, crosses the level of the evidence at one, and ends at the
    mean of the logarithm under the prior. Left of one, where it is above the evidence, it is thick.
    """
    beta = torch.logspace(-3, 3, 241)
    value = -optimal_loss(prior, likelihood, beta)
    ax.semilogx(beta[:121], value[:121], color="C1", linewidth=3, label="no bound")
    ax.semilogx(beta[120:], value[120:], color="C0", label="a bound")
    ends = -optimal_loss(prior, likelihood, torch.tensor([0.0, 1.0, torch.inf]))
    for end, colour, style, name in (
        (ends[0], "C2", "-.", r"$\max_z\,\log\,p(x|z)$"),
        (ends[1], "C3", "--", r"$\log\,p(x)$"),
        (ends[2], "C4", ":", r"$E_{p(z)}\log\,p(x|z)$"),
    ):
        ax.axhline(end, linestyle=style, color=colour, label=name)
    ax.set(xlabel=r"$\beta$", ylabel=r"$-F(\beta)$ in nats", xlim=(1e-3, 1e3))
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.93))


# --8<-- [end:figure_bound]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    for draw in (figure, figure_bound):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
