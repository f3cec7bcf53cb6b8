r"""Projections onto convex sets: of each point $y$ the point of the set that is nearest to it.

A closed, convex and non-empty set $\mathcal{C} \subset \mathbb{R}^D$ has exactly one point
$x = \Pi_{\mathcal{C}}(y)$ nearest to $y$, and $x \in \mathcal{C}$ is that point if and only if
$\langle y - x, v - x \rangle \le 0$ for all $v \in \mathcal{C}$.

A point is the last dimension of a tensor; the dimensions before it broadcast. Gradients flow
to $y$ and to what describes the set, except where the projection has a kink.
"""

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

__all__ = ["affine", "box", "l1", "l2", "masked_box", "simplex"]


def box(
    y: Float[Tensor, "*#shape"],
    low: float | Float[Tensor, "*#shape"],
    high: float | Float[Tensor, "*#shape"],
) -> Float[Tensor, "*shape"]:
    r"""Returns $\min\{\max\{y, l\}, h\}$, coordinate by coordinate.

    Claim: projection-box
        Let $l_i \le h_i$ for $i = 1, \dots, D$; a bound may be infinite, but not $l_i = \infty$ or
        $h_i = -\infty$. Of all $x$ with $l_i \le x_i \le h_i$ exactly one is nearest to
        $y \in \mathbb{R}^D$, and its coordinates are $\min\{\max\{y_i, l_i\}, h_i\}$. For every
        real $a$, $\{x \in \mathbb{R}^2 : x_1 = a,\ 0 \le x_2 \le 1\}$ is such a set, and its point
        nearest to $y$ is $(a, \min\{\max\{y_2, 0\}, 1\})$.

    Arguments:
        y: The points to project.
        low: The bounds $l$; a coordinate without one has $-\infty$.
        high: The bounds $h \ge l$; a coordinate without one has $\infty$.
    """
    low, high = _like(y, low), _like(y, high)
    empty = ~((low <= high) & (low < math.inf) & (high > -math.inf))
    if empty.any():
        got = " and ".join(f"{bound.expand_as(empty)[empty][0]:g}" for bound in (low, high))
        raise ValueError(f"low must be at most high, with a number between, got {got}")
    return torch.where(low == high, low, y.clamp(low, high))  # clamp has slope 1 at y = l = h


def masked_box(
    y: Float[Tensor, "*#shape"],
    known: Shaped[Tensor, "*#shape"],
    image: Float[Tensor, "*#shape"],
    low: float | Float[Tensor, "*#shape"] = 0.0,
    high: float | Float[Tensor, "*#shape"] = 1.0,
) -> Float[Tensor, "*shape"]:
    r"""Returns $M \odot k + (1 - M) \odot \min\{\max\{y, l\}, h\}$, with known values $k$.

    Claim: projection-masked-box
        Let $l_i \le h_i$ for $i = 1, \dots, D$, where $l_i = -\infty$ and $h_i = \infty$ are
        allowed, let $M \in \{0, 1\}^D$, and let $k_i$ be numbers with $l_i \le k_i \le h_i$
        wherever $M_i = 1$. Of all $x$ with $l_i \le x_i \le h_i$ and $M \odot x = M \odot k$
        exactly one is nearest to $y \in \mathbb{R}^D$: it has $x_i = k_i$ where $M_i = 1$ and
        $x_i = \min\{\max\{y_i, l_i\}, h_i\}$ elsewhere. It does not matter whether the known values
        are put in before or after the clamping.

    Arguments:
        y: The points to project.
        known: The mask $M$, 1 or true where a value is known.
        image: The values $k$; what it holds where nothing is known is not read.
        low: The bounds $l$.
        high: The bounds $h$.
    """
    image, low, high = _like(y, image), _like(y, low), _like(y, high)
    neither = (known != 0) & (known != 1)
    if neither.any():
        raise ValueError(f"known must be 0 or 1, got {known[neither][0]:g}")
    outside = (known == 1) & ~((low <= image) & (image <= high) & image.isfinite())
    if outside.any():
        got = image.expand_as(outside)[outside][0]
        raise ValueError(f"image must be between low and high where it is known, got {got:g}")
    return torch.where(known == 1, image, box(y, low, high))


def affine(
    y: Float[Tensor, "*#batch event"],
    A: Float[Tensor, "*#batch rows event"],
    b: Float[Tensor, "*#batch rows"],
) -> Float[Tensor, "*batch event"]:
    r"""Returns $y - A^+(Ay - b)$, the nearest solution of $Ax = b$.

    Claim: projection-affine
        Let $A$ be a real matrix of $D$ columns and let $b = Ax_0$ for some $x_0$. Of all $x$ with
        $Ax = b$ exactly one is nearest to $y \in \mathbb{R}^D$, and it is $y - A^+(Ay - b)$ with
        the pseudo-inverse $A^+$. If the rows of $A$ are independent, such an $x_0$ exists for every
        $b$, and $A^+ = A^\top (AA^\top)^{-1}$.

    Arguments:
        y: The points to project.
        A: The matrix. Its rows are first divided by their largest entries, which leaves the set as
            it is, and need not be independent: a singular value counts as zero if it is below the
            largest one times the machine epsilon times the longer side of $A$.
        b: The right-hand side, an entry for each row. If the result misses row $i$ by more than
            $\sqrt\epsilon\, (\sum_j \lvert A_{ij} x_j \rvert + \lvert b_i \rvert)
            + \epsilon \sum_j \lvert A_{ij} y_j \rvert$, with the machine epsilon $\epsilon$, the
            set counts as empty, and $b$ is refused.
    """
    A, b = _like(y, A), _like(y, b)
    if A.dim() < 2 or A.shape[-1] != y.shape[-1]:
        raise ValueError(f"A must have {y.shape[-1]} columns, like y, got shape {tuple(A.shape)}")
    if b.shape[-1:] != A.shape[-2:-1]:
        raise ValueError(f"b must have {A.shape[-2]} entries, got shape {tuple(b.shape)}")
    top = A.detach().abs().amax(-1)
    top = top.where(top > 0, 1)
    A, b = A / top[..., None], b / top
    inverse, x = torch.linalg.pinv(A), y
    for _ in range(2):  # the second round takes away what rounding left of Ax - b
        x = x - _times(inverse, _times(A, x) - b)
    missed, root = (_times(A, x) - b).abs(), math.sqrt(torch.finfo(y.dtype).eps)
    size = _times(A.abs(), x.abs() + root * y.abs()) + b.abs()
    if (missed > root * size).any():
        raise ValueError(f"b must be in the range of A, missed by {missed.max():g}")
    return x


def simplex(y: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch event"]:
    r"""Returns $(y - \theta)_+$, with the $\theta$ for which its entries sum to one.

    Claim: projection-simplex
        Let $u_1 \ge \dots \ge u_D$ be the coordinates of $y \in \mathbb{R}^D$ in order,
        $\theta_j = (u_1 + \dots + u_j - 1) / j$, and $m$ the last $j$ with $u_j > \theta_j$. Of all
        $x$ with $x_i \ge 0$ and $\sum_i x_i = 1$ exactly one is nearest to $y$, and its coordinates
        are $\max\{y_i - \theta_m, 0\}$. The inequality $u_j > \theta_j$ holds for
        $j = 1, \dots, m$ and for no other $j$, and $m$ coordinates of $x$ are positive. For
        example, $(0.5, 0.9, -0.2)$ is projected to $(0.3, 0.7, 0)$.
    """
    return _excess(y, _like(y, [1.0]))


def l1(
    y: Float[Tensor, "*#batch event"],
    radius: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch event"]:
    r"""Returns $\operatorname{sign}(y) \odot (\lvert y \rvert - \theta)_+$, or $y$ if it is inside.

    Claim: projection-l1
        Let $\rho \ge 0$. Of all $x$ with $\lVert x \rVert_1 \le \rho$ exactly one is nearest to
        $y \in \mathbb{R}^D$. It is $y$ if $\lVert y \rVert_1 \le \rho$. Otherwise its coordinates
        are $\operatorname{sign}(y_i) \max\{\lvert y_i \rvert - \theta, 0\}$, with any $\theta > 0$
        that makes $\lVert x \rVert_1 = \rho$; there is one, and only one if $\rho > 0$. If
        $\rho > 0$, then $x = \operatorname{sign}(y) \odot \rho\, \Pi_\Delta(\lvert y \rvert /
        \rho)$, where $\Pi_\Delta$ projects onto the simplex. For example, $(1.2, -0.6, 0.1)$ is
        projected to $(0.8, -0.2, 0)$ if $\rho = 1$.

    Arguments:
        y: The points to project.
        radius: The radius $\rho \ge 0$.
    """
    radius = _radius(y, radius)
    inside = (y.abs().sum(-1, keepdim=True) <= radius) & (radius > 0)
    return torch.where(inside, y, y.sign() * _excess(y.abs(), radius))


def l2(
    y: Float[Tensor, "*#batch event"],
    radius: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch event"]:
    r"""Returns $\rho\, y / \max\{\lVert y \rVert, \rho\}$.

    Claim: projection-l2
        Let $\rho \ge 0$. Of all $x$ with $\lVert x \rVert \le \rho$ exactly one is nearest to
        $y \in \mathbb{R}^D$. It is $y$ if $\lVert y \rVert \le \rho$, and
        $\rho\, y / \lVert y \rVert$ otherwise.

    Arguments:
        y: The points to project.
        radius: The radius $\rho \ge 0$.
    """
    radius = _radius(y, radius)
    top = y.detach().abs().amax(-1, keepdim=True)
    top = top.where(top > 0, torch.finfo(y.dtype).tiny)
    norm = torch.linalg.vector_norm(y / top, dim=-1, keepdim=True).clamp(min=1)
    return torch.where(top * norm <= radius, y, radius * (y / top / norm))


def _excess(
    y: Float[Tensor, "*#batch event"],
    total: Float[Tensor, "*#batch one"],
) -> Float[Tensor, "*batch event"]:
    r"""Returns $(y - \theta)_+$, with the $\theta$ for which its entries sum to `total`.

    Numbers stay small and differences exact: the largest coordinate is moved to 0, and what lies
    `total` below it counts as being there, since it becomes zero in either case.
    """
    v = (y - y.detach().amax(-1, keepdim=True)).clamp(min=-total)
    u = v.sort(-1, descending=True).values
    theta = (u.cumsum(-1) - total) / torch.arange(1, y.shape[-1] + 1, device=y.device)
    m = (u > theta).sum(-1, keepdim=True).clamp(min=1)
    x = (v - theta.gather(-1, m - 1)).relu()
    rest = (total - x.sum(-1, keepdim=True)) / m  # what rounding of theta left
    return (x + rest * (x > 0)).relu()


def _times(
    A: Float[Tensor, "*#batch rows columns"], x: Float[Tensor, "*#batch columns"]
) -> Float[Tensor, "*batch rows"]:
    return (A @ x[..., None])[..., 0]


def _radius(y: Float[Tensor, "..."], radius: float | Tensor) -> Float[Tensor, "..."]:
    radius = _like(y, radius)
    wrong = ~((radius >= 0) & (radius < math.inf))
    if wrong.any():
        raise ValueError(f"radius must be at least 0 and finite, got {radius[wrong][0]:g}")
    return radius[..., None]


def _like(y: Tensor, value: float | list[float] | Tensor) -> Tensor:
    if not y.is_floating_point():
        raise ValueError(f"y must have a floating dtype, got {y.dtype}")
    return torch.as_tensor(value, dtype=y.dtype, device=y.device)
