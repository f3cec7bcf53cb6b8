import re
from fractions import Fraction
from itertools import product
from math import prod, sqrt
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sympy import Matrix

from genref._site.claims import mutant
from genref.regularization.dropout import (
    expected_loss,
    inverted_loss,
    loss_variance,
    ridge,
    solution,
)

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/regularization/dropout.py"


def data(generator, n, d):
    """Inputs, targets and weights in eighths, none of them 0: sums of their products are exact."""
    sign = torch.randint(0, 2, (n + 1, d + 1), generator=generator) * 2 - 1
    size = torch.randint(1, 17, (n + 1, d + 1), generator=generator)
    table = (sign * size).to(DOUBLE) / 8
    return table[:n, :d], table[:n, d], table[n, :d]


def fractions(tensor):
    return np.vectorize(Fraction, otypes=[object])(tensor.numpy())


def independent(n, d, p):
    """All masks with their probabilities."""
    for bits in product((0, 1), repeat=n * d):
        yield prod(p if bit else 1 - p for bit in bits), np.array(bits).reshape(n, d)


def shared(n, d, p):
    """All masks in which every row is the same."""
    for chance, row in independent(1, d, p):
        yield chance, row.repeat(n, 0)


def lines(n, d, p):
    """25 masks of equal rows: each two entries are independent, and three are not; p is 2/5."""
    for a, b in product(range(5), repeat=2):
        row = [int((a + b * j) % 5 < 5 * p) for j in range(d)]
        yield Fraction(1, 25), np.array([row] * n)


def mean_loss(X, y, w, masks, scale=1):
    """The loss averaged over masks, in exact fractions."""
    X, y, w = fractions(X), fractions(y), fractions(w)
    return sum(chance * ((y - X * mask @ w * scale) ** 2).sum() for chance, mask in masks)


def normal_solution(X, y, masks, scale=1):
    """The minimiser of the averaged loss: its normal equations, averaged and solved exactly."""
    X, y = fractions(X), fractions(y)
    weighted = [(chance, X * mask * scale) for chance, mask in masks]
    left = sum(chance * Z.T @ Z for chance, Z in weighted)
    right = sum(chance * Z.T @ y for chance, Z in weighted)
    return exact_solution(left, right)


def exact_solution(left, right):
    """Solves in exact fractions, and rounds once."""
    return np.array(Matrix(left).LUsolve(Matrix(right)), dtype=float)[:, 0]


def dual(X, y, penalty):
    """Ridge regression from the other side: a system with a row for each datum."""
    X, y = X.numpy(), y.numpy()
    return torch.from_numpy(X.T @ np.linalg.solve(X @ X.T + penalty * np.eye(len(X)), y))


def solved(X, y, added, keep=1.0):
    """For mutants: (XᵀX + what is added) w = Xᵀy."""
    return torch.linalg.solve(X.mT @ X + added, X.mT @ y) / keep


def squares(X):
    return torch.diag(X.square().sum(0))


@pytest.mark.claim("dropout-expected-loss", answers=["C1.1"])
def test_expected_loss(evidence, loss=expected_loss):
    for n, d, p in ((3, 3, Fraction(3, 8)), (2, 4, Fraction(13, 16)), (4, 2, Fraction(1, 4))):
        X, y, w = data(evidence.generator, n, d)
        measured = Fraction(loss(X, y, w, float(p)).item())
        for law, words in ((independent, "all masks"), (shared, "all masks of equal rows")):
            expected = mean_loss(X, y, w, law(n, d, p))
            evidence.exact(measured, expected, oracle=f"{words}, in exact fractions")
    X, y, w = data(evidence.generator, 3, 5)
    evidence.numeric(
        loss(X, y, w, 0.4),
        np.float64(mean_loss(X, y, w, lines(3, 5, Fraction(2, 5)))),
        bound=1e-13,
        relative=True,
        oracle="25 masks whose entries are independent in pairs only, in exact fractions",
    )


@mutant(test_expected_loss, "Γ without the root")
def rootless(X, y, w, keep):
    penalty = (X.square().sum(0) * w).square().sum()
    return (y - keep * X @ w).square().sum() + keep * (1 - keep) * penalty


@mutant(test_expected_loss, "p is the probability of dropping")
def dropped(X, y, w, keep):
    return expected_loss(X, y, w, 1 - keep)


@mutant(test_expected_loss, "whole rows are dropped")
def rows_dropped(X, y, w, keep):
    return (1 - keep) * y.square().sum() + keep * (y - X @ w).square().sum()


@mutant(test_expected_loss, "the mean of the mask in place of the mask")
def averaged(X, y, w, keep):
    return (y - keep * X @ w).square().sum()


@mutant(test_expected_loss, "the second moment in place of the variance")
def second_moment(X, y, w, keep):
    return (y - keep * X @ w).square().sum() + keep * (X * w).square().sum()


@mutant(test_expected_loss, "Γ² is the variance of the columns")
def centred(X, y, w, keep):
    spread = ((X - X.mean(0)) * w).square().sum()
    return (y - keep * X @ w).square().sum() + keep * (1 - keep) * spread


@mutant(test_expected_loss, "the mask of inverted dropout")
def divided(X, y, w, keep):
    return inverted_loss(X, y, w, keep)


@pytest.mark.claim("dropout-solution", answers=["C1.2"])
def test_solution(evidence, solve=solution):
    for n, d, p in ((3, 2, Fraction(3, 8)), (3, 3, Fraction(4, 5)), (2, 4, Fraction(1, 3))):
        X, y, _ = data(evidence.generator, n, d)
        evidence.numeric(
            solve(X, y, float(p)),
            normal_solution(X, y, independent(n, d, p)),
            bound=1e-11,
            oracle="normal equations averaged over all masks, solved in exact fractions",
        )
    X = torch.randn(7, 3, dtype=DOUBLE, generator=evidence.generator)
    y = torch.randn(7, dtype=DOUBLE, generator=evidence.generator)
    evidence.numeric(
        solve(X, y, 1.0),
        np.linalg.lstsq(X.numpy(), y.numpy())[0],
        bound=1e-12,
        oracle="least squares by singular values",
    )
    keeps = torch.tensor([0.9, 0.7, 0.45, 0.2], dtype=DOUBLE)
    weights = torch.stack([keep * solve(X, y, keep.item()) for keep in keeps])
    added = (X.T @ y - weights @ X.T @ X) / X.square().sum(0)
    evidence.numeric(
        (added * weights).sum(1) / weights.square().sum(1),
        1 / keeps - 1,
        bound=1e-11,
        oracle="λ of the claim, read off the weights",
    )
    wide = torch.randn(2, 4, dtype=DOUBLE, generator=evidence.generator)
    evidence.numeric(
        solve(wide, y[:2], 1e-10),
        y[:2].numpy() @ wide.numpy() / (wide.numpy() ** 2).sum(0),
        bound=1e-8,
        oracle="regressions on one feature at a time",
    )


@mutant(test_solution, "p w in place of w")
def times_keep(X, y, keep):
    return keep * solution(X, y, keep)


@mutant(test_solution, "p is the probability of dropping")
def odds_upside_down(X, y, keep):
    return solved(X, y, keep / (1 - keep + 1e-12) * squares(X), keep)


@mutant(test_solution, "the factor p(1 - p) of the loss in place of λ")
def undivided(X, y, keep):
    return solved(X, y, keep * (1 - keep) * squares(X), keep)


@mutant(test_solution, "Γ in place of its square")
def unsquared(X, y, keep):
    return solved(X, y, (1 - keep) / keep * squares(X).sqrt(), keep)


@mutant(test_solution, "ridge: the identity in place of Γ²")
def weight_decay(X, y, keep):
    return solved(X, y, (1 - keep) / keep * torch.eye(X.shape[1], dtype=DOUBLE), keep)


@mutant(test_solution, "the inner derivative p forgotten")
def no_chain_rule(X, y, keep):
    return solved(X, y, (1 - keep) * squares(X), keep)


@pytest.mark.claim("ridge-solution", answers=["C1.3"])
def test_ridge(evidence, solve=ridge):
    for n, d, penalty in ((3, 2, 0.375), (4, 3, 2.5), (2, 4, 0.125)):
        X, y, _ = data(evidence.generator, n, d)
        left = fractions(X).T @ fractions(X) + Fraction(penalty) * np.eye(d, dtype=int)
        right = fractions(X).T @ fractions(y)
        evidence.numeric(
            solve(X, y, penalty),
            exact_solution(left, right),
            bound=1e-12,
            oracle="normal equations in exact fractions",
        )
    for n, d, penalty in ((30, 5, 0.7), (5, 30, 3.1)):
        X = torch.randn(n, d, dtype=DOUBLE, generator=evidence.generator)
        y = torch.randn(n, dtype=DOUBLE, generator=evidence.generator)
        evidence.numeric(
            solve(X, y, penalty),
            dual(X, y, penalty),
            bound=1e-12,
            oracle="the dual system, one row for each datum",
        )
    X = torch.randn(7, 3, dtype=DOUBLE, generator=evidence.generator)
    y = torch.randn(7, dtype=DOUBLE, generator=evidence.generator)
    evidence.numeric(
        solve(X, y, 0.0),
        np.linalg.lstsq(X.numpy(), y.numpy())[0],
        bound=1e-12,
        oracle="least squares by singular values",
    )


@mutant(test_ridge, "half of the penalty, from a half put before one square only")
def half(X, y, penalty):
    return ridge(X, y, penalty / 2)


@mutant(test_ridge, "a factor p = 1/2 left in the derivative")
def with_keep(X, y, penalty):
    return solved(0.5 * X, y, penalty * torch.eye(X.shape[1], dtype=DOUBLE))


@mutant(test_ridge, "the mean of the squares in place of their sum")
def mean_of_squares(X, y, penalty):
    return ridge(X, y, len(X) * penalty)


@mutant(test_ridge, "decay of the least-squares weights by one factor")
def uniform(X, y, penalty):
    w = torch.linalg.lstsq(X, y[:, None], driver="gelsd").solution[:, 0]
    return w / (1 + penalty)


@pytest.mark.claim("dropout-vs-ridge", answers=["C1.4"])
def test_versus(evidence, drop=solution, weigh=ridge):
    for n, d, p in ((6, 3, 0.35), (3, 5, 0.8)):
        odds = (1 - p) / p
        X = torch.randn(n, d, dtype=DOUBLE, generator=evidence.generator)
        X = X * torch.logspace(-1, 1, d, dtype=DOUBLE)
        y = torch.randn(n, dtype=DOUBLE, generator=evidence.generator)
        norm = X.square().sum(0).sqrt()
        unit = X / norm
        evidence.numeric(
            norm * p * drop(X, y, p),
            dual(unit, y, odds),
            bound=1e-11,
            oracle="the dual system of ridge, on columns of norm 1",
        )
        damped = X.T @ X * (p + (1 - p) * torch.eye(d, dtype=DOUBLE))
        evidence.numeric(
            damped @ drop(X, y, p),
            X.T @ y,
            bound=1e-10,
            oracle="the products of inputs and targets",
        )
        units = torch.tensor([-3.0, 0.5, 20.0, -0.125, 7.0], dtype=DOUBLE)[:d]
        evidence.numeric(
            (X * units) @ drop(X * units, y, p),
            unit @ dual(unit, y, odds) / p,
            bound=1e-10,
            oracle="the dual system before the columns are multiplied",
        )
        turn = torch.from_numpy(np.linalg.qr(damped.numpy())[0])
        evidence.numeric(
            X @ turn @ weigh(X @ turn, y, odds),
            X @ dual(X, y, odds),
            bound=1e-11,
            oracle="the dual system before the turn",
        )
        u, s, _ = np.linalg.svd(X.numpy(), full_matrices=False)
        evidence.numeric(
            X @ weigh(X, y, odds),
            u @ (s**2 / (s**2 + odds) * (u.T @ y.numpy())),
            bound=1e-11,
            oracle="the factors of the claim, singular vectors by another library",
        )
    X = torch.randn(6, 3, dtype=DOUBLE, generator=evidence.generator)
    y = torch.randn(6, dtype=DOUBLE, generator=evidence.generator)
    X = torch.from_numpy(np.linalg.qr(X.numpy())[0] * np.array([0.3, 2.0, 7.0]))
    for p in (0.9, 0.55, 0.15):
        evidence.numeric(
            drop(X, y, p),
            np.linalg.lstsq(X.numpy(), y.numpy())[0],
            bound=1e-11,
            oracle="least squares by singular values",
        )


@mutant(test_versus, "dropout is ridge on the columns as they are", of="drop")
def plain_ridge(X, y, keep):
    return ridge(X, y, (1 - keep) / keep) / keep


@mutant(test_versus, "p w in place of w", of="drop")
def shrunk(X, y, keep):
    return keep * solution(X, y, keep)


@mutant(test_versus, "columns of variance 1 in place of norm 1", of="drop")
def standardised(X, y, keep):
    spread = len(X) * torch.diag(X.var(0, correction=0))
    return solved(X, y, (1 - keep) / keep * spread, keep)


@mutant(test_versus, "ridge is dropout: invariant to units", of="weigh")
def plain_dropout(X, y, penalty):
    return solution(X, y, 1 / (1 + penalty)) / (1 + penalty)


@mutant(test_versus, "ridge multiplies all directions by one factor", of="weigh")
def balanced(X, y, penalty):
    w = torch.linalg.lstsq(X, y[:, None], driver="gelsd").solution[:, 0]
    return w / (1 + penalty)


@mutant(test_versus, "the factor is s / (s + λ)", of="weigh")
def unsquared_factor(X, y, penalty):
    u, s, v = torch.linalg.svd(X, full_matrices=False)
    return v.mT @ (u.mT @ y / (s + penalty))


@pytest.mark.claim("x-dropout-inverted")
def test_inverted(evidence, loss=inverted_loss, solve=solution):
    for n, d, p in ((3, 3, Fraction(3, 8)), (2, 4, Fraction(4, 5))):
        X, y, w = data(evidence.generator, n, d)
        for law, words in ((independent, "all masks"), (shared, "all masks of equal rows")):
            evidence.numeric(
                loss(X, y, w, float(p)),
                np.float64(mean_loss(X, y, w, law(n, d, p), 1 / p)),
                bound=1e-13,
                relative=True,
                oracle=f"{words} divided by p, in exact fractions",
            )
        evidence.numeric(
            float(p) * solve(X, y, float(p)),
            normal_solution(X, y, independent(n, d, p), 1 / p),
            bound=1e-11,
            oracle="normal equations averaged over all masks divided by p, in exact fractions",
        )
    X, y, w = data(evidence.generator, 2, 3)
    outputs = torch_outputs(X, 0.6, evidence.generator)
    chance = {mask: 0.6 ** sum(mask) * 0.4 ** (6 - sum(mask)) for mask in outputs}
    evidence.numeric(
        loss(X, y, w, 0.6),
        sum(chance[m] * (y - kept @ w).square().sum() for m, kept in outputs.items()),
        bound=1e-13,
        relative=True,
        oracle="each output that torch.nn.Dropout(0.4) can give, with its probability",
    )
    evidence.exact(len(outputs), 2**6, oracle="two values for each of six entries")


def torch_outputs(X, keep, generator):
    """The outputs of `torch.nn.Dropout` in training, one for each mask."""
    layer, outputs = torch.nn.Dropout(1 - keep), {}
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        for kept in layer(X.expand(5000, *X.shape)):
            outputs.setdefault(tuple((kept != 0).int().flatten().tolist()), kept)
    return outputs


@mutant(test_inverted, "the factor p(1 - p) of plain dropout", of="loss")
def plain_factor(X, y, w, keep):
    return (y - X @ w).square().sum() + keep * (1 - keep) * (X * w).square().sum()


@mutant(test_inverted, "the argument of torch.nn.Dropout is the probability of keeping", of="loss")
def upside_down(X, y, w, keep):
    return inverted_loss(X, y, w, 1 - keep)


@mutant(test_inverted, "the fit shrinks by p too", of="loss")
def shrunk_fit(X, y, w, keep):
    return (y - keep * X @ w).square().sum() + (1 - keep) / keep * (X * w).square().sum()


@mutant(test_inverted, "the standard deviation of the mask for its variance", of="loss")
def deviation(X, y, w, keep):
    return (y - X @ w).square().sum() + sqrt((1 - keep) / keep) * (X * w).square().sum()


@mutant(test_inverted, "the same minimiser as without the division", of="solve")
def no_rescaling(X, y, keep):
    return solution(X, y, keep) / keep


@pytest.mark.claim("x-dropout-gaussian")
def test_gaussian(evidence, loss=inverted_loss, variance=loss_variance):
    for n, d, keep in ((2, 3, 0.35), (3, 2, 0.85), (1, 6, 0.6)):
        X, y, w = data(evidence.generator, n, d)
        moments = {noise: two_moments(X, y, w, noise, keep) for noise in ("bernoulli", "gaussian")}
        for noise, oracle in (
            ("bernoulli", "all masks divided by p"),
            ("gaussian", "the Gauss-Hermite rule of three nodes in each entry, exact to degree 5"),
        ):
            mean, square = moments[noise]
            evidence.numeric(loss(X, y, w, keep), mean, bound=1e-12, relative=True, oracle=oracle)
            evidence.numeric(
                variance(X, y, w, keep, noise),
                square - mean**2,
                bound=1e-10,
                relative=True,
                oracle=oracle,
            )
    X, y = torch.ones(1, 1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    more = [variance(X, y, y, p) > variance(X, y, y, p, "gaussian") for p in (0.1, 0.3, 0.7, 0.9)]
    evidence.exact(more, [True, False, False, True], oracle="the sign of 1 - 6 p (1 - p)")


def two_moments(X, y, w, noise, keep):
    """The mean of the loss and of its square: a sum over all values of the noise."""
    if noise == "bernoulli":
        values, weights = [0, 1 / keep], [1 - keep, keep]
    else:
        scale = sqrt(3 * (1 - keep) / keep)
        values, weights = [1 - scale, 1, 1 + scale], [1 / 6, 2 / 3, 1 / 6]
    noises = np.array(list(product(values, repeat=X.numel()))).reshape(-1, *X.shape)
    chances = np.array(list(product(weights, repeat=X.numel()))).prod(1)
    losses = ((y.numpy() - X.numpy() * noises @ w.numpy()) ** 2).sum(1)
    return chances @ losses, chances @ losses**2


@mutant(test_gaussian, "equal means, hence equal variances", of="variance")
def same_for_both(X, y, w, keep, noise="bernoulli"):
    return loss_variance(X, y, w, keep, "gaussian")


@mutant(test_gaussian, "the third moment left out", of="variance")
def without_skew(X, y, w, keep, noise="bernoulli"):
    mirrored = 2 * X @ w - y
    return sum(loss_variance(X, target, w, keep, noise) for target in (y, mirrored)) / 2


@mutant(test_gaussian, "all rows share a mask", of="variance")
def one_mask(X, y, w, keep, noise="bernoulli"):
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=DOUBLE)] * X.shape[1])
    chance = (keep * masks + (1 - keep) * (1 - masks)).prod(1)
    losses = (y - masks * w / keep @ X.T).square().sum(1)
    return chance @ losses.square() - (chance @ losses).square()


@mutant(test_gaussian, "(1 - p) / p is the standard deviation of the noise", of="loss")
def wide(X, y, w, keep):
    return (y - X @ w).square().sum() + ((1 - keep) / keep) ** 2 * (X * w).square().sum()


@mutant(test_gaussian, "the variance p(1 - p) of the mask before the division", of="loss")
def narrow(X, y, w, keep):
    return (y - X @ w).square().sum() + keep * (1 - keep) * (X * w).square().sum()


def example(n=5, d=3, dtype=DOUBLE, seed=3):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(n + 1, d + 1, dtype=DOUBLE, generator=generator).to(dtype)
    return table[:n, :d], table[:n, d], table[n, :d]


FUNCTIONS = [
    (expected_loss, 3),
    (solution, 2),
    (ridge, 2),
    (inverted_loss, 3),
    (loss_variance, 3),
]


@pytest.mark.parametrize(("function", "count"), FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_results_keep_the_dtype(function, count, dtype):
    single = function(*example(dtype=dtype)[:count], 0.3)
    assert single.dtype == dtype
    double = function(*example()[:count], 0.3)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("function", "count"), FUNCTIONS)
def test_leading_dimensions_broadcast(function, count):
    X = torch.stack([example(seed=k)[0] for k in range(2)])[:, None]
    y, w = (torch.stack([example(seed=k)[i] for k in range(5, 8)]) for i in (1, 2))
    keep = torch.tensor([0.2, 0.5, 1.0], dtype=DOUBLE)
    together = function(*(X, y, w)[:count], keep)
    for i, j in product(range(2), range(3)):
        alone = function(*(X[i, 0], y[j], w[j])[:count], keep[j].item())
        torch.testing.assert_close(together[i, j], alone)


@pytest.mark.parametrize(("function", "count"), FUNCTIONS)
def test_gradients_flow(function, count):
    for X, y, w in (example(), example(2, 3), (torch.eye(3, dtype=DOUBLE), *example(3)[1:])):
        arguments = [t.clone().requires_grad_() for t in (X, y, w)[:count]]
        keep = torch.tensor(0.4, dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(function, (*arguments, keep))


def test_the_solution_has_the_least_expected_loss():
    X, y, _ = example(2, 4)
    w = solution(X, y, 0.35).requires_grad_()
    (slope,) = torch.autograd.grad(expected_loss(X, y, w, 0.35), w)
    assert slope.abs().max() < 1e-13


def test_everything_kept_is_least_squares():
    X, y, w = example()
    least = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    torch.testing.assert_close(solution(X, y, 1), least)
    torch.testing.assert_close(ridge(X, y, 0), least)
    torch.testing.assert_close(expected_loss(X, y, w, 1), (y - X @ w).square().sum())
    assert loss_variance(X, y, w, 1) == 0


@pytest.mark.parametrize("keep", [1e-12, 1e-6, 0.5, 0.999, 0.999999])
def test_float32_is_accurate_for_columns_almost_dependent(keep):
    X, y, _ = example(30, 4)
    X[:, 3] = X[:, 2] + 3e-3 * X[:, 3]
    X, y = X.float(), y.float()
    kept = torch.tensor(keep, dtype=torch.float32).double()
    exact = solution(X.double(), y.double(), kept)
    error = (solution(X, y, keep) - exact).norm() / exact.norm()
    assert error < 2e-3 if keep > 0.99 else error < 1e-6


def test_columns_of_any_size_give_the_same_predictions():
    X, y, _ = example()
    w = solution(X, y, 0.3)
    for dtype, small, large in ((DOUBLE, 1e-200, 1e200), (torch.float32, 2.0**-80, 2.0**80)):
        units = torch.tensor([small, -1.0, large], dtype=dtype)
        scaled = solution(X.to(dtype) * units, y.to(dtype), 0.3) * units
        torch.testing.assert_close(scaled, w.to(dtype))


def test_a_variance_is_not_negative():
    for p in torch.linspace(0.01, 0.99, 99, dtype=DOUBLE):
        y = torch.tensor([1 / 3], dtype=DOUBLE)
        assert 0 <= loss_variance(torch.ones(1, 1, dtype=DOUBLE), y, 2 * p * y, p) < 1e-20


def test_without_rows_only_a_penalty_tells_the_weights():
    X, y = torch.ones(0, 2, dtype=DOUBLE), torch.ones(0, dtype=DOUBLE)
    assert torch.equal(ridge(X, y, 0.5), torch.zeros(2, dtype=DOUBLE))
    with pytest.raises(ValueError, match="penalty must be larger"):
        ridge(X, y, 0.0)
    with pytest.raises(ValueError, match=re.escape("got zeros in columns [0, 1]")):
        solution(X, y, 0.5)


def test_a_penalty_lost_in_rounding_raises():
    X, y, _ = example(3, 3)
    X[:, 2] = X[:, 0] + X[:, 1]
    torch.testing.assert_close(ridge(X, y, 1e-12), dual(X, y, 1e-12), rtol=1e-3, atol=1e-3)
    words = "penalty must be larger where columns of X are dependent, got 1e-35"
    with pytest.raises(ValueError, match=re.escape(words)):
        ridge(X, y, 1e-35)


def test_a_penalty_may_be_zero_where_columns_are_independent():
    X, y, _ = example(3, 3)
    dependent = X * torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
    both = ridge(torch.stack([X, dependent]), y, torch.tensor([0.0, 0.5], dtype=DOUBLE))
    torch.testing.assert_close(both[1], ridge(dependent, y, 0.5))
    with pytest.raises(ValueError, match="penalty must be larger"):
        ridge(torch.stack([X, dependent]), y, torch.tensor([0.5, 0.0], dtype=DOUBLE))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("keep", [0, -0.1, 1.1, float("nan"), torch.tensor([0.5, 1.5])])
def test_a_keep_outside_its_domain_raises(keep):
    X, y, w = example()
    for function, count in FUNCTIONS:
        if function is not ridge:
            with pytest.raises(ValueError, match=re.escape(f"keep must be in (0, 1], got {keep}")):
                function(*(X, y, w)[:count], keep)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("penalty", [-0.1, float("nan"), float("inf"), torch.tensor([0.5, -1.0])])
def test_a_penalty_outside_its_domain_raises(penalty):
    X, y, _ = example()
    words = re.escape(f"penalty must be finite and not negative, got {penalty}")
    with pytest.raises(ValueError, match=words):
        ridge(X, y, penalty)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(("function", "count"), FUNCTIONS)
def test_shapes_that_do_not_fit_raise(function, count):
    X, y, w = example()
    words = re.escape("y must have an entry for each row of X, got shape (5, 1)")
    with pytest.raises(ValueError, match=words):
        function(*(X, y[:, None], w)[:count], 0.5)
    if count == 3:
        words = re.escape("w must have an entry for each column of X, got shape (3, 1)")
        with pytest.raises(ValueError, match=words):
            function(X, y, w[:, None], 0.5)


def test_problems_without_a_single_minimiser_raise():
    X, y, _ = example(2, 3)
    X = X * torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
    words = re.escape("X must have no column of zeros, got zeros in columns [2]")
    with pytest.raises(ValueError, match=words):
        solution(X, y, 0.5)
    words = "keep must be below 1 where columns of X are dependent, got 1"
    with pytest.raises(ValueError, match=words):
        solution(example(2, 3)[0], y, 1)
    words = "penalty must be larger where columns of X are dependent, got 0"
    with pytest.raises(ValueError, match=words):
        ridge(example(2, 3)[0], y, 0)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(("function", "count"), FUNCTIONS)
def test_integers_raise(function, count):
    _, y, w = example(2, 3)
    words = "X must have a floating dtype, got torch.int64"
    with pytest.raises(ValueError, match=words):
        function(*(torch.tensor([[1, 0, 2], [3, 1, 1]]), y, w)[:count], 1.5)


@pytest.mark.usefixtures("untyped")
def test_other_noise_raises():
    words = "noise must be 'bernoulli' or 'gaussian', got 'normal'"
    with pytest.raises(ValueError, match=words):
        loss_variance(*example(), 0.5, "normal")


def test_the_paths_end_where_the_limits_are():
    figure = Figure(layout="constrained")
    snippet = run_path(str(SNIPPET))
    snippet["figure"](figure)
    X, y = snippet["X"].double(), snippet["y"].double()
    alone = y.numpy() @ X.numpy() / (X.numpy() ** 2).sum(0)
    for ax, end in zip(figure.axes, (np.zeros(3), alone, np.zeros(3)), strict=True):
        paths = [line for line in ax.lines if len(line.get_xdata()) > 2]
        marks = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
        np.testing.assert_allclose(marks, end, rtol=1e-6)
        np.testing.assert_allclose([path.get_ydata()[-1] for path in paths], end, atol=0.02)
    penalty = paths[0].get_xdata()[40]
    drawn = [path.get_ydata()[40] for path in paths]
    np.testing.assert_allclose(drawn, dual(X, y, float(penalty)), rtol=1e-4)
