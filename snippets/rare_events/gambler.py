"""A chance of two in a million, found by 3000 runs: the gambler's ruin."""

# --8<-- [start:setup]
import torch

from genref.rare_events.gambler import (
    cross_entropy,
    drift,
    exact,
    importance_sampling,
    second_moment,
)

p, start, goal, games = 18 / 37, 100, 200, 600
h = exact(p, start, goal, games)
steered = drift(p, goal, games)


def relative_error(q, stopped=True, runs=3000):
    """The standard error of the estimate relative to the chance, without sampling."""
    moment = second_moment(p, q, start, goal, games, stopped)
    return (moment / h**2 - 1) ** 0.5 / runs**0.5


def play(table, runs, generator):
    """Balances of runs that win with the chances of a table, and their weights."""
    balance = torch.full((runs,), start)
    log_w = torch.zeros(runs, dtype=torch.float64)
    path = [balance]
    for left in range(games, 0, -1):
        q = table[left, balance]
        won = torch.rand(runs, dtype=torch.float64, generator=generator) < q
        playing = (balance > 0) & (balance < goal)
        log_w += torch.where(won, p / q, (1 - p) / (1 - q)).log().where(playing, 0)
        balance = balance + playing * (2 * won.long() - 1)
        path.append(balance)
    return torch.stack(path, dim=1), log_w.exp().where(balance == goal, 0)


# --8<-- [end:setup]

# --8<-- [start:check]
generator = torch.Generator().manual_seed(1)
print(f"exact            {h:.4e}")
for q in (0.55, cross_entropy(p, start, goal, games)):
    mean, error = importance_sampling(p, q, start, goal, games, 3000, generator)
    expected = h * relative_error(q)
    assert abs(mean - h) < 4 * expected
    print(f"q = {q:.3f}        {mean:.2e} ± {error:.1e}, expected ± {expected:.1e}")

balance, w = play(steered, 200, generator)
assert (balance[:, -1] == goal).all()
assert ((w / h - 1).abs() < 1e-12).all()
print(f"q*(s, k)         {w.mean():.4e}, all 200 weights alike")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Relative standard error of 3000 runs against q, from 0.488 to 0.66, on a logarithmic axis.
    Two curves fall from 1000 per cent near p and rise again. If bets are weighed until play
    ends, the lowest point is at 0.588, 2.4 per cent, just left of a line at 0.592. If all 600 are
    weighed it is at 0.564, 10 per cent. A triangle at 1 - p is near 80 per cent on the first curve.
    """
    q = [0.488 + 0.004 * i for i in range(44)]
    names = {True: "bets weighed until play ends", False: "all 600 bets weighed"}
    for (stopped, name), style in zip(names.items(), ("C0-", "C1--"), strict=True):
        error = [100 * relative_error(x, stopped) for x in q]
        ax.plot(q, error, style, label=name)
        lowest = q[error.index(min(error))]
        ax.plot(lowest, min(error), style[:2] + ("o" if stopped else "s"))
    ax.plot(1 - p, 100 * relative_error(1 - p), "C3^", label="$q=1-p$")
    nearest = cross_entropy(p, start, goal, games)
    ax.axvline(nearest, color="C2", linestyle=":", label="least divergence")
    ax.set(yscale="log", ylim=(1, 2000), xlabel="probability $q$ used for sampling")
    ax.set(ylabel="standard error of 3000 runs, in %")
    ax.set_yticks([1, 10, 100, 1000], labels=["1", "10", "100", "1000"])
    ax.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncols=2, columnspacing=1)


# --8<-- [end:figure]


# --8<-- [start:figure_paths]
def figure_paths(fig):
    """Three panels of six paths of balances over 600 games, from 100. Won with chance 18/37 they
    end between 68 and 98 and none comes near 200. Won with chance 0.55 they climb, and one of them
    reaches 200. Won with the chances q*(s, k) all end at 200, each after more than 500 games.
    """
    fig.set_size_inches(4.8, 5.6)
    tables = {"$q=p=18/37$": p, "$q=0.55$": 0.55}
    tables[r"$q^\star(s,k)$"] = steered
    panels = fig.subplots(3, 1, sharex=True, sharey=True)
    generator = torch.Generator().manual_seed(12)
    for ax, (name, q) in zip(panels, tables.items(), strict=True):
        table = torch.as_tensor(q).expand(games + 1, goal + 1)
        for balance in play(table, 6, generator)[0]:
            reached = balance[-1] == goal
            end = int((balance[:-1] != goal).sum())
            time = [*range(0, end, 20), end]
            ax.plot(time, balance[time], "C0-" if reached else "C1:", linewidth=1)
            ax.plot(end, balance[-1], "C0o", markersize=4, visible=bool(reached))
        ax.axhline(goal, color="C2", linewidth=0.8, linestyle="--")
        ax.set(title=name, ylabel="balance", yticks=[0, 100, 200], ylim=(0, 215))
    ax.set(xlabel="games played", xlim=(0, 610), xticks=range(0, 601, 100))


# --8<-- [end:figure_paths]


# --8<-- [start:figure_drift]
def figure_drift(ax):
    """The chance q*(s, k) against the balance for 600, 300, 150 and 60 games left. With 600 left it
    is 1 at balance 1, falls at once to 0.67, and then in nearly a straight line to 0.52. With fewer
    games left the line is steeper; with 150 and with 60 left it begins with the value 1 at the
    balance from which the goal can just be reached, 50 and 140.
    """
    for left, style in ((600, "-"), (300, "--"), (150, "-."), (60, ":")):
        first = max(1, goal - left)
        balance = [s for s in range(first, goal) if s < 12 or (goal - left - s) % 4 == 0]
        ax.plot(balance, steered[left, balance], style, label=f"{left} games left")
    ax.axhline(p, linewidth=0.8, color="C5")
    ax.annotate("$p$", (4, p), xytext=(0, 3), textcoords="offset points")
    ax.set(xlabel="balance $s$", ylabel=r"$q^\star(s,k)$", xlim=(0, goal))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


# --8<-- [end:figure_drift]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_paths(plt.figure(layout="constrained"))
    figure_drift(plt.figure(layout="constrained").gca())
    plt.show()
