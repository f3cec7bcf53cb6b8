"""The Dirac-GAN in steps: which steps converge, which circle and which run away."""

# --8<-- [start:setup]
import math
from functools import partial

import torch

from genref.adversarial.dirac import orbit, velocity
from genref.adversarial.dirac_variants import held, non_saturating, period, step_limit, update


def radius(states):
    return torch.hypot(states[..., 0], states[..., 2])


def played(field, state, step, steps, alternating):
    """The radii after each of the steps."""
    sizes = [radius(state)]
    for _ in range(steps):
        state = update(field, state, step, alternating)
        sizes.append(radius(state))
    return torch.stack(sizes)


# --8<-- [end:setup]

# --8<-- [start:check]
start = torch.tensor([1.0, 0.0, 0.5])
time = period(start)
there = orbit(held(velocity), start, time.item() / 400, 400)[-1]
assert torch.allclose(there, start, atol=1e-4)
print(f"one turn, offset held: {time:.3f}, near the centre {4 * math.pi:.3f}")

C = start[0] * start[2] + start[1]
grown = radius(update(velocity, start, 0.3)) / radius(start)
assert torch.allclose(grown**2, 1 + (0.3 * C.sigmoid()) ** 2)

near = torch.tensor([0.003, 0.001, 0.002])
for alternating in (False, True):
    limit = step_limit(0.5, alternating).item()
    field = partial(velocity, gamma=0.5)
    assert played(field, near, 0.95 * limit, 300, alternating)[-1] < 1e-5
    assert not played(field, near, 1.05 * limit, 300, alternating)[-1] < 0.01
    print(f"gamma 0.5, {'in turn' if alternating else 'both at once'}: steps below {limit:.3f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """The largest stable step against the weight of the penalty. For simultaneous steps it rises on
    a straight line to 4 at the weight 1, and falls. For alternating ones it starts at 4 and falls
    all the way. The curves cross at the weight 0.58; beyond 2 both are close to 2 over the weight.
    """
    gamma = torch.linspace(0, 4, 321)
    both, turns = step_limit(gamma), step_limit(gamma, alternating=True)
    ax.fill_between(gamma, both, color=("C0", 0.25))
    ax.plot(gamma, both, color="C0", label="both at once")
    ax.fill_between(gamma, turns, facecolor="none", edgecolor=("C1", 0.5), hatch="//", linewidth=0)
    ax.plot(gamma, turns, "--", color="C1", label="in turn")
    ax.plot(gamma[80:], 2 / gamma[80:], ":", color="C2", label="2/γ")
    ax.set(xlabel="weight γ of the penalty", ylabel="step α", xlim=(0, 4), ylim=(0, 4.4))
    ax.legend()


# --8<-- [end:figure]


# --8<-- [start:figure_steps]
def figure_steps(fig):
    """The distance from the axis against the number of steps, both on logarithmic scales, for steps
    of size 2 from the radius one half. Simultaneous steps pass 5 within ten steps. Alternating
    steps shrink, to about 0.1 after 1000. With the offset held at 0 they stay near 0.4 for hundreds
    of steps and then run away.
    """
    ax = fig.subplots()
    start = torch.tensor([0.4, 0.0, 0.3]).double()
    games = {"both at once": (velocity, 20, False), "in turn": (velocity, 1000, True)}
    games["in turn, offset held at 0"] = held(velocity), 1000, True
    for n, (name, (field, steps, alternating)) in enumerate(games.items()):
        squares = played(field, start, 2.0, steps, alternating).square()
        mean = squares.unfold(0, 12, 1).mean(-1).sqrt() if alternating else squares.sqrt()
        seen = sorted({round(10 ** (k / 30)) for k in range(91)} & set(range(len(mean))))
        ax.plot(seen, mean[seen], ("-", "--", ":")[n], color=f"C{n}", label=name)
    ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="r", ylim=(0.08, 12))
    fig.legend(loc="outside upper center", ncols=2)


# --8<-- [end:figure_steps]


# --8<-- [start:figure_decay]
def figure_decay(ax):
    """Time times the squared distance from the axis, against time on a logarithmic scale, for a
    generator that ascends log sigma. Both curves rise in small waves and level off: at 8 with the
    offset held, at 80/9 with the offset learned. Dotted lines mark the two limits.
    """
    start = torch.tensor([1.2, 0.0, 0.0]).double()
    seen = torch.tensor(sorted({round(2 * 10 ** (k / 40)) for k in range(121)}))
    games = {"offset learned": (non_saturating, 80 / 9)}
    games["offset held at 0"] = held(non_saturating), 8
    for n, (name, (field, limit)) in enumerate(games.items()):
        squares = radius(orbit(field, start, 0.5, 2000)[seen]) ** 2
        ax.plot(seen / 2, seen / 2 * squares, ("-", "--")[n], color=f"C{n}", label=name)
        ax.axhline(limit, linestyle=":", color=f"C{n}")
    ax.set(xscale="log", xlabel="time t", ylabel="t r²", xlim=(1, 1000), ylim=(0, 10))
    ax.legend(loc="lower right")


# --8<-- [end:figure_decay]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_steps(plt.figure(layout="constrained"))
    figure_decay(plt.figure(layout="constrained").gca())
    plt.show()
