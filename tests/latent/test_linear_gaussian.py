import math
import re
from itertools import product
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy.optimize
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genref._site.claims import mutant
from genref.latent.linear_gaussian import (
    Gaussian,
    LinearGaussian,
    divergence,
    entropy,
    maximum_likelihood,
    mean_field,
)

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/latent/linear_gaussian.py"
SIZES = [(3, 3), (3, 2), (2, 4), (5, 1), (1, 3), (1, 1), (2, 2), (6, 3)]
"""The pairs (D, d). The first is square, where a matrix and its transpose may be confused."""


def problem(generator, D, d, small=0.3, large=2.0):
    """Weights, noise variances, mean and a datum that the model may well have drawn."""
    W = torch.randn(D, d, generator=generator, dtype=DOUBLE)
    variance = small + (large - small) * torch.rand(D, generator=generator, dtype=DOUBLE)
    mean = 1 + torch.randn(D, generator=generator, dtype=DOUBLE)
    z = torch.randn(d, generator=generator, dtype=DOUBLE)
    noise = torch.randn(D, generator=generator, dtype=DOUBLE)
    return W, variance, mean, mean + W @ z + variance.sqrt() * noise


def law(generator, d):
    """A mean and a matrix of scales, not triangular, of either orientation."""
    left, right = torch.randn(2, d, d, generator=generator, dtype=DOUBLE)
    stretch = 0.4 + torch.rand(d, generator=generator, dtype=DOUBLE)
    scale = torch.linalg.qr(left).Q * stretch @ torch.linalg.qr(right).Q
    return torch.randn(d, generator=generator, dtype=DOUBLE), scale


def marginal(W, variance, mean):
    """The law of a datum."""
    return MultivariateNormal(mean, W @ W.T + variance.diag())


def conditional(W, variance, mean, x):
    """The law of z given x, cut from the normal law of both."""
    gain = torch.linalg.solve(W @ W.T + variance.diag(), W).T
    return MultivariateNormal(gain @ (x - mean), torch.eye(W.shape[1], dtype=DOUBLE) - gain @ W)


def log_joint(W, variance, mean, x, z):
    """The log-density of (x, z), for many z at once."""
    likelihood = Normal(mean + z @ W.T, variance.sqrt()).log_prob(x).sum(-1)
    return likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1)


def nodes(n, d):
    """The nodes and weights of a Gauss-Hermite rule for the normal law of d dimensions."""
    node, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    grid = torch.cartesian_prod(*[node] * d).view(-1, d)
    weights = torch.cartesian_prod(*[weight / weight.sum()] * d).view(-1, d).prod(1)
    return grid, weights


def by_quadrature(W, variance, mean, x):
    """The evidence, the mean and the covariance of z, by the trapezoidal rule."""
    d = W.shape[1]
    step = 0.01 if d == 1 else 0.05
    line = torch.arange(-12, 12, step, dtype=DOUBLE)
    z = torch.cartesian_prod(*[line] * d).view(-1, d)
    joint = log_joint(W, variance, mean, x, z)
    share = joint.softmax(0)
    centre = share @ z
    covariance = (z - centre).T @ (share[:, None] * (z - centre))
    return joint.logsumexp(0) + d * math.log(step), centre, covariance


def precise(W, variance, mean, x):
    """The evidence, the mean and the covariance of z, in 60 digits from the law of both."""
    with mpmath.workdps(60):
        W, r = mpmath.matrix(W.tolist()), mpmath.matrix(x.tolist()) - mpmath.matrix(mean.tolist())
        sigma = W * W.T + mpmath.diag([mpmath.mpf(v) for v in variance.tolist()])
        quadratic = (r.T * mpmath.lu_solve(sigma, r))[0]
        log_det = mpmath.log(mpmath.det(sigma)) + W.rows * mpmath.log(2 * mpmath.pi)
        gain = W.T * sigma**-1
        C = mpmath.eye(W.cols) - gain * W
        values = [float(v) for v in gain * r]
        covariance = [[float(C[i, j]) for j in range(W.cols)] for i in range(W.cols)]
        return (
            torch.tensor(float(-(quadratic + log_det) / 2), dtype=DOUBLE),
            torch.tensor(values, dtype=DOUBLE),
            torch.tensor(covariance, dtype=DOUBLE),
        )


@pytest.mark.claim("linear-gaussian-evidence")
def test_evidence(evidence, model=LinearGaussian):
    for D, d in SIZES:
        W, variance, mean, x = problem(evidence.generator, D, d)
        log_p = model(W, variance, mean).log_evidence(x)
        evidence.numeric(
            log_p,
            marginal(W, variance, mean).log_prob(x),
            bound=1e-11,
            oracle="the normal law of the datum with its dense covariance",
        )
        if d < 3:
            evidence.numeric(
                log_p,
                by_quadrature(W, variance, mean, x)[0],
                bound=1e-11,
                oracle="the integral over z by the trapezoidal rule",
            )
        centre = model(W, variance, mean).log_evidence(mean)
        small = np.eye(d) + (W.T / variance @ W).numpy()
        evidence.numeric(
            -2 * centre,
            np.linalg.slogdet(small)[1] + (2 * math.pi * variance).log().sum(),
            bound=1e-11,
            oracle="the determinant of the claim",
        )
        evidence.numeric(
            2 * (centre - log_p),
            ridge(W, variance, x - mean),
            bound=1e-10,
            relative=True,
            oracle="the ridge regression of the claim, by singular values",
        )
        W, variance, mean, x = problem(evidence.generator, D, d, 1e-6, 1e-6)
        digits = precise(W, variance, mean, x)[0]
        evidence.numeric(
            model(W, variance, mean).log_evidence(x) / (1 + digits.abs()),
            digits / (1 + digits.abs()),
            bound=5e-12,
            oracle="60 digits, at a noise variance of a millionth",
        )


def ridge(W, variance, r):
    """The least sum of squares, where numpy finds it."""
    top, target = W / variance.sqrt()[:, None], r / variance.sqrt()
    rows = np.vstack([top.numpy(), np.eye(W.shape[1])])
    z = np.linalg.lstsq(rows, np.append(target.numpy(), np.zeros(W.shape[1])))[0]
    return ((r - W @ torch.from_numpy(z)) ** 2 / variance).sum() + z @ z


@mutant(test_evidence, "the standard deviation in place of the variance")
def deviation_for_variance(W, variance, mean):
    return LinearGaussian(W, variance.sqrt(), mean)


@mutant(test_evidence, "the transpose of the weights")
def transposed(W, variance, mean):
    return LinearGaussian(W.T, variance, mean)


@mutant(test_evidence, "the determinant of the noise alone")
class NoDeterminant(LinearGaussian):
    def log_evidence(self, x):
        return super().log_evidence(x) + self.information()


@mutant(test_evidence, "the likelihood at the posterior mean in place of the integral")
class PlugIn(LinearGaussian):
    def log_evidence(self, x):
        z = self.posterior(x).loc
        return Normal(self.mean + self.W @ z, self.variance.sqrt()).log_prob(x).sum(-1)


@mutant(test_evidence, "the ridge penalty left out")
class NoPenalty(LinearGaussian):
    def log_evidence(self, x):
        return super().log_evidence(x) + self.posterior(x).loc.square().sum(-1) / 2


@pytest.mark.claim("linear-gaussian-posterior")
def test_posterior(evidence, model=LinearGaussian):
    for D, d in SIZES:
        W, variance, mean, x = problem(evidence.generator, D, d)
        m, S = model(W, variance, mean).posterior(x)
        C = S @ S.T
        dense = conditional(W, variance, mean, x)
        evidence.numeric(m, dense.mean, bound=1e-11, oracle="the law of z and x, conditioned on x")
        evidence.numeric(
            C,
            dense.covariance_matrix,
            bound=1e-11,
            oracle="the law of z and x, conditioned on x",
        )
        if d < 3:
            _, centre, spread = by_quadrature(W, variance, mean, x)
            oracle = "moments of z by the trapezoidal rule"
            evidence.numeric(m, centre, bound=1e-11, oracle=oracle)
            evidence.numeric(C, spread, bound=1e-11, oracle=oracle)
        slope, curvature = derivatives(W, variance, mean, x)
        oracle = "a Newton step up the log joint density, by automatic differentiation"
        evidence.numeric(m, torch.linalg.solve(-curvature, slope), bound=1e-11, oracle=oracle)
        evidence.numeric(C, torch.linalg.inv(-curvature), bound=1e-11, oracle=oracle)
        evidence.numeric(
            model(W, variance, mean).posterior(x + 1).scale,
            torch.linalg.cholesky(dense.covariance_matrix),
            bound=1e-10,
            oracle="the covariance at another datum",
        )
        W, variance, mean, x = problem(evidence.generator, D, d, 1e-6, 1e-6)
        m, S = model(W, variance, mean).posterior(x)
        _, centre, spread = precise(W, variance, mean, x)
        oracle = "60 digits, at a noise variance of a millionth"
        size, extent = centre.norm(), spread.norm()
        evidence.numeric(m / size, centre / size, bound=1e-12, oracle=oracle)
        evidence.numeric(S @ S.T / extent, spread / extent, bound=1e-12, oracle=oracle)


def derivatives(W, variance, mean, x):
    """The gradient and the Hessian of the log joint density at z = 0."""
    zero = torch.zeros(W.shape[1], dtype=DOUBLE)
    density = lambda z: log_joint(W, variance, mean, x, z)
    functional = torch.autograd.functional
    return functional.jacobian(density, zero), functional.hessian(density, zero)


mutant(test_posterior, "the standard deviation in place of the variance")(deviation_for_variance)
mutant(test_posterior, "the transpose of the weights")(transposed)


@mutant(test_posterior, "the mean of the data is not subtracted")
def not_centred(W, variance, mean):
    return LinearGaussian(W, variance)


@mutant(test_posterior, "the prior is forgotten: least squares without a ridge")
class Flat(LinearGaussian):
    def posterior(self, x):
        precision = self.W.T / self.variance @ self.W
        C = torch.linalg.inv(precision)
        m = C @ self.W.T @ ((x - self.mean) / self.variance)
        return Gaussian(m, torch.linalg.cholesky(C))


@mutant(test_posterior, "the precision in place of the covariance")
class Precision(LinearGaussian):
    def posterior(self, x):
        m, S = super().posterior(x)
        return Gaussian(m, torch.linalg.inv(S).mT)


@pytest.mark.claim("linear-gaussian-elbo")
def test_elbo(evidence, model=LinearGaussian, kl=divergence):
    for D, d in SIZES:
        W, variance, mean, x = problem(evidence.generator, D, d)
        loc, scale = law(evidence.generator, d)
        q = MultivariateNormal(loc, scale @ scale.T)
        bound = model(W, variance, mean).elbo(x, Gaussian(loc, scale))
        dense = conditional(W, variance, mean, x)
        gap = kl_divergence(q, dense)
        evidence.numeric(
            bound,
            marginal(W, variance, mean).log_prob(x) - gap,
            bound=1e-11,
            relative=True,
            oracle="dense evidence less dense divergence",
        )
        if d < 4:
            node, weight = nodes(3, d)
            z = loc + node @ scale.T
            excess = log_joint(W, variance, mean, x, z) - q.log_prob(z)
            evidence.numeric(
                bound,
                weight @ excess,
                bound=1e-11,
                relative=True,
                oracle="three nodes of Gauss-Hermite quadrature, exact for quadratics",
            )
        evidence.numeric(
            bound,
            written_out(W, variance, x - mean, loc, scale @ scale.T),
            bound=1e-11,
            relative=True,
            oracle="the formula of the claim, coordinate by coordinate",
        )
        p = LinearGaussian(W, variance, mean).posterior(x)
        evidence.numeric(
            kl(Gaussian(loc, scale), p),
            gap,
            bound=1e-11,
            relative=True,
            oracle="dense divergence",
        )
        evidence.numeric(
            model(W, variance, mean).elbo(x, p),
            marginal(W, variance, mean).log_prob(x),
            bound=1e-11,
            oracle="dense evidence, at the posterior",
        )


def written_out(W, variance, r, m, C):
    """The two lines of the claim, with numpy."""
    W, v, r, m, C = (a.numpy() for a in (W, variance, r, m, C))
    fit = ((r - W @ m) ** 2 + np.einsum("ij,jk,ik->i", W, C, W)) / v + np.log(2 * np.pi * v)
    return -fit.sum() / 2 - (m @ m + np.trace(C) - len(m) - np.linalg.slogdet(C)[1]) / 2


as_model = mutant(test_elbo, "the standard deviation in place of the variance", of="model")
as_model(deviation_for_variance)


@mutant(test_elbo, "the entropy is dropped", of="model")
class NoEntropy(LinearGaussian):
    def elbo(self, x, q):
        return self.expected_log_joint(x, q)


@mutant(test_elbo, "the divergence from q to the posterior is taken the other way", of="model")
class Reversed(LinearGaussian):
    def elbo(self, x, q):
        return self.log_evidence(x) - divergence(self.posterior(x), q)


@mutant(test_elbo, "the joint density at the mean of q in place of its expectation", of="model")
class AtTheMean(LinearGaussian):
    def elbo(self, x, q):
        return log_joint(self.W, self.variance, self.mean, x, q.loc) + entropy(q)


@mutant(test_elbo, "the gap is added", of="model")
class Above(LinearGaussian):
    def elbo(self, x, q):
        return self.log_evidence(x) + divergence(q, self.posterior(x))


@mutant(test_elbo, "the arguments change places", of="kl")
def reverse(q, p):
    return divergence(p, q)


@mutant(test_elbo, "the dimension is not subtracted", of="kl")
def without_dimension(q, p):
    return divergence(q, p) + q.loc.shape[-1] / 2


@pytest.mark.claim("linear-gaussian-mean-field")
def test_mean_field(evidence, best=mean_field):
    for d in (2, 3, 5):
        loc, scale = law(evidence.generator, d)
        p = MultivariateNormal(loc, scale @ scale.T)
        found = best(Gaussian(loc, scale))
        q = MultivariateNormal(found.loc, found.scale @ found.scale.T)
        precision = np.linalg.inv((scale @ scale.T).numpy())
        evidence.numeric(found.loc, loc, bound=1e-12, oracle="the mean of p")
        evidence.numeric(
            found.covariance,
            np.diag(1 / np.diag(precision)),
            bound=1e-11,
            oracle="the diagonal of the inverse covariance",
        )
        gap = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
        evidence.numeric(kl_divergence(q, p), gap, bound=1e-10, oracle="the gap of the claim")
        evidence.numeric(
            kl_divergence(q, p),
            least(p, evidence.generator),
            bound=1e-9,
            oracle="minimisation over means and deviations from a random start",
        )
        evidence.ordered(
            found.covariance.diagonal(),
            p.variance,
            bound=1e-12,
            oracle="the variances of p",
        )
    loc, scale = law(evidence.generator, 2)
    p = MultivariateNormal(loc, scale @ scale.T)
    found = best(Gaussian(loc, scale))
    q = MultivariateNormal(found.loc, found.scale @ found.scale.T)
    widths = p.precision_matrix.diagonal().rsqrt()
    for one, other in product((uniform, laplace, normal), (uniform, laplace)):
        for factor in (0.8, 1.1, 1.7):
            evidence.ordered(
                kl_divergence(q, p),
                factorised(p, one(loc[0], factor * widths[0]), other(loc[1], widths[1])),
                bound=0,
                oracle="divergences of laws with uniform, Laplace and normal factors",
            )
    W, variance, mean, x = problem(evidence.generator, 5, 3)
    W = variance.sqrt()[:, None] * torch.linalg.qr(W).Q * torch.tensor([2.0, 1.5, 0.4])
    dense = conditional(W, variance, mean, x)
    found = best(LinearGaussian(W, variance, mean).posterior(x))
    evidence.numeric(
        found.covariance,
        dense.covariance_matrix,
        bound=1e-12,
        oracle="the posterior, where the scaled columns are orthogonal",
    )


def least(p, generator):
    """The least divergence from p of normal laws with independent coordinates."""
    d = len(p.mean)

    def loss(parameters):
        at = torch.from_numpy(parameters).requires_grad_()
        q = MultivariateNormal(at[:d], at[d:].exp().square().diag())
        value = kl_divergence(q, p)
        value.backward()
        return value.item(), at.grad.numpy()

    start = torch.randn(2 * d, generator=generator, dtype=DOUBLE).numpy()
    return np.float64(scipy.optimize.minimize(loss, start, jac=True, tol=1e-12).fun)


def uniform(centre, width):
    """Nodes, weights and log-densities of a uniform law of this standard deviation."""
    node, weight = np.polynomial.legendre.leggauss(4)
    half = 3**0.5 * width
    node, weight = torch.from_numpy(node), torch.from_numpy(weight / 2)
    return centre + half * node, weight, -torch.log(2 * half)


def laplace(centre, width):
    """The same of a Laplace law."""
    node, weight = (torch.from_numpy(a) for a in np.polynomial.laguerre.laggauss(4))
    scale = width / 2**0.5
    both = torch.cat([centre - scale * node, centre + scale * node])
    return both, weight.repeat(2) / 2, -torch.log(2 * scale) - node.repeat(2)


def normal(centre, width):
    """The same of a normal law."""
    node, weight = nodes(4, 1)
    return centre + width * node[:, 0], weight, Normal(0.0, 1.0).log_prob(node[:, 0]) - width.log()


def factorised(p, one, other):
    """The divergence from p of the product of two laws, by quadrature that is exact here."""
    grid = torch.cartesian_prod(one[0], other[0])
    weight = torch.outer(one[1], other[1]).flatten()
    entropies = (one[1] * one[2]).sum() + (other[1] * other[2]).sum()
    return entropies - weight @ p.log_prob(grid)


@mutant(test_mean_field, "the marginals: the diagonal of the covariance")
def marginals(p):
    return Gaussian(p.loc, torch.diag_embed(p.covariance.diagonal().sqrt()))


@mutant(test_mean_field, "the precisions taken for inverse deviations")
def no_root(p):
    return Gaussian(p.loc, mean_field(p).covariance)


@mutant(test_mean_field, "the diagonal of a Cholesky factor")
def diagonal_of_factor(p):
    return Gaussian(p.loc, torch.linalg.cholesky(p.covariance).diagonal().diag())


@mutant(test_mean_field, "the nearest multiple of the identity")
def isotropic(p):
    precision = torch.linalg.inv(p.covariance).diagonal().mean()
    return Gaussian(p.loc, precision.rsqrt() * torch.eye(len(p.loc), dtype=DOUBLE))


@pytest.mark.claim("linear-gaussian-information")
def test_information(evidence, model=LinearGaussian):
    for D, d in SIZES:
        W, variance, mean, _ = problem(evidence.generator, D, d)
        shared = model(W, variance, mean).information()
        singular = np.linalg.svd((W / variance.sqrt()[:, None]).numpy(), compute_uv=False)
        evidence.numeric(
            shared,
            np.log1p(singular**2).sum() / 2,
            bound=1e-11,
            oracle="singular values of the scaled weights",
        )
        evidence.numeric(
            shared,
            entropies(W, variance),
            bound=1e-11,
            oracle="the entropies of z, of x and of both",
        )
        if D < 4:
            node, weight = nodes(3, D)
            law_of_x = marginal(W, variance, mean)
            data = mean + node @ law_of_x.scale_tril.T
            prior = MultivariateNormal(torch.zeros(d, dtype=DOUBLE), torch.eye(d, dtype=DOUBLE))
            gained = [kl_divergence(conditional(W, variance, mean, x), prior) for x in data]
            evidence.numeric(
                shared,
                weight @ torch.stack(gained),
                bound=1e-11,
                oracle="mean divergence of the dense posterior from the prior, by exact quadrature",
            )


def entropies(W, variance):
    data = W @ W.T + variance.diag()
    both = torch.cat([torch.cat([torch.eye(W.shape[1]), W.T], 1), torch.cat([W, data], 1)])
    return (torch.logdet(data) - torch.logdet(both)) / 2


mutant(test_information, "the standard deviation in place of the variance")(deviation_for_variance)
mutant(test_information, "the transpose of the weights")(transposed)


@mutant(test_information, "the determinant without its half")
class Twice(LinearGaussian):
    def information(self):
        return 2 * super().information()


@mutant(test_information, "the prior is forgotten in the precision")
class Improper(LinearGaussian):
    def information(self):
        return torch.logdet(self.W.T / self.variance @ self.W) / 2


@pytest.mark.claim("linear-gaussian-maximum-likelihood")
def test_maximum_likelihood(evidence, fit=maximum_likelihood):
    for n, D, d in ((40, 4, 2), (9, 5, 1), (5, 7, 3)):
        mixing = law(evidence.generator, D)[1]
        x = 2 + torch.randn(n, D, generator=evidence.generator, dtype=DOUBLE) @ mixing
        fitted = fit(x, d)
        values, vectors = np.linalg.eigh(np.cov(x.T.numpy(), bias=True))
        values, vectors = values[::-1].copy(), vectors[:, ::-1].copy()
        noise = values[d:].mean()
        evidence.numeric(fitted.mean, x.mean(0), bound=1e-13, oracle="the mean of the data")
        evidence.numeric(fitted.variance, noise, bound=1e-11, oracle="discarded eigenvalues")
        evidence.numeric(
            fitted.W @ fitted.W.T,
            vectors[:, :d] * (values[:d] - noise) @ vectors[:, :d].T,
            bound=1e-10,
            oracle="eigenvectors of the covariance of the data",
        )
        reached = marginal(fitted.W, fitted.variance.expand(D), fitted.mean).log_prob(x).mean()
        stated = D * math.log(2 * math.pi * math.e) + np.log(values[:d]).sum()
        evidence.numeric(
            reached,
            -(stated + (D - d) * math.log(noise)) / 2,
            bound=1e-10,
            oracle="the mean log-likelihood of the claim",
        )
        evidence.numeric(
            reached,
            max(climbed(x, d, evidence.generator) for _ in range(2)),
            bound=1e-8,
            oracle="the best of two ascents of the dense log-likelihood from random starts",
        )


def climbed(x, d, generator):
    """The mean log-likelihood where a quasi-Newton method ends."""
    D = x.shape[1]

    def loss(parameters):
        at = torch.from_numpy(parameters).requires_grad_()
        W, log_variance, mean = at[: D * d].view(D, d), at[D * d], at[D * d + 1 :]
        value = -marginal(W, log_variance.exp().expand(D), mean).log_prob(x).mean()
        value.backward()
        return value.item(), at.grad.numpy()

    start = torch.randn(D * d + 1 + D, generator=generator, dtype=DOUBLE).numpy()
    options = {"maxiter": 5000, "gtol": 1e-7}
    return np.float64(-scipy.optimize.minimize(loss, start, jac=True, options=options).fun)


@mutant(test_maximum_likelihood, "principal components that keep their share of the noise")
def noise_counted_twice(x, d):
    found = maximum_likelihood(x, d)
    length = (found.W.square().sum(0) + found.variance).sqrt()
    return LinearGaussian(found.W / found.W.norm(dim=0) * length, found.variance, found.mean)


@mutant(test_maximum_likelihood, "the discarded variance is spread over all coordinates")
def thinned(x, d):
    found = maximum_likelihood(x, d)
    D = x.shape[1]
    return LinearGaussian(found.W, found.variance * (D - d) / D, found.mean)


@mutant(test_maximum_likelihood, "the divisor n - 1")
def unbiased(x, d):
    found, n = maximum_likelihood(x, d), len(x)
    larger = n / (n - 1)
    return LinearGaussian(found.W * larger**0.5, found.variance * larger, found.mean)


@mutant(test_maximum_likelihood, "the data are not centred")
def about_the_origin(x, d):
    found = maximum_likelihood(torch.cat([x, -x]), d)
    return LinearGaussian(found.W, found.variance, torch.zeros_like(x[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_broadcast_and_keep_the_dtype(dtype):
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(3, 4, 2, generator=generator, dtype=dtype)
    variance = 0.5 + torch.rand(3, 4, generator=generator, dtype=dtype)
    mean = torch.randn(4, generator=generator, dtype=dtype)
    x = torch.randn(5, 1, 4, generator=generator, dtype=dtype)
    model = LinearGaussian(W, variance, mean)
    p = model.posterior(x)
    q = mean_field(p)
    assert p.loc.shape == q.loc.shape == (5, 3, 2)
    assert p.scale.shape == p.covariance.shape == q.scale.shape == (3, 2, 2)
    results = {
        "log_evidence": model.log_evidence(x),
        "elbo": model.elbo(x, q),
        "expected_log_joint": model.expected_log_joint(x, q),
        "divergence": divergence(q, p),
    }
    for result in results.values():
        assert result.shape == (5, 3)
        assert result.dtype == dtype
    assert entropy(q).shape == model.information().shape == (3,)
    gap = results["log_evidence"] - results["elbo"]
    torch.testing.assert_close(gap, results["divergence"], atol=1e-4, rtol=1e-4)
    for i, j in product(range(5), range(3)):
        one = LinearGaussian(W[j], variance[j], mean)
        torch.testing.assert_close(one.log_evidence(x[i, 0]), results["log_evidence"][i, j])
        torch.testing.assert_close(one.posterior(x[i, 0]).loc, p.loc[i, j])
    fitted = maximum_likelihood(x[:, 0], 1)
    assert fitted.W.dtype == fitted.variance.dtype == fitted.mean.dtype == dtype
    assert fitted.log_evidence(x[:, 0]).shape == (5,)


def test_a_variance_is_a_number_or_one_for_each_coordinate():
    generator = torch.Generator().manual_seed(2)
    W = torch.randn(4, 2, generator=generator, dtype=DOUBLE)
    x = torch.randn(6, 4, generator=generator, dtype=DOUBLE)
    expected = LinearGaussian(W, torch.full((4,), 0.7, dtype=DOUBLE)).log_evidence(x)
    for variance in (0.7, torch.tensor(0.7, dtype=DOUBLE), torch.tensor([0.7], dtype=DOUBLE)):
        torch.testing.assert_close(LinearGaussian(W, variance).log_evidence(x), expected)
    each = torch.tensor([[0.7], [0.9]], dtype=DOUBLE)
    found = LinearGaussian(W, each).log_evidence(x[:, None])
    assert found.shape == (6, 2)
    torch.testing.assert_close(found[:, 0], expected)


def test_parameters_take_the_dtype_of_the_weights_and_the_data():
    W, variance, mean, x = problem(torch.Generator().manual_seed(2), 4, 2)
    model = LinearGaussian(W.float(), variance, mean)
    for found in (model.log_evidence(x.float()), model.posterior(x.float()).loc):
        assert found.dtype == torch.float32


def test_gradients_are_those_of_the_dense_law():
    W, variance, mean, x = problem(torch.Generator().manual_seed(3), 4, 2)
    leaves = [leaf.requires_grad_() for leaf in (W, variance, mean, x)]
    found = torch.autograd.grad(LinearGaussian(W, variance, mean).log_evidence(x), leaves)
    dense = torch.autograd.grad(marginal(W, variance, mean).log_prob(x), leaves)
    torch.testing.assert_close(found, dense)
    p = LinearGaussian(W, variance, mean).posterior(x)
    other = conditional(W, variance, mean, x)
    for one, two in ((p.loc, other.mean), (p.covariance, other.covariance_matrix)):
        options = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(one.square().sum(), leaves, **options)
        dense = torch.autograd.grad(two.square().sum(), leaves, **options)
        torch.testing.assert_close(found, dense)


def test_the_scale_of_the_posterior_is_a_cholesky_factor():
    W, variance, mean, x = problem(torch.Generator().manual_seed(4), 3, 4)
    p = LinearGaussian(W, variance, mean).posterior(x)
    assert torch.equal(p.scale, p.scale.tril())
    torch.testing.assert_close(p.scale, torch.linalg.cholesky(p.covariance))
    draws = MultivariateNormal(p.loc, scale_tril=p.scale)
    torch.testing.assert_close(entropy(p), draws.entropy())


def test_a_rotation_of_the_scale_changes_nothing():
    generator = torch.Generator().manual_seed(5)
    W, variance, mean, x = problem(generator, 4, 3)
    model = LinearGaussian(W, variance, mean)
    q = Gaussian(*law(generator, 3))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=DOUBLE)).Q
    turned = Gaussian(q.loc, -q.scale @ turn)
    torch.testing.assert_close(model.elbo(x, turned), model.elbo(x, q))
    torch.testing.assert_close(divergence(turned, q), torch.zeros((), dtype=DOUBLE))
    torch.testing.assert_close(mean_field(turned).scale, mean_field(q).scale)


def test_a_singular_scale_has_no_entropy():
    q = Gaussian(torch.zeros(2), torch.ones(2, 2))
    assert entropy(q) == -torch.inf
    assert LinearGaussian(torch.ones(3, 2), 1.0).elbo(torch.ones(3), q) == -torch.inf


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf])
def test_a_variance_that_is_not_positive_raises(variance):
    with pytest.raises(ValueError, match="variance must be positive and finite, got"):
        LinearGaussian(torch.ones(3, 2), variance)
    with pytest.raises(ValueError, match="variance must be positive and finite, got"):
        LinearGaussian(torch.ones(3, 2), torch.tensor([1.0, variance, 1.0]))


@pytest.mark.usefixtures("untyped")
def test_data_of_another_dimension_raise():
    model = LinearGaussian(torch.ones(3, 2), 1.0, torch.zeros(3))
    q = Gaussian(torch.zeros(2), torch.eye(2))
    for method in (model.log_evidence, model.posterior, lambda x: model.elbo(x, q)):
        with pytest.raises(ValueError, match=re.escape("x must have 3 coordinates")):
            method(torch.ones(5, 1))


@pytest.mark.usefixtures("untyped")
def test_data_that_leave_no_noise_raise():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(6))
    for d in (0, 3, -1):
        with pytest.raises(ValueError, match=f"d must be at least 1 and less than 3, got {d}"):
            maximum_likelihood(x, d)
    flat = torch.cat([x, x.sum(1, keepdim=True)], 1)
    for few in (x[:3], x[:2], x[:1], flat):
        d = 3 if few is flat else 2
        with pytest.raises(ValueError, match=f"more than d directions, got d = {d}"):
            maximum_likelihood(few, d)
