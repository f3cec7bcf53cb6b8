"""An estimate with its error bar, the test against a known value, and how often it alarms."""

# --8<-- [start:setup]
import math

import torch

from genref.numerics.estimate import estimate, false_alarm, power

generator = torch.Generator().manual_seed(4)
groups = torch.randn(20_000, 5, generator=generator)
squares = (groups - groups.mean(1, keepdim=True)).square().sum(1)
# --8<-- [end:setup]

# --8<-- [start:check]
for divisor in (4, 5):
    found = estimate(squares / divisor)
    z = found.z_score(1.0)
    verdict = "alarm" if abs(z) > 4 else "no alarm"
    mean, error = found
    print(f"divisor {divisor}: {mean:.3f} ± {error:.3f}  {verdict}")

print(f"false alarms at k = 4: {false_alarm(4):.7f}")
print(f"alarms at m = 8:       {power(4, 8):.5f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Probability of an alarm against the true deviation, from 0 to 10 standard errors, for
    critical values 2, 4 and 6. Each curve rises from almost 0 through one half, where the deviation
    equals the critical value, to almost 1 three standard errors further on. The marks of simulated
    tests lie on the curves.
    """
    n = 200
    samples = torch.randn(n, 1000, generator=torch.Generator().manual_seed(2))
    m = torch.linspace(0, 10, 101)
    for k, marker, line in ((2, "o", "-"), (4, "s", "--"), (6, "D", "-.")):
        ax.plot(m, power(k, m), line, color=f"C{k // 2 - 1}")
        some = m[::5]
        alarms = estimate(samples).z_score(-some[:, None] / math.sqrt(n)).abs() > k
        ax.plot(some, alarms.float().mean(1), marker, color=f"C{k // 2 - 1}", label=f"$k = {k}$")
    ax.set(xlabel="true deviation $m$ in standard errors", ylabel="probability of an alarm")
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.95))


# --8<-- [end:figure]


# --8<-- [start:figure_small]
def cap(n, k):
    """The share of the sphere in n dimensions on which |z| > k."""
    theta = math.atan(math.sqrt(n - 1) / k)
    shares = []
    for angle in (theta, math.pi / 2):
        integral = [angle, 1 - math.cos(angle)]
        for p in range(2, n - 1):
            step = math.cos(angle) * math.sin(angle) ** (p - 1)
            integral.append(((p - 1) * integral[p - 2] - step) / p)
        shares.append(integral[n - 2])
    return shares[0] / shares[1]


def figure_small(fig):
    """Left, pairs of normal samples around the known value, with the double wedge about the
    diagonal in which the test alarms at four standard errors, about a sixth of the plane. Right,
    the probability of a false alarm against the number of samples, for critical values 2 and 4: it
    falls from 0.30 and 0.16 at two samples towards the limits 0.046 and 0.00006, which are dotted.
    At 500 samples it has met the first one and is still a little above the second.
    """
    fig.set_size_inches(5.6, 2.9)
    left, right = fig.subplots(1, 2)
    k = 4
    pairs = torch.randn(2, 150, generator=torch.Generator().manual_seed(1))
    alarm = estimate(pairs).z_score(0.0).abs() > k
    edge = 3.4 * (k - 1) / (k + 1)
    for side in (3.4, -3.4):
        turn = math.copysign(edge, side)
        left.fill([0, turn, side, side], [0, side, side, turn], color=("C1", 0.15), linewidth=0)
    left.plot(*pairs[:, ~alarm], "o", markersize=2.5, color="C0")
    left.plot(*pairs[:, alarm], "x", markersize=5, color="C1")
    left.set(xlabel="first sample", ylabel="second sample", aspect="equal")
    left.set(xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    number = [2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 100, 200, 500]
    for k, style in ((2, "o-"), (4, "s-")):
        colour = f"C{k // 2 - 1}"
        right.loglog(number, [cap(n, k) for n in number], style, markersize=3, color=colour)
        right.axhline(false_alarm(k), linestyle=":", color=colour)
        right.text(500, 1.5 * cap(500, k), f"$k = {k}$", ha="right", color=colour)
    right.set(xlabel="number of samples", ylabel="false alarms")


# --8<-- [end:figure_small]


# --8<-- [start:figure_looks]
def looks(k, number, points=401):
    """The probability of an alarm within the first looks, one after each standard normal sample."""
    x = torch.zeros(1, dtype=torch.float64)
    mass, alarm = x + 1, []
    simpson = torch.full((points,), 2 / 3, dtype=torch.float64)
    simpson[1::2], simpson[0], simpson[-1] = 4 / 3, 1 / 3, 1 / 3
    for j in range(1, number + 1):
        y = math.sqrt(j) * torch.linspace(-k, k, points, dtype=torch.float64)
        step = torch.exp(-((y[:, None] - x) ** 2) / 2) / math.sqrt(2 * math.pi)
        x, mass = y, step @ mass * simpson * (y[1] - y[0])
        alarm.append(1 - mass.sum().item())
    return alarm


def figure_looks(ax):
    """Probability of a false alarm against the number of looks, from 1 to 100, on logarithmic axes,
    for critical values 2, 3 and 4. All three curves rise: from 0.046 to 0.35, from 0.0027 to 0.035,
    and from 0.00006 to 0.0012.
    """
    number = torch.arange(1, 101)
    for k, line in ((2, "-"), (3, "--"), (4, "-.")):
        alarm = looks(k, 100)
        ax.loglog(number, alarm, line)
        ax.text(110, alarm[-1], f"$k = {k}$", va="center", color=f"C{k - 2}")
    ax.set(xlabel="number of looks", ylabel="probability of a false alarm", xlim=(1, 260))


# --8<-- [end:figure_looks]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_small(plt.figure(layout="constrained"))
    figure_looks(plt.figure(layout="constrained").gca())
    plt.show()
