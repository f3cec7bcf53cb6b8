r"""Affine maps of Gaussian noise, $x = \mu + S z_0$: density, samples, cost of the determinant.

A scale $S$ is a tensor, of one dimension for the diagonal of a diagonal matrix and of two or more
for square matrices, or says its form itself: `Diagonal`, `Triangular` or `LowRank`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Diagonal",
    "LowRank",
    "Scale",
    "Triangular",
    "cholesky_factor",
    "log_abs_det",
    "log_prob",
    "multiplications",
    "sample",
]


@dataclass(frozen=True, eq=False)
class Diagonal:
    r"""The scale $S = \operatorname{diag}(\sigma)$; $\sigma$ may be a batch of vectors.

    Claim: reparam-cost-diag
        The map $x = \mu + \sigma \odot z_0$ of $\mathbb{R}^K$ has
        $|\det J| = |\sigma_1 \cdots \sigma_K|$. Multiplied factor by factor this takes exactly
        $K - 1$ multiplications, 9, 99 and 999 of them for $K = 10$, 100 and 1000: it is $O(K)$. In
        float64 the product of 2000 factors $\tfrac12$ is 0, while the sum of their logarithms is
        $-2000 \log 2 = -1386.294361$.
    """

    sigma: Float[Tensor, "*batch K"]


@dataclass(frozen=True, eq=False)
class Triangular:
    r"""A scale $S$ that is lower triangular: what stands above its diagonal plays no part.

    Claim: reparam-cost-triangular
        Let $S$ be lower triangular with $S_{ii} > 0$. Then $x = \mu + S z_0$ has
        $|\det J| = S_{11} \cdots S_{KK}$, and no other entry of $S$ occurs in it. Multiplied factor
        by factor this takes exactly $K - 1$ multiplications: it is $O(K)$.
    """

    S: Float[Tensor, "*batch K K"]


@dataclass(frozen=True, eq=False)
class LowRank:
    r"""The scale $S = \operatorname{diag}(d) + U V^\top$, never formed as a matrix; no $d_i$ is 0.

    Claim: x-reparam-det-lemma
        Let $S = D + U V^\top$, where $D = \operatorname{diag}(d)$ with no $d_i = 0$ and $U$ and $V$
        are $K \times R$, and let $C = I + V^\top D^{-1} U$. Then $\det S = \det D \cdot \det C$, so
        $$\log|\det S| = \sum_i \log|d_i| + \log|\det C|,$$
        and if this is finite, $S^{-1} = D^{-1} - D^{-1} U C^{-1} V^\top D^{-1}$. With Gaussian
        elimination of $C$ the determinant takes $K(R^2 + R + 1) + (R^3 + 2R) / 3 - 1$
        multiplications and divisions: for $R \le K$ it is $O(K R^2)$.
    """

    d: Float[Tensor, "*#batch K"]
    U: Float[Tensor, "*#batch K R"]
    V: Float[Tensor, "*#batch K R"]


Map = Callable[[Tensor], Tensor]
Scale = Tensor | Diagonal | Triangular | LowRank
r"""A vector $\sigma$, square matrices $S$, or a form that says what its tensors mean."""


def log_abs_det(scale: Scale) -> Float[Tensor, "*batch"]:
    r"""Returns $\log|\det S|$, which is that of the Jacobian of $\mu + S z_0$."""
    column, _, inverse = _operator(scale)
    return inverse()[1].to((1.0 * column).dtype)


def log_prob(
    x: Float[Tensor, "*#batch K"],
    loc: Float[Tensor, "..."] | float,
    scale: Scale,
) -> Float[Tensor, "..."]:
    r"""Returns $-\tfrac12 \lVert S^{-1}(x - \mu) \rVert^2 - \tfrac K2 \log 2\pi - \log|\det S|$.

    Claim: reparam-diag
        Let $z_0 \sim \mathcal{N}(0, I)$ in $\mathbb{R}^K$ and $\sigma_i \ne 0$ for all $i$. Then
        $x = \mu + \sigma \odot z_0$ has the density
        $$\prod_{i=1}^K \frac{\exp(-(x_i - \mu_i)^2 / 2 \sigma_i^2)}{(2 \pi)^{1/2}\, |\sigma_i|},$$
        whatever the signs: it is $\mathcal{N}(\mu, \operatorname{diag}(\sigma^2))$.

    Claim: reparam-full
        Let $z_0 \sim \mathcal{N}(0, I)$ in $\mathbb{R}^K$ and let the $K \times K$ matrix $S$ be
        non-singular. Then $x = \mu + S z_0$ has the density
        $$\frac{\exp(-\frac12 (x - \mu)^\top (S S^\top)^{-1} (x - \mu))}{(2 \pi)^{K/2}\, |\det S|}$$
        and $|\det S| = \det(S S^\top)^{1/2}$ for either sign: it is $\mathcal{N}(\mu, S S^\top)$.

    Arguments:
        x: The points.
        loc: The shift $\mu$, a vector or one number for all coordinates.
        scale: Non-singular. A batch of vectors looks like a matrix: wrap it in `Diagonal`.
    """
    column, _, inverse = _operator(scale)
    _require_vectors("x", x, column.shape[-1])
    _require_vectors("loc", loc, column.shape[-1])
    solve, log_abs_det = inverse()
    z = solve(x - loc)
    energy = 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1, dtype=torch.float64)
    return -(energy + log_abs_det).to(z.dtype)


def sample(
    loc: Float[Tensor, "..."] | float,
    scale: Scale,
    shape: tuple[int, ...] = (),
    generator: torch.Generator | None = None,
) -> Float[Tensor, "..."]:
    r"""Returns $\mu + S z_0$ with fresh noise; gradients flow to $\mu$ and $S$.

    Arguments:
        loc: The shift $\mu$, a vector or one number for all coordinates.
        scale: As in `log_prob`, or singular: then the law has no density.
        shape: The dimensions of the result before the batch of `loc` and `scale`.
        generator: Of the noise.
    """
    column, times, _ = _operator(scale)
    _require_vectors("loc", loc, column.shape[-1])
    z = column.new_empty(*shape, *(column + loc).shape).normal_(generator=generator)
    return loc + times(z)


def cholesky_factor(scale: Float[Tensor, "*batch K M"]) -> Float[Tensor, "*batch K K"]:
    r"""Returns the lower triangular $L$ with positive diagonal for which $L L^\top = S S^\top$.

    It is read off from $S^\top = Q R$, where $S$ has rank $K$; $S S^\top$ is not formed.

    Claim: x-reparam-nonunique
        Let $S$ and $T$ be non-singular and $z_0 \sim \mathcal{N}(0, I)$. Then $\mu + S z_0$ and
        $\mu + T z_0$ have the same law if and only if $T = S Q$ with $Q$ orthogonal. Exactly one of
        these $T$ is lower triangular with a positive diagonal, the Cholesky factor $L$ of
        $S S^\top$; its $2^K$ products $LD$ with diagonal matrices $D$ of signs are all that are
        lower triangular.
    """
    R: Tensor = torch.linalg.qr(scale.mT).R
    pivots = R.diagonal(dim1=-2, dim2=-1)
    rounding = 16 * _epsilon(R) * torch.linalg.vector_norm(R, dim=-2)
    if pivots.shape[-1] < R.shape[-1] or not (pivots.abs() > rounding).all():
        raise ValueError(f"scale must have independent rows, got dependent ones in {R.dtype}")
    return R.mT * pivots.sign()[..., None, :]


def multiplications(dimension: int, form: type = Tensor, rank: int = 1) -> int:
    r"""Returns how many multiplications and divisions $|\det S|$ takes.

    Claim: x-reparam-lu-cost
        Gaussian elimination of a $K \times K$ matrix, if it meets no zero pivot and skips no zeros,
        uses exactly $K(K - 1)(K + 1) / 3$ multiplications and divisions, with row exchanges or
        without. The product of the pivots, up to its sign the determinant, takes $K - 1$ more.

    Arguments:
        dimension: The number $K$ of rows.
        form: `Diagonal`, `Triangular`, `LowRank`, or `torch.Tensor` for a full matrix.
        rank: The number $R$ of columns of $U$ and $V$.
    """
    K, R = dimension, rank
    lemma = K * (R**2 + R) + (R**3 + 2 * R) // 3
    more = {Diagonal: 0, Triangular: 0, Tensor: (K**3 - K) // 3, LowRank: lemma}
    if form not in more:
        raise ValueError(f"form must be Diagonal, Triangular, LowRank or Tensor, got {form}")
    if min(K, R) < 1:
        raise ValueError(f"dimension and rank must be at least 1, got {K} and {R}")
    return K - 1 + more[form]


def _require_vectors(name: str, value: Tensor | float, K: int) -> None:
    shape = torch.as_tensor(value).shape
    if shape[-1:] != (K,) and (shape or name != "loc"):
        raise ValueError(f"{name} must hold vectors of length {K}, got shape {tuple(shape)}")


def _operator(scale: Scale) -> tuple[Tensor, Map, Callable[[], tuple[Map, Tensor]]]:
    r"""Returns a column of $S$, the map $z \mapsto S z$, and what computes the inverse."""
    match scale:
        case Tensor(ndim=1):
            return _operator(Diagonal(scale))
        case Diagonal(sigma) if sigma.ndim:
            log_abs_det = partial(_sum_log_abs, sigma, "scale")
            return sigma, lambda z: sigma * z, lambda: (lambda r: r / sigma, log_abs_det())
        case Triangular(S) if _is_square(S):
            return S[..., 0], partial(_apply, S.tril()), lambda: _substitution(S)
        case LowRank(d, U, V) if V.shape[-2:] == U.shape[-2:] == d.shape[-1:] + U.shape[-1:]:
            times = lambda z: d * z + _apply(U, _apply(V.mT, z))
            return d + U[..., 0] + V[..., 0], times, lambda: _woodbury(d, U, V)
        case Tensor() if _is_square(scale):
            return scale[..., 0], partial(_apply, scale), lambda: _lu(scale, scale.abs())
    parts = [*getattr(scale, "__dict__", {}).values(), scale]
    shapes = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
    got = f"{type(scale).__name__} of shape {shapes}; for a batch of vectors use Diagonal"
    raise ValueError(f"scale must hold vectors, square matrices or parts that fit, got {got}")


def _is_square(S: Tensor) -> bool:
    return S.ndim > 1 and S.shape[-1] == S.shape[-2] > 0


def _substitution(S: Tensor) -> tuple[Map, Tensor]:
    solve = partial(_apply, S, by=partial(torch.linalg.solve_triangular, upper=False))
    return solve, _sum_log_abs(S.diagonal(dim1=-2, dim2=-1), "the diagonal of scale")


def _woodbury(d: Tensor, U: Tensor, V: Tensor) -> tuple[Map, Tensor]:
    log_abs_det, W, one = _sum_log_abs(d, "d"), V / d[..., None], torch.eye(V.shape[-1]).to(V)
    solve, more = _lu(one + W.mT @ U, one + W.mT.abs() @ U.abs())
    return lambda r: (r - _apply(U, solve(_apply(W.mT, r)))) / d, log_abs_det + more


def _lu(S: Tensor, size: Tensor) -> tuple[Map, Tensor]:
    r"""Returns the inverse and $\log|\det S|$, unless errors of $\epsilon$ times `size` matter."""
    factors, pivots, _ = torch.linalg.lu_factor_ex(S)
    solve = partial(_apply, S, by=lambda _, b: torch.linalg.lu_solve(factors, pivots, b))
    column = size.amax(-2)
    row = (size / column[..., None, :]).amax(-1)
    probe = row * torch.arange(1, S.shape[-1] + 1).to(S).square().cos()
    if not (_epsilon(S) * (column * solve(probe)).abs() < 1 / 16).all():
        raise ValueError(f"scale must be finite and non-singular, got one singular in {S.dtype}")
    return solve, _sum_log_abs(factors.diagonal(dim1=-2, dim2=-1), "scale")


def _epsilon(S: Tensor) -> float:
    return math.sqrt(S.shape[-1]) * torch.finfo(S.dtype).eps


def _sum_log_abs(diagonal: Tensor, name: str) -> Tensor:
    if (wrong := ~diagonal.isfinite() | (diagonal == 0)).any():
        raise ValueError(f"{name} must be finite and not 0, got {diagonal[wrong][0].item()}")
    return diagonal.abs().log().sum(-1, dtype=torch.float64)


def _apply(S: Tensor, r: Tensor, by: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> Tensor:
    r"""Applies to vectors what $S$ does to columns; a single $S$ takes them all as one matrix."""
    if S.ndim > 2:
        return by(S, r[..., None])[..., 0]
    result = by(S, r.reshape(-1, r.shape[-1]).mT).mT
    return result.reshape(*r.shape[:-1], result.shape[-1])
