r"""Planar flows, which squeeze or stretch space along one direction, near one hyperplane.

The map $x = z + u \tanh(w^\top z + b)$ moves all points along $u$. By how much depends on
$a = w^\top z + b$ alone, so all that has to be inverted is one increasing function of one number.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Planar", "root"]


def root(
    y: Float[Tensor, "*#batch"],
    c: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns the root $a$ of $a + c \tanh a = y$, between neighbouring floating-point numbers.

    Claim: flows-planar-root
        Let $c \ge -1$ and $y \ne 0$. Then $a + c \tanh a = y$ has exactly one root $a$. A small
        relative error of $y$ reaches it multiplied by
        $\kappa = y / \bigl(a (1 + c \operatorname{sech}^2 a)\bigr)$, which is at most 1 if
        $c \le 0$ and at most $1 + c$ if $c > 0$.
        In float64, without overflow or underflow, the root is found with a relative error of at
        most $10^{-15} \max\{1, \kappa\}$.

    The interval in which the root must lie is halved in the order of the floating-point numbers,
    until its ends are neighbours. Gradients of all orders flow to both arguments.

    Arguments:
        y: The right-hand side.
        c: The coefficient $c \ge -1$.
    """
    if not y.is_floating_point():
        raise ValueError(f"y must have a floating dtype, got {y.dtype}")
    c = c if isinstance(c, Tensor) else torch.tensor(c, dtype=torch.float64)
    wrong = ~((c >= -1) & (c < math.inf))
    if wrong.any():
        raise ValueError(f"c must be at least -1 and finite, got {c[wrong][0]:g}")
    a: Tensor = _Root.apply(*torch.broadcast_tensors(y, c.to(y)))  # type: ignore[no-untyped-call]
    return a


class Planar(nn.Module):
    r"""Maps $z$ to $x = z + u \tanh(w^\top z + b)$.

    Numbers, and tensors without a gradient, become parameters of the layer. Tensors that require a
    gradient are used as they are, so another network may produce them. A product $w^\top u$ that is
    below $-1$ by no more than its rounding counts as $-1$.

    Claim: x-flows-planar
        Let $u, w \in \mathbb{R}^D$, $b \in \mathbb{R}$ and $x = z + u \tanh(w^\top z + b)$. With
        $a = w^\top z + b$,
        $$\det J = 1 + w^\top u \, \operatorname{sech}^2 a.$$
        The map is injective if and only if $w^\top u \ge -1$, and then it is a bijection of
        $\mathbb{R}^D$. Its inverse is $z = x - u \tanh a$, where $a$ is the only root of
        $a + w^\top u \tanh a = w^\top x + b$. If $w^\top u > -1$, then $\det J > 0$ everywhere; if
        $w^\top u = -1$, then $\det J = 0$ on the hyperplane $w^\top z + b = 0$ and positive off it.

    Arguments:
        u: The direction in which points move, one entry for each coordinate; batch dimensions may
            lead.
        w: The normal vector of the hyperplane, with $w^\top u \ge -1$.
        b: The offset, a number or one for each entry of the batch.
    """

    def __init__(
        self,
        u: Float[Tensor, "*#batch event"],
        w: Float[Tensor, "*#batch event"],
        b: float | Float[Tensor, "*#batch"],
    ) -> None:
        super().__init__()
        self.u, self.w, self.b = map(_parameter, (u, w, b))
        for name, value in (("u", self.u), ("w", self.w)):
            if value.dim() == 0 or value.shape[-1] != self.u.shape[-1]:
                got = tuple(value.shape)
                raise ValueError(f"{name} must be a vector, u and w of one length, got shape {got}")
        if not self.b.isfinite().all():
            raise ValueError(f"b must be finite, got {self.b[~self.b.isfinite()][0]:g}")
        _product(self.u, self.w)

    def to_data(
        self, z: Float[Tensor, "*#batch event"]
    ) -> tuple[Float[Tensor, "*shape event"], Float[Tensor, "*shape"]]:
        r"""Returns $x$, and $\log \det J$ at $z$."""
        u, w, b, c = self._like("z", z)
        a = (w * z).sum(-1) + b
        return z + u * a.tanh()[..., None], _log_slope(a, c)

    def to_latent(
        self, x: Float[Tensor, "*#batch event"]
    ) -> tuple[Float[Tensor, "*shape event"], Float[Tensor, "*shape"]]:
        r"""Returns $z$, and $-\log \det J$ there, which is $\infty$ where $\det J = 0$."""
        u, w, b, c = self._like("x", x)
        a = root((w * x).sum(-1) + b, c)
        return x - u * a.tanh()[..., None], -_log_slope(a, c)

    def _like(self, name: str, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters in the dtype and on the device of the argument."""
        size = self.u.shape[-1]
        if not value.is_floating_point():
            raise ValueError(f"{name} must have a floating dtype, got {value.dtype}")
        if value.shape[-1:] != (size,):
            raise ValueError(f"{name} must have {size} coordinates, got shape {tuple(value.shape)}")
        c = _product(self.u, self.w)
        return self.u.to(value), self.w.to(value), self.b.to(value), c.to(value)


class _Root(torch.autograd.Function):
    """The root by bisection, and its derivatives by those of the equation."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, c: Tensor) -> Tensor:
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[y.element_size()]
        goal = y.abs()
        low, high = torch.zeros_like(goal), goal + c.clamp(max=0).abs()
        low, high = low.view(integer), high.view(integer) + 1
        while (high - low > 1).any():
            middle = low + (high - low) // 2
            below = _value(middle.view(y.dtype), c) < goal
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        a = torch.where(goal == 0, goal, high.view(y.dtype)).copysign(y)
        a = torch.where(y.isfinite(), a, y)
        ctx.save_for_backward(a, c)
        return a

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, c = ctx.saved_tensors
        share = grad / _slope(a, c)
        return share, -share * a.tanh()


def _value(a: Tensor, c: Tensor) -> Tensor:
    r"""$a + c \tanh a$ as a sum of terms of one sign, for $a \ge 0$."""
    return torch.where(c < 0, (1 + c) * a - c * _lag(a), a + c * a.tanh())


def _lag(a: Tensor) -> Tensor:
    r"""$a - \tanh a$, for $a < 1$ by Lambert's continued fraction, whose terms are positive."""
    square = a.square()
    rest = torch.zeros_like(a)
    for odd in range(21, 3, -2):
        rest = square / (odd + rest)
    return torch.where(a < 1, a * (square / (3 + rest + square)), a - a.tanh())


def _slope(a: Tensor, c: Tensor) -> Tensor:
    r"""$1 + c \operatorname{sech}^2 a$."""
    return torch.where(c < 0, (1 + c) - c * a.tanh().square(), 1 + c * _sech2(a))


def _log_slope(a: Tensor, c: Tensor) -> Tensor:
    r"""$\log(1 + c \operatorname{sech}^2 a)$; a small slope is a sum without negative terms."""
    steep = c < -0.5
    t = c.where(~steep, 0) * _sech2(a)
    return torch.where(steep, _slope(a, c).where(steep, 1).log(), t.log1p())


def _sech2(a: Tensor) -> Tensor:
    decay = (-2 * a.abs()).exp()
    return 4 * decay / (1 + decay).square()


def _product(u: Tensor, w: Tensor) -> Tensor:
    r"""$w^\top u$, in double precision, and not below $-1$."""
    eps = max(torch.finfo(u.dtype).eps, torch.finfo(w.dtype).eps)
    terms = u.double() * w.double()
    c, rounding = terms.sum(-1), 4 * eps * terms.detach().abs().sum(-1)
    wrong = ~((c >= -1 - rounding) & (c < math.inf))
    if wrong.any():
        raise ValueError(f"u must have w·u at least -1 and finite, got {c[wrong][0]:g}")
    return c.clamp(min=-1)


def _parameter(value: float | Tensor) -> Tensor:
    """A number keeps all its digits."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        value = torch.as_tensor(value, dtype=torch.float64)
    return value if value.requires_grad else nn.Parameter(value.clone())
