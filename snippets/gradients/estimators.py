"""Four gradients of E log(h/q) under a normal q: one mean, four variances."""

# --8<-- [start:setup]
import torch
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

from genref.gradients.estimators import (
    optimal_baseline,
    path_gradient,
    pathwise,
    score_function,
)

n = 100_000
loc, log_scale = torch.tensor(0.3), torch.tensor(-0.4)
q = Normal(loc, log_scale.exp())


def log_h(z):
    """A normal prior times the likelihood of one binary datum."""
    return Normal(0, 1).log_prob(z) + logsigmoid(3 * z)


def f(z):
    return log_h(z) - q.log_prob(z)


def exact():
    """The gradient of the integral, which is summed over a grid."""
    phi = torch.stack([loc, log_scale]).double().requires_grad_()
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    log_q = Normal(phi[0], phi[1].exp()).log_prob(z)
    integral = (log_q.exp() * (log_h(z) - log_q)).sum() * (z[1] - z[0])
    return torch.autograd.grad(integral, phi)[0]


# --8<-- [end:setup]

# --8<-- [start:check]
generator = torch.Generator().manual_seed(6)
best = optimal_baseline(f, loc, log_scale, n, generator)
path = pathwise(log_h, loc, log_scale, n, generator)
gradients = {
    "score function": score_function(f, loc, log_scale, n, generator),
    "with baseline": score_function(f, loc, log_scale, n, generator, best),
    "reparameterised": path + torch.tensor([0, 1]),
    "path gradient": path_gradient(log_h, loc, log_scale, n, generator),
}
print("mean, exact      {:5.2f} {:5.2f}".format(*exact()))
for name, drawn in gradients.items():
    mean, variance = drawn.mean(0), drawn.var(0)
    assert ((mean - exact()).abs() < 5 * (variance / n).sqrt()).all()
    print(f"{name:16} {mean[0]:5.2f} {mean[1]:5.2f}", end="   ")
    print(f"variance {variance[0]:.1f} {variance[1]:.1f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Two panels, for the gradients with respect to mu and to tau. Each has the histograms of three
    kinds of per-sample gradients, and below them the mean of each kind with a bar of one standard
    deviation to either side. The histograms differ in shape, in width and in where they peak; all
    three means lie on the line that marks the exact gradient.
    """
    fig.set_size_inches(4.4, 5.6)
    kinds = dict(zip(gradients, ("-", "--", "-."), strict=False))
    panels = zip(fig.subplots(2, 1), "µτ", ((-3, 6), (-5, 4)), exact(), strict=True)
    for component, (ax, letter, (low, high), mean) in enumerate(panels):
        top = 0.0
        for name, style in kinds.items():
            drawn = gradients[name][:, component]
            count, edges = torch.histogram(drawn, 72, range=(low, high))
            density = count / n * 72 / (high - low)
            ax.stairs(density, edges, baseline=None, linestyle=style, linewidth=1.4, label=name)
            top = max(top, density.max().item())
        for row, name in enumerate(kinds):
            drawn, y = gradients[name][:, component], -top * (0.09 + 0.1 * row)
            ax.errorbar(drawn.mean(), y, xerr=drawn.std(), fmt="os^"[row], color=f"C{row}")
        ax.axvline(mean, color="C3", linewidth=1, linestyle=":", label="exact")
        ax.set(xlim=(low, high), ylim=(-0.38 * top, None), yticks=[])
        ax.set(xlabel=f"gradient with respect to {letter}", ylabel="density")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_baseline]
def figure_baseline(ax):
    """Variance against the baseline: a parabola for mu and one for tau, computed, on which the
    variances of drawn gradients lie. Upright lines mark the two minima, near -0.9 and -0.7. A level
    line joins each parabola at 0 to its other point of equal height, at twice the best baseline.
    """
    z = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    epsilon, mass = (z - loc) / log_scale.exp(), q.log_prob(z).exp() * (z[1] - z[0])
    scores = epsilon / log_scale.exp(), epsilon**2 - 1
    dots = torch.linspace(-2.4, 0.6, 6)
    drawn = [score_function(f, loc, log_scale, 2 * n, generator, b).var(0) for b in dots]
    for component, (s, mean) in enumerate(zip(scores, exact(), strict=True)):
        style = {"color": f"C{component}", "linestyle": ("-", "--")[component]}

        def variance(b, s=s, mean=mean):
            return (mass * s**2 * (f(z) - b) ** 2).sum() - mean**2

        curve = torch.linspace(-2.6, 0.8, 60)
        label = f"gradient with respect to {'µτ'[component]}"
        ax.plot(curve, [variance(b) for b in curve], label=label, **style)
        for b, variances in zip(dots, drawn, strict=True):
            ax.plot(b, variances[component], "os"[component], color=f"C{component}", markersize=4)
        star = best[component]
        ax.vlines(star, 0, variance(star), linewidth=1, **style)
        ax.hlines(variance(0), 2 * star, 0, linewidth=0.8, color=f"C{component}", linestyle=":")
    ax.set(xlabel="baseline", ylabel="variance", ylim=(0, 14))
    ax.legend(loc="upper center")


# --8<-- [end:figure_baseline]


# --8<-- [start:figure_path]
def figure_path(fig):
    """Variance of three gradients with respect to mu, times the variance of q, against the variance
    of q over that of a normal target, on logarithmic axes. The reparameterised gradient is a rising
    straight line. The path gradient falls to zero at 1 and rises again; it meets the line at one
    half and is above it to the left of that. The score function is above both, but for a dip
    around 2, where it is a little below the line.
    """

    def log_target(z):
        return 1 - z**2 / 2

    def log_ratio(z):
        return log_target(z) - Normal(0, tau.exp()).log_prob(z)

    fig.set_size_inches(4.8, 3.6)
    ax = fig.subplots()
    ratio, dots = torch.logspace(-1.4, 0.8, 111), slice(5, None, 10)
    tau = ratio[dots].log() / 2
    c, a = 1 + (ratio * 2 * torch.pi).log() / 2, (1 - ratio) / 2
    kinds = {
        "score function": (score_function, log_ratio, c**2 + 6 * a * c + 15 * a**2),
        "reparameterised": (pathwise, log_target, ratio**2),
        "path gradient": (path_gradient, log_target, (1 - ratio) ** 2),
    }
    for row, (name, (drawn, integrand, curve)) in enumerate(kinds.items()):
        variance = drawn(integrand, 0.0, tau, n // 5, generator)[..., 0].var(0)
        ax.plot(ratio, curve, ("-", "-.", "--")[row], label=name, color=f"C{row}")
        ax.plot(ratio[dots], variance * ratio[dots], "o^s"[row], color=f"C{row}", markersize=4)
    ax.axvline(0.5, color="C3", linewidth=1, linestyle=":")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 60), xlabel="variance of q, target 1")
    ax.set(xticks=(0.05, 0.1, 0.2, 0.5, 1, 2, 5), xticklabels=(0.05, 0.1, 0.2, 0.5, 1, 2, 5))
    ax.set_ylabel("variance, times that of q")
    ax.minorticks_off()
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# --8<-- [end:figure_path]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_baseline(plt.figure(layout="constrained").subplots())
    figure_path(plt.figure(layout="constrained"))
    plt.show()
