r"""Residual maps $g(z) = z + f(z)$: when they are invertible, and how to invert them.

On the line a slope $f' > -1$ makes $g$ one-to-one, and some margin makes it onto. In
$\mathbb{R}^D$ a branch $f$ that contracts does both, and comes with an algorithm.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genref.flows.trace import _contraction, _points, _units, powers, roulette, series

__all__ = ["Residual", "certificate", "margin", "steps"]


def margin(
    f: Callable[[Tensor], Tensor],
    z: Float[Tensor, "*batch event"],
) -> Float[Tensor, "*batch"]:
    r"""Returns the least eigenvalue of the symmetric part of $I + J_f(z)$; if $D = 1$, $1 + f'(z)$.

    Claim: flows-residual
        Let $f: \mathbb{R} \to \mathbb{R}$ be differentiable with $f' > -1$ everywhere. Then
        $g(z) = z + f(z)$ is strictly increasing. It is a bijection from $\mathbb{R}$ to its image,
        which is an open interval, and the inverse has the derivative $1 / (1 + f'(z))$ at $g(z)$.
        The image is $\mathbb{R}$ if and only if $g$ is unbounded above and below. This is so if
        there is a margin, $f' \ge -1 + \varepsilon$ everywhere with one $\varepsilon > 0$. Without
        it anything can happen: $-z + \arctan z$ gives the image $(-\pi/2, \pi/2)$, $-z + e^z$
        gives $(0, \infty)$, and $-z + \operatorname{arsinh} z$ gives $\mathbb{R}$, though its
        margin is 0 too. The condition $f' > -1$ is not necessary: $f(z) = z^3 - z$ has
        $f'(0) = -1$, and $g$ is a bijection of $\mathbb{R}$.

    Claim: x-flows-det-not-enough
        For $D \ge 2$ a positive determinant of the Jacobian $J_g$ does not make $g$ one-to-one: the
        map $(a, b) \mapsto (e^a \cos b, e^a \sin b)$ has $\det J = e^{2a} > 0$ everywhere and the
        period $2\pi$ in $b$. But if $g: \mathbb{R}^D \to \mathbb{R}^D$ is differentiable and the
        least eigenvalue of $(J_g + J_g^\top) / 2$ is positive everywhere, then $g$ is one-to-one,
        as $\langle g(y) - g(z), y - z \rangle > 0$ whenever $y \ne z$. If it is at least
        $\varepsilon > 0$ everywhere, then
        $\lVert g(y) - g(z) \rVert \ge \varepsilon \lVert y - z \rVert$. In the example it is
        $e^a \cos b$, of both signs.

    Arguments:
        f: The branch, a map of the last dimension that treats all points alike and apart.
        z: The points.
    """
    J = _jacobian(f, z)
    least: Tensor = torch.linalg.eigvalsh((J + J.mT) / 2)[..., 0]
    return least


def certificate(lipschitz: float, step: float | Float[Tensor, "..."]) -> float | Tensor:
    r"""Returns $\frac{\ell}{1 - \ell} \lVert z_k - z_{k-1} \rVert$, a bound of the error of $z_k$.

    Claim: x-flows-residual-lipschitz
        Let $f: \mathbb{R}^D \to \mathbb{R}^D$ satisfy
        $\lVert f(y) - f(z) \rVert \le \ell \lVert y - z \rVert$ with $\ell < 1$. Then
        $g(z) = z + f(z)$ is a bijection of $\mathbb{R}^D$. For each $x$ and each start $z_0$ the
        iteration $z_{k+1} = x - f(z_k)$ converges to $z^\star = g^{-1}(x)$, and for $k \ge 1$
        $$\begin{aligned}
        \lVert z_k - z^\star \rVert &\le \ell^k \lVert z_0 - z^\star \rVert
        \le \frac{\ell^k}{1 - \ell} \lVert z_1 - z_0 \rVert , \\
        \lVert z_k - z^\star \rVert &\le \frac{\ell}{1 - \ell} \lVert z_k - z_{k-1} \rVert .
        \end{aligned}$$
        For $f = -\ell z$ all of them are equalities. Moreover
        $$(1 - \ell) \lVert y - z \rVert \le \lVert g(y) - g(z) \rVert
        \le (1 + \ell) \lVert y - z \rVert .$$
        Where $f$ is differentiable, all singular values of $J_g$ lie in $[1 - \ell, 1 + \ell]$, and
        $D \log(1 - \ell) \le \log\det J_g \le D \log(1 + \ell)$.

    Arguments:
        lipschitz: The constant $\ell$, at least 0 and less than 1.
        step: The length of the last step.
    """
    _contraction(lipschitz)
    return lipschitz / (1 - lipschitz) * step


def steps(lipschitz: float, step: float, tolerance: float) -> int:
    r"""Returns the least $k \ge 1$ with $\lVert z_1 - z_0 \rVert \ell^k / (1 - \ell) \le \delta$.

    Arguments:
        lipschitz: The constant $\ell$, at least 0 and less than 1.
        step: The length of the first step, positive.
        tolerance: The largest error $\delta$ that is allowed, positive.
    """
    _contraction(lipschitz)
    if not (0 < step < math.inf and 0 < tolerance < math.inf):
        got = f"{step} and {tolerance}"
        raise ValueError(f"step and tolerance must be positive and finite, got {got}")
    goal = math.log(tolerance) + math.log1p(-lipschitz) - math.log(step)
    return max(1, math.ceil(goal / math.log(lipschitz))) if lipschitz > 0 else 1


class Residual(nn.Module):
    r"""The layer $x = z + f(z)$ with a branch $f$ that contracts.

    Points are in the last dimension. The log-determinant is exact unless `series` or `roulette` is
    asked for. All results have gradients, with respect to the points and to the parameters of $f$;
    those through the inverse are of first order and take $D$ passes backwards.

    ```python
    import torch

    from genref.flows.residual import Residual

    layer = Residual(lambda z: 0.9 * torch.sin(z), lipschitz=0.9)
    x, log_det = layer.to_data(torch.tensor([0.5, -2.0], dtype=torch.float64))
    z, error = layer.invert(x)
    print([round(number, 10) for number in z.tolist()], bool(error < 1e-13))
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    [0.5, -2.0] True
    ```

    Arguments:
        f: The branch, a map of the last dimension that treats all points alike and apart. A
            `torch.nn.Module` becomes a part of the layer.
        lipschitz: A number $\ell$, at least 0 and less than 1, with
            $\lVert f(y) - f(z) \rVert \le \ell \lVert y - z \rVert$ for all $y$ and $z$. It is
            taken on trust; the inverse refuses it where the iteration disproves it.
        series: The number of terms of the series for the log-determinant, at least 1.
        roulette: Whether the series goes on for a random number of terms, which makes its mean
            exact; at least the first `series` of them, or 2.
        probes: The number of random signs for each trace of the series. Without it traces are
            exact, at the price of $D$ passes for each term.
        generator: Of all that is random.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        lipschitz: float,
        series: int | None = None,
        roulette: bool = False,
        probes: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _contraction(lipschitz)
        for name, value in (("series", series), ("probes", probes)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if probes is not None and series is None and not roulette:
            raise ValueError(f"probes must be None for exact log-determinants, got {probes}")
        self.f, self.lipschitz, self.terms, self.roulette = f, lipschitz, series, roulette
        self.probes, self.generator = probes, generator

    def to_data(
        self, z: Float[Tensor, "*batch event"]
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"]]:
        r"""Returns $x = z + f(z)$ and $\log\det(I + J_f(z))$."""
        return z + self._branch(z), self.log_det(z)

    def to_latent(
        self, x: Float[Tensor, "*batch event"]
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"]]:
        r"""Returns $z$ with $x = z + f(z)$, and $-\log\det(I + J_f(z))$."""
        z, _ = self.invert(x)
        return z, -self.log_det(z)

    def log_det(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch"]:
        r"""Returns $\log\det(I + J_f(z))$, exactly or as the layer has been told to estimate it."""
        ell, terms, probes, generator = self.lipschitz, self.terms, self.probes, self.generator
        if self.roulette:
            return roulette(self.f, z, ell, terms or 2, probes=probes, generator=generator)
        if terms is not None:
            return series(self.f, z, terms, ell, probes, generator)[0]
        log_det: Tensor = torch.linalg.slogdet(_jacobian(self.f, z)).logabsdet
        return log_det

    def invert(
        self,
        x: Float[Tensor, "*batch event"],
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"]]:
        r"""Returns $z$ with $x = z + f(z)$, and a bound of $\lVert z - g^{-1}(x) \rVert$.

        Claim: flows-residual-certificate
            In float64 and with $\ell = 0.97$, let $f$ be $-\ell z$ or $\ell z$, $\ell$ times an
            orthogonal matrix, $\ell \sin z$ or $-\ell \sin z$ in each coordinate, or the network
            $-\ell V^\top \tanh(Vz)$ with eight hidden units and $\lVert V \rVert = 1$, in one to
            five dimensions, and let $x = g(z)$ with $\lVert z \rVert \le 10$. Then the result of
            `invert` differs from $g^{-1}(x)$ by at most $10^{-12}$. The bound that comes with it
            holds and is at most $10^{-11}$. It is
            $\frac{\ell}{1 - \ell} \lVert z_k - z_{k-1} \rVert$ and an allowance for rounding.

        The iteration $z_{k+1} = x - f(z_k)$ ends when a step moves nothing but rounding errors, or
        after as many steps as that takes in exact arithmetic. The allowance for them is
        $4e(\lVert x \rVert + \lVert f(z) \rVert + \lVert z \rVert)$ over $1 - \ell$, with the
        machine epsilon $e$. It trusts $f$ to be computed about as well.
        """
        _points("x", x)
        ell, eps = self.lipschitz, torch.finfo(x.dtype).eps
        with torch.no_grad():
            z, last = x.detach(), torch.full_like(x[..., 0], math.inf)
            for _ in range(steps(ell, 1.0, eps / 4) + 1):
                y = x - self._branch(z)
                step = (y - z).norm(dim=-1)
                rounding = 4 * eps * (x.norm(dim=-1) + (x - y).norm(dim=-1) + y.norm(dim=-1))
                wrong = step > ell * last + 100 * rounding
                if wrong.any():
                    least = (step / last)[wrong].max()
                    raise ValueError(f"lipschitz must be at least {least:.3g} here, got {ell}")
                z, last = y, step
                if not (8 * ell * step > rounding).any():
                    break
            error = certificate(ell, last) + rounding / (1 - ell)
        return self._attached(x, z), error

    def _branch(self, z: Tensor) -> Tensor:
        y = self.f(z)
        if y.shape != z.shape:
            raise ValueError(f"f must keep the shape {tuple(z.shape)}, got {tuple(y.shape)}")
        return y

    def _attached(self, x: Tensor, z: Tensor) -> Tensor:
        r"""Returns $z$ with the gradient $(I + J_f^\top)^{-1}$ of the implicit function theorem."""
        y = x - self._branch(z)
        if not y.requires_grad:
            return z
        with torch.no_grad():
            J = _jacobian(self.f, z)
        nothing: Tensor = torch.linalg.solve(J, y - y.detach())
        return z + nothing


def _jacobian(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    r"""Returns $I + J_f(z)$, all rows in one pass."""
    _points("z", z)
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return eye + powers(f, z, _units(z), 1)[0].movedim(0, -2)
