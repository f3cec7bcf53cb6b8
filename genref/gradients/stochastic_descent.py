r"""Descent on one noisy objective, with everything that the noise hides in closed form.

The objective is $F(\mu,\sigma) = E f(X) + \tfrac12(\mu-1)^2 + \sigma - \log\sigma$ with
$f(x) = x \sin x$ and $X = \mu + \sigma\epsilon \sim \mathcal{N}(\mu,\sigma^2)$. It is descended in
$(\mu, \tau)$ with $\tau = \log\sigma$, and gradients and covariances are those of $(\mu, \tau)$.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from genref.gradients.estimators import pathwise

__all__ = [
    "Value",
    "best_baseline",
    "gradient",
    "hessian",
    "integrand",
    "mean",
    "objective",
    "pathwise_covariance",
    "score_covariance",
    "stationary_points",
    "stochastic_gradient",
]

Value = float | Float[Tensor, "*#batch"]
r"""A number or a tensor of them; where there are only numbers, they count as float64."""


def integrand(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Returns $f(x) = x \sin x$."""
    return x * x.sin()


def mean(mu: Value, sigma: Value, order: int = 0) -> Float[Tensor, "*batch"]:
    r"""Returns $E f^{(k)}(X)$, the mean of the integrand or of its derivative of order $k$.

    Claim: p6-closed-form
        Let $X \sim \mathcal{N}(\mu,\sigma^2)$ with $\sigma > 0$, and $f(x) = x \sin x$. For
        $k = 0, 1, 2, \dots$
        $$E f^{(k)}(X) = e^{-\sigma^2/2} \left(\mu \sin(\mu + \tfrac{k\pi}{2})
        + (\sigma^2 - k) \cos(\mu + \tfrac{k\pi}{2})\right).$$
        For $k = 0$ this is $e^{-\sigma^2/2} (\mu \sin\mu + \sigma^2 \cos\mu)$. The gradient of
        $F(\mu,\sigma) = E f(X) + \tfrac12(\mu-1)^2 + \sigma - \log\sigma$ with respect to $\mu$
        and $\tau = \log\sigma$ is $(E f'(X) + \mu - 1,\ \sigma^2 E f''(X) + \sigma - 1)$.

    Arguments:
        mu: The mean of $X$.
        sigma: The standard deviation of $X$, positive.
        order: The order $k \ge 0$ of the derivative.
    """
    if order < 0 or order % 1:
        raise ValueError(f"order must be a whole number, at least 0, got {order}")
    mu, sigma = _law(mu, sigma)
    turned = mu + order * math.pi / 2
    wave = mu * turned.sin() + (sigma**2 - order) * turned.cos()
    return (-(sigma**2) / 2).exp() * wave


def objective(mu: Value, sigma: Value) -> Float[Tensor, "*batch"]:
    r"""Returns $F(\mu,\sigma) = E f(X) + \tfrac12(\mu-1)^2 + \sigma - \log\sigma$, exactly.

    Arguments:
        mu: The mean of $X$.
        sigma: The standard deviation of $X$, positive.
    """
    mu, sigma = _law(mu, sigma)
    return mean(mu, sigma) + (mu - 1) ** 2 / 2 + sigma - sigma.log()


def gradient(mu: Value, sigma: Value) -> Float[Tensor, "*batch 2"]:
    r"""Returns $(F_\mu, F_\tau)$, where $F_\tau = \sigma F_\sigma$, exactly."""
    mu, sigma = _law(mu, sigma)
    return _ascent(mu, sigma) + torch.stack([mu - 1, sigma - 1], -1)


def hessian(mu: Value, sigma: Value) -> Float[Tensor, "*batch 2 2"]:
    r"""Returns the matrix of second derivatives of $F$ with respect to $(\mu, \tau)$."""
    mu, sigma = _law(mu, sigma)
    f2, f3, f4 = (mean(mu, sigma, k) for k in (2, 3, 4))
    return _symmetric(f2 + 1, sigma**2 * f3, sigma**4 * f4 + 2 * sigma**2 * f2 + sigma)


def stationary_points(dtype: torch.dtype = torch.float64) -> Float[Tensor, "3 2"]:
    r"""Returns the stationary points $(\mu, \sigma)$ of $F$, in the order of their values.

    Claim: p6-minimum
        For $\sigma > 0$ the function
        $F(\mu,\sigma) = E f(X) + \tfrac12(\mu-1)^2 + \sigma - \log\sigma$, with $f(x) = x \sin x$
        and $X \sim \mathcal{N}(\mu,\sigma^2)$, has exactly three stationary points, here to nine
        decimals: the global minimum $F = 1.664400756$ at
        $(\mu,\sigma) = (1.366699295, 1.962198228)$, another local minimum $F = 1.696168236$ at
        $(0.442297488, 0.606495025)$, and a saddle $F = 1.801987579$ at
        $(0.862957672, 1.174332018)$.

    Arguments:
        dtype: That of the result; the points are computed in float64.
    """
    theta = torch.tensor([[1.4, 0.7], [0.4, -0.5], [0.9, 0.2]], dtype=torch.float64)
    for _ in range(6):
        mu, sigma = theta[:, 0], theta[:, 1].exp()
        theta = theta - torch.linalg.solve(hessian(mu, sigma), gradient(mu, sigma))
    return torch.stack([theta[:, 0], theta[:, 1].exp()], -1).to(dtype)


def score_covariance(
    mu: Value,
    sigma: Value,
    baseline: float | Float[Tensor, "..."] = 0.0,
) -> Float[Tensor, "*batch 2 2"]:
    r"""Returns the covariance matrix of $(f(X) - b)\,(\epsilon/\sigma,\ \epsilon^2 - 1)$.

    Claim: p6-estimators
        Let $X = \mu + \sigma\epsilon$ with $\sigma > 0$ and $f(x) = x \sin x$. The score estimator
        $(f(X)\,\epsilon/\sigma,\ f(X)(\epsilon^2 - 1))$ and the pathwise estimator
        $(f'(X),\ f'(X)\,\sigma\epsilon)$ both have the mean
        $\nabla_{(\mu,\tau)} E f(X) = (E f',\ \sigma^2 E f'')$. Their variances are
        $$\frac{E f^2}{\sigma^2} + E (f^2)'' - (E f')^2, \qquad
        2 E f^2 + 4 \sigma^2 E (f^2)'' + \sigma^4 E (f^2)'''' - \sigma^4 (E f'')^2$$
        for the score estimator, and for the pathwise one
        $$E (f')^2 - (E f')^2, \qquad
        \sigma^2 E (f')^2 + \sigma^4 E \left((f')^2\right)'' - \sigma^4 (E f'')^2,$$
        with all means in closed form. At the global minimum of the objective both components of the
        score estimator vary less, 1.631253 and 19.630268 against 3.231069 and 26.615795; at its
        other local minimum both vary more. To leading order the variances are, as $\sigma \to 0$
        with $f(\mu), f'(\mu), f''(\mu) \ne 0$, $f^2/\sigma^2$ and $2 f^2$ for the score estimator,
        $(f'')^2\sigma^2$ and $(f')^2\sigma^2$ for the pathwise one, all at $\mu$; and as
        $\sigma \to \infty$, $3/2$ and $5\sigma^2$ against $\sigma^2/2$ and $3\sigma^4/2$.

    Arguments:
        mu: The mean of $X$.
        sigma: The standard deviation of $X$, positive.
        baseline: The number $b$, or two in the last dimension: one for each parameter. The best one
            makes the first entry a difference too, certain to some $10^{-16} f^2/\sigma^2$.
    """
    dtype, mu, sigma = _wide(mu, sigma)
    b = torch.as_tensor(baseline, dtype=mu.dtype, device=mu.device).expand(*mu.shape, 2)
    f = _score_moments(sigma, *(mean(mu, sigma, k) for k in range(5)))
    one = _symmetric(sigma**-2, torch.zeros_like(mu), torch.full_like(mu, 2))
    square = _score_moments(sigma, *(_square(mu, sigma, k) for k in range(5)))
    sums = b[..., :, None] + b[..., None, :]
    return (square - sums * f + _outer(b) * one - _outer(_ascent(mu, sigma))).to(dtype)


def best_baseline(mu: Value, sigma: Value) -> Float[Tensor, "*batch 2"]:
    r"""Returns $b = E[f s^2] / E[s^2]$, for each parameter the baseline of least variance."""
    mu, sigma = _law(mu, sigma)
    f, f2, f4 = (mean(mu, sigma, k) for k in (0, 2, 4))
    v = sigma**2
    return torch.stack([f + v * f2, f + 2 * v * f2 + v**2 * f4 / 2], -1)


def pathwise_covariance(mu: Value, sigma: Value) -> Float[Tensor, "*batch 2 2"]:
    r"""Returns the covariance matrix of the pathwise gradient $f'(X)\,(1, \sigma\epsilon)$.

    Its first entry is a difference, certain to some $10^{-16} (f')^2$: too little below
    $\sigma = 10^{-6}$.
    """
    dtype, mu, sigma = _wide(mu, sigma)
    p, p1, p2 = (_slope_square(mu, sigma, k) for k in range(3))
    square = _symmetric(p, sigma**2 * p1, sigma**2 * p + sigma**4 * p2)
    return (square - _outer(_ascent(mu, sigma))).to(dtype)


def stochastic_gradient(
    mu: Value,
    tau: Value,
    samples: int,
    generator: torch.Generator | None = None,
    estimator: Callable[..., Float[Tensor, "n *batch 2"]] = pathwise,
) -> Float[Tensor, "*batch 2"]:
    r"""Returns an unbiased estimate of $(F_\mu, F_\tau)$ in $(\mu, \tau)$, where $\sigma = e^\tau$.

    Claim: p6-sgd
        Let $G$ be the mean of $n \ge 1$ independent score or pathwise gradients of $E f(X)$, plus
        $(\mu - 1,\ e^\tau - 1)$. It is unbiased: $E G = \nabla F(\mu, \tau)$.

        Let $K = [-2\pi, 2\pi] \times [-\log 4, \log 4]$. It contains all stationary points of $F$,
        and $-\nabla F$ points into it everywhere on its boundary. If $\alpha_k > 0$,
        $\sum \alpha_k = \infty$ and $\sum \alpha_k^2 < \infty$, then the projected descent
        $\theta_{k+1} = \Pi_K(\theta_k - \alpha_k G_k)$ from a $\theta_0 \in K$, with new samples for
        each $G_k$, converges almost surely to *a* stationary point of $F$.

        Which one depends on the start and on chance. Of runs with $n = 16$ and
        $\alpha_k = 0.05 / (1 + k/200)$ the medians of $\mu$ and of $\tau$ after 2000 steps lie, with
        either estimator, within 0.025 of the local minimum from $(\mu, \tau) = (0, 0)$, and within
        0.025 of the global one from $(3, 0)$.

    Arguments:
        mu: The mean $\mu$.
        tau: The logarithm $\tau$ of the standard deviation.
        samples: The number of points in the mean, at least 1.
        generator: The source of chance.
        estimator: `score_function`, `pathwise`, or one with the same arguments.

    Returns:
        A constant for autograd, the two components in the last dimension.
    """
    mu, tau = (v.detach() for v in _alike(mu, tau))
    first, last = estimator(integrand, mu, tau, samples, generator).mean(0).unbind(-1)
    return torch.stack([first + mu - 1, last + tau.exp() - 1], -1)


def _law(mu: Value, sigma: Value) -> tuple[Tensor, Tensor]:
    loc, scale = _alike(mu, sigma)
    if not (scale > 0).all():
        raise ValueError(f"sigma must be positive, got {sigma}")
    return loc, scale


def _wide(mu: Value, sigma: Value) -> tuple[torch.dtype, Tensor, Tensor]:
    """Their dtype, and both in float64: variances are differences of nearly equal numbers."""
    loc, scale = _law(mu, sigma)
    return loc.dtype, loc.double(), scale.double()


def _alike(first: Value, last: Value) -> tuple[Tensor, Tensor]:
    """Both as tensors of one shape and one floating dtype."""
    given = [v for v in (first, last) if isinstance(v, Tensor)]
    dtype = torch.result_type(1.0 * first, last) if given else torch.float64
    device = given[0].device if given else None
    one, other = (torch.as_tensor(v, dtype=dtype, device=device) for v in (first, last))
    shape = (one + other).shape
    return one.expand(shape), other.expand(shape)


def _symmetric(first: Tensor, mixed: Tensor, last: Tensor) -> Tensor:
    rows = [torch.stack([first, mixed], -1), torch.stack([mixed, last], -1)]
    return torch.stack(rows, -2)


def _ascent(mu: Tensor, sigma: Tensor) -> Tensor:
    r"""The gradient of $E f$ with respect to $(\mu, \tau)$."""
    return torch.stack([mean(mu, sigma, 1), sigma**2 * mean(mu, sigma, 2)], -1)


def _outer(g: Tensor) -> Tensor:
    return g[..., :, None] * g[..., None, :]


def _score_moments(sigma: Tensor, *w: Tensor) -> Tensor:
    r"""$E[\varphi(X)\, s s^\top]$ from the means of $\varphi$ and of its first four derivatives."""
    v = sigma**2
    last = 2 * w[0] + 4 * v * w[2] + v**2 * w[4]
    return _symmetric(w[0] / v + w[2], v * w[3] + 2 * w[1], last)


def _square(mu: Tensor, sigma: Tensor, k: int) -> Tensor:
    r"""$E (f^2)^{(k)}$, where $2 f^2 = x^2 - \operatorname{Re}(x^2 e^{2ix})$."""
    return (_wave(mu, sigma, k, 0, (1, 0, 0)) - _wave(mu, sigma, k, 2, (1, 0, 0))) / 2


def _slope_square(mu: Tensor, sigma: Tensor, k: int) -> Tensor:
    r"""$E ((f')^2)^{(k)}$; $2 (f')^2 = x^2 + 1 + \operatorname{Re}((x^2 - 2ix - 1) e^{2ix})$."""
    return (_wave(mu, sigma, k, 0, (1, 0, 1)) + _wave(mu, sigma, k, 2, (1, -2j, -1))) / 2


def _wave(mu: Tensor, sigma: Tensor, k: int, omega: int, quadratic: tuple[complex, ...]) -> Tensor:
    r"""The $k$-th derivative in $\mu$ of $\operatorname{Re} E[(aX^2 + bX + c)\, e^{i\omega X}]$."""
    a, b, c = quadratic
    m = torch.complex(mu, omega * sigma**2)
    q = [a * (m**2 + sigma**2) + b * m + c, 2 * a * m + b, 2 * a + 0 * m]
    total = sum(math.comb(k, j) * (1j * omega) ** (k - j) * q[j] for j in range(min(k, 2) + 1))
    return (total * (1j * omega * mu - (omega * sigma) ** 2 / 2).exp()).real
