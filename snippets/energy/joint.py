"""A joint encoder scored in two ways, and what two separate encoders cannot score."""

# --8<-- [start:setup]
import math

import torch
from torch.nn.functional import normalize

from genref.energy.infonce import cap
from genref.energy.joint import (
    certificate,
    joint_codes,
    joint_scores,
    query,
    ring,
    two_encoder_cap,
)
from genref.latent.finite import mutual_information
from genref.latent.information import contrastive_bound

generator = torch.Generator().manual_seed(4)


def best_codes(pairs, d):
    """Codes z and y on the sphere, led by L-BFGS to a least loss at temperature 1."""
    start = torch.randn(2, pairs, d + 1, generator=generator, dtype=torch.float64)
    v = start.requires_grad_()
    optimiser = torch.optim.LBFGS([v], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        z, y = normalize(v, dim=-1)
        value = -certificate(z @ y.T)
        value.backward()
        return value

    optimiser.step(loss)
    return normalize(v.detach(), dim=-1)


# --8<-- [end:setup]

# --8<-- [start:check]
noise = torch.randn(5, 3, generator=generator)
texts = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q


def h(x, x_prime):
    return x_prime


def g(x_prime):
    return x_prime


leaking = h(noise, texts) @ g(texts).T
print(f"x is noise: one code for all texts certifies {certificate(leaking):.4f} nats")
right = certificate(joint_scores(h, g, noise, texts))
assert right.abs() < 1e-5
print(f"            a code for each pair certifies  {right.abs():.4f} nats")

for d in (1, 2, 4):
    z, y = best_codes(6, d)
    reached = certificate(z @ y.T)
    assert reached < min(cap(6), two_encoder_cap(d)) + 1e-9
    print(f"six pairs, two encoders in dimension {d}: loss {math.log(6) - reached:.3f}")
print(f"two encoders, any dimension: at least {math.log(6) - cap(6):.3f}")
wanted = 2 * torch.eye(6, dtype=y.dtype) - 1
codes, index = joint_codes(wanted, y), torch.arange(6)
scores = joint_scores(lambda i, j: codes[i, j], lambda j: y[j], index, index)
print(f"a joint encoder:                      {math.log(6) - certificate(scores):.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Certified nats against the mutual information of x and x', from 0 to log 5. The best
    joint score rises from 0, below the diagonal and below log 5. The leaking objective is a
    horizontal line at 0.53, the same where x says nothing about x'.
    """
    share = torch.linspace(1, 0, 25, dtype=torch.float64)[:, None, None]
    law = share / 25 + (1 - share) * torch.eye(5, dtype=torch.float64) / 5
    information = mutual_information(law)
    same = torch.eye(5, dtype=torch.float64)
    leak = contrastive_bound(same / 5, same, 5).expand(25)
    ax.plot(information, contrastive_bound(law, law.log(), 5), "C0", label="a code for each pair")
    ax.plot(information, leak, "C1--", label="one code for all texts")
    ax.axline((0, 0), slope=1, color="C3", linewidth=1, linestyle=":", label="what is there")
    ax.set(xlabel="information $I(x;x')$, nats", ylabel="certified, nats")
    ax.set(xlim=(0, math.log(5)), ylim=(0, math.log(5)))
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_sphere]
def figure_sphere(ax):
    """Certified nats of twelve pairs against the dimension of the sphere, from 1 to 11. The best
    codes found rise from 0.76 to 0.94. They lie below the cap of the sphere, which they touch at
    dimension 1, and below the line of the simplex, which they touch at 11. A joint encoder has
    1.57 in every dimension.
    """
    dimensions = (1, 2, 3, 4, 5, 7, 9, 11)
    codes = [best_codes(12, d) for d in dimensions]
    found = [certificate(z @ y.T) for z, y in codes]
    ax.axhline(cap(12, kind="joint"), color="C2", linestyle="--", label="joint encoder")
    ax.axhline(cap(12), color="C3", linestyle="-.", label="simplex")
    ax.plot(dimensions, [two_encoder_cap(d) for d in dimensions], "C1:", label="cap of the sphere")
    ax.plot(dimensions, found, "C0o", label="two encoders, found")
    ax.set(xlabel="dimension $d$ of the sphere", ylabel="certified, nats", xticks=dimensions)
    ax.legend()


# --8<-- [end:figure_sphere]


# --8<-- [start:figure_wave]
def figure_wave(ax):
    """The product of a query with the code of an angle, for two wanted documents with a third
    between them. With one frequency the curve has one peak, at the document between. With two it
    has a peak at each wanted document and a valley at the one between.
    """
    t = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    documents = torch.arange(6, dtype=t.dtype) * math.pi / 3 + 0.4
    wanted = documents[[1, 3]]
    for k, z, style in ((1, query(wanted.mean()[None]), "C1--"), (2, query(wanted), "C0-")):
        curve, at = ring(t, k) @ z, ring(documents, k) @ z
        ax.plot(t, curve, style, label=("one frequency", "two frequencies")[k - 1])
        ax.plot(documents, at, f"{style[:2]}o", markerfacecolor="none")
        ax.plot(wanted, at[[1, 3]], f"{style[:2]}o")
    ax.set(xlabel="angle $t$ of a document", ylabel="product with the query")
    ax.legend()


# --8<-- [end:figure_wave]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    for draw in (figure, figure_sphere, figure_wave):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
