import math
from itertools import product

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize, minimize_scalar
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, rel_entr
from scipy.stats import norm

from genref._site.claims import mutant
from genref.adversarial.discriminator import (
    accept,
    density_ratio,
    jensen_shannon,
    jensen_shannon_estimate,
    log_density_ratio,
    optimum,
    second_variation,
    shortfall,
    value,
)

DOUBLE = torch.float64
NORMAL_0, NORMAL_1 = norm(0, 1), norm(1.5, 0.7)


def laws(generator, *shape):
    """Random laws along the last dimension, from nearly uniform to rather certain."""
    noise = torch.randn(*shape, generator=generator, dtype=DOUBLE)
    return (2 * torch.rand(*shape[:-1], 1, generator=generator, dtype=DOUBLE) * noise).softmax(-1)


def uniform(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=DOUBLE)


def with_zeros(generator, *shape):
    """Random laws with points that one of them, the other, or both leave out."""
    p = laws(generator, 2, *shape)
    p[0, ..., 0] = p[1, ..., 1] = p[:, ..., 2] = 0
    return p / p.sum(-1, keepdim=True)


def integral(f_1, f_0, d):
    """V of a table with loops and the convention of zeros."""
    terms = [a * math.log(c) for a, c in zip(f_1.tolist(), d.tolist(), strict=True) if a]
    terms += [b * math.log(1 - c) for b, c in zip(f_0.tolist(), d.tolist(), strict=True) if b]
    return math.fsum(terms)


@pytest.mark.claim("gan-optimal-D", answers=["C4.1"])
def test_optimum(evidence, best=optimum, curvature=second_variation):
    g = evidence.generator
    f_1, f_0 = laws(g, 2, 5)
    d = best(f_1.log(), f_0.log())

    def loss(u):
        return -integral(f_1, f_0, torch.tensor(expit(u)))

    searched = minimize(loss, [0.0] * 5, method="BFGS", options={"gtol": 1e-8})
    evidence.numeric(d, expit(searched.x), bound=1e-4, oracle="BFGS on the logits")
    for k, (a, b) in enumerate(zip(f_1.tolist(), f_0.tolist(), strict=True)):
        point = minimize_scalar(
            lambda c, a=a, b=b: -a * math.log(c) - b * math.log1p(-c),
            bounds=(1e-9, 1 - 1e-9),
            method="bounded",
            options={"xatol": 1e-12},
        )
        evidence.numeric(d[k], point.x, bound=1e-5, oracle="the maximum of one integrand, searched")

    f_1, f_0 = with_zeros(g, 7)
    d = best(f_1.log(), f_0.log())
    evidence.exact(
        d[:2],
        torch.tensor([0.0, 1.0], dtype=DOUBLE),
        oracle="one law has no mass there",
    )
    most = 2 * jensenshannon(f_1, f_0) ** 2 - 2 * math.log(2)
    scipy = "the divergence by scipy, doubled, less log 4"
    inside = d.clamp(1e-9, 1 - 1e-9)
    evidence.numeric(integral(f_1, f_0, d), most, bound=1e-12, oracle=scipy)
    evidence.numeric(integral(f_1, f_0, inside), most, bound=1e-7, oracle=scipy)
    for other in uniform(g, 40, 7):
        evidence.ordered(integral(f_1, f_0, other), most, bound=1e-12, oracle=scipy)

    x = torch.randn(30, 3, generator=g, dtype=DOUBLE)
    log_f_1 = torch.tensor(norm.logpdf(x, 0.4, 1.3).sum(-1))
    log_f_0 = torch.tensor(norm.logpdf(x, -0.2, 0.8).sum(-1))
    f_1, f_0 = log_f_1.exp(), log_f_0.exp()
    evidence.numeric(
        best(log_f_1, log_f_0),
        f_1 / (f_1 + f_0),
        bound=1e-14,
        oracle="densities in three dimensions, by scipy",
    )
    for _ in range(3):
        f_1, f_0 = laws(g, 2, 6)
        d, h = 0.05 + 0.9 * uniform(g, 6), torch.randn(6, generator=g, dtype=DOUBLE)

        def along(t, f_1=f_1, f_0=f_0, d=d, h=h):
            return (f_1 * (d + t * h).log() + f_0 * (1 - d - t * h).log()).sum()

        evidence.numeric(
            curvature(f_1, f_0, d, h),
            torch.autograd.functional.hessian(along, torch.tensor(0.0, dtype=DOUBLE)),
            bound=1e-10,
            oracle="two automatic derivatives along the direction",
            relative=True,
        )


@mutant(test_optimum, "the classes exchanged", of="best")
def exchanged(log_f_1, log_f_0):
    return optimum(log_f_0, log_f_1)


@mutant(test_optimum, "the ratio of the densities", of="best")
def unbounded(log_f_1, log_f_0):
    return (log_f_1 - log_f_0).exp().clamp(1e-9, 1 - 1e-9).nan_to_num(0.5)


@mutant(test_optimum, "the logarithm of D for both classes, as the solution writes", of="best")
def both_logs(log_f_1, log_f_0):
    return torch.full_like(log_f_1, 1 - 1e-9)


@mutant(test_optimum, "a minimum: the sign of the second class kept", of="curvature")
def difference_of_squares(f_1, f_0, d, h):
    return ((f_0 / (1 - d) ** 2 - f_1 / d**2) * h**2).sum(-1)


@mutant(test_optimum, "the second derivative at the optimum, used everywhere", of="curvature")
def at_the_optimum(f_1, f_0, d, h):
    return -((f_1 + f_0) ** 3 / (f_1 * f_0) * h**2).sum(-1)


@pytest.mark.claim("gan-jsd", answers=["C4.1"])
def test_jensen_shannon(evidence, divergence=jensen_shannon, missing=shortfall):
    g = evidence.generator
    for points, n in ((4, 30), (7, 60)):
        counts = torch.stack([law.multinomial(n, True, generator=g) for law in laws(g, 2, points)])
        counts = torch.stack([row.bincount(minlength=points) for row in counts])
        p_1, p_0 = counts.to(DOUBLE) / n
        x_1, x_0 = (torch.arange(points).repeat_interleave(row) for row in counts)
        exact = jensenshannon(p_1, p_0) ** 2
        best = (p_1 / (p_1 + p_0)).nan_to_num(0.4)
        evidence.numeric(
            divergence(best[x_1].log(), (1 - best[x_0]).log()),
            exact,
            bound=1e-12,
            oracle="scipy's distance, squared, of tables whose samples are all listed",
        )
        for d in uniform(g, 5, points):
            lost = math.fsum(
                rel_entr(a, m * c) / 2 + rel_entr(b, m * (1 - c)) / 2
                for a, b, c in zip(p_1.tolist(), p_0.tolist(), d.tolist(), strict=True)
                for m in [a + b]
            )
            found = divergence(d[x_1].log(), (1 - d[x_0]).log())
            evidence.numeric(
                found,
                exact - lost,
                bound=1e-12,
                oracle="divergences of class and point by scipy",
            )
            evidence.numeric(
                ((p_1 + p_0) / 2 * missing(best, d)).sum(),
                exact - integral(p_1, p_0, d) / 2 - math.log(2),
                bound=1e-12,
                oracle="the divergence by scipy less V by loops",
            )
    outside = torch.tensor([0.3, 1.0], dtype=DOUBLE)
    evidence.exact(
        missing(outside, outside.round()),
        [math.inf, 0.0],
        oracle="mass where D has none",
    )

    def half(a, b):
        return quad(lambda x: rel_entr(a.pdf(x), (a.pdf(x) + b.pdf(x)) / 2), -12, 12, limit=400)[0]

    exact = (half(NORMAL_0, NORMAL_1) + half(NORMAL_1, NORMAL_0)) / 2
    middle = (torch.arange(400_000, dtype=DOUBLE) + 0.5) / 400_000
    x_1, x_0 = (torch.tensor(law.ppf(middle)) for law in (NORMAL_1, NORMAL_0))
    gap = [torch.tensor(NORMAL_1.logpdf(x) - NORMAL_0.logpdf(x)) for x in (x_1, x_0)]
    evidence.numeric(
        divergence(gap[0].sigmoid().log(), (-gap[1]).sigmoid().log()),
        exact,
        bound=1e-5,
        oracle="two divergences from the mean law, by quadrature",
    )
    evidence.exact(f"{exact:.9f}", "0.287768778", oracle="the decimals of the claim")


@mutant(test_jensen_shannon, "the half forgotten", of="divergence")
def no_half(log_d_1, log_d_0):
    return math.log(2) + log_d_1.mean(-1) + log_d_0.mean(-1)


@mutant(test_jensen_shannon, "log 4 for two classes", of="divergence")
def double_divergence(log_d_1, log_d_0):
    return math.log(4) + log_d_1.mean(-1) + log_d_0.mean(-1)


@mutant(test_jensen_shannon, "the loss added instead of the likelihood", of="divergence")
def loss_added(log_d_1, log_d_0):
    return math.log(2) - (log_d_1.mean(-1) + log_d_0.mean(-1)) / 2


@mutant(test_jensen_shannon, "log D for the second class too", of="divergence")
def one_logarithm(log_d_1, log_d_0):
    return math.log(2) + (log_d_1.mean(-1) + torch.log(-log_d_0.expm1()).mean(-1)) / 2


@mutant(test_jensen_shannon, "the divergence of the trained D from the best", of="missing")
def other_way_round(d_star, d):
    return shortfall(d, d_star)


@mutant(test_jensen_shannon, "the squared error", of="missing")
def squared(d_star, d):
    return 2 * (d - d_star) ** 2


@pytest.mark.claim("gan-jsd-estimate")
def test_estimate(evidence, estimated=jensen_shannon_estimate):
    g = evidence.generator
    for n_1, n_0 in ((2, 3), (4, 2)):
        p_1, p_0 = laws(g, 2, 3)
        d = uniform(g, 3)
        x_1 = torch.tensor(list(product(range(3), repeat=n_1)))
        x_0 = torch.tensor(list(product(range(3), repeat=n_0)))
        weight = p_1[x_1].prod(-1)[:, None] * p_0[x_0].prod(-1)
        mean, error = estimated(d.log()[x_1][:, None], (1 - d).log()[x_0])
        target = math.log(2) + integral(p_1, p_0, d) / 2
        evidence.numeric(
            (weight * mean).sum(),
            target,
            bound=1e-12,
            oracle="V by loops; all samples enumerated",
        )
        value_1, value_0 = d.log(), (1 - d).log()
        spread = (p_1 * value_1**2).sum() - (p_1 * value_1).sum() ** 2
        other = (p_0 * value_0**2).sum() - (p_0 * value_0).sum() ** 2
        evidence.numeric(
            (weight * error**2).sum(),
            spread / (4 * n_1) + other / (4 * n_0),
            bound=1e-12,
            oracle="the variances of log D and of log(1 - D) under their laws",
        )
        evidence.ordered(
            (weight * mean).sum(),
            jensenshannon(p_1, p_0) ** 2,
            bound=1e-12,
            oracle="the divergence by scipy",
        )


@mutant(test_estimate, "the error of the sum, not of its half")
def error_of_sum(log_d_1, log_d_0):
    made = jensen_shannon_estimate(log_d_1, log_d_0)
    return made._replace(standard_error=2 * made.standard_error)


@mutant(test_estimate, "the divisor n for the variances")
def divisor(log_d_1, log_d_0):
    parts = [x.var(-1, correction=0) / x.shape[-1] for x in (log_d_1, log_d_0)]
    return jensen_shannon(log_d_1, log_d_0), (parts[0] + parts[1]).sqrt() / 2


@mutant(test_estimate, "one variance for both classes pooled")
def pooled(log_d_1, log_d_0):
    both = torch.broadcast_tensors(log_d_1[..., None], log_d_0[..., None, :])
    spread = (both[0] + both[1]).flatten(-2).var(-1)
    return jensen_shannon(log_d_1, log_d_0), (spread / both[0][0, 0].numel()).sqrt() / 2


@mutant(test_estimate, "the mean over all points, whatever their class")
def by_point(log_d_1, log_d_0):
    n_1, n_0 = log_d_1.shape[-1], log_d_0.shape[-1]
    mean = (n_1 * log_d_1.mean(-1) + n_0 * log_d_0.mean(-1)) / (n_1 + n_0)
    return math.log(2) + mean, jensen_shannon_estimate(log_d_1, log_d_0).standard_error


@pytest.mark.claim("gan-density-ratio", answers=["C4.2"])
def test_density_ratio(evidence, ratio=density_ratio):
    g = evidence.generator
    f_1, f_0 = laws(g, 2, 20, 6)
    evidence.numeric(f_0 * ratio(f_1 / (f_1 + f_0)), f_1, bound=1e-13, oracle="the density itself")
    f_1, f_0 = with_zeros(g, 20, 7)
    made = f_0 * ratio((f_1 / (f_1 + f_0)).nan_to_num(0.3))
    made = made.where(f_0 > 0, 0)
    evidence.numeric(made, f_1.where(f_0 > 0, 0), bound=1e-13, oracle="f1 where f0 is positive")
    seen = 1 - f_1[:, 1]
    evidence.numeric(made.sum(-1), seen, bound=1e-13, oracle="p1 less the point that p0 lacks")
    narrow = f_1.where(f_0 > 0, 0) / seen[:, None]
    made = f_0 * ratio((narrow / (narrow + f_0)).nan_to_num(0.3))
    evidence.numeric(made, narrow, bound=1e-13, oracle="recovered, with a point that p0 alone has")
    for a, b in (1 - uniform(g, 30, 2) ** 3).clamp(max=0.9999).tolist():
        evidence.numeric(
            ratio(b) / ratio(a) - 1,
            math.expm1(math.log(b) - math.log1p(-b) - math.log(a) + math.log1p(-a)),
            bound=1e-10,
            oracle="the difference of two logits",
        )
        evidence.numeric(
            (b - a) / (a * (1 - b)),
            math.expm1(math.log(b) - math.log1p(-b) - math.log(a) + math.log1p(-a)),
            bound=1e-10,
            oracle="the formula of the claim against the difference of two logits",
        )
    step = 1e-7
    grown = (ratio(0.99 + step) / ratio(0.99) - 1) / step
    evidence.numeric(grown, 1 / (0.99 * 0.01), bound=0.01, oracle="the derivative of the logit")
    evidence.exact(f"{grown:.0f}", "101", oracle="the number of the claim")


@mutant(test_density_ratio, "the ratio the other way up")
def inverse(d):
    return 1 / density_ratio(d)


@mutant(test_density_ratio, "D taken for the ratio")
def identity(d):
    return torch.as_tensor(d, dtype=DOUBLE)


@mutant(test_density_ratio, "twice D: the ratio to the mean of the two laws")
def to_the_mean(d):
    return 2 * torch.as_tensor(d, dtype=DOUBLE)


@mutant(test_density_ratio, "the ratio cut at 2, against large values")
def clipped(d):
    return density_ratio(d).clamp(max=2)


def both_ways(d, prior):
    """The ratio, made of D and of its logit."""
    return torch.stack([density_ratio(d, prior), log_density_ratio(d.logit(), prior).exp()])


@pytest.mark.claim("x-gan-class-prior")
def test_class_prior(evidence, best=optimum, ratio=both_ways):
    g = evidence.generator
    for prior in (0.08, 0.37, 0.93):
        f_1, f_0 = laws(g, 2, 6)
        joint = torch.stack([prior * f_1, (1 - prior) * f_0])
        posterior = (joint / joint.sum(0))[0]
        d = best(f_1.log(), f_0.log(), prior)
        evidence.numeric(d, posterior, bound=1e-14, oracle="Bayes' rule on the joint table")
        ones = torch.ones(2, 1, dtype=DOUBLE)
        evidence.numeric(
            ratio(posterior, prior),
            ones * f_1 / f_0,
            bound=1e-12,
            oracle="the densities divided",
            relative=True,
        )
        classes = joint.sum(1, keepdim=True)
        information = rel_entr(joint.numpy(), (classes * joint.sum(0)).numpy()).sum()
        entropy = -math.fsum(c * math.log(c) for c in classes.flatten().tolist())
        reached = (joint[0] * d.log() + joint[1] * (1 - d).log()).sum()
        evidence.numeric(
            reached,
            information - entropy,
            bound=1e-12,
            oracle="information of the joint table",
        )
        for other in uniform(g, 20, 6):
            evidence.ordered(
                integral(joint[0], joint[1], other),
                information - entropy,
                bound=1e-12,
                oracle="information of the joint table",
            )


@mutant(test_class_prior, "the balanced optimum", of="best")
def balanced(log_f_1, log_f_0, prior):
    return optimum(log_f_1, log_f_0)


@mutant(test_class_prior, "the prior of the other class", of="best")
def other_prior(log_f_1, log_f_0, prior):
    return optimum(log_f_1, log_f_0, 1 - prior)


@mutant(test_class_prior, "the prior forgotten", of="ratio")
def forgotten(d, prior):
    return both_ways(d, 0.5)


@mutant(test_class_prior, "the factor upside down", of="ratio")
def upside_down(d, prior):
    return both_ways(d, 1 - prior)


@mutant(test_class_prior, "the probability, not its odds, as the factor", of="ratio")
def by_probability(d, prior):
    return both_ways(d, 0.5) / (2 * prior)


@pytest.mark.claim("x-gan-rejection")
def test_rejection(evidence, keep=accept):
    g, n = evidence.generator, 200_000
    apart = torch.tensor([0.9, -0.6, 0.3, -1.1], dtype=DOUBLE)
    p_1, p_0 = (laws(g, 2, 4).log() + torch.stack([apart, -apart])).softmax(-1)
    exact = p_1 / p_0
    wrong = exact * (0.4 + uniform(g, 4))
    for name, s, bound in (
        ("f1 / f0", exact, 1.3 * exact.max()),
        ("an estimate", wrong, wrong.max()),
        ("f1 / f0, cut", exact.clamp(max=0.7 * exact.max()), 0.7 * exact.max()),
    ):
        x = p_0.multinomial(n, True, generator=g)
        kept = keep(s.log()[x], bound.log(), generator=g)
        law = [a * b for a, b in zip(p_0.tolist(), s.tolist(), strict=True)]
        rate = math.fsum(law) / bound.item()
        evidence.statistical(kept, rate, oracle=f"the mean of {name}, by a sum", detects=0.2 * rate)
        for k in range(4):
            share = law[k] / math.fsum(law)
            evidence.statistical(
                x[kept] == k,
                share,
                oracle=f"the law for {name}, by a sum",
                detects=0.2 * share,
            )
        if "cut" in name:
            m = math.fsum(max(a - bound.item() * b, 0) for a, b in zip(p_1, p_0, strict=True))
            evidence.numeric(rate, (1 - m) / bound, bound=1e-12, oracle="the mass above R f0")
            far = math.fsum(abs(a / math.fsum(law) - b) for a, b in zip(law, p_1, strict=True)) / 2
            evidence.ordered(far, m, bound=1e-12, oracle="the mass above R f0")
    log_bound = -math.log(0.7) + 1.5**2 / (2 * (1 - 0.49))
    searched = minimize_scalar(
        lambda x: NORMAL_0.logpdf(x) - NORMAL_1.logpdf(x),
        bounds=(-5, 9),
        method="bounded",
    )
    evidence.numeric(log_bound, -searched.fun, bound=1e-9, oracle="the largest ratio, searched")
    evidence.exact(f"{math.exp(-log_bound):.5f}", "0.07711", oracle="the decimals of the claim")
    x = torch.randn(2 * n, generator=g, dtype=DOUBLE)
    log_ratio = torch.tensor(NORMAL_1.logpdf(x) - NORMAL_0.logpdf(x))
    kept = keep(log_ratio, log_bound, generator=g)
    evidence.statistical(kept, math.exp(searched.fun), oracle="1 / R, searched", detects=0.005)
    for power in (1, 2):
        evidence.statistical(
            torch.tensor(NORMAL_1.cdf(x[kept])) ** power,
            1 / (1 + power),
            oracle="the distribution function at its own samples is uniform",
            detects=0.02,
        )


@mutant(test_rejection, "the ratio without its bound")
def without_bound(log_ratio, log_bound, generator):
    return accept(log_ratio.clamp(max=0), 0.0, generator=generator)


@mutant(test_rejection, "a bound that is half of what it must be")
def half_bound(log_ratio, log_bound, generator):
    return accept((log_ratio - log_bound + math.log(2)).clamp(max=0), 0.0, generator=generator)


@mutant(test_rejection, "the square root: a logarithm halved")
def root(log_ratio, log_bound, generator):
    return accept((log_ratio - log_bound) / 2, 0.0, generator=generator)


@mutant(test_rejection, "D itself as the probability to keep")
def by_d(log_ratio, log_bound, generator):
    return accept(torch.nn.functional.logsigmoid(log_ratio), 0.0, generator=generator)


def test_value_is_the_integral():
    g = torch.Generator().manual_seed(2)
    f_1, f_0 = laws(g, 2, 4)
    d = uniform(g, 3, 4)
    assert value(f_1, f_0, d).shape == (3,)
    assert value(f_1, f_0, d)[1].item() == pytest.approx(integral(f_1, f_0, d[1]))
    assert value(f_1, f_0, torch.zeros(4, dtype=DOUBLE)) == -math.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_batches_and_gradients(dtype):
    g = torch.Generator().manual_seed(4)
    f_1, f_0 = (p.to(dtype) for p in laws(g, 2, 3, 1, 5))
    u = torch.randn(2, 5, generator=g, dtype=dtype).requires_grad_()
    d = u.sigmoid()
    made = {
        "value": value(f_1, f_0, d).sum(-1).sum(-1),
        "optimum": optimum(f_1.log() + u, f_0.log(), 0.3).sum(-1),
        "variation": second_variation(f_1, f_0, d, f_1),
        "jsd": jensen_shannon(d.log(), (1 - d).log()),
        "estimate": jensen_shannon_estimate(d.log(), (1 - d).log()).standard_error,
        "shortfall": shortfall(f_1, d).sum(-1),
        "ratio": density_ratio(d, 0.3).sum(-1),
        "log": log_density_ratio(u, torch.tensor(0.3)).sum(-1),
    }
    for name, result in made.items():
        assert result.dtype == dtype, name
        (slope,) = torch.autograd.grad(result.sum(), u, retain_graph=True)
        assert slope.isfinite().all(), name
        assert slope.any(), name
    assert made["variation"].shape == (3, 2)
    kept = accept(u, 5.0, generator=g)
    assert kept.dtype == torch.bool
    assert kept.shape == u.shape


def test_derivatives_where_d_is_certain():
    f_1, f_0 = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.6, 0.4])
    for made in (value, lambda f_1, f_0, d: -shortfall(f_1 / (f_1 + f_0), d)):
        d = torch.tensor([1.0, 0.3, 0.0], requires_grad=True)
        (slope,) = torch.autograd.grad(made(f_1, f_0, d).sum(), d)
        assert slope.isfinite().all()
        assert slope[0] > 0 > slope[2]


def test_log_densities_that_underflow_keep_their_ratio():
    far = torch.tensor([-2000.0, -math.inf, -math.inf, 0.0])
    other = torch.tensor([-2001.0, -math.inf, 0.0, -math.inf])
    expected = torch.tensor([1 / (1 + math.exp(-1)), 0.2, 0.0, 1.0])
    expected[0] = 0.25 * math.e / (0.25 * math.e + 1)
    torch.testing.assert_close(optimum(far, other, 0.2), expected)


def test_ratios_at_the_ends_and_of_numbers():
    assert density_ratio(torch.tensor([0.0, 1.0])).tolist() == [0, math.inf]
    assert density_ratio(0.75).item() == pytest.approx(3)
    assert density_ratio(0.75, torch.tensor(0.75)).item() == pytest.approx(1)


def test_a_bound_reached_exactly_is_accepted():
    log_ratio = torch.full((1000,), 3.1)
    assert accept(log_ratio, 3.1).all()
    assert not accept(log_ratio * -math.inf, 3.1).any()


def test_rare_points_are_kept_as_often_in_half_precision():
    log_ratio = torch.full((400_000,), math.log(0.002), dtype=torch.bfloat16)
    kept = accept(log_ratio, 0.0, torch.Generator().manual_seed(1)).double().mean()
    assert kept.item() == pytest.approx(log_ratio[0].exp().item(), rel=0.2)


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_raise():
    half, two = torch.tensor([0.5, 0.5]), torch.tensor([0.5, 2.0])
    calls = {
        r"d must be in \[0, 1\], got 0\.5 to 2": lambda: value(half, half, two),
        r"d must be inside \(0, 1\), got 0 to 1": lambda: second_variation(
            half,
            half,
            torch.tensor([0.0, 1.0]),
            half,
        ),
        r"f_1, f_0 and d must have the same points, got \[2, 1, 2\]": lambda: value(half, half[:1], half),
        r"f_0 must not be negative, got -0\.5 to -0\.5": lambda: value(half, -half, half),
        r"d_star must be in \[0, 1\], got 0\.5 to 2": lambda: shortfall(two, half),
        r"prior must be inside \(0, 1\), got 1 to 1": lambda: optimum(half, half, 1),
        r"prior must be inside \(0, 1\), got 0 to 0": lambda: log_density_ratio(half, 0.0),
        r"log_d_1 must be at most 0, got 0\.5 to 0\.5": lambda: jensen_shannon(half, half.log()),
        r"log_d_0 must be at most 0, got nan": lambda: jensen_shannon(half.log(), half * math.nan),
        r"log_d_0 must hold samples, got shape \(0,\)": lambda: jensen_shannon(
            half.log(),
            half[:0],
        ),
        r"samples must be 2 or more": lambda: jensen_shannon_estimate(half.log(), half[:1].log()),
        r"log_bound must be at least log_ratio, got 0\.7 less": lambda: accept(half, -0.2),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(ValueError, match=r"d must be in \[0, 1\], got 1\.5 to 1\.5"):
        density_ratio(1.5)
