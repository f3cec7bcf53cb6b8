"""A contrastive loss in three terms, how fast it settles, and the codes that each term wants."""

# --8<-- [start:setup]
import math

import torch
from torch.nn.functional import normalize

from genref.energy.contrastive import (
    alignment,
    bias,
    expected_loss,
    info_nce,
    limit,
    uniform_value,
    uniformity,
)

generator = torch.Generator().manual_seed(3)
x = torch.randn(4096, 3, generator=generator, dtype=torch.float64)
z = normalize(x, dim=-1)
y = normalize(x + 0.5 * torch.randn(x.shape, generator=generator), dim=-1)
# --8<-- [end:setup]

# --8<-- [start:check]
rows = 16
align = alignment(z[:rows], y[:rows])
print(f"{rows} rows, alignment {align:.3f}, temperature 1")
for M in (16, 256, 4096):
    loss, unif = info_nce(z[:rows] @ y[:M].T), uniformity(z[:rows], y[:M])
    assert torch.allclose(loss, -align + unif + math.log(M), rtol=0, atol=1e-12)
    print(f"M {M:4}: loss {loss:.3f}, uniformity {unif:.3f}, rest {math.log(M):.3f}")
print(f"uniformity of uniform codes {uniform_value(3):.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """The loss of 16 rows against the number of terms, from 16 to 4096, on a logarithmic axis: a
    straight line from about 2 to 7.6. Dots of the sum with minus the alignment lie on it, crosses
    of the sum with plus the alignment lie 1.7 above. The loss less log M is flat, near -0.7.
    """
    terms = [2**k for k in range(4, 13)]
    loss = torch.stack([info_nce(z[:rows] @ y[:M].T) for M in terms])
    unif = torch.stack([uniformity(z[:rows], y[:M]) for M in terms])
    log_terms = torch.tensor(terms).log()
    ax.plot(terms, loss, label="loss")
    ax.plot(terms, -align + unif + log_terms, "o", label="with minus alignment")
    ax.plot(terms, align + unif + log_terms, "x", label="with plus alignment")
    ax.plot(terms, loss - log_terms, "--", label="loss less $\\log M$")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="number of terms $M$", ylabel="nats", ylim=(-1.5, 12.5))
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_rate]
def figure_rate(ax):
    """M times what the mean loss still lacks of its limit, against M from 1 to 1000. With the
    positive pair excluded it settles at about -0.21, with the pair included at about 0.69, each
    on a dashed line.
    """
    angle = 2 * math.pi * torch.arange(24, dtype=torch.float64) / 24
    scores = (angle[:, None] - angle).cos()
    joint = (4 * scores).exp()
    joint /= joint.sum()
    terms = [1, 2, 3, 5, 8, 13, 22, 37, 62, 105, 177, 300, 1000]
    for marker, positive in zip("os", ("included", "excluded"), strict=True):
        mean = torch.stack([expected_loss(joint, scores, M, positive) - math.log(M) for M in terms])
        ax.plot(terms, torch.tensor(terms) * (mean - limit(joint, scores)), marker, label=positive)
        ax.axhline(bias(joint, scores, positive), color="C2", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel="number of terms $M$", ylabel="$M$ times the distance, nats")
    ax.legend(title="positive pair")


# --8<-- [end:figure_rate]


# --8<-- [start:figure_circle]
def trained(loss, steps=900):
    """The codes of 24 pairs on the circle, two free angles for each pair."""
    noise = torch.Generator().manual_seed(1)
    angles = (2 * torch.randn(2, 24, generator=noise)).requires_grad_()
    for _ in range(steps):
        z, y = torch.stack([angles.cos(), angles.sin()], -1)
        (slope,) = torch.autograd.grad(24 * loss(z / 0.15, y), angles)
        angles = (angles - 0.1 * slope).detach().requires_grad_()
    return z.detach(), y.detach()


def figure_circle(fig):
    """Three circles with 24 codes of each view. Minus alignment alone: each pair is together, pairs
    lie anywhere. Uniformity alone: all codes of one view in a narrow cluster, those of the other
    in one opposite. The sum of the two: each pair is together and pairs are evenly spaced.
    """
    fig.set_size_inches(6.2, 2.7)
    losses = {
        "$-$ alignment": lambda z, y: -alignment(z, y),
        "uniformity": uniformity,
        "the sum": lambda z, y: uniformity(z, y) - alignment(z, y),
    }
    for ax, (name, loss) in zip(fig.subplots(1, 3), losses.items(), strict=True):
        z, y = trained(loss)
        ax.plot(*y.T, "s", color="C1", markersize=8, fillstyle="none", label="$y$")
        ax.plot(*z.T, ".", color="C0", label="$z$")
        ax.set(title=name, aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xticks=[], yticks=[])
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)


# --8<-- [end:figure_circle]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_rate(plt.figure(layout="constrained").gca())
    figure_circle(plt.figure(layout="constrained"))
    plt.show()
