import math
import re
from fractions import Fraction
from pathlib import Path
from runpy import run_path

import mpmath
import numpy as np
import pytest
import scipy.optimize
import torch
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.latent.beta import optimal_loss
from genref.latent.collapse import (
    collapse_threshold,
    linear_posterior,
    noise_variance,
    squared_weights,
)

DOUBLE = torch.float64
WEIGHTS = (0.13, 0.4, 1.3, 2.6, 9.0)
SNIPPET = Path(__file__).parents[2] / "snippets/latent/collapse.py"


@pytest.fixture(autouse=True)
def one_thread():
    """Descents take thousands of products of tiny matrices, which several threads only delay."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def uniform(low, high, generator, size=()):
    return low + (high - low) * torch.rand(size, generator=generator, dtype=DOUBLE)


def descend(objective, start):
    """The minimum of a function of a tensor, by quasi-Newton steps with its gradient."""

    def call(point):
        point = torch.tensor(point, dtype=DOUBLE, requires_grad=True)
        found = objective(point)
        (slope,) = torch.autograd.grad(found, point)
        return found.item(), slope.numpy()

    options = {"gtol": 1e-11, "maxiter": 5000}
    found = scipy.optimize.minimize(call, np.asarray(start), jac=True, options=options)
    return torch.tensor(found.x, dtype=DOUBLE), found.fun


def normal_on_grid(m, s):
    """Points around m and the weights of a normal law there; sums over them are its means."""
    unit = torch.linspace(-9, 9, 361, dtype=DOUBLE)
    return m + s * unit, (-unit.square() / 2).softmax(0)


def tempered_moments(x, w, variance, beta):
    """Mean and variance of the law in proportion to p(z) p(x | z)^(1 / beta), by quadrature."""
    x, w, variance = (mpmath.mpf(number.item()) for number in (x, w, variance))

    def density(z):
        return mpmath.npdf(z) * mpmath.exp(-((x - w * z) ** 2) / (2 * variance * beta))

    edges = [-12, *range(-6, 7), 12]
    total, first, second = (mpmath.quad(lambda z, k=k: z**k * density(z), edges) for k in (0, 1, 2))
    return float(first / total), float(second / total - (first / total) ** 2)


def tempered_moments_in_the_plane(x, W, variance, beta):
    """The same for two latents, as sums over a fine grid, which are exact for such laws."""
    axis = torch.linspace(-8, 8, 801, dtype=DOUBLE)
    z = torch.cartesian_prod(axis, axis)
    squares = z.square().sum(1) + (x - z @ W.T).square().sum(1) / (variance * beta)
    weight = (-squares / 2).softmax(0)
    mean = weight @ z
    return mean, (z - mean).T @ (weight[:, None] * (z - mean))


def best_normal(x, w, variance, beta):
    """Mean and variance of the normal law of least loss, whose means are sums over nodes."""
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(12))
    weights = weights / weights.sum()

    def objective(law):
        z = law[0] + law[1].exp() * nodes
        log_q = -nodes.square() / 2 - law[1]
        return weights @ ((x - w * z) ** 2 / (2 * variance) + beta * (log_q + z.square() / 2))

    m, log_s = descend(objective, [0.0, 0.0])[0]
    return m, (2 * log_s).exp()


@pytest.mark.claim("x-betavae-linear-gaussian")
def test_linear_gaussian(evidence, linear=linear_posterior):
    for beta in WEIGHTS:
        x, w, variance = uniform(0.4, 1.8, evidence.generator, (3,))
        mean, covariance = linear(x[None], w[None, None], variance, beta)
        moments = torch.stack([mean[0], covariance[0, 0]])
        evidence.numeric(
            moments,
            tempered_moments(x, w, variance, beta),
            bound=1e-12,
            oracle="quadrature of the prior times a power of the likelihood",
        )
        evidence.numeric(
            moments,
            best_normal(x, w, variance, beta),
            bound=1e-7,
            oracle="descent over mean and variance of a normal law",
        )
        evidence.numeric(
            moments,
            [w * x / (w**2 + beta * variance), beta * variance / (w**2 + beta * variance)],
            bound=1e-14,
            oracle="the fractions of the claim",
        )
    for beta in (0.4, 2.6):
        x, variance = uniform(-2, 2, evidence.generator, (3,)), uniform(0.3, 1, evidence.generator)
        W = torch.randn(3, 2, generator=evidence.generator, dtype=DOUBLE)
        mean, covariance = linear(x, W, variance, beta)
        expected_mean, expected = tempered_moments_in_the_plane(x, W, variance, beta)
        evidence.numeric(mean, expected_mean, bound=1e-11, oracle="sums over a grid of the plane")
        evidence.numeric(covariance, expected, bound=1e-11, oracle="sums over a grid of the plane")
        mean, covariance = linear(x, W, variance, math.inf)
        evidence.numeric(mean, torch.zeros(2), bound=1e-15, oracle="the prior")
        evidence.numeric(covariance, torch.eye(2), bound=1e-15, oracle="the prior")
        W = W[:, :1] * uniform(0.5, 1, evidence.generator, (2,))
        inverse = torch.linalg.pinv(W)
        mean, covariance = linear(x, W, variance, 1e-8)
        evidence.numeric(mean, inverse @ x, bound=1e-6, oracle="the pseudo-inverse")
        kernel = torch.eye(2) - inverse @ W
        evidence.numeric(covariance, kernel, bound=1e-6, oracle="the projection on the kernel")


@mutant(test_linear_gaussian, "the posterior for every weight")
def true_posterior(x, W, variance, beta):
    return linear_posterior(x, W, variance, 1)


@mutant(test_linear_gaussian, "the noise is divided by the weight")
def divided_noise(x, W, variance, beta):
    return linear_posterior(x, W, variance, 1 / beta if beta < math.inf else 1e-9)


@mutant(test_linear_gaussian, "the covariance of the posterior times the weight")
def widened(x, W, variance, beta):
    mean, covariance = linear_posterior(x, W, variance, 1)
    return mean, beta * covariance


@mutant(test_linear_gaussian, "the covariance without the weight before it")
def too_narrow(x, W, variance, beta):
    mean, covariance = linear_posterior(x, W, variance, beta)
    return mean, covariance / beta


@mutant(test_linear_gaussian, "the mean is not shrunk")
def unshrunk(x, W, variance, beta):
    return torch.linalg.pinv(W) @ x, linear_posterior(x, W, variance, beta)[1]


def data(generator, D=3):
    """Eigenvalues in descending order that differ clearly, and the covariance they belong to."""
    eigenvalues = torch.tensor([6.0, 2.5, 0.8], dtype=DOUBLE)[:D]
    eigenvalues = eigenvalues * uniform(0.8, 1.2, generator, (D,))
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=DOUBLE))[0]
    return eigenvalues, basis @ torch.diag(eigenvalues) @ basis.T


def mean_loss(S, W, A, L, variance, beta):
    """Mean loss of data with covariance S for the decoder W and the encoder N(Ax, LL')."""
    D, d = W.shape
    residual = torch.eye(D, dtype=DOUBLE) - W @ A
    error = (residual @ S @ residual.T).trace() + (W @ L).square().sum()
    log_det = L.diagonal().abs().log().sum()
    rate = ((A @ S @ A.T).trace() + L.square().sum() - d) / 2 - log_det
    log_normaliser = D / 2 * (2 * torch.pi * variance).log()
    return error / (2 * variance) + log_normaliser + beta * rate, error, rate


def trained(S, d, beta, generator, variance=None):
    """Squared singular values, noise variance, squared error and rate of the better of two runs."""
    D = len(S)

    def unpack(free):
        W, A = free[: D * d].view(D, d), free[D * d : 2 * D * d].view(d, D)
        L = free[2 * D * d : -1].view(d, d).tril()
        return S, W, A, L, variance if variance is not None else free[-1].exp(), beta

    runs = []
    for _ in range(2):
        start = torch.randn(2 * D * d + d * d + 1, generator=generator, dtype=DOUBLE)
        start[2 * D * d : -1] += torch.eye(d, dtype=DOUBLE).flatten()
        start[-1] = 0
        runs.append(descend(lambda free: mean_loss(*unpack(free))[0], start))
    free = min(runs, key=lambda run: run[1])[0]
    _, W, *_, noise, _ = unpack(free)
    return torch.linalg.svdvals(W).square(), noise, *mean_loss(*unpack(free))[1:]


def curvature(beta, eigenvalue, variance):
    """Second derivative by w at w = 0 of the mean least loss of a decoder in one dimension.

    Logarithms of means over the prior, averaged over normal data, both as sums over nodes.
    """
    nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(20))
    log_weights = (weights / weights.sum()).log()
    w = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    x = math.sqrt(eigenvalue) * nodes[:, None]
    exponent = -((x - w * nodes) ** 2) / (2 * beta * variance) + log_weights
    total = -beta * (log_weights.exp() * exponent.logsumexp(1)).sum()
    (slope,) = torch.autograd.grad(total, w, create_graph=True)
    return torch.autograd.grad(slope, w)[0].item()


@pytest.mark.claim("x-betavae-collapse")
def test_collapse(evidence, weights=squared_weights, threshold=collapse_threshold):
    eigenvalues = data(evidence.generator)[0]
    variance = uniform(0.3, 0.7, evidence.generator).item()
    evidence.numeric(
        threshold(eigenvalues, variance),
        [
            scipy.optimize.brentq(curvature, 0.1, 100, (eigenvalue, variance), xtol=1e-13)
            for eigenvalue in eigenvalues.tolist()
        ],
        bound=1e-9,
        oracle="where the loss bends down at a weight of zero, by automatic differentiation",
    )
    for level in (0.3, 1.4, 4.0, 9.0):
        eigenvalues, S = data(evidence.generator)
        variance = uniform(0.3, 0.7, evidence.generator)
        beta = level / variance.item()
        for d in (1, 2, 3):
            squares = weights(eigenvalues[:d], variance, beta)
            found, _, error, rate = trained(S, d, beta, evidence.generator, variance)
            evidence.numeric(squares, found, bound=1e-6, oracle="descent over decoder and encoder")
            W = torch.diag(squares.sqrt())
            x = torch.diag(eigenvalues[:d].sqrt())
            mean, covariance = linear_posterior(x, W, variance, beta)
            spread = covariance[0].diagonal()
            errors = (x - mean @ W).square().sum(0) + squares * spread
            rates = (mean.diagonal() ** 2 + spread - 1 - spread.log()) / 2
            evidence.numeric(
                [errors.sum() + eigenvalues[d:].sum(), rates.sum()],
                [error, rate],
                bound=1e-6,
                oracle="descent over decoder and encoder",
            )
            kept = eigenvalues[:d] > level
            evidence.numeric(
                errors,
                eigenvalues[:d].where(~kept, level),
                bound=1e-13,
                oracle="the error of the claim",
            )
            evidence.numeric(
                rates,
                ((eigenvalues[:d] / level).log() / 2).where(kept, 0),
                bound=1e-13,
                oracle="the cost of the claim",
            )


@mutant(test_collapse, "the weight plays no part", of="weights")
def principal_components(eigenvalues, variance, beta):
    return squared_weights(eigenvalues, variance, 1)


@mutant(test_collapse, "all directions collapse together", of="weights")
def together(eigenvalues, variance, beta):
    alive = eigenvalues.mean() > beta * variance
    return (eigenvalues - beta * variance).where(alive, 0).clamp(min=0)


@mutant(test_collapse, "nothing is subtracted from what survives", of="weights")
def hard_threshold(eigenvalues, variance, beta):
    return eigenvalues.where(eigenvalues > beta * variance, 0)


@mutant(test_collapse, "the threshold does not depend on the data", of="threshold")
def of_noise_alone(eigenvalues, variance):
    return torch.full_like(eigenvalues, 1 / variance)


@mutant(test_collapse, "the threshold is inverted", of="threshold")
def inverted(eigenvalues, variance):
    return variance / eigenvalues


@mutant(test_collapse, "standard deviations for variances", of="threshold")
def ratio_of_deviations(eigenvalues, variance):
    return (eigenvalues / variance).sqrt()


def profile_slope(log_variance, eigenvalues, d, beta):
    """Derivative by log variance of the mean loss, where the spectrum of WW' + beta s I is free."""
    s = torch.tensor(log_variance, dtype=DOUBLE).exp().requires_grad_()
    D = len(eigenvalues)
    spectrum = torch.maximum(eigenvalues, beta * s.detach())
    spectrum = torch.cat([spectrum[:d], (beta * s.detach()).expand(D - d)])
    weights = spectrum - beta * s.detach()
    spectrum = weights + beta * s
    rate = (spectrum / (beta * s)).log() + eigenvalues / spectrum
    total = D / 2 * s.log() + beta / 2 * rate.sum()
    return (torch.autograd.grad(total, s)[0] * s.detach()).item()


def profiled(eigenvalues, d, beta):
    """The noise variance of least loss: a zero of the derivative."""
    arguments = (eigenvalues, d, beta)
    return math.exp(scipy.optimize.brentq(profile_slope, -20, 5, arguments, xtol=1e-14))


def last_breath(eigenvalues, j):
    """The weight at which the j-th eigenvalue is beta times the learnt variance."""

    def alive(beta):
        return eigenvalues[j].item() - beta * profiled(eigenvalues, j + 1, beta)

    return scipy.optimize.brentq(alive, 0.5 if j + 1 < len(eigenvalues) else 1.001, 20, xtol=1e-12)


@pytest.mark.claim("betavae-learnt-noise")
def test_learnt_noise(
    evidence,
    noise=noise_variance,
    threshold=collapse_threshold,
    least=optimal_loss,
):
    eigenvalues = data(evidence.generator)[0]
    evidence.numeric(
        threshold(eigenvalues)[:2],
        [last_breath(eigenvalues, 0), last_breath(eigenvalues, 1)],
        bound=1e-9,
        oracle="where an eigenvalue meets the weighted variance, which a derivative gives",
    )
    evidence.numeric(threshold(eigenvalues)[2], 1, bound=1e-14, oracle="the last one dies at one")
    evidence.exact(noise(eigenvalues, 0.8, 3), 0.0, oracle="no lower bound")
    evidence.numeric(noise(eigenvalues, 1, 3), eigenvalues[2], bound=1e-14, oracle="the smallest")
    eigenvalue = eigenvalues[:1]
    evidence.numeric(noise(eigenvalue, 1.7, 1), eigenvalue[0], bound=1e-14, oracle="the claim")
    z, prior = normal_on_grid(0.0, 1.0)
    for beta in (0.6, 1.0):
        variances = eigenvalue * torch.tensor([0.9, 0.5, 0.2], dtype=DOUBLE)
        w = (eigenvalue - beta * variances).sqrt()[:, None]
        law = torch.distributions.Normal(w * z, variances.sqrt()[:, None])
        values = least(prior, law.log_prob(eigenvalue.sqrt()).exp(), beta)
        evidence.numeric(
            values.diff(),
            (1 - beta) / 2 * variances.log().diff(),
            bound=1e-9,
            oracle="level at one, a logarithm without bound below it",
        )
    nine = torch.tensor([9.0, 1.0, 1.0], dtype=DOUBLE)
    found = noise(nine, 1.3, 1)
    evidence.numeric(found, Fraction(20, 17), bound=1e-15, oracle="2 / (3 - 1.3)")
    evidence.exact(
        [f"{found:.6f}", f"{squared_weights(nine[:1], found, 1.3)[0]:.6f}"],
        ["1.176471", "7.470588"],
        oracle="the decimals of the claim",
    )
    for d, beta in ((1, 0.7), (1, 1.6), (2, 0.6), (2, 1.4), (3, 1.2), (3, 2.2), (2, 4.0)):
        eigenvalues, S = data(evidence.generator)
        found = noise(eigenvalues, beta, d)
        squares, learnt, error, _ = trained(S, d, beta, evidence.generator)
        oracle = "descent over decoder, encoder and variance"
        evidence.numeric(found, learnt, bound=1e-6, oracle=oracle)
        evidence.numeric(3 * found, error, bound=1e-6, oracle="the squared error of that descent")
        weights = squared_weights(eigenvalues[:d], found, beta)
        evidence.numeric(weights, squares, bound=1e-6, oracle=oracle)
        evidence.numeric(
            found,
            profiled(eigenvalues, d, beta),
            bound=1e-12,
            oracle="a zero of the derivative of the mean loss",
        )
        alive = (threshold(eigenvalues)[:d] > beta).sum()
        evidence.exact(alive, (squares > 1e-4).sum(), oracle=oracle)


@mutant(test_learnt_noise, "the mean of the discarded eigenvalues", of="noise")
def discarded(eigenvalues, beta, latents):
    return eigenvalues[latents:].mean() if latents < len(eigenvalues) else eigenvalues.new_zeros(())


@mutant(test_learnt_noise, "every latent is taken to survive", of="noise")
def all_survive(eigenvalues, beta, latents):
    return eigenvalues[latents:].sum() / (len(eigenvalues) - beta * latents + 1e-12)


@mutant(test_learnt_noise, "all collapses above one, as in one dimension", of="noise")
def all_collapse(eigenvalues, beta, latents):
    return eigenvalues.mean() if beta > 1 else noise_variance(eigenvalues, beta, latents)


@mutant(test_learnt_noise, "every direction dies at one", of="threshold")
def at_one(eigenvalues):
    return torch.ones_like(eigenvalues)


@mutant(test_learnt_noise, "compared with the mean of all eigenvalues", of="threshold")
def against_mean(eigenvalues):
    return eigenvalues / eigenvalues.mean()


@mutant(test_learnt_noise, "a weight other than one only scales the loss", of="least")
def only_scaled(prior, likelihood, beta):
    return beta * optimal_loss(prior, likelihood, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    W, x = torch.ones(3, 2, dtype=dtype), torch.ones(3, dtype=dtype)
    beta = torch.tensor(0.5, dtype=DOUBLE)
    for result in (
        *linear_posterior(x, W, 0.5, beta),
        squared_weights(x, 0.5, beta),
        collapse_threshold(x, 0.5),
        collapse_threshold(x),
        noise_variance(x, beta, 1),
    ):
        assert result.dtype == dtype


def test_batches_of_linear_decoders_broadcast():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 1, 3, generator=generator, dtype=DOUBLE)
    W = torch.randn(5, 3, 2, generator=generator, dtype=DOUBLE)
    beta, variance = uniform(0.2, 2, generator, (5,)), uniform(0.2, 2, generator, (4, 1))
    mean, covariance = linear_posterior(x, W, variance, beta)
    one = linear_posterior(x[2, 0], W[3], variance[2, 0], beta[3])
    torch.testing.assert_close((mean[2, 3], covariance[2, 3]), one)
    eigenvalues = uniform(0.1, 3, generator, (5, 3))
    noise = noise_variance(eigenvalues, beta, 2)
    squares = squared_weights(eigenvalues, variance, beta)
    fixed, learnt = collapse_threshold(eigenvalues, beta), collapse_threshold(eigenvalues)
    assert squares.shape == (4, 5, 3)
    torch.testing.assert_close(noise[3], noise_variance(eigenvalues[3], beta[3], 2))
    one = squared_weights(eigenvalues[3], variance[2, 0], beta[3])
    torch.testing.assert_close(squares[2, 3], one)
    torch.testing.assert_close(fixed[3], collapse_threshold(eigenvalues[3], beta[3]))
    torch.testing.assert_close(learnt[3], collapse_threshold(eigenvalues[3]))


def test_the_order_of_the_eigenvalues_and_spare_latents_do_not_matter():
    eigenvalues = torch.tensor([1.0, 9.0, 0.5, 4.0], dtype=DOUBLE)
    for latents in (0, 1, 3, 4):
        ordered = noise_variance(eigenvalues.sort(descending=True).values, 1.4, latents)
        torch.testing.assert_close(noise_variance(eigenvalues, 1.4, latents), ordered)
    spare = noise_variance(eigenvalues, 1.4, 7)
    torch.testing.assert_close(spare, noise_variance(eigenvalues, 1.4, 4))
    torch.testing.assert_close(noise_variance(eigenvalues, 0, 1), eigenvalues.sum() / 4 - 9 / 4)


def test_directions_without_variance_are_never_used():
    flat = torch.tensor([2.0, 0.0], dtype=DOUBLE)
    assert collapse_threshold(flat).tolist() == [2.0, 0.0]
    assert collapse_threshold(flat, 0.5).tolist() == [4.0, 0.0]
    assert squared_weights(flat, 0.5, math.inf).tolist() == [0.0, 0.0]
    assert squared_weights(flat, 0.5, 0).tolist() == [2.0, 0.0]


def test_gradients_reach_all_arguments():
    generator = torch.Generator().manual_seed(5)
    W = torch.randn(3, 2, generator=generator, dtype=DOUBLE).requires_grad_()
    x = torch.randn(3, generator=generator, dtype=DOUBLE).requires_grad_()
    for start in (0.3, 2.0, 60.0):
        beta = torch.tensor(start, dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(linear_posterior, (x, W, beta.detach() / 7, beta))
    eigenvalues = torch.tensor([6.0, 2.0, 0.7], dtype=DOUBLE, requires_grad=True)
    beta = torch.tensor(1.4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e, b: noise_variance(e, b, 2), (eigenvalues, beta))
    assert torch.autograd.gradcheck(lambda e, b: squared_weights(e, 0.6, b), (eigenvalues, beta))
    assert torch.autograd.gradcheck(collapse_threshold, eigenvalues)


@pytest.mark.usefixtures("untyped")
def test_what_is_no_spectrum_raises():
    for call in (
        lambda bad: squared_weights(bad, 1, 1),
        collapse_threshold,
        lambda bad: noise_variance(bad, 1, 1),
    ):
        for bad in ([-0.1, 1.1], [math.nan, 0.5], [math.inf, 0.5]):
            with pytest.raises(ValueError, match="eigenvalues must be finite and not negative"):
                call(torch.tensor(bad))
        with pytest.raises(ValueError, match=r"eigenvalues must be floating, got torch\.int64"):
            call(torch.tensor([3, 2, 1]))


@pytest.mark.usefixtures("untyped")
def test_wrong_numbers_raise():
    x, W = torch.tensor([0.3, 0.7]), torch.ones(2, 1)
    for call, domain, bad in (
        (lambda b: linear_posterior(x, W, 1, b), "positive", (-0.1, 0, math.nan)),
        (lambda b: squared_weights(x, 1, b), "at least 0", (-0.1, math.nan)),
        (lambda b: noise_variance(x, b, 1), "at least 0 and finite", (-0.1, math.nan, math.inf)),
    ):
        for number in bad:
            with pytest.raises(ValueError, match=re.escape(f"beta must be {domain}, got {number}")):
                call(number)
        with pytest.raises(ValueError, match=f"beta must be {domain}, got tensor"):
            call(torch.tensor([1.0, -0.1]))
    for call in (
        lambda s: linear_posterior(x, W, s, 1),
        lambda s: squared_weights(x, s, 1),
        lambda s: collapse_threshold(x, s),
    ):
        for number in (0, -0.1, math.nan, math.inf):
            words = f"variance must be positive and finite, got {number}"
            with pytest.raises(ValueError, match=re.escape(words)):
                call(number)
    with pytest.raises(ValueError, match="latents must be at least 0, got -1"):
        noise_variance(x, 1, -1)


def drawn(name):
    """The axes of a figure of the snippet."""
    figure = Figure(layout="constrained")
    run_path(str(SNIPPET))[name](figure.gca())
    return figure.gca()


def test_the_bars_are_the_eigenvalues_and_split_at_the_level():
    ax = drawn("figure_water")
    error, squares = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert error == [1.5, 1.5, 1.5, 1.0, 0.5]
    assert squares == [6.5, 2.5, 0.5, 0.0, 0.0]


def test_the_stairs_fall_at_the_thresholds():
    fixed, learnt, dots = drawn("figure").lines
    eigenvalues = [8.0, 4.0, 2.0, 1.0, 0.5]
    assert dots.get_xdata().tolist() == eigenvalues
    thresholds = [5 * a / sum(min(a, b) for b in eigenvalues) for a in eigenvalues]
    assert min(learnt.get_xdata()) > 1
    for stairs, steps in ((fixed, eigenvalues), (learnt, thresholds)):
        for beta, alive in zip(stairs.get_xdata(), stairs.get_ydata(), strict=True):
            if min(abs(beta / step - 1) for step in steps) > 1e-4:
                assert alive == sum(step > beta for step in steps)
