r"""Radial flows, which pull space towards a point, or push it away from it.

The map $x = z + \beta (z - z_0) / (\alpha + r)$ with $r = \lVert z - z_0 \rVert$ moves each point
on the ray from the centre $z_0$, so all that has to be inverted is one function of one number.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Radial", "radius"]


def radius(
    distance: Float[Tensor, "*#batch"],
    alpha: float | Float[Tensor, "*#batch"],
    beta: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns the root $r \ge 0$ of $r + \beta r / (\alpha + r) = \rho$.

    Claim: flows-radial-r
        Let $\alpha > 0$, let $\beta$ be real, and let $x = z + \beta (z - z_0) / (\alpha + r)$ with
        $r = \lVert z - z_0 \rVert$ be a map of $\mathbb{R}^D$, $D \ge 1$. Every $x$ determines $r$
        if and only if $\beta \ge -\alpha$. In that case the map is a bijection, continuous in both
        directions, and with $\rho = \lVert x - z_0 \rVert$ and $d = \rho - \alpha - \beta$
        $$r = \frac{d + \sqrt{d^2 + 4 \alpha \rho}}{2}.$$
        If $\beta = -\alpha$, then $r / \sqrt{\alpha \rho} \to 1$ as $\rho \to 0$, so the inverse is
        not differentiable at $z_0$.

    Claim: flows-radial-accuracy
        Let $\rho > 0$, $\alpha > 0$, $\beta \ge -\alpha$ and $\gamma = \alpha + \beta$. A small
        relative error of $\rho$ reaches the root $r$ multiplied by
        $\kappa = (\gamma + r) / (\gamma + 2r - \rho)$. It is at most 1 if $\beta \le 0$, at most 2
        if $2 \rho \le \gamma$, and always at most
        $\max\{1, \tfrac12 (1 + \sqrt{\gamma / \alpha})\}$. From $\rho$, $\alpha$ and $\beta$ in
        float64, without overflow or underflow, the root is computed with a relative error of at
        most $10^{-15} \max\{1, \kappa\}$. Where $\kappa \le 10$, as for
        $(\rho, \alpha, \gamma) = (10^{-12}, 1, 2)$ and $(10^{-6}, 10^{-3}, 100)$, it is at most
        $10^{-14}$.

    Arguments:
        distance: The distance $\rho \ge 0$ of $x$ from the centre.
        alpha: The softening $\alpha > 0$.
        beta: The strength $\beta \ge -\alpha$.
    """
    if not distance.is_floating_point():
        raise ValueError(f"distance must have a floating dtype, got {distance.dtype}")
    if (distance < 0).any():
        raise ValueError(f"distance must be at least 0, got {distance[distance < 0][0]:g}")
    alpha, _, gap = _checked(distance, alpha, beta)
    return _root(distance, alpha, gap)


class Radial(nn.Module):
    r"""Maps $z$ to $x = z + \beta (z - z_0) / (\alpha + r)$ with $r = \lVert z - z_0 \rVert$.

    Numbers, and tensors without a gradient, become parameters of the layer. Tensors that require a
    gradient are used as they are, so another network may produce them. A strength of
    $\beta = -\alpha$ is accepted, though the inverse then has no derivative at the centre.

    Claim: flows-radial-direction
        Let $\alpha > 0$, $\beta \ge -\alpha$, $r > 0$ and
        $x = z_0 + r \tilde z + \beta r \tilde z / (\alpha + r)$ with
        $\lVert \tilde z \rVert = 1$. Then
        $$\tilde z = \frac{x - z_0}{r \bigl(1 + \frac{\beta}{\alpha + r}\bigr)}
        = \frac{x - z_0}{\lVert x - z_0 \rVert},$$
        so $x$ and $r$ determine $\tilde z$, and $z$. If $r = 0$, then $z = z_0$ is determined, and
        every unit vector $\tilde z$ solves the equation.

    Claim: x-flows-radial-det
        Let $\alpha > 0$ and $\beta \ge -\alpha$. The Jacobian of the map at $z \in \mathbb{R}^D$
        has the eigenvalue $1 + \alpha \beta / (\alpha + r)^2$ along $z - z_0$, and
        $1 + \beta / (\alpha + r)$ on all directions orthogonal to it, so
        $$\det J = \left(1 + \frac{\beta}{\alpha + r}\right)^{D - 1}
        \left(1 + \frac{\alpha \beta}{(\alpha + r)^2}\right).$$
        It is positive, except for $\beta = -\alpha$ at $z = z_0$, where it is 0.

    Arguments:
        centre: The centre $z_0$, one entry for each coordinate; batch dimensions may lead.
        alpha: The softening $\alpha > 0$, a number or one for each entry of the batch.
        beta: The strength $\beta \ge -\alpha$, likewise.
    """

    def __init__(
        self,
        centre: Float[Tensor, "*#batch event"],
        alpha: float | Float[Tensor, "*#batch"],
        beta: float | Float[Tensor, "*#batch"],
    ) -> None:
        super().__init__()
        self.centre, self.alpha, self.beta = map(_parameter, (centre, alpha, beta))
        if self.centre.dim() == 0 or self.centre.shape[-1] == 0:
            raise ValueError(f"centre must be a vector, got shape {tuple(self.centre.shape)}")
        _checked(self.centre, self.alpha, self.beta)

    def to_data(
        self, z: Float[Tensor, "*#batch event"]
    ) -> tuple[Float[Tensor, "*shape event"], Float[Tensor, "*shape"]]:
        r"""Returns $x$, and $\log \det J$ at $z$."""
        centre, alpha, beta, gap = self._like("z", z)
        r = _norm(z - centre)
        x = _scaled(z, centre, beta / (alpha + r), (gap + r) / (alpha + r))
        return x, _log_det(r, alpha, beta, gap, z.shape[-1])

    def to_latent(
        self, x: Float[Tensor, "*#batch event"]
    ) -> tuple[Float[Tensor, "*shape event"], Float[Tensor, "*shape"]]:
        r"""Returns $z$, and $-\log \det J$ there, which is $\infty$ where $\det J = 0$."""
        centre, alpha, beta, gap = self._like("x", x)
        r = _root(_norm(x - centre), alpha, gap)
        divisor = (gap + r).where(gap + r > 0, 1)
        z = _scaled(x, centre, -beta / divisor, (alpha + r) / divisor)
        return z, -_log_det(r, alpha, beta, gap, x.shape[-1])

    def _like(self, name: str, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters in the dtype and on the device of the argument."""
        size = self.centre.shape[-1]
        if not value.is_floating_point():
            raise ValueError(f"{name} must have a floating dtype, got {value.dtype}")
        if value.shape[-1:] != (size,):
            raise ValueError(f"{name} must have {size} coordinates, got shape {tuple(value.shape)}")
        return self.centre.to(value), *_checked(value, self.alpha, self.beta)


def _scaled(point: Tensor, centre: Tensor, t: Tensor, factor: Tensor) -> Tensor:
    """The point on the ray at `factor` = 1 + t times the distance: whichever sum loses nothing."""
    t, factor, away = t[..., None], factor[..., None], point - centre
    return torch.where(t.abs() < 0.5, point + t * away, centre + factor * away)


def _root(rho: Tensor, alpha: Tensor, gap: Tensor) -> Tensor:
    r"""The root of $r^2 + (\gamma - \rho) r - \alpha \rho$ that is not negative, with gap $\gamma$.

    All lengths are divided by their sum, so that no square overflows. The root of larger size adds
    numbers of one sign; the product of the roots gives the other.
    """
    unit = (rho + alpha + gap).detach()
    d = (rho - gap) / unit
    width = (d.square() + 4 * (rho / unit) * (alpha / unit)).sqrt()
    larger = unit * (d.where(d >= 0, -d) + width) / 2
    return larger.where(d >= 0, rho * (alpha / larger))


def _log_det(r: Tensor, alpha: Tensor, beta: Tensor, gap: Tensor, size: int) -> Tensor:
    """The logarithms of the eigenvalues: one along the ray, the others across it."""
    a, b, s, r = (length / (alpha + r) for length in (alpha, beta, gap, r))
    along = _log(a * b, a * s + r * (1 + a))
    return along if size == 1 else along + (size - 1) * _log(b, s + r)


def _log(t: Tensor, one_plus_t: Tensor) -> Tensor:
    """The logarithm of a sum that is known together with its second term."""
    small = t > -0.5
    return torch.where(small, t.where(small, 0).log1p(), one_plus_t.where(~small, 1).log())


def _norm(y: Tensor) -> Tensor:
    """The Euclidean norm; entries of any size can be squared."""
    top = y.detach().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
    length: Tensor = torch.linalg.vector_norm(y / top, dim=-1)
    return top[..., 0] * length


def _checked(
    like: Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""$\alpha$, $\beta$ and $\alpha + \beta$, added before they are rounded to another dtype."""
    alpha, beta = _tensor(alpha), _tensor(beta)
    wrong = ~((alpha > 0) & (alpha < math.inf))
    if wrong.any():
        raise ValueError(f"alpha must be positive and finite, got {alpha[wrong][0]:g}")
    wrong = ~((beta >= -alpha) & (beta < math.inf))
    if wrong.any():
        got = beta.expand_as(wrong)[wrong][0]
        raise ValueError(f"beta must be at least -alpha and finite, got {got:g}")
    return alpha.to(like), beta.to(like), (alpha + beta).to(like)


def _parameter(value: float | Tensor) -> Tensor:
    value = _tensor(value)
    return value if value.requires_grad else nn.Parameter(value.clone())


def _tensor(value: float | Tensor) -> Tensor:
    """Python numbers keep all their digits."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    return torch.as_tensor(value, dtype=torch.float64)
