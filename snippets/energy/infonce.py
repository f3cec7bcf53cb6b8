"""What contrastive losses say about information: the bound, its failures, and the cap of codes."""

# --8<-- [start:setup]
import math

import torch

from genref.energy.infonce import best_score, bound, cap

joint = torch.eye(4, dtype=torch.float64) * 0.92 + 0.02
joint /= joint.sum()
score = best_score(joint)
information = (joint * score).sum()
# --8<-- [end:setup]

# --8<-- [start:check]
print(f"I(x; x') = {information:.3f}")
terms = [1, 2, 4, 16, 256, 4096]
print("M              ", *(f"{M:7}" for M in terms))
for name, s in {"best score": score, "twice the score": 2 * score}.items():
    for positive in ("included", "excluded"):
        values = [bound(joint, s, M, positive) for M in terms]
        assert positive == "excluded" or max(values) <= information
        print(f"{name:15}", *(f"{value.abs():7.3f}" for value in values), positive)
print(f"the codes of one view each, M = 4096: less than {cap(4096, kind='batch'):.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """The value log M - L with M = 4 terms against a factor of the best score, from 0 to 3. With
    the positive pair included it rises to 0.74 at a factor of 1, below I = 1.09, and falls. With
    the pair excluded it passes I near a factor of 0.5 and goes on rising.
    """
    ax = fig.subplots()
    factor = torch.linspace(0, 3, 61, dtype=torch.float64)
    for style, positive in zip(("-", "--"), ("included", "excluded"), strict=True):
        value = torch.stack([bound(joint, f * score, 4, positive) for f in factor])
        ax.plot(factor, value, style, label=f"positive {positive}")
    ax.axhline(information, color="C2", linestyle=":", label="$I(x;x')$")
    ax.axhline(math.log(4), color="C3", linestyle="-.", label="$\\log M$")
    ax.set(xlabel="factor of the best score", ylabel="$\\log M-L$, nats", ylim=(-0.1, 2.6))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)


# --8<-- [end:figure]


# --8<-- [start:figure_cap]
def figure_cap(ax):
    """The cap against the number of terms, from 2 to 10000, at temperature 1. The two curves for
    codes of one view each run together to 1 nat, that of a batch from above 0.5, that of draws from
    below. The curve for scores of both views runs to 2 nats. The logarithm of M leaves them all.
    """
    terms = [round(10 ** (k / 10)) for k in range(3, 41)]
    labels = {"joint": "scores of both views", "batch": "codes, batch", "drawn": "codes, draws"}
    for style, (kind, label) in zip(("-", "--", ":"), labels.items(), strict=True):
        ax.plot(terms, [cap(M, 1.0, kind) for M in terms], style, label=label)
    few = [M for M in terms if M < 12]
    ax.plot(few, [math.log(M) for M in few], "-.", label="$\\log M$")
    ax.set(xscale="log", xlabel="number of terms $M$", ylabel="most of $\\log M-L$, nats")
    ax.set(ylim=(0, 2.4))
    ax.legend(loc="lower right")


# --8<-- [end:figure_cap]


# --8<-- [start:figure_both]
def figure_both(ax):
    """What the loss with both views says with the logarithm of 2N - 1, less the true information,
    against the number N of pairs from 3 to 30. For two codes it crosses zero between N = 4 and 5
    and is largest, 4 thousandths of a nat, at N = 6. For three codes it crosses before 8, for four
    before 12. All fall towards zero from above.
    """
    for n, style in ((2, "o-"), (3, "s--"), (4, "^:")):
        excess = []
        for N in range(3, 31):
            agree = torch.arange(N, dtype=torch.float64)
            ways = torch.tensor(
                [float(math.comb(N - 1, k) * (n - 1) ** (N - 1 - k)) for k in range(N)],
            )
            loss = (ways / n ** (N - 1) * (1 + 2 * agree).log()).sum()
            excess.append(1000 * (math.log(2 * N - 1) - loss - math.log(n)))
        ax.plot(range(3, 31), excess, style, markersize=4, label=f"{n} codes")
    ax.axhline(0, color="C3", linewidth=1)
    ax.set(xlabel="number of pairs $N$", ylabel="$\\log(2N-1)-L-I$, nats / 1000", ylim=(-11, 6))
    ax.legend()


# --8<-- [end:figure_both]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    for draw in (figure_cap, figure_both):
        draw(plt.figure(layout="constrained").gca())
    plt.show()
