"""What a normal law loses of the evidence, and what an encoder loses besides, for each datum."""

# --8<-- [start:setup]
import math

import torch

from genref.latent.amortization import (
    amortised_cost,
    crossover,
    encoder_size,
    gaps,
    maximiser,
    separate_cost,
)

x = torch.arange(5, dtype=torch.float64)
z = torch.linspace(-4, 4, 2001, dtype=torch.float64)


def log_joint(x, z=z):
    """The logarithms of N(z; 0, 1) N(x; 2z², 1) on a grid of z."""
    return -(z**2 + (x[..., None] - 2 * z**2) ** 2) / 2 - math.log(2 * math.pi)


def bound(pi, x=x):
    """The bound of the law N(m, s²), which is a polynomial and a logarithm."""
    m, log_s = pi.unbind(-1)
    square = m**2 + (2 * log_s).exp()
    fourth = 3 * square**2 - 2 * m**4
    terms = square + x**2 - 4 * x * square + 4 * fourth
    return log_s + (1 - math.log(2 * math.pi) - terms) / 2


def encoder(phi):
    """Mean and logarithm of the deviation, polynomials in x."""
    return x[:, None] ** torch.arange(len(phi)) @ phi


log_evidence = log_joint(x).logsumexp(-1) + math.log(z[1] - z[0])
# --8<-- [end:setup]

# --8<-- [start:check]
near = [torch.tensor([m, -1.0]).double().expand(5, 2) for m in (0.0, 1.0)]
laws = torch.stack([maximiser(bound, start) for start in near])
best = bound(laws).amax(0)
print("datum        ", *(f"{number:6.0f}" for number in x))

parts = {}
for name, degree in (("linear", 1), ("quadratic", 2)):
    start = torch.tensor([[0.1, -0.7], [0.3, -0.2], [0.0, 0.0]]).double()[: degree + 1]
    phi = maximiser(lambda phi: bound(encoder(phi)), start)
    parts[name] = gaps(log_evidence, best, bound(encoder(phi)))
    assert torch.allclose(bound(encoder(phi)) - log_evidence, parts[name].bias)
    print(f"{name:13}", *(f"{gap:6.3f}" for gap in parts[name].amortisation))
print("approximation", *(f"{gap:6.3f}" for gap in parts["linear"].approximation))
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Two stacked bars for each of the data 0 to 4: below the approximation gap, the same in both,
    above it the amortisation gap of the linear and of the quadratic encoder. The lower part grows
    from nearly nothing to log 2 and a little more; the upper part is largest for the data 1 and 2.
    """
    low = parts["linear"].approximation
    for side, hatch, color, name in ((-1, "//", "C1", "linear"), (1, "xx", "C2", "quadratic")):
        at = x + 0.21 * side
        label = "approximation" if side < 0 else None
        ax.bar(at, low, width=0.4, color=("C0", 0.8), label=label)
        above, label = parts[name].amortisation, f"amortisation, {name} encoder"
        ax.bar(at, above, 0.4, low, color=(color, 0.35), edgecolor=color, hatch=hatch, label=label)
    ax.axhline(math.log(2), color="C3", linewidth=1, linestyle="--", zorder=0)
    ax.text(-0.45, math.log(2) + 0.015, r"$\log\,2$", color="C3")
    ax.set(xlabel="datum $x$", ylabel="gap in nats", ylim=(0, 1.2))
    ax.legend(loc="upper left")


# --8<-- [end:figure]


# --8<-- [start:figure_posterior]
def figure_posterior(fig):
    """Two panels over z. For the datum 2 the posterior is wide, with two humps that overlap, and
    the best normal law covers both. For the datum 4 there are two narrow humps far apart, and the
    best normal law lies on one of them, about twice as high, while one that covers both is low.
    """
    fig.set_size_inches(4.8, 4.2)
    panels, z = fig.subplots(2, 1, sharex=True), torch.linspace(-2.2, 2.2, 89)
    for ax, datum in zip(panels, (2, 4), strict=True):
        posterior = (log_joint(x[datum], z) - log_evidence[datum]).exp()
        ax.fill_between(z, posterior, color=("C0", 0.25), label="posterior")
        for row, style in enumerate(("--", "-")):
            m, log_s = laws[row, datum]
            density = torch.distributions.Normal(m, log_s.exp()).log_prob(z).exp()
            gap = log_evidence[datum] - bound(laws[row])[datum]
            ax.plot(z, density, style, color=f"C{1 + row}", label=f"gap {gap:.2f}")
        ax.set(xlim=(-2.2, 2.2), ylim=(0, 2.8), ylabel="density", title=f"$x = {datum}$")
        ax.legend(loc="upper center", ncols=3)
    ax.set(xlabel="$z$")


# --8<-- [end:figure_posterior]


# --8<-- [start:figure_cost]
def figure_cost(fig):
    """Above, numbers stored against the number of data, both on logarithmic axes: two level lines
    for the encoders with latents of dimension 2 and 20, close together, and two rising lines for a
    law for each datum. They cross at 78 901 and at 8 251 data, and a dotted line at 60 000 data
    lies between. Below, gradients against the number of further data in thousands: level for the
    encoder, rising for the data alone, which start at half of it and meet it at 60.
    """
    fig.set_size_inches(4.8, 5.6)
    stored, work = fig.subplots(2, 1)
    n = torch.logspace(2.5, 6, 8)
    for d, style, marker in ((2, "-", "o"), (20, "--", "s")):
        size = encoder_size((784, 400, 2 * d))
        equal = crossover(size, 2 * d) - 1
        stored.loglog(n, 2 * d * n, style, color="C0", label=f"laws, $d={d}$")
        stored.axhline(size, color="C1", linestyle=style, label="encoders" if d == 2 else None)
        stored.plot(equal, size, marker, color="C2", zorder=3)
        stored.text(1.15 * equal, 0.35 * size, f"{equal:,}".replace(",", " "), color="C2")
    stored.axvline(60_000, color="C3", linestyle=":", linewidth=1, zorder=0)
    stored.set(xlabel="data $n$", ylabel="numbers stored")
    stored.minorticks_off()
    stored.legend(loc="upper left")
    thousands, n, steps, epochs = range(0, 161, 20), 60_000, 50, 100
    alone = [separate_cost(n, steps, 1000 * new).decoder_gradients / 1e6 for new in thousands]
    shared = [amortised_cost(n, epochs, 1000 * new).decoder_gradients / 1e6 for new in thousands]
    work.plot(thousands, alone, "o-", color="C0", markersize=4, label="each datum alone")
    work.plot(thousands, shared, "s-", color="C1", markersize=4, label="encoder")
    work.set(xlabel="further data in thousands", ylabel="gradients in millions", ylim=(0, None))
    work.legend(loc="lower right")


# --8<-- [end:figure_cost]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_posterior(plt.figure(layout="constrained"))
    figure_cost(plt.figure(layout="constrained"))
    plt.show()
