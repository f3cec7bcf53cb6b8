"""The smallest game between a critic and a generator, with and without a gradient penalty."""

# --8<-- [start:setup]
import torch
from torch.nn.functional import logsigmoid

from genref.adversarial.dirac import eigenvalues, jacobian, orbit, rate, velocity


def value(state):
    """What the critic ascends and the generator descends."""
    psi_0, psi_1, theta = state
    real, fake = psi_1, psi_0 * theta + psi_1
    return logsigmoid(real) + logsigmoid(-fake)


def penalised(gamma):
    return lambda state: velocity(state, gamma)


def radius(states):
    return torch.hypot(states[..., 0], states[..., 2])


# --8<-- [end:setup]

# --8<-- [start:check]
at = torch.tensor([0.7, -0.2, 1.1])
slope = torch.autograd.functional.jacobian(value, at) * torch.tensor([1, 1, -1])
assert torch.allclose(velocity(at), slope)

rest = torch.zeros(3)
for gamma in (0.0, 0.5, 1.0, 2.0):
    found = torch.linalg.eigvals(jacobian(rest, gamma))
    assert all((found - mode).abs().min() < 1e-3 for mode in eigenvalues(gamma))
    end = orbit(penalised(gamma), torch.tensor([0.4, 0.0, 0.2]), 0.1, 300)[-1]
    print(f"gamma {gamma}: rate {rate(gamma):.3f}, r at time 30: {radius(end):.5f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Two planes of the slope of the critic and the generated point. Without penalty three orbits
    are circles round the origin. With a penalty of weight 0.3 an orbit spirals into the origin;
    with 1 it goes there in half a turn, and with 3 it creeps along a line.
    """
    fig.set_size_inches(6.4, 3.2)
    left, right = fig.subplots(1, 2, sharex=True, sharey=True)
    starts = torch.tensor([[0.4, 0.8, 0.0], [0.8, 0.0, 0.0], [1.2, -0.8, 0.0]])
    circles = orbit(velocity, starts, 0.15, 140)
    for n in range(3):
        left.plot(circles[:, n, 0], circles[:, n, 2], color="C0")
    left.plot(starts[:, 0], starts[:, 2], "o", color="C0")
    left.set(title="no penalty", ylabel="generated point θ")
    for n, (gamma, line) in enumerate({0.3: "-", 1.0: "--", 3.0: ":"}.items()):
        x = orbit(penalised(gamma), starts[2], 0.15, 200)
        right.plot(x[:, 0], x[:, 2], line, color=f"C{n + 1}", label=f"γ = {gamma:g}")
    right.plot(starts[2, 0], starts[2, 2], "o", color="C0")
    right.set_title("with penalty")
    right.legend(loc="lower right")
    for ax in (left, right):
        ax.plot(0, 0, "+", color="C0")
        ax.set(xlabel="slope ψ₀ of the critic", aspect="equal")


# --8<-- [end:figure]


# --8<-- [start:figure_offset]
def figure_offset(ax):
    """The offset against the turns made by the slope and the point, on the cylinder of radius 1.2.
    Five orbits with offsets from minus 1.5 to 1.5 at the start run into one wave within a turn. The
    wave has two periods in each turn.
    """
    offsets = torch.tensor([-1.5, -0.75, 0.0, 0.75, 1.5])
    starts = torch.stack([0 * offsets + 1.2, offsets, 0 * offsets], -1)
    x = orbit(velocity, starts, 0.1, 330)
    across = torch.linalg.cross(x[:-1], x[1:])[..., 1]
    step = torch.atan2(across, (x[:-1] * x[1:])[..., ::2].sum(-1))
    turns = -step.cumsum(0) / (2 * torch.pi)
    ax.plot(turns[::3], x[1::3, :, 1], color="C0")
    ax.set(xlabel="turns", ylabel="offset ψ₁ of the critic", xlim=(0, 2))


# --8<-- [end:figure_offset]


# --8<-- [start:figure_rate]
def figure_rate(ax):
    """The rate of decay against the weight of the penalty, from 0 to 4. It rises on a straight line
    from 0 to one half at the weight 1, has a sharp peak there and falls slowly, to meet the curve of
    one over four times the weight. Seven dots, measured along solutions, lie on the rate.
    """
    gamma = torch.linspace(0, 4, 201)
    ax.plot(gamma, rate(gamma), color="C0", label="slowest eigenvalue")
    ax.plot(gamma, 1 / (4 * gamma.clamp(min=0.4)), ":", color="C1", label="1/(4γ)")
    for n, weight in enumerate((0.2, 0.4, 0.6, 0.8, 1.5, 2.5, 3.5)):
        time = 4 * torch.pi / (1 - weight**2) ** 0.5 if weight < 1 else 30.0
        x = orbit(penalised(weight), torch.tensor([2e-3, 0.0, 2e-3]).double(), time / 300, 600)
        begin = 0 if weight < 1 else 300
        speed = (radius(x[begin]) / radius(x[begin + 300])).log() / time
        ax.plot(weight, speed, "o", color="C2", label="along solutions" if n == 0 else None)
    ax.set(xlabel="weight γ of the penalty", ylabel="rate of decay", ylim=(0, 0.55))
    ax.legend()


# --8<-- [end:figure_rate]


# --8<-- [start:figure_fates]
def figure_fates(fig):
    """The distance from the axis against time, both on logarithmic scales, for four games that
    start at 0.447. The game itself stays there. With the penalty it falls below 0.001 before the
    time 20. With a generator that ascends another objective it falls slowly, to 0.24 at the time
    110, and with a small cubic push it grows and grows.
    """

    def generous(x):
        psi_0, psi_1, theta = x.unbind(-1)
        answer = psi_0 * torch.sigmoid(-psi_0 * theta - psi_1)
        return torch.cat([velocity(x)[..., :2], answer[..., None]], -1)

    def pushed(x):
        return velocity(x) + 0.02 * (x**2).sum(-1, keepdim=True) * x

    ax = fig.subplots()
    games = {"v": velocity, "v, penalty γ = 1": penalised(1.0)}
    games |= {"generator ascends log σ(C)": generous, "v + 0.02 |x|² x": pushed}
    for n, (name, game) in enumerate(games.items()):
        x = orbit(game, torch.tensor([0.4, 0.0, 0.2]).double(), 0.4, 275)
        seen = [i for i in range(3, 276, 3) if radius(x[i]) > 1e-4]
        line = ("-", "--", "-.", ":")[n]
        ax.plot([0.4 * i for i in seen], radius(x[seen]), line, color=f"C{n}", label=name)
    ax.set(xscale="log", yscale="log", xlabel="time", ylabel="r", ylim=(1e-3, 3))
    fig.legend(loc="outside upper center", ncols=2)


# --8<-- [end:figure_fates]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_offset(plt.figure(layout="constrained").gca())
    figure_rate(plt.figure(layout="constrained").gca())
    figure_fates(plt.figure(layout="constrained"))
    plt.show()
