r"""Log-determinants of $I + J$ from traces of the powers of $J$: a series and its end.

Here $J$ is the Jacobian of a map $f$ of $\mathbb{R}^D$ at a point. Reverse differentiation gives
$J^\top v$ for the price of a gradient, so that $v^\top J^k v$ costs $k$ gradients and no matrix.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["powers", "roulette", "series", "tail", "traces", "variance", "weights"]


def powers(
    f: Callable[[Tensor], Tensor],
    z: Float[Tensor, "*batch event"],
    v: Float[Tensor, "*probes event"],
    terms: int,
) -> Float[Tensor, "terms *probes event"]:
    r"""Returns $(J^\top)^k v$ for $k = 1, \dots, n$, one pass backwards for each $k$.

    Arguments:
        f: A map of the last dimension that treats all points of a batch alike and apart.
        z: The points.
        v: The vectors, one or several for each point: the shape of `z`, dimensions before it.
        terms: The number $n \ge 1$.
    """
    _positive("terms", terms)
    _points("z", z)
    grad = torch.is_grad_enabled() and (z.requires_grad or f(z).requires_grad)
    with torch.enable_grad():
        z = (z if grad and z.requires_grad else z.detach().requires_grad_()).expand(v.shape)
        y = f(z)
    if y.shape != z.shape:
        raise ValueError(f"f must keep the shape {tuple(z.shape)}, got {tuple(y.shape)}")
    if not y.requires_grad:
        raise ValueError("f must be differentiable, got a result that autograd cannot follow")
    options = {"retain_graph": True, "create_graph": grad, "materialize_grads": True}
    result = [v]
    for _ in range(terms):
        result.append(torch.autograd.grad(y, z, result[-1], **options)[0])
    return torch.stack(result[1:])


def traces(
    f: Callable[[Tensor], Tensor],
    z: Float[Tensor, "*batch event"],
    terms: int,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "terms ..."]:
    r"""Returns $\operatorname{tr} J^k$ for $k = 1, \dots, n$, or the mean of some $v^\top J^k v$.

    Arguments:
        f: A map of the last dimension that treats all points of a batch alike and apart.
        z: The points.
        terms: The number $n \ge 1$.
        probes: The number of vectors $v$ of random signs, drawn for each point. Without it all $D$
            unit vectors are used, and the traces are exact.
        generator: Of the signs.
    """
    _points("z", z)
    if probes is None:
        v = _units(z)
        return (powers(f, z, v, terms) * v).sum((1, -1))
    _positive("probes", probes)
    coin = torch.randint(2, (probes, *z.shape), generator=generator, device=z.device)
    v = (2 * coin - 1).to(z.dtype)
    return (powers(f, z, v, terms) * v).sum(-1).mean(1)


def weights(terms: int, first: int | None = None, keep: float = 1.0) -> Float[Tensor, " terms"]:
    r"""Returns $(-1)^{k+1} / (k P_k)$ for $k = 1, \dots, n$, with $P_k = p^{\max(k - m, 0)}$.

    Arguments:
        terms: The number $n \ge 1$.
        first: The number $m$ of terms that are always there; all of them if it is not given.
        keep: The probability $p$ of going on after each further term.
    """
    _positive("terms", terms)
    _positive("first", 1 if first is None else first)
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be more than 0 and at most 1, got {keep}")
    k = torch.arange(1, terms + 1, dtype=torch.float64)
    late = (k - (terms if first is None else first)).clamp(min=0)
    return (2 * (k % 2) - 1) / k * torch.exp(-late * math.log(keep))


def tail(lipschitz: float, terms: int, dim: int = 1) -> float:
    r"""Returns $D \sum_{k > n} \ell^k / k$, rounded up unless it underflows; see `series`.

    The sum is $-\log(1 - \ell) - \sum_{k \le n} \ell^k / k$. Where that difference drowns in
    rounding, the larger $\ell^{n+1} / ((n + 1)(1 - \ell))$ takes its place.

    Arguments:
        lipschitz: The number $\ell$, at least 0 and less than 1.
        terms: The number $n \ge 1$.
        dim: The dimension $D$.
    """
    _contraction(lipschitz)
    _positive("terms", terms)
    _positive("dim", dim)
    whole = -math.log1p(-lipschitz)
    rest = whole - math.fsum(lipschitz**k / k for k in range(1, terms + 1))
    geometric = lipschitz ** (terms + 1) / ((terms + 1) * (1 - lipschitz))
    return dim * min(rest + 1e-15 * whole, geometric) * (1 + 1e-15)


def series(
    f: Callable[[Tensor], Tensor],
    z: Float[Tensor, "*batch event"],
    terms: int,
    lipschitz: float,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "*batch"], float]:
    r"""Returns $\sum_{k \le n} (-1)^{k+1} \operatorname{tr} J^k / k$ and a bound of the rest.

    Claim: x-flows-logdet-series
        Let $J$ be a real $D \times D$ matrix with operator norm $\lVert J \rVert \le \ell < 1$.
        Then $\det(I + J) > 0$, and for each $n \ge 1$
        $$\left\lvert \log\det(I + J)
        - \sum_{k=1}^{n} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k \right\rvert
        \le D \sum_{k > n} \frac{\ell^k}{k}
        = D \left\lvert \log(1 - \ell) + \sum_{k=1}^{n} \frac{\ell^k}{k} \right\rvert ,$$
        with equality for $J = -\ell I$. It is enough that no eigenvalue of $J$ is larger than
        $\ell$ in modulus.

    Arguments:
        f: A map of the last dimension that treats all points of a batch alike and apart.
        z: The points.
        terms: The number $n \ge 1$ of terms.
        lipschitz: A bound $\ell < 1$ of $\lVert J \rVert$, at all points.
        probes: The number of random signs for each trace, as in `traces`.
        generator: Of the signs.

    Returns:
        The sum, and the right-hand side above. With probes the sum is random, and it is its mean
        that the bound speaks of. Rounding comes on top.
    """
    _points("z", z)
    bound = tail(lipschitz, terms, z.shape[-1])
    return _mixed(weights(terms), traces(f, z, terms, probes, generator)), bound


def roulette(
    f: Callable[[Tensor], Tensor],
    z: Float[Tensor, "*batch event"],
    lipschitz: float,
    first: int = 2,
    keep: float | None = None,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Returns $\sum_{k \le N} (-1)^{k+1} \operatorname{tr} J^k / (k P_k)$ with a random $N$.

    Claim: x-flows-roulette
        Let $\lVert J \rVert \le \ell < 1$, let $t_k = \operatorname{tr} J^k$, or unbiased estimates
        of it that are independent of $N$ and at most $D \ell^k$ in modulus, and let
        $a_k = (-1)^{k+1} t_k / k$. Let $N \ge m \ge 1$ be random with
        $P_k = \Pr(N \ge k) = p^{\max(k - m, 0)}$, $0 < p < 1$. Then $S = \sum_{k \le N} a_k / P_k$
        has the mean $\log\det(I + J)$. For exact traces and $p \ge \ell^2$, with
        $T_k = \sum_{j \ge k} a_j$,
        $$E S^2 = \sum_{k \ge 1} \frac{T_k^2 - T_{k+1}^2}{P_k} .$$
        The variance is finite for all such $J$ if $p \ge \ell^2$, and infinite for $J = -\ell I$ if
        $p < \ell^2$.

    Arguments:
        f: A map of the last dimension that treats all points of a batch alike and apart.
        z: The points.
        lipschitz: A bound $\ell < 1$ of $\lVert J \rVert$, at all points.
        first: The number $m \ge 1$ of terms that are always there.
        keep: The probability $p \ge \ell^2$; the larger of $\ell$ and $1/2$ if it is not given.
        probes: The number of random signs for each trace, as in `traces`.
        generator: Of $N$, drawn for each point, and of the signs.
    """
    _contraction(lipschitz)
    _positive("first", first)
    _points("z", z)
    p = max(lipschitz, 0.5) if keep is None else keep
    if not (0 < p < 1 and p >= lipschitz**2):
        raise ValueError(f"keep must be less than 1 and at least lipschitz**2, not 0, got {keep}")
    shape = z.shape[:-1]
    chance = 1 - torch.rand(shape, dtype=torch.float64, generator=generator, device=z.device)
    N = first + (chance.log() / math.log(p)).floor()
    terms = int(N.max()) if N.numel() else first
    t = traces(f, z, terms, probes, generator)
    k = torch.arange(1, terms + 1, device=z.device).view(-1, *[1] * len(shape))
    return _mixed(weights(terms, first, p), t.where(k <= N, 0))


def variance(
    A: Float[Tensor, "*batch event event"],
    fourth: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Returns $(\kappa - 1) \sum_i A_{ii}^2 + 2 \sum_{i \ne j} (A_s)_{ij}^2$, of $v^\top A v$.

    Claim: x-flows-hutchinson
        Let $A$ be a real $D \times D$ matrix, $A_s = (A + A^\top) / 2$, and let the coordinates of
        $v$ be independent with mean 0, variance 1 and fourth moment $\kappa$. Then
        $E\, v^\top A v = \operatorname{tr} A$ and
        $$\operatorname{Var}(v^\top A v)
        = (\kappa - 1) \sum_i A_{ii}^2 + 2 \sum_{i \ne j} (A_s)_{ij}^2 .$$
        Random signs have $\kappa = 1$, which is the least possible, and leave the second sum.
        Normal coordinates have $\kappa = 3$, and the variance is $2 \lVert A_s \rVert_F^2$.

    Arguments:
        A: The matrices.
        fourth: The number $\kappa \ge 1$: 1 for random signs, 3 for a normal law.
    """
    if not fourth >= 1:
        raise ValueError(f"fourth must be at least 1, got {fourth}")
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must be square, got shape {tuple(A.shape)}")
    diagonal = A.diagonal(dim1=-2, dim2=-1)
    off = (A + A.mT) / 2 - torch.diag_embed(diagonal)
    return (fourth - 1) * diagonal.square().sum(-1) + 2 * off.square().sum((-2, -1))


def _units(z: Float[Tensor, "*batch event"]) -> Float[Tensor, "event *batch event"]:
    """All unit vectors, at each point."""
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return eye.view(-1, *[1] * (z.dim() - 1), z.shape[-1]).expand(-1, *z.shape)


def _mixed(w: Float[Tensor, " terms"], t: Float[Tensor, "terms ..."]) -> Float[Tensor, "*batch"]:
    return (w.to(t).view(-1, *[1] * (t.dim() - 1)) * t).sum(0)


def _points(name: str, value: Tensor) -> None:
    if value.dim() == 0 or not value.is_floating_point():
        got = f"{value.dtype} of shape {tuple(value.shape)}"
        raise ValueError(f"{name} must be floating, its last dimension the points, got {got}")


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _contraction(lipschitz: float) -> None:
    if not 0 <= lipschitz < 1:
        raise ValueError(f"lipschitz must be at least 0 and less than 1, got {lipschitz}")
