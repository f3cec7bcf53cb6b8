r"""Scores of pairs by a joint encoder, and what two separate encoders cannot score.

A score matrix has a row for each $x_i$ and a column for each $x'_j$; the positives are on its
diagonal. Codes are unit vectors, and scores are divided by the temperature by whoever uses them.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from genref.energy.contrastive import info_nce, uniform_value

__all__ = [
    "certificate",
    "joint_codes",
    "joint_scores",
    "query",
    "ring",
    "two_encoder_cap",
    "unreachable",
]


def joint_scores(
    h: Callable[[Tensor, Tensor], Tensor],
    g: Callable[[Tensor], Tensor],
    x: Shaped[Tensor, "N ..."],
    x_prime: Shaped[Tensor, "M ..."],
) -> Float[Tensor, "N M"]:
    r"""Returns $s_{ij} = h(x_i, x'_j)^\top g(x'_j)$, from $NM$ passes of $h$ and $M$ of $g$.

    Claim: contrastive-joint
        Let $(x_i, x'_i)$ for $i \le N$ be pairs with the law $p(x, x')$, let $x'_j$ for
        $N < j \le M$ have the law of $x'$, and let all of these be independent. For maps $h$ and
        $g$ into $S^d$, not fitted to this batch, let
        $s_{ij} = h(x_i, x'_j)^\top g(x'_j) / \tau$ and
        $$\begin{aligned}
        L_\star &= \frac1N \sum_{i=1}^N \Bigl[ -s_{ii} + \log \sum_{j=1}^M e^{s_{ij}} \Bigr] \\
        &= -\frac1N \sum_{i=1}^N s_{ii}
        + \frac1N \sum_{i=1}^N \log \frac1M \sum_{j=1}^M e^{s_{ij}} + \log M.
        \end{aligned}$$
        Then $\log M - E L_\star \le \min(\log M, I(x; x'))$. If $x$ and $x'$ have finitely many
        values, $p > 0$ and $M \ge 2$, then among all scores $s(x, x')$ the mean $E L_\star$ is
        least if and only if $s = \log p(x' \mid x) / p(x') + c(x)$ for some $c$. In any batch with
        $N = M$, the mean of $\log M - L_\star$ over the $M!$ ways to pair its $x$ with its $x'$ is
        at most 0.

        If one code $h(x_i, x'_i)$ is compared with all $g(x'_j)$ instead, the bound is
        $\min(\log M, H(x'))$, whatever $x$ is. With $h(x, x') = g(x')$, $\tau = 1$ and $M = 5$
        orthonormal codes $g(x'_j)$, this objective gives
        $\log M - L = \log 5 + 1 - \log(4 + e) = 0.704605$ for every $x$, and $L_\star$ gives 0.

    Arguments:
        h: The joint encoder, from $NM$ rows of $x$ and as many of $x'$ to as many codes.
        g: The encoder of $x'$, from $M$ rows to $M$ codes of the same length.
        x: A row for each $x_i$.
        x_prime: A row for each $x'_j$, those with $j \le N$ in the order of `x`.
    """
    N, M = len(x), len(x_prime)
    z = h(x.repeat_interleave(M, 0), torch.cat([x_prime] * N))
    y = g(x_prime)
    if y.dim() != 2 or len(y) != M:
        raise ValueError(f"g must return {M} codes, got shape {tuple(y.shape)}")
    if z.shape != (N * M, y.shape[1]):
        wanted = (N * M, y.shape[1])
        raise ValueError(f"h must return codes of shape {wanted}, got shape {tuple(z.shape)}")
    return (z.view(N, M, -1) * y).sum(-1)


def certificate(scores: Float[Tensor, "*batch N M"]) -> Float[Tensor, "*batch"]:
    r"""Returns $\log M - L_\star = \log M + \frac1N \sum_i [s_{ii} - \log \sum_j e^{s_{ij}}]$.

    Arguments:
        scores: The numbers $s_{ij}$, temperature included, with $N \le M$.
    """
    return math.log(scores.shape[-1]) - info_nce(scores)


def joint_codes(
    scores: Float[Tensor, "*#batch N M"],
    y: Float[Tensor, "*#batch M D"],
) -> Float[Tensor, "*batch N M D"]:
    r"""Returns unit vectors $z_{ij} = s_{ij} y_j + (1 - s_{ij}^2)^{1/2} y_j^\perp$.

    The vector $y_j^\perp$ is at right angles to $y_j$, so $z_{ij}^\top y_j = s_{ij}$.

    Claim: contrastive-tradeoffs
        Let $N \ge 2$ pairs be matched one to one, $\tau > 0$ and
        $L = \frac1N \sum_i [-s_{ii} + \log \sum_{j=1}^N e^{s_{ij}}]$. Two encoders give
        $s_{ij} = z_i^\top y_j / \tau$ with $z_i, y_j \in S^d$, a matrix of rank at most $d + 1$.
        For all of them
        $$L \ge \log \bigl( 1 + (N - 1)\, e^{-N / ((N - 1) \tau)} \bigr),$$
        with equality if and only if $z_i = y_i$ are the corners of a regular simplex, which exists
        in $S^d$ if and only if $N \le d + 2$. A joint encoder gives
        $s_{ij} = z_{ij}^\top y_j / \tau$. If $d \ge 1$, this can be every matrix with entries in
        $[-1/\tau, 1/\tau]$, whatever the $y_j$ are, and the least $L$ is
        $\log(1 + (N - 1)\, e^{-2 / \tau})$. For $N = 6$ and $\tau = 1$ this is 0.516814, and two
        encoders have at least 0.918676 in any dimension; at the corners of a regular hexagon in
        $S^1$ they have 1.027709. For $N$ rows and $M$ columns two encoders take $N + M$ passes and
        a joint one takes $NM$ of $h$ and $M$ of $g$.

    Arguments:
        scores: Any numbers $s_{ij} \in [-1, 1]$.
        y: Unit vectors in two dimensions or more.
    """
    if y.shape[-1] < 2:
        raise ValueError(f"y must have at least 2 dimensions, got {y.shape[-1]}")
    off = (y.norm(dim=-1) - 1).abs().max()
    if not off <= torch.finfo(y.dtype).eps ** 0.5:
        raise ValueError(f"y must be unit vectors, got a norm that is off by {off:g}")
    if not (scores.abs() <= 1).all():
        raise ValueError(f"scores must be in [-1, 1], got {scores.min():g} to {scores.max():g}")
    axis = torch.zeros_like(y).scatter(-1, y.abs().argmin(-1, keepdim=True), 1.0)
    aside = axis - (axis * y).sum(-1, keepdim=True) * y
    aside = (aside / aside.norm(dim=-1, keepdim=True))[..., None, :, :]
    s = scores[..., None]
    z: Tensor = s * y[..., None, :, :] + (1 - s * s).sqrt() * aside
    return z


def two_encoder_cap(d: int, temperature: float = 1.0) -> float:
    r"""Returns $\max(1 / \tau - \log c, \log c)$ at $c = c_d(1 / \tau)$, a cap of two encoders.

    It is sharp if $\tau \ge 1 / (d + 1)$.

    Claim: x-contrastive-two-encoders
        Let $c_d(\kappa)$ be the mean of $e^{\kappa u_1}$ for $u$ uniform on $S^d$, which is
        $\Gamma(\nu + 1)\, (2 / \kappa)^\nu I_\nu(\kappa)$ with $\nu = (d - 1) / 2$. For every
        $\tau > 0$, every $N$ and all unit vectors $z_1, \dots, z_N$ and $y_1, \dots, y_N$ in
        $\mathbb{R}^{d + 1}$,
        $$\log N + \frac1N \sum_{i=1}^N \Bigl[ \frac{z_i^\top y_i}\tau
        - \log \sum_{j=1}^N e^{z_i^\top y_j / \tau} \Bigr]
        \le \max \Bigl( \frac1\tau - \log c_d(1 / \tau),\, \log c_d(1 / \tau) \Bigr).$$
        The same bounds $E\, z^\top y / \tau - E \log E' e^{z^\top y' / \tau}$ for random unit
        vectors $z$ and $y$ with any joint law, where $E'$ is the mean over a copy $y'$ of $y$ drawn
        alone. If $\tau \ge 1 / (d + 1)$, the first of the two numbers is the larger, and this mean
        is equal to it if and only if $z = y$ almost surely and uniform on $S^d$; batches of equal
        codes that fill the sphere evenly come as close as one wants as $N \to \infty$. At
        $\tau = 1$ the bound is 0.764086 for $d = 1$ and 0.838561 for $d = 2$, and it tends to 1 as
        $d \to \infty$. So the loss of six pairs in $S^1$ is at least
        $\log 6 - 1 + \log I_0(1) = 1.0276738$.

    Arguments:
        d: The dimension of the sphere, at least 1.
        temperature: The number $\tau > 0$.
    """
    if d < 1:
        raise ValueError(f"d must be at least 1, got {d}")
    log_c = uniform_value(d + 1, temperature)
    return max(1 / temperature - log_c, log_c)


def ring(t: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n D"]:
    r"""Returns $y(t) = k^{-1/2} (\cos t, \dots, \cos kt, \sin t, \dots, \sin kt) \in S^{2k - 1}$.

    Claim: x-contrastive-top-k
        Put any $n$ different angles $t_j \in [0, 2\pi)$ into $y(t)$. For every set of $k < n$ of
        these codes there is a $z \in S^{2k - 1}$ whose products with them are equal, and larger
        than those with all others. So where $d + 1 \ge 2k$, two encoders into $S^d$ can rank every
        set of $k$ documents first, whatever their number. If $k \ge 2$, $d + 1 \le 2k - 1$ and
        $n \ge d + 1 + k$, they cannot: of any $n$ codes in $S^d$ there are $k$ such that no $z$
        has a larger product with each of them than with each of the others. On a circle, of the
        $n (n - 1) / 2$ pairs of $n \ge 3$ different codes just $n$ are ranked first.

    Arguments:
        t: The angles.
        k: The number of frequencies, at least 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    angle = t[..., None] * torch.arange(1, k + 1, dtype=t.dtype, device=t.device)
    return torch.cat([angle.cos(), angle.sin()], -1) / math.sqrt(k)


def query(t: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch D"]:
    r"""Returns the $z \in S^{2k - 1}$ whose product with $y(t)$ is greatest at the $k$ given $t$.

    It is minus the vector of Fourier coefficients of $\prod_{i=1}^k (1 - \cos(t - t_i))$. Codes of
    many near angles differ by less than float32 can hold: rank them in float64.
    """
    k = t.shape[-1]
    if k < 1:
        raise ValueError(f"t must hold at least 1 angle, got {k}")
    grid = torch.arange(2 * k + 1, dtype=torch.float64, device=t.device) * (2 * math.pi / (2 * k + 1))
    wave = (1 - (grid[:, None] - t.double()[..., None, :]).cos()).prod(-1)
    z = -wave @ ring(grid, k)
    unit: Tensor = z / z.norm(dim=-1, keepdim=True)
    return unit.to(t.dtype)


def unreachable(y: Float[Tensor, "n D"], k: int) -> list[int]:
    r"""Returns $k$ rows of $y$ that no $z$ ranks above all others, from an affine dependence.

    Arguments:
        y: Different unit vectors in $D \le 2k - 1$ dimensions, at least $D + k$ of them.
        k: The number of rows, at least 2.
    """
    n, D = y.shape
    if k < 2:
        raise ValueError(f"k must be at least 2, got {k}")
    if 2 * k <= D or n < D + k:
        raise ValueError(f"y must have D < {2 * k} columns and at least D + {k} rows, got {n}, {D}")
    system = torch.cat([y[: D + 2], y.new_ones(D + 2, 1)], -1)
    weight = torch.linalg.svd(system.mT).Vh[-1]
    weight = weight.where(weight.abs() > torch.finfo(y.dtype).eps ** 0.75, 0)
    signs = [weight.gt(0).nonzero().flatten().tolist(), weight.lt(0).nonzero().flatten().tolist()]
    fewer, more = sorted(signs, key=len)
    others = [i for i in range(n) if i not in fewer + more]
    return sorted(fewer + others[: k - len(fewer)])
