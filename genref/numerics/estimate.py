r"""Means of samples with their standard errors, and the test of a mean against a known value."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Estimate", "estimate", "false_alarm", "power"]


class Estimate(NamedTuple):
    r"""A mean $\bar x$ and its standard error $s/\sqrt n$.

    Claim: numerics-z-test
        Let $x_1, \dots, x_n$ with $n \ge 2$ be independent samples of one law with mean $\mu$ and
        finite variance $\sigma^2 > 0$. Let $\bar x$ be their mean,
        $s^2 = \sum_i (x_i - \bar x)^2 / (n - 1)$ and $z = (\bar x - \mu_0) / (s / \sqrt n)$. Then
        $E[s^2 / n] = \operatorname{Var} \bar x = \sigma^2 / n$.

        If $\mu = \mu_0 + m \sigma / \sqrt n$ and the law of $(x_i - \mu) / \sigma$ does not change
        with $n$, then for each $k \ge 0$ as $n \to \infty$
        $$\Pr(|z| > k) \to \Phi(m - k) + \Phi(-m - k) .$$
        For $k = 4$ this is 0.0000633 at $m = 0$, a false alarm, and 0.99997 at $m = 8$.

        If the law is normal, then for each $n$ and $k > 0$ a false alarm has exactly the
        probability
        $$\Pr(|z| > k)
        = \frac{\int_0^\theta \sin^{n-2} t \, dt}{\int_0^{\pi/2} \sin^{n-2} t \, dt}$$
        with $\tan \theta = \sqrt{n - 1} / k$, which is larger than $2 \Phi(-k)$.
    """

    mean: Float[Tensor, "*batch"]
    r"""The mean $\bar x$ of the samples."""

    standard_error: Float[Tensor, "*batch"]
    r"""The estimate $s/\sqrt n$ of the standard deviation of that mean."""

    def z_score(self, expected: float | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Returns $z = (\bar x - \mu_0) / (s / \sqrt n)$, the deviation in standard errors.

        Arguments:
            expected: The known value $\mu_0$.
        """
        return (self.mean - expected) / self.standard_error

    def interval(
        self,
        critical: float | Float[Tensor, "..."],
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        r"""Returns $\bar x \mp k s / \sqrt n$, the ends of all $\mu_0$ with $|z| \le k$.

        Arguments:
            critical: The number $k \ge 0$.
        """
        reach = _not_negative(critical) * self.standard_error
        return self.mean - reach, self.mean + reach


def estimate(samples: Float[Tensor, "n ..."]) -> Estimate:
    r"""Returns $\bar x$ and $s/\sqrt n$ over the first dimension, $s$ with the divisor $n - 1$.

    ```python
    import torch

    from genref.numerics.estimate import estimate

    samples = torch.tensor([2.0, 4.0, 4.0, 6.0])
    mean, standard_error = estimate(samples)
    print(f"{mean:.2f} ± {standard_error:.2f}")
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    4.00 ± 0.82
    ```

    Arguments:
        samples: Independent samples, two at least.
    """
    if samples.dim() == 0 or samples.shape[0] < 2:
        raise ValueError(f"samples must be 2 or more, got shape {tuple(samples.shape)}")
    mean = samples.mean(0)
    return Estimate(mean, (samples - mean).std(0) / math.sqrt(samples.shape[0]))


def false_alarm(critical: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Returns $2\Phi(-k)$, the probability of $|z| > k$ where the known value is right.

    Arguments:
        critical: The number $k \ge 0$; a Python number counts as float64.
    """
    return power(critical, 0.0)


def power(
    critical: float | Float[Tensor, "..."],
    deviation: float | Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    r"""Returns $\Phi(m - k) + \Phi(-m - k)$, the probability of $|z| > k$ at a true deviation $m$.

    Each tail has its own complementary error function, so that small ones keep all their digits.

    Arguments:
        critical: The number $k \ge 0$.
        deviation: The number $m = (\mu - \mu_0) / (\sigma / \sqrt n)$, of either sign.
    """
    critical = _not_negative(critical)
    return _upper_tail(critical - deviation) + _upper_tail(critical + deviation)


def _upper_tail(x: float | Tensor) -> Tensor:
    x = x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
    return torch.erfc(x / math.sqrt(2)) / 2


def _not_negative(critical: float | Tensor) -> float | Tensor:
    if not torch.as_tensor(critical >= 0).all():
        raise ValueError(f"critical must be at least 0, got {critical}")
    return critical
