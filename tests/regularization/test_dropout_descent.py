import re
from itertools import product
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.linalg import solve_continuous_lyapunov

from genref._site.claims import mutant
from genref.regularization.dropout import solution
from genref.regularization.dropout_descent import gradient_covariance, stationary_covariance

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/regularization/dropout_descent.py"


def data(generator, n, d):
    """Random inputs, targets and weights of size 0.5 to 1.5 and either sign."""
    table = 2 * torch.rand(n + 1, d + 1, dtype=DOUBLE, generator=generator) - 1
    table = table + table.sign() / 2
    return table[:n, :d], table[:n, d], table[n, :d]


def all_masks(n, d, keep):
    """All masks, and their probabilities."""
    masks = np.array(list(product((0.0, 1.0), repeat=n * d)))
    return masks.reshape(-1, n, d), (keep**masks * (1 - keep) ** (1 - masks)).prod(1)


def terms(X, y, keep):
    """ZᵀZ and Zᵀy of all masked inputs Z, and the probabilities of the masks."""
    masks, chance = all_masks(*X.shape, keep)
    Z = X.numpy() * masks
    return Z.swapaxes(1, 2) @ Z, y.numpy() @ Z, chance


def averaged(chance, values):
    return np.tensordot(chance, values, 1)


def minimiser(X, y, keep):
    A, b, chance = terms(X, y, keep)
    return np.linalg.solve(averaged(chance, A), averaged(chance, b))


def noise(X, y, w, keep):
    """The covariance of the gradient, from its values under all masks."""
    A, b, chance = terms(X, y, keep)
    gradient = 2 * (A @ np.asarray(w) - b)
    centred = gradient - averaged(chance, gradient)
    return averaged(chance, centred[:, :, None] * centred[:, None])


def settled(X, y, keep, step, steps=2**14):
    """Mean and covariance of w after many steps from 0, both from the average over all masks."""
    A, b, chance = terms(X, y, keep)
    d = X.shape[1]
    affine = np.zeros((len(A), d + 1, d + 1))
    affine[:, :d, :d] = np.eye(d) - 2 * step * A
    affine[:, :d, d] = 2 * step * b
    affine[:, d, d] = 1
    moments = averaged(chance, np.einsum("sjk,slm->sjlkm", affine, affine))
    moments = moments.reshape((d + 1) ** 2, (d + 1) ** 2)
    moments = np.linalg.matrix_power(moments, steps)[:, -1].reshape(d + 1, d + 1)
    return moments[:d, d], moments[:d, :d] - np.outer(moments[:d, d], moments[:d, d])


@pytest.mark.claim("x-dropout-gradient-noise")
def test_gradient_noise(evidence, covariance=gradient_covariance):
    for n, d, keep in ((3, 3, 0.35), (2, 4, 0.8), (5, 1, 0.6)):
        X, y, w = data(evidence.generator, n, d)
        for target in (y, X @ w):
            for at in (w, torch.from_numpy(minimiser(X, target, keep))):
                evidence.numeric(
                    covariance(X, target, at, keep),
                    noise(X, target, at, keep),
                    bound=1e-10,
                    oracle="the gradient under all masks",
                )
    cases = [torch.tensor(case, dtype=DOUBLE) for case in product((0, 1), repeat=8)]
    split = [(case[:4].view(2, 2), case[4:6], case[6:]) for case in cases]
    evidence.exact(
        [bool(covariance(X, y, w, 0.7).abs().max() < 1e-12) for X, y, w in split],
        [all(silent(*row, w) for row in zip(X, y, strict=True)) for X, y, w in split],
        oracle="the condition of the claim, for all X, y and w of zeros and ones",
    )


def silent(x, y, w):
    """Whether a row adds nothing to the noise."""
    fits = [y.item() == (x * w)[j].item() for j in range(2) if x[j] != 0]
    return not fits or (fits[0] if len(fits) == 1 else y == 0 and all(fits))


@mutant(test_gradient_noise, "the gradient of half the loss")
def half(X, y, w, keep):
    return gradient_covariance(X, y, w, keep) / 4


@mutant(test_gradient_noise, "p is the probability of dropping")
def dropped(X, y, w, keep):
    return gradient_covariance(X, y, w, 1 - keep)


@mutant(test_gradient_noise, "the noise of drawing rows, which is 0 where all of them fit")
def sampled_rows(X, y, w, keep):
    gradient = 2 * (X @ w - y)[:, None] * X
    return (1 - keep) / keep * gradient.T @ gradient


@mutant(test_gradient_noise, "the entries of the gradient are taken as uncorrelated")
def diagonal(X, y, w, keep):
    return gradient_covariance(X, y, w, keep).diagonal().diag()


@mutant(test_gradient_noise, "all rows share a mask")
def shared(X, y, w, keep):
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * X.shape[1])
    masks = masks.view(-1, 1, X.shape[1])
    chance = (keep * masks + (1 - keep) * (1 - masks)).prod(-1)[:, 0]
    Z = X * masks
    gradient = 2 * torch.einsum("sij,si->sj", Z, Z @ w - y)
    gradient = gradient - chance @ gradient
    return gradient.T @ (chance[:, None] * gradient)


@pytest.mark.claim("x-dropout-sgd-variance")
def test_spread(evidence, spread=stationary_covariance):
    for n, d, keep in ((3, 3, 0.35), (2, 4, 0.8), (6, 1, 0.6)):
        X, y, _ = data(evidence.generator, n, d)
        step = 0.9 / X.square().sum().item()
        mean, covariance = settled(X, y, keep, step)
        oracle = "moments under all masks, followed for 16384 steps"
        evidence.numeric(spread(X, y, keep, step), covariance, bound=1e-9, oracle=oracle)
        evidence.numeric(solution(X, y, keep), mean, bound=1e-9, oracle=oracle)
        A, b, chance = terms(X, y, keep)
        best = minimiser(X, y, keep)
        EA, Eb, second = averaged(chance, A), averaged(chance, b), covariance + np.outer(mean, mean)
        evidence.numeric(
            np.sum(EA * spread(X, y, keep, step).numpy()),
            np.sum(EA * second) - 2 * Eb @ mean - best @ EA @ best + 2 * Eb @ best,
            bound=1e-9,
            oracle="the expected loss, from " + oracle,
        )
        small = 1e-6 * step
        C = noise(X, y, best, keep)
        evidence.numeric(
            spread(X, y, keep, small) / small,
            solve_continuous_lyapunov(EA, C / 2),
            bound=1e-4,
            relative=True,
            oracle="the equation of S, solved by Schur factors",
        )
        evidence.numeric(
            np.sum(EA * spread(X, y, keep, small).numpy()) / small,
            np.trace(C) / 4,
            bound=1e-4,
            relative=True,
            oracle="the trace of the noise under all masks",
        )
    x, y, _ = data(evidence.generator, 6, 1)
    for keep, factor in ((0.3, 1.1), (0.7, 0.4)):
        step = factor / x.square().sum().item()
        evidence.numeric(
            spread(x, y, keep, step)[0, 0],
            np.float64(one_feature(x[:, 0].numpy(), y.numpy(), keep, step)),
            bound=1e-11,
            relative=True,
            oracle="the fraction of the claim",
        )


def one_feature(x, y, keep, step):
    e = y - x * (x @ y) / (x @ x)
    quartic = keep * (x @ x) ** 2 + (1 - keep) * (x**4).sum()
    return step * (1 - keep) * ((x * e) ** 2).sum() / (x @ x - step * quartic)


@mutant(test_spread, "the mask acts on the mean gradient only, not on the curvature")
def additive(X, y, keep, step):
    G = X.T @ X
    mean = keep * (keep * G + (1 - keep) * G.diagonal().diag())
    B = torch.eye(len(G), dtype=DOUBLE) - 2 * step * mean
    C = gradient_covariance(X, y, solution(X, y, keep), keep)
    system = torch.eye(len(G) ** 2, dtype=DOUBLE) - torch.kron(B, B)
    return torch.linalg.solve(system, (step**2 * C).flatten()).view_as(C)


@mutant(test_spread, "the noise of the last step only")
def last_step(X, y, keep, step):
    return step**2 * gradient_covariance(X, y, solution(X, y, keep), keep)


@mutant(test_spread, "the gradient of half the loss")
def half_step(X, y, keep, step):
    return stationary_covariance(X, y, keep, step / 2)


@mutant(test_spread, "the variance vanishes, as the mean of the gradient does")
def no_spread(X, y, keep, step):
    return 0 * stationary_covariance(X, y, keep, step)


@mutant(test_spread, "the weights of inverted dropout")
def inverted(X, y, keep, step):
    return keep**2 * stationary_covariance(X, y, keep, step)


def example(n=5, d=3, seed=3):
    return data(torch.Generator().manual_seed(seed), n, d)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_results_keep_the_dtype(dtype):
    X, y, w = example()
    for double, function, arguments in (
        (gradient_covariance(X, y, w, 0.3), gradient_covariance, (X, y, w)),
        (stationary_covariance(X, y, 0.3, 0.01), stationary_covariance, (X, y)),
    ):
        options = (0.3,) if len(arguments) == 3 else (0.3, 0.01)
        single = function(*(t.to(dtype) for t in arguments), *options)
        assert single.dtype == dtype
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


def test_leading_dimensions_broadcast():
    X = torch.stack([example(seed=k)[0] for k in range(2)])[:, None]
    y, w = (torch.stack([example(seed=k)[i] for k in range(5, 8)]) for i in (1, 2))
    keep = torch.tensor([0.2, 0.5, 0.9], dtype=DOUBLE)
    step = torch.tensor([0.01, 0.02, 0.005], dtype=DOUBLE)
    noise, spread = gradient_covariance(X, y, w, keep), stationary_covariance(X, y, keep, step)
    for i, j in product(range(2), range(3)):
        alone = gradient_covariance(X[i, 0], y[j], w[j], keep[j].item())
        torch.testing.assert_close(noise[i, j], alone)
        alone = stationary_covariance(X[i, 0], y[j], keep[j].item(), step[j].item())
        torch.testing.assert_close(spread[i, j], alone)


def test_gradients_flow():
    X, y, w = (t.clone().requires_grad_() for t in example(3, 2))
    keep, step = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.4, 0.02))
    assert torch.autograd.gradcheck(gradient_covariance, (X, y, w, keep))
    assert torch.autograd.gradcheck(stationary_covariance, (X, y, keep, step))


def test_nothing_dropped_is_no_noise():
    X, y, w = example()
    assert not gradient_covariance(X, y, w, 1).any()
    assert not stationary_covariance(X, y, 1, 0.01).any()


def test_little_noise_is_accurate():
    X, y, w = example(2, 2)
    slope = noise(X, y, w, 1 - 1e-4) / 1e-4
    small = gradient_covariance(X, y, w, 1 - 1e-12) / 1e-12
    torch.testing.assert_close(small, torch.from_numpy(slope), rtol=1e-3, atol=0)


def test_small_steps_are_accurate_in_single_precision():
    X, y, _ = example()
    for step in (1e-4, 1e-9, 1e-20):
        exact = stationary_covariance(X, y, 0.3, 1e-10) / 1e-10
        single = stationary_covariance(X.float(), y.float(), 0.3, step) / step
        torch.testing.assert_close(single.double(), exact, rtol=5e-3 if step > 1e-8 else 1e-5, atol=0)


def test_a_step_without_a_finite_spread_raises():
    x, y, _ = example(4, 1)
    g, quartic = x.square().sum().item(), x.pow(4).sum().item()
    largest = g / (0.7 * g**2 + 0.3 * quartic)
    assert stationary_covariance(x, y, 0.7, 0.999 * largest) > 0
    for step in (0, -0.1, 1.001 * largest, 7.0, 1e300, float("inf"), float("nan")):
        words = f"step must be positive and small enough for a finite spread, got {step}"
        with pytest.raises(ValueError, match=re.escape(words)):
            stationary_covariance(x, y, 0.7, step)


@pytest.mark.usefixtures("untyped")
def test_bad_arguments_raise():
    X, y, w = example()
    with pytest.raises(ValueError, match=re.escape("keep must be in (0, 1], got 0")):
        gradient_covariance(X, y, w, 0)
    with pytest.raises(ValueError, match=re.escape("keep must be in (0, 1], got 1.5")):
        stationary_covariance(X, y, 1.5, 0.01)
    with pytest.raises(ValueError, match="y must have an entry for each row of X"):
        gradient_covariance(X, y[:, None], w, 0.5)
    with pytest.raises(ValueError, match="y must have an entry for each row of X"):
        stationary_covariance(X, y[:, None], 0.5, 0.01)
    with pytest.raises(ValueError, match="w must have an entry for each column of X"):
        gradient_covariance(X, y, w[:2], 0.5)
    with pytest.raises(ValueError, match="X must have no column of zeros"):
        stationary_covariance(0 * X, y, 0.5, 0.01)


def test_the_ellipses_are_those_of_all_masks():
    figure = Figure(layout="constrained")
    snippet = run_path(str(SNIPPET))
    snippet["figure"](figure)
    X, y, keep = (snippet[name] for name in ("X", "y", "keep"))
    for ax, step in zip(figure.axes, (0.04, 0.01), strict=True):
        mean, covariance = settled(X.double(), y.double(), keep, step)
        ellipse = next(line for line in ax.lines if line.get_label() == "exact spread").get_xydata()
        distance = (ellipse - mean) @ np.linalg.inv(covariance) * (ellipse - mean)
        np.testing.assert_allclose(distance.sum(1), 4, rtol=1e-3)
        points = np.asarray(ax.collections[0].get_offsets())
        assert len(points) == 150
        inside = ((points - mean) @ np.linalg.inv(covariance) * (points - mean)).sum(1) < 4
        assert 0.75 < np.mean(inside) < 0.97
