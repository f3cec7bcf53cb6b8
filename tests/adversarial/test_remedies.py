import cmath
import math
import re

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
import torch
from scipy.optimize import differential_evolution, minimize_scalar

from genref._site.claims import mutant
from genref.adversarial.bilinear import spectral_radius, trajectory, update_matrix
from genref.adversarial.remedies import (
    best_momentum,
    best_step,
    largest_step,
    lookahead,
    momentum_polynomial,
)

DOUBLE = torch.float64
a, b, c, eta, L = sp.symbols("a b c eta lambda")
D, G, D0, G0 = sp.symbols("d g d0 g0")


def uniform(generator, low, high, *size):
    return low + (high - low) * torch.rand(*size, generator=generator, dtype=DOUBLE)


def up(d, g):
    """The pull on the player that ascends: the derivative of d g by d."""
    return sp.diff(D * G, D).subs({D: d, G: g}, simultaneous=True)


def down(d, g):
    return -sp.diff(D * G, G).subs({D: d, G: g}, simultaneous=True)


def linear(*new):
    return sp.Matrix(new).jacobian([D, G] if len(new) == 2 else [D, G, D0, G0])


def ahead(times, near, far):
    """Extragradient with a number of looks ahead of size near and a step of size far."""
    d, g = D, G
    for _ in range(times):
        d, g = D + near * up(d, g), G + near * down(d, g)
    return linear(D + far * up(d, g), G + far * down(d, g))


def proximal():
    x, y = sp.symbols("x y")
    found = sp.solve([x - D - a * up(x, y), y - G - a * down(x, y)], [x, y])
    return linear(found[x], found[y])


def optimistic():
    pull, push = 2 * up(D, G) - up(D0, G0), 2 * down(D, G) - down(D0, G0)
    return linear(D + a * pull, G + a * push, D, G)


def consensus():
    penalty = c * (up(D, G) ** 2 + down(D, G) ** 2) / 2
    pull, push = up(D, G) - sp.diff(penalty, D), down(D, G) - sp.diff(penalty, G)
    return linear(D + a * pull, G + a * push)


def heavy_ball(answers):
    d = D + a * up(D, G) + b * (D - D0)
    g = G + a * down(d if answers else D, G) + b * (G - G0)
    return linear(d, g, D, G)


def radius_of(matrix, **values):
    """The largest modulus of an eigenvalue of a game played in symbols, with 40 digits."""
    names = {"step": a, "beta": b, "gamma": c, "eta": eta}
    exact = matrix.subs({names[k]: sp.Rational(v) for k, v in values.items()})
    with mp.workdps(40):
        roots = mp.eig(mp.matrix(exact.evalf(40)), left=False, right=False)
        return float(max(abs(root) for root in roots))


def square(matrix):
    """The squared modulus of the eigenvalues x + iy and x - iy of a two by two matrix."""
    return sp.simplify(matrix.det())


def minimiser(matrix, low, high, **values):
    loss = lambda step: radius_of(matrix, step=step, **values)
    return minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9}).x


@pytest.mark.claim("x-bilinear-proximal")
def test_proximal(evidence, radius=spectral_radius, run=trajectory, largest=largest_step):
    game = proximal()
    for i, j in ((0, 0), (0, 1), (1, 1)):
        gram = (game.T * game)[i, j]
        evidence.symbolic(int(i == j) / (1 + a**2), gram, oracle="the implicit step, solved")
    for step in uniform(evidence.generator, 0.05, 9, 6).tolist():
        expected = radius_of(game, step=step)
        evidence.numeric(radius("proximal", step), expected, bound=1e-14, oracle="the implicit step, solved")
        start = uniform(evidence.generator, -2, 2, 2)
        distance = run("proximal", start, [step] * 9).norm(dim=-1) / start.norm()
        powers = [(1 + step**2) ** (-k / 2) for k in range(10)]
        evidence.numeric(distance, powers, bound=1e-14, oracle="powers of the factor")
    evidence.numeric(largest("proximal"), math.inf, bound=0, oracle="the claim")


@mutant(test_proximal, "the squared factor", of="radius")
def too_fast(method, step):
    return spectral_radius(method, step) ** 2


@mutant(test_proximal, "an explicit step backwards", of="radius")
def explicit(method, step):
    return spectral_radius("simultaneous", step)


@mutant(test_proximal, "one look ahead instead of the implicit step", of="run")
def one_look(method, start, steps):
    return trajectory("extragradient", start, steps)


@mutant(test_proximal, "only steps below 1 converge", of="largest")
def below_one(method):
    return torch.ones((), dtype=DOUBLE)


@pytest.mark.claim("x-bilinear-optimistic")
def test_optimistic(evidence, radius=spectral_radius, largest=largest_step, best=best_step, run=trajectory):
    game = optimistic()
    factor = L**2 - (1 + 2 * sp.I * a) * L + sp.I * a
    mirror = L**2 - (1 - 2 * sp.I * a) * L - sp.I * a
    evidence.symbolic(game.charpoly(L).as_expr(), factor * mirror, oracle="the game in symbols")
    for step in [*uniform(evidence.generator, 0.05, 0.5, 4), *uniform(evidence.generator, 0.5, 2, 4)]:
        expected = radius_of(game, step=step.item())
        evidence.numeric(radius("optimistic", step), expected, bound=1e-11, oracle="40 digits")
        if step < 0.5:
            stated = (1 + math.sqrt(1 - 4 * step**2)) / 2
        else:
            stated = 0.25 + (step + math.sqrt(4 * step**2 - 1) / 2) ** 2
        evidence.numeric(stated, expected**2, bound=1e-11, oracle="40 digits")
    bound = float(largest("optimistic"))
    evidence.numeric(bound, 3**-0.5, bound=1e-15, oracle="the bound of the claim")
    below, above = radius("optimistic", bound * 0.999), radius("optimistic", bound * 1.001)
    known = [radius_of(game, step=f * 3**-0.5) for f in (0.999, 1.001)]
    evidence.numeric([below, above], known, bound=1e-11, oracle="40 digits, near the bound")
    evidence.exact([x < 1 for x in known], [True, False], oracle="one side converges")
    evidence.numeric(best("optimistic"), minimiser(game, 0.1, 0.577), bound=1e-7, oracle="search by Brent")
    evidence.numeric(
        radius("optimistic", best("optimistic")), 2**-0.5, bound=1e-15, oracle="the best radius of the claim"
    )
    start = uniform(evidence.generator, 0.5, 2, 2)
    turn = (1 - 1j) / 2
    double = [complex(*start) * (1 + k * (1 - turn)) * turn**k * 2 ** (k / 2) for k in range(401)]
    grown = run("optimistic", start, [0.5] * 400) * 2 ** (torch.arange(401, dtype=DOUBLE)[:, None] / 2)
    evidence.numeric(
        grown,
        [[z.real, z.imag] for z in double],
        bound=1e-9,
        oracle="the recursion with a double zero, from rest, in complex numbers",
    )


@mutant(test_optimistic, "converges for every step below 1", of="largest")
def below_1(method):
    return torch.ones((), dtype=DOUBLE)


@mutant(test_optimistic, "the best step is the largest one", of="best")
def boldest(method):
    return 3**-0.5


@mutant(test_optimistic, "the smaller eigenvalue decides", of="radius")
def smaller(method, step):
    radius = spectral_radius(method, step)
    return torch.as_tensor(step) / radius


@mutant(test_optimistic, "the old gradient is added, not subtracted", of="radius")
def added(method, step):
    matrix = update_matrix(method, step)
    matrix[:2, 2:] *= -1
    return torch.linalg.eigvals(matrix).abs().max()


@mutant(test_optimistic, "the run starts from 0 before the first point", of="run")
def from_nothing(method, start, steps):
    k = torch.arange(len(steps) + 1)[:, None]
    half = trajectory("simultaneous", start, [1.0] * len(steps)) / 2**k
    return (k + 1) * half


@mutant(test_optimistic, "no transient: the rate is that of simple eigenvalues", of="run")
def geometric(method, start, steps):
    k = torch.arange(len(steps) + 1, dtype=DOUBLE)
    return 2 ** (-k[:, None] / 2) * start


@pytest.mark.claim("x-bilinear-extragradient")
def test_extragradient(evidence, radius=spectral_radius, best=best_step, largest=largest_step):
    one, two, apart = ahead(1, a, a), ahead(2, a, a), ahead(1, eta, a)
    evidence.symbolic(square(apart), (1 - a * eta) ** 2 + a**2, oracle="the game in symbols")
    evidence.symbolic(square(one), 1 - a**2 + a**4, oracle="the game in symbols")
    evidence.symbolic(square(two), (1 - a**2) ** 2 * (1 + a**2), oracle="the game in symbols")
    known = "eigenvalues of the played game with 40 digits"
    for step, look in uniform(evidence.generator, 0.05, 2, 6, 2).tolist():
        measured = [
            radius("extragradient", step),
            radius("extragradient", step, inner_steps=2),
            radius("extragradient", step, eta=look),
            radius("extragradient", step, eta=1 / step),
        ]
        expected = [
            radius_of(one, step=step),
            radius_of(two, step=step),
            radius_of(apart, step=step, eta=look),
            step,
        ]
        evidence.numeric(measured, expected, bound=1e-13, oracle=known)
    evidence.numeric(largest("extragradient"), 1.0, bound=1e-15, oracle="where a^4 = a^2")
    golden = math.sqrt((1 + math.sqrt(5)) / 2)
    crossings = [radius("extragradient", 1.0), radius("extragradient", golden, inner_steps=2)]
    evidence.numeric(crossings, [1.0, 1.0], bound=1e-14, oracle="the bounds of the claim")
    roots = sp.solve((1 - L) ** 2 * (1 + L) - 1, L)
    evidence.exact([float(x) for x in roots if x > 0], [(1 + math.sqrt(5)) / 2], oracle="cubic, by sympy")
    steps = [best("extragradient"), best("extragradient", eta=0.7)]
    found = [minimiser(one, 0, 1), minimiser(apart, 0, 2, eta=0.7)]
    evidence.numeric(steps, found, bound=1e-6, oracle="search by Brent")
    evidence.numeric(
        radius("extragradient", best("extragradient")), 0.75**0.5, bound=1e-15, oracle="the best radius of the claim"
    )
    end = radius("extragradient", best("extragradient", inner_steps=2), inner_steps=2)
    evidence.numeric(end, radius_of(two, step=1), bound=1e-15, oracle=known)


@mutant(test_extragradient, "the sign of the fourth power", of="radius")
def negative(method, step, inner_steps=1, eta=None):
    return torch.as_tensor(1 - step**2 - step**4, dtype=DOUBLE).abs().sqrt()


@mutant(test_extragradient, "the look ahead is kept, two steps in a row", of="radius")
def in_a_row(method, step, inner_steps=1, eta=None):
    return spectral_radius("simultaneous", step) ** (inner_steps + 1)


@mutant(test_extragradient, "extrapolation and update change places", of="radius")
def exchanged(method, step, inner_steps=1, eta=None):
    return spectral_radius(method, eta or step, inner_steps=inner_steps, eta=step)


@mutant(test_extragradient, "the best step is half of the largest", of="best")
def half(method, **options):
    return 0.5


@pytest.mark.claim("x-bilinear-consensus")
def test_consensus(evidence, radius=spectral_radius, best=best_step, largest=largest_step):
    game = consensus()
    evidence.symbolic(square(game), (1 - a * c) ** 2 + a**2, oracle="the game in symbols")
    for step, gamma in uniform(evidence.generator, 0.05, 3, 6, 2).tolist():
        expected = radius_of(game, step=step, gamma=gamma)
        evidence.numeric(radius("consensus", step, gamma=gamma), expected, bound=1e-13, oracle="40 digits")
        limit = 2 * gamma / (1 + gamma**2)
        bound = largest("consensus", gamma=gamma)
        evidence.numeric(bound, limit, bound=1e-14, oracle="the bound of the claim")
        sides = [radius_of(game, step=limit * f, gamma=gamma) < 1 for f in (0.3, 0.999, 1.001, 3)]
        evidence.exact([True, True, False, False], sides, oracle="40 digits, around the bound")
        chosen = best("consensus", gamma=gamma)
        found = minimiser(game, 0, limit, gamma=gamma)
        evidence.numeric(chosen, found, bound=1e-6, oracle="search by Brent")
        least = radius("consensus", chosen, gamma=gamma)
        evidence.numeric(least, (1 + gamma**2) ** -0.5, bound=1e-14, oracle="the claim")


@mutant(test_consensus, "the penalty is ascended", of="radius")
def upwards(method, step, gamma):
    return torch.tensor(math.hypot(1 + step * gamma, step), dtype=DOUBLE)


@mutant(test_consensus, "the penalty is not multiplied by the step", of="radius")
def unscaled(method, step, gamma):
    return torch.tensor(math.hypot(1 - gamma, step), dtype=DOUBLE)


@mutant(test_consensus, "a bound for the penalty alone", of="largest")
def penalty_alone(method, gamma):
    return torch.tensor(2 / gamma, dtype=DOUBLE)


@mutant(test_consensus, "the best step is that of the penalty alone", of="best")
def newton(method, gamma):
    return 1 / gamma


def moduli(coefficients):
    """The moduli of the zeros of a polynomial, largest first."""
    with mp.workdps(30):
        zeros = mp.polyroots([mp.mpf(float(x)) for x in coefficients], maxsteps=400, extraprec=400)
        return sorted((float(abs(z)) for z in zeros), reverse=True)


def quartic(answers):
    """The coefficients of the characteristic polynomial of the played game."""
    return sp.Matrix(heavy_ball(answers).charpoly(L).all_coeffs())


def numbers(symbolic, step, beta):
    values = symbolic.subs({a: sp.Rational(step), b: sp.Rational(beta)})
    return [float(x) for x in values]


@pytest.mark.claim("x-bilinear-momentum-sim")
def test_simultaneous_momentum(evidence, polynomial=momentum_polynomial, radius=spectral_radius, largest=largest_step):
    symbolic = quartic(answers=False)
    stated = (L - 1) ** 2 * (L - b) ** 2 + a**2 * L**2
    known = heavy_ball(answers=False).charpoly(L).as_expr()
    evidence.symbolic(sp.expand(stated), known, oracle="the game in symbols")
    pairs = [*uniform(evidence.generator, 0, 1, 25, 2).tolist(), [0.001, 0.5], [0.5, 0.001]]
    for u, v in pairs:
        step, beta = 0.02 + 4 * u, 5 * v - 2.5
        expected = numbers(symbolic, step, beta)
        evidence.numeric(polynomial(step, beta), expected, bound=1e-12, oracle="the game in symbols")
        largest_zero = moduli(expected)[0]
        evidence.numeric(
            radius("momentum", step, beta=beta),
            largest_zero,
            bound=1e-9,
            oracle="zeros of the game's polynomial with 30 digits",
        )
        evidence.ordered(1.0, largest_zero, bound=0, oracle="a zero outside the unit circle")
        evidence.numeric(largest("momentum", beta=beta), 0.0, bound=0, oracle="no step converges")
    for step in (0.3, 1.4, 2.6):
        outermost = moduli(numbers(symbolic, step, -1))[0]
        evidence.ordered(1.0, outermost, bound=1e-12, oracle="leapfrog does not converge either")


@mutant(test_simultaneous_momentum, "the momentum is subtracted", of="polynomial")
def subtracted(step, beta):
    return momentum_polynomial(step, -beta)


@mutant(test_simultaneous_momentum, "g answers the new d", of="polynomial")
def answering(step, beta):
    return momentum_polynomial(step, beta, alternating=True)


@mutant(test_simultaneous_momentum, "negative momentum converges", of="largest")
def negative_helps(method, beta):
    return torch.tensor(2 * (1 + beta) if -1 < beta < 0 else 0.0)


@mutant(test_simultaneous_momentum, "steps of momentum add up to one of size 1/(1 - beta)", of="radius")
def added_up(method, step, beta):
    return spectral_radius("simultaneous", step / abs(1 - beta))


@pytest.mark.claim("x-bilinear-momentum-alt")
def test_alternating_momentum(evidence, polynomial=momentum_polynomial, radius=spectral_radius, largest=largest_step):
    symbolic = quartic(answers=True)
    stated = (L - 1) ** 2 * (L - b) ** 2 + a**2 * L**3
    known = heavy_ball(answers=True).charpoly(L).as_expr()
    evidence.symbolic(sp.expand(stated), known, oracle="the game in symbols")
    for u, v in uniform(evidence.generator, 0, 1, 40, 2).tolist():
        step, beta = 0.02 + 3 * u, 3 * v - 1.7
        expected = numbers(symbolic, step, beta)
        measured = polynomial(step, beta, alternating=True)
        evidence.numeric(measured, expected, bound=1e-12, oracle="the game in symbols")
        zero = moduli(expected)[0]
        evidence.numeric(
            radius("momentum", step, beta=beta, alternating=True),
            zero,
            bound=1e-8,
            oracle="zeros of the game's polynomial with 30 digits",
        )
        bound = float(largest("momentum", beta=beta, alternating=True))
        evidence.exact(step < bound, zero < 1, oracle="whether all zeros are inside")
    for beta in (*uniform(evidence.generator, -0.95, -0.02, 5).tolist(), 0.3, 0.9, 1.7, -1.4):
        limit = 2 * (1 + beta) if -1 < beta < 0 else 0.0
        bound = float(largest("momentum", beta=beta, alternating=True))
        evidence.numeric(bound, limit, bound=1e-15, oracle="the bound of the claim")
        near = [f * (limit or 1) for f in (0.05, 0.5, 0.999, 1.001, 1.5)]
        inside = [moduli(numbers(symbolic, step, beta))[0] < 1 for step in near]
        evidence.exact([step < bound for step in near], inside, oracle="both sides of the bound")


@mutant(test_alternating_momentum, "the bound of the simultaneous zeros", of="polynomial")
def at_once(step, beta, alternating):
    return momentum_polynomial(step, beta)


@mutant(test_alternating_momentum, "every momentum between -1 and 1 converges", of="largest")
def both_signs(method, beta, alternating):
    return torch.tensor(2 * (1 + beta) if -1 < beta < 1 else 0.0, dtype=DOUBLE)


@mutant(test_alternating_momentum, "the bound of descent, without the two players", of="largest")
def halved(method, beta, alternating):
    return torch.tensor(1 + beta if -1 < beta < 0 else 0.0, dtype=DOUBLE)


@mutant(test_alternating_momentum, "the momentum has the other sign", of="radius")
def other_sign(method, step, beta, alternating):
    return spectral_radius(method, step, beta=-beta, alternating=True)


@pytest.mark.claim("x-bilinear-momentum-opt")
def test_best_momentum(evidence, best=best_momentum):
    P = (L - 1) ** 2 * (L - b) ** 2 + a**2 * L**3
    root = 2 * sp.sqrt(3) - 3
    at = {a: sp.Rational(8, 3) * sp.sqrt(root), b: -(7 - 4 * sp.sqrt(3)), L: -root}
    for order in range(3):
        zero = sp.diff(P, L, order).subs(at)
        evidence.symbolic(sp.Integer(0), zero, oracle="a zero of order three")
    measured = list(best())
    exact = [float(at[a]), float(at[b]), float(root)]
    evidence.numeric(measured, exact, bound=1e-15, oracle="the triple zero, by sympy")
    stated = ["1.816666770", "-0.071796770", "0.464101615"]
    evidence.exact([f"{value:.9f}" for value in measured], stated, oracle="the decimals of the claim")
    known = heavy_ball(answers=True)
    evidence.numeric(
        measured[2],
        radius_of(known, step=exact[0], beta=exact[1]),
        bound=2e-5,
        oracle="eigenvalues of the played game with 40 digits",
    )
    game = sp.lambdify((a, b), known)
    outermost = lambda pair: float(np.abs(np.linalg.eigvals(game(*pair))).max())
    seed = int(torch.randint(1000, (), generator=evidence.generator))
    search = differential_evolution(outermost, [(0.01, 5), (-2, 2)], seed=seed, tol=1e-10)
    evidence.numeric(measured[2], search.fun, bound=1e-3, oracle="a global search in numpy")
    evidence.numeric(measured[:2], search.x, bound=1e-2, oracle="a global search in numpy")
    least = min(outermost((0.01 + 4 * u, 3 * v - 1.5)) for u, v in grid(evidence.generator))
    evidence.ordered(measured[2], least, bound=1e-12, oracle="2000 random steps and momenta")


def grid(generator):
    return torch.rand(2000, 2, generator=generator).tolist()


@mutant(test_best_momentum, "the best step for momentum -1/2")
def minus_half():
    return 0.8712381, -0.5, 0.8846462


@mutant(test_best_momentum, "double zeros only, without momentum")
def double():
    return 2.0, 0.0, 1.0


@mutant(test_best_momentum, "positive momentum")
def positive():
    step, beta, radius = best_momentum()
    return step, -beta, radius


@mutant(test_best_momentum, "the modulus of u instead of that of lambda")
def of_u():
    step, beta, radius = best_momentum()
    return step, beta, math.sqrt(radius)


@pytest.mark.claim("x-bilinear-lookahead")
def test_lookahead(evidence, look=lookahead):
    plain = linear(D + a * up(D, G), G + a * down(D, G))
    for step, weight in uniform(evidence.generator, 0.05, 0.95, 5, 2).tolist():
        step = 2.5 * step
        for k in (1, 2, 3, 5, 8):
            matrix = look(torch.tensor([[1, step], [-step, 1]], dtype=DOUBLE), k, weight)
            exact = plain.subs(a, sp.Rational(step)) ** k
            kept = (1 - sp.Rational(weight)) * sp.eye(2) + sp.Rational(weight) * exact
            scale = float(1 + exact.det())
            evidence.numeric(
                matrix / scale,
                torch.tensor((kept / sp.Float(scale, 30)).tolist(), dtype=DOUBLE),
                bound=1e-12,
                oracle="steps of the game in fractions, averaged",
            )
            q = complex(1, step) ** k - 1
            evidence.numeric(
                torch.linalg.eigvals(matrix).abs() / scale,
                [abs(1 + weight * q) / scale] * 2,
                bound=1e-12,
                oracle="complex numbers",
            )
    for k, step in ((2, 0.7), (2, 4.0), (3, 0.3), (3, 9.0), (4, 2.4), (5, 1.1), (8, 0.6), (6, 0.9)):
        q = complex(1, step) ** k - 1
        bound = -2 * q.real / abs(q) ** 2
        A = torch.tensor([[1, step], [-step, 1]], dtype=DOUBLE)
        measured = [radius(look(A, k, f * bound)) for f in (0.5, 0.999, 1)]
        moduli = [abs(1 + f * bound * q) for f in (0.5, 0.999, 1)]
        evidence.numeric(measured, moduli, bound=1e-9, oracle="complex numbers")
        evidence.exact([x < 1 - 1e-12 for x in moduli], [True, True, False], oracle="the bound")
        evidence.ordered(bound, 1.0, bound=0, oracle="a weight")
        loss = lambda w, q=q: abs(1 + w * q)
        least = minimize_scalar(loss, bounds=(0, 1), method="bounded")
        evidence.numeric(measured[0], least.fun, bound=1e-4, oracle="search by Brent")
        evidence.numeric(measured[0], abs(q.imag) / abs(q), bound=1e-9, oracle="the claim")
    for k in range(1, 12):
        steps = [0.01 * j for j in range(1, 400)]
        safe = {1: 0.0, 2: 99.0, 3: 99.0, 4: math.sqrt(6)}.get(k, math.tan(3 * math.pi / 2 / max(k, 5)))
        helps = [(complex(1, x) ** k).real < 1 for x in steps]
        if k < 5:
            evidence.exact(helps, [x < safe for x in steps], oracle="the steps of the claim")
        else:
            evidence.exact(
                [h for h, x in zip(helps, steps, strict=True) if x <= safe and not h],
                [],
                oracle="the safe steps of the claim",
            )
    for k in (3, 4, 7):
        step = math.tan(math.pi / k)
        weight = 1 / (1 + abs(complex(1, step)) ** k)
        matrix = look(torch.tensor([[1, step], [-step, 1]], dtype=DOUBLE), k, weight)
        evidence.numeric(matrix, torch.zeros(2, 2), bound=1e-13, oracle="half a turn, averaged out")
    value = radius(look(torch.tensor([[1, 0.3], [-0.3, 1]], dtype=DOUBLE), 5, 0.3))
    known = abs(0.7 + 0.3 * cmath.exp(5 * cmath.log(complex(1, 0.3))))
    evidence.numeric(value, known, bound=1e-14, oracle="complex numbers")
    evidence.exact(f"{known:.6f}", "0.829148", oracle="the decimals of the claim")


def radius(matrix):
    return torch.linalg.eigvals(matrix).abs().max()


@mutant(test_lookahead, "the weight is that of the start")
def of_the_start(matrix, steps, weight):
    return lookahead(matrix, steps, 1 - weight)


@mutant(test_lookahead, "every step is averaged")
def every_step(matrix, steps, weight):
    return torch.linalg.matrix_power(lookahead(matrix, 1, weight), steps)


@mutant(test_lookahead, "k times the step instead of k steps")
def one_long_step(matrix, steps, weight):
    one = torch.eye(2, dtype=DOUBLE)
    return one + weight * steps * (matrix - one)


def vector_game(method, B, step, gamma, look):
    """The matrix of one update of the game with the payoff B, by derivatives in torch."""
    m, n = B.shape[0], sum(B.shape)

    def pull(x):
        value = lambda d, g: d @ B @ g
        first, last = torch.func.grad(value, (0, 1))(x[:m], x[m:])
        return torch.cat([first, -last])

    def update(state):
        x, old = state[:n], state[n:]
        if method.startswith("extragradient"):
            ahead = x
            for _ in range(3 if method.endswith("thrice") else 1):
                ahead = x + look * pull(ahead)
            return x + step * pull(ahead)
        if method == "consensus":
            penalty = lambda x: pull(x).square().sum() / 2
            return x + step * (pull(x) - gamma * torch.func.grad(penalty)(x))
        if method == "alternating":
            d = x[:m] + step * pull(x)[:m]
            return torch.cat([d, x[m:] + step * pull(torch.cat([d, x[m:]]))[m:]])
        if method == "proximal":
            field = torch.func.jacrev(pull)(x)
            return torch.linalg.solve(torch.eye(n, dtype=DOUBLE) - step * field, x)
        if method == "optimistic":
            return torch.cat([x + step * (2 * pull(x) - pull(old)), x])
        if method == "momentum":
            return torch.cat([x + step * pull(x) - 0.3 * (x - old), x])
        if method == "momentum in turn":
            d = (x + step * pull(x) - 0.3 * (x - old))[:m]
            g = x[m:] + step * pull(torch.cat([d, x[m:]]))[m:] - 0.3 * (x - old)[m:]
            return torch.cat([d, g, x])
        return x + step * pull(x)

    memory = method == "optimistic" or method.startswith("momentum")
    return torch.func.jacrev(update)(torch.zeros(2 * n if memory else n, dtype=DOUBLE))


def of_zeros(matrix):
    return float(np.abs(np.linalg.eigvals(matrix.numpy())).max())


def with_spectrum(generator, values):
    n = len(values)
    left, right = (torch.linalg.qr(uniform(generator, -1, 1, n, n)).Q for _ in range(2))
    return left @ torch.diag(torch.tensor(values, dtype=DOUBLE)) @ right


@pytest.mark.claim("x-bilinear-matrix")
def test_matrix_games(evidence, radius=spectral_radius, largest=largest_step):
    for m, n in ((2, 2), (3, 3), (2, 3), (3, 1)):
        B = uniform(evidence.generator, -2, 2, m, n)
        s = np.linalg.svd(B.numpy(), compute_uv=False)
        games = [*s, 0.0] if m != n else s
        for name, options in {
            "simultaneous": {},
            "alternating": {},
            "proximal": {},
            "optimistic": {},
            "extragradient": {"eta": 0.4},
            "extragradient thrice": {"eta": 0.4, "inner_steps": 3},
            "consensus": {"gamma": 0.7},
            "momentum": {"beta": -0.3},
            "momentum in turn": {"beta": -0.3, "alternating": True},
        }.items():
            for step in uniform(evidence.generator, 0.1, 1.5, 3).tolist():
                small = [
                    of_zeros(vector_game(name, torch.ones(1, 1, dtype=DOUBLE), step * x, 0.7 * x, 0.4 * x))
                    for x in games
                ]
                known = of_zeros(vector_game(name, B, step, 0.7, 0.4))
                measured = radius(name.split()[0], step, payoff=B, **options)
                evidence.numeric(
                    measured,
                    known,
                    bound=1e-7,
                    oracle="derivatives of the vector game by torch, eigenvalues by numpy",
                )
                evidence.numeric(max(small), known, bound=1e-7, oracle="the same, game by game")
                if m != n:
                    evidence.ordered(-measured, -1.0, bound=1e-7, oracle="a player that stands still")
        if m != n:
            continue
        for method in ("extragradient", "optimistic", "consensus"):
            bound = float(largest(method, B, gamma=0.7))
            measured = [of_zeros(vector_game(method, B, f * bound, 0.7, f * bound)) < 1 for f in (0.99, 1.01)]
            limits = {"extragradient": 1 / s[0], "optimistic": 3**-0.5 / s[0]}
            limit = limits.get(method, 1.4 / (1 + (0.7 * s[0]) ** 2))
            evidence.numeric(bound, limit, bound=1e-12, oracle="singular values by numpy")
            evidence.exact(measured, [True, False], oracle="both sides of the bound")
    for kappa in (1.7, 6.0):
        values = [2.5, *uniform(evidence.generator, 2.5 / kappa, 2.5, 1).tolist(), 2.5 / kappa]
        B = with_spectrum(evidence.generator, values)
        stated = [(1 + math.sqrt(1 - kappa**-2)) / 2, 1 - kappa**-2 / 2 + kappa**-4 / 4]
        for method, step, square in zip(
            ("optimistic", "extragradient"), (0.5 / 2.5, 0.5**0.5 / 2.5), stated, strict=True
        ):
            measured = radius(method, step, payoff=B) ** 2
            evidence.numeric(measured, square, bound=1e-7, oracle="the formula of the claim")
            known = of_zeros(vector_game(method, B, step, 0, step)) ** 2
            evidence.numeric(measured, known, bound=1e-7, oracle="eigenvalues by numpy")
    for kappa in (50.0, 400.0):
        gaps = [1 - math.sqrt((1 + math.sqrt(1 - kappa**-2)) / 2), 1 - math.sqrt(1 - kappa**-2 / 2 + kappa**-4 / 4)]
        small = torch.diag(torch.tensor([1.0, 1 / kappa], dtype=DOUBLE))
        measured = [1 - radius("optimistic", 0.5, payoff=small), 1 - radius("extragradient", 0.5**0.5, payoff=small)]
        evidence.numeric(measured, gaps, bound=1e-12, oracle="the formulas of the claim")
        evidence.numeric(
            [8 * kappa**2 * measured[0], 4 * kappa**2 * measured[1]],
            [1.0, 1.0],
            bound=2e-3,
            oracle="the rates of the claim",
        )


@mutant(test_matrix_games, "the eigenvalues of B in place of its singular values", of="radius")
def by_eigenvalues(method, step, payoff, **options):
    values = torch.linalg.eigvals(payoff if len(payoff) == len(payoff.mT) else payoff @ payoff.mT).abs()
    return spectral_radius(method, step, payoff=torch.diag_embed(values), **options)


@mutant(test_matrix_games, "the largest singular value is the worst", of="radius")
def only_largest(method, step, payoff, **options):
    top = torch.linalg.matrix_norm(payoff, 2)
    return spectral_radius(method, step, payoff=top[None, None], **options)


@mutant(test_matrix_games, "gamma and eta are not scaled", of="radius")
def step_only(method, step, payoff, **options):
    values = torch.linalg.svdvals(payoff)
    return max(spectral_radius(method, step * s, **options) for s in values)


@mutant(test_matrix_games, "the players left over are forgotten", of="radius")
def none_left_over(method, step, payoff, **options):
    values = torch.diag_embed(torch.linalg.svdvals(payoff))
    return spectral_radius(method, step, payoff=values, **options)


@mutant(test_matrix_games, "the bound of the smallest singular value", of="largest")
def by_smallest(method, payoff, **options):
    least = torch.linalg.svdvals(payoff)[..., -1]
    return largest_step(method, least[None, None], **options)


def test_the_bounds_of_all_methods():
    for method in ("simultaneous", "alternating"):
        assert largest_step(method) == 0
    B = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1))
    assert largest_step("optimistic", B).shape == (4,)
    assert largest_step("optimistic", B).dtype == torch.float32
    torch.testing.assert_close(
        largest_step("momentum", B, beta=-0.5, alternating=True),
        1 / torch.linalg.svdvals(B).amax(-1),
    )


def test_the_bound_of_players_that_move():
    for shape, B in (
        ((2, 3), [[1.2, 0.0, 0.0], [0.0, 0.7, 0.0]]),
        ((3, 3), [[1.2, 0.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.0]]),
    ):
        payoff = torch.tensor(B, dtype=DOUBLE)
        assert payoff.shape == shape
        bound = largest_step("extragradient", payoff).item()
        start = torch.ones(sum(shape), dtype=DOUBLE)
        for factor, arrives in ((0.98, True), (1.02, False)):
            end = trajectory("extragradient", start, [factor * bound] * 2000, payoff=payoff)[-1]
            moving = end[[0, 1, shape[0], shape[0] + 1]]
            assert (moving.abs().max() < 1e-6) == arrives
            assert end[-1] == 1


@pytest.mark.usefixtures("untyped")
def test_polynomials_broadcast_and_keep_the_dtype():
    step, beta = torch.tensor([[0.2], [0.5]]), torch.tensor([0.1, -0.3, 0.4])
    for alternating in (False, True):
        assert momentum_polynomial(step, beta, alternating).shape == (2, 3, 5)
        assert momentum_polynomial(step, beta, alternating).dtype == torch.float32
    assert momentum_polynomial(0.2, 0.3).dtype == DOUBLE
    assert momentum_polynomial(step, beta.double()).dtype == DOUBLE
    for given in ((torch.tensor(2), 0.3), (2.0, torch.tensor(0.3))):
        torch.testing.assert_close(momentum_polynomial(*given), momentum_polynomial(2.0, 0.3).float())
    A = update_matrix("momentum", 0.7, beta=0.2, alternating=True)
    powers = sum(
        x * torch.linalg.matrix_power(A, n)
        for x, n in zip(momentum_polynomial(0.7, 0.2, True), range(4, -1, -1), strict=True)
    )
    torch.testing.assert_close(powers, torch.zeros_like(A))


def test_lookahead_of_any_update():
    A = update_matrix("alternating", torch.tensor([0.4, 1.1]))
    assert lookahead(A, 3, 0.5).shape == (2, 2, 2)
    assert lookahead(A, 3, 0.5).dtype == torch.float32
    torch.testing.assert_close(lookahead(A, 4, 1.0), torch.linalg.matrix_power(A, 4))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: largest_step("gda"), "method must be one of simultaneous, alternating"),
        (lambda: largest_step("momentum", torch.zeros(2, 3)), "payoff must not be 0"),
        (lambda: largest_step("optimistic", torch.ones(2)), "payoff must be a finite, floating matrix"),
        (lambda: largest_step("optimistic", torch.ones(2, 2).int()), "payoff must be a finite, floating matrix"),
        (lambda: largest_step("optimistic", torch.full((2, 2), math.nan)), "payoff must be a finite, floating"),
        (lambda: largest_step("momentum", beta=math.nan, alternating=True), "beta must be finite, got nan"),
        (lambda: largest_step("consensus", gamma=0.0), "gamma must be above 0 and finite, got 0.0"),
        (lambda: best_step("proximal"), "method must be extragradient, optimistic or consensus"),
        (lambda: best_step("consensus", gamma=-1.0), "gamma must be above 0 and finite, got -1.0"),
        (lambda: best_step("extragradient", eta=0.0), "eta must be above 0 and finite, got 0.0"),
        (lambda: best_step("extragradient", inner_steps=3), "inner_steps must be 1, or 2 without"),
        (lambda: lookahead(torch.eye(2), 0, 0.5), "steps must be a whole number, at least 1, got 0"),
        (lambda: lookahead(torch.eye(2), 2, 1.5), "weight must be from 0 to 1, got 1.5"),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
