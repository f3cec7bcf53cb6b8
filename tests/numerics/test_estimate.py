import math
import re
from fractions import Fraction
from itertools import product
from pathlib import Path
from runpy import run_path

import mpmath
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.numerics.estimate import Estimate, estimate, false_alarm, power

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/numerics/estimate.py"
CRITICAL = [0.3, 1.7, 4.0, 9.0, 25.0]
DEVIATION = [-2.2, 0.6, 3.3, 8.0]


def by_hand(column):
    """The mean and the standard error of one column of samples, exact up to the root."""
    values = [Fraction(value) for value in column.tolist()]
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return torch.tensor([mean, math.sqrt(spread / len(values))], dtype=DOUBLE)


def outcomes(values, probabilities, n):
    """All samples of size n of a finite law, one a column, and their probabilities."""
    words = list(product(range(len(values)), repeat=n))
    columns = torch.tensor([[values[i] for i in word] for word in words], dtype=DOUBLE).T
    return columns, [math.prod(probabilities[i] for i in word) for word in words]


def variance(values, probabilities):
    mean = sum(p * v for v, p in zip(values, probabilities, strict=True))
    spread = sum(p * (v - mean) ** 2 for v, p in zip(values, probabilities, strict=True))
    return torch.tensor(spread, dtype=DOUBLE)


def tails(k, m):
    with mpmath.workdps(40):
        k, m = mpmath.mpf(k), mpmath.mpf(m)
        return torch.tensor(mpmath.ncdf(m - k) + mpmath.ncdf(-m - k), dtype=DOUBLE)


def cap(n, k):
    """The share of the sphere within the angle of the claim from an axis."""
    with mpmath.workdps(30):
        theta = mpmath.atan(mpmath.sqrt(n - 1) / k)
        area = mpmath.quad(lambda t: mpmath.sin(t) ** (n - 2), [0, theta])
        half = mpmath.quad(lambda t: mpmath.sin(t) ** (n - 2), [0, mpmath.pi / 2])
        return torch.tensor(area / half, dtype=DOUBLE)


@pytest.mark.claim("numerics-z-test")
def test_the_z_test(evidence, estimate=estimate, alarm=false_alarm, power=power, share=cap):
    for n, offset in ((2, -0.4), (7, 3.2), (50, 1e8)):
        samples = 1.3 * torch.randn(n, 4, dtype=DOUBLE, generator=evidence.generator) + offset
        evidence.numeric(
            torch.stack(estimate(samples)).T,
            [by_hand(column) for column in samples.T],
            bound=1e-12,
            relative=True,
            oracle="sums of exact fractions",
        )
    values, probabilities = (-1.5, 0.25, 4.0), (0.5, 0.3, 0.2)
    for n in (2, 3, 6):
        samples, weights = outcomes(values, probabilities, n)
        evidence.numeric(
            torch.tensor(weights, dtype=DOUBLE) @ estimate(samples).standard_error.square(),
            variance(values, probabilities) / n,
            bound=1e-13,
            relative=True,
            oracle="the variance of the law, over all samples that it can give",
        )
    grid = torch.cartesian_prod(torch.tensor(CRITICAL), torch.tensor(DEVIATION)).double()
    evidence.numeric(
        power(*grid.T),
        [tails(k, m) for k, m in grid.tolist()],
        bound=1e-12,
        relative=True,
        oracle="the normal law at 40 digits",
    )
    evidence.numeric(
        alarm(torch.tensor(CRITICAL, dtype=DOUBLE)),
        [tails(k, 0) for k in CRITICAL],
        bound=1e-12,
        relative=True,
        oracle="the normal law at 40 digits",
    )
    stated = f"{alarm(4.0):.7f} {power(4.0, 8.0):.5f}"
    evidence.exact(stated, "0.0000633 0.99997", oracle="the decimals of the claim")
    for k, n in product((0.4, 1.5), (2, 5)):
        samples = 2.5 * torch.randn(n, 50_000, dtype=DOUBLE, generator=evidence.generator) - 0.7
        student = 2 * scipy.stats.t.sf(k, n - 1)
        evidence.statistical(
            (estimate(samples).z_score(-0.7).abs() > k).double(),
            student,
            detects=0.02,
            oracle="Student's law",
        )
        evidence.numeric(share(n, k), student, bound=1e-12, oracle="Student's law")
        evidence.ordered(alarm(k), student, bound=0.0, oracle="Student's law")
    n, p = 1600, 0.37
    heads = torch.arange(n)[:, None] < torch.arange(n + 1)
    flips = estimate(heads.double())
    weight = torch.tensor(scipy.stats.binom.pmf(range(n + 1), n, p))
    for k, m in product((0.6, 2.1), (0.0, 0.9, -2.8)):
        known = p - m * math.sqrt(p * (1 - p) / n)
        evidence.numeric(
            weight @ (flips.z_score(known).abs() > k).double(),
            tails(k, m),
            bound=0.025,
            oracle="the limit of the claim, over all counts of heads in 1600 throws",
        )


@mutant(test_the_z_test, "s for s / sqrt(n)", of="estimate")
def spread(samples):
    return Estimate(samples.mean(0), samples.std(0))


@mutant(test_the_z_test, "the divisor n", of="estimate")
def divided_by_n(samples):
    mean, error = estimate(samples)
    n = samples.shape[0]
    return Estimate(mean, error * math.sqrt((n - 1) / n))


@mutant(test_the_z_test, "the variance of the mean for its root", of="estimate")
def squared(samples):
    mean, error = estimate(samples)
    return Estimate(mean, error.square())


@mutant(test_the_z_test, "the mean square minus the squared mean", of="estimate")
def cancelled(samples):
    n, mean = samples.shape[0], samples.mean(0)
    spread = (samples.square().mean(0) - mean.square()) * n / (n - 1)
    return Estimate(mean, (spread.clamp_min(0) / n).sqrt())


@mutant(test_the_z_test, "two standard errors called four", of="alarm")
def two_called_four(critical):
    return false_alarm(critical / 2)


@mutant(test_the_z_test, "one side for two", of="alarm")
def one_sided(critical):
    return false_alarm(critical) / 2


@mutant(test_the_z_test, "the tail as one minus the rest", of="alarm")
def complement(critical):
    return 1 - torch.special.erf(torch.as_tensor(critical) / math.sqrt(2))


@mutant(test_the_z_test, "the nearer side alone", of="power")
def nearer_side(critical, deviation):
    return torch.special.erfc(torch.as_tensor(critical - abs(deviation)) / math.sqrt(2)) / 2


@mutant(test_the_z_test, "the deviation in units of the spread, for n = 4", of="power")
def unscaled(critical, deviation):
    return power(critical, deviation / 2)


@mutant(test_the_z_test, "n for n - 1 degrees of freedom", of="share")
def one_dimension_more(n, k):
    return cap(n + 1, k)


@mutant(test_the_z_test, "the normal law for Student's", of="share")
def as_in_the_limit(n, k):
    return tails(k, 0)


def test_results_have_names_and_order():
    samples = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, 8.0]], dtype=DOUBLE)
    found = estimate(samples)
    assert found == (found.mean, found.standard_error)
    assert found.mean.tolist() == [3.0, 6.0]
    expected = torch.tensor([math.sqrt(7 / 3), 1.0], dtype=DOUBLE)
    torch.testing.assert_close(found.standard_error, expected)
    torch.testing.assert_close(found.z_score(5.0), torch.tensor([-2.0, 1.0]) / expected)
    known = torch.tensor([5.0, 7.0], dtype=DOUBLE)
    torch.testing.assert_close(found.z_score(known), torch.tensor([-2.0, -1.0]) / expected)


def test_the_interval_holds_what_the_test_accepts():
    samples = torch.randn(9, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    found = estimate(samples)
    for critical in (1.8, torch.tensor([0.7, 1.8, 2.9], dtype=DOUBLE)):
        for end, sign in zip(found.interval(critical), (1, -1), strict=True):
            expected = torch.as_tensor(critical, dtype=DOUBLE).expand(3) * sign
            torch.testing.assert_close(found.z_score(end), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    samples = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(5), dtype=dtype)
    found = estimate(samples)
    assert (found.mean.shape, found.mean.dtype) == ((2, 3), dtype)
    assert (found.standard_error.shape, found.standard_error.dtype) == ((2, 3), dtype)
    assert found.z_score(0.3).dtype == found.interval(1.5)[0].dtype == dtype
    assert false_alarm(torch.tensor(2.5, dtype=dtype)).dtype == dtype
    assert power(2.5, torch.tensor([1.5], dtype=dtype)).dtype == dtype
    assert power(torch.tensor(2.5, dtype=dtype), 4).dtype == dtype


def test_python_numbers_count_as_float64():
    assert false_alarm(3).dtype == power(3, 1.5).dtype == DOUBLE
    assert abs(false_alarm(3.0).item() - tails(3, 0)) < 1e-17


def test_critical_values_and_deviations_broadcast():
    table = power(torch.tensor([1.5, 2.5])[:, None], torch.tensor([0.5, 1.0, 2.0]))
    assert table.shape == (2, 3)
    assert table[1, 2] == power(torch.tensor(2.5), torch.tensor(2.0))


def test_gradients_flow():
    samples = torch.randn(5, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    assert torch.autograd.gradcheck(estimate, samples.requires_grad_())
    numbers = (torch.tensor(1.2, dtype=DOUBLE), torch.tensor(0.7, dtype=DOUBLE))
    assert torch.autograd.gradcheck(power, [number.requires_grad_() for number in numbers])


def test_results_follow_the_device():
    assert estimate(torch.ones(3, 2, device="meta")).standard_error.is_meta


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("shape", [(), (0,), (1,), (1, 4)])
def test_one_sample_has_no_standard_error(shape):
    words = f"samples must be 2 or more, got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(words)):
        estimate(torch.ones(shape))


@pytest.mark.usefixtures("untyped")
def test_a_negative_critical_value_raises():
    found = estimate(torch.tensor([1.0, 2.0]))
    for call in (false_alarm, found.interval, lambda critical: power(critical, 3.0)):
        with pytest.raises(ValueError, match=re.escape("critical must be at least 0, got -0.5")):
            call(-0.5)
        with pytest.raises(ValueError, match="critical must be at least 0, got nan"):
            call(math.nan)
        with pytest.raises(ValueError, match="critical must be at least 0, got tensor"):
            call(torch.tensor([1.0, -1.0]))


def test_the_figures_draw_the_exact_laws():
    snippet = run_path(str(SNIPPET))
    ax = Figure().add_subplot()
    snippet["figure"](ax)
    for k, curve, marks in zip((2, 4, 6), ax.lines[::2], ax.lines[1::2], strict=True):
        for line, bound in ((curve, 1e-6), (marks, 0.08)):
            for m, alarm in line.get_xydata().tolist():
                assert abs(alarm - tails(k, m)) < bound
    figure = Figure()
    snippet["figure_small"](figure)
    for k, line in zip((2, 4), figure.axes[1].lines[::2], strict=True):
        for n, alarm in line.get_xydata().tolist():
            assert abs(alarm / (2 * scipy.stats.t.sf(k, n - 1)) - 1) < 1e-9


def test_looks_agree_with_the_published_table():
    found = run_path(str(SNIPPET))["looks"](1.96, 50)
    table = {1: 0.050, 2: 0.083, 3: 0.107, 4: 0.126, 5: 0.142, 10: 0.193, 20: 0.248, 50: 0.320}
    assert {j: round(found[j - 1], 3) for j in table} == table
