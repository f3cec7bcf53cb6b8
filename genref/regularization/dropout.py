r"""Dropout on the inputs of a linear regression, beside ridge regression (weight decay).

A mask $R$ keeps each entry of $X$ with probability $p$. Losses are sums of squares over the rows of
$X$. Beware of the other convention: `torch.nn.Dropout(q)` *drops* with probability $q = 1 - p$, and
divides what it keeps by $p$, which here is called inverted dropout.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["expected_loss", "inverted_loss", "loss_variance", "ridge", "solution"]


def expected_loss(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    w: Float[Tensor, "*#batch d"],
    keep: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $\lVert y - p X w \rVert^2 + p (1 - p) \lVert \Gamma w \rVert^2$, a mean over masks.

    Claim: dropout-expected-loss
        Let each entry of the random mask $R \in \{0, 1\}^{n \times d}$ be 1 with probability $p$,
        and let any two entries of one row be independent; entries of different rows may depend on
        each other in any way. For all $X$, $y$ and $w$, with $\Gamma$ diagonal and $\Gamma_{jj} =
        (X^\top X)_{jj}^{1/2}$,
        $$E \lVert y - (X \odot R) w \rVert^2
        = \lVert y - p X w \rVert^2 + p (1 - p) \lVert \Gamma w \rVert^2.$$

    Arguments:
        X: The inputs, a row for each datum.
        y: The targets.
        w: The weights.
        keep: The probability $p$ of keeping an entry, in $(0, 1]$.
    """
    p = _checked(X, y, keep, w)
    parts = X * w[..., None, :]
    miss = y - p[..., None] * parts.sum(-1)
    return miss.square().sum(-1) + p * (1 - p) * parts.square().sum((-2, -1))


def solution(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    keep: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d"]:
    r"""Returns the minimiser $w = (p X^\top X + (1 - p) \Gamma^2)^{-1} X^\top y$, not $p w$.

    Claim: dropout-solution
        Let $0 < p < 1$ and let $X$ have no column of zeros; or let $p = 1$ and let the columns of
        $X$ be linearly independent. The expected loss under dropout has exactly one minimiser $w$,
        and $$p w = (X^\top X + \lambda \Gamma^2)^{-1} X^\top y, \qquad \lambda = \frac{1 - p}{p}.$$
        As $p$ falls from 1 to 0, $\lambda$ grows from 0 to $\infty$. As $p \to 0$, $p w \to 0$ but
        $w \to \Gamma^{-2} X^\top y$, which are the regressions on one feature at a time.

    Arguments:
        X: The inputs, without a column of zeros; more columns than rows are allowed if $p < 1$.
        y: The targets.
        keep: The probability $p$ of keeping an entry, in $(0, 1]$; its gradient needs $p < 1$.
    """
    p = _checked(X, y, keep)
    if (empty := (X == 0).all(-2)).any():
        columns = sorted(set(empty.nonzero()[:, -1].tolist()))
        raise ValueError(f"X must have no column of zeros, got zeros in columns {columns}")
    size = X.detach().abs().amax(-2)  # or squares of large and of small entries leave the range
    X = X / size[..., None, :]
    norm: Tensor = torch.linalg.vector_norm(X, dim=-2)
    unit, root = X / norm[..., None, :], p.sqrt()[..., None]
    words = f"keep must be below 1 where columns of X are dependent, got {keep}"
    return _minimiser(root[..., None] * unit, y / root, 1 - p, words) / norm / size


def ridge(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    penalty: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d"]:
    r"""Returns the minimiser $(X^\top X + \lambda I)^{-1} X^\top y$ of a penalised sum of squares.

    Claim: ridge-solution
        Let $\lambda > 0$; or let $\lambda = 0$ and let the columns of $X$ be linearly independent.
        Then $\lVert y - X w \rVert^2 + \lambda \lVert w \rVert^2$ has exactly one minimiser, $$w =
        (X^\top X + \lambda I)^{-1} X^\top y.$$

    Claim: dropout-vs-ridge
        Let $X$ have no column of zeros, $0 < p < 1$ and $\lambda = (1 - p) / p$. The minimiser $w$
        under dropout is such that $\Gamma p w$ is the ridge solution for the columns brought to
        norm 1, $X \Gamma^{-1}$, with the penalty $\lambda$. It solves $A w = X^\top y$ where $A$ is
        $X^\top X$ with the entries off the diagonal multiplied by $p$; ridge adds $\lambda$ to the
        diagonal instead. So the predictions $X w$ of dropout do not change if columns of $X$ are
        multiplied by numbers other than 0, and those of ridge do not change if $X$ is multiplied
        from the right by an orthogonal matrix. Ridge predicts $\sum_j s_j^2 / (s_j^2 + \lambda)
        \cdot u_j u_j^\top y$, where $s_j$ and $u_j$ are the singular values and the left singular
        vectors of $X$. If the columns of $X$ are orthogonal, dropout gives the least-squares
        solution $w$ for every $p$.

    Arguments:
        X: The inputs, a row for each datum.
        y: The targets.
        penalty: The weight $\lambda \ge 0$; where columns of $X$ are dependent it is positive, and
            not so small that it is lost in rounding. Its gradient needs $\lambda > 0$.
    """
    _checked(X, y)
    weight = torch.as_tensor(penalty, dtype=X.dtype, device=X.device)
    if not ((weight >= 0) & weight.isfinite()).all():
        raise ValueError(f"penalty must be finite and not negative, got {penalty}")
    words = f"penalty must be larger where columns of X are dependent, got {penalty}"
    return _minimiser(X, y, weight, words)


def inverted_loss(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    w: Float[Tensor, "*#batch d"],
    keep: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $\lVert y - X w \rVert^2 + \lambda \lVert \Gamma w \rVert^2$, $\lambda = (1 - p)/p$.

    Claim: x-dropout-inverted
        Let $0 < p \le 1$ and let the mask be divided by $p$, as `torch.nn.Dropout(1 - p)` does in
        training. If any two entries of a row are independent, $$E \lVert y - (X \odot R / p) w
        \rVert^2 = \lVert y - X w \rVert^2 + \frac{1 - p}{p} \lVert \Gamma w \rVert^2.$$ Its
        minimisers are $p$ times those of dropout without the division.

    Arguments:
        X: The inputs, a row for each datum.
        y: The targets.
        w: The weights, $p$ times those of `expected_loss`.
        keep: The probability $p$ of keeping an entry, in $(0, 1]$.
    """
    return expected_loss(X, y, w / _checked(X, y, keep, w)[..., None], keep)


def loss_variance(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    w: Float[Tensor, "*#batch d"],
    keep: float | Float[Tensor, "*#batch"],
    noise: Literal["bernoulli", "gaussian"] = "bernoulli",
) -> Float[Tensor, "*batch"]:
    r"""Returns $\operatorname{Var} \lVert y - (X \odot N) w \rVert^2$ for noise of mean 1.

    Claim: x-dropout-gaussian
        Let $0 < p \le 1$, and let the entries of $N$ be independent with mean 1 and variance $v =
        (1 - p) / p$: either $R_{ij} / p$, or normal. The expected loss is that of inverted dropout
        for both, but its variance differs: let $e = y - X w$ and $T_{ik} = \sum_j (x_{ij} w_j)^k$.
        Normal noise gives
        $$\sum_i \left( 4 v e_i^2 T_{i2} + 2 v^2 T_{i2}^2 \right),$$ and dropout gives more by
        $$\sum_i \left( \frac{v (1 - 6 p (1 - p))}{p^2} T_{i4} - \frac{4 v (1 - 2 p)}{p} e_i T_{i3}
        \right),$$ which can be positive or negative.

    Arguments:
        X: The inputs, a row for each datum.
        y: The targets.
        w: The weights, as in `inverted_loss`.
        keep: The probability $p$ of keeping an entry, in $(0, 1]$.
        noise: `"bernoulli"` for $R / p$, `"gaussian"` for $\mathcal{N}(1, (1 - p) / p)$.
    """
    if noise not in ("bernoulli", "gaussian"):
        raise ValueError(f"noise must be 'bernoulli' or 'gaussian', got {noise!r}")
    p = _checked(X, y, keep, w)[..., None]
    v = (1 - p) / p
    parts = X * w[..., None, :]
    e = y - parts.sum(-1)
    linear, pairs = 2 * e[..., None] * parts, parts.square().sum(-1).square()
    if noise == "bernoulli":  # each square of the noise is v + (1 - 2 p) / p times the noise
        linear = linear - ((1 - 2 * p) / p)[..., None] * parts.square()
        pairs = pairs - parts.square().square().sum(-1)
    return (v * linear.square().sum(-1) + 2 * v.square() * pairs).sum(-1)


def _minimiser(X: Tensor, y: Tensor, weight: Tensor, undetermined: str) -> Tensor:
    """Solves by QR, the penalty on top: rounding spares the rows of X, small under a small p."""
    n, d = X.shape[-2:]
    root = weight.sqrt()[..., None, None] * torch.eye(d, dtype=X.dtype, device=X.device)
    batch = (weight + X.sum((-2, -1))).shape
    Q, R = torch.linalg.qr(torch.cat([root.expand(*batch, d, d), X.expand(*batch, n, d)], -2))
    if (torch.linalg.matrix_rank(R) < d).any():
        raise ValueError(undetermined)
    right = Q[..., d:, :].mT @ y[..., None]
    w: Tensor = torch.linalg.solve_triangular(R, right, upper=True)
    return w[..., 0]


def _checked(X: Tensor, y: Tensor, keep: float | Tensor = 1, w: Tensor | None = None) -> Tensor:
    """Returns the probability as a tensor, once all arguments fit."""
    if not X.is_floating_point():
        raise ValueError(f"X must have a floating dtype, got {X.dtype}")
    p = torch.as_tensor(keep, dtype=X.dtype, device=X.device)
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError(f"keep must be in (0, 1], got {keep}")
    if y.shape[-1:] != X.shape[-2:-1]:
        raise ValueError(f"y must have an entry for each row of X, got shape {tuple(y.shape)}")
    if w is not None and w.shape[-1:] != X.shape[-1:]:
        raise ValueError(f"w must have an entry for each column of X, got shape {tuple(w.shape)}")
    return p
