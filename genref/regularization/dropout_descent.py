r"""Gradient descent with dropout on a linear regression: a new mask in every step.

The step is $w \leftarrow w - \alpha \nabla \lVert y - (X \odot R) w \rVert^2$, and the mask $R$
keeps each entry of $X$ with probability $p$. So $w \leftarrow (I - 2 \alpha A) w + 2 \alpha (X
\odot R)^\top y$ with $A = (X \odot R)^\top (X \odot R)$, and all moments can be followed exactly.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from genref.regularization.dropout import _checked, solution

__all__ = ["gradient_covariance", "stationary_covariance"]


def gradient_covariance(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    w: Float[Tensor, "*#batch d"],
    keep: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d d"]:
    r"""Returns $C = \operatorname{Cov} \nabla_w \lVert y - (X \odot R) w \rVert^2$.

    Claim: x-dropout-gradient-noise
        Let the entries of the mask be independent and $0 < p < 1$. With $z_i = (x_i, -y_i)$ and
        $\omega = (w, 1)$, both of length $d + 1$, $$C_{jm} = 4 \sum_{i, k, l} \omega_k \omega_l
        z_{ij} z_{ik} z_{il} z_{im} \left( p^{|\{j, k, l, m\}|} - p^{|\{j, k\}| + |\{l, m\}|}
        \right),$$ where $|S|$ counts the different indices in $S$ that are at most $d$. It is zero
        if and only if each row of $X$ with one entry $x_{ij} \ne 0$ has $x_{ij} w_j = y_i$, and
        each row with more of them has $y_i = 0$, and $w_j = 0$ at all of them. So if some row has
        two entries and a target that are not 0, the gradient has noise at the minimiser of the
        expected loss too, even where some $w$ gives $y = X w$.

    Arguments:
        X: The inputs, a row for each datum; memory grows like $(d + 1)^4$.
        y: The targets.
        w: The weights, as in `expected_loss`.
        keep: The probability $p$ of keeping an entry, in $(0, 1]$.
    """
    _checked(X, y, keep, w)
    omega = torch.cat([w, torch.ones_like(w[..., :1])], -1)
    _, covariance = _moments(X, y, keep)
    return 4 * torch.einsum("...jklm,...k,...l->...jm", covariance, omega, omega)[..., :-1, :-1]


def stationary_covariance(
    X: Float[Tensor, "*#batch n d"],
    y: Float[Tensor, "*#batch n"],
    keep: float | Float[Tensor, "*#batch"],
    step: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch d d"]:
    r"""Returns $\Sigma = E[(I - 2 \alpha A) \Sigma (I - 2 \alpha A)] + \alpha^2 C$.

    Claim: x-dropout-sgd-variance
        Let $0 < p < 1$, let $X$ have no column of zeros, and let $w$ take steps $-\alpha \nabla
        \lVert y - (X \odot R) w \rVert^2$ with a new mask of independent entries in each. With $A =
        (X \odot R)^\top (X \odot R)$ let $\alpha > 0$ be so small that $\Sigma \mapsto E[(I - 2
        \alpha A) \Sigma (I - 2 \alpha A)]$ has all eigenvalues inside the unit circle, for which
        $\alpha < 1 / \lVert X \rVert_F^2$ is enough. From any fixed start, the mean of $w$ tends to
        the minimiser $w^\star$ of the expected loss and its covariance to the only solution of
        $$\Sigma = E[(I - 2 \alpha A) \Sigma (I - 2 \alpha A)] + \alpha^2 C,$$ where $C$ is the
        covariance of the gradient at $w^\star$; so $\Sigma$ is zero only if $C$ is. The mean of the
        expected loss ends $\operatorname{tr}(EA \cdot \Sigma)$ above its minimum. As $\alpha \to
        0$, $\Sigma / \alpha$ tends to the solution $S$ of $S \cdot EA + EA \cdot S = C / 2$, and
        $\operatorname{tr}(EA \cdot \Sigma) / \alpha$ to $\operatorname{tr} C / 4$. With one feature
        and $e = y - x w^\star$, $$\Sigma = \frac{\alpha (1 - p) \sum_i x_i^2 e_i^2} {\sum_i x_i^2 -
        \alpha \bigl( p (\sum_i x_i^2)^2 + (1 - p) \sum_i x_i^4 \bigr)}.$$

    Arguments:
        X: The inputs, as in `solution`; memory grows like $(d + 1)^4$.
        y: The targets.
        keep: The probability $p$ of keeping an entry, in $(0, 1]$.
        step: The size $\alpha$ of a step.
    """
    alpha = torch.as_tensor(step, dtype=X.dtype, device=X.device)[..., None, None]
    noise = alpha * gradient_covariance(X, y, solution(X, y, keep), keep)
    mean, covariance = _moments(X, y, keep)
    still, mean = torch.eye(X.shape[-1]).to(X), mean[..., :-1, :-1]
    square = covariance[..., :-1, :-1, :-1, :-1] + torch.einsum("...jk,...lm->...jklm", mean, mean)
    left = torch.einsum("...jk,lm->...jklm", mean, still)
    right = torch.einsum("jk,...lm->...jklm", still, mean)
    rest = 2 * (left + right) - 4 * alpha[..., None, None] * square
    rest = rest.movedim(-1, -3).flatten(-4, -3).flatten(-2)  # of 1 - T, over alpha
    share = alpha[..., 0] * torch.linalg.eigvalsh(rest.where(rest.isfinite(), 0))
    if not ((share > 0) & (share < 2)).all():
        raise ValueError(f"step must be positive and small enough for a finite spread, got {step}")
    spread: Tensor = torch.linalg.solve(rest, noise.flatten(-2)[..., None])
    return spread.view_as(noise)


def _moments(X: Tensor, y: Tensor, keep: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and covariance of the entries of $Z^\top Z$, where $Z = (X \odot R, -y)$."""
    rows, d = (X[..., 0] + y).shape, X.shape[-1]
    Z = torch.cat([X.expand(*rows, d), -y.expand(rows)[..., None]], -1)
    A = Z[..., :, None] * Z[..., None, :]
    index = torch.eye(d + 1, dtype=torch.bool, device=X.device)[:, :d]
    pair = index[:, None] | index
    apart, together = pair.sum(-1), (pair[:, :, None, None] | pair).sum(-1)
    p = torch.as_tensor(keep, dtype=X.dtype, device=X.device)[..., None, None]
    mean, p = A.sum(-3) * p**apart, p[..., None, None]
    shared = apart[:, :, None, None] + apart - together
    excess = -(p**together) * torch.expm1(shared * p.log())
    return mean, torch.einsum("...ijk,...ilm->...jklm", A, A) * excess
