r"""Discriminators of two laws, and what one that is trained says about their densities.

A discriminator $D$ gives the probability that a point comes from $p_1$ rather than from $p_0$.
Tables hold the probabilities of finitely many points, or densities times the weights of a
quadrature; samples stand in the last dimension. The logit of a probability $d$ is
$\log(d / (1 - d))$.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from genref.numerics.estimate import Estimate, estimate

__all__ = [
    "accept",
    "density_ratio",
    "jensen_shannon",
    "jensen_shannon_estimate",
    "log_density_ratio",
    "optimum",
    "second_variation",
    "shortfall",
    "value",
]


def value(
    f_1: Float[Tensor, "*#batch x"],
    f_0: Float[Tensor, "*#batch x"],
    d: Float[Tensor, "*#batch x"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $V(D) = \sum_x f_1(x) \log D(x) + f_0(x) \log(1 - D(x))$, where $0 \log 0 = 0$."""
    _check_tables(f_1, f_0, d)
    _check_inside("d", d)
    return (_times_log(f_1, d) + _times_log(f_0, 1 - d)).sum(-1)


def optimum(
    log_f_1: Float[Tensor, "..."],
    log_f_0: Float[Tensor, "..."],
    prior: float | Float[Tensor, "..."] = 0.5,
) -> Float[Tensor, "..."]:
    r"""Returns $D^\star = \pi f_1 / (\pi f_1 + (1 - \pi) f_0)$, and $\pi$ where both are zero.

    Claim: gan-optimal-D
        Let $f_1$ and $f_0$ be densities of two laws with respect to one measure, and let
        $V(D) = \int f_1 \log D + f_0 \log(1 - D)$ for measurable $D$ with values in $[0, 1]$, where
        $0 \log 0 = 0$. Then $D^\star = f_1 / (f_0 + f_1)$, with $\frac12$ for $\frac00$, is a
        maximiser, and any other agrees with it almost everywhere on $\{f_0 + f_1 > 0\}$. With
        values in the open interval the supremum is the same, and it is attained if and only if
        $f_0$ and $f_1$ vanish together, almost everywhere.
        For every $D$ with values in $(\varepsilon, 1 - \varepsilon)$, where $\varepsilon > 0$, and
        every bounded measurable $h$, the second derivative of $V(D + th)$ at $t = 0$ is
        $$-\int \Bigl(\frac{f_1}{D^2} + \frac{f_0}{(1 - D)^2}\Bigr) h^2 \le 0,$$
        and less than 0 unless $h = 0$ almost everywhere on $\{f_0 + f_1 > 0\}$.

    Claim: x-gan-class-prior
        Let a point come from $p_1$ with probability $\pi \in (0, 1)$, else from $p_0$. Then
        $V_\pi(D) = \pi E_{p_1} \log D + (1 - \pi) E_{p_0} \log(1 - D)$ has the maximiser
        $D^\star = \pi f_1 / (\pi f_1 + (1 - \pi) f_0)$, and where $f_0 > 0$,
        $$\frac{f_1}{f_0} = \frac{1 - \pi}{\pi} \cdot \frac{D^\star}{1 - D^\star}.$$
        With $\mu = \pi p_1 + (1 - \pi) p_0$ the maximum is $\pi \, \mathrm{KL}(p_1 \Vert \mu)
        + (1 - \pi) \, \mathrm{KL}(p_0 \Vert \mu)$, the information that a point has about its
        class, less the entropy $-\pi \log \pi - (1 - \pi) \log(1 - \pi)$.

    Arguments:
        log_f_1: The logarithm of the density $f_1$, or of a table.
        log_f_0: The logarithm of $f_0$.
        prior: The probability $\pi$ of $p_1$, inside $(0, 1)$.
    """
    never = log_f_1.isneginf() & log_f_0.isneginf()
    log_ratio = log_f_1.masked_fill(never, 0) - log_f_0.masked_fill(never, 0)
    return torch.sigmoid(log_ratio - _log_odds_against(prior))


def second_variation(
    f_1: Float[Tensor, "*#batch x"],
    f_0: Float[Tensor, "*#batch x"],
    d: Float[Tensor, "*#batch x"],
    direction: Float[Tensor, "*#batch x"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $-\sum_x (f_1/D^2 + f_0/(1 - D)^2) h^2$, the second derivative of $V(D + th)$.

    Arguments:
        f_1: The table of $p_1$.
        f_0: The table of $p_0$.
        d: The discriminator $D$, inside $(0, 1)$.
        direction: The change $h$.
    """
    _check_tables(f_1, f_0, d, direction)
    if not ((d > 0) & (d < 1)).all():
        raise ValueError(f"d must be inside (0, 1), got {_range(d)}")
    return -((f_1 / d**2 + f_0 / (1 - d) ** 2) * direction**2).sum(-1)


def jensen_shannon(
    log_d_1: Float[Tensor, "*#batch n_1"],
    log_d_0: Float[Tensor, "*#batch n_0"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $\log 2 + \tfrac12$ times the sum of the means of $\log D$ and of $\log(1 - D)$.

    Claim: gan-jsd
        Let $V(D) = E_{p_1} \log D + E_{p_0} \log(1 - D)$, $D^\star = f_1 / (f_0 + f_1)$,
        $\mu = \tfrac12(p_0 + p_1)$ and
        $\mathrm{JSD} = \tfrac12(\mathrm{KL}(p_0 \Vert \mu) + \mathrm{KL}(p_1 \Vert \mu))$. For
        every $D$ with values in $[0, 1]$
        $$\mathrm{JSD}(p_0, p_1) - \bigl(\log 2 + \tfrac12 V(D)\bigr)
        = E_\mu \mathrm{KL}\bigl(\mathrm{Bern}(D^\star) \,\Vert\, \mathrm{Bern}(D)\bigr) \ge 0,$$
        where both sides may be $\infty$. So $\mathrm{JSD} = \log 2 + \tfrac12 V(D^\star)$, and
        a $D$ that differs from $D^\star$ with positive probability under $\mu$ gives less. For
        $p_0 = \mathcal{N}(0, 1)$ and $p_1 = \mathcal{N}(1.5, 0.49)$ the divergence is
        0.287768778.

    Arguments:
        log_d_1: The values $\log D(x)$ at samples of $p_1$, at most 0.
        log_d_0: The values $\log(1 - D(x))$ at samples of $p_0$, at most 0.
    """
    _check_logs(log_d_1, log_d_0)
    return math.log(2) + (log_d_1.mean(-1) + log_d_0.mean(-1)) / 2


def jensen_shannon_estimate(log_d_1: Float[Tensor, "*#batch n_1"], log_d_0: Float[Tensor, "*#batch n_0"]) -> Estimate:
    r"""Returns `jensen_shannon` with its standard error $\tfrac12 \sqrt{s_1^2/n_1 + s_0^2/n_0}$.

    Claim: gan-jsd-estimate
        Let $\log D$ have a finite variance under $p_1$ and $\log(1 - D)$ under $p_0$. Draw
        $n_1 \ge 2$ and $n_0 \ge 2$ points of the two laws, all independent of each other and of
        $D$. Given $D$, the estimate has the mean
        $\log 2 + \tfrac12 V(D) \le \mathrm{JSD}(p_0, p_1)$, and the mean of its squared standard
        error is its variance, for every $n_1$ and $n_0$.

    Arguments:
        log_d_1: As in `jensen_shannon`, two or more finite ones.
        log_d_0: Likewise. Neither may be samples that $D$ was trained on.
    """
    mean = jensen_shannon(log_d_1, log_d_0)
    parts = [estimate(log_d.movedim(-1, 0)) for log_d in (log_d_1, log_d_0)]
    return Estimate(mean, torch.hypot(*(part.standard_error for part in parts)) / 2)


def shortfall(d_star: Float[Tensor, "..."], d: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""Returns $\mathrm{KL}(\mathrm{Bern}(D^\star) \Vert \mathrm{Bern}(D))$, point by point."""
    _check_inside("d_star", d_star)
    _check_inside("d", d)
    surprise = -_times_log(d_star, d) - _times_log(1 - d_star, 1 - d)
    entropy = torch.special.entr(d_star) + torch.special.entr(1 - d_star)
    return torch.clamp(surprise - entropy, min=0)


def density_ratio(d: float | Float[Tensor, "..."], prior: float | Float[Tensor, "..."] = 0.5) -> Float[Tensor, "..."]:
    r"""Returns $\frac{1 - \pi}{\pi} \cdot \frac{D}{1 - D}$, which is $f_1/f_0$ for $D = D^\star$.

    Claim: gan-density-ratio
        Let $D^\star = f_1 / (f_0 + f_1)$. Where $f_0 > 0$, $f_1 = f_0 D^\star / (1 - D^\star)$. The
        right side, set to 0 where $f_0 = 0$, has the integral $p_1(f_0 > 0)$. So it is the density
        of $p_1$ if and only if $p_1(f_0 = 0) = 0$; that $f_1$ and $f_0$ are positive at the same
        points suffices and is not needed. If $D^\star$ and $D = D^\star + \delta$ lie in $(0, 1)$,
        the ratio made of $D$ has the relative error $\delta / (D^\star (1 - D))$, which for small
        $\delta$ and $D^\star = 0.99$ is 101 times $\delta$.

    Arguments:
        d: The discriminator, in $[0, 1]$; a Python number counts as float64.
        prior: The probability $\pi$ of $p_1$ for which it was trained, inside $(0, 1)$.
    """
    d = d if isinstance(d, Tensor) else torch.tensor(d, dtype=torch.float64)
    _check_inside("d", d)
    against = _log_odds_against(prior)
    return d / (1 - d) * (against.exp() if isinstance(against, Tensor) else math.exp(against))


def log_density_ratio(logit: Float[Tensor, "..."], prior: float | Float[Tensor, "..."] = 0.5) -> Float[Tensor, "..."]:
    r"""Returns $u + \log((1 - \pi)/\pi)$, which is $\log(f_1/f_0)$ for the logit $u$ of $D^\star$.

    Arguments:
        logit: The logit $u$ of the discriminator. It keeps the digits that $D$ near 1 loses.
        prior: The probability $\pi$ of $p_1$ for which it was trained, inside $(0, 1)$.
    """
    return logit + _log_odds_against(prior)


def accept(
    log_ratio: Float[Tensor, "..."],
    log_bound: float | Float[Tensor, "..."],
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "..."]:
    r"""Returns which samples of $p_0$ to keep: each with its probability $s(x) / R$.

    Claim: x-gan-rejection
        Let $0 \le s \le R$ be a function with mean $c = E_{p_0} s > 0$. Draw $x$ from $p_0$ and
        keep it with probability $s(x) / R$. A point is kept with probability $c / R$, and a kept
        point has the density $f_0 s / c$. If $f_1$ vanishes where $f_0$ does and
        $s = f_1/f_0 \le R$, that is $f_1$, and $1/R$ are kept. If $s = \min(f_1/f_0, R)$ instead,
        the kept law is at a distance of at most $m = \int (f_1 - R f_0)^+$ in total variation
        from $p_1$, and $(1 - m)/R$ are kept. For $p_0 = \mathcal{N}(0, 1)$ and
        $p_1 = \mathcal{N}(1.5, 0.49)$ the least $R$ keeps a fraction of 0.07711.

    Arguments:
        log_ratio: The values $\log s(x)$ at samples of $p_0$, for example of `log_density_ratio`.
        log_bound: The number $\log R$, no smaller than any of them but for rounding.
        generator: The source of chance.
    """
    log_keep = log_ratio - log_bound
    slack = 16 * torch.finfo(log_keep.dtype).eps * (1 + torch.as_tensor(log_bound).abs())
    if not (log_keep <= slack).all():
        raise ValueError(f"log_bound must be at least log_ratio, got {log_keep.max():.6g} less")
    drawn = torch.empty_like(log_keep, dtype=torch.float64).uniform_(generator=generator)
    return drawn < log_keep.double().exp()


def _times_log(f: Tensor, d: Tensor) -> Tensor:
    return torch.xlogy(f, d.where(f > 0, 1))


def _log_odds_against(prior: float | Tensor) -> float | Tensor:
    p = prior if isinstance(prior, Tensor) else torch.tensor(prior, dtype=torch.float64)
    if not ((p > 0) & (p < 1)).all():
        raise ValueError(f"prior must be inside (0, 1), got {_range(p)}")
    return -torch.logit(p) if isinstance(prior, Tensor) else math.log1p(-prior) - math.log(prior)


def _check_tables(f_1: Tensor, f_0: Tensor, *others: Tensor) -> None:
    sizes = [table.shape[-1:].numel() for table in (f_1, f_0, *others)]
    if len(set(sizes)) > 1:
        raise ValueError(f"f_1, f_0 and d must have the same points, got {sizes} of them")
    for name, table in (("f_1", f_1), ("f_0", f_0)):
        if not (table >= 0).all():
            raise ValueError(f"{name} must not be negative, got {_range(table)}")


def _check_inside(name: str, d: Tensor) -> None:
    if not ((d >= 0) & (d <= 1)).all():
        raise ValueError(f"{name} must be in [0, 1], got {_range(d)}")


def _check_logs(log_d_1: Tensor, log_d_0: Tensor) -> None:
    for name, log_d in (("log_d_1", log_d_1), ("log_d_0", log_d_0)):
        if log_d.dim() == 0 or log_d.shape[-1] == 0:
            raise ValueError(f"{name} must hold samples, got shape {tuple(log_d.shape)}")
        if not (log_d <= 0).all():
            raise ValueError(f"{name} must be at most 0, got {_range(log_d)}")


def _range(x: Tensor) -> str:
    return f"{x.min():.6g} to {x.max():.6g}"
