import re
from functools import partial

import mpmath
import numpy as np
import pytest
import sympy
import torch
import torch.nn.functional as F
from scipy.integrate import quad, solve_ivp
from scipy.optimize import brentq
from scipy.special import expit

from genref._site.claims import mutant
from genref.adversarial.dirac import orbit, velocity
from genref.adversarial.dirac_variants import (
    held,
    noisy,
    non_saturating,
    period,
    step_limit,
    update,
    update_matrix,
    wasserstein,
)

DOUBLE = torch.float64
ORIGIN = torch.zeros(3, dtype=DOUBLE)


def points(generator, n, size=1.0):
    """Random states whose entries have both signs and sizes from a half to three halves."""
    x = 2 * torch.rand(n, 3, dtype=DOUBLE, generator=generator) - 1
    return size * (x + x.sign() / 2)


def weights(generator, n, low, high):
    """Random numbers, one in each of n parts of the range."""
    share = torch.arange(n) + 0.2 + 0.6 * torch.rand(n, dtype=DOUBLE, generator=generator)
    return (low + (high - low) * share / n).tolist()


def radius(x):
    return torch.hypot(x[..., 0], x[..., 2])


def game(x, gamma=0.0):
    """The velocity, by scipy's logistic function."""
    C = x[0] * x[2] + x[1]
    return np.array([-x[2] * expit(C) - gamma * x[0], expit(-x[1]) - expit(C), x[0] * expit(C)])


def flow(start, times, field, **options):
    """The solution at the given times, by a method of order 8."""
    options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14, "t_eval": times} | options
    return solve_ivp(lambda _, x: field(x), (0.0, float(times[-1])), start, **options)


def turn(start, field):
    """The time after which the slope and the point have gone round once."""

    def behind(_, x):
        return x[2] * start[0] - x[0] * start[2]

    behind.direction = 1
    crossed = flow(start, [400.0], field, events=behind).t_events[0]
    return crossed[crossed > 1e-6][0]


@pytest.mark.claim("x-dirac-period")
def test_period(evidence, time=period):
    starts = points(evidence.generator, 6, size=1.3)
    fixed = lambda x: game(x) * [1, 0, 1]
    evidence.numeric(
        time(starts),
        [turn(start, fixed) for start in starts.numpy()],
        bound=1e-8,
        relative=True,
        oracle="the time to return, by a solver of order 8",
    )
    without = starts * torch.tensor([1, 0, 1])
    r = np.hypot(*without.numpy()[:, [0, 2]].T)
    evidence.numeric(
        time(without),
        [2 * mpmath.pi * (1 + mpmath.besseli(0, a**2 / 2)) for a in r],
        bound=1e-13,
        relative=True,
        oracle="the formula of the claim by mpmath",
    )
    evidence.numeric(
        time(1e-4 * without),
        np.full(6, 4 * np.pi),
        bound=1e-6,
        oracle="the linearised game",
    )


@mutant(test_period, "the period of the linearised game")
def linear_period(x):
    return torch.full_like(x[..., 0], 4 * torch.pi)


@mutant(test_period, "ψ₀θ = r² sin 2φ, without the half")
def without_half(x):
    return period(x * torch.tensor([2**0.5, 1, 2**0.5]))


@mutant(test_period, "the mean speed instead of the mean of its inverse")
def mean_speed(x):
    phi = torch.arange(200) * torch.pi / 100
    u = (radius(x) ** 2 / 2)[..., None] * torch.sin(2 * phi)
    return 2 * torch.pi / torch.sigmoid(u + x[..., 1:2]).mean(-1)


@mutant(test_period, "the angle turns twice as fast: half a turn")
def half_turn(x):
    return period(x) / 2


@pytest.mark.claim("x-dirac-discrete")
def test_simultaneous_steps(evidence, jump=update):
    starts = points(evidence.generator, 4)
    for step in weights(evidence.generator, 3, 0.1, 3.0):
        one = starts.numpy()
        sigma = expit(one[:, 0] * one[:, 2] + one[:, 1])
        for field in (velocity, held(velocity)):
            evidence.numeric(
                radius(jump(field, starts, step)) ** 2,
                (1 + step**2 * sigma**2) * (one[:, 0] ** 2 + one[:, 2] ** 2),
                bound=1e-12,
                relative=True,
                oracle="the factor of the claim by scipy",
            )
            x, sizes = starts, [radius(starts)]
            for _ in range(int(60 / step)):
                x = jump(field, x, step)
                sizes.append(radius(x))
            growing = torch.stack(sizes).log().diff(dim=0) > -1e-12
            evidence.exact(bool(growing.all()), True, oracle="r never shrinks")
        x, far = starts, 0
        while far < 20_000 and bool((radius(x) < 4).any()):
            x, far = jump(velocity, x, step), far + 1
        evidence.exact(bool((radius(x) >= 4).all()), True, oracle="r passes every bound, here 4")


@mutant(test_simultaneous_steps, "the generator answers the new critic")
def answering(field, state, step, alternating=False):
    return update(field, state, step, True)


@mutant(test_simultaneous_steps, "the flow taken for its steps")
def followed(field, state, step, alternating=False):
    return orbit(field, state, step / 10, 10)[-1]


@mutant(test_simultaneous_steps, "proximal steps, which contract")
def proximal(field, state, step, alternating=False):
    after = state
    for _ in range(200):
        after = after / 2 + (state + step * field(after)) / 2
    return after


@mutant(test_simultaneous_steps, "the factor of the linearised game at every point")
def linear_factor(field, state, step, alternating=False):
    moved = update(field, state, step)
    size = radius(state) * (1 + step**2 / 4) ** 0.5 / radius(moved)
    return moved * torch.stack([size, torch.ones_like(size), size], -1)


# The game by sympy, for the Jacobians of its updates at the origin.
STATE = PSI_0, PSI_1, THETA = sympy.symbols("psi_0 psi_1 theta", real=True)
GAMMA, ALPHA, X = sympy.symbols("gamma alpha x", real=True)


def log_sigmoid(u):
    return -sympy.log(1 + sympy.exp(-u))


CRITIC = PSI_0 * X + PSI_1
VALUE = log_sigmoid(CRITIC.subs(X, 0)) + log_sigmoid(-CRITIC.subs(X, THETA))
REWARD = VALUE - GAMMA / 2 * (sympy.diff(CRITIC, X) ** 2).subs(X, 0)


def moves(generator=-VALUE):
    """One step of each player, from any state."""
    critic = {p: p + ALPHA * sympy.diff(REWARD, p) for p in (PSI_0, PSI_1)}
    return critic, THETA + ALPHA * sympy.diff(generator, THETA)


def stepped(alternating):
    """One update of all three numbers."""
    critic, answer = moves()
    if alternating:
        answer = answer.subs(critic, simultaneous=True)
    return sympy.Matrix([critic[PSI_0], critic[PSI_1], answer])


def linear(alternating):
    """The Jacobian of one update at the origin."""
    at_rest = stepped(alternating).jacobian(STATE).subs(dict.fromkeys(STATE, 0))
    return sympy.simplify(at_rest)


IN_TURN = sympy.lambdify((*STATE, ALPHA, GAMMA), list(stepped(True)))
LINEAR = {order: linear(order) for order in (False, True)}
AT = {order: sympy.lambdify((ALPHA, GAMMA), entries) for order, entries in LINEAR.items()}


def spectral(step, gamma, alternating):
    return np.abs(np.linalg.eigvals(AT[alternating](step, gamma))).max()


def by_autograd(jump, step, gamma, alternating):
    field = partial(velocity, gamma=gamma)
    return torch.autograd.functional.jacobian(lambda x: jump(field, x, step, alternating), ORIGIN)


def in_order(values):
    pairs = [(complex(value).real, complex(value).imag) for value in values]
    return sorted(pairs, key=lambda pair: (round(pair[0], 8), round(pair[1], 8)))


@pytest.mark.claim("x-dirac-alternating")
def test_alternating_steps(evidence, jump=update, matrix=update_matrix):
    for step in weights(evidence.generator, 4, 0.2, 3.8) + weights(evidence.generator, 2, 4.1, 7):
        at_rest = by_autograd(jump, step, 0.0, True)
        evidence.numeric(
            at_rest,
            LINEAR[True].subs({ALPHA: step, GAMMA: 0}).tolist(),
            bound=1e-13,
            oracle="sympy, from the value of the game",
        )
        evidence.numeric(
            matrix(step, alternating=True),
            LINEAR[True].subs({ALPHA: step, GAMMA: 0}).tolist(),
            bound=1e-13,
            oracle="sympy, from the value of the game",
        )
        found = in_order(torch.linalg.eigvals(at_rest).tolist())
        expected = [1 - step / 2, *np.roots([1, -(2 - step**2 / 4), 1])]
        evidence.numeric(
            found,
            in_order(expected),
            bound=1e-7,
            oracle="the polynomial of the claim by numpy",
        )
        sizes = np.sort(np.abs(np.roots([1, -(2 - step**2 / 4), 1])))
        evidence.numeric(
            np.allclose(sizes, 1, atol=1e-9),
            step < 4,
            bound=0,
            oracle="the limit of the claim",
        )
    block = LINEAR[True].subs({ALPHA: 4, GAMMA: 0})
    evidence.exact(
        int(torch.linalg.matrix_rank(matrix(4.0, alternating=True) + torch.eye(3))),
        3 - len((block + sympy.eye(3)).nullspace()),
        oracle="the null space by sympy at the step 4",
    )
    around = matrix(4.0, alternating=True) + torch.eye(3)
    evidence.numeric(around @ around, np.zeros((3, 3)), bound=1e-13, oracle="all three are -1")
    away = points(evidence.generator, 10)
    evidence.numeric(
        jump(velocity, away, 0.7, True),
        [IN_TURN(*point, 0.7, 0.0) for point in away.tolist()],
        bound=1e-13,
        oracle="sympy, from the value of the game, away from the origin",
    )
    x = 1e-6 * points(evidence.generator, 3)
    for _ in range(200):
        x = jump(velocity, x, 4.3, True)
    evidence.exact(bool((radius(x) > 1e-2).all()), True, oracle="unstable above the limit")


@mutant(test_alternating_steps, "the generator answers the old critic", of="jump")
def simultaneous(field, state, step, alternating):
    return update(field, state, step)


@mutant(test_alternating_steps, "the generator moves first", of="jump")
def generator_first(field, state, step, alternating):
    moved = torch.cat([state[..., :2], (state + step * field(state))[..., 2:]], -1)
    return torch.cat([(moved + step * field(moved))[..., :2], moved[..., 2:]], -1)


@mutant(test_alternating_steps, "the generator sees the new slope and the old offset", of="jump")
def old_offset(field, state, step, alternating):
    moved = update(field, state, step)
    seen = torch.stack([moved[..., 0], state[..., 1], state[..., 2]], -1)
    return torch.cat([moved[..., :2], (seen + step * field(seen))[..., 2:]], -1)


@mutant(test_alternating_steps, "the two halves multiplied in the wrong order", of="matrix")
def other_order(step, gamma=0.0, alternating=True):
    lone = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)[:, None]
    J = update_matrix(step, gamma) - torch.eye(3)
    return (torch.eye(3) + (1 - lone) * J) @ (torch.eye(3) + lone * J)


@mutant(test_alternating_steps, "both steps added: the simultaneous matrix", of="matrix")
def added(step, gamma=0.0, alternating=True):
    return update_matrix(step, gamma)


@pytest.mark.claim("x-dirac-r1-step")
def test_step_with_penalty(evidence, limit=step_limit, jump=update, matrix=update_matrix):
    drawn = weights(evidence.generator, 2, 0.1, 0.9) + weights(evidence.generator, 2, 1.1, 5)
    for alternating in (False, True):
        for gamma in drawn:
            over = lambda step, g=gamma, order=alternating: spectral(step, g, order) - 1
            evidence.numeric(
                limit(gamma, alternating),
                brentq(over, 0.02 * min(gamma, 1 / gamma), 6.0, xtol=1e-13),
                bound=1e-9,
                oracle="the root of the spectral radius minus one, from the value of the game",
            )
            evidence.numeric(
                matrix(1.3, gamma, alternating),
                AT[alternating](1.3, gamma),
                bound=1e-13,
                oracle="sympy, from the value of the game",
            )
        g = torch.tensor(drawn, dtype=DOUBLE)
        ends = []
        for share in (0.95, 1.05):
            x = torch.tensor([[2e-4, -1e-4, 1e-4]], dtype=DOUBLE).expand(4, 3)
            for _ in range(2000):
                x = jump(partial(velocity, gamma=g), x, share * limit(g, alternating), alternating)
            ends.append((x.norm(dim=-1) < 1e-6).tolist())
        evidence.exact(
            ends,
            [[True] * 4, [False] * 4],
            oracle="steps 5 % below and above the limit",
        )
    closed = [4 * g if g <= 1 else 4 / (g + np.sqrt(g**2 - 1)) for g in drawn]
    found = [limit(g) for g in drawn]
    evidence.numeric(found, closed, bound=1e-12, oracle="the formulas of the claim")
    evidence.numeric(
        [limit(1.0), limit(1.0, True)],
        [4, 1.656854],
        bound=5e-7,
        oracle="the numbers of the claim",
    )
    third = 3**-0.5
    evidence.exact(
        [bool(limit(g, True) > limit(g)) for g in (0.3, 0.99 * third, 1.01 * third, 1.7, 9.0)],
        [True, True, False, False, False],
        oracle="the order of the claim",
    )
    half = by_autograd(jump, 2.0, 1.0, False)
    evidence.numeric(half @ half, np.zeros((3, 3)), bound=1e-13, oracle="the square is 0")


@mutant(test_step_with_penalty, "4γ for all γ", of="limit")
def four_gamma(gamma, alternating=False):
    return step_limit(gamma, True) if alternating else torch.tensor(4 * gamma, dtype=DOUBLE)


@mutant(test_step_with_penalty, "the limit of simultaneous steps for both", of="limit")
def one_limit(gamma, alternating=False):
    return step_limit(gamma)


@mutant(test_step_with_penalty, "2 over the largest modulus, as for real eigenvalues", of="limit")
def largest_modulus(gamma, alternating=False):
    fast = (gamma + max(gamma**2 - 1, 0) ** 0.5) / 2 if gamma > 1 else 0.5
    return step_limit(gamma, True) if alternating else torch.tensor(2 / fast)


@mutant(test_step_with_penalty, "the generator answers the slope before its penalty", of="matrix")
def late_penalty(step, gamma, alternating=False):
    A = update_matrix(step, 0.0, alternating)
    A[0, 0] -= step * gamma
    return A


@mutant(test_step_with_penalty, "the limit of the flow: any step will do", of="limit")
def any_step(gamma, alternating=False):
    return torch.tensor(100.0)


def numpy_field(field):
    return lambda x: field(torch.as_tensor(x)).numpy()


def softened(x, offset=1.0):
    """The game whose generator ascends log σ(C), by scipy."""
    C = x[0] * x[2] + x[1]
    return np.array([-x[2] * expit(C), offset * (expit(-x[1]) - expit(C)), x[0] * expit(-C)])


def ascended(x):
    """The same by automatic differentiation of the two objectives."""
    x = x.clone().requires_grad_()
    psi_0, psi_1, theta = x.unbind(-1)
    C = psi_0 * theta + psi_1
    (critic,) = torch.autograd.grad(
        (F.logsigmoid(psi_1) + F.logsigmoid(-C)).sum(),
        x,
        retain_graph=True,
    )
    (generator,) = torch.autograd.grad(F.logsigmoid(C).sum(), x)
    return torch.cat([critic[:, :2], generator[:, 2:]], -1)


def per_turn(field, path, start):
    """The growth of 1/r² over ten turns of the linearised game, per unit of time."""
    step = 4 * torch.pi / 80
    x = path(field, start, step, 80 * 16)
    inverse = radius(x[[80 * 6, 80 * 16]]) ** -2
    return (inverse[1] - inverse[0]) / (80 * 10 * step)


@pytest.mark.claim("x-dirac-ns")
def test_non_saturating(evidence, field=non_saturating, still=held):
    x = points(evidence.generator, 20)
    evidence.numeric(
        field(x),
        ascended(x),
        bound=1e-13,
        oracle="automatic differentiation of both objectives",
    )
    evidence.numeric(
        torch.autograd.functional.jacobian(field, ORIGIN),
        [[0, 0, -0.5], [0, -0.5, 0], [0.5, 0, 0]],
        bound=1e-13,
        oracle="the matrix J* written out by hand",
    )
    psi_0, psi_1, theta = x.numpy().T
    v = field(x)
    evidence.numeric(
        2 * (x[:, 0] * v[:, 0] + x[:, 2] * v[:, 2]),
        -2 * psi_0 * theta * np.tanh((psi_0 * theta + psi_1) / 2),
        bound=1e-13,
        oracle="the law of the claim",
    )
    start = torch.tensor([0.02, 0.0, 0.01], dtype=DOUBLE)
    evidence.numeric(
        [per_turn(still(field), orbit, start), per_turn(field, orbit, start)],
        [1 / 8, 9 / 80],
        bound=3e-4,
        oracle="the two limits of the claim",
    )
    far = torch.tensor([1.4, 0.0, -0.9], dtype=DOUBLE)
    start = far.numpy()
    evidence.numeric(
        [orbit(plays, far, 0.1, 1000)[-1] for plays in (still(field), field)],
        [flow(start, [100.0], partial(softened, offset=w)).y[:, -1] for w in (0.0, 1.0)],
        bound=1e-5,
        oracle="a solver of order 8 for the game by scipy's logistic function",
    )


@mutant(test_non_saturating, "the saturating generator", of="field")
def saturating(x):
    return velocity(x)


@mutant(test_non_saturating, "the generator descends log σ(C)", of="field")
def descending(x):
    return non_saturating(x) * torch.tensor([1, 1, -1])


@mutant(test_non_saturating, "the critic plays against the new objective too", of="field")
def zero_sum(x):
    psi_0, psi_1, theta = x.unbind(-1)
    off = torch.sigmoid(-psi_0 * theta - psi_1)
    return torch.stack([-theta * off, torch.sigmoid(psi_1) - off, psi_0 * off], -1)


@mutant(test_non_saturating, "8 with the offset learned as well", of="still")
def not_held(field):
    return field


@pytest.mark.claim("x-dirac-wgan")
def test_wasserstein(evidence, field=wasserstein):
    x = points(evidence.generator, 10)
    free = x.clone().requires_grad_()
    value = free[:, 1] - (free[:, 0] * free[:, 2] + free[:, 1])
    (slope,) = torch.autograd.grad(value.sum(), free)
    evidence.numeric(
        field(x),
        slope * torch.tensor([1, 1, -1]),
        bound=1e-14,
        oracle="automatic differentiation of C(0) - C(theta)",
    )
    psi_0, psi_1, theta = x.numpy().T
    time = weights(evidence.generator, 1, 1.0, 5.0)[0]
    turned = (psi_0 + 1j * theta) * np.exp(1j * time)
    evidence.numeric(
        orbit(field, x, time / 400, 400)[-1],
        np.stack([turned.real, psi_1, turned.imag], -1),
        bound=1e-8,
        oracle="multiplication by a unit complex number",
    )
    evidence.numeric(
        orbit(field, x, torch.pi / 500, 1000)[-1],
        x,
        bound=1e-8,
        oracle="the start, one period ago",
    )
    on_axis = x * torch.tensor([0, 1, 0])
    evidence.numeric(field(on_axis), np.zeros((10, 3)), bound=0, oracle="rest on the axis")
    for step in weights(evidence.generator, 2, 0.2, 1.8):
        grown = update(field, x, step)
        evidence.numeric(
            grown[:, 0] ** 2 + grown[:, 2] ** 2,
            (1 + step**2) * (psi_0**2 + theta**2),
            bound=1e-12,
            oracle="the factor of the claim",
        )
        after = update(field, x, step, alternating=True)
        evidence.numeric(
            after[:, 0] ** 2 + after[:, 2] ** 2 - step * after[:, 0] * after[:, 2],
            psi_0**2 + theta**2 - step * psi_0 * theta,
            bound=1e-12,
            oracle="the quadratic form at the start",
        )


@mutant(test_wasserstein, "the sigmoid is kept")
def with_sigmoid(x):
    return velocity(x)


@mutant(test_wasserstein, "the game linearised at rest: half the speed")
def half_speed(x):
    return wasserstein(x) / 2


@mutant(test_wasserstein, "the offset still relaxes")
def relaxing(x):
    return wasserstein(x) - torch.tensor([0, 0.5, 0]) * x


@mutant(test_wasserstein, "both players descend")
def both_descend(x):
    return wasserstein(x) * torch.tensor([-1, 1, 1])


def averaged(x, s):
    """The velocity under normal noise, by adaptive quadrature of the two means."""
    psi_0, psi_1, theta = x

    def mean(f):
        law = lambda e: np.exp(-(e**2) / (2 * s**2)) / (s * np.sqrt(2 * np.pi))
        return quad(lambda e: f(e) * law(e), -12 * s, 12 * s, epsabs=1e-13, limit=200)[0]

    real = lambda e: expit(-psi_0 * e - psi_1)
    fake = lambda e: expit(psi_0 * (theta + e) + psi_1)
    return [
        mean(lambda e: e * real(e) - (theta + e) * fake(e)),
        mean(lambda e: real(e) - fake(e)),
        psi_0 * mean(fake),
    ]


def shrinking(x, s):
    """The derivative of r² according to the claim, by the same quadrature."""
    psi_0, psi_1, theta = x
    law = lambda e: np.exp(-(e**2) / (2 * s**2)) / (s * np.sqrt(2 * np.pi))
    g = lambda u: expit(u) * expit(-u)
    both = lambda e: g(psi_1 + psi_0 * e) + g(psi_0 * theta + psi_1 + psi_0 * e)
    mean = quad(lambda e: both(e) * law(e), -12 * s, 12 * s, epsabs=1e-13, limit=200)[0]
    return -2 * s**2 * psi_0**2 * mean


@pytest.mark.claim("x-dirac-instance-noise")
def test_instance_noise(evidence, field=noisy):
    x = points(evidence.generator, 3)
    for s in weights(evidence.generator, 2, 0.3, 1.2):
        evidence.numeric(
            field(x, s),
            [averaged(point, s) for point in x.tolist()],
            bound=1e-9,
            oracle="adaptive quadrature by scipy",
        )
        v = field(x, s)
        evidence.numeric(
            2 * (x[:, 0] * v[:, 0] + x[:, 2] * v[:, 2]),
            [shrinking(point, s) for point in x.tolist()],
            bound=1e-9,
            oracle="the law of the claim by scipy's quadrature",
        )
        evidence.numeric(
            torch.autograd.functional.jacobian(lambda x, s=s: field(x, s), ORIGIN),
            [[-(s**2) / 2, 0, -0.5], [0, -0.5, 0], [0.5, 0, 0]],
            bound=1e-12,
            oracle="the Jacobian with R1 and gamma = s²/2 written out by hand",
        )
        evidence.numeric(field(ORIGIN, s), np.zeros(3), bound=1e-14, oracle="rest at the origin")
    uneven = np.array([-1.0, 0.25]), np.array([0.2, 0.8])
    at = sympy.Matrix([sum_over(uneven, p) for p in range(3)])
    slopes = at.jacobian(STATE).subs(dict.fromkeys(STATE, 0))
    second = sympy.Float(float((uneven[0] ** 2 * uneven[1]).sum()))
    by_hand = sympy.Matrix([[-second / 2, 0, -0.5], [0, -0.5, 0], [0.5, 0, 0]])
    evidence.numeric(
        slopes.tolist(),
        by_hand.tolist(),
        bound=1e-12,
        oracle="R1 with half of the variance",
    )
    at = torch.tensor([0.7, -0.2, 1.1], dtype=DOUBLE)
    evidence.numeric(
        field(at, 0.8),
        [-0.8941, -0.0834, 0.4409],
        bound=6e-5,
        oracle="the numbers of the claim",
    )
    evidence.numeric(
        velocity(at, 0.32),
        [-0.9266, -0.0889, 0.4471],
        bound=6e-5,
        oracle="the numbers of the claim",
    )
    ends = orbit(lambda x: field(x, 1.1), 2 * x, 0.15, 600)[-1]
    evidence.numeric(ends, np.zeros((3, 3)), bound=1e-4, oracle="the stationary point")


def sum_over(law, entry):
    """An entry of the mean velocity under noise with two values, from the mean of the value."""
    total = sum(
        p * (log_sigmoid(CRITIC.subs(X, e)) + log_sigmoid(-CRITIC.subs(X, THETA + e)))
        for e, p in zip(*law, strict=True)
    )
    return sympy.diff(total, STATE[entry]) * (-1 if entry == 2 else 1)


@mutant(test_instance_noise, "γ = s²: noise taken for the penalty")
def penalised_twice(x, s):
    return velocity(x, s**2)


@mutant(test_instance_noise, "the field of R1 itself")
def penalised(x, s):
    return velocity(x, s**2 / 2)


@mutant(test_instance_noise, "the variance passed as standard deviation")
def squared(x, s):
    return noisy(x, s**2)


@mutant(test_instance_noise, "noise on the generated point only")
def one_sided(x, s):
    v, alike = noisy(x, s), noisy(x * torch.tensor([1, 1, 0]), s)
    offset = v[..., 1] - (alike[..., 1] + 1) / 2 + torch.sigmoid(-x[..., 1])
    return torch.stack([v[..., 0] - alike[..., 0] / 2, offset, v[..., 2]], -1)


def test_batches_broadcast_and_keep_the_dtype():
    x = points(torch.Generator().manual_seed(1), 4)
    gamma = torch.tensor([[0.3], [1.7]], dtype=DOUBLE)
    assert update(velocity, x, gamma, alternating=True).shape == (2, 4, 3)
    assert torch.equal(update(velocity, x, gamma, True)[1, 2], update(velocity, x[2], 1.7, True))
    assert update_matrix(gamma, gamma, True).shape == (2, 1, 3, 3)
    assert torch.equal(update_matrix(gamma, 0.4, True)[1, 0], update_matrix(1.7, 0.4, True))
    assert torch.equal(update_matrix(0.4, gamma)[1, 0], update_matrix(0.4, 1.7))
    assert step_limit(gamma, True).shape == step_limit(gamma).shape == (2, 1)
    assert period(x).shape == (4,)
    assert torch.allclose(noisy(x, gamma)[1, 2], noisy(x[2], 1.7), atol=1e-14)
    y = x.float()
    for field in (
        velocity,
        non_saturating,
        wasserstein,
        held(velocity),
        partial(noisy, scale=0.5),
    ):
        assert field(y).dtype == update(field, y, 0.1, True).dtype == torch.float32
        assert torch.allclose(field(y).double(), field(x), atol=1e-6)
    assert period(y).dtype == update_matrix(gamma.float()).dtype == torch.float32
    for alternating in (False, True):
        assert step_limit(gamma.float(), alternating).dtype == torch.float32


def test_gradients_flow():
    x = points(torch.Generator().manual_seed(2), 2).requires_grad_()
    gamma = torch.tensor([0.3, 1.7], dtype=DOUBLE, requires_grad=True)
    step = torch.tensor([0.4, 0.2], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(period, (x,))
    assert torch.autograd.gradcheck(noisy, (x, step))
    assert torch.autograd.gradcheck(partial(update, non_saturating, alternating=True), (x, step))
    assert torch.autograd.gradcheck(partial(update_matrix, alternating=True), (step, gamma))
    for alternating in (False, True):
        limit = partial(step_limit, alternating=alternating)
        assert torch.autograd.gradcheck(limit, (gamma,))


def test_the_period_of_large_circles_does_not_overflow_before_it_must():
    x = torch.tensor([38.0, 700.0, 1.0], dtype=DOUBLE)
    a = (x[0] ** 2 + 1) / 2
    expected = 2 * mpmath.pi * (1 + mpmath.exp(-700) * mpmath.besseli(0, a.item()))
    assert abs(period(x).item() / float(expected) - 1) < 1e-12


@pytest.mark.parametrize("gamma", [1e-200, 1 - 1e-9, 1 + 1e-9, 1e9, 1e200])
def test_limits_of_small_and_large_weights_keep_their_digits(gamma):
    with mpmath.workdps(500):
        g = mpmath.mpf(gamma)
        both = 4 * g if g <= 1 else 4 / (g + mpmath.sqrt(g**2 - 1))
        expected = [float(both), float(4 / (g + mpmath.sqrt(g**2 + 1)))]
    found = [float(step_limit(gamma)), float(step_limit(gamma, alternating=True))]
    assert found == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "function",
    [period, non_saturating, wasserstein, partial(noisy, scale=0.3)],
)
def test_bad_states_raise(function):
    with pytest.raises(
        ValueError,
        match=re.escape("state must end in a dimension of 3, got shape (2,)"),
    ):
        function(torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=re.escape("state must be floating, got torch.int64")):
        function(torch.tensor([1, 2, 3]))


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_raise():
    x = torch.tensor([0.1, 0.2, 0.3])
    for wrong in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=re.escape(f"step must be above 0, got {wrong}")):
            update(velocity, x, wrong)
        with pytest.raises(ValueError, match=re.escape(f"step must be above 0, got {wrong}")):
            update_matrix(wrong)
    with pytest.raises(ValueError, match=re.escape("state must end in a dimension of 3, got")):
        update(velocity, x[:2], 0.1)
    for function in (step_limit, partial(update_matrix, 0.1)):
        with pytest.raises(ValueError, match=re.escape("gamma must be at least 0, got -0.5")):
            function(-0.5)
    with pytest.raises(ValueError, match=re.escape("scale must be at least 0, got -0.5")):
        noisy(x, -0.5)
    with pytest.raises(ValueError, match="n must be from 1 to 500, got 0"):
        noisy(x, 0.5, nodes=0)
    with pytest.raises(ValueError, match="state must have psi_0 or theta different from 0"):
        period(torch.tensor([0.0, 0.2, 0.0]))
