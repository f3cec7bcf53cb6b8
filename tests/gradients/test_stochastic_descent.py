import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from mpmath.ctx_iv import MPIntervalContext

from genref._site.claims import mutant
from genref.gradients.estimators import pathwise, score_function
from genref.gradients.stochastic_descent import (
    best_baseline,
    gradient,
    hessian,
    integrand,
    mean,
    objective,
    pathwise_covariance,
    score_covariance,
    stationary_points,
    stochastic_gradient,
)

DOUBLE = torch.float64
PI = math.pi
NODES, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(140))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def laws(generator, number):
    """Random means from -6 to 6, random deviations from 0.05 to 3."""
    mu, sigma = torch.rand(2, number, generator=generator, dtype=DOUBLE)
    return 12 * mu - 6, 0.05 + 2.95 * sigma


def x_sin_x(x):
    return x * x.sin()


def quadrature(mu, sigma, order=0):
    """The mean of x sin x under normal laws, differentiated by the mean some times."""
    mu = mu.clone().requires_grad_()
    total = x_sin_x(mu[:, None] + sigma[:, None] * NODES) @ WEIGHTS
    for _ in range(order):
        (total,) = torch.autograd.grad(total.sum(), mu, create_graph=True)
    return total.detach()


def loss(mu, sigma):
    return quadrature(mu, sigma) + (mu - 1) ** 2 / 2 + sigma - sigma.log()


def slopes(mu, tau):
    """The derivatives of the loss by the mean and by the log-deviation."""
    mu, tau = (x.clone().requires_grad_() for x in (mu, tau))
    noise = x_sin_x(mu[:, None] + tau.exp()[:, None] * NODES) @ WEIGHTS
    total = noise + (mu - 1) ** 2 / 2 + tau.exp() - tau
    return torch.stack(torch.autograd.grad(total.sum(), (mu, tau)), -1)


@pytest.mark.claim("p6-closed-form", answers=["D6a", "D6b"])
def test_closed_form(evidence, smooth=mean, value=objective, slope=gradient):
    mu, sigma = laws(evidence.generator, 30)
    rule = "Gauss-Hermite quadrature with 140 nodes"
    for k in range(6):
        expected = quadrature(mu, sigma, k)
        known = f"{rule}, differentiated by the mean with autograd"
        evidence.numeric(smooth(mu, sigma, k), expected, bound=1e-11, oracle=known)
    evidence.numeric(value(mu, sigma), loss(mu, sigma), bound=1e-12, oracle=rule)
    evidence.numeric(
        slope(mu, sigma),
        slopes(mu, sigma.log()),
        bound=1e-11,
        oracle=f"{rule}, differentiated by mean and log-deviation with autograd",
    )


def altered(f):
    """The objective with another function in place of the mean of x sin x."""
    return lambda mu, sigma: objective(mu, sigma) - mean(mu, sigma) + f(mu, sigma)


mutant(test_closed_form, "the Stein term is missing: independent x and sin x", of="value")(
    altered(lambda mu, sigma: (-(sigma**2) / 2).exp() * mu * mu.sin())
)
mutant(test_closed_form, "the Stein term has the wrong sign", of="value")(
    altered(lambda mu, sigma: (-(sigma**2) / 2).exp() * (mu * mu.sin() - sigma**2 * mu.cos()))
)
mutant(test_closed_form, "the characteristic function decays with the whole variance", of="value")(
    altered(lambda mu, sigma: (-(sigma**2)).exp() * (mu * mu.sin() + sigma**2 * mu.cos()))
)
mutant(test_closed_form, "sigma is taken for the variance", of="value")(
    altered(lambda mu, sigma: mean(mu, sigma.sqrt())),
)


@mutant(test_closed_form, "the term of the order is forgotten", of="smooth")
def undiminished(mu, sigma, k):
    turned = mu + k * PI / 2
    return (-(sigma**2) / 2).exp() * (mu * turned.sin() + sigma**2 * turned.cos())


@mutant(test_closed_form, "the chain factor sigma is missing", of="slope")
def by_sigma(mu, sigma):
    return gradient(mu, sigma) / torch.stack([torch.ones_like(mu), sigma], -1)


@mutant(test_closed_form, "the curvature is not multiplied by the variance", of="slope")
def flat(mu, sigma):
    last = sigma * mean(mu, sigma, 2) + sigma - 1
    return torch.stack([gradient(mu, sigma)[..., 0], last], -1)


iv = MPIntervalContext()
iv.dps = 25


def field(m, s):
    """Enclosures of the derivatives of the objective by the mean and by the log-deviation."""
    v = s * s
    decay = iv.exp(-v / 2)
    a, b = decay * iv.cos(m), decay * iv.sin(m)
    return (1 - v) * b + m * (1 + a) - 1, v * ((2 - v) * a - m * b) + s - 1


def jacobian(m, s):
    """Enclosures of the derivatives of the field by the mean and by the deviation."""
    v = s * s
    decay = iv.exp(-v / 2)
    a, b = decay * iv.cos(m), decay * iv.sin(m)
    second, third, fourth = (2 - v) * a - m * b, (v - 3) * b - m * a, (v - 4) * a + m * b
    return (second + 1, s * third), (v * third, v * s * fourth + 2 * s * second + 1)


def around(centre, radius):
    return [iv.mpf([x - radius, x + radius]) for x in centre]


def krawczyk(centre, square):
    """The image of a square under Krawczyk's operator; inside the square, there is one zero."""
    (p, q), (r, t) = ([x.mid for x in row] for row in jacobian(*centre))
    scale = (1 / (p * t - q * r)).mid
    inverse = [[scale * t, -scale * q], [-scale * r, scale * p]]
    value, slope = field(*centre), jacobian(*square)
    image = []
    for i, row in enumerate(inverse):
        ahead = sum(row[k] * value[k] for k in (0, 1))
        rest = [(i == j) - sum(row[k] * slope[k][j] for k in (0, 1)) for j in (0, 1)]
        image.append(centre[i] - ahead + sum(rest[j] * (square[j] - centre[j]) for j in (0, 1)))
    return image


def contained(inner, outer):
    return all(o.a < i.a and i.b < o.b for i, o in zip(inner, outer, strict=True))


@cache
def proved():
    """All stationary points with 0 < mu < 116, 1/12 < sigma < 3: value, point, kind, by value."""
    centres = [newton(1.4, 2.0), newton(0.44, 0.6), newton(0.86, 1.17)]
    squares = [around([x.mid for x in centre], 0.03) for centre in centres]
    for centre, square in zip(centres, squares, strict=True):
        assert contained(krawczyk(centre, square), square), "one zero in the square"
    for one, other in ((0, 1), (0, 2), (1, 2)):
        pairs = zip(squares[one], squares[other], strict=True)
        assert any(x.b < y.a or y.b < x.a for x, y in pairs), "the squares have no point in common"
    boxes = [(iv.mpf([0, 116]), iv.mpf([iv.mpf(1) / 12, 3]))]
    while boxes:
        m, s = boxes.pop()
        if any(0 not in g for g in field(m, s)) or any(m in x and s in y for x, y in squares):
            continue
        assert max(m.delta, s.delta) > 1e-4, "undecided"
        wide = m.delta > s.delta
        low, high = halves(m if wide else s)
        boxes += [(low, s), (high, s)] if wide else [(m, low), (m, high)]
    return sorted(map(described, centres))


def halves(x):
    return iv.mpf([x.a, x.mid]), iv.mpf([x.mid, x.b])


def newton(*start):
    centre = [iv.mpf(x) for x in start]
    for _ in range(6):
        centre = [x.mid for x in krawczyk(centre, centre)]
    return centre


def described(centre):
    """The value at a zero, the zero, and its kind from the signs of determinant and trace."""
    square = around([x.mid for x in centre], 1e-9)
    m, s = image = krawczyk(centre, square)
    assert contained(image, square)
    (p, q), (r, t) = jacobian(m, s)
    determinant = p * t - q * r
    assert 0 not in determinant
    assert 0 not in p
    kind = "saddle" if determinant < 0 else "minimum" if p > 0 else "maximum"
    v = s * s
    value = iv.exp(-v / 2) * (m * iv.sin(m) + v * iv.cos(m)) + (m - 1) ** 2 / 2 + s - iv.log(s)
    return tuple(float(x.mid) for x in (value, m, s)), kind


@pytest.mark.claim("p6-minimum", answers=["D6a", "D6b"])
def test_three_stationary_points(evidence, points=stationary_points, curvature=hessian):
    found = points()
    searched = "branch and bound and Krawczyk's test in the intervals of mpmath"
    certified = torch.tensor([numbers for numbers, _ in proved()], dtype=DOUBLE)
    evidence.exact(len(found), len(certified), oracle=searched)
    evidence.numeric(found, certified[:, 1:], bound=1e-12, oracle=searched)
    values = objective(*found.T)
    evidence.numeric(values, certified[:, 0], bound=1e-12, oracle=searched)
    evidence.exact(
        [" ".join(f"{x:.9f}" for x in row) for row in torch.column_stack([values, found]).tolist()],
        [
            "1.664400756 1.366699295 1.962198228",
            "1.696168236 0.442297488 0.606495025",
            "1.801987579 0.862957672 1.174332018",
        ],
        oracle="the decimals that the claim states",
    )
    descents = (torch.linalg.eigvalsh(curvature(*found.T)) < 0).sum(-1)
    names = {"minimum": 0, "saddle": 1, "maximum": 2}
    evidence.exact(
        descents.tolist(),
        [names[kind] for _, kind in proved()],
        oracle="the signs of the interval Jacobian",
    )


@mutant(test_three_stationary_points, "the local minimum is taken for the global one", of="points")
def local_first():
    return stationary_points()[[1, 0, 2]]


@mutant(test_three_stationary_points, "a fourth point, of a nearly zero gradient", of="points")
def near_miss():
    return torch.cat([stationary_points(), torch.tensor([[3.7685, 0.6509]], dtype=DOUBLE)])


@mutant(test_three_stationary_points, "the run that was made found the only minimum", of="points")
def only_one():
    return stationary_points()[1:2]


@mutant(test_three_stationary_points, "the logarithm of the deviation is reported", of="points")
def unexponentiated():
    return torch.stack([stationary_points()[:, 0], stationary_points()[:, 1].log()], -1).abs()


@mutant(test_three_stationary_points, "the Stein term is missing", of="points")
def without_stein():
    """Newton's iteration from the right points, on the objective without sigma^2 cos(mu)."""

    def wrong(theta):
        mu, tau = theta
        decay = (-(2 * tau).exp() / 2).exp()
        return decay * mu * mu.sin() + (mu - 1) ** 2 / 2 + tau.exp() - tau

    ends = []
    for mu, sigma in stationary_points():
        theta = torch.stack([mu, sigma.log()])
        for _ in range(20):
            slope = torch.autograd.functional.jacobian(wrong, theta)
            curvature = torch.autograd.functional.hessian(wrong, theta)
            theta = theta - torch.linalg.solve(curvature, slope)
        ends.append(torch.stack([theta[0], theta[1].exp()]))
    return torch.stack(ends)


@mutant(test_three_stationary_points, "the curvature of the integrand is left out", of="curvature")
def bowl(mu, sigma):
    return torch.diag_embed(torch.stack([torch.ones_like(mu), sigma], -1))


SEVEN = torch.tensor(
    [[0, 1], [1, 1], [1.366699295171468, 1.962198228142198], [3, 0.3], [-3, 2], [1, 0.1], [5, 1]],
    dtype=DOUBLE,
)
LOCAL = torch.tensor([[0.442297488320822, 0.606495024931581]], dtype=DOUBLE)


def noisy(mu, sigma):
    """Both estimators and the score at the nodes, in the shape (law, component, node)."""
    mu, sigma = mu[:, None], sigma[:, None]
    x, epsilon = mu + sigma * NODES, NODES.expand(len(mu), -1)
    slope = x.sin() + x * x.cos()
    score = torch.stack([epsilon / sigma, epsilon**2 - 1], 1)
    return (x * x.sin())[:, None] * score, torch.stack([slope, slope * sigma * epsilon], 1), score


def covariance(values):
    centred = values - (values * WEIGHTS).sum(-1, keepdim=True)
    return torch.einsum("lin,ljn,n->lij", centred, centred, WEIGHTS)


def least(values, score):
    """The baselines that minimise a parabola known from three of its values."""
    up, level, down = (covariance(values - b * score).diagonal(0, 1, 2) for b in (1, 0, -1))
    return (down - up) / (2 * (up + down - 2 * level))


@pytest.mark.claim("p6-estimators", answers=["D6a", "D6b"])
def test_variances(
    evidence,
    score=score_covariance,
    path=pathwise_covariance,
    baseline=best_baseline,
    sampled_score=score_function,
    sampled_path=pathwise,
):
    rule = "Gauss-Hermite quadrature with 140 nodes"
    random = torch.stack(laws(evidence.generator, 20), -1)
    mu, sigma = torch.cat([SEVEN, LOCAL, random[random[:, 1] > 0.2]]).T
    by_score, by_path, direction = noisy(mu, sigma)
    evidence.numeric(score(mu, sigma), covariance(by_score), bound=1e-9, oracle=rule)
    evidence.numeric(path(mu, sigma), covariance(by_path), bound=1e-9, oracle=rule)
    best = least(by_score, direction)
    evidence.numeric(baseline(mu, sigma), best, bound=1e-9, oracle=rule)
    fixed = covariance(by_score - best[..., None] * direction)
    evidence.numeric(score(mu, sigma, baseline(mu, sigma)), fixed, bound=1e-9, oracle=rule)

    variances = [f(*SEVEN[2]).diagonal().tolist() for f in (score, path)]
    evidence.exact(
        [f"{x:.6f}" for pair in variances for x in pair],
        ["1.631253", "19.630268", "3.231069", "26.615795"],
        oracle="the decimals that the claim states",
    )
    by_score, by_path, _ = noisy(*torch.cat([SEVEN[2:3], LOCAL]).T)
    better, worse = covariance(by_path)[0].diagonal(), covariance(by_score)[1].diagonal()
    evidence.ordered(score(*SEVEN[2]).diagonal(), better, bound=0, oracle=rule)
    evidence.ordered(path(*LOCAL[0]).diagonal(), worse, bound=0, oracle=rule)

    for m in (-2.3, 0.7, 4.1):
        level, tilt = m * math.sin(m), math.sin(m) + m * math.cos(m)
        bend, narrow, wide = 2 * math.cos(m) - m * math.sin(m), 1e-3, 1e3
        evidence.numeric(
            [*score(m, narrow).diagonal(), *path(m, narrow).diagonal()],
            [(level / narrow) ** 2, 2 * level**2, (bend * narrow) ** 2, (tilt * narrow) ** 2],
            relative=True,
            bound=1e-3,
            oracle="the Taylor polynomial of the integrand at the mean",
        )
        evidence.numeric(
            [*score(m, wide).diagonal(), *path(m, wide).diagonal()],
            [3 / 2, 5 * wide**2, wide**2 / 2, 3 * wide**4 / 2],
            relative=True,
            bound=1e-3,
            oracle="the means of sin^2 and cos^2 are 1/2, and of the mixed terms 0",
        )

    for law in (SEVEN[1], SEVEN[2], SEVEN[4]):
        place = (law[0], law[1].log(), 1_000_000, evidence.generator)
        drawn = torch.stack([sampled_score(x_sin_x, *place), sampled_path(x_sin_x, *place)])
        exact = torch.cat(noisy(*law[:, None])[:2])
        for which, component in product((0, 1), (0, 1)):
            centre = exact[which, component] @ WEIGHTS
            sample = drawn[which, :, component]
            evidence.statistical(sample, centre, detects=0.1, oracle=rule)
            spread = (exact[which, component] - centre) ** 2 @ WEIGHTS
            evidence.statistical((sample - centre) ** 2, spread, detects=2.0, oracle=rule)


@mutant(test_variances, "the second moment: the squared mean is not subtracted", of="score")
def uncentred(mu, sigma, baseline=0.0):
    slope = gradient(mu, sigma) - torch.stack(
        torch.broadcast_tensors(torch.as_tensor(mu) - 1, torch.as_tensor(sigma) - 1), -1
    )
    return score_covariance(mu, sigma, baseline) + slope[..., None] * slope[..., None, :]


@mutant(test_variances, "pathwise differentiation always has the smaller variance", of="score")
def never_better(mu, sigma, baseline=0.0):
    both = torch.stack([score_covariance(mu, sigma, baseline), pathwise_covariance(mu, sigma)])
    return both.max(0).values


@mutant(test_variances, "the variance of the gradient by sigma, not by its logarithm", of="path")
def unchained(mu, sigma):
    scale = torch.stack([torch.ones_like(torch.as_tensor(sigma)), torch.as_tensor(sigma)], -1)
    return pathwise_covariance(mu, sigma) / (scale[..., None] * scale[..., None, :])


@mutant(test_variances, "both components have one variance", of="path")
def first_only(mu, sigma):
    first = pathwise_covariance(mu, sigma)[..., 0, 0]
    return first[..., None, None].expand(*first.shape, 2, 2)


@mutant(test_variances, "the mean of the integrand is the best baseline", of="baseline")
def average(mu, sigma):
    return mean(mu, sigma)[..., None].expand(*mu.shape, 2)


@mutant(test_variances, "epsilon^2 in place of epsilon^2 - 1", of="sampled_score")
def squared(f, loc, log_scale, samples, generator=None):
    sigma = log_scale.exp()
    epsilon = torch.randn(samples, *loc.shape, generator=generator, dtype=loc.dtype)
    return torch.stack([epsilon / sigma, epsilon**2], -1) * f(loc + sigma * epsilon)[..., None]


@mutant(test_variances, "the path does not stretch with sigma", of="sampled_path")
def unstretched(f, loc, log_scale, samples, generator=None):
    draws = pathwise(f, loc, log_scale, samples, generator)
    return draws / torch.stack([torch.ones_like(loc), log_scale.exp()], -1)


CORNER = torch.tensor([2 * PI, math.log(4)], dtype=DOUBLE)


def ends(estimate, estimator, generator, runs=160, steps=2000):
    """Where projected runs end that start at (0, 0) and at (3, 0), in mu and tau."""
    theta = torch.tensor([[0, 0], [3, 0]], dtype=DOUBLE)[:, None].repeat(1, runs, 1)
    for k in range(steps):
        noise = estimate(*theta.unbind(-1), 16, generator, estimator)
        theta = (theta - 0.05 / (1 + k / 200) * noise).clamp(-CORNER, CORNER)
    return theta


@pytest.fixture
def one_thread():
    """Threads that share small tensors spend their time waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.claim("p6-sgd", answers=["D6a", "D6b"])
def test_descent(evidence, estimate=stochastic_gradient, slope=gradient):
    minima = [[m, math.log(s)] for (_, m, s), kind in proved() if kind == "minimum"]
    minima = torch.tensor(minima, dtype=DOUBLE).flip(0)
    for estimator in (score_function, pathwise):
        evidence.numeric(
            ends(estimate, estimator, evidence.generator).median(1).values,
            minima,
            bound=0.025,
            oracle="the minima that branch and bound finds",
        )

    for estimator in (score_function, pathwise):
        for place in ([0.7, -0.4], [1.4, 0.6], [-2.2, 0.3]):
            mu, tau = torch.tensor(place, dtype=DOUBLE).expand(200_000, 2).unbind(-1)
            drawn = estimate(mu, tau, 3, evidence.generator, estimator)
            for component in (0, 1):
                evidence.statistical(
                    drawn[:, component],
                    slopes(mu[:1], tau[:1])[0, component],
                    detects=0.1,
                    oracle="Gauss-Hermite quadrature with 140 nodes, differentiated",
                )

    sigma = torch.linspace(0.25, 4, 301, dtype=DOUBLE)
    for side in (-2 * PI, 2 * PI):
        outward = slope(torch.full_like(sigma, side), sigma)[:, 0] * math.copysign(1, side)
        evidence.ordered(-outward, 1 - 2 * PI, bound=0, oracle="the bounds of the derivation")
    mu = torch.linspace(-2 * PI, 2 * PI, 301, dtype=DOUBLE)
    evidence.ordered(-slope(mu, 4.0)[:, 1], -2.8, bound=0, oracle="the bounds of the derivation")
    evidence.ordered(slope(mu, 0.25)[:, 1], -0.2, bound=0, oracle="the bounds of the derivation")


def biased(estimate, score=None, path=None):
    """A stochastic gradient with one estimator replaced by a wrong one."""
    wrong = {score_function: score, pathwise: path}

    def drawn(mu, tau, samples, generator, estimator):
        return estimate(mu, tau, samples, generator, wrong[estimator] or estimator)

    return drawn


mutant(test_descent, "epsilon^2 in place of epsilon^2 - 1", of="estimate")(
    biased(stochastic_gradient, score=squared),
)
mutant(test_descent, "the path does not stretch with sigma", of="estimate")(
    biased(stochastic_gradient, path=unstretched)
)


@mutant(test_descent, "the gradient by sigma moves its logarithm", of="estimate")
def unchained_step(mu, tau, samples, generator, estimator):
    drawn = stochastic_gradient(mu, tau, samples, generator, estimator)
    return drawn / torch.stack([torch.ones_like(mu), tau.exp()], -1)


@mutant(test_descent, "the penalty is left to the noise", of="estimate")
def without_penalty(mu, tau, samples, generator, estimator):
    return estimator(integrand, mu, tau, samples, generator).mean(0)


@mutant(test_descent, "uphill", of="estimate")
def uphill(mu, tau, samples, generator, estimator):
    return -stochastic_gradient(mu, tau, samples, generator, estimator)


@mutant(test_descent, "the logarithm has no barrier", of="slope")
def without_barrier(mu, sigma):
    return gradient(mu, sigma) + torch.tensor([0.0, 1.0], dtype=DOUBLE)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("sigma", [0.0, -0.7, math.nan])
def test_a_deviation_that_is_not_positive_raises(sigma):
    functions = [mean, objective, gradient, hessian]
    functions += [score_covariance, best_baseline, pathwise_covariance]
    for function in functions:
        with pytest.raises(ValueError, match=f"sigma must be positive, got {sigma}"):
            function(0.3, sigma)


@pytest.mark.usefixtures("untyped")
def test_a_negative_order_raises():
    with pytest.raises(ValueError, match="order must be a whole number, at least 0, got -1"):
        mean(0.3, 0.7, -1)


def test_the_intervals_enclose_the_quadrature():
    mu, sigma = laws(torch.Generator().manual_seed(4), 50)
    exact = slopes(mu, sigma.log())
    for place, slope in zip(torch.stack([mu, sigma], -1).tolist(), exact.tolist(), strict=True):
        for enclosure, value in zip(field(*map(iv.mpf, place)), slope, strict=True):
            assert enclosure.delta < 1e-20
            assert abs(enclosure.mid - value) < 1e-11
        wide = around(place, 0.01)
        for enclosure, value in zip(field(*wide), slope, strict=True):
            assert value in enclosure


def test_nothing_is_stationary_outside_the_box_that_was_searched():
    generator = torch.Generator().manual_seed(5)
    far, narrow, above, low = torch.rand(4, 20_000, generator=generator, dtype=DOUBLE)
    anywhere = (12 * narrow - 9).exp()
    for mu, sigma in (
        (-300 * far, anywhere),
        (116 + 300 * far, anywhere),
        (116 * far, 3 + 20 * above),
        (116 * far, low / 12),
    ):
        assert gradient(mu, sigma).abs().max(-1).values.min() > 0.05


def test_the_exact_gradient_leads_to_the_minimum_of_its_basin():
    starts = [[-2, 0], [0, 0], [1, 0], [1, 0.1], [3, 0], [6, 0]]
    theta = torch.tensor(starts, dtype=DOUBLE)
    for _ in range(3000):
        theta = theta - 0.02 * gradient(theta[:, 0], theta[:, 1].exp())
    ends = torch.stack([theta[:, 0], theta[:, 1].exp()], 1)
    torch.testing.assert_close(ends, torch.cat([LOCAL.repeat(3, 1), SEVEN[2].repeat(3, 1)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_dtype_and_shape(dtype):
    mu = torch.tensor([[-2.0], [0.7], [1.4]], dtype=dtype)
    sigma = torch.tensor([0.4, 1.9], dtype=dtype)
    tail = {objective: (), mean: (), gradient: (2,), best_baseline: (2,), hessian: (2, 2)}
    tail |= {score_covariance: (2, 2), pathwise_covariance: (2, 2)}
    for function, shape in tail.items():
        both = function(mu, sigma)
        assert both.dtype == dtype
        assert both.shape == (3, 2, *shape)
        one = function(mu.double()[1, 0], sigma.double()[1])
        torch.testing.assert_close(both[1, 1].double(), one, rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(1)
    drawn = stochastic_gradient(mu, sigma.log(), 4, generator, score_function)
    assert drawn.dtype == dtype
    assert drawn.shape == (3, 2, 2)
    assert stationary_points(dtype).dtype == dtype


def test_numbers_count_as_doubles():
    assert objective(1.4, 1.9).dtype == DOUBLE
    assert objective(1.4, torch.tensor(1.9)).dtype == torch.float32
    drawn = stochastic_gradient(1, 0, 3, torch.Generator().manual_seed(1))
    assert (drawn.dtype, drawn.shape) == (DOUBLE, (2,))


@pytest.mark.usefixtures("untyped")
def test_integer_tensors_are_not_cut_off():
    mu, sigma = torch.tensor(1), torch.tensor(2)
    for function in (objective, gradient, hessian, best_baseline, pathwise_covariance):
        torch.testing.assert_close(function(mu, sigma), function(1.0, 2.0).float())
    drawn = score_covariance(mu, sigma, 0.5)
    torch.testing.assert_close(drawn, score_covariance(1.0, 2.0, 0.5).float())


def test_small_variances_keep_their_digits_in_single_precision():
    mu, sigma = torch.tensor(1.0), torch.tensor(1e-3)
    exact = mu.double(), sigma.double()
    close = lambda found, known: torch.testing.assert_close(found, known.float(), rtol=1e-5, atol=0)
    close(pathwise_covariance(mu, sigma), pathwise_covariance(*exact))
    for at in ((mu, sigma), exact):
        found = score_covariance(*at, best_baseline(*exact)).diagonal()
        close(found.float(), score_covariance(*exact, best_baseline(*exact)).diagonal())


def test_gradients_flow():
    mu, tau = (x.requires_grad_() for x in torch.tensor([[0.3, 1.7], [-0.4, 0.6]], dtype=DOUBLE))
    drawn = torch.autograd.grad(objective(mu, tau.exp()).sum(), (mu, tau), create_graph=True)
    torch.testing.assert_close(torch.stack(drawn, -1), gradient(mu, tau.exp()))
    rows = [torch.autograd.grad(x.sum(), (mu, tau), retain_graph=True) for x in drawn]
    matrix = torch.stack([torch.stack(row, -1) for row in rows], -2)
    torch.testing.assert_close(matrix, hessian(mu, tau.exp()))
    for function in (score_covariance, pathwise_covariance, best_baseline):
        for slope in torch.autograd.grad(function(mu, tau.exp()).sum(), (mu, tau)):
            assert (slope != 0).all()


def test_a_baseline_may_be_a_number_or_one_for_each_parameter():
    mu, sigma = torch.tensor([[0.3, 1.7, -2.0], [0.4, 1.6, 0.9]], dtype=DOUBLE)
    pair = torch.tensor([0.3, -0.8], dtype=DOUBLE)
    by_number = [score_covariance(mu, sigma, b.item()) for b in pair]
    both = score_covariance(mu, sigma, pair)
    torch.testing.assert_close(both[:, 0, 0], by_number[0][:, 0, 0])
    torch.testing.assert_close(both[:, 1, 1], by_number[1][:, 1, 1])
    torch.testing.assert_close(both, score_covariance(mu, sigma, pair.expand(3, 2)))
    with pytest.raises(RuntimeError, match="expand"):
        score_covariance(0.3, 0.4, torch.ones(3))


def test_the_stochastic_gradient_is_a_constant():
    mu, tau = torch.tensor([0.3, -0.4], requires_grad=True)
    assert not stochastic_gradient(mu, tau, 3, torch.Generator().manual_seed(1)).requires_grad


def test_the_best_baseline_of_a_narrow_law_is_the_integrand_at_its_mean():
    for dtype, sigma in ((torch.float32, 1e-25), (DOUBLE, 1e-200)):
        mu = torch.tensor(1.7, dtype=dtype)
        found = best_baseline(mu, torch.tensor(sigma, dtype=dtype))
        torch.testing.assert_close(found, x_sin_x(mu).expand(2))


def test_the_stochastic_gradient_is_the_mean_of_the_estimator_and_the_exact_rest():
    mu, tau = torch.tensor([0.3, -1.2]), torch.tensor([-0.4, 0.5])
    for estimator in (score_function, pathwise):
        one, other = (torch.Generator().manual_seed(3) for _ in range(2))
        noise = estimator(x_sin_x, mu, tau, 5, one).mean(0)
        drawn = stochastic_gradient(mu, tau, 5, other, estimator)
        torch.testing.assert_close(drawn, noise + torch.stack([mu - 1, tau.exp() - 1], -1))
