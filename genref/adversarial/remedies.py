r"""Updates that make the bilinear game converge: from which steps, and how fast at best.

All statements are about the `update_matrix` of a method in the game $V(d, g) = dg$, in which $d$
ascends and $g$ descends. A method *converges* if its spectral radius $\rho$ is below 1: then the
players tend to the equilibrium from every start, and otherwise there is a start from which they do
not. In a game $d^\top Bg$ every singular value $s_i$ of $B$ plays a game of its own, and players
whose singular value is 0 stand still.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from genref.adversarial.bilinear import Value

__all__ = [
    "BestMomentum",
    "best_momentum",
    "best_step",
    "largest_step",
    "lookahead",
    "momentum_polynomial",
]


def largest_step(
    method: str,
    payoff: Float[Tensor, "*batch m n"] | None = None,
    gamma: float = 1.0,
    beta: float = 0.0,
    alternating: bool = False,
) -> Float[Tensor, "*batch"]:
    r"""Returns the bound below which all players that move converge, 0 if no step does it.

    Claim: x-bilinear-proximal
        In the game $V = dg$ the proximal update $x^+ = x + \alpha Jx^+$ has
        $\rho = 1/\sqrt{1 + \alpha^2}$, and shrinks the distance from the equilibrium by exactly
        this factor: it converges from every start for every step $\alpha > 0$, the faster the
        larger the step.

    Claim: x-bilinear-optimistic
        In the game $V = dg$ the optimistic update
        $x_{k+1} = x_k + 2\alpha Jx_k - \alpha Jx_{k-1}$, $\alpha > 0$, has
        $\rho^2 = \tfrac12 \bigl(1 + \sqrt{1 - 4\alpha^2}\bigr)$ for $\alpha \le \tfrac12$ and
        $\rho^2 = \tfrac14 + {\bigl(\alpha + \tfrac12 \sqrt{4\alpha^2 - 1}\bigr)}^2$ for
        $\alpha \ge \tfrac12$.
        It converges from every start if and only if $\alpha < 1/\sqrt3$. The best step is
        $\alpha = \tfrac12$ with $\rho = 1/\sqrt2$. There two eigenvalues meet, and from rest the
        distance from the equilibrium falls as $k\, 2^{-k/2}$.

    Claim: x-bilinear-matrix
        Let $V(d, g) = d^\top Bg$ with a real matrix $B$ and its singular values $s_i$, 0 among
        them if $B$ is not square. The eigenvalues of an update, by any method of `update_matrix`,
        are those of the games $V = dg$ with $\alpha s_i$ in place of $\alpha$, and with
        $\gamma s_i$ and $\eta s_i$ in place of $\gamma$ and $\eta$. So $\rho$ is the largest of
        theirs, and no method converges if some $s_i$ is 0. If none is, let
        $\kappa = s_{\max}/s_{\min}$. Then the optimistic update with $\alpha = 1/(2 s_{\max})$ has
        $\rho^2 = \tfrac12 (1 + \sqrt{1 - \kappa^{-2}})$, so that $1 - \rho \approx 1/(8\kappa^2)$,
        and extragradient with $\alpha = 1/(\sqrt2\, s_{\max})$ has
        $\rho^2 = 1 - \tfrac12 \kappa^{-2} + \tfrac14 \kappa^{-4}$, so that
        $1 - \rho \approx 1/(4\kappa^2)$, for $\kappa \to \infty$.

    Arguments:
        method: As in `update_matrix`; extragradient looks ahead once and with the step $\alpha$.
        payoff: The matrix $B$, not 0, of any shape; 1 by default.
        gamma: The weight $\gamma > 0$ of consensus.
        beta: The momentum $\beta$.
        alternating: Whether the second player answers the new state of the first, in momentum.
    """
    _above_zero("gamma", gamma)
    B = torch.ones(1, 1, dtype=torch.float64) if payoff is None else payoff
    if B.dim() < 2 or not B.is_floating_point() or not B.isfinite().all():
        raise ValueError(f"payoff must be a finite, floating matrix, got {B}")
    if not math.isfinite(beta):
        raise ValueError(f"beta must be finite, got {beta}")
    s = torch.linalg.matrix_norm(B, 2)
    if not (s > 0).all():
        raise ValueError("payoff must not be 0, or no player moves")
    momentum = 2 * (1 + beta) if alternating and -1 < beta < 0 else 0
    limits: dict[str, Tensor] = {
        "simultaneous": 0 * s,
        "alternating": 0 * s,
        "extragradient": 1 / s,
        "proximal": math.inf + s,
        "optimistic": 1 / (math.sqrt(3) * s),
        "consensus": 2 * gamma / (1 + (gamma * s) ** 2),
        "momentum": momentum / s,
    }
    if method not in limits:
        raise ValueError(f"method must be one of {', '.join(limits)}, got {method!r}")
    return limits[method]


def best_step(
    method: str,
    gamma: float = 1.0,
    inner_steps: int = 1,
    eta: float | None = None,
) -> float:
    r"""Returns the step of least spectral radius in the game $V = dg$.

    Claim: x-bilinear-extragradient
        In the game $V = dg$ extragradient, $x^+ = x + \alpha J(x + \eta Jx)$ with positive steps,
        has $\rho^2 = (1 - \alpha\eta)^2 + \alpha^2$. With $\eta = \alpha$ this is
        $1 - \alpha^2 + \alpha^4$: it converges from every start if and only if $\alpha < 1$, best
        at $\alpha = 1/\sqrt2$ with $\rho = \sqrt3/2$. With $\eta = 1/\alpha$ it is $\alpha^2$, as
        small as you please. Looking ahead twice,
        $x^+ = x + \alpha J(x + \alpha J(x + \alpha Jx))$, gives
        $\rho^2 = (1 - \alpha^2)^2 (1 + \alpha^2)$: it converges from every start if and only if
        $\alpha^2 < (1 + \sqrt5)/2$, and for $\alpha = 1$ one update ends at the equilibrium.

    Claim: x-bilinear-consensus
        In the game $V = dg$ consensus, which subtracts
        $\alpha\gamma \nabla \tfrac12 \lVert \nabla V \rVert^2$ from a simultaneous step, has
        $\rho^2 = (1 - \alpha\gamma)^2 + \alpha^2$. For $\gamma > 0$ it converges from every start
        if and only if $\alpha < 2\gamma/(1 + \gamma^2)$; the best step is
        $\alpha = \gamma/(1 + \gamma^2)$ with $\rho = 1/\sqrt{1 + \gamma^2}$.

    Arguments:
        method: `"extragradient"`, `"optimistic"` or `"consensus"`.
        gamma: The weight $\gamma > 0$ of consensus.
        inner_steps: How often extragradient looks ahead, 1 or 2.
        eta: The step $\eta > 0$ with which it looks ahead once, $\alpha$ by default.
    """
    if inner_steps not in (1, 2) or (inner_steps == 2 and eta is not None):
        raise ValueError(f"inner_steps must be 1, or 2 without eta, got {inner_steps}")
    ahead = gamma if method == "consensus" else 1.0 if eta is None else eta
    _above_zero("gamma" if method == "consensus" else "eta", ahead)
    if method == "consensus" or (method == "extragradient" and eta is not None):
        return ahead / (1 + ahead**2)
    if method == "extragradient":
        return 1.0 if inner_steps == 2 else math.sqrt(0.5)
    if method == "optimistic":
        return 0.5
    raise ValueError(f"method must be extragradient, optimistic or consensus, got {method!r}")


def momentum_polynomial(
    step: Value,
    beta: Value,
    alternating: bool = False,
) -> Float[Tensor, "*batch 5"]:
    r"""Returns $(\lambda - 1)^2 (\lambda - \beta)^2 + \alpha^2 \lambda^n$, coefficients from
    $\lambda^4$ down, the characteristic polynomial of heavy ball; $n = 3$ if alternating, else 2.

    Claim: x-bilinear-momentum-sim
        In the game $V = dg$ let both players step at the same time with momentum,
        $x_{k+1} = x_k + \alpha Jx_k + \beta (x_k - x_{k-1})$. The characteristic polynomial is
        $(\lambda - 1)^2 (\lambda - \beta)^2 + \alpha^2 \lambda^2$. For every $\alpha > 0$ and every
        real $\beta \ne -1$ it has a zero outside the unit circle, and for $\beta = -1$ not all
        zeros are inside: no momentum makes simultaneous steps converge.

    Claim: x-bilinear-momentum-alt
        In the game $V = dg$ let both players use momentum $\beta$, and $g$ answer the new $d$. The
        characteristic polynomial is
        $(\lambda - 1)^2 (\lambda - \beta)^2 + \alpha^2 \lambda^3$. For real $\beta$ and
        $\alpha > 0$ the update converges from every start if and only if $-1 < \beta < 0$ and
        $\alpha < 2(1 + \beta)$. For every $\beta > 0$ its spectral radius is above 1.

    Arguments:
        step: The step $\alpha$.
        beta: The momentum $\beta$.
        alternating: Whether $g$ answers the new $d$.
    """
    given = [v for v in (step, beta) if isinstance(v, Tensor)]
    like = 1.0 * given[0] * given[-1] if given else torch.zeros((), dtype=torch.float64)
    alpha, b = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (step, beta))
    alpha, b = alpha + 0 * b, b + 0 * alpha
    c = [torch.ones_like(b), -2 - 2 * b, (1 + b) ** 2 + 2 * b, -2 * b * (1 + b), b * b]
    power = 1 if alternating else 2
    c[power] = c[power] + alpha**2
    return torch.stack(c, -1)


class BestMomentum(NamedTuple):
    r"""The step $\alpha$, the momentum $\beta$, and the spectral radius $\rho$ that they give."""

    step: float
    beta: float
    radius: float


def best_momentum() -> BestMomentum:
    r"""Returns the step and the momentum of least spectral radius for alternating heavy ball.

    Claim: x-bilinear-momentum-opt
        In the game $V = dg$, over all steps $\alpha > 0$ and all real $\beta$, the spectral radius
        of alternating steps with momentum, $g$ answering the new $d$, is least at
        $\beta = -(7 - 4\sqrt3) = -0.071796770$ and
        $\alpha = \tfrac83 \sqrt{2\sqrt3 - 3} = 1.816666770$, and only there, with
        $\rho = 2\sqrt3 - 3 = 0.464101615$. Three eigenvalues meet at $-\rho$.
    """
    radius = 2 * math.sqrt(3) - 3
    return BestMomentum(8 / 3 * math.sqrt(radius), -(radius**2) / 3, radius)


def lookahead(
    matrix: Float[Tensor, "*batch n n"],
    steps: int,
    weight: float,
) -> Float[Tensor, "*batch n n"]:
    r"""Returns $(1 - w) I + w A^k$: of $k$ updates only the part $w$ of the way is kept.

    Claim: x-bilinear-lookahead
        In the game $V = dg$ lookahead over $k$ simultaneous steps $\alpha > 0$ has
        $\rho = \lvert 1 + wq \rvert$ with $q = (1 + i\alpha)^k - 1$, which is 0.829148 for
        $\alpha = 0.3$, $k = 5$, $w = 0.3$. It converges from every start for some $w > 0$ if and
        only if $\operatorname{Re} q < 0$: never for $k = 1$, for every step if $k$ is 2 or 3, for
        $\alpha < \sqrt6$ if $k = 4$, and for every larger $k$ at least if
        $\alpha \le \tan(3\pi/(2k))$. Then the weights that converge are
        $w < -2 \operatorname{Re} q / \lvert q \rvert^2 < 1$. Half of this bound is best, with
        $\rho = \lvert \operatorname{Im} q \rvert / \lvert q \rvert$, which is 0 for
        $\alpha = \tan(\pi/k)$, $k \ge 3$.

    Arguments:
        matrix: The matrix $A$ of one update.
        steps: The number $k \ge 1$ of updates between two returns.
        weight: The weight $w$ of the end, from 0 to 1.
    """
    if steps < 1 or steps % 1:
        raise ValueError(f"steps must be a whole number, at least 1, got {steps}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be from 0 to 1, got {weight}")
    one = torch.eye(matrix.shape[-1]).to(matrix)
    ahead: Tensor = torch.linalg.matrix_power(matrix, steps)
    return torch.lerp(one, ahead, weight)


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
