import re
from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import sympy
import torch
from torch.autograd.functional import jacobian
from torch.distributions import Gamma, MultivariateNormal, Normal

from genref._site.claims import mutant
from genref.gradients.estimators import optimal_baseline, path_gradient, pathwise, score_function

DOUBLE = torch.float64
NODES, WEIGHTS = map(torch.as_tensor, np.polynomial.hermite_e.hermegauss(90))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
LEGENDRE = {
    dimension: [torch.as_tensor(part) for part in np.polynomial.legendre.leggauss(nodes)]
    for dimension, nodes in {1: 300, 2: 80}.items()
}


def noise(points):
    """A stand-in for `torch.randn` that gives these points to every law of the batch."""
    return lambda size, **_: points.view(-1, *[1] * (len(size) - 1)).expand(size)


def at_nodes(gradients, f, loc, log_scale, nodes=NODES, **options):
    """The gradients at the nodes of a rule and not at random points: weighted sums are means."""
    with patch("torch.randn", noise(nodes)):
        return gradients(f, loc, log_scale, len(nodes), **options)


def moments(gradients, weights=WEIGHTS):
    mean = weights @ gradients
    return mean, weights @ (gradients - mean) ** 2


def between(low, high, generator, size=()):
    return low + (high - low) * torch.rand(size, generator=generator, dtype=DOUBLE)


def parameters(generator, count=3):
    """Random (mu, tau) of normal laws."""
    for _ in range(count):
        yield torch.stack([between(0.2, 1.2, generator), between(-0.7, -0.1, generator)])


def rule(*edges):
    """Gauss-Legendre rule in a box: points (N, k) and weights (N)."""
    z, w = LEGENDRE[len(edges)]
    axes = [low + (high - low) * (z + 1) / 2 for low, high in edges]
    sides = [(high - low) / 2 * w for low, high in edges]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(edges))
    weights = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).view(-1, len(edges))
    return points, weights.prod(-1)


def differences(function, phi, step=2e-3):
    """The gradient of a function by differences of sixth order."""
    slopes = []
    for direction in torch.eye(len(phi), dtype=DOUBLE):
        at = [function(phi + k * step * direction) for k in (-3, -2, -1, 1, 2, 3)]
        terms = zip((-1, 9, -45, 45, -9, 1), at, strict=True)
        slopes.append(sum(c * value for c, value in terms) / (60 * step))
    return torch.stack(slopes)


class Law(NamedTuple):
    """A family of densities, where it lives, some parameters, and whether its upper edge is one."""

    log_density: object
    edges: object
    phi: list
    moves: bool = False


def planar(phi):
    scale = torch.stack([phi[1].exp(), 0 * phi[0], phi[2], 0.7 + 0 * phi[0]]).view(2, 2)
    return MultivariateNormal(torch.stack([phi[0], phi[0] ** 2]), scale_tril=scale)


LAWS = [
    Law(
        lambda z, phi: Normal(phi[0], phi[1].exp()).log_prob(z[:, 0]),
        lambda phi: [(-12.0, 12.0)],
        [0.3, -0.4],
    ),
    Law(
        lambda z, phi: Gamma(phi[0], phi[1].exp()).log_prob(z[:, 0]),
        lambda phi: [(0.0, 40.0)],
        [4.3, 0.6],
    ),
    Law(
        lambda z, phi: planar(phi).log_prob(z),
        lambda phi: [(-7.0, 7.0), (-7.0, 7.0)],
        [0.4, -0.3, 0.5],
    ),
    Law(
        lambda z, phi: -phi[0].log().expand(len(z)),
        lambda phi: [(0.0, phi[0].item())],
        [1.7],
        moves=True,
    ),
]


def still(z, phi):
    return (z.sin() - z**4 / 4).sum(-1)


def moving(z, phi):
    return still(z, phi) - phi[0] ** 2 * (z - phi[-1]).cosh().log().sum(-1)


def expectation(law, log_h, phi):
    """E log(h/q)."""
    z, weights = rule(*law.edges(phi))
    log_q = law.log_density(z, phi)
    return weights @ (log_q.exp() * (log_h(z, phi) - log_q))


def identity(law, log_h, phi):
    """The mean of the score times log(h/q), with what a moving h and a moving edge add to it."""
    phi = phi.clone().requires_grad_()
    z, weights = rule(*law.edges(phi))
    log_q, value = law.log_density(z, phi), log_h(z, phi)
    mass, ratio = (weights * log_q.exp()).detach(), (value - log_q).detach()
    (mean,) = torch.autograd.grad((mass * ratio) @ log_q + mass @ value, phi)
    if law.moves:
        mean = mean + (1 + log_h(phi[:, None], phi) + phi.log()).detach() / phi.detach()
    return mean


@pytest.mark.claim("logderiv-identity", answers=["D1"])
def test_log_derivative(evidence, score=score_function, right=identity):
    for law in LAWS:
        for log_h in (still, moving):
            phi = torch.tensor(law.phi, dtype=DOUBLE)
            phi = phi * between(0.9, 1.1, evidence.generator, phi.shape)
            evidence.numeric(
                right(law, log_h, phi),
                differences(lambda at, law=law, log_h=log_h: expectation(law, log_h, at), phi),
                bound=1e-8,
                oracle="differences of the integral",
            )
    flat, phi = LAWS[-1], torch.tensor([1.7], dtype=DOUBLE)
    left = differences(lambda at: expectation(flat, still, at), phi)
    alone = right(flat._replace(moves=False), still, phi)
    evidence.exact(
        [f"{side.item():.6f}" for side in (left, alone)],
        ["-0.201636", "-0.457088"],
        oracle="the decimals that the claim states",
    )

    for mu, tau in parameters(evidence.generator):
        mean, variance = moments(at_nodes(score, log_ratio(mu, tau), mu, tau))
        exact = jacobian(closed_form, torch.stack([mu, tau]))
        evidence.numeric(mean, exact, bound=1e-11, oracle="slope of the closed form of E log(h/q)")
        density, s = normal(mu, tau)
        evidence.numeric(
            variance,
            density @ (s * log_ratio(mu, tau)(GRID)[:, None]) ** 2 - exact**2,
            bound=1e-10,
            oracle="quadrature over z of the squared slope of log q times the squared ratio",
        )


GRID, SPACING = (part.squeeze(-1) for part in rule((-14.0, 14.0)))


def normal(mu, tau):
    """The masses of a normal law at the points of the grid, and the slopes of its log-density."""
    phi = torch.stack([mu, tau])
    log_q = Normal(mu, tau.exp()).log_prob(GRID)
    slopes = jacobian(lambda phi: Normal(phi[0], phi[1].exp()).log_prob(GRID), phi)
    return SPACING * log_q.exp(), slopes


def log_ratio(mu, tau):
    """Log(h/q) for log h = sin z - z^4/4."""
    return lambda z: z.sin() - z**4 / 4 - Normal(mu, tau.exp()).log_prob(z)


def closed_form(phi):
    """E log(h/q) for log h = sin z - z^4/4 and the normal law."""
    mu, variance = phi[0], (2 * phi[1]).exp()
    fourth = mu**4 + 6 * mu**2 * variance + 3 * variance**2
    entropy = (2 * torch.pi * torch.e * variance).log() / 2
    return mu.sin() * (-variance / 2).exp() - fourth / 4 + entropy


def values(gradients, f, *arguments):
    """The gradients, and the values of f that went into them."""
    kept = []
    made = gradients(lambda x: kept.append(f(x)) or kept[0], *arguments)
    return made, kept[0]


@mutant(test_log_derivative, "the sign: log(q/h)", of="right")
def upside_down(law, log_h, phi):
    return -identity(law, log_h, phi)


@mutant(test_log_derivative, "h taken as independent of the parameters", of="right")
def still_h(law, log_h, phi):
    return identity(law, lambda z, _: log_h(z, phi), phi)


@mutant(test_log_derivative, "the support taken as fixed", of="right")
def fixed_support(law, log_h, phi):
    return identity(law._replace(moves=False), log_h, phi)


@mutant(test_log_derivative, "the square of the noise, not less one", of="score")
def uncentred(f, *arguments):
    gradients, value = values(score_function, f, *arguments)
    return gradients + torch.stack([0 * value, value], -1)


@mutant(test_log_derivative, "the slope with respect to sigma for that to log sigma", of="score")
def by_sigma(f, loc, log_scale, *arguments):
    gradients = score_function(f, loc, log_scale, *arguments)
    return gradients / torch.stack([torch.ones_like(log_scale), log_scale.exp()])


@mutant(test_log_derivative, "the term that vanishes in the mean is kept: baseline 1", of="score")
def unsimplified(f, *arguments):
    return score_function(f, *arguments, baseline=1.0)


X = sympy.Symbol("x")
SMOOTH = [X * sympy.sin(X), sympy.sin(X) - X**4 / 4, sympy.log(1 + sympy.exp(X)), X**3 - 2 * X]


def jump_term(jump, at, mu, tau):
    density = Normal(mu, tau.exp()).log_prob(at).exp()
    return jump * density * torch.stack([torch.ones_like(mu), at - mu])


def integral(f, edge):
    """The mean of f under the normal law, from pieces that meet at the edge."""
    pieces = [rule((-14.0, edge)), rule((edge, 14.0))]

    def mean(phi):
        law = Normal(phi[0], phi[1].exp())
        return sum(w @ (f(z) * law.log_prob(z).exp())[:, 0] for z, w in pieces)

    return mean


@pytest.mark.claim("gradients-pathwise")
def test_pathwise(evidence, path=pathwise, missed=jump_term):
    for mu, tau in parameters(evidence.generator):
        phi = torch.stack([mu, tau])
        for expression in SMOOTH:
            f, slope = (sympy.lambdify(X, e, torch) for e in (expression, sympy.diff(expression)))
            mean, variance = moments(at_nodes(path, f, mu, tau))
            exact = differences(integral(f, 0.1), phi)
            evidence.numeric(mean, exact, bound=1e-8, oracle="differences of the integral")
            paths = slope(GRID)[:, None] * torch.stack([0 * GRID + 1, GRID - mu], -1)
            evidence.numeric(
                variance,
                normal(mu, tau)[0] @ paths**2 - exact**2,
                bound=1e-7,
                oracle="quadrature over x with the slope by sympy",
            )
            other, _ = moments(at_nodes(score_function, f, mu, tau))
            evidence.numeric(other, exact, bound=1e-8, oracle="differences of the integral")

        at, jump = between(-0.5, 0.7, evidence.generator), between(0.8, 1.9, evidence.generator)
        nodes, weights = halves((at - mu) / tau.exp())
        stepped = lambda x, at=at, jump=jump: (x - at).abs() + x.sin() + jump * (x > at)
        exact = differences(integral(stepped, at.item()), phi)
        mean, _ = moments(at_nodes(path, stepped, mu, tau, nodes), weights)
        evidence.numeric(
            mean + missed(jump, at, mu, tau),
            exact,
            bound=1e-8,
            oracle="differences of the integral, in two pieces",
        )
        evidence.numeric(
            moments(at_nodes(score_function, stepped, mu, tau, nodes), weights)[0],
            exact,
            bound=1e-8,
            oracle="differences of the integral, in two pieces",
        )


def halves(edge):
    """Nodes and weights for means over standard normal noise that is cut in two at the edge."""
    pieces = [rule((-15.0, edge)), rule((edge, 15.0))]
    nodes, weights = (torch.cat(part) for part in zip(*pieces, strict=True))
    return nodes[:, 0], weights * Normal(0.0, 1.0).log_prob(nodes[:, 0]).exp()


@mutant(test_pathwise, "the slope with respect to sigma for that to log sigma", of="path")
def path_by_sigma(f, loc, log_scale, *arguments):
    gradients = pathwise(f, loc, log_scale, *arguments)
    return gradients / torch.stack([torch.ones_like(log_scale), log_scale.exp()])


@mutant(test_pathwise, "the point for its distance from the mean", of="path")
def from_origin(f, loc, *arguments):
    gradients = pathwise(f, loc, *arguments)
    return gradients + torch.stack([0 * gradients[:, 0], loc * gradients[:, 0]], -1)


@mutant(test_pathwise, "the slope at the noise", of="path")
def at_noise(f, loc, log_scale, *arguments):
    return pathwise(f, 0 * loc, 0 * log_scale, *arguments)


@mutant(test_pathwise, "the slope sees the jump", of="missed")
def no_jump(jump, at, mu, tau):
    return torch.zeros(2, dtype=DOUBLE)


@mutant(test_pathwise, "a jump moves the gradient with respect to the mean only", of="missed")
def first_only(jump, at, mu, tau):
    return jump_term(jump, at, mu, tau) * torch.tensor([1.0, 0.0])


def retained(n):
    """What is left of the gradient of a linear f if the baseline is made of the same n points."""
    return (n - 1) / (n + 2)


@pytest.mark.claim("x-logderiv-baseline")
def test_baseline(evidence, gradients=score_function, best=optimal_baseline, left=retained):
    given = torch.tensor([0.3, -0.4], dtype=DOUBLE)
    for mu, tau in (given, *parameters(evidence.generator, 2)):
        f, (density, s) = log_ratio(mu, tau), normal(mu, tau)
        value, information = f(GRID)[:, None], density @ s**2
        mean, star = density @ (s * value), density @ (s**2 * value) / information
        least = density @ (s * (value - star)) ** 2 - mean**2
        for b in (torch.zeros(2, dtype=DOUBLE), star, between(-1, 3, evidence.generator, (2,))):
            measured = moments(at_nodes(gradients, f, mu, tau, baseline=b))
            evidence.numeric(measured[0], mean, bound=1e-10, oracle="quadrature over z")
            evidence.numeric(
                measured[1],
                least + information * (b - star) ** 2,
                bound=1e-9,
                oracle="the parabola, its three numbers by quadrature over z",
            )
        spread = (density @ (s**2 * (value - star)) ** 2).sqrt() / information
        drawn, n = best(f, mu, tau, 100_000, evidence.generator), 100_000
        for component in (0, 1):
            error = spread[component] / n**0.5
            evidence.statistical(
                SimpleNamespace(mean=drawn[component], standard_error=error),
                star[component],
                detects=0.1,
                oracle="quadrature over z",
            )
        if mu == given[0]:
            numbers = [information[0] * star[0] ** 2 + least[0], star[0], least[0], star[1]]
            evidence.exact(
                [f"{number:.4f}" for number in numbers],
                ["4.9885", "1.2078", "1.7419", "0.7929"],
                oracle="the decimals that the claim states",
            )

    slope = between(0.7, 1.9, evidence.generator)
    line = lambda x: 2.3 - slope * x

    def shared(n, laws):
        """The mean over n points of the gradient by mu, its baselines from the same points."""
        loc, tau = torch.full((laws,), 0.6, dtype=DOUBLE), -0.3
        seed = int(torch.randint(2**40, (), generator=evidence.generator))
        draw = lambda: torch.Generator().manual_seed(seed)
        own = best(line, loc, tau, n, draw())
        return gradients(line, loc, tau, n, draw(), baseline=own).mean(0)[:, 0]

    evidence.numeric(shared(1, 7), [0.0] * 7, bound=1e-12, oracle="one point is its own baseline")
    angle = torch.arange(8, dtype=DOUBLE) * torch.pi / 4 + 0.2
    ring = 2**0.5 * torch.stack([angle.cos(), angle.sin()])
    with patch("torch.randn", lambda size, **_: ring):
        two = shared(2, 8).mean()
    evidence.numeric(two / left(2), -slope, bound=1e-12, oracle="two points on a circle, all turns")
    for n in (2, 3, 5, 12):
        evidence.statistical(
            shared(n, 40_000) / left(n),
            -slope,
            detects=0.1,
            oracle="the slope of the line",
        )


@mutant(test_baseline, "the baseline is added", of="gradients")
def added(*arguments, baseline):
    return score_function(*arguments, baseline=-baseline)


@mutant(test_baseline, "the baseline is taken off after the product", of="gradients")
def taken_off(*arguments, baseline):
    return score_function(*arguments) - baseline


@mutant(test_baseline, "the mean of f is the best baseline", of="best")
def average(f, *arguments):
    _, value = values(score_function, f, *arguments)
    return value.mean(0)[..., None].expand(*value.shape[1:], 2)


@mutant(test_baseline, "one baseline for both parameters", of="best")
def common(f, *arguments):
    squared = score_function(torch.ones_like, *arguments) ** 2
    _, value = values(score_function, f, *arguments)
    total = (squared.sum(-1) * value).sum(0) / squared.sum((0, -1))
    return total[..., None].expand(*value.shape[1:], 2)


@mutant(test_baseline, "a baseline from the same points leaves the mean alone", of="left")
def untouched(n):
    return 1.0


@mutant(test_baseline, "one point in n is lost", of="left")
def one_lost(n):
    return (n - 1) / n


def excess(sigma, v):
    """By how much the variances of the path gradient exceed those of the derivative."""
    return (1 - 2 * sigma**2 / v**2) * torch.stack([sigma**-2, 0 * sigma + 2])


@pytest.mark.claim("x-path-gradient")
def test_path_gradient(evidence, path=path_gradient, more=excess):
    for mu, tau in parameters(evidence.generator):
        phi, sigma = torch.stack([mu, tau]), tau.exp()
        fisher = torch.stack([sigma**-2, 0 * sigma + 2])
        log_z, m = between(0.5, 2, evidence.generator), between(-0.9, 0.1, evidence.generator)
        proportional = lambda z, mu=mu, tau=tau, add=log_z: Normal(mu, tau.exp()).log_prob(z) + add
        evidence.numeric(
            at_nodes(path, proportional, mu, tau),
            torch.zeros(90, 2, dtype=DOUBLE),
            bound=1e-12,
            oracle="log(h/q) is constant",
        )
        evidence.numeric(
            moments(at_nodes(pathwise, proportional, mu, tau))[1],
            fisher,
            bound=1e-11,
            oracle="Fisher information of the normal law",
        )
        constant = lambda z, ratio=log_z: ratio.expand(z.shape)
        evidence.numeric(
            moments(at_nodes(score_function, constant, mu, tau))[1],
            log_z**2 * fisher,
            bound=1e-11,
            oracle="Fisher information of the normal law",
        )

        quartic = lambda z: z.sin() - z**4 / 4
        gradients = at_nodes(path, quartic, mu, tau)
        derivative, held = parts(quartic, phi)
        evidence.numeric(
            gradients,
            derivative + held,
            bound=1e-9,
            oracle="autograd along the points, and of log q at points that are held",
        )
        evidence.numeric(
            moments(gradients)[0],
            jacobian(closed_form, phi),
            bound=1e-11,
            oracle="slope of the closed form of E log(h/q)",
        )
        for v in (0.8 * sigma, 1.3 * sigma, 1.7 * sigma, 3.1 * sigma):
            target = lambda z, m=m, v=v: Normal(m, v).log_prob(z) + 0.7
            derivative, held = parts(target, phi)
            variances = [WEIGHTS @ (g - WEIGHTS @ g) ** 2 for g in (derivative + held, derivative)]
            evidence.numeric(
                moments(at_nodes(path, target, mu, tau))[1],
                variances[0],
                bound=1e-10,
                oracle="variance of what autograd finds",
            )
            evidence.numeric(
                more(sigma, v),
                variances[0] - variances[1],
                bound=1e-10,
                oracle="variances of what autograd finds",
            )


def parts(log_h, phi):
    """At each node the derivative of log(h/q) along the point, and that of log q at the point."""

    def along(phi):
        x = phi[0] + phi[1].exp() * NODES
        return log_h(x) - Normal(phi[0], phi[1].exp()).log_prob(x)

    x = phi[0] + phi[1].exp() * NODES
    held = lambda phi: Normal(phi[0], phi[1].exp()).log_prob(x)
    return jacobian(along, phi), jacobian(held, phi)


@mutant(test_path_gradient, "the score is kept", of="path")
def score_kept(log_h, loc, log_scale, *arguments):
    gradients = pathwise(log_h, loc, log_scale, *arguments)
    return gradients + torch.tensor([0.0, 1.0], dtype=DOUBLE)


@mutant(test_path_gradient, "log q is left out altogether", of="path")
def without_q(log_h, *arguments):
    return pathwise(log_h, *arguments)


@mutant(test_path_gradient, "the score is taken off instead of added", of="path")
def wrong_way(log_h, *arguments):
    return path_gradient(log_h, *arguments) - 2 * score_function(torch.ones_like, *arguments)


@mutant(test_path_gradient, "the path gradient never has the larger variance", of="more")
def never_more(sigma, v):
    return excess(sigma, v).clamp(max=0)


@mutant(test_path_gradient, "it always saves the Fisher information", of="more")
def saves_information(sigma, v):
    return excess(sigma, sigma)


def test_random_points_have_the_exact_mean():
    generator = torch.Generator().manual_seed(8)
    for mu, tau in parameters(generator, 2):
        exact, n = jacobian(closed_form, torch.stack([mu, tau])), 200_000
        quartic = lambda z: z.sin() - z**4 / 4
        for drawn in (
            score_function(log_ratio(mu, tau), mu, tau, n, generator),
            score_function(log_ratio(mu, tau), mu, tau, n, generator, torch.tensor([1.2, 0.8])),
            pathwise(quartic, mu, tau, n, generator) + torch.tensor([0, 1]),
            path_gradient(quartic, mu, tau, n, generator),
        ):
            error = (drawn.var(0) / n).sqrt()
            assert ((drawn.mean(0) - exact).abs() < 5 * error).all()
            assert (error < 0.05).all()


ESTIMATORS = [score_function, pathwise, path_gradient]


@pytest.mark.parametrize("gradients", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_dtype_and_batch(gradients, dtype):
    loc, log_scale = torch.zeros(3, 1, dtype=dtype), torch.full((2,), -0.3, dtype=dtype)
    made = gradients(torch.cos, loc, log_scale, 5)
    assert made.shape == (5, 3, 2, 2)
    assert made.dtype == dtype
    assert gradients(torch.cos, loc, 0.2, 4).shape == (4, 3, 1, 2)
    assert gradients(torch.cos, 0.2, log_scale[0], 4).dtype == dtype
    best = optimal_baseline(torch.cos, loc, log_scale, 5)
    assert best.shape == (3, 2, 2)
    assert best.dtype == dtype


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("gradients", ESTIMATORS)
def test_numbers_are_of_the_default_dtype(gradients):
    assert gradients(torch.cos, 1, 0, 3).dtype == torch.float32
    assert gradients(torch.cos, 0.5, torch.tensor(0), 3).dtype == torch.float32
    assert gradients(torch.cos, torch.tensor(2), 0, 3).dtype == torch.float32


def test_equal_generators_draw_equal_points():
    points = []
    for function in (*ESTIMATORS, optimal_baseline):
        generator = torch.Generator().manual_seed(4)
        function(lambda x: points.append(x.detach()) or x.cos(), 0.4, -0.2, 6, generator)
    assert all(torch.equal(one, other) for one, other in pairwise(points))


def test_each_law_of_a_batch_has_its_own_points():
    made = pathwise(torch.sin, torch.zeros(2), 0.0, 5)
    assert (made[:, 0] != made[:, 1]).all()


def test_one_baseline_for_each_parameter_and_law():
    draw = lambda: torch.Generator().manual_seed(4)
    loc, b = torch.tensor([0.3, -0.8], dtype=DOUBLE), torch.tensor([[1.5, -0.7], [0.2, 2.1]])
    s = score_function(torch.ones_like, loc, -0.2, 6, draw())
    plain = score_function(torch.cos, loc, -0.2, 6, draw())
    for baseline in (b[0, 0], b[0], b, b[0, 0].item(), 2):
        made = score_function(torch.cos, loc, -0.2, 6, draw(), baseline)
        expected = plain - s * torch.as_tensor(baseline)
        torch.testing.assert_close(made, expected)


def test_a_truth_value_is_a_number():
    made = score_function(lambda x: x > 0.2, 0.3, -0.2, 50)
    assert made.dtype == torch.float32
    assert (made == 0).any()
    assert not (made == 0).all()


@pytest.mark.parametrize("gradients", ESTIMATORS)
def test_gradients_are_constants_also_where_autograd_is_off(gradients):
    loc = torch.tensor(0.3, requires_grad=True)
    with torch.no_grad():
        off = gradients(torch.cos, loc, -0.2, 3, torch.Generator().manual_seed(4))
    on = gradients(torch.cos, loc, -0.2, 3, torch.Generator().manual_seed(4))
    assert torch.equal(off, on)
    assert not on.requires_grad


def test_a_baseline_can_be_learned():
    b = torch.tensor([0.4, 0.1], requires_grad=True)
    made = score_function(torch.cos, 0.3, -0.2, 9, torch.Generator().manual_seed(4), b)
    s = score_function(torch.ones_like, 0.3, -0.2, 9, torch.Generator().manual_seed(4))
    (slope,) = torch.autograd.grad(made.square().sum(), b)
    torch.testing.assert_close(slope, -2 * (made * s).sum(0).detach())


def test_what_f_depends_on_can_be_learned():
    weight = torch.tensor(1.3, requires_grad=True)
    made = score_function(lambda x: weight * x, 0.3, -0.2, 4)
    (slope,) = torch.autograd.grad(made.sum(), weight)
    torch.testing.assert_close(slope, made.detach().sum() / 1.3)
    assert not pathwise(lambda x: (weight * x).sin(), 0.3, -0.2, 4).requires_grad
    assert weight.grad is None


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("function", [*ESTIMATORS, optimal_baseline])
def test_bad_arguments_raise(function):
    for samples in (0, -3):
        words = f"samples must be at least 1, got {samples}"
        with pytest.raises(ValueError, match=words):
            function(torch.cos, 0.3, -0.2, samples)
    words = "f must return one value for each point, shape (4, 3), got "
    for f, shape in ((lambda x: x.cos().sum(-1), "(4,)"), (lambda x: x.mean(), "()")):
        with pytest.raises(ValueError, match=re.escape(words + shape)):
            function(f, torch.zeros(3), -0.2, 4)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("gradients", [pathwise, path_gradient])
def test_values_without_a_gradient_raise(gradients):
    for f in (lambda x: (x > 0).to(x), lambda x: x.detach().cos(), torch.ones_like):
        with pytest.raises(ValueError, match="f must be differentiable by autograd, got values"):
            gradients(f, 0.3, -0.2, 4)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("shape", [(4,), (1,), (4, 2), (2, 1)])
def test_a_baseline_for_each_point_is_refused(shape):
    words = f"baseline must be a number, or two for each law, got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(words)):
        score_function(torch.cos, 0.3, -0.2, 4, baseline=torch.zeros(shape))
