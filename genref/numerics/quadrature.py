r"""Expectations under normal laws, by Gauss-Hermite quadrature."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

__all__ = ["expectation", "grid", "hermite", "joint_expectation"]


def hermite(
    n: int, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""Returns the zeros $x_i$ of $\operatorname{He}_n$ and $w_i = 1 / \sum_{k<n} h_k(x_i)^2$.

    Here $\sqrt{k!} \, h_k = \operatorname{He}_k$, so that the $h_k$ are orthonormal under
    $\mathcal{N}(0, 1)$. The zeros are eigenvalues of a matrix, improved by one step of Newton's
    method. All is computed in float64 and then rounded to `dtype`.

    ```python
    from genref.numerics.quadrature import hermite

    nodes, weights = hermite(3)
    print([f"{x:.4f}" for x in nodes.tolist()], [f"{w:.4f}" for w in weights.tolist()])
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    ['-1.7321', '0.0000', '1.7321'] ['0.1667', '0.6667', '0.1667']
    ```

    Claim: numerics-hermite-exact
        The $n$ zeros $x_i$ of the Hermite polynomial $\operatorname{He}_n$ are real and distinct.
        With $w_i = 1 / \sum_{k<n} \operatorname{He}_k(x_i)^2 / k!$ and $x \sim \mathcal{N}(\mu,
        \sigma^2)$,
        $$\sum_i w_i \, p(\mu + \sigma x_i) = E \, p(x)$$
        for every polynomial $p$ of degree $2n - 1$ or less. For $p(x) = x^{2n}$ plus terms of lower
        degree the sum falls short of the mean by exactly $n! \, \sigma^{2n}$: under
        $\mathcal{N}(0, 1)$, three nodes give 9 for $E \, x^6$, which is 15.

        In $D$ dimensions the product of $D$ such rules, its points moved to $\mu + S x_i$, is exact
        under $\mathcal{N}(\mu, SS^\top)$ for every polynomial of total degree $2n - 1$ or less.

    Arguments:
        n: The number of nodes, 1 to 500. The outer weights underflow to zero from about 370 on, in
            float32 from about 60 on.
        dtype: Of the results, a floating one.
        device: Of the results, as in `torch.zeros`.

    Returns:
        The nodes in increasing order, and the weights, which sum to one.
    """
    if not 1 <= n <= 500:
        raise ValueError(f"n must be from 1 to 500, got {n}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be floating, got {dtype}")
    off = torch.arange(1, n, dtype=torch.float64).sqrt()
    x = torch.linalg.eigvalsh(torch.diag(off, 1) + torch.diag(off, -1))
    h = _orthonormal(n, x)
    x = x - h[n] / (math.sqrt(n) * h[n - 1])
    x = (x - x.flip(0)) / 2
    w = 1 / _orthonormal(n, x)[:n].square().sum(0)
    return x.to(device, dtype), (w / w.sum()).to(device, dtype)


def _orthonormal(n: int, x: Tensor) -> Tensor:
    """The values of h_0, ..., h_n at x."""
    h = [torch.ones_like(x), x]
    for k in range(1, n):
        h.append((x * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
    return torch.stack(h)


def grid(
    n: int,
    dimension: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> tuple[Float[Tensor, "points D"], Float[Tensor, " points"]]:
    r"""Returns the $n^D$ points $(x_{i_1}, \dots, x_{i_D})$ and their weights $\prod_d w_{i_d}$.

    Arguments:
        n: The number of nodes in each direction.
        dimension: The number $D \ge 1$.
        dtype: Of the results, a floating one.
        device: Of the results, as in `torch.zeros`.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    nodes, weights = hermite(n, dtype, device)
    x = torch.meshgrid(*[nodes] * dimension, indexing="ij")
    w = torch.meshgrid(*[weights] * dimension, indexing="ij")
    return torch.stack(x, -1).flatten(0, -2), torch.stack(w, -1).flatten(0, -2).prod(-1)


def expectation(
    f: Callable[[Tensor], Tensor],
    loc: float | Float[Tensor, "*#batch"],
    scale: float | Float[Tensor, "*#batch"],
    n: int,
) -> Inexact[Tensor, "..."]:
    r"""Returns $\sum_i w_i f(\mu + \sigma x_i) \approx E f$ under $\mathcal{N}(\mu, \sigma^2)$.

    Claim: numerics-hermite-error
        Let $f$ have $2n$ continuous derivatives and $|f^{(2n)}| \le M$ everywhere. Then $n$ nodes
        give $E f(x)$ for $x \sim \mathcal{N}(\mu, \sigma^2)$ with an error of at most
        $M \sigma^{2n} \, n! / (2n)!$. For $f(x) = x^{2n}$ this is the error itself.

    Claim: numerics-hermite-pole
        Let $a > 0$, $f(x) = 1 / (a^2 + x^2)$ and $x \sim \mathcal{N}(0, 1)$. Then $n$ nodes give
        $$\begin{aligned}
        \sum_i w_i f(x_i) &= E f(x) - (-1)^n \delta, \\
        \delta &= \frac{\sqrt{2\pi} \, e^{a^2/2}}{a} \cdot \frac{\rho}{1 + (-1)^n \rho},
        \end{aligned}$$
        where $\rho$ is the integral of $t^n e^{-t^2/2 - at}$ over $t > 0$ divided by that of
        $t^n e^{-t^2/2 + at}$, and $e^{-2a\sqrt{n+1} - a^2/2} \le \rho \le e^{-2a\sqrt n + a^2/2}$.

    Claim: numerics-hermite-kink
        Let $x \sim \mathcal{N}(0, 1)$ and let $\Delta_n = \sum_i w_i |x_i| - E|x|$ be the error of
        $n$ nodes. Then $n \Delta_n$ tends to $\pi \sqrt{2\pi} / 24$ along the even $n$ and to
        $-\pi \sqrt{2\pi} / 12$ along the odd ones.

    Arguments:
        f: From points of shape $(n, \dots)$, the nodes first, to values whose first dimension is
            that of the nodes.
        loc: The mean $\mu$.
        scale: The standard deviation $\sigma$. If both are Python numbers, all is in float64.
        n: The number of nodes.

    Returns:
        The values of $f$, averaged over their first dimension.
    """
    like = loc + scale
    like = like if isinstance(like, Tensor) else torch.tensor(like, dtype=torch.float64)
    nodes, weights = hermite(n, like.dtype, like.device)
    return _average(weights, f(loc + scale * nodes.view(-1, *[1] * like.dim())))


def joint_expectation(
    f: Callable[[Tensor], Tensor],
    loc: Float[Tensor, "*#batch D"],
    scale: Float[Tensor, "*#batch D D"],
    n: int,
) -> Inexact[Tensor, "..."]:
    r"""Returns $\sum_i w_i f(\mu + S x_i) \approx E f$ under $\mathcal{N}(\mu, SS^\top)$.

    Arguments:
        f: From points of shape $(n^D, \dots, D)$, the nodes first, to values whose first dimension
            is that of the nodes.
        loc: The mean $\mu$.
        scale: The matrix $S$, for example a Cholesky factor of the covariance.
        n: The number of nodes in each direction.

    Returns:
        The values of $f$, averaged over their first dimension.
    """
    D = loc.shape[-1]
    if scale.shape[-2:] != (D, D):
        raise ValueError(f"scale must end in shape {(D, D)}, got {tuple(scale.shape)}")
    nodes, weights = grid(n, D, torch.promote_types(loc.dtype, scale.dtype), loc.device)
    noise = scale.to(nodes.dtype) @ nodes.mT
    return _average(weights, f((loc.unsqueeze(-1) + noise).movedim(-1, 0)))


def _average(weights: Tensor, values: Tensor) -> Tensor:
    if values.shape[:1] != weights.shape:
        points, shape = len(weights), tuple(values.shape)
        raise ValueError(f"f must return one value for each of {points} points, got {shape}")
    rounded = values.is_floating_point() or values.is_complex()
    if rounded and values.real.dtype != weights.dtype:
        raise ValueError(f"f must keep the dtype {weights.dtype}, got {values.dtype}")
    return (weights.view(-1, *[1] * (values.dim() - 1)) * values).sum(0)
