import math

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from scipy.optimize import linprog, minimize
from scipy.stats import norm

from genref._site.claims import mutant
from genref.adversarial.logistic import logistic

DOUBLE = torch.float64
NORMAL_0, NORMAL_1 = norm(0, 1), norm(1.5, 0.7)


def squares(x):
    return torch.stack([x, x**2], -1)


@pytest.mark.claim("gan-logistic")
def test_logistic(evidence, train=logistic):
    g = evidence.generator
    for _ in range(3):
        counts = torch.randint(2, 40, (2, 4), generator=g)
        x_1, x_0 = (torch.eye(4, dtype=DOUBLE)[:, 1:].repeat_interleave(n, 0) for n in counts)
        found = train(x_1, x_0).log_ratio(torch.eye(4, dtype=DOUBLE)[:, 1:])
        rows = [[n / sum(row) for n in row] for row in counts.tolist()]
        evidence.numeric(
            found.mean,
            [math.log(a / b) for a, b in zip(*rows, strict=True)],
            bound=1e-10,
            oracle="four points, one weight each: the ratio of the relative frequencies",
        )
        evidence.numeric(
            found.standard_error**2,
            [
                1 / a + 1 / b - sum(1 / sum(row) for row in counts.tolist())
                for a, b in zip(*counts.tolist(), strict=True)
            ],
            bound=1e-10,
            oracle="the delta method on the logarithms of two multinomial frequencies",
        )

    x_1 = torch.randn(70, 2, generator=g, dtype=DOUBLE) + 0.8
    x_0 = 1.4 * torch.randn(50, 2, generator=g, dtype=DOUBLE)
    one = torch.ones(120, 1, dtype=DOUBLE)
    a = torch.cat([torch.hstack([x_1, one[:70]]), -torch.hstack([x_0, one[:50]])])

    def loss(w):
        w = torch.tensor(w, requires_grad=True)
        lost = torch.nn.functional.softplus(-(a @ w)).sum()
        lost.backward()
        return lost.item(), w.grad.numpy()

    searched = minimize(loss, [0.0, 0, 0], jac=True, method="BFGS", options={"gtol": 1e-9}).x
    evidence.numeric(
        train(x_1, x_0).weight,
        [searched[2] - math.log(70 / 50), searched[0], searched[1]],
        bound=1e-6,
        oracle="BFGS, with the odds of the classes taken off the constant",
    )

    n_1, n_0 = 20_000, 60_000
    x_1, x_0 = (
        torch.tensor(law.ppf((torch.arange(n, dtype=DOUBLE) + 0.5) / n))
        for law, n in ((NORMAL_1, n_1), (NORMAL_0, n_0))
    )
    found = train(squares(x_1), squares(x_0))
    evidence.numeric(
        found.weight,
        [-math.log(0.7) - 1.5**2 / 0.98, 1.5 / 0.49, 0.5 - 1 / 0.98],
        bound=5e-3,
        oracle="the coefficients of log f1 - log f0, for points at equal quantiles",
    )
    evidence.numeric(
        (n_1 + n_0) * found.covariance,
        limit(n_1 / (n_1 + n_0)),
        bound=2e-2,
        oracle="the limit's integrals by adaptive quadrature",
        relative=True,
    )

    runs = 1000
    x_1 = 1.5 + 0.7 * torch.randn(runs, 300, generator=g, dtype=DOUBLE)
    x_0 = torch.randn(runs, 500, generator=g, dtype=DOUBLE)
    trained = train(squares(x_1), squares(x_0))
    for x in (-0.2, 1.0, 2.3):
        point = torch.tensor([x], dtype=DOUBLE)
        low, high = trained.log_ratio(squares(point)).interval(1.959964)
        truth = NORMAL_1.logpdf(x) - NORMAL_0.logpdf(x)
        evidence.statistical(
            (low <= truth) & (truth <= high),
            0.95,
            oracle="the level of the interval, with the exact ratio of the densities",
            detects=0.045,
        )


def limit(pi):
    """The covariance of the limit law for the two normal laws."""

    def entry(power):
        def weight(x):
            a, b = pi * NORMAL_1.pdf(x), (1 - pi) * NORMAL_0.pdf(x)
            return x**power * a * b / (a + b)

        return quad(weight, -9, 9, limit=300, epsabs=1e-13)[0]

    s = torch.tensor([[entry(i + j) for j in range(3)] for i in range(3)], dtype=DOUBLE)
    covariance = torch.linalg.inv(s)
    covariance[0, 0] -= 1 / (pi * (1 - pi))
    return covariance


@mutant(test_logistic, "the covariance of random classes, not of fixed numbers of each")
def random_classes(x_1, x_0):
    made = logistic(x_1, x_0)
    extra = torch.zeros_like(made.covariance)
    extra[..., 0, 0] = 1 / x_1.shape[-2] + 1 / x_0.shape[-2]
    return made._replace(covariance=made.covariance + extra)


@mutant(test_logistic, "the odds of the classes left in the ratio")
def odds_left(x_1, x_0):
    made = logistic(x_1, x_0)
    weight = made.weight.clone()
    weight[..., 0] += math.log(x_1.shape[-2] / x_0.shape[-2])
    return made._replace(weight=weight)


@mutant(test_logistic, "the ratio the other way up")
def other_way_up(x_1, x_0):
    return logistic(x_0, x_1)


@mutant(test_logistic, "errors of single weights, without their covariances")
def diagonal(x_1, x_0):
    made = logistic(x_1, x_0)
    return made._replace(covariance=made.covariance.diagonal(dim1=-2, dim2=-1).diag_embed())


@mutant(test_logistic, "a thousandth of ridge penalty for each sample")
def ridge(x_1, x_0):
    made = logistic(x_1, x_0)
    information = torch.linalg.inv(made.covariance)
    n = x_1.shape[-2] + x_0.shape[-2]
    damped = information + 1e-3 * n * torch.eye(information.shape[-1], dtype=information.dtype)
    weight = torch.linalg.solve(damped, information @ made.weight.unsqueeze(-1)).squeeze(-1)
    return made._replace(weight=weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_batches(dtype):
    g = torch.Generator().manual_seed(3)
    x_1 = torch.randn(4, 1, 30, 2, generator=g, dtype=dtype) + 1
    x_0 = torch.randn(3, 40, 2, generator=g, dtype=dtype)
    made = logistic(x_1, x_0)
    alone = logistic(x_1[2, 0], x_0[1])
    assert made.weight.shape == (4, 3, 3)
    assert made.covariance.shape == (4, 3, 3, 3)
    assert made.weight.dtype == made.covariance.dtype == torch.float64
    torch.testing.assert_close(made.weight[2, 1], alone.weight)
    torch.testing.assert_close(made.covariance[2, 1], alone.covariance)
    found = made.log_ratio(x_0)
    assert found.mean.shape == found.standard_error.shape == (4, 3, 40)
    assert found.mean.dtype == found.standard_error.dtype == dtype
    assert torch.linalg.eigvalsh(made.covariance).min() > 0


def test_features_far_from_zero_keep_their_error():
    g = torch.Generator().manual_seed(1)
    x_1, x_0 = 0.7 * torch.randn(300, generator=g) + 0.5, torch.randn(300, generator=g)
    at = torch.tensor([-0.5, 0.3])
    near = logistic(squares(x_1), squares(x_0)).log_ratio(squares(at))
    far = logistic(squares(x_1 + 30), squares(x_0 + 30)).log_ratio(squares(at + 30))
    torch.testing.assert_close(far.mean, near.mean, atol=1e-2, rtol=0)
    torch.testing.assert_close(far.standard_error, near.standard_error, atol=0, rtol=1e-2)


def test_derivatives():
    g = torch.Generator().manual_seed(1)
    x_1, x_0 = torch.randn(2, 9, 1, generator=g, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(logistic, (x_1, x_0))


@pytest.mark.parametrize("far", [0.0, 8.0, 11.0])
def test_steps_do_not_overshoot(far):
    """One point on the wrong side of a steep slope; plain Newton steps may leave for infinity."""
    x_1 = torch.cat([torch.linspace(1, 2, 50), torch.tensor([-far])])[:, None].double()
    x_0 = torch.cat([torch.linspace(-2, -1, 900), torch.tensor([1.5])])[:, None].double()
    made = logistic(x_1, x_0)
    u_1, u_0 = (made.log_ratio(x).mean + math.log(51 / 901) for x in (x_1, x_0))
    slope = ((-u_1).sigmoid() @ x_1 - u_0.sigmoid() @ x_0).abs()
    assert slope.max() < 1e-9
    assert (-u_1).sigmoid().sum().item() == pytest.approx(u_0.sigmoid().sum().item())


def test_a_small_overlap_is_enough():
    x_1 = torch.tensor([1.6322, 1.75, 2.16, 2.42, 3.1], dtype=DOUBLE)[:, None]
    x_0 = torch.tensor([-0.84, -0.2, 0.05, 0.16, 1.6327], dtype=DOUBLE)[:, None]
    made = logistic(x_1, x_0)
    u_1, u_0 = (made.log_ratio(x).mean for x in (x_1, x_0))
    assert made.weight[1] > 30
    assert (-u_1).sigmoid().sum().item() == pytest.approx(u_0.sigmoid().sum().item())


def test_no_maximum_is_found_where_there_is_none():
    """Points with ties; a linear programme says whether a plane separates them."""
    g = torch.Generator().manual_seed(1)
    outcomes = set()
    for step in (0.3, 1.0) * 30:
        n_1, n_0, k = (int(torch.randint(*ends, (), generator=g)) for ends in ((3, 40), (3, 40), (1, 4)))
        x_1 = torch.floor((torch.randn(n_1, k, generator=g, dtype=DOUBLE) + 1.5) / step)
        x_0 = torch.floor(torch.randn(n_0, k, generator=g, dtype=DOUBLE) / step)
        a = torch.cat([F.pad(x_1, (1, 0), value=1), -F.pad(x_0, (1, 0), value=1)])
        best = linprog(-a.sum(0).numpy(), -a.numpy(), [0] * len(a), bounds=(-1, 1))
        expected = -best.fun < 1e-9 and torch.linalg.matrix_rank(a).item() == k + 1
        try:
            logistic(x_1, x_0)
            found = True
        except ValueError:
            found = False
        assert found == expected
        outcomes.add(found)
    assert len(outcomes) == 2


@pytest.mark.usefixtures("untyped")
def test_bad_samples_raise():
    x = torch.tensor([[1.0], [2.0]])
    touching = torch.tensor([[1.0], [0.0]])
    nearly = torch.linspace(0, 1, 3000)[:, None]
    calls = [
        (x, -x, "x_1 and x_0 must overlap"),
        (x, touching, "x_1 and x_0 must overlap"),
        (nearly + 1.0, nearly, "x_1 and x_0 must overlap"),
        (x.repeat(1, 2), (3 - x).repeat(1, 2), "must overlap and have independent features"),
        (x * math.nan, x, "x_1 and x_0 must overlap"),
        (x, x[:0], "x_1 and x_0 must hold a sample each, got 2 and 0"),
        (x, x.repeat(1, 2), "x_0 must have 1 features, got 2"),
    ]
    for x_1, x_0, words in calls:
        with pytest.raises(ValueError, match=words):
            logistic(x_1, x_0)
