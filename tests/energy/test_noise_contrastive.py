import math
from fractions import Fraction

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq, minimize
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, log_expit
from scipy.stats import norm

from genref._site.claims import mutant
from genref.energy.noise_contrastive import energy, log_normaliser, objective, optimum, variance

DOUBLE = torch.float64


def counted(generator, points, n):
    """Two tables of n-ths, all positive, with the indices of samples that have just them."""
    weight = torch.rand(2, points, generator=generator, dtype=DOUBLE)
    rest = weight.multinomial(n - points, True, generator=generator)
    counts = torch.stack([row.bincount(minlength=points) + 1 for row in rest])
    index = [torch.arange(points).repeat_interleave(row) for row in counts]
    return *(counts.to(DOUBLE) / n), *index


def weighted(p_d, p_n, u, ratio=1.0):
    """J of a table, point by point; log sigmoid by scipy."""
    terms = [a * log_expit(c) for a, c in zip(p_d.tolist(), u, strict=True) if a]
    terms += [ratio * b * log_expit(-c) for b, c in zip(p_n.tolist(), u, strict=True) if b]
    return math.fsum(terms)


@pytest.mark.claim("nce-optimum", answers=["B4.1"])
def test_optimum(evidence, goal=objective, best=optimum, learnt=energy):
    g = evidence.generator
    for points, n in ((4, 25), (6, 70)):
        p_d, p_n, x_d, x_n = counted(g, points, n)
        u = best(p_d.log(), p_n.log())
        searched = minimize(
            lambda e, p_d=p_d, p_n=p_n: -weighted(p_d, p_n, e),
            [0.0] * points,
            method="BFGS",
            options={"gtol": 1e-9},
        )
        evidence.numeric(u, searched.x, bound=1e-4, oracle="BFGS")
        most = 2 * jensenshannon(p_d, p_n) ** 2 - 2 * math.log(2)
        reached = goal(u[x_d], u[x_n])
        evidence.numeric(reached, most, bound=1e-12, oracle="the divergence by scipy")
        for other in 3 * torch.randn(20, points, generator=g, dtype=DOUBLE):
            found = goal(other[x_d], other[x_n])
            expected = weighted(p_d, p_n, other.tolist())
            evidence.numeric(found, expected, bound=1e-12, oracle="a sum over the points")
            evidence.ordered(found, most, bound=1e-12, oracle="the divergence by scipy")
        for c in (-500.0, 500.0):
            low = goal(torch.full((n,), c, dtype=DOUBLE), torch.full((n,), c, dtype=DOUBLE))
            evidence.numeric(low, -500.0, bound=1e-12, oracle="one class certainly wrong")
        evidence.numeric(
            (-learnt(u, p_n.log())).exp(),
            p_d,
            bound=1e-14,
            oracle="the table of the data",
        )
    p_d[0] = 0
    p_d = p_d / p_d.sum()
    u = best(p_d.log(), p_n.log())
    evidence.exact(u[0].item(), -math.inf, oracle="noise alone is there")
    evidence.numeric(
        weighted(p_d, p_n, u.tolist()),
        2 * jensenshannon(p_d, p_n) ** 2 - 2 * math.log(2),
        bound=1e-12,
        oracle="the divergence by scipy",
    )


@mutant(test_optimum, "E001-02: a minimum is sought", of="goal")
def minimised(logit_data, logit_noise):
    return -objective(logit_data, logit_noise)


@mutant(test_optimum, "noise drawn from the data's half: one sign for both", of="goal")
def one_sign(logit_data, logit_noise):
    return objective(logit_data, -logit_noise)


@mutant(test_optimum, "E001-03: an energy, log of noise over data", of="best")
def as_energy(log_p_d, log_p_n):
    return optimum(log_p_n, log_p_d)


@mutant(test_optimum, "the log-density of the data alone", of="best")
def without_noise(log_p_d, log_p_n):
    return log_p_d


@mutant(test_optimum, "the density p_n exp(-u)", of="learnt")
def lowered(logit, log_p_n):
    return logit - log_p_n


@mutant(test_optimum, "minus the logit, without the noise", of="learnt")
def noise_forgotten(logit, log_p_n):
    return -logit


@pytest.mark.claim("x-nce-ratio")
def test_ratio(evidence, goal=objective, best=optimum, learnt=energy):
    g = evidence.generator
    for ratio in (0.3, 7.0):
        p_d, p_n, x_d, x_n = counted(g, 5, 60)
        u = best(p_d.log(), p_n.log(), ratio)
        searched = minimize(
            lambda e, p_d=p_d, p_n=p_n, ratio=ratio: -weighted(p_d, p_n, e, ratio),
            [0.0] * 5,
            method="BFGS",
            options={"gtol": 1e-9},
        )
        evidence.numeric(u, searched.x, bound=1e-4, oracle="BFGS on the weighted sum")
        density = (-learnt(u, p_n.log(), ratio)).exp()
        evidence.numeric(density, p_d, bound=1e-14, oracle="the table of the data")
        features = torch.randn(5, 3, generator=g, dtype=DOUBLE)
        for theta in 0.5 * torch.randn(3, 3, generator=g, dtype=DOUBLE):
            theta = theta.requires_grad_()
            u = features @ theta - p_n.log() - math.log(ratio)
            (slope,) = torch.autograd.grad(goal(u[x_d], u[x_n], ratio), theta)
            f = (features @ theta).exp().detach()
            weight = ratio * p_n / (f + ratio * p_n)
            evidence.numeric(
                slope,
                features.T @ (weight * (p_d - f)),
                bound=1e-12,
                oracle="the formula of the claim, written out",
            )
            many = 1e9
            u = features @ theta - p_n.log() - math.log(many)
            (slope,) = torch.autograd.grad(goal(u[x_d], u[x_n], many), theta)
            likelihood = p_d @ (features @ theta) - (features @ theta).exp().sum()
            (limit,) = torch.autograd.grad(likelihood, theta)
            evidence.numeric(slope, limit, bound=1e-2, oracle="the limit by automatic derivatives")


@mutant(test_ratio, "one noise sample for each datum, whatever the ratio", of="goal")
def unweighted(logit_data, logit_noise, ratio):
    return objective(logit_data, logit_noise)


@mutant(test_ratio, "the data weighted, not the noise", of="goal")
def other_weighted(logit_data, logit_noise, ratio):
    return objective(-logit_noise, -logit_data, ratio)


@mutant(test_ratio, "the shift forgotten", of="best")
def unshifted(log_p_d, log_p_n, ratio):
    return optimum(log_p_d, log_p_n)


@mutant(test_ratio, "the shift the other way", of="best")
def shifted_up(log_p_d, log_p_n, ratio):
    return optimum(log_p_d, log_p_n, 1 / ratio)


@mutant(test_ratio, "the energy of a balanced training", of="learnt")
def balanced(logit, log_p_n, ratio):
    return energy(logit, log_p_n)


def table_of_normals(scale):
    """Densities times a fine trapezoid rule."""
    x = torch.linspace(-27, 27, 8001, dtype=DOUBLE)
    return [torch.tensor(norm.pdf(x, 0, s)) * (x[1] - x[0]) for s in (1, scale)]


def overlap(ratio, scale, far=40.0):
    def integrand(x):
        a, b = norm.logpdf(x), math.log(ratio) + norm.logpdf(x, 0, scale)
        return math.exp(a + log_expit(b - a))

    return quad(integrand, -far, far, limit=400, epsabs=1e-14, points=[-3, 3])[0]


def first_form(p_d, p_n, ratio):
    p_d, p_n = ([Fraction(c, sum(row)) for c in row] for row in (p_d, p_n))
    shared = sum(a * ratio * b / (a + ratio * b) for a, b in zip(p_d, p_n, strict=True) if a + b)
    return float(1 / shared - 1 - 1 / ratio)


@pytest.mark.claim("x-nce-variance")
def test_variance(evidence, limit=variance, solve=log_normaliser):
    g = evidence.generator
    for scale, decimals in ((1.5, "0.14332"), (3.0, "0.89379")):
        p_d, p_n = table_of_normals(scale)
        v = limit(p_d, p_n, 1)
        evidence.numeric(v, 1 / overlap(1, scale) - 2, bound=1e-9, oracle="adaptive quadrature")
        evidence.exact(f"{v:.5f}", decimals, oracle="the decimals of the claim")
        for ratio in (0.2, 5.0):
            expected = 1 / overlap(ratio, scale) - 1 - 1 / ratio
            evidence.numeric(
                limit(p_d, p_n, ratio),
                expected,
                bound=1e-9,
                oracle="adaptive quadrature",
            )
    p_d, p_n = table_of_normals(0.6)
    spread = [ratio * limit(p_d, p_n, ratio) for ratio in (1e2, 1e4, 1e6)]
    evidence.numeric(
        torch.stack(spread),
        [ratio / overlap(ratio, 0.6) - ratio - 1 for ratio in (1e2, 1e4, 1e6)],
        bound=1e-4,
        oracle="adaptive quadrature, where the chi-square is infinite",
        relative=True,
    )
    p_d, p_n = (4 * torch.rand(2, 6, generator=g, dtype=DOUBLE)).softmax(-1)
    evidence.numeric(
        1e6 * limit(p_d, p_n, 1e6),
        ((p_d - p_n) ** 2 / p_n).sum(),
        bound=1e-3,
        oracle="the chi-square sum of the data from the noise",
        relative=True,
    )
    evidence.numeric(
        limit(p_d, p_n, 1e-6),
        ((p_d - p_n) ** 2 / p_d).sum(),
        bound=1e-3,
        oracle="the chi-square sum of the noise from the data",
        relative=True,
    )
    evidence.numeric(limit(p_d, p_d, 2.5), 0.0, bound=1e-12, oracle="no error without difference")
    near, k = torch.tensor([200_000, 300_000, 500_000, 0]), torch.randint(1, 9, (2,), generator=g)
    near = torch.stack([near, near + torch.cat([k, -k.sum(0, keepdim=True), 0 * k[:1]])])
    beyond = torch.tensor([[3, 4, 0, 7], [5, 6, 3, 0]]) * torch.randint(1, 9, (4,), generator=g)
    for counts in (near, beyond):
        for ratio in (1e-7, 0.4, 3e6):
            evidence.numeric(
                limit(*(counts / counts.sum(1, keepdim=True).double()), ratio),
                first_form(*counts.tolist(), Fraction(ratio)),
                bound=1e-8,
                oracle="1/I - 1 - 1/nu in fractions",
                relative=True,
            )

    t = [torch.randn(n, generator=g, dtype=DOUBLE) * 2 + 0.7 for n in (13, 31)]
    values = torch.cat(t).numpy() - math.log(31 / 13)
    root = brentq(lambda e: expit(values - e).sum() - 13, -30, 30, xtol=1e-13)
    evidence.numeric(solve(*t).mean, root, bound=1e-10, oracle="the score's root by Brent")
    ends = torch.zeros(9, dtype=DOUBLE), torch.zeros(31, dtype=DOUBLE)
    ends[0][:2], ends[1][:13] = math.inf, -math.inf
    values = torch.cat(ends).numpy() - math.log(31 / 9)
    root = brentq(lambda e: expit(values - e).sum() - 9, -30, 30, xtol=1e-13)
    found = solve(*ends)
    evidence.numeric(found.mean, root, bound=1e-10, oracle="Brent, with points of one law alone")
    evidence.numeric(
        found.standard_error**2,
        1 / 7 - 1 / 9 + 1 / 18 - 1 / 31,
        bound=1e-10,
        oracle="the delta method on the shares of the common points",
    )

    log_z, runs = -1.3, 1500
    for ratio, scale in ((1, 1.5), (3, 3.0), (2, 0.6)):
        n_d = 200
        data = torch.randn(runs, n_d, generator=g, dtype=DOUBLE)
        noise = scale * torch.randn(runs, n_d * ratio, generator=g, dtype=DOUBLE)
        flat = [log_z - x**2 / 2 + x**2 / (2 * scale**2) + math.log(scale) for x in (data, noise)]
        c, error = solve(*flat)
        theory = 1 / overlap(ratio, scale, 12 * scale) - 1 - 1 / ratio
        evidence.statistical(
            n_d * (c - log_z) ** 2 / theory,
            1.0,
            oracle=f"the limit for noise of scale {scale} by quadrature",
            detects=0.25,
        )
        evidence.numeric(
            (n_d * error**2).mean(),
            theory,
            bound=0.05,
            oracle="the limit by quadrature",
            relative=True,
        )


@mutant(test_variance, "the information alone: classes drawn at random", of="limit")
def information_alone(p_d, p_n, ratio):
    return variance(p_d, p_n, ratio) + 1 + 1 / ratio


@mutant(test_variance, "twice the number of samples taken off, whatever the ratio", of="limit")
def two_off(p_d, p_n, ratio):
    return variance(p_d, p_n, ratio) + 1 / ratio - 1


@mutant(test_variance, "the first form of the variance, which cancels", of="limit")
def difference(p_d, p_n, ratio):
    shared = (p_d * ratio * p_n / (p_d + ratio * p_n)).nan_to_num(0).sum(-1)
    return 1 / shared - 1 - 1 / ratio


@mutant(test_variance, "the variance of importance sampling", of="limit")
def importance(p_d, p_n, ratio):
    return ((p_d - p_n) ** 2 / p_n).sum(-1) / ratio


@mutant(test_variance, "importance sampling itself, its mean over the noise", of="solve")
def importance_sampling(data, noise):
    log_z = noise.logsumexp(-1) - math.log(noise.shape[-1])
    spread = (noise - log_z[..., None]).exp().var(-1)
    return log_normaliser(data, noise)._replace(
        mean=log_z,
        standard_error=(spread / noise.shape[-1]).sqrt(),
    )


@mutant(test_variance, "samples of the noise where there are no data left out", of="solve")
def outside_left_out(data, noise):
    return log_normaliser(data, noise[..., noise.isfinite().reshape(-1, noise.shape[-1]).all(0)])


@mutant(test_variance, "the data left out of the standard error", of="solve")
def error_of_noise(data, noise):
    made = log_normaliser(data, noise)
    more = made.standard_error**2 + 1 / data.shape[-1]
    return made._replace(standard_error=more.sqrt())


@mutant(test_variance, "the ratio of the numbers forgotten", of="solve")
def unshifted_root(data, noise):
    made = log_normaliser(data, noise)
    return made._replace(mean=made.mean + math.log(noise.shape[-1] / data.shape[-1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_batches_and_gradients(dtype):
    g = torch.Generator().manual_seed(2)
    data = torch.randn(3, 1, 20, generator=g, dtype=dtype).requires_grad_()
    noise = torch.randn(2, 30, generator=g, dtype=dtype)
    made = objective(data, noise, 2)
    assert made.shape == (3, 2)
    assert made.dtype == energy(data, noise[:, :20], 2).dtype == dtype
    assert optimum(data, noise[:, :20], 2).dtype == variance(data.softmax(-1), data.softmax(-1)).dtype == dtype
    (slope,) = torch.autograd.grad(made.sum(), data)
    assert (slope > 0).all()
    with torch.no_grad():
        c, error = log_normaliser(data, noise)
    assert c.shape == error.shape == (3, 2)
    assert c.dtype == error.dtype == dtype
    alone = log_normaliser(data[1, 0].detach(), noise[1])
    torch.testing.assert_close(c[1, 1], alone.mean)


def test_far_values_do_not_overflow():
    t = torch.tensor([5000.0, 5001.0, 5003.0])
    c, error = log_normaliser(t, t)
    near, near_error = log_normaliser(t - 5000, t - 5000)
    torch.testing.assert_close(c - 5000, near, atol=1e-3, rtol=0)
    torch.testing.assert_close(error, near_error, atol=1e-3, rtol=0)
    assert objective(-t, t).item() == pytest.approx(-2 * t.mean().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_samples_have_an_honest_error(dtype):
    for far in (10.0, 30.0):
        t = torch.tensor([far], dtype=dtype)
        c, error = log_normaliser(t, -t)
        assert c.item() == pytest.approx(0, abs=1e-5)
        assert error.item() == pytest.approx(math.sqrt(math.cosh(far) - 1), rel=1e-5)
    for sign in (1, -1):
        t = sign * torch.tensor([1e4], dtype=dtype)
        assert log_normaliser(t, -t).standard_error == math.inf
    c, _ = log_normaliser(torch.tensor([-1e4], dtype=dtype), torch.full((2,), 1e4, dtype=dtype))
    assert c.item() == pytest.approx(1e4 - math.log(2), abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_keep_the_steps_going(dtype, monkeypatch):
    g = torch.Generator().manual_seed(2)
    steps = []
    monkeypatch.setattr(torch, "log1p", lambda x, log1p=torch.log1p: steps.append(0) or log1p(x))
    for scale in (0.1, 10.0, 1000.0):
        log_normaliser(*(scale * torch.randn(2, 100, 300, generator=g)).to(dtype))
    assert 0 < len(steps) < 120


def test_a_small_error_keeps_its_digits():
    data, noise = torch.tensor([1.0, 1.001]), torch.tensor([1.0005, 0.9999, 1.0])
    exact = log_normaliser(data.double(), noise.double()).standard_error
    assert log_normaliser(data, noise).standard_error.item() == pytest.approx(exact.item(), rel=1e-3)
    assert log_normaliser(noise * 0, noise * 0).standard_error.item() < 1e-7


def test_energy_of_little_noise():
    zero = torch.zeros(1, dtype=DOUBLE)
    for ratio in (1e-12, 1e-30, 1e30):
        assert energy(zero, zero, ratio).item() == pytest.approx(-math.log(ratio))


def test_points_that_neither_law_has_do_not_count():
    p_d, p_n = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.8, 0.0])
    assert variance(p_d, p_n).item() == pytest.approx(variance(p_d[:2], p_n[:2]).item())
    apart = variance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert apart.item() == math.inf


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_raise():
    x = torch.ones(2) / 2
    for call in (
        lambda r: objective(x, x, r),
        lambda r: optimum(x, x, r),
        lambda r: energy(x, x, r),
        lambda r: variance(x, x, r),
    ):
        for ratio in (0, -1.5, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"ratio must be positive and finite, got {ratio}"):
                call(ratio)
    calls = {
        r"logit_noise must hold samples, got shape \(0,\)": lambda: objective(x, x[:0]),
        r"logit_data must hold samples, got shape \(\)": lambda: objective(x[0], x),
        r"log_ratio_noise must be -inf or finite, some finite, got shape \(2,\), 1 of": lambda: log_normaliser(
            x,
            torch.tensor([0, math.inf]),
        ),
        r"log_ratio_data must be inf or finite, some finite": lambda: log_normaliser(x / 0, x),
        r"log_ratio_data must be inf or finite, some finite, got shape \(0,\)": lambda: log_normaliser(x[:0], x),
        r"p_n must have the points of p_d, got 1, not 2": lambda: variance(x, x[:1]),
        r"p_n must not be negative, got -0.5": lambda: variance(x, -x),
        r"p_d must sum to 1, weights included, got 4.0": lambda: variance(4 * x, x),
    }
    for words, call in calls.items():
        with pytest.raises(ValueError, match=words):
            call()
