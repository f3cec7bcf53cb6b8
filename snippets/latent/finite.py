"""A latent with three values: the posterior, the bounds for K samples and where they go."""

# --8<-- [start:setup]
import torch

from genref.latent.finite import (
    elbo,
    exact_bound,
    exact_proposal,
    log_evidence,
    posterior,
    table,
)

prior = torch.tensor([0.2, 0.5, 0.3])
likelihood = torch.tensor([0.5, 0.5, 0.1])
joint = table(prior, likelihood)

proposals = {
    "good": torch.tensor([0.3, 0.5, 0.2]),
    "bad": torch.tensor([0.1, 0.1, 0.8]),
    "narrow": torch.tensor([0.0, 0.4, 0.6]),
}
# --8<-- [end:setup]

# --8<-- [start:check]
print("log p(x)", f"{log_evidence(joint):.3f}")
for name, q in proposals.items():
    bounds = torch.stack([exact_bound(joint, q, K) for K in (1, 2, 4, 8, 16)])
    assert torch.isclose(bounds[0], elbo(joint, q))
    assert (bounds.diff() > 0).all()
    assert bounds[-1] < log_evidence(joint)
    print(f"{name:8}", *(f"{bound:.3f}" for bound in bounds))

K, q = 4, proposals["bad"]
draws = torch.cartesian_prod(*[torch.arange(3)] * K)
chance, w = q[draws].prod(1), (joint / q)[draws]
assert torch.isclose(exact_bound(joint, q, K), chance @ w.mean(1).log())

print("bad      ", *(f"{p:.3f}" for p in q))
print("4 samples", *(f"{p:.3f}" for p in exact_proposal(joint, q, K)))
print("posterior", *(f"{p:.3f}" for p in posterior(joint)))
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Three bounds against the number of samples on a logarithmic axis. The bound of the good
    proposal is near the evidence from the start; that of the bad one climbs to it from far below;
    that of the narrow one, which never draws one of the values, levels off beneath it.
    """
    samples = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    for marker, (name, q) in zip("osD", proposals.items(), strict=True):
        bounds = [exact_bound(joint, q, K) for K in samples]
        ax.semilogx(samples, bounds, marker=marker, markersize=4, label=f"{name} proposal")
    ax.axhline(log_evidence(joint), color="C3", linestyle="--", label=r"$\log p(x)$")
    ax.axhline(joint[1:].sum().log(), color="C4", linestyle=":", label="what the narrow one covers")
    ax.set(xlabel="number of samples $K$", ylabel="bound $L_K$ in nats")
    ax.set(xticks=[1, 2, 4, 8, 16, 32, 64], xticklabels=[1, 2, 4, 8, 16, 32, 64])
    ax.minorticks_off()
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_elbo]
def figure_elbo(ax):
    """Three curves over the probability of the first of two values of the latent. The expected log
    joint density is a straight line that rises to one end. The bound lies above it by the entropy,
    is concave, and touches the level of the evidence at the posterior, away from the end.
    """
    joint = torch.tensor([0.3, 0.1])
    first = torch.linspace(0, 1, 201)
    q = torch.stack([first, 1 - first], 1)
    ax.axhline(log_evidence(joint), color="C3", linestyle="--", label=r"$\log p(x)$")
    ax.plot(first, elbo(joint, q), color="C0", linewidth=2.5, label="bound $L_1$")
    ax.plot(first, q @ joint.log(), color="C1", linestyle="-.", label=r"$E_q\,\log\,p(x,z)$")
    ax.plot(*posterior(joint)[:1], log_evidence(joint), "o", color="C2", label="posterior")
    ax.set(xlabel="probability of the first value under $q$", ylabel="nats")
    ax.legend()


# --8<-- [end:figure_elbo]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_elbo(plt.figure(layout="constrained").gca())
    plt.show()
