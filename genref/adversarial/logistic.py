r"""The logistic discriminator: a ratio of densities learnt by the classes, with its uncertainty.

A classifier whose logit is linear in features is trained by maximum likelihood to tell samples of
$p_1$ from samples of $p_0$. Features stand in the last dimension, samples in the one before it.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genref.numerics.estimate import Estimate

__all__ = ["Logistic", "logistic"]


class Logistic(NamedTuple):
    r"""A logistic model of $\log(f_1/f_0)$, with the covariance of its weights.

    Both are of type float64: a log-ratio and its error may be small sums of large terms.
    """

    weight: Float[Tensor, "*batch k"]
    r"""The weights $\hat w$ of $\varphi(x) = (1, x_1, x_2, \dots)$."""

    covariance: Float[Tensor, "*batch k k"]
    r"""The estimated covariance of $\hat w$."""

    def log_ratio(self, x: Float[Tensor, "*#batch n features"]) -> Estimate:
        r"""Returns $\hat w \cdot \varphi(x)$, an estimate of $\log(f_1/f_0)$, with its error."""
        phi = _with_one(x.double())
        mean = (phi @ self.weight.unsqueeze(-1)).squeeze(-1)
        variance = ((phi @ self.covariance) * phi).sum(-1).clamp(min=0)
        return Estimate(mean.to(x.dtype), variance.sqrt().to(x.dtype))


def logistic(
    x_1: Float[Tensor, "*#batch n_1 features"],
    x_0: Float[Tensor, "*#batch n_0 features"],
) -> Logistic:
    r"""Trains $\log(f_1/f_0) = w \cdot \varphi(x)$ to the maximum of the likelihood of the classes.

    Claim: gan-logistic
        Let $\log(f_1/f_0) = w \cdot \varphi(x)$ where $\varphi = (1, \varphi_2, \dots, \varphi_k)$
        has finite second moments under both laws and no combination of its coordinates, but that
        with all coefficients zero, is zero almost surely. Draw $n_1$ points of $p_1$ and $n_0$ of
        $p_0$, all independent, let $n = n_1 + n_0 \to \infty$ and $n_1/n \to \pi \in (0, 1)$. Let
        $\hat w$ maximise the likelihood of the classes, with $\log(n_1/n_0)$ taken off its first
        coordinate. Then $\sqrt n (\hat w - w)$ tends in law to $\mathcal{N}(0, \Sigma)$,
        $$\Sigma = S^{-1} - \frac{e e^\top}{\pi (1 - \pi)},
        \qquad S = \int \frac{\pi f_1 \, (1 - \pi) f_0}{\pi f_1 + (1 - \pi) f_0}
        \, \varphi \varphi^\top,$$
        where $e = (1, 0, \dots, 0)$.

    Arguments:
        x_1: Features of samples of $p_1$, without the constant one.
        x_0: Features of samples of $p_0$. The classes must overlap, or there is no maximum.
    """
    n_1, n_0 = x_1.shape[-2], x_0.shape[-2]
    if min(n_1, n_0) == 0:
        raise ValueError(f"x_1 and x_0 must hold a sample each, got {n_1} and {n_0}")
    if x_1.shape[-1] != x_0.shape[-1]:
        raise ValueError(f"x_0 must have {x_1.shape[-1]} features, got {x_0.shape[-1]}")
    # Class 0 enters with its sign turned: every term of the likelihood is then log sigmoid(a w).
    zero = torch.zeros_like(x_1[..., :1, :1] + x_0[..., :1, :1])
    signed = torch.cat([_with_one(x_1 + zero), -_with_one(x_0 + zero)], -2)
    weight, information = _maximum(signed.double())
    e = F.one_hot(torch.tensor(0, device=weight.device), weight.shape[-1]).double()
    covariance = information.inverse() - (1 / n_1 + 1 / n_0) * e.outer(e)
    return Logistic(weight - math.log(n_1 / n_0) * e, covariance)


def _maximum(a: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """The maximiser of the sum of log sigmoid(a w), and minus the second derivative there.

    A Newton step that changes no logit by more than r is shortened to log(1 + r) / r of itself,
    which never overshoots: along it the second derivative grows by exp(r t) at most. Where w puts
    each point on its side, larger weights are better. Where it can do so but for ties, the gain of
    the steps tends to 0 and r does not.
    """
    w = a.new_zeros(*a.shape[:-2], a.shape[-1], 1)
    for _ in range(steps):
        u = a @ w
        slope = a.mT @ torch.sigmoid(-u)
        information = (a * (torch.sigmoid(u) * torch.sigmoid(-u))).mT @ a
        step, failed = torch.linalg.solve_ex(information, slope)
        gain = (slope * step).sum((-2, -1)) / a.shape[-2]
        r = (a @ step).abs().amax((-2, -1)).clamp(min=1e-9)
        endless = (u > 0).all(-2).squeeze(-1) | (gain < 1e-14) & (r > 0.5)
        if failed.any() or not step.isfinite().all() or endless.any():
            break
        w = w + step * (r.log1p() / r)[..., None, None]
        if (gain < 1e-22).all():
            return w.squeeze(-1), information
    raise ValueError("x_1 and x_0 must overlap and have independent features: there is no maximum")


def _with_one(x: Tensor) -> Tensor:
    return F.pad(x, (1, 0), value=1.0)
