import math
import re
from fractions import Fraction

import mpmath as mp
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp

from genref._site.claims import mutant
from genref.adversarial.bilinear import (
    flow,
    invariant,
    spectral_radius,
    trajectory,
    update_matrix,
    velocity,
)

DOUBLE = torch.float64
SYMBOLS = D, G, D0, G0 = sp.symbols("d g d0 g0")
VALUE = D * G
METHODS = {
    "simultaneous": {},
    "alternating": {},
    "proximal": {},
    "optimistic": {},
    "extragradient": {"inner_steps": 3, "eta": 0.45},
    "consensus": {"gamma": 0.6},
    "momentum": {"beta": -0.35},
}
CASES = [*METHODS.items(), ("extragradient", {}), ("momentum", {"beta": 0.3, "alternating": True})]


def uniform(generator, low, high, *size):
    return low + (high - low) * torch.rand(*size, generator=generator, dtype=DOUBLE)


def at(expression, d, g):
    return expression.subs({D: d, G: g}, simultaneous=True)


def slope(d, g):
    """What the two players follow: the derivatives of the value, the second one downhill."""
    return at(sp.diff(VALUE, D), d, g), at(-sp.diff(VALUE, G), d, g)


def played(method, step, eta=None, inner_steps=1, gamma=0, beta=0, alternating=False):
    """The matrix of one update, from the rules of the game and derivatives of its value."""
    a, eta, gamma, beta = (sp.Rational(v) for v in (step, eta or step, gamma, beta))
    u, v = slope(D, G)
    memory = method in ("optimistic", "momentum")
    if method == "proximal":
        x, y = sp.symbols("x y")
        p, q = slope(x, y)
        found = sp.solve([x - D - a * p, y - G - a * q], [x, y])
        new = found[x], found[y]
    elif method == "extragradient":
        x, y = D, G
        for _ in range(inner_steps):
            p, q = slope(x, y)
            x, y = D + eta * p, G + eta * q
        p, q = slope(x, y)
        new = D + a * p, G + a * q
    elif method == "optimistic":
        p, q = slope(D0, G0)
        new = D + a * (2 * u - p), G + a * (2 * v - q)
    elif method == "consensus":
        penalty = gamma * (sp.diff(VALUE, D) ** 2 + sp.diff(VALUE, G) ** 2) / 2
        new = D + a * (u - sp.diff(penalty, D)), G + a * (v - sp.diff(penalty, G))
    else:
        x = D + a * u + beta * (D - D0)
        answers = method == "alternating" or alternating
        new = x, G + a * slope(x if answers else D, G)[1] + beta * (G - G0)
    if memory:
        return sp.Matrix([*new, D, G]).jacobian(SYMBOLS)
    return sp.Matrix(new).jacobian([D, G])


def tensor(matrix):
    return torch.tensor(matrix.tolist(), dtype=DOUBLE)


def radius_of(matrix):
    """The largest modulus of an eigenvalue, found with 50 digits."""
    with mp.workdps(50):
        roots = mp.eig(mp.matrix(matrix.evalf(50)), left=False, right=False)
        return float(max(abs(root) for root in roots))


def fractions(method, start, steps):
    """A run of the game in exact fractions."""
    d, g = (Fraction(x) for x in start)
    points = [(d, g)]
    for step in map(Fraction, steps):
        new = d + step * g
        d, g = new, g - step * (new if method == "alternating" else d)
        points.append((d, g))
    return points


@pytest.mark.claim("bilinear-A", answers=["A6.1", "B3.1"])
def test_update(evidence, matrix=update_matrix):
    for step in uniform(evidence.generator, 0.05, 3, 5).tolist():
        measured = matrix("simultaneous", step)
        evidence.numeric(
            measured,
            tensor(played("simultaneous", step)),
            bound=1e-15,
            oracle="derivatives of V by sympy, put into the rules of the game",
        )
        players = uniform(evidence.generator, -2, 2, 2).requires_grad_()
        (up,) = torch.autograd.grad(players.prod(), players)
        evidence.numeric(
            measured @ players,
            players + step * up * torch.tensor([1, -1]),
            bound=1e-14,
            oracle="one step with the gradient of V by autograd",
        )


@mutant(test_update, "E002-24: the step of g starts from d")
def from_d(method, step):
    return torch.tensor([[1, step], [1 - step, 0]], dtype=DOUBLE)


@mutant(test_update, "both players ascend")
def both_ascend(method, step):
    return torch.tensor([[1, step], [step, 1]], dtype=DOUBLE)


@mutant(test_update, "d descends and g ascends")
def exchanged(method, step):
    return update_matrix(method, step).mT


@mutant(test_update, "each player follows its own value instead of the derivative")
def own(method, step):
    return torch.tensor([[1 + step, 0], [0, 1 - step]], dtype=DOUBLE)


@mutant(test_update, "g answers the new d")
def answering(method, step):
    return update_matrix("alternating", step)


@pytest.mark.claim("bilinear-fixed-point", answers=["A6.2", "B3.2"])
def test_fixed_point(evidence, field=velocity, matrix=update_matrix):
    points = uniform(evidence.generator, -3, 3, 20, 2).requires_grad_()
    (slopes,) = torch.autograd.grad(points.prod(-1).sum(), points)
    evidence.numeric(
        field(points),
        slopes * torch.tensor([1, -1]),
        bound=1e-15,
        oracle="the gradient of V by autograd, reversed for g",
    )
    zeros = sp.solve(slope(D, G), [D, G], dict=True)
    basis = torch.eye(2, dtype=DOUBLE)
    still = sp.Matrix(field(basis).T.tolist()).nullspace()
    evidence.exact((len(zeros), still), (1, []), oracle="the equations of the gradient by sympy")
    evidence.exact(zeros, [{D: 0, G: 0}], oracle="the point of the claim")
    for step in uniform(evidence.generator, 0.05, 3, 5).tolist():
        evidence.numeric(
            points.detach() @ matrix("simultaneous", step).mT,
            points.detach() + step * slopes * torch.tensor([1, -1]),
            bound=1e-14,
            oracle="one step with the gradient of V by autograd",
        )
        A = sp.Matrix(matrix("simultaneous", step).tolist()).applyfunc(sp.Rational)
        fixed = sp.solve(A * sp.Matrix([D, G]) - sp.Matrix([D, G]), [D, G])
        one_step = [x + step * s for x, s in zip((D, G), slope(D, G), strict=True)]
        expected = sp.solve([sp.Rational(step) * s for s in slope(D, G)], [D, G])
        evidence.exact(fixed, expected, oracle="where the steps of both players are 0, by sympy")
        evidence.numeric(
            float((A - sp.eye(2)).det()),
            float((sp.Matrix(one_step).jacobian([D, G]) - sp.eye(2)).det()),
            bound=1e-14,
            oracle="the determinant of the Jacobian of the played step minus I",
        )
        evidence.numeric(float((A - sp.eye(2)).det()), step**2, bound=1e-14, oracle="the formula of the claim")
    curvature = sp.hessian(VALUE, [D, G]).eigenvals()
    evidence.exact(curvature, {1: 1, -1: 1}, oracle="one direction up, one down: a saddle")
    for d, g in uniform(evidence.generator, -3, 3, 10, 2).tolist():
        better = max(at(VALUE, d + s, g) - at(VALUE, d, g) for s in (-1, 1))
        evidence.ordered(0.0, float(better), bound=0, oracle="a better reply of d, where g is not 0")
        better = max(at(VALUE, d, g) - at(VALUE, d, g + s) for s in (-1, 1))
        evidence.ordered(0.0, float(better), bound=0, oracle="a better reply of g, where d is not 0")
    evidence.exact([at(VALUE, D, 0), at(VALUE, 0, G)], [0, 0], oracle="no better reply at the origin")


@mutant(test_fixed_point, "E002-25: the gradient is (g, -d), so the step of g goes up", of="field")
def gradient(state):
    return state.flip(-1)


@mutant(test_fixed_point, "each player solves the equation of the other", of="field")
def swapped(state):
    return -velocity(state)


@mutant(test_fixed_point, "only g moves, and (0, 1) is fixed too", of="matrix")
def one_moves(method, step):
    return torch.tensor([[1, 0], [-step, 1]], dtype=DOUBLE)


@mutant(test_fixed_point, "g answers the new d: the same point and determinant, another update", of="matrix")
def in_turn(method, step):
    return update_matrix("alternating", step)


@mutant(test_fixed_point, "E002-26: the determinant of A instead of A - I", of="matrix")
def not_subtracted(method, step):
    return update_matrix(method, step) + torch.eye(2)


@pytest.mark.claim("bilinear-divergence", answers=["A6.3", "B3.3"])
def test_divergence(evidence, radius=spectral_radius, run=trajectory, matrix=update_matrix):
    for step in uniform(evidence.generator, 0.05, 3, 5).tolist():
        game = played("simultaneous", step)
        evidence.numeric(
            radius("simultaneous", step),
            radius_of(game),
            bound=1e-14,
            oracle="eigenvalues of the played game with 50 digits",
        )
        evidence.numeric(
            torch.linalg.eigvals(matrix("simultaneous", step)).abs(),
            [math.hypot(1, step)] * 2,
            bound=1e-13,
            oracle="the moduli of the claim",
        )
        start = uniform(evidence.generator, -2, 2, 2)
        points = run("simultaneous", start, [step] * 40)
        exact = fractions("simultaneous", start.tolist(), [step] * 40)
        expected = torch.tensor([[float(d), float(g)] for d, g in exact], dtype=DOUBLE)
        evidence.numeric(
            points.norm(dim=-1) / expected.norm(dim=-1),
            [1.0] * 41,
            bound=1e-13,
            oracle="the game played in fractions",
        )
        turned = [complex(*start.tolist()) * complex(1, -step) ** k for k in range(41)]
        evidence.numeric(
            points.norm(dim=-1) / torch.tensor([abs(z) for z in turned], dtype=DOUBLE),
            [1.0] * 41,
            bound=1e-12,
            oracle="powers of the complex number 1 - i alpha",
        )
        evidence.numeric(
            points / points.norm(dim=-1, keepdim=True),
            torch.tensor([[z.real / abs(z), z.imag / abs(z)] for z in turned], dtype=DOUBLE),
            bound=1e-12,
            oracle="clockwise turns by the angle of 1 + i alpha",
        )
        changes = (points[1:] * points[:-1] < 0).sum(0)
        turns = 40 * math.atan(step) / math.pi
        evidence.ordered(-changes, [-math.floor(turns)] * 2, bound=0, oracle="half turns made")
        evidence.ordered(changes, [math.ceil(turns)] * 2, bound=0, oracle="half turns made")
    start = uniform(evidence.generator, -2, 2, 2)
    points = run("simultaneous", start, [0.1] * 1000)
    grown = float(points[-1].norm() / points[0].norm())
    square = Fraction(101, 100) ** 500
    evidence.numeric(grown, float(square), bound=1e-9, oracle="exact power of 101/100")
    evidence.exact(f"{float(square):.10f}", "144.7727724326", oracle="the decimals of the claim")


@mutant(test_divergence, "E002-27: the real part of an eigenvalue decides", of="radius")
def real_part(method, step):
    return torch.tensor(1.0, dtype=DOUBLE)


@mutant(test_divergence, "the determinant is taken for the radius", of="radius")
def determinant(method, step):
    return spectral_radius(method, step) ** 2


@mutant(test_divergence, "the distance grows as (1 + alpha)^k", of="run")
def faster(method, start, steps):
    powers = (torch.arange(len(steps) + 1)[:, None] / 2).to(start)
    points = trajectory(method, start, steps)
    return points * ((1 + steps[0]) ** 2 / (1 + steps[0] ** 2)) ** powers


@mutant(test_divergence, "the spiral turns the other way", of="run")
def other_way(method, start, steps):
    return trajectory(method, start.flip(-1), steps).flip(-1)


@mutant(test_divergence, "the angle of a step is alpha", of="run")
def angle(method, start, steps):
    k = torch.arange(len(steps) + 1).to(start)
    grown = (1 + steps[0] ** 2) ** (k / 2)
    return grown[:, None] * flow(start.expand(len(k), 2), steps[0] * k)


@mutant(test_divergence, "the players leave without oscillating", of="run")
def straight(method, start, steps):
    k = torch.arange(len(steps) + 1).to(start)
    return (1 + steps[0] ** 2) ** (k[:, None] / 2) * start


@pytest.mark.claim("x-bilinear-schedule")
def test_schedule(evidence, run=trajectory):
    for n in (7, 30):
        steps = uniform(evidence.generator, 0.02, 1.5, n).tolist()
        start = uniform(evidence.generator, -2, 2, 2).tolist()
        points = run("simultaneous", torch.tensor(start, dtype=DOUBLE), steps)
        exact = fractions("simultaneous", start, steps)
        evidence.numeric(
            points,
            [[float(x) for x in point] for point in exact],
            bound=1e-9,
            oracle="the game played in fractions",
        )
        product = [Fraction(1)]
        for step in steps:
            product.append(product[-1] * (1 + Fraction(step) ** 2))
        squares = points.square().sum(-1)
        ratios = squares / squares[0]
        evidence.numeric(ratios, product, bound=1e-12, relative=True, oracle="the product, in fractions")
        lost = (ratios[:-1] - ratios[1:]).max()
        evidence.ordered(lost, 0.0, bound=0, oracle="no distance is less than the one before")
    n, start = 4000, uniform(evidence.generator, -2, 2, 2)
    slow = run("simultaneous", start, [k**-0.5 for k in range(1, n + 1)]).square().sum(-1)
    evidence.numeric(
        slow / slow[0],
        list(range(1, n + 2)),
        bound=1e-11,
        relative=True,
        oracle="the product of 1 + 1/k, which telescopes: unbounded, as the sum of 1/k",
    )
    points = run("simultaneous", start, [1 / k for k in range(1, n + 1)])
    grown = float(points[-1].square().sum() / points[0].square().sum())
    partial = float(abs(mp.gamma(n + 1 + 1j) / mp.gamma(n + 1) / mp.gamma(1 + 1j)) ** 2)
    limit = math.sinh(math.pi) / math.pi
    evidence.numeric(grown, partial, bound=1e-10, oracle="quotients of the gamma function")
    evidence.ordered(grown, limit, bound=0, oracle="the limit of the claim, from below")
    evidence.ordered(limit, partial * math.exp(1 / n), bound=1e-12, oracle="the tail of the product")
    evidence.exact(f"{limit:.8f}", "3.67607791", oracle="the decimals of the claim")
    circled = torch.view_as_complex(points).angle().diff()
    circled = torch.remainder(circled + math.pi, 2 * math.pi) - math.pi
    evidence.numeric(
        circled,
        [-math.atan(1 / k) for k in range(1, n + 1)],
        bound=1e-10,
        oracle="the angles of the numbers 1 - i/k, whose sum diverges as that of 1/k",
    )


def rescaled(factor):
    """Runs whose distances after each step are changed by a factor of its size."""

    def run(method, start, steps):
        factors = torch.tensor([1.0, *map(factor, steps)], dtype=start.dtype).cumprod(0)
        return trajectory(method, start, steps) * factors[:, None]

    return run


mutant(test_schedule, "each step multiplies the distance by 1 + alpha")(rescaled(lambda a: (1 + a) / math.hypot(1, a)))
mutant(test_schedule, "the squared distance is multiplied by the root")(rescaled(lambda a: (1 + a * a) ** -0.25))
mutant(test_schedule, "small steps keep the distance")(rescaled(lambda a: 1 if a > 0.5 else 1 / math.hypot(1, a)))


@mutant(test_schedule, "the average step is made each time")
def averaged(method, start, steps):
    return trajectory(method, start, [sum(steps) / len(steps)] * len(steps))


@mutant(test_schedule, "g answers the new d")
def alternated(method, start, steps):
    return trajectory("alternating", start, steps)


@pytest.mark.claim("x-bilinear-ode")
def test_flow(evidence, move=flow, run=trajectory):
    starts = uniform(evidence.generator, -2, 2, 4, 2)
    for start in starts:
        times = uniform(evidence.generator, -9, 9, 6)
        expected = torch.stack([integrated(start.tolist(), time) for time in times.tolist()])
        measured = move(start.expand(6, 2), times)
        solver = "Runge-Kutta of order 8 on the game's own derivatives"
        evidence.numeric(measured, expected, bound=1e-8, oracle=solver)
        evidence.numeric(measured.norm(dim=-1), [math.hypot(*start)] * 6, bound=1e-13, oracle="the start")
        evidence.numeric(move(start, 2 * math.pi), start, bound=1e-14, oracle="the start")
        quarter = torch.tensor([start[1].item(), -start[0].item()], dtype=DOUBLE)
        evidence.numeric(move(start, math.pi / 2), quarter, bound=1e-14, oracle="a clockwise quarter turn")
        for T, n in ((3.0, 11), (20.0, 57), (1.7, 2000)):
            step = T / n
            points = run("simultaneous", start, [step] * n)
            logarithm = float((points[-1].norm() / start.norm()).log())
            evidence.numeric(logarithm, n / 2 * math.log1p(step**2), bound=1e-11, oracle="the factor of the claim")
            low, high = T * step / 2 - T * step**3 / 4, T * step / 2
            evidence.ordered(-logarithm, -low, bound=1e-12, oracle="the lower bound of the claim")
            evidence.ordered(logarithm, high, bound=1e-12, oracle="the upper bound of the claim")


def integrated(start, time):
    u, v = (sp.lambdify((D, G), s) for s in slope(D, G))
    field = lambda t, x: [u(*x), v(*x)]
    solved = solve_ivp(field, (0, time), start, method="DOP853", rtol=1e-11, atol=1e-11)
    return torch.from_numpy(solved.y[:, -1].copy())


@mutant(test_flow, "the flow turns counterclockwise", of="move")
def backwards(state, time):
    return flow(state, -time)


@mutant(test_flow, "the flow moves out as its Euler steps do", of="move")
def outwards(state, time):
    t = torch.as_tensor(time, dtype=DOUBLE)[..., None]
    return flow(state, time) * (0.01 * t).exp()


@mutant(test_flow, "one turn takes the time 1", of="move")
def in_turns(state, time):
    return flow(state, 2 * math.pi * time)


@mutant(test_flow, "Euler steps keep the circle", of="run")
def kept(method, start, steps):
    k = torch.arange(len(steps) + 1).to(start)
    return flow(start.expand(len(k), 2), steps[0] * k)


@mutant(test_flow, "the distance is multiplied by the factor of its square", of="run")
def twice(method, start, steps):
    return rescaled(lambda a: math.hypot(1, a))(method, start, steps)


@pytest.mark.claim("x-bilinear-alternating")
def test_alternating(evidence, keep=invariant, radius=spectral_radius, run=trajectory, matrix=update_matrix):
    for step in uniform(evidence.generator, 0.05, 3, 6).tolist():
        game = played("alternating", step)
        by_rule = "derivatives of V by sympy, put into the rules of the game"
        A = matrix("alternating", step)
        evidence.numeric(A, tensor(game), bound=1e-14, oracle=by_rule)
        evidence.numeric(A.det(), 1.0, bound=1e-14, oracle="the determinant of the claim")
        evidence.numeric(A.trace(), 2 - step**2, bound=1e-14, oracle="the trace of the claim")
        expected = radius_of(game)
        known = "eigenvalues of the played game with 50 digits"
        evidence.numeric(radius("alternating", step), expected, bound=1e-12, oracle=known)
        start = uniform(evidence.generator, -2, 2, 2).tolist()
        points = run("alternating", torch.tensor(start, dtype=DOUBLE), [step] * 12)
        exact = fractions("alternating", start, [step] * 12)
        form = [d**2 + g**2 + Fraction(step) * d * g for d, g in exact]
        evidence.exact(len(set(form)), 1, oracle="the form never changes in fractions")
        measured = keep(torch.tensor([[float(x) for x in p] for p in exact], dtype=DOUBLE), step)
        scale = 1 + max(float(d * d + g * g) for d, g in exact)
        evidence.numeric(
            measured / scale, [float(f) / scale for f in form], bound=1e-14, oracle="the form in fractions"
        )
        evidence.numeric(
            keep(points, step) / scale,
            [float(f) / scale for f in form],
            bound=1e-12,
            oracle="the form of the start, in fractions",
        )
    n = 5000
    for step in uniform(evidence.generator, 0.1, 1.9, 3).tolist():
        start = uniform(evidence.generator, -2, 2, 2)
        points = run("alternating", start, [step] * n)
        form = math.hypot(*start) ** 2 + step * float(start[0] * start[1])
        far = math.sqrt(form / (1 - step / 2))
        near = math.sqrt(form / (1 + step / 2))
        distance = points.norm(dim=-1)
        evidence.ordered(distance.max(), far, bound=1e-9, oracle="the long half axis")
        evidence.ordered(-distance.min(), -near, bound=1e-9, oracle="the short half axis")
        ends = points[-1] - points[0]
        total = points[:-1].sum(0)
        rest = [total[0] + ends[1] / step + ends[0], total[1] - ends[0] / step]
        evidence.numeric(rest, [0.0, 0.0], bound=1e-8, oracle="the steps of g and of d, summed")
        mean = points[:-1].mean(0).norm()
        evidence.ordered(mean, 4 * far * (1 + 1 / step) / n, bound=1e-12, oracle="the diameter of the ellipse")
    start = [0.75, -1.5]
    points = run("alternating", torch.tensor(start, dtype=DOUBLE), [2.0] * 50)
    linear = [[(-1) ** k * (start[0] + 1.5 * k), (-1) ** k * (start[1] - 1.5 * k)] for k in range(51)]
    evidence.numeric(points, linear, bound=1e-10, oracle="the power of a Jordan block, by hand")
    points = run("alternating", torch.tensor([0.7, -0.7], dtype=DOUBLE), [2.0] * 9)
    evidence.numeric(points.abs(), [[0.7, 0.7]] * 10, bound=1e-13, oracle="the eigenvector")
    value = radius_of(played("alternating", "2.01"))
    evidence.exact(f"{value:.6f}", "1.221301", oracle="the decimals of the claim")
    evidence.numeric(radius("alternating", 2.01), value, bound=1e-12, oracle="50 digits")


@mutant(test_alternating, "the sign of the mixed term", of="keep")
def minus(state, step):
    d, g = state.unbind(-1)
    return d**2 + g**2 - step * d * g


@mutant(test_alternating, "the circle of the flow is kept", of="keep")
def circle(state, step):
    return state.square().sum(-1)


@mutant(test_alternating, "stable for every step, since the determinant is 1", of="radius")
def always_one(method, step):
    return torch.ones((), dtype=DOUBLE)


@mutant(test_alternating, "the root of the radius", of="radius")
def root(method, step):
    return spectral_radius(method, step).sqrt()


@mutant(test_alternating, "g answers the old d", of="matrix")
def at_once(method, step):
    return update_matrix("simultaneous", step)


@mutant(test_alternating, "g moves first", of="run")
def g_first(method, start, steps):
    turn = torch.tensor([1.0, -1.0])
    return trajectory(method, start.flip(-1) * turn, steps).flip(-1) * turn.flip(-1)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_every_method_is_the_game_as_played(method, options):
    for step in (0.3, 0.7, 1.9):
        game = played(method, step, **options)
        torch.testing.assert_close(update_matrix(method, step, **options), tensor(game))
        radius = spectral_radius(method, step, **options)
        assert radius.item() == pytest.approx(radius_of(game), abs=1e-12)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_batch_of_steps_is_each_of_them(method, options):
    start = torch.tensor([1.0, -0.4], dtype=DOUBLE)
    B = torch.tensor([[0.8, -0.3, 1.2], [0.1, 0.5, -0.7]], dtype=DOUBLE)
    for n in range(1, 6):
        steps = torch.linspace(0.2, 0.9, n, dtype=DOUBLE)
        for game in ({}, {"payoff": B}):
            for made in (update_matrix, spectral_radius):
                each = [made(method, step.item(), **options, **game) for step in steps]
                torch.testing.assert_close(made(method, steps, **options, **game), torch.stack(each))
        point = torch.cat([start, start]) if method in ("optimistic", "momentum") else start
        for step in steps.tolist():
            point = tensor(played(method, step, **options)) @ point
        torch.testing.assert_close(trajectory(method, start, steps, **options)[-1], point[:2])


def test_all_methods_are_listed():
    with pytest.raises(ValueError, match=re.escape(", ".join(sorted(METHODS)))):
        update_matrix("sgd", 0.1)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_a_matrix_game_falls_apart_into_small_ones(method, options):
    generator = torch.Generator().manual_seed(4)
    B = torch.randn(2, 3, 3, generator=generator, dtype=DOUBLE)
    step = torch.tensor([0.4, 1.1], dtype=DOUBLE)
    A = update_matrix(method, step, payoff=B, **options)
    largest = torch.linalg.eigvals(A).abs().amax(-1)
    torch.testing.assert_close(spectral_radius(method, step, payoff=B, **options), largest)
    one = torch.tensor([[[1.0]]], dtype=DOUBLE)
    torch.testing.assert_close(
        update_matrix(method, step, payoff=one, **options), update_matrix(method, step, **options)
    )
    for m, n in ((1, 3), (3, 1), (4, 2)):
        B = torch.randn(2, m, n, generator=generator, dtype=DOUBLE)
        whole = torch.zeros(2, max(m, n), max(m, n), dtype=DOUBLE)
        whole[:, :m, :n] = B
        radius = spectral_radius(method, step, payoff=B, **options)
        torch.testing.assert_close(radius, spectral_radius(method, step, payoff=whole, **options))
        largest = torch.linalg.eigvals(update_matrix(method, step, payoff=B, **options)).abs().amax(-1)
        torch.testing.assert_close(radius, largest, atol=1e-7, rtol=0)
        assert (radius >= 1 - 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "options"), CASES)
def test_shapes_types_and_gradients(method, options, dtype):
    step = torch.tensor([[0.2], [0.6]], dtype=dtype, requires_grad=True)
    if "beta" in options:
        options = options | {"beta": torch.tensor([0.1, 0.2, -0.3], dtype=dtype)}
    if "gamma" in options:
        options = options | {"gamma": torch.tensor([0.1, 0.2, 0.3], dtype=dtype)}
    width = 3 if {"beta", "gamma"} & set(options) else 1
    A, radius = update_matrix(method, step, **options), spectral_radius(method, step, **options)
    size = 4 if method in ("optimistic", "momentum") else 2
    assert A.shape == (2, width, size, size)
    assert radius.shape == (2, width)
    assert A.dtype == radius.dtype == dtype
    (slopes,) = torch.autograd.grad(radius.sum() + A.square().sum(), step)
    assert slopes.isfinite().all()
    start = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=dtype)
    scalar = {name: v if name not in ("beta", "gamma") else 0.2 for name, v in options.items()}
    points = trajectory(method, start, [0.1, 0.2, 0.3], **scalar)
    assert points.shape == (2, 4, 2)
    assert points.dtype == dtype
    assert update_matrix(method, 0.5, **scalar).dtype == DOUBLE


def test_a_run_with_memory_starts_from_rest():
    start = torch.tensor([1.0, -0.5], dtype=DOUBLE)
    points = trajectory("momentum", start, [0.2, 0.3], beta=0.4)
    first = start + 0.2 * velocity(start)
    second = first + 0.3 * velocity(first) + 0.4 * (first - start)
    torch.testing.assert_close(points, torch.stack([start, first, second]))
    assert trajectory("optimistic", start, []).tolist() == [start.tolist()]


def test_a_run_of_a_matrix_game():
    B = torch.tensor([[1.0, 2.0, 0.4], [0.0, -1.5, 0.7]], dtype=DOUBLE)
    d, g = torch.tensor([1.0, 2.0, -0.5, 0.3, 0.9], dtype=DOUBLE).split([2, 3])
    points = trajectory("simultaneous", torch.cat([d, g]), [0.2], payoff=B)
    torch.testing.assert_close(points[1], torch.cat([d + 0.2 * B @ g, g - 0.2 * B.mT @ d]))
    points = trajectory("alternating", torch.cat([d, g]), [0.2], payoff=B)
    d = d + 0.2 * B @ g
    torch.testing.assert_close(points[1], torch.cat([d, g - 0.2 * B.mT @ d]))


def test_an_option_may_change_from_one_update_to_the_next():
    start, gamma = torch.tensor([1.0, -0.5], dtype=DOUBLE), torch.tensor([0.4, 1.3], dtype=DOUBLE)
    points = trajectory("consensus", start, [0.2, 0.3], gamma=gamma)
    for step, weight in ((0.2, 0.4), (0.3, 1.3)):
        start = start + step * (velocity(start) - weight * start)
    torch.testing.assert_close(points[-1], start)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("method", "step", "options", "words"),
    [
        ("gda", 0.1, {}, "method must be one of alternating, consensus"),
        ("simultaneous", 0.0, {}, "step must be above 0 and finite, got 0.0"),
        ("simultaneous", -0.1, {}, "step must be above 0 and finite, got -0.1"),
        ("simultaneous", math.nan, {}, "step must be above 0 and finite, got nan"),
        ("proximal", math.inf, {}, "step must be above 0 and finite, got inf"),
        ("simultaneous", 0.1, {"beta": 0.5}, "options of simultaneous are ['payoff'], got ['beta']"),
        ("consensus", 0.1, {}, "gamma must be given for consensus"),
        ("momentum", 0.1, {}, "beta must be given for momentum"),
        ("momentum", 0.1, {"beta": None}, "beta must be given for momentum"),
        ("momentum", 0.1, {"beta": math.nan}, "beta must be finite, got nan"),
        ("extragradient", 0.1, {"eta": 0.0}, "eta must be above 0 and finite, got 0.0"),
        ("extragradient", 0.1, {"inner_steps": 0}, "inner_steps must be a whole number, at least 1"),
        ("extragradient", 0.1, {"inner_steps": 1.5}, "inner_steps must be a whole number"),
        ("optimistic", 0.1, {"payoff": torch.ones(2)}, "payoff must be a matrix, got shape (2,)"),
    ],
)
def test_bad_arguments_raise(method, step, options, words):
    for made in (update_matrix, spectral_radius):
        with pytest.raises(ValueError, match=re.escape(words)):
            made(method, step, **options)


@pytest.mark.usefixtures("untyped")
def test_bad_states_raise():
    whole = torch.tensor([1, 0])
    for call in (
        lambda: flow(whole, 0.5),
        lambda: invariant(whole, 1.5),
        lambda: trajectory("simultaneous", whole, [1.5]),
    ):
        with pytest.raises(ValueError, match=re.escape("floating dtype, got torch.int64")):
            call()
    gamma = torch.tensor([[0.1], [0.2], [0.3]])
    with pytest.raises(ValueError, match=re.escape("steps must be one sequence, got shape (3, 2)")):
        trajectory("consensus", torch.ones(2), [0.1, 0.2], gamma=gamma)
    with pytest.raises(ValueError, match="steps must be one sequence"):
        trajectory("simultaneous", torch.ones(2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="start must hold 2 numbers, got 3"):
        trajectory("optimistic", torch.ones(3), [0.1])
