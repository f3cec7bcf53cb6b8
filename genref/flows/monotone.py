r"""Invertible maps of the line: why a rectifier is none, and a mixture of sigmoids that is one.

The mixture is computed from $\log F$ and $\log(1 - F)$, so that neither tail is rounded away. Its
inverse is found inside a bracket that always exists, and comes with a bound on its error.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SigmoidMixture", "radius", "witness"]


def witness(
    a: float | Fraction, b: float | Fraction, c: float | Fraction, leak: float | Fraction = 0
) -> tuple[Fraction, Fraction] | None:
    r"""Returns two points at which $g(z) = a f(bz + c)$ has one value, or `None` if none exist.

    Here $f(y) = \max(0, y) + \kappa \min(0, y)$ with the leak $\kappa$; without it, $f$ is the
    rectifier. The points are exact: fractions are used throughout.

    ```python
    from genref.flows.monotone import witness

    print(*witness(2, -0.5, 3))
    print(witness(2, -0.5, 3, leak=0.01))
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    8 10
    None
    ```

    Claim: flows-relu
        For all real $a, b, c$, the map $g(z) = a \max(0, bz + c)$ of $\mathbb{R}$ is neither
        one-to-one nor onto, so it has no inverse. If $ab \ne 0$ it is 0 on the half-line
        $bz \le -c$; if $a = 0$ or $b = 0$ it is constant. Its values are 0 or have the sign of $a$.

    Claim: x-flows-leaky-relu
        Let $f(y) = \max(0, y) + \kappa \min(0, y)$ with a real $\kappa$. The map
        $g(z) = a f(bz + c)$ of $\mathbb{R}$ is one-to-one if and only if $\kappa > 0$ and
        $ab \ne 0$. Then it is a bijection, with the inverse $z = (f^{-1}(x / a) - c) / b$, where
        $f^{-1}(y) = \max(0, y) + \min(0, y) / \kappa$.

    Arguments:
        a: The factor of the output.
        b: The factor of the input.
        c: The shift of the input.
        leak: The slope $\kappa$ of $f$ on the negative side.
    """
    for name, value in {"a": a, "b": b, "c": c, "leak": leak}.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    a, b, c, leak = (Fraction(value) for value in (a, b, c, leak))
    if a == 0 or b == 0:
        return Fraction(0), Fraction(1)
    if leak > 0:
        return None
    one, other = (1, 1 / leak) if leak else (-1, -2)
    return (one - c) / b, (other - c) / b


def radius(
    residual: Float[Tensor, "*points"], slope: Float[Tensor, "*points"], steepest: float | Tensor
) -> Float[Tensor, "*points"]:
    r"""Returns $-\log(1 - A R / g'(z)) / A$, which bounds $|z - g^{-1}(x)|$, or infinity.

    Claim: x-flows-sigmoid-certificate
        Let $g(z) = \sigma^{-1}(\sum_i w_i \sigma(a_i z + b_i))$ with $a_i > 0$, $w_i > 0$ and
        $\sum_i w_i = 1$, and let $A = \max_i a_i$. Then $|(\log g')'| < A$ everywhere. If
        $|g(z) - x| \le R$ and $AR < g'(z)$, then
        $$|z - g^{-1}(x)| \le -\frac1A \log\left(1 - \frac{AR}{g'(z)}\right).$$
        With what rounding does added to $R$, the bound that `SigmoidMixture.invert` returns holds
        for the exact inverse of the mixture that the layer holds.

    Arguments:
        residual: The numbers $R = |g(z) - x|$.
        slope: The slopes $g'(z)$.
        steepest: The largest slope $A > 0$ of the mixture.

    Returns:
        Infinity where $A R \ge g'(z)$: the residual proves nothing there.
    """
    A = torch.as_tensor(steepest, dtype=slope.dtype, device=slope.device)
    if not (A > 0).all():
        raise ValueError(f"steepest must be positive, got {steepest}")
    if (residual < 0).any():
        raise ValueError(f"residual must not be negative, got {residual.min():g}")
    if (slope < 0).any():
        raise ValueError(f"slope must not be negative, got {slope.min():g}")
    ratio = A * residual / slope
    return torch.where(ratio < 1, -torch.log1p(-ratio) / A, math.inf)


class SigmoidMixture(nn.Module):
    r"""Maps each coordinate by $g(z) = \sigma^{-1}(\sum_i w_i \sigma(a_i z + b_i))$.

    The parameters are $\log a$, $b$ and $\log w$, so that every step of an optimiser leads to
    another invertible layer. A common factor of the weights is divided out.

    Claim: flows-sigmoid-mixture
        Let $N \ge 1$, $a_i > 0$, $w_i > 0$ and $\sum_i w_i = 1$. Then
        $F(z) = \sum_i w_i \sigma(a_i z + b_i)$ lies in $(0, 1)$, and $g = \sigma^{-1} \circ F$ is a
        strictly increasing bijection of $\mathbb{R}$, with the slope
        $$g'(z) = \frac{\sum_i w_i a_i \sigma(a_i z + b_i) \sigma(-a_i z - b_i)}
        {F(z) (1 - F(z))} > 0$$
        and with $\min_i (a_i z + b_i) \le g(z) \le \max_i (a_i z + b_i)$. So $g^{-1}(x)$ lies
        between the least and the largest of the numbers $(x - b_i) / a_i$.

    Claim: x-flows-sigmoid-slope
        Let $g(z) = \sigma^{-1}(\sum_i w_i \sigma(a_i z + b_i))$ with $a_i > 0$, $w_i > 0$ and
        $\sum_i w_i = 1$. Then $0 < g'(z) \le \max_i a_i$, with equality only if all $a_i$ are equal
        and all $b_i$ are, and $g'(z) \to \min_i a_i$ for $z \to \pm\infty$. Between the tails the
        slope can be smaller than every $a_i$: for $w = (0.5, 0.5)$, $a = (1, 3)$ and $b = (-2, 9)$
        it is $g'(0) = 0.213759$. Given $a$ of length $N \ge 2$, the infimum of $g'(0)$ over all
        weights and offsets is 0, and the supremum is $\max_i a_i$.

    Claim: x-flows-sigmoid-roundtrip
        Let $g(z) = \sigma^{-1}(\sum_i w_i \sigma(a_i z + b_i))$ with at most 8 positive weights,
        which sum to one, $1/20 \le a_i \le 20$ and $|b_i| \le 20$. In float64, if exp, log and
        log1p are right to one unit in the last place, the computed $g$ at the computed
        $g^{-1}(x)$ is $x$ with an error of at most $10^{-13} (1 + |x|)$ for
        $x \in [-10^4, 10^4]$, and the exact $g$ there is $x$ with at most twice that error.

    Arguments:
        a: The slopes $a_i > 0$.
        b: The offsets $b_i$.
        w: The weights $w_i > 0$, with sum 1.
    """

    def __init__(
        self,
        a: Float[Tensor, " N"] | Sequence[float],
        b: Float[Tensor, " N"] | Sequence[float],
        w: Float[Tensor, " N"] | Sequence[float],
    ) -> None:
        super().__init__()
        a, b, w = (_vector(name, v) for name, v in {"a": a, "b": b, "w": w}.items())
        if not len(a) == len(b) == len(w):
            raise ValueError(f"a, b and w must be equally long, got {len(a)}, {len(b)}, {len(w)}")
        if not (a > 0).all():
            raise ValueError(f"a must be positive, got {a.min():g}")
        if not (w > 0).all():
            raise ValueError(f"w must be positive, got {w.min():g}")
        if abs(w.double().sum() - 1) > 1e-6:
            raise ValueError(f"w must sum to one, got {w.sum():g}")
        self.log_a, self.b, self.log_w = (nn.Parameter(v) for v in (a.log(), b, w.log()))

    def to_data(
        self, z: Float[Tensor, "*batch event"]
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"]]:
        r"""Returns $x = g(z)$ and $\sum_d \log g'(z_d)$."""
        x, log_slope = self._map(_points("z", z))
        return x, log_slope.sum(-1)

    def to_latent(
        self, x: Float[Tensor, "*batch event"]
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"]]:
        r"""Returns $z = g^{-1}(x)$ and $-\sum_d \log g'(z_d)$, differentiable up to third order."""
        z, _ = self.invert(x)
        residual = (self._map(z)[0] - x).detach()
        for _ in range(2):  # Newton's steps of length 0, which carry the derivatives
            value, log_slope = self._map(z)
            inverse_slope = (-log_slope).exp().clamp(max=torch.finfo(x.dtype).max)
            z = z - (value - x - residual) * inverse_slope
        return z, -self._map(z)[1].sum(-1)

    @torch.no_grad()
    def invert(
        self, x: Float[Tensor, "*batch event"]
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch event"]]:
        r"""Returns $z = g^{-1}(x)$ and a bound on $|z - g^{-1}(x)|$, both without derivatives.

        The bound holds for the parameters that the layer holds, rounding included, if sums and
        products are rounded correctly and exp, log and log1p to one unit in the last place; for
        the numbers it was made of, only if their dtype was no narrower than that of `x`.
        """
        low, high, rounding = self._bracket(_points("x", x))
        z, last = (low + high) / 2, torch.full_like(x, math.inf)
        open_ = torch.ones_like(x, dtype=torch.bool)
        while open_.any():
            value, log_slope = self._map(z)
            excess = value - x
            low = torch.where(excess < -rounding, z, low)
            high = torch.where(excess > rounding, z, high)
            middle, newton = (low + high) / 2, z - excess * (-log_slope).exp()
            open_ &= (excess.abs() > rounding) & (low < middle) & (middle < high)
            fast = (low < newton) & (newton < high) & (excess.abs() <= last / 2)
            z = torch.where(open_, torch.where(fast, newton, middle), z)
            last = excess.abs()
        return self._certified(z, x, low, high, rounding)

    def _map(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the logarithm of the slope, coordinate by coordinate, in the dtype of z."""
        log_a, b, log_w = (p.to(z.dtype) for p in (self.log_a, self.b, self.log_w.log_softmax(0)))
        v = log_a.exp() * z[..., None] + b
        log_one, log_zero = log_w + F.logsigmoid(v), log_w + F.logsigmoid(-v)
        log_F, log_G = log_one.logsumexp(-1, keepdim=True), log_zero.logsumexp(-1, keepdim=True)
        log_slopes = log_a + (log_one - log_F) + (log_zero - log_G) - log_w
        return (log_F - log_G).squeeze(-1), log_slopes.logsumexp(-1)

    def _rounding(self, size: Tensor) -> Tensor:
        r"""The bound $(8 + \Lambda) \delta (|x| + B + 2N)$ of the page."""
        B, largest = (p.abs().max().to(size.dtype) for p in (self.b, self.log_a))
        return (8 + largest) * torch.finfo(size.dtype).eps * (size + B + 2 * len(self.b))

    def _bracket(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two points around the root, and how far rounding may move a value near x."""
        log_a, b = self.log_a.to(x.dtype), self.b.to(x.dtype)
        rounding = self._rounding(x.abs())[..., None]
        low, high = ((x[..., None] - b + sign * rounding) / log_a.exp() for sign in (-1, 1))
        return low.amin(-1), high.amax(-1), rounding.squeeze(-1)

    def _certified(self, z: Tensor, x: Tensor, *bracket: Tensor) -> tuple[Tensor, Tensor]:
        """One more step of Newton where it helps, and the bound of the claim or of the bracket."""
        low, high, rounding = bracket
        value, log_slope = self._map(z)
        better = (z - (value - x) * (-log_slope).exp()).clamp(low, high)
        helps = (self._map(better)[0] - x).abs() < (value - x).abs()
        z = torch.where(helps, better, z)
        value, log_slope = self._map(z)
        size = x.abs() + log_slope.abs() + self.log_w.abs().max() + self.log_a.abs().max()
        slope = (log_slope - 4 * self._rounding(size).to(x.dtype)).exp()
        near = radius((value - x).abs() + rounding, slope, self.log_a.max().to(x.dtype).exp())
        bound = torch.minimum(near, torch.maximum(high - z, z - low))
        return z, bound * (1 + 16 * torch.finfo(x.dtype).eps)


def _vector(name: str, value: Tensor | Sequence[float]) -> Tensor:
    value = torch.as_tensor(value).detach().clone()
    if not value.is_floating_point():
        raise ValueError(f"{name} must be floating, got {value.dtype}")
    if value.dim() != 1 or not len(value):
        raise ValueError(f"{name} must be a vector, got shape {tuple(value.shape)}")
    if not value.isfinite().all():
        raise ValueError(f"{name} must be finite, got {value.tolist()}")
    return value


def _points(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise ValueError(f"{name} must be floating, got {value.dtype}")
    if not value.dim():
        raise ValueError(f"{name} must have a dimension for the event, got a scalar")
    return value
