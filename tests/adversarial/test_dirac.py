import re

import mpmath
import numpy as np
import pytest
import sympy
import torch
import torch.nn.functional as F
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

from genref._site.claims import mutant
from genref.adversarial.dirac import eigenvalues, eigenvectors, jacobian, orbit, rate, velocity

DOUBLE = torch.float64


def points(generator, n, size=1.0):
    """Random states whose entries have both signs and sizes from a half to three halves."""
    x = 2 * torch.rand(n, 3, dtype=DOUBLE, generator=generator) - 1
    return size * (x + x.sign() / 2)


def weights(generator, n, low, high):
    """Random weights, one in each of n parts of the range."""
    share = torch.arange(n) + 0.2 + 0.6 * torch.rand(n, dtype=DOUBLE, generator=generator)
    return low + (high - low) * share / n


# The game by sympy: from the two laws and the critic, before any formula of the stem.
STATE = PSI_0, PSI_1, THETA = sympy.symbols("psi_0 psi_1 theta", real=True)
GAMMA, X = sympy.symbols("gamma x", real=True)


def log_sigmoid(u):
    return -sympy.log(1 + sympy.exp(-u))


CRITIC = PSI_0 * X + PSI_1
VALUE = log_sigmoid(CRITIC.subs(X, 0)) + log_sigmoid(-CRITIC.subs(X, THETA))
PENALTY = GAMMA / 2 * (sympy.diff(CRITIC, X) ** 2).subs(X, 0)
PLAY = sympy.Matrix(
    [
        sympy.diff(VALUE - PENALTY, PSI_0),
        sympy.diff(VALUE - PENALTY, PSI_1),
        -sympy.diff(VALUE, THETA),
    ]
)
SLOPES = PLAY.jacobian(STATE)
AT_REST = sympy.simplify(SLOPES.subs(dict.fromkeys(STATE, 0)))
play = sympy.lambdify((*STATE, GAMMA), list(PLAY), "numpy")
slopes = sympy.lambdify((*STATE, GAMMA), SLOPES, "mpmath")


def flow(start, times, field, **options):
    """The solution at the given times, by a method of order 8."""
    span = (0.0, float(times[-1]))
    options = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14} | options
    return solve_ivp(lambda _, x: field(x), span, start, t_eval=times, **options).y.T


def played(x, gamma=0.0):
    return np.array(play(*x, gamma))


def ascended(x, gamma):
    """The velocity by automatic differentiation of the two means over the point masses."""
    x = x.clone().requires_grad_()
    psi_0, psi_1, theta = x.unbind(-1)
    datum = torch.zeros_like(theta).requires_grad_()
    real, fake = psi_0 * datum + psi_1, psi_0 * theta + psi_1
    (slope,) = torch.autograd.grad(real.sum(), datum, create_graph=True)
    value = F.logsigmoid(real) + F.logsigmoid(-fake)
    (critic,) = torch.autograd.grad((value - gamma / 2 * slope**2).sum(), x, retain_graph=True)
    (generator,) = torch.autograd.grad(value.sum(), x)
    return torch.cat([critic[:, :2], -generator[:, 2:]], -1)


def farthest_rest(field, generator):
    """How far from the origin the field comes to rest, inside a cube."""
    at = []
    for start in points(generator, 12).numpy():
        speed = lambda x: field(torch.as_tensor(x)).numpy()
        found = least_squares(speed, start, bounds=(-3, 3), xtol=1e-14, ftol=1e-14, gtol=1e-14)
        at += [np.abs(found.x).max()] if found.cost < 1e-20 else []
    return max(at, default=np.inf)


@pytest.mark.claim("dirac-gan-velocity", answers=["C5.1"])
def test_velocity(evidence, field=velocity):
    x = points(evidence.generator, 40)
    evidence.numeric(
        field(x),
        ascended(x, 0.0),
        bound=1e-13,
        oracle="automatic differentiation of the two means",
    )
    evidence.numeric(
        farthest_rest(field, evidence.generator),
        0.0,
        bound=1e-6,
        oracle="the origin, against all zeros that least squares finds in a cube",
    )


@pytest.mark.claim("dirac-gan-r1-velocity", answers=["C5.4"])
def test_velocity_with_penalty(evidence, field=velocity):
    x = points(evidence.generator, 40)
    for gamma in weights(evidence.generator, 3, 0.2, 3.0).tolist():
        evidence.numeric(
            field(x, gamma),
            ascended(x, gamma),
            bound=1e-13,
            oracle="automatic differentiation of the two means and of the critic's slope",
        )
        evidence.numeric(
            farthest_rest(lambda x, gamma=gamma: field(x, gamma), evidence.generator),
            0.0,
            bound=1e-6,
            oracle="the origin, against all zeros that least squares finds in a cube",
        )


def replaced(x, gamma, **entries):
    """The velocity with some of its entries changed."""
    v = dict(zip(("slope", "offset", "point"), velocity(x, gamma).unbind(-1), strict=True))
    return torch.stack(list((v | entries).values()), -1)


@mutant(test_velocity, "the generator ascends the value")
@mutant(test_velocity_with_penalty, "the generator ascends the value")
def ascending(x, gamma=0.0):
    return replaced(x, gamma, point=-velocity(x)[..., 2])


@mutant(test_velocity, "both players descend the value")
def both_descend(x, gamma=0.0):
    return -ascending(x)


@mutant(test_velocity, "the generator ascends log σ(C)")
def generous(x, gamma=0.0):
    psi_0, psi_1, theta = x.unbind(-1)
    return replaced(x, gamma, point=psi_0 * torch.sigmoid(-psi_0 * theta - psi_1))


@mutant(test_velocity, "the logarithm is forgotten: σ' in place of σ'/σ")
def without_logarithm(x, gamma=0.0):
    psi_0, psi_1, theta = x.unbind(-1)
    C = psi_0 * theta + psi_1
    g = torch.sigmoid(C) * torch.sigmoid(-C)
    h = torch.sigmoid(psi_1) * torch.sigmoid(-psi_1)
    return torch.stack([-theta * g, h - g, psi_0 * g], -1)


@mutant(test_velocity, "the datum does not move the offset")
def generated_only(x, gamma=0.0):
    psi_0, psi_1, theta = x.unbind(-1)
    return replaced(x, gamma, offset=-torch.sigmoid(psi_0 * theta + psi_1))


@mutant(test_velocity_with_penalty, "γ/2 is not multiplied by the 2 of the square")
def halved(x, gamma):
    return velocity(x, gamma / 2)


@mutant(test_velocity_with_penalty, "the factor 1/2 is left out")
def doubled(x, gamma):
    return velocity(x, 2 * gamma)


@mutant(test_velocity_with_penalty, "the penalty is added, not subtracted")
def rewarded(x, gamma):
    return replaced(x, gamma, slope=velocity(x)[..., 0] + gamma * x[..., 0])


@mutant(test_velocity_with_penalty, "the penalty is on all weights of the critic")
def decayed(x, gamma):
    return replaced(x, gamma, offset=velocity(x)[..., 1] - gamma * x[..., 1])


def entries(x, gamma=0.0):
    return torch.tensor([slopes(*point, gamma).tolist() for point in x.tolist()], dtype=DOUBLE)


@pytest.mark.claim("dirac-gan-jacobian", answers=["C5.2"])
def test_jacobian(evidence, linear=jacobian):
    x = points(evidence.generator, 20)
    evidence.numeric(
        linear(x),
        entries(x),
        bound=1e-13,
        oracle="sympy, from the value of the game",
    )
    evidence.numeric(
        linear(torch.zeros(3, dtype=DOUBLE)),
        AT_REST.subs(GAMMA, 0).tolist(),
        bound=1e-14,
        oracle="sympy, from the value of the game, at the origin",
    )
    at = torch.tensor([0.7, -0.2, 1.1], dtype=DOUBLE)
    evidence.numeric(linear(at)[0, 2], -0.816437, bound=5e-7, oracle="the number of the claim")


@pytest.mark.claim("dirac-gan-r1-jacobian", answers=["C5.5"])
def test_jacobian_with_penalty(evidence, linear=jacobian):
    x = points(evidence.generator, 10)
    for gamma in weights(evidence.generator, 3, 0.2, 3.0).tolist():
        evidence.numeric(
            linear(x, gamma),
            entries(x, gamma),
            bound=1e-13,
            oracle="sympy, from the value of the game",
        )
        evidence.numeric(
            linear(torch.zeros(3, dtype=DOUBLE), gamma),
            AT_REST.subs(GAMMA, gamma).tolist(),
            bound=1e-14,
            oracle="sympy, from the value of the game, at the origin",
        )


def with_entry(J, row, column, value):
    J = J.clone()
    J[..., row, column] = value
    return J


@mutant(test_jacobian, "E003-20: the product rule is left out in the first row")
@mutant(test_jacobian_with_penalty, "E003-20: the product rule is left out in the first row")
def one_term(x, gamma=0.0):
    psi_0, psi_1, theta = x.unbind(-1)
    return with_entry(jacobian(x, gamma), 0, 2, -torch.sigmoid(psi_0 * theta + psi_1))


@mutant(test_jacobian, "the offset is damped by one of the two points only")
def one_point(x, gamma=0.0):
    J, psi_1 = jacobian(x, gamma), x[..., 1]
    g = torch.sigmoid(psi_1) * torch.sigmoid(-psi_1)
    return with_entry(J, 1, 1, J[..., 1, 1] + g)


@mutant(test_jacobian, "rows and columns exchanged")
def transposed(x, gamma=0.0):
    return jacobian(x, gamma).mT


@mutant(test_jacobian, "the second derivatives of the value: the generator ascends")
def hessian(x, gamma=0.0):
    return torch.tensor([1.0, 1.0, -1.0]).to(x)[:, None] * jacobian(x, gamma)


@mutant(test_jacobian_with_penalty, "γ/2 in place of γ")
def half_entry(x, gamma):
    return jacobian(x, gamma / 2)


@mutant(test_jacobian_with_penalty, "the penalty damps the offset too")
def both_entries(x, gamma):
    J = jacobian(x, gamma)
    return with_entry(J, 1, 1, J[..., 1, 1] - gamma)


def in_order(values):
    """Complex numbers as pairs, the smaller real part first, then the smaller imaginary part."""
    pairs = [(complex(value).real, complex(value).imag) for value in values]
    return sorted(pairs, key=lambda pair: (round(pair[0], 9), pair[1]))


def modes(gamma):
    """The eigenvalues of the Jacobian at rest, and the columns that sympy finds for them."""
    triples = AT_REST.subs(GAMMA, gamma).eigenvects()
    values = [value for value, many, _ in triples for _ in range(many)]
    columns = {}
    for value, _, vectors in triples:
        for vector in vectors:
            scaled = vector / (vector[2] if vector[2] != 0 else vector[1])
            columns[in_order([sympy.N(value)])[0]] = [complex(entry) for entry in scaled]
    return [sympy.N(value) for value in values], columns


def pairs(values, vectors):
    """Each eigenvalue with its column, in the order of `in_order`."""
    columns = {in_order([v])[0]: c for v, c in zip(values.tolist(), vectors.mT, strict=True)}
    return torch.view_as_real(torch.stack([columns[value] for value in in_order(values.tolist())]))


def expected_pairs(gamma):
    _, columns = modes(gamma)
    ordered = sorted(columns, key=lambda pair: (round(pair[0], 9), pair[1]))
    return torch.view_as_real(torch.tensor([columns[v] for v in ordered], dtype=torch.complex128))


@pytest.mark.claim("dirac-gan-eigenvalues", answers=["C5.3"])
def test_eigenvalues(evidence, values=eigenvalues, vectors=eigenvectors):
    at_rest = values(0.0)
    evidence.numeric(
        in_order(at_rest.tolist()),
        in_order([-0.5, 0.5j, -0.5j]),
        bound=1e-14,
        oracle="the numbers of the claim",
    )
    evidence.numeric(
        in_order(at_rest.tolist()),
        in_order(modes(0)[0]),
        bound=1e-14,
        oracle="sympy, from the value of the game",
    )
    evidence.numeric(
        pairs(at_rest, vectors(0.0)),
        expected_pairs(0),
        bound=1e-14,
        oracle="null spaces by sympy, from the value of the game",
    )


@pytest.mark.claim("dirac-gan-r1-eigenvalues", answers=["C5.6"])
def test_eigenvalues_with_penalty(evidence, values=eigenvalues, vectors=eigenvectors):
    low = weights(evidence.generator, 3, 0.05, 0.95).tolist()
    high = weights(evidence.generator, 3, 1.05, 4.0).tolist()
    for gamma in low + high:
        fraction = sympy.Rational(round(1000 * gamma), 1000)
        at_rest = values(float(fraction))
        evidence.numeric(
            in_order(at_rest.tolist()),
            in_order(modes(fraction)[0]),
            bound=1e-13,
            oracle="sympy, from the value of the game",
        )
        evidence.numeric(
            pairs(at_rest, vectors(float(fraction))),
            expected_pairs(fraction),
            bound=1e-12,
            oracle="null spaces by sympy, from the value of the game",
        )
        evidence.ordered(at_rest.real, 0.0, bound=0.0, oracle="the sign in the claim")
    evidence.numeric(
        values(torch.tensor(low)).abs()[:, 1:],
        np.full((3, 2), 0.5),
        bound=1e-6,
        oracle="one half",
    )
    at_one = AT_REST.subs(GAMMA, 1)
    plane = len((at_one + sympy.eye(3) / 2).nullspace())
    evidence.exact(
        int(torch.linalg.matrix_rank(vectors(1.0))),
        plane,
        oracle="the null space by sympy",
    )
    evidence.numeric(
        in_order(values(1.0).tolist()),
        in_order(modes(1)[0]),
        bound=1e-14,
        oracle="sympy",
    )
    t = sympy.Symbol("t", real=True)
    by_sympy = (t * at_one).exp()
    line = sympy.exp(-t / 2) * (sympy.eye(3) + t * (at_one + sympy.eye(3) / 2))
    for row, column in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)):
        evidence.symbolic(
            line[row, column],
            by_sympy[row, column],
            oracle="Jordan's normal form by sympy",
        )


@mutant(test_eigenvalues, "plus and minus one half: cosh in place of cos", of="values")
def real_pair(gamma):
    return torch.tensor([-0.5, 0.5, -0.5], dtype=torch.complex128)


@mutant(test_eigenvalues, "the eigenvectors of the pair exchanged", of="vectors")
@mutant(test_eigenvalues_with_penalty, "E003-23: the eigenvectors exchanged", of="vectors")
def exchanged(gamma):
    return eigenvectors(gamma)[..., [0, 2, 1]]


@mutant(test_eigenvalues_with_penalty, "the half is left out of the root formula", of="values")
def whole(gamma):
    return eigenvalues(gamma) * torch.tensor([1, 2, 2])


@mutant(test_eigenvalues_with_penalty, "E003-23: the pair is still ±i/2", of="values")
def unmoved(gamma):
    return eigenvalues(0.0 * torch.as_tensor(gamma, dtype=DOUBLE))


@mutant(test_eigenvalues_with_penalty, "the penalty moves the pair, not its sum", of="values")
def shifted(gamma):
    moved = torch.as_tensor(gamma, dtype=DOUBLE)[..., None] * torch.tensor([0, 1, 1])
    return eigenvalues(0.0 * torch.as_tensor(gamma, dtype=DOUBLE)) - moved


def radius(x):
    return torch.hypot(x[..., 0], x[..., 2])


def ring(r, angle):
    """The offset on the closed orbit, by following a start on its cylinder for ten turns."""

    def fall(phi, offset):
        C = r**2 / 2 * np.sin(2 * phi) + offset
        return (1 / (1 + np.exp(offset)) - 1 / (1 + np.exp(-C))) * (1 + np.exp(-C))

    phase = angle % np.pi + 20 * np.pi
    return solve_ivp(fall, (0, phase), [0.3], method="DOP853", rtol=1e-12, atol=1e-13).y[0, -1]


def bent(field, kappa):
    return lambda x: field(x) + kappa * (x**2).sum(-1, keepdim=True) * x


def bent_play(kappa):
    return lambda x: played(x) + kappa * (x @ x) * x


@pytest.mark.claim("dirac-gan-stability", answers=["C5.3"])
def test_stability(evidence, field=velocity, path=orbit):
    starts = points(evidence.generator, 3)
    r = np.hypot(*starts.numpy()[:, [0, 2]].T)
    states = path(field, starts, 0.05, 1200)
    evidence.numeric(
        radius(states)[::100],
        np.broadcast_to(r, (13, 3)).copy(),
        bound=1e-7,
        oracle="the radius at the start",
    )
    truth = np.array([flow(start, [60.0], played)[-1] for start in starts.numpy()])
    evidence.numeric(states[-1], truth, bound=1e-5, oracle="a solver of order 8, game by sympy")
    evidence.ordered(
        states[..., 1].abs().amax(0),
        np.maximum(np.abs(starts.numpy()[:, 1]), r**2 / 4),
        bound=1e-9,
        oracle="the bound of the claim",
    )
    closed = [ring(r_0, np.arctan2(x[2], x[0])) for r_0, x in zip(r, truth, strict=True)]
    evidence.numeric(
        states[-1, :, 1],
        closed,
        bound=1e-5,
        oracle="the scalar equation over the angle",
    )
    on_axis = torch.tensor([[0.0, 1.7, 0.0], [0.0, -2.3, 0.0]], dtype=DOUBLE)
    evidence.numeric(
        path(field, on_axis, 0.05, 60)[-1],
        [[0, 2 * mpmath.asinh(mpmath.exp(-1.5) * mpmath.sinh(p / 2)), 0] for p in (1.7, -2.3)],
        bound=1e-5,
        oracle="the formula of the claim by mpmath",
    )
    for kappa in (-0.05, 0.05):
        bowed = path(bent(field, kappa), starts / 5, 0.05, 400)
        expected = [flow(start, [20.0], bent_play(kappa))[-1] for start in starts.numpy() / 5]
        evidence.numeric(
            bowed[-1],
            expected,
            bound=1e-5,
            oracle="a solver of order 8, game by sympy",
        )
        evidence.exact(
            np.sign(kappa) * radius(bowed).diff(dim=0) > 0,
            np.full((400, 3), True),
            oracle="the sign of kappa",
        )


@mutant(test_stability, "it converges: the generator ascends log σ(C)", of="field")
def converging(x):
    return generous(x)


@mutant(test_stability, "it converges: weight decay of the slope left in the code", of="field")
def with_decay(x):
    return velocity(x, 0.01)


@mutant(test_stability, "it is unstable: Euler steps taken for the flow", of="path")
def euler(field, state, step, steps):
    x = [state]
    for _ in range(steps):
        x.append(x[-1] + step * field(x[-1]))
    return torch.stack(x)


@mutant(test_stability, "the linearised game taken for the game", of="field")
def linearised(x):
    return x @ jacobian(torch.zeros(3, dtype=DOUBLE)).mT


@pytest.mark.claim("dirac-gan-r1-stability", answers=["C5.6"])
def test_stability_with_penalty(evidence, field=velocity, path=orbit):
    starts = points(evidence.generator, 3, size=2.0)
    r = np.hypot(*starts.numpy()[:, [0, 2]].T)
    for gamma in weights(evidence.generator, 3, 0.5, 2.5).tolist():
        v = field(starts, gamma)
        evidence.numeric(
            2 * (starts[:, 0] * v[:, 0] + starts[:, 2] * v[:, 2]),
            -2 * gamma * starts[:, 0] ** 2,
            bound=1e-12,
            oracle="the law of the claim",
        )
        states = path(lambda x, gamma=gamma: field(x, gamma), starts, 0.1, 1500)
        law = lambda x, gamma=gamma: played(x, gamma)
        early = [flow(start, [10.0], law)[-1] for start in starts.numpy()]
        evidence.numeric(
            states[100],
            early,
            bound=1e-4,
            oracle="a solver of order 8, game by sympy",
        )
        evidence.ordered(
            states[..., 1].abs().amax(0),
            np.maximum(np.abs(starts.numpy()[:, 1]), r**2 / 4),
            bound=1e-9,
            oracle="the bound of the claim",
        )
        evidence.numeric(states[-1], np.zeros((3, 3)), bound=1e-4, oracle="the stationary point")


@mutant(test_stability_with_penalty, "the penalty is added, not subtracted", of="field")
def growing(x, gamma):
    return rewarded(x, gamma)


@mutant(test_stability_with_penalty, "no penalty: the offset damps the circle", of="field")
def unpenalised(x, gamma):
    return velocity(x)


@mutant(test_stability_with_penalty, "the penalty is on the offset", of="field")
def offset_only(x, gamma):
    return replaced(x, 0.0, offset=velocity(x)[..., 1] - gamma * x[..., 1])


@mutant(test_stability_with_penalty, "r decays at the rate γ: both coordinates", of="field")
def both_damped(x, gamma):
    return replaced(x, gamma, point=velocity(x)[..., 2] - gamma * x[..., 2])


def measured_rate(gamma):
    """The slope of log r, over whole turns where the solution turns."""
    begin, turn = (0.0, 4 * np.pi / np.sqrt(1 - gamma**2)) if gamma < 1 else (20.0, 10.0)
    field = lambda x: played(x, gamma)
    x = flow([3e-4, 0.0, 2e-4], [begin, begin + turn], field, rtol=1e-11, atol=1e-15)
    r = np.hypot(x[:, 0], x[:, 2])
    return np.log(r[0] / r[1]) / turn


def softened(x):
    """The game with a generator that ascends log σ(C), by hand."""
    v = played(x)
    return np.array([v[0], v[1], x[0] / (1 + np.exp(x[0] * x[2] + x[1]))])


@pytest.mark.claim("dirac-gan-comparison", answers=["C5.6"])
def test_comparison(evidence, speed=rate, field=velocity):
    low = weights(evidence.generator, 2, 0.1, 0.9).tolist()
    high = weights(evidence.generator, 2, 1.2, 3.0).tolist()
    evidence.numeric(
        [speed(gamma) for gamma in low + high],
        [measured_rate(gamma) for gamma in low + high],
        bound=2e-4,
        relative=True,
        oracle="the slope of log r along solutions of the game by sympy, of order 8",
    )
    evidence.numeric(
        [speed(gamma) for gamma in low + high],
        [g / 2 for g in low] + [1 / (2 * g + 2 * np.sqrt(g**2 - 1)) for g in high],
        bound=1e-12,
        oracle="the two formulas of the claim",
    )
    grid = np.linspace(0.02, 4, 200)
    evidence.numeric(
        grid[np.argmax([float(speed(gamma)) for gamma in grid])],
        1.0,
        bound=1e-12,
        oracle="the best weight of the claim",
    )
    evidence.numeric([speed(0.0), speed(1.0)], [0.0, 0.5], bound=1e-14, oracle="the claim")
    evidence.numeric(4e6 * speed(1e6), 1.0, bound=1e-6, oracle="the limit of the claim")
    start = torch.tensor([0.4, 0.0, 0.2], dtype=DOUBLE)
    laws = (played, softened, bent_play(0.02))
    ends = np.array([flow([0.4, 0.0, 0.2], [80.0], law)[-1] for law in laws])
    games = (field, generous, bent(field, 0.02))
    r_80 = [radius(orbit(game, start, 0.1, 800)[-1]) for game in games]
    evidence.numeric(
        r_80,
        np.hypot(ends[:, 0], ends[:, 2]),
        bound=1e-6,
        oracle="a solver of order 8, game by sympy",
    )
    evidence.numeric(
        r_80,
        [0.447214, 0.266476, 0.746678],
        bound=1e-6,
        oracle="the numbers of the claim",
    )
    origin = torch.zeros(3, dtype=DOUBLE)
    evidence.numeric(
        [torch.autograd.functional.jacobian(game, origin) for game in games],
        [AT_REST.subs(GAMMA, 0).tolist()] * 3,
        bound=1e-12,
        oracle="sympy, from the value of the game, at the origin",
    )


@mutant(test_comparison, "a larger penalty is faster", of="speed")
def half_gamma(gamma):
    return torch.as_tensor(gamma, dtype=DOUBLE) / 2


@mutant(test_comparison, "the fastest mode decides", of="speed")
def fastest(gamma):
    return eigenvalues(gamma).real.abs().amax(-1)


@mutant(test_comparison, "the modulus of the eigenvalue decides", of="speed")
def modulus(gamma):
    return eigenvalues(gamma).abs().amin(-1)


@mutant(test_comparison, "without penalty the game converges sublinearly", of="field")
def sublinear(x):
    return generous(x)


def test_the_solver_has_order_four():
    start = torch.tensor([0.8, -0.3, 0.5], dtype=DOUBLE)
    truth = torch.tensor(flow(start.numpy(), [4.0], played)[-1])
    errors = [(orbit(velocity, start, 4 / n, n)[-1] - truth).norm() for n in (20, 40)]
    assert 3.8 < torch.log2(errors[0] / errors[1]) < 4.2
    back = orbit(velocity, truth, -0.02, 200)[-1]
    assert torch.allclose(back, start, atol=1e-8)
    assert torch.equal(orbit(velocity, start, 0.1, 0), start[None])


@pytest.mark.parametrize("gamma", [1e-12, 1 - 1e-9, 1 + 1e-9, 1e4, 1e9, 1e200])
def test_no_digits_of_the_slow_eigenvalue_are_lost(gamma):
    with mpmath.workdps(500):
        g = mpmath.mpf(gamma)
        root = mpmath.sqrt(g**2 - 1)
        expected = [complex((-g + root) / 2), complex((-g - root) / 2)]
    expected = torch.tensor(expected, dtype=torch.complex128)
    found = eigenvalues(gamma)[1:]
    assert ((found - expected).abs() <= 1e-15 * expected.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_results_keep_the_dtype(dtype):
    x, gamma = torch.tensor([0.7, -0.2, 1.1], dtype=dtype), torch.tensor(0.3, dtype=dtype)
    assert velocity(x, gamma).dtype == jacobian(x, 0.3).dtype == rate(gamma).dtype == dtype
    assert velocity(x, torch.tensor(0.3, dtype=DOUBLE)).dtype == dtype
    assert orbit(velocity, x, 0.1, 3).dtype == dtype
    assert eigenvalues(gamma).dtype == eigenvectors(gamma).dtype == dtype.to_complex()
    assert eigenvalues(2).dtype == torch.complex128


def test_leading_dimensions_broadcast():
    x = points(torch.Generator().manual_seed(1), 4)
    gamma = torch.tensor([[0.3], [1.7]], dtype=DOUBLE)
    assert velocity(x, gamma).shape == (2, 4, 3)
    assert jacobian(x, gamma).shape == (2, 4, 3, 3)
    assert torch.equal(velocity(x, gamma)[1, 2], velocity(x[2], 1.7))
    assert torch.equal(jacobian(x, gamma)[1, 2], jacobian(x[2], 1.7))
    assert velocity(x[0], gamma).shape == (2, 1, 3)
    assert eigenvalues(gamma).shape == (2, 1, 3)
    assert eigenvectors(gamma).shape == (2, 1, 3, 3)
    assert torch.equal(eigenvectors(gamma)[1, 0], eigenvectors(1.7))
    assert torch.equal(rate(gamma)[1, 0], rate(1.7))
    assert orbit(velocity, x, 0.1, 5).shape == (6, 4, 3)


def test_gradients_flow():
    x = points(torch.Generator().manual_seed(2), 2).requires_grad_()
    gamma = torch.tensor([0.3, 1.7], dtype=DOUBLE, requires_grad=True)
    for function in (velocity, jacobian):
        assert torch.autograd.gradcheck(function, (x, gamma))
    for function in (eigenvalues, eigenvectors, rate):
        assert torch.autograd.gradcheck(function, (gamma,))
    assert torch.autograd.gradcheck(lambda x: orbit(velocity, x, 0.1, 3), (x,))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (velocity, ([0.1, 0.2],), "state must end in a dimension of 3, got shape (2,)"),
        (jacobian, ([0.1, 0.2],), "state must end in a dimension of 3, got shape (2,)"),
        (velocity, ([1, 2, 3],), "state must be floating, got torch.int64"),
        (velocity, ([0.1, 0.2, 0.3], -0.5), "gamma must be at least 0, got -0.5"),
        (jacobian, ([0.1, 0.2, 0.3], -0.5), "gamma must be at least 0, got -0.5"),
        (velocity, ([0.1, 0.2, 0.3], float("nan")), "gamma must be at least 0, got nan"),
    ],
)
def test_bad_states_and_weights_raise(function, arguments, words):
    state, *rest = arguments
    with pytest.raises(ValueError, match=re.escape(words)):
        function(torch.tensor(state), *rest)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("function", [eigenvalues, eigenvectors, rate])
def test_bad_weights_raise(function):
    with pytest.raises(ValueError, match=re.escape("gamma must be at least 0, got -0.5")):
        function(-0.5)


@pytest.mark.usefixtures("untyped")
def test_whole_weights_count_as_float64():
    assert torch.equal(
        eigenvalues(torch.tensor([2, 3])),
        torch.stack([eigenvalues(2), eigenvalues(3)]),
    )


@pytest.mark.usefixtures("untyped")
def test_bad_orbits_raise():
    x = torch.tensor([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        orbit(velocity, x, 0.1, -1)
    with pytest.raises(ValueError, match=re.escape("state must end in a dimension of 3, got")):
        orbit(velocity, x[:2], 0.1, 3)
