import math
import re
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from matplotlib.figure import Figure
from torch.autograd.functional import hessian, jacobian
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genref._site.claims import mutant
from genref.latent import finite
from genref.latent.elbo import (
    e_step,
    elbo,
    elbo_estimate,
    em_step,
    entropy,
    expected_log_joint,
    m_step,
)
from genref.latent.linear_gaussian import Gaussian, LinearGaussian
from genref.numerics.quadrature import grid

DOUBLE = torch.float64
SIZES = [(4, 3, 2), (1, 3, 1), (6, 2, 2), (5, 2, 3), (3, 1, 1), (7, 4, 2)]
"""The triples (n, D, d): data, their dimension, that of the latent."""
SNIPPET = Path(__file__).parents[2] / "snippets/latent/elbo.py"


def law(generator, *shape, zeros=()):
    """Probabilities over the last dimension, zero at the given places."""
    weights = 0.05 + torch.rand(*shape, generator=generator, dtype=DOUBLE)
    weights[..., list(zeros)] = 0
    return weights / weights.sum(-1, keepdim=True)


def problem(generator, n, D, d):
    """Data, weights and noise variances of a linear model."""
    x = 2 * torch.randn(n, D, generator=generator, dtype=DOUBLE)
    W = torch.randn(D, d, generator=generator, dtype=DOUBLE)
    return x, W, 0.3 + torch.rand(D, generator=generator, dtype=DOUBLE)


def log_density(x, W, variance):
    """The sum of log p(x_i) over the data, by the dense normal law."""
    return MultivariateNormal(torch.zeros_like(x[0]), W @ W.T + variance.diag()).log_prob(x).sum()


def conditional(x, W, variance):
    """The means and the covariance of z given x, cut from the normal law of both."""
    gain = torch.linalg.solve(W @ W.T + variance.diag(), W).T
    return x @ gain.T, torch.eye(W.shape[1], dtype=DOUBLE) - gain @ W


def log_joint(x, z, W, variance):
    """The log-density of (x, z) for one x and many z."""
    likelihood = Normal(z @ W.mT, variance.sqrt()).log_prob(x).sum(-1)
    return likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1)


def nodes(loc, covariance, n=6):
    """The points and the log-weights of a rule for a normal law, exact up to degree 2n - 1."""
    point, weight = grid(n, len(loc))
    return loc + point @ torch.linalg.cholesky(covariance).T, weight.log()


def number(value):
    return torch.tensor(value, dtype=DOUBLE)


def evidence_at(x, variance):
    """The log-likelihood as a function of the weights."""
    return lambda W: log_density(x, W, variance)


def joint_at(x, z, variance):
    return lambda W: log_joint(x, z, W, variance)


def mean_of(ecll, density, log_q):
    """A mean of the log-density of x and z as a function of the parameters."""
    return lambda at: ecll(density(at), log_q)


def line(theta, z, x=2.0):
    """The log-density of (x, z) in the model x ~ N(theta z, 1), a row for each theta."""
    likelihood = Normal(theta[..., None] * z, 1.0).log_prob(torch.as_tensor(x, dtype=DOUBLE))
    return likelihood + Normal(0.0, 1.0).log_prob(z)


def highest(f, low, high):
    """The place of the maximum and the maximum."""
    found = scipy.optimize.minimize_scalar(
        lambda t: -f(torch.tensor(t, dtype=DOUBLE)).item(),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return np.float64(found.x), np.float64(-found.fun)


def sum_of(log_p, minus_kl):
    return log_p + minus_kl


@pytest.mark.claim("vae-ecll", answers=["A3.1", "B1.1", "C2.1"])
def test_identity(evidence, ecll=expected_log_joint, bound=sum_of):
    for empty, narrow in (((), ()), ((), (2,)), ((1,), (1, 3)), ((1,), (0,))):
        joint = 0.3 * law(evidence.generator, 5, 6, zeros=empty)
        q = law(evidence.generator, 6, zeros=narrow)
        gap = scipy.stats.entropy(q.expand(5, 6).numpy(), joint.numpy(), axis=-1)
        evidence.numeric(
            ecll(joint.log(), q.log()),
            joint.sum(-1).log() - torch.from_numpy(gap) - scipy.stats.entropy(q.numpy()),
            bound=1e-13,
            oracle="evidence, relative entropy and entropy of tables, by scipy",
        )
    for _, D, d in SIZES:
        x, W, variance = problem(evidence.generator, 1, D, d)
        _, S, _ = problem(evidence.generator, 1, d, d)
        q = MultivariateNormal(S[0], S @ S.T + 0.1 * torch.eye(d))
        z, log_weight = nodes(q.mean, q.covariance_matrix)
        loc, C = conditional(x, W, variance)
        gap = kl_divergence(q, MultivariateNormal(loc[0], C))
        evidence.numeric(
            ecll(log_joint(x[0], z, W, variance), log_weight),
            log_density(x, W, variance) - gap - q.entropy(),
            bound=1e-9,
            oracle="dense normal laws of x and of z given x, and their divergence, by torch",
        )
    q = Normal(0.3, number(0.5).sqrt())
    z, log_weight = nodes(number([0.3]), number([[0.5]]))
    best, greatest = highest(lambda t: ecll(line(t, z[:, 0]), log_weight), -4, 4)
    at, top = highest(lambda t: bound(evidence_of(t), -gap_of(q, t)), -4, 4)
    same, level = highest(lambda t: evidence_of(t) - gap_of(q, t), -4, 4)
    oracle = "the maximum of log p(x) minus the divergence, both in closed form"
    evidence.numeric([best, at], [same, same], bound=1e-6, oracle=oracle)
    evidence.numeric(greatest, level - q.entropy(), bound=1e-12, oracle=oracle)
    evidence.numeric(top, level, bound=1e-12, oracle=oracle)
    apart = highest(evidence_of, 0, 4)[1] + highest(lambda t: -gap_of(q, t), -4, 4)[1]
    evidence.exact(
        [f"{best:.6f}", f"{greatest:.6f}", f"{top:.6f}", f"{apart:.6f}"],
        ["1.016949", "-3.827792", "-2.755427", "-2.202031"],
        oracle="the decimals that the claim states",
    )


def evidence_of(theta, x=2.0):
    """The log-density of x under N(0, 1 + theta²)."""
    return Normal(0.0, (1 + theta**2).sqrt()).log_prob(torch.as_tensor(x, dtype=DOUBLE))


def gap_of(q, theta, x=2.0):
    """The divergence of q from the posterior of x ~ N(theta z, 1)."""
    return kl_divergence(q, Normal(x * theta / (1 + theta**2), (1 + theta**2).rsqrt()))


@mutant(test_identity, "the entropy dropped and the sign of equality kept", of="ecll")
def with_entropy(log_joint, log_q):
    return elbo(log_joint, log_q)


@mutant(test_identity, "the logarithm of the mean", of="ecll")
def log_of_mean(log_joint, log_q):
    return (log_joint + log_q).logsumexp(-1)


@mutant(test_identity, "all values of z count alike", of="ecll")
def unweighted(log_joint, log_q):
    return (log_joint + 0 * log_q.exp()).mean(-1)


@mutant(test_identity, "a small number against the logarithm of zero", of="ecll")
def smoothed(log_joint, log_q):
    return expected_log_joint((log_joint.exp() + 1e-10).log(), log_q)


@mutant(test_identity, "the divergence with the wrong sign", of="bound")
def difference_of(log_p, minus_kl):
    return log_p - minus_kl


@mutant(test_identity, "the maximum of a sum for the sum of the maxima", of="bound")
def sum_of_maxima(log_p, minus_kl):
    theta = torch.linspace(-4, 4, 80001, dtype=DOUBLE)
    minus_gap = -gap_of(Normal(0.3, number(0.5).sqrt()), theta)
    return evidence_of(theta).max() + minus_gap.max() + 0 * (log_p + minus_kl)


@pytest.mark.claim("vae-ecll-onlyif", answers=["A3.1", "B1.1", "C2.1"])
def test_only_if(evidence, best=m_step):
    two = number([[2.0]])
    q = conditional(two, two / 4, torch.ones(1, dtype=DOUBLE))
    evidence.numeric(best(two, *q), number([[10 / 9]]), bound=1e-14, oracle="the claim's fraction")
    for n, D, d in SIZES:
        x, _, variance = problem(evidence.generator, n, D, d)
        W = likeliest(x, variance, d)
        evidence.numeric(
            best(x, *conditional(x, W, variance)),
            W,
            bound=1e-10,
            oracle="the likeliest weights, by eigenvectors of the scaled data",
        )
    for _ in range(5):
        x, share = torch.rand(2, generator=evidence.generator, dtype=DOUBLE)
        x, share = 1.3 + 2 * x, 0.1 + 0.8 * share
        m = share * x / (x**2 - 1).sqrt()
        v = m * (x / (x**2 - 1).sqrt() - m)
        found = best(x.view(1, 1), m.view(1, 1), v.view(1, 1)).squeeze().detach()
        evidence.numeric(
            found,
            highest(lambda t, x=x: evidence_of(t, x), 0.01, 6)[0],
            bound=1e-6,
            oracle="the maximum of the dense normal law",
        )
        points = torch.stack([m - v.sqrt(), m + v.sqrt()])
        slope = jacobian(lambda t, x=x, z=points: line(t, z, x).mean(), found)
        evidence.numeric(slope, 0.0, bound=1e-12, oracle="a slope vanishes at a maximum")
    arc = best(two, number([[0.6]]), number([[0.332820]]))
    top = best(two, number([[3**0.5 / 2]]), number([[0.25]]))
    evidence.numeric(arc, number([[3**0.5]]), bound=1e-6, oracle="the root of 3")
    evidence.numeric(top, number([[3**0.5]]), bound=1e-14, oracle="the root of 3")
    z, log_weight = nodes(number([5.0]), number([[0.01]]))
    q, prior = Normal(number(5.0), 0.1), Normal(0.0, 1.0)
    for theta in torch.randn(5, generator=evidence.generator, dtype=DOUBLE):
        log_p = Normal(theta, 1.0).log_prob(number(2.0))
        ecll = expected_log_joint(log_p + prior.log_prob(z[:, 0]), log_weight)
        evidence.numeric(
            ecll,
            Normal(2.0, 1.0).log_prob(theta) - kl_divergence(q, prior) - q.entropy(),
            bound=1e-12,
            oracle="a normal law in theta around x, and a constant, by torch",
        )
        gap = f"{log_p - ecll - q.entropy():.6f}"
        evidence.exact(gap, "14.307585", oracle="the decimals that the claim states")


def likeliest(x, variance, d):
    """The weights of maximum likelihood where the noise is known."""
    scaled = (x / variance.sqrt()).numpy()
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(x))
    length = np.sqrt(np.maximum(values[::-1][:d] - 1, 0))
    columns = torch.from_numpy(vectors[:, ::-1][:, :d] * length)
    W = torch.zeros(x.shape[1], d, dtype=DOUBLE)
    W[:, : columns.shape[1]] = variance.sqrt()[:, None] * columns
    return W


@mutant(test_only_if, "the maximum of the likelihood, whatever the law of z")
def always_the_likeliest(x, loc, covariance):
    return likeliest(x, torch.ones(x.shape[1], dtype=DOUBLE), loc.shape[1])


@mutant(test_only_if, "the law of z is replaced by its mean")
def point_estimate(x, loc, covariance):
    return torch.linalg.lstsq(loc, x).solution.mT


@mutant(test_only_if, "the covariance is counted once, not once for each datum")
def counted_once(x, loc, covariance):
    return torch.linalg.solve(covariance + loc.mT @ loc, loc.mT @ x).mT


@mutant(test_only_if, "the deviation in place of the variance")
def deviation(x, loc, covariance):
    return m_step(x, loc, torch.linalg.cholesky(covariance))


@pytest.mark.claim("elbo-fisher")
def test_fisher(evidence, ecll=expected_log_joint):
    for _ in range(4):
        parts = torch.randn(2, 3, 5, generator=evidence.generator, dtype=DOUBLE)
        theta = torch.randn(3, generator=evidence.generator, dtype=DOUBLE)
        log_q = decoder(parts)(theta).log_softmax(-1)
        evidence.numeric(
            jacobian(mean_of(ecll, decoder(parts), log_q), theta),
            jacobian(table_of(decoder(parts)), theta),
            bound=1e-13,
            oracle="automatic differentiation of the log-evidence of a table",
        )
    for _, D, d in SIZES:
        x, W, variance = problem(evidence.generator, 1, D, d)
        loc, C = conditional(x, W, variance)
        z, log_weight = nodes(loc[0], C)
        evidence.numeric(
            jacobian(mean_of(ecll, joint_at(x[0], z, variance), log_weight), W),
            jacobian(evidence_at(x, variance), W),
            bound=1e-9,
            oracle="automatic differentiation of the dense normal law of x",
        )
    z, log_weight = nodes(number([0.8]), number([[0.8]]))
    slope = jacobian(mean_of(ecll, lambda t: line(t, z[:, 0]), log_weight), number(0.5))
    evidence.numeric(slope, number(22 / 25), bound=1e-13, oracle="the fraction of the claim")
    evidence.numeric(slope, jacobian(evidence_of, number(0.5)), bound=1e-13, oracle="its slope")


def decoder(parts):
    """The log-probabilities of one x and each z: a prior and a likelihood that move with theta."""
    return lambda t: (t @ parts[0]).log_softmax(-1) + (t @ parts[1]).sigmoid().log()


def table_of(density):
    return lambda at: finite.log_evidence(density(at).exp())


@mutant(test_fisher, "the posterior moves with the parameters")
def moving(log_joint, log_q):
    return expected_log_joint(log_joint, log_joint.log_softmax(-1))


@mutant(test_fisher, "all values of z count alike")
def alike(log_joint, log_q):
    return unweighted(log_joint, log_q)


@mutant(test_fisher, "the most probable z alone")
def most_probable(log_joint, log_q):
    return log_joint[..., log_q.argmax(-1)]


@pytest.mark.claim("x-vae-em")
def test_em(evidence, step=em_step, ecll=expected_log_joint):
    for _ in range(5):
        before, after = 0.4 * law(evidence.generator, 2, 6)
        q = before / before.sum()
        gained = ecll(after.log(), q.log()) - ecll(before.log(), q.log())
        evidence.numeric(
            gained,
            (after.sum() / before.sum()).log() - scipy.stats.entropy(q.numpy(), after.numpy()),
            bound=1e-13,
            oracle="a ratio of evidences and a relative entropy, by scipy",
        )
    for n, D, d in SIZES:
        x, W, variance = problem(evidence.generator, n, D, d)
        stepped = step(x, W, variance)
        exact = LinearGaussian(W, variance).posterior(x)
        gains = total(x, variance, exact)
        slope, curvature = jacobian(gains, W).flatten(), hessian(gains, W).view(D * d, D * d)
        evidence.numeric(
            stepped,
            W - torch.linalg.solve(curvature, slope).view(D, d),
            bound=1e-9,
            oracle="Newton's method, exact for a quadratic function of the weights",
        )
        loc, C = conditional(x, W, variance)
        gradient = jacobian(evidence_at(x, variance), W)
        evidence.numeric(
            stepped,
            W + variance[:, None] * gradient @ torch.linalg.inv(n * C + loc.T @ loc),
            bound=1e-9,
            oracle="a gradient step, the gradient by automatic differentiation of the dense law",
        )
        here = W
        for _ in range(20):
            moved = step(x, here, variance)
            laws = [MultivariateNormal(*conditional(x, at, variance)) for at in (here, moved)]
            gain = log_density(x, moved, variance) - log_density(x, here, variance)
            least = kl_divergence(*laws).sum()
            evidence.ordered(least - gain, torch.zeros(()), bound=1e-11, oracle="zero")
            here = moved
    two, one = number([[2.0]]), number([1.0])
    for fixed in (number([[0.0]]), number([[3**0.5]]), number([[-(3**0.5)]])):
        evidence.numeric(step(two, fixed, one), fixed, bound=1e-14, oracle="the point itself")
    theta = number([[0.5]])
    first = step(two, theta, one)
    evidence.numeric(first, number([[10 / 9]]), bound=1e-14, oracle="the claim's fraction")
    for _ in range(60):
        theta = step(two, theta, one)
    evidence.numeric(theta, number([[3**0.5]]), bound=1e-10, oracle="the root of 3")


def total(x, variance, q):
    """The sum of the expected log-joints of all data, as a function of the weights."""
    return lambda W: LinearGaussian(W, variance).expected_log_joint(x, q).sum()


mutant(test_em, "all values of z count alike", of="ecll")(unweighted)
mutant(test_em, "the logarithm of the mean", of="ecll")(log_of_mean)


@mutant(test_em, "the law of z is replaced by its mean", of="step")
def hard(x, W, variance):
    loc, C = e_step(x, W, variance)
    return m_step(x, loc, 1e-9 * torch.eye(len(C), dtype=DOUBLE))


@mutant(test_em, "z is drawn from the prior", of="step")
def from_prior(x, W, variance):
    loc, C = e_step(x, W, variance)
    return m_step(x, loc, torch.eye(len(C), dtype=DOUBLE))


@mutant(test_em, "the covariance is counted once, not once for each datum", of="step")
def once(x, W, variance):
    return counted_once(x, *e_step(x, W, variance))


@mutant(test_em, "a gradient step of fixed size", of="step")
def fixed_size(x, W, variance):
    return W + 0.1 * jacobian(evidence_at(x, variance), W)


@mutant(test_em, "the deviation in place of the variance", of="step")
def deviation_for_variance(x, W, variance):
    return em_step(x, W, variance.sqrt())


def missing_share(complete, missing, observed):
    return torch.linalg.solve(complete, missing)


@pytest.mark.claim("elbo-em-rate")
def test_rate(evidence, step=em_step, share=missing_share):
    for n, D, d in SIZES:
        x, _, variance = problem(evidence.generator, n, D, d)
        W = likeliest(x, variance, d)
        complete, missing, observed = all_information(x, W, variance)
        slope = slope_of(step, x, W, variance)
        evidence.numeric(
            slope,
            torch.linalg.solve(complete, missing),
            bound=1e-9,
            oracle="moments of the score of x and z, by exact quadrature",
        )
        evidence.numeric(
            slope,
            torch.eye(D * d) - torch.linalg.solve(complete, observed),
            bound=1e-9,
            oracle="the Hessian of the dense log-likelihood",
        )
        for at in (W, torch.zeros_like(W)) if d == 1 else ():
            known = all_information(x, at, variance)[2]
            evidence.exact(
                bool((torch.linalg.eigvals(slope_of(step, x, at, variance)).real < 1).all()),
                bool((torch.linalg.eigvalsh(known) > 0).all()),
                oracle="the signs of the curvatures of the dense log-likelihood",
            )
        values = torch.linalg.eigvals(slope)
        evidence.numeric(values.imag, torch.zeros(D * d), bound=1e-7, oracle="zero")
        evidence.ordered(-values.real, torch.zeros(D * d), bound=1e-7, oracle="zero")
    for x in (2.0, *(1.2 + 2 * torch.rand(4, generator=evidence.generator)).tolist()):
        x, theta, one = number([[x]]), number([[math.sqrt(x**2 - 1)]]), number([1.0])
        stated = 1 - 2 * (x**2 - 1) / x**4
        oracle = "the rate of the claim"
        for at in (theta, -theta):
            evidence.numeric(slope_of(step, x, at, one), stated, bound=1e-13, oracle=oracle)
        away = slope_of(step, x, 0 * theta, one)
        evidence.numeric(away, x**2, bound=1e-13, oracle="the slope of a quotient at zero")
        rate = share(*all_information(x, theta, one))
        evidence.numeric(rate, stated, bound=1e-12, oracle=oracle)
        step_of = jacobian(lambda t, x=x: x**2 * t * (1 + t**2) / (1 + (1 + x**2) * t**2), theta)
        evidence.numeric(
            rate,
            step_of.view(1, 1),
            bound=1e-12,
            oracle="the slope of the step, written as a quotient of polynomials",
        )
    five = share(*all_information(number([[2.0]]), number([[3**0.5]]), one))
    evidence.numeric(five, number([[5 / 8]]), bound=1e-12, oracle="the fraction of the claim")


def slope_of(step, x, W, variance):
    """The Jacobian of a step, as a matrix."""
    return jacobian(lambda w: step(x, w, variance), W).view(W.numel(), W.numel())


def all_information(x, W, variance):
    """Complete, missing and observed information of the data."""
    size = W.numel()
    complete, missing = torch.zeros(2, size, size, dtype=DOUBLE)
    loc, C = conditional(x, W, variance)
    for row, m in zip(x, loc, strict=True):
        z, log_weight = nodes(m, C)
        weight, density = log_weight.exp(), joint_at(row, z, variance)
        score = jacobian(density, W).view(-1, size)
        score = score - weight @ score
        missing += score.T * weight @ score
        complete -= hessian(mean_of(torch.inner, density, weight), W).view(size, size)
    observed = -hessian(evidence_at(x, variance), W).view(size, size)
    return complete, missing, observed


mutant(test_rate, "a gradient step of fixed size", of="step")(fixed_size)
mutant(test_rate, "the law of z is replaced by its mean", of="step")(hard)


@mutant(test_rate, "a step twice as long", of="step")
def twice(x, W, variance):
    return 2 * em_step(x, W, variance) - W


@mutant(test_rate, "the observed share of the information", of="share")
def observed_share(complete, missing, observed):
    return torch.linalg.solve(complete, observed)


@mutant(test_rate, "the missing information over the observed", of="share")
def odds(complete, missing, observed):
    return torch.linalg.solve(observed, missing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_broadcast_and_keep_the_dtype(dtype):
    generator = torch.Generator().manual_seed(1)
    joint = torch.randn(3, 1, 5, generator=generator).to(dtype)
    q = torch.randn(4, 5, generator=generator).to(dtype).log_softmax(-1)
    for result in (expected_log_joint(joint, q), elbo(joint, q)):
        assert result.shape == (3, 4)
        assert result.dtype == dtype
    assert entropy(q).shape == (4,)
    assert entropy(q).dtype == dtype
    torch.testing.assert_close(elbo(joint, q), expected_log_joint(joint, q) + entropy(q))
    x = torch.randn(3, 1, 7, 4, generator=generator).to(dtype)
    W = torch.randn(2, 4, 2, generator=generator).to(dtype)
    for variance in (0.7, torch.tensor([0.7]).to(dtype), torch.full((2, 4), 0.7).to(dtype)):
        loc, C = e_step(x, W, variance)
        assert (loc.shape, C.shape) == ((3, 2, 7, 2), (2, 2, 2))
        found = em_step(x, W, variance)
        assert found.shape == (3, 2, 4, 2)
        assert found.dtype == loc.dtype == C.dtype == dtype
        torch.testing.assert_close(found[2, 1], em_step(x[2, 0], W[1], 0.7))


def test_the_bound_is_that_of_the_tables():
    generator = torch.Generator().manual_seed(2)
    for zeros in ((), (1,), (0, 3)):
        joint = 0.2 * law(generator, 3, 5, zeros=zeros)
        for narrow in ((), (1,), (0, 1, 3)):
            q = law(generator, 5, zeros=narrow)
            torch.testing.assert_close(elbo(joint.log(), q.log()), finite.elbo(joint, q))
            torch.testing.assert_close(entropy(q.log()), finite.entropy(q))


def test_the_posteriors_are_those_of_the_linear_gaussian_model():
    generator = torch.Generator().manual_seed(3)
    for n, D, d in SIZES:
        x, W, variance = problem(generator, n, D, d)
        for noise in (variance, 1e-12 * variance):
            loc, C = e_step(x, W, noise)
            m, S = LinearGaussian(W, noise).posterior(x)
            torch.testing.assert_close(loc, m)
            torch.testing.assert_close(C, S @ S.mT)


def test_logarithms_do_not_underflow():
    joint = torch.tensor([-3000.0, -3001.0, -torch.inf])
    q = joint.log_softmax(-1)
    torch.testing.assert_close(elbo(joint, q), joint.logsumexp(-1))


def test_gradients_are_finite_where_probabilities_are_zero():
    joint = torch.tensor([0.3, 0.0, 0.2], dtype=DOUBLE).log().requires_grad_()
    scores = torch.tensor([0.4, -torch.inf, -0.3], dtype=DOUBLE, requires_grad=True)
    elbo(joint, scores.log_softmax(-1)).backward()
    assert scores.grad.isfinite().all()
    torch.testing.assert_close(joint.grad, scores.detach().softmax(-1))


def test_an_estimate_from_samples():
    generator = torch.Generator().manual_seed(4)
    q = Normal(torch.tensor([0.3, -0.4], dtype=DOUBLE), torch.tensor([0.7, 0.9], dtype=DOUBLE))
    noise = torch.randn(4000, 2, generator=generator, dtype=DOUBLE)
    z = q.loc + q.scale * noise
    found = elbo_estimate(line(torch.tensor(1.5), z), q.log_prob(z))
    assert found.mean.shape == (2,)
    model = LinearGaussian(torch.tensor([[1.5]], dtype=DOUBLE), 1.0)
    two = torch.tensor([2.0], dtype=DOUBLE)
    exact = model.elbo(two, Gaussian(q.loc[:, None], q.scale[:, None, None]))
    assert (found.z_score(exact).abs() < 5).all()
    m, S = model.posterior(two)
    z = m + S[0, 0] * noise[:, 0]
    found = elbo_estimate(line(torch.tensor(1.5), z), Normal(m, S[0, 0]).log_prob(z))
    torch.testing.assert_close(found.mean, model.log_evidence(two))
    assert found.standard_error < 1e-15


def test_the_figures_draw_what_they_say():
    snippet = run_path(str(SNIPPET))
    fig = Figure(layout="constrained")
    snippet["figure_laws"](fig)
    drawn = fig.axes[0].lines
    for circle, text in zip(drawn[:5], fig.axes[0].texts, strict=True):
        m, s = torch.tensor(np.array(circle.get_data()))[:, 1:-1]
        leads_to = m_step(torch.tensor([[2.0]]), m.view(-1, 1, 1), s.square().view(-1, 1, 1))
        torch.testing.assert_close(leads_to, leads_to[:1].expand(59, 1, 1), rtol=1e-4, atol=0)
        assert text.get_text() == f"{leads_to[0].item():.2f}"
    ax = Figure().add_subplot()
    snippet["figure_staircase"](ax)
    corners = np.array(ax.lines[2].get_data()).T
    theta = torch.tensor([[0.5]])
    for low, high in zip(corners[::2], corners[1::2], strict=False):
        assert low[0] == high[0] == pytest.approx(theta.item())
        theta = em_step(torch.tensor([[2.0]]), theta)
        assert high[1] == pytest.approx(theta.item())


@pytest.mark.usefixtures("untyped")
def test_bad_laws_raise():
    joint, q = torch.zeros(3), torch.full((3,), 1 / 3).log()
    for function in (expected_log_joint, elbo):
        with pytest.raises(ValueError, match="log_joint must have 3 values of z, got 1"):
            function(joint[:1], q)
        with pytest.raises(ValueError, match="log_q must have a logsumexp of 0"):
            function(joint, q + 0.1)
    for bad in (q.exp(), torch.full((3,), math.nan), torch.full((3,), -math.inf)):
        with pytest.raises(ValueError, match="log_q must have a logsumexp of 0 over z, got one"):
            entropy(bad)
    with pytest.raises(ValueError, match=re.escape("one shape, got (3,) and (3, 1)")):
        elbo_estimate(joint, q[:, None])


@pytest.mark.usefixtures("untyped")
def test_bad_data_and_noise_raise():
    x, W = torch.ones(5, 3), torch.ones(3, 2)
    for function in (e_step, em_step):
        with pytest.raises(ValueError, match="x must have 3 columns, one for each row of W, got 1"):
            function(x[:, :1], W)
        for variance in (0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0, 1.0])):
            with pytest.raises(ValueError, match="variance must be positive and finite, got"):
                function(x, W, variance)
    for covariance in (torch.ones(2), torch.ones(1, 1)):
        with pytest.raises(ValueError, match=re.escape("covariance must end in the shape (2, 2)")):
            m_step(x, torch.ones(5, 2), covariance)
