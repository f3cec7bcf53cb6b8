"""Two fits of a density with two humps by an affine flow: from samples, and from values."""

# --8<-- [start:setup]
import math

import torch
from torch.distributions import Normal

from genref.flows.duality import (
    AffineMap,
    divergence,
    forward_loss,
    moment_match,
    pushforward,
    reverse_loss,
)

double = torch.float64
weight, centre = torch.tensor([[0.7, 0.3], [2.0, -2.0]], dtype=double)


def target(x):
    """The logarithm of twice the density of the data."""
    return data(x) + math.log(2)


def data(x):
    """The log-density of 0.7 N(2, 1/4) + 0.3 N(-2, 1/4)."""
    return (weight.log() + Normal(centre, 0.5).log_prob(x)).logsumexp(-1)


def base(z):
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


def descend(flow, loss):
    """Moves the parameters of the flow to a minimum of the mean loss."""
    options = {"max_iter": 200, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(flow.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        value = loss(flow).mean()
        value.backward()
        return value

    optimizer.step(closure)
    return flow


# Samples only: maximum likelihood. Values only: noise, stratified to be repeatable.
generator = torch.Generator().manual_seed(1)
hump = centre[torch.multinomial(weight, 4000, replacement=True, generator=generator)]
x = (hump + 0.5 * torch.randn(4000, dtype=double, generator=generator))[:, None]
z = Normal(0.0, 1.0).icdf((torch.arange(1000, dtype=double) + 0.5) / 1000)[:, None]

one = torch.eye(1, dtype=double)
likelihood = lambda flow: forward_loss(flow.to_latent, base, x)
values = lambda flow: reverse_loss(flow.to_data, target, z)
fits = {
    "forward": descend(AffineMap(one[0], one), likelihood),
    "reverse, from the right": descend(AffineMap(3 * one[0], one), values),
    "reverse, from the left": descend(AffineMap(-3 * one[0], one), values),
}
# --8<-- [end:setup]

# --8<-- [start:check]
loc, scale = moment_match(x)
assert torch.allclose(fits["forward"].loc, loc, atol=1e-3)
assert torch.allclose(fits["forward"].scale.abs(), scale, atol=1e-3)

print("                         mean  deviation  KL(data|flow)  KL(flow|data)")
for name, flow in fits.items():
    model, seen = pushforward(flow.to_latent, base), pushforward(flow.to_data, data)
    forward = divergence(data, model, -12.0, 12.0).item()
    reverse = divergence(base, seen, -8.0, 8.0).item()
    assert math.isclose(forward, divergence(seen, base, -40.0, 40.0, 4000).item(), abs_tol=1e-6)
    assert math.isclose(reverse, divergence(model, data, -18.0, 18.0).item(), abs_tol=1e-6)
    numbers = f"{flow.loc.item():5.2f} {flow.scale.abs().item():10.2f}"
    print(f"{name:23} {numbers} {forward:14.2f} {reverse:14.2f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Above, a density with a high hump at 2 and a lower one at -2, and three normal densities: a
    wide one centred between the humps, nearer the high one, and two narrow ones that repeat the
    shape of one hump each. Below, two curves over the mean of the flow: the forward divergence has
    one valley, between the humps, the reverse one has two, at the humps, with a ridge between.
    """
    fig.set_size_inches(4.4, 4.6)
    upper, lower = fig.subplots(2, 1, sharex=True)
    t = torch.linspace(-5, 5, 201, dtype=double)[:, None]
    upper.fill_between(t[:, 0], data(t).exp(), color="C3", alpha=0.25, label="data")
    names = ["forward fit", "reverse fit, heavier hump", "reverse fit, lighter hump"]
    for flow, name, style in zip(fits.values(), names, ["-", "--", ":"], strict=True):
        curve = pushforward(flow.to_latent, base)(t).exp().detach()
        upper.plot(t[:, 0], curve, style, color="C0" if name == names[0] else "C1", label=name)
    upper.set(ylabel="density", ylim=(0, 0.9))
    mean = torch.linspace(-3.6, 3.6, 73, dtype=double)
    forward, reverse = profile(mean)
    lower.plot(mean, forward, "-", color="C0", label="forward")
    lower.plot(mean, reverse, "--", color="C1", label="reverse")
    lower.set(xlabel="data, and mean of the flow", ylabel="divergence at the best scale")
    lower.set(ylim=(0, 3), xlim=(-5, 5))
    lower.legend(loc="lower left")
    fig.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure]


def figure_spaces(fig):
    """Two panels, the latent space above the data space, each with two densities that differ: that
    of the data, which is to the right, and that of the flow. A cell of latents is shaded, and below
    it the cell of data that the map carries it to, which is wider and lower. Small marks on the
    axes, even above and ever further apart below, are edges of cells that belong together.
    """
    fig.set_size_inches(4.4, 4.4)
    t = torch.linspace(-4, 4, 201, dtype=double)[:, None]

    def to_data(z):
        return z.sinh(), z.cosh().log().sum(-1)

    def to_latent(x):
        return x.asinh(), -0.5 * (1 + x * x).log().sum(-1)

    def normal(x):
        return Normal(0.5, 1.2).log_prob(x).sum(-1)

    panels = {
        "latent z": (pushforward(to_data, normal), base, torch.tensor([1.0, 1.5])),
        "data x = sinh z": (normal, pushforward(to_latent, base), torch.tensor([1.0, 1.5]).sinh()),
    }
    for ax, (name, (data, flow, cell)) in zip(fig.subplots(2, 1), panels.items(), strict=True):
        inside = torch.linspace(*cell.tolist(), 40, dtype=double)[:, None]
        for law, style, label in ((data, "C3-", "data"), (flow, "C0--", "flow")):
            ax.plot(t[:, 0], law(t).exp(), style, label=label)
        ax.fill_between(inside[:, 0], data(inside).exp(), color="C3", alpha=0.3)
        hatch = {"facecolor": "none", "edgecolor": "C0", "hatch": "///"}
        ax.fill_between(inside[:, 0], flow(inside).exp(), **hatch)
        areas = [law(inside).exp().mean() * (cell[1] - cell[0]) for law in (data, flow)]
        ax.text(3.9, 0.5, "areas {:.2f} and {:.2f}".format(*areas), ha="right")
        edges = torch.arange(-4, 5) / 2
        edges = edges if name == "latent z" else edges.sinh()
        ax.vlines(edges, 0, 0.03, color="C2")
        ax.set(xlabel=name, ylabel="density", ylim=(0, 0.62), xlim=(-4, 4))
    fig.axes[0].legend(loc="upper left")


def profile(mean):
    """Both divergences of a normal law with the given means, each at its best scale."""
    t = torch.linspace(-9, 9, 3001, dtype=double)[:, None]
    mass = data(t).exp() * 18 / 3000
    entropy = -(mass * data(t)).sum()
    m = (mass * t[:, 0]).sum()
    spread = (mass * (t[:, 0] - m) ** 2).sum() + (mean - m) ** 2
    forward = 0.5 * (2 * math.pi * math.e * spread).log() - entropy
    scale = torch.linspace(0.3, 3.2, 117, dtype=double)
    noise = z[4::10, 0]
    points = mean[:, None, None] + scale[:, None] * noise
    entropy = (2 * math.pi * math.e * scale**2).log() / 2
    return forward, (-entropy - data(points[..., None]).mean(-1)).amin(1)


if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_spaces(plt.figure(layout="constrained"))
    plt.show()
