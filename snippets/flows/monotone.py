"""A rectifier that folds the line, and a mixture of sigmoids that bends it and can be undone."""

# --8<-- [start:setup]
import torch

from genref.flows.monotone import SigmoidMixture, witness

a, b, c = 1.5, -2.0, 1.0
one, other = (float(z) for z in witness(a, b, c))
w, slopes, offsets = torch.tensor([[0.5, 0.5], [1.0, 3.0], [-2.0, 9.0]], dtype=torch.double)
layer = SigmoidMixture(slopes, offsets, w)
# --8<-- [end:setup]

# --8<-- [start:check]
values = a * torch.relu(b * torch.tensor([one, other]) + c)
print(f"rectifier: g({one:g}) = g({other:g}) = {values[0]:g}")
assert values[0] == values[1]
assert witness(a, b, c, leak=0.1) is None

x = torch.linspace(-1e4, 1e4, 401, dtype=torch.double)[:, None]
z, log_det = layer.to_latent(x)
back, opposite = layer.to_data(z)
assert ((back - x).abs() <= 1e-13 * (1 + x.abs())).all()
assert torch.allclose(log_det, -opposite)
latent, bound = layer.invert(torch.tensor([2.0], dtype=torch.double))
print(f"mixture: g({latent.item():.9f}) = 2")
assert bound < 1e-12
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Upper panel: a curve g(z) that follows one straight line, climbs over to another and lies
    between the two everywhere. Lower panel: its slope, which is 1 far out, climbs almost to the
    line at 3 near -4 and falls to a tenth near -1.
    """
    fig.set_size_inches(5.2, 5.4)
    upper, lower = fig.subplots(2, 1, sharex=True)
    z = torch.linspace(-7, 5, 200, dtype=torch.double)[:, None]
    g, log_slope = (part.detach() for part in layer.to_data(z))
    for i, style in enumerate(("--", ":")):
        line = slopes[i] * z + offsets[i]
        upper.plot(z, line, f"C{i + 1}{style}", label=f"line {i + 1}, slope {slopes[i]:.0f}")
        lower.axhline(slopes[i], color=f"C{i + 1}", linestyle=style)
    upper.plot(z, g, "C0", label="g")
    lower.plot(z, log_slope.exp(), "C0")
    upper.set(ylabel="value", ylim=(-10, 14))
    lower.set(xlabel="z", ylabel="slope", ylim=(0, 3.2))
    upper.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_rectifier]
def figure_rectifier(ax):
    """Two broken lines that fall to the kink at one half. Right of it the rectifier is zero, and
    two marked points have one value; the leaky one goes on falling.
    """
    z = torch.linspace(-1, 4, 101)
    y = b * z + c
    ax.plot(z, a * torch.nn.functional.leaky_relu(y, 0.25), "C1--", label="leak 1/4")
    ax.plot(z, a * torch.relu(y), "C0", label="no leak")
    ax.plot([one, other], [0, 0], "C3o", label="two points, one value")
    ax.set(xlabel="z", ylabel="value")
    ax.legend()


# --8<-- [end:figure_rectifier]


# --8<-- [start:figure_roundtrip]
def figure_roundtrip(ax):
    """Error of a round trip against x, both on logarithmic scales, x from 0.01 to 10000. The
    literal formula crosses a dotted bound near 10 and ends at 32, with an error of 0.002. The layer
    stays at a hundredth of the bound or less up to the right edge.
    """
    a = 0.7 * slopes
    uneven = SigmoidMixture(a, offsets, w)
    x = torch.logspace(-2, 4, 61, dtype=torch.double)[:, None]
    z = uneven.to_latent(x)[0].detach()
    F = (w * torch.sigmoid(a * z + offsets)).sum(-1, keepdim=True)
    literal, value = torch.logit(F), uneven.to_data(z)[0].detach()
    for y, style, name in ((literal, "C1s", "literal formula"), (value, "C0o", "layer")):
        ax.loglog(x, (y - x).abs().clamp(min=1e-17), style, markersize=4, label=name)
    ax.loglog(x, 1e-13 * (1 + x), "k:", label="bound of the claim")
    ax.set(xlabel="x", ylabel="error of the round trip")
    ax.legend()


# --8<-- [end:figure_roundtrip]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_rectifier(plt.figure(layout="constrained").gca())
    figure_roundtrip(plt.figure(layout="constrained").gca())
    plt.show()
