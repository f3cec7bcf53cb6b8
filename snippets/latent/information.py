"""How much information a loss proves, and which codes two kinds of losses pay for."""

# --8<-- [start:setup]
import math

import torch
from torch.nn.functional import binary_cross_entropy, one_hot

from genref.latent.finite import entropy, mutual_information
from genref.latent.information import (
    best_reconstruction,
    cross_entropy,
    information_bound,
    views,
)

x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
generator = torch.Generator().manual_seed(5)


def random_laws(*shape, sharpness):
    """Laws of the last dimension, from uniform ones to rather certain ones."""
    scale = sharpness * torch.rand(*shape[:-1], 1, generator=generator, dtype=x.dtype)
    return (scale * torch.randn(*shape, generator=generator, dtype=x.dtype)).softmax(-1)


# --8<-- [end:setup]

# --8<-- [start:check]
encoder = random_laws(400, 8, 5, sharpness=8 * torch.rand(400, 1, 1, generator=generator))
joint = random_laws(400, 8, sharpness=1)[..., None] * encoder
information = mutual_information(joint)
best = best_reconstruction(joint, x)
away = 0.4 * torch.rand(400, 1, 1, generator=generator).to(x) ** 3
decoder = best.lerp(torch.rand(400, 5, 3, generator=generator).to(x), away)

proved = information_bound(joint, cross_entropy(x, decoder))
most = information_bound(joint, cross_entropy(x, best))
assert (proved < most + 1e-9).all()
assert (most < information + 1e-9).all()

s, v = torch.arange(8) // 2, torch.arange(8) % 2
pair = views(torch.full((4,), 1 / 4).to(x), one_hot(s).T.to(x) / 2)
codes = {"nothing": 0 * s, "v": v, "s1": s // 2, "s1 xor s2": (s // 2) ^ (s % 2)}
codes |= {"s": s, "x": 2 * s + v}
print("in units of log 2:  I(x; z)  H(x) - l  I(z; x')")
bars = {}
for name, code in codes.items():
    encoder = one_hot(code).to(x)
    joint_z = encoder / 8
    loss = cross_entropy(x, best_reconstruction(joint_z, x))
    held, kept = mutual_information(joint_z), mutual_information(encoder.T @ pair)
    bars[name] = torch.stack([held, information_bound(joint_z, loss), kept]) / math.log(2)
    print(f"  z = {name:13} {{:8.3f}} {{:9.3f}} {{:9.3f}}".format(*bars[name].abs()))
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Claimed information, H minus the loss, against I(X; Y). The hundred points of the
    cross-entropy with sums, on bits, in one base lie on or below the diagonal. Points of four other
    losses lie above it: the mean over the bits, half the squared error, an entropy in bits with a
    loss in nats, and grey levels.
    """
    fig.set_size_inches(4.8, 4.4)
    ax, some, h = fig.subplots(), slice(0, 40), entropy(joint.sum(-1))
    table = cross_entropy(x, best)
    squares = (x[:, None] - best[:, None]).square().sum(-1) / 2
    grey = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0]).to(x)] * 2)
    law = torch.full((40, 9, 1), 1 / 9).to(x) * random_laws(40, 9, 5, sharpness=8)
    grey_hat = best_reconstruction(law, grey)[:, None].expand(40, 9, 5, 2)
    target = grey[:, None].expand(40, 9, 5, 2)
    grey_loss = binary_cross_entropy(grey_hat, target, reduction="none").sum(-1)
    kinds = {
        "mean over bits": (joint, h, table / 3),
        "squared error": (joint, h, squares),
        "bits less nats": (joint, h / math.log(2), table),
        "grey levels": (law, entropy(law.sum(-1)), grey_loss),
    }
    ax.axline((0, 0), slope=1, color="C3", linewidth=1)
    ax.scatter(information[:100], proved[:100], 16, "C0", label="cross-entropy, one base")
    for row, (name, (p, h_x, loss)) in enumerate(kinds.items()):
        claimed = h_x - (p * loss).sum((-2, -1))
        style = {"marker": "sx^D"[row], "color": f"C{(1, 2, 4, 5)[row]}", "label": name}
        ax.scatter(mutual_information(p[some]), claimed[some], 14, **style)
    ax.set(xlabel="information $I(X;Y)$, nats", ylabel="entropy minus loss, nats")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_codes]
def figure_codes(ax):
    """Three bars for each of six codes, in units of log 2. The information in the code is 0, 1, 1,
    1, 2, 3. What the reconstruction loss proves is the same but for the parity of the two shared
    bits, where it is 0. What the code says about the other view is 0 for v, 1 for the parity, and 2
    for both s and x.
    """
    names = ["held, $I(x;z)$", "proved by reconstruction", "shared, $I(z;x')$"]
    for row, (label, hatch) in enumerate(zip(names, ("", "////", "\\\\"), strict=True)):
        height = [bar[row].item() for bar in bars.values()]
        place = [at + 0.27 * (row - 1) for at in range(len(bars))]
        ax.bar(place, height, 0.25, color=(f"C{row}", 0.5), hatch=hatch, label=label)
        ax.plot(place, height, "_", color=f"C{row}", markersize=9)
    ax.set_xticks(range(len(bars)), ["nothing", "$v$", "$s_1$", "parity", "$s$", "$x$"])
    ax.set(xlabel="code $z$", ylabel="units of log 2", yticks=range(4))
    ax.legend()


# --8<-- [end:figure_codes]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_codes(plt.figure(layout="constrained").gca())
    plt.show()
