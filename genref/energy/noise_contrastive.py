r"""Noise-contrastive estimation: a density learnt by telling data from noise of known density.

The argument of the sigmoid is called the logit $u$. The sheet calls it an energy, though the
density grows with it: here an energy $E$ has $p = e^{-E}$. Samples stand in the last dimension.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from genref.numerics.estimate import Estimate

__all__ = ["energy", "log_normaliser", "objective", "optimum", "variance"]


def objective(
    logit_data: Float[Tensor, "*#batch n_d"],
    logit_noise: Float[Tensor, "*#batch n_n"],
    ratio: float = 1,
) -> Float[Tensor, "*batch"]:
    r"""Returns the mean of $\log\sigma(u)$ over data, plus $\nu$ times that of $\log\sigma(-u)$.

    The second mean is over the noise. The sum is to be maximised, though the sheet writes a
    minimum.

    Claim: nce-optimum
        Let $p_d$ and $p_n$ be densities with respect to one measure, with $p_n > 0$ wherever
        $p_d > 0$, and $J(u) = E_{p_d} \log \sigma(u) + E_{p_n} \log(1 - \sigma(u))$ for measurable
        $u$ with values in $[-\infty, \infty)$. Then $u^\star = \log(p_d / p_n)$ is a maximiser, and
        any other agrees with it almost everywhere on $\{p_d + p_n > 0\}$. The maximum is $2 \,
        \mathrm{JSD}(p_d, p_n) - 2 \log 2$. Below, $J$ has no bound: for $c > 0$ the constants
        $u = \pm c$ give less than $-c$. So $p_d = p_n e^{u^\star}$, and if $p_n > 0$ everywhere, $E^\star =
        -\log p_n - u^\star$ is the energy of $p_d$, with normaliser 1. A model $\sigma(-E)$ in
        place of $\sigma(u)$ has the optimum $E^\star = \log(p_n / p_d)$.

    Claim: x-nce-ratio
        For $\nu > 0$ let $J_\nu(u) = E_{p_d} \log \sigma(u) + \nu E_{p_n} \log(1 - \sigma(u))$,
        else as above. The maximiser is $u^\star = \log(p_d / p_n) - \log \nu$. Let $f_\theta > 0$,
        normalised or not, on a finite set with $p_n > 0$, be differentiable in $\theta$ and
        $u_\theta = \log f_\theta - \log p_n - \log \nu$. Then
        $$\nabla_\theta J_\nu(u_\theta) = \sum_x \frac{\nu p_n}{f_\theta + \nu p_n}
        \, (p_d - f_\theta) \nabla_\theta \log f_\theta,$$
        which for $\nu \to \infty$ tends to the gradient of
        $E_{p_d} \log f_\theta - \sum_x f_\theta$. For every $\nu$ it is zero where
        $f_\theta = p_d$.

    Arguments:
        logit_data: The values $u(x)$ at the data.
        logit_noise: The values $u(x)$ at the noise.
        ratio: The number $\nu > 0$ of noise samples for each datum.
    """
    _check_ratio(ratio)
    for name, logit in (("logit_data", logit_data), ("logit_noise", logit_noise)):
        if logit.dim() == 0 or logit.shape[-1] == 0:
            raise ValueError(f"{name} must hold samples, got shape {tuple(logit.shape)}")
    return F.logsigmoid(logit_data).mean(-1) + ratio * F.logsigmoid(-logit_noise).mean(-1)


def optimum(
    log_p_d: Float[Tensor, "..."],
    log_p_n: Float[Tensor, "..."],
    ratio: float = 1,
) -> Float[Tensor, "..."]:
    r"""Returns $u^\star = \log p_d - \log p_n - \log \nu$, not a number where both are zero."""
    _check_ratio(ratio)
    return log_p_d - log_p_n - math.log(ratio)


def energy(
    logit: Float[Tensor, "..."],
    log_p_n: Float[Tensor, "..."],
    ratio: float = 1,
) -> Float[Tensor, "..."]:
    r"""Returns $E = -u - \log p_n - \log \nu$, for which $e^{-E} = p_d$ where $u = u^\star$.

    Arguments:
        logit: The logit $u$, as it was trained with $\nu$ noise samples for each datum.
        log_p_n: The logarithm of the density of the noise.
        ratio: The number $\nu > 0$.
    """
    _check_ratio(ratio)
    return -logit - log_p_n - math.log(ratio)


def log_normaliser(
    log_ratio_data: Float[Tensor, "*#batch n_d"],
    log_ratio_noise: Float[Tensor, "*#batch n_n"],
) -> Estimate:
    r"""Returns the $c$ that maximises $J_\nu$ for $u = \log f - c - \log p_n - \log \nu$.

    Here $\nu = n_n / n_d$, and $f$ is $p_d$ but for its normaliser $Z$, of which $e^c$ is the
    estimate. It is found by Newton's method, its step $s$ shortened to $\log(1 + s)$, with
    bisection where that leaves the bracket. The error is infinite where data and noise lie too far
    apart for floating point.

    Arguments:
        log_ratio_data: The values $\log f - \log p_n$ at the data, $\infty$ where $p_n = 0$.
        log_ratio_noise: Those at the noise, $-\infty$ where $f = 0$. Samples may not be left out.
    """
    n_d, n_n = log_ratio_data.shape[-1:].numel(), log_ratio_noise.shape[-1:].numel()
    for name, values, end in (("data", log_ratio_data, math.inf), ("noise", log_ratio_noise, -math.inf)):
        finite = values.isfinite()
        if values.dim() == 0 or not finite.any(-1).all() or not (finite | (values == end)).all():
            raise ValueError(f"log_ratio_{name} must be {end} or finite, some finite, got {_described(values)}")
    zero = torch.zeros_like(log_ratio_data[..., :1] + log_ratio_noise[..., :1])
    t = torch.cat([log_ratio_data + zero, log_ratio_noise + zero], -1)
    finite = t.isfinite()
    low = t.where(finite, math.inf).amin(-1, keepdim=True) - math.log(n_n)
    high = t.where(finite, -math.inf).amax(-1, keepdim=True) + math.log(n_d)
    c = new = t.where(finite, 0).sum(-1, keepdim=True) / finite.sum(-1, keepdim=True)
    for _ in range(100):
        c = new
        u = t - c - math.log(n_n / n_d)
        d, not_d = torch.sigmoid(u), torch.sigmoid(-u)
        slope = d[..., n_d:].sum(-1, keepdim=True) - not_d[..., :n_d].sum(-1, keepdim=True)
        information = (d * not_d).sum(-1, keepdim=True)
        low, high = torch.where(slope > 0, c, low), torch.where(slope > 0, high, c)
        new = c + slope.sign() * torch.log1p(slope.abs() / information)
        new = torch.where(slope == 0, c, new)
        good = (low < new) & (new < high) | (new == c)
        new = torch.where(good, new, low + (high - low) / 2)
        if ((new - c).abs() <= 2 * torch.finfo(c.dtype).eps * (1 + c.abs())).all():
            break
    # At the maximum this is 1 / information - 1 / n_d - 1 / n_n, which cancels.
    spread = (d - n_d / (n_d + n_n)).square().sum(-1) * (1 / n_d + 1 / n_n)
    return Estimate(c.squeeze(-1), (spread / information.squeeze(-1)).sqrt())


def variance(
    p_d: Float[Tensor, "*#batch x"],
    p_n: Float[Tensor, "*#batch x"],
    ratio: float = 1,
) -> Float[Tensor, "*batch"]:
    r"""Returns $v_\nu$, as a ratio of two sums of which neither cancels.

    Claim: x-nce-variance
        Let $f = Z p_d$ be known, and its normaliser $Z$ not. Draw $n_d$ data and $n_n$ of the
        noise, all independent, and let $c$ maximise $J_\nu$ for
        $u = \log f - c - \log p_n - \log \nu$ with the samples' means for expectations and
        $\nu = n_n / n_d$. Let $n_d \to \infty$ with $\nu$ fixed, and let
        $I = \int p_d \, \nu p_n / (p_d + \nu p_n)$ be positive. Then $\sqrt{n_d} (c - \log Z)$
        tends in law to $\mathcal{N}(0, v_\nu)$ with
        $$v_\nu = \frac1I - 1 - \frac1\nu
        = \frac{1}{1 + \nu} \int \frac{(p_d - p_n)^2}{p_d + \nu p_n} \Big/
        \int \frac{p_d \, p_n}{p_d + \nu p_n},$$
        which is finite, and zero only for $p_n = p_d$. As $\nu \to \infty$, $\nu v_\nu$ tends to
        $\chi^2(p_d \Vert p_n)$, finite or not, and as $\nu \to 0$, $v_\nu$ tends to
        $\chi^2(p_n \Vert p_d)$. If $p_n > 0$ wherever $p_d > 0$, the first is the variance of
        $f/(Zp_n)$ under the noise. For $p_d = \mathcal{N}(0, 1)$ and $\nu = 1$ the noises
        $\mathcal{N}(0, 1.5^2)$ and $\mathcal{N}(0, 3^2)$ have $v_1 = 0.14332$ and $0.89379$.

    Arguments:
        p_d: The table of the data, or their density times the weights of a quadrature; of sum 1.
        p_n: Likewise of the noise.
        ratio: The number $\nu > 0$ of noise samples for each datum.
    """
    _check_ratio(ratio)
    if p_d.shape[-1:] != p_n.shape[-1:]:
        raise ValueError(f"p_n must have the points of p_d, got {p_n.shape[-1]}, not {p_d.shape[-1]}")
    for name, table in (("p_d", p_d), ("p_n", p_n)):
        if not (table >= 0).all():
            raise ValueError(f"{name} must not be negative, got {table.min():.6g}")
        if not ((table.sum(-1) - 1).abs() < 0.01).all():
            raise ValueError(f"{name} must sum to 1, weights included, got {table.sum(-1)}")
    total = p_d + ratio * p_n
    total = total.where(total > 0, 1)
    apart, shared = ((p_d - p_n) ** 2 / total).sum(-1), (p_d / total * p_n).sum(-1)
    return apart / (1 + ratio) / shared


def _described(values: Tensor) -> str:
    return f"shape {tuple(values.shape)}, {int(values.isfinite().sum())} of them finite"


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio must be positive and finite, got {ratio}")
