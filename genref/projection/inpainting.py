r"""Images filled in by projected gradient steps on the density of a flow, or of any other model.

The unknown pixels climb $\log p$, the known ones stay what they are, and all stay between 0 and 1.
With $f = -\log p$ and $\mathcal{C} = \{x \in [0, 1]^D : M \odot x = M \odot k\}$ a step is
$x \mapsto \Pi_{\mathcal{C}}(x - \alpha \nabla f(x))$.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from genref.projection.sets import masked_box

__all__ = ["inpaint", "residual", "transformed"]

LogProb = Callable[[Tensor], Tensor]


def inpaint(
    log_prob: LogProb,
    image: Float[Tensor, "*#shape"],
    known: Shaped[Tensor, "*#shape"],
    steps: int = 300,
    step_size: float | Callable[[int], float] = 1e-3,
    noise: float | Callable[[int], float] = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Returns $x_n$, where $x_{j+1} = \Pi_{\mathcal{C}}(x_j + \alpha_j \nabla \log p + s_j \xi_j)$.

    Claim: inpainting-pgd
        Let $M \in \{0, 1\}^D$, let $k_i \in [0, 1]$ where $M_i = 1$, and let
        $\mathcal{C} = \{x \in [0, 1]^D : M \odot x = M \odot k\}$. Let $f = -\log p$ be finite and
        differentiable on $\mathcal{C}$, and let its gradient by the unknown pixels have the
        Lipschitz constant $\ell > 0$ there. From $x_0 \in \mathcal{C}$ let
        $x_{j+1} = \Pi_{\mathcal{C}}(x_j - \alpha \nabla f(x_j))$ with $0 < \alpha < 2 / \ell$. Then
        every $x_j$ is in $\mathcal{C}$, and
        $f(x_{j+1}) \le f(x_j) - (1/\alpha - \ell/2) \lVert x_{j+1} - x_j \rVert^2$, so $f$
        decreases until the iteration rests. It rests at the points of Karush, Kuhn and Tucker and
        nowhere else: in $\mathcal{C}$, with $\partial_i f = 0$ at each unknown pixel where
        $0 < x_i < 1$, $\partial_i f \ge 0$ where $x_i = 0$ and $\partial_i f \le 0$ where
        $x_i = 1$. Every limit of a subsequence of the $x_j$ is such a point.

        Let $f$ be quadratic, as for a linear-Gaussian flow, with eigenvalues in $[\mu, \ell]$,
        $\mu > 0$, of its second derivatives by the unknown pixels. Then there is one such point
        $x^\star$, the most likely image in $\mathcal{C}$, and
        $\lVert x_n - x^\star \rVert \le q^n \lVert x_0 - x^\star \rVert$ with
        $q = \max\{\lvert 1 - \alpha \mu \rvert, \lvert 1 - \alpha \ell \rvert\} < 1$. For every
        $x \in \mathcal{C}$ the residual $r = x - \Pi_{\mathcal{C}}(x - \nabla f(x))$ tells how far
        away it is: $\lVert x - x^\star \rVert \le (1 + \ell) \lVert r \rVert / \mu$.

    Claim: x-inpainting-schedule
        Along a direction in which $f$ is quadratic with curvature $c > 0$, as long as no bound is
        met, steps $\alpha_0, \dots, \alpha_{n-1}$ multiply the distance from the minimum by
        $\prod_j (1 - \alpha_j c)$. For 300 steps of $10^{-3}$ its absolute value is at most $0.01$
        if and only if $15.2333 \le c \le 1984.7667$, in four decimals. If all
        $\alpha_j c \le \tfrac12$, the product depends on little but the sum $A$ of the steps:
        $e^{-cA - c^2 \sum_j \alpha_j^2} \le \prod_j (1 - \alpha_j c) \le (1 - cA/n)^n \le e^{-cA}$,
        so among all schedules of that sum the constant one gains least.

        Independent Gaussian noise of standard deviation $s_j$ in step $j$ adds the variance
        $\sum_j s_j^2 \prod_{i > j} (1 - \alpha_i c)^2$. It tends to $s^2 / (1 - (1 - \alpha c)^2)$
        if $\alpha_j = \alpha < 2/c$ and $s_j = s$. It tends to 0, and the product does, if
        $s_j = \alpha_j \to 0$ and $\sum_j \alpha_j = \infty$, as for $\alpha_j = 10/(100 + j)$.

        Noise can leave a valley. Let $p = 0.3\, \mathcal{N}(0.2, 0.1^2) + 0.7\, \mathcal{N}(0.8,
        0.1^2)$ for a single pixel, $x_0 = 0.3$ and $\alpha_j = 10^{-3}$. Without noise, the steps
        end at the minimum of $f$ near $0.2$, where $f = -0.180$; near $0.8$ it is $-1.027$. With
        $s_j = 0.1 (1 - j/300)$ in the first 300 steps and none in 300 more, they end near $0.8$
        with probability $0.56$, in two decimals, and with half the noise with probability $0.10$.

    Arguments:
        log_prob: The log-density of a batch of images, up to a constant. Anything that autograd can
            differentiate; an image may not depend on another one of its batch.
        image: The known values $k$ in $[0, 1]$, and where a pixel is unknown the value to start
            from, which is first clamped into $[0, 1]$.
        known: The mask $M$, 1 or true where a pixel is measured.
        steps: The number $n$ of steps.
        step_size: The size $\alpha_j$ of all steps, or a function of $j = 0, \dots, n - 1$.
        noise: The standard deviation $s_j$ of Gaussian noise in each unknown pixel, or a function
            of $j$.
        generator: The source of the noise.

    Returns:
        The images $x_n$. Known pixels are those of `image` bit by bit. No gradient is attached.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    image, known = _images(image, known)
    x = masked_box(image, known, image)
    for j in range(steps):
        alpha, s = _at(step_size, j), _at(noise, j)
        if not 0 < alpha < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {alpha:g} in step {j}")
        if not 0 <= s < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {s:g} in step {j}")
        y = x + alpha * _slope(log_prob, x, known)
        if s:
            y += s * torch.randn(y.shape, dtype=y.dtype, device=y.device, generator=generator)
        x = masked_box(y, known, image)
    return x


def residual(
    log_prob: LogProb, image: Float[Tensor, "*#shape"], known: Shaped[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    r"""Returns $x - \Pi_{\mathcal{C}}(x + \nabla \log p(x))$, zero where there is nothing to gain.

    It vanishes in all pixels exactly at the points of Karush, Kuhn and Tucker, at which `inpaint`
    rests. It is the gradient of $f = -\log p$ where the pixel is free to follow it, and what is
    left to the bound where the bound is nearer.

    Arguments:
        log_prob: The log-density, as for `inpaint`.
        image: The images $x$, all pixels filled.
        known: The mask $M$.
    """
    image, known = _images(image, known)
    return image - masked_box(image + _slope(log_prob, image, known), known, image)


def transformed(log_prob: LogProb, h: Callable[[Tensor], Tensor]) -> LogProb:
    r"""Returns $x \mapsto \log p(x) - \sum_i \log \lvert h'(x_i) \rvert$, the density of $h(X)$.

    The density of $h(X)$ is told at the point $h(x)$, as a function of $x$.

    Claim: x-map-not-invariant
        Let $X$ have a continuous density $p > 0$ on $(0, 1)$, and let $h$ have a continuous
        derivative $h' > 0$ there. Then $h(X)$ has at $h(x)$ the density $p(x) / h'(x)$, and its
        most likely value belongs to the $x$ that maximises this ratio, if there is one. With
        $h'(x) = p(x)\, e^{(x - x^\star)^2}$ that is any $x^\star \in (0, 1)$ one likes; an affine
        $h$ changes nothing. For $p = \mathrm{Beta}(a, b)$ with $a, b > 1$ the most likely value is
        $(a - 1)/(a + b - 2)$, and that of the coordinate $\log(x / (1 - x))$ is, for all
        $a, b > 0$, at $x = a/(a + b)$, the mean: $\tfrac14$ and $\tfrac13$ for
        $\mathrm{Beta}(2, 4)$. With several pixels, each in the coordinate $h$, the density is
        divided by $\prod_i h'(x_i)$, whether or not they are independent.

    Arguments:
        log_prob: The log-density $\log p$ of a batch of images.
        h: The new coordinate, strictly monotone, applied to each pixel by itself.
    """

    def density(x: Tensor) -> Tensor:
        log_p = log_prob(x)
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(h(at).sum(), at, create_graph=x.requires_grad)
        return log_p - slope.abs().log().reshape(*log_p.shape, -1).sum(-1)

    return density


def _images(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    if not image.is_floating_point():
        raise ValueError(f"image must have a floating dtype, got {image.dtype}")
    try:
        shape = torch.broadcast_shapes(image.shape, known.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        shapes = f"{tuple(image.shape)} and {tuple(known.shape)}"
        raise ValueError(f"image and known must have shapes that broadcast, got {shapes}") from None
    image, known = image.detach().expand(shape), known.expand(shape)
    neither = (known != 0) & (known != 1)
    if neither.any():
        raise ValueError(f"known must be 0 or 1, got {known[neither][0]:g}")
    outside = (known == 1) & ~((image >= 0) & (image <= 1)) | image.isnan()
    if outside.any():
        got = f"got {image[outside][0]:g}"
        raise ValueError(f"image must be in [0, 1] where known, a number elsewhere, {got}")
    return image, known


def _slope(log_prob: LogProb, x: Tensor, known: Tensor) -> Tensor:
    """The gradient of the log-density by the unknown pixels, zero at the known ones."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_prob(x).sum(), x)
    slope = slope.where(known == 0, 0)
    if not slope.isfinite().all():
        got = f"got {slope[~slope.isfinite()][0]:g}"
        raise ValueError(f"log_prob must have a finite gradient at the images of each step, {got}")
    return slope


def _at(schedule: float | Callable[[int], float], j: int) -> float:
    return float(schedule(j) if callable(schedule) else schedule)
