"""A model in which inference is least squares: its evidence, its posterior, and two bounds."""

# --8<-- [start:setup]
import torch

from genref.latent.linear_gaussian import Gaussian, LinearGaussian, mean_field

model = LinearGaussian(W=torch.tensor([[1.5, 1.0], [0.3, 0.9]]), variance=0.5)
x = torch.tensor([1.8, 1.2])

exact = model.posterior(x)
factorised = mean_field(exact)
marginals = Gaussian(exact.loc, exact.covariance.diagonal().sqrt().diag())
# --8<-- [end:setup]

# --8<-- [start:check]
covariance = model.W @ model.W.T + model.variance * torch.eye(2)
dense = torch.distributions.MultivariateNormal(torch.zeros(2), covariance)
assert torch.allclose(model.log_evidence(x), dense.log_prob(x))

print(f"log p(x)   {model.log_evidence(x):.3f}")
laws = {"posterior": exact, "factorised": factorised, "marginals": marginals}
for name, q in laws.items():
    variances = [f"{v:.3f}" for v in q.covariance.diag()]
    print(f"{name:10} {model.elbo(x, q):.3f}  variances", *variances)
# --8<-- [end:check]


# --8<-- [start:figure]
def ellipse(ax, law, **style):
    """The points one standard deviation from the mean."""
    angle = torch.linspace(0, 2 * torch.pi, 97)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    ax.plot(*(law.loc + circle @ law.scale.T).T, **style)


def figure(fig):
    """Ellipses in the plane of two latents. On the left the prior, a circle around the origin, the
    likelihood, long, thin and tilted, and the posterior between them, smaller than both and tilted
    too. On the right the posterior with two upright ellipses of its centre: the best factorised
    law, which meets it on the two lines through the centre, and the product of its marginals, which
    touches it where it is widest and highest.
    """
    fig.set_size_inches(4.8, 3.4)
    left, right = fig.subplots(1, 2)
    inverse = torch.linalg.inv(model.W)
    likelihood = Gaussian(inverse @ x, model.variance**0.5 * inverse)
    prior = Gaussian(torch.zeros(2), torch.eye(2))
    ellipse(left, prior, color="C0", linestyle=":", label="prior")
    ellipse(left, likelihood, color="C1", linestyle="--", label="likelihood")
    ellipse(left, exact, color="C2", linewidth=2.5, label="posterior")
    ellipse(right, exact, color="C2", linewidth=2.5)
    ellipse(right, factorised, color="C3", linestyle="-.", label="best factorised")
    ellipse(right, marginals, color="C4", linestyle=":", label="its marginals")
    steps = torch.cat([factorised.scale, -factorised.scale])
    right.plot(*(exact.loc + steps).T, "o", color="C3", markersize=5)
    for ax in (left, right):
        ax.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    fig.legend(loc="outside upper center", ncols=3)


# --8<-- [end:figure]


# --8<-- [start:figure_gap]
def figure_gap(ax):
    """The gap of two factorised laws against the cosine of the angle between the two columns of W.
    All curves start at zero and rise, those for the noise variance 0.1 steeper than those for 1.
    The marginals, dashed, always cost more than the best factorised law.
    """
    cosine = torch.linspace(0, 0.99, 100)
    one, zero, sine = torch.ones(100), torch.zeros(100), (1 - cosine**2).sqrt()
    W = torch.stack([one, cosine, zero, sine], 1).view(100, 2, 2)
    for variance, colour in ((0.1, "C0"), (1.0, "C1")):
        model = LinearGaussian(W, variance)
        x = torch.zeros(2)
        exact = model.posterior(x)
        deviations = exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        for q, style, name in (
            (mean_field(exact), "-", "best factorised"),
            (Gaussian(exact.loc, deviations.diag_embed()), "--", "marginals"),
        ):
            gap = model.log_evidence(x) - model.elbo(x, q)
            label = rf"{name}, $\sigma^2={variance:g}$"
            ax.plot(cosine, gap, style, color=colour, label=label)
    ax.set(xlabel="cosine between the columns of $W$", ylabel="gap in nats")
    ax.set_ylim(0, 1.5)
    ax.legend()


# --8<-- [end:figure_gap]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_gap(plt.figure(layout="constrained").gca())
    plt.show()
