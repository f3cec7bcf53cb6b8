r"""The bilinear game $V(d, g) = dg$ and the updates that are used to solve it, as matrices.

Player $d$ ascends, player $g$ descends. To second order around an equilibrium, every smooth game of
two opponents without curvature of their own is $d^\top Bg$, with vectors and a matrix.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["flow", "invariant", "spectral_radius", "trajectory", "update_matrix", "velocity"]

Value = float | Float[Tensor, "*#batch"]
r"""A number or a tensor of them; where there are only numbers, they count as float64."""

_MEMORY = "optimistic", "momentum"
_OPTIONS = {name: {"payoff"} for name in ("simultaneous", "alternating", "proximal", "optimistic")} | {
    "extragradient": {"payoff", "eta", "inner_steps"},
    "consensus": {"payoff", "gamma"},
    "momentum": {"payoff", "beta", "alternating"},
}


def velocity(state: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    r"""Returns $(g, -d)$, the direction in which the two gradients send the players.

    Claim: bilinear-fixed-point
        Let $V(d, g) = dg$ on $\mathbb{R}^2$. Its gradient $(g, d)$ and the direction of play
        $(g, -d)$ vanish at $(0, 0)$ and nowhere else. This point is a saddle of $V$, the only Nash
        equilibrium, and for every step $\alpha > 0$ the only fixed point of the simultaneous
        update, whose matrix $A$ has $\det(A - I) = \alpha^2$.

    Arguments:
        state: The players $(d, g)$.
    """
    d, g = state.unbind(-1)
    return torch.stack([g, -d], -1)


def flow(state: Float[Tensor, "*batch 2"], time: Value) -> Float[Tensor, "*batch 2"]:
    r"""Returns $(d \cos t + g \sin t,\ g \cos t - d \sin t)$, the solution of $x' = (g, -d)$.

    Claim: x-bilinear-ode
        The flow $d' = g$, $g' = -d$ moves every point on its circle around the origin, clockwise in
        the plane of $(d, g)$, once in the time $2\pi$: it neither converges nor diverges.
        Simultaneous steps $\alpha = T/N$ up to the time $T$ multiply the distance from the origin
        by $(1 + \alpha^2)^{N/2}$ instead of 1, and $\tfrac12 \alpha T - \tfrac14 \alpha^3 T
        \le \tfrac{N}{2} \log(1 + \alpha^2) \le \tfrac12 \alpha T$. The factor tends to 1 as
        $\alpha \to 0$ at fixed $T$, and to infinity as $T \to \infty$ at fixed $\alpha$.

    Arguments:
        state: The players $(d, g)$ at the time 0.
        time: The time $t$, of either sign.
    """
    t = _like(state, time)[..., None]
    return t.cos() * state + t.sin() * velocity(state)


def invariant(state: Float[Tensor, "*batch 2"], step: Value) -> Float[Tensor, "*batch"]:
    r"""Returns $d^2 + g^2 + \alpha dg$, which alternating steps do not change.

    Claim: x-bilinear-alternating
        Let $d$ move first and $g$ answer the new $d$, with step $\alpha > 0$. The matrix of the
        update is $\begin{pmatrix} 1 & \alpha \\ -\alpha & 1 - \alpha^2 \end{pmatrix}$, of
        determinant 1 and trace $2 - \alpha^2$, and $d^2 + g^2 + \alpha dg$ never changes.
        For $\alpha < 2$ the orbit of $x_0 \ne 0$ stays on an ellipse around the origin, bounded,
        without a limit; the mean of its first $k$ points is at most of order $1/k$. For
        $\alpha = 2$ the eigenvalue $-1$ is double and defective, and orbits grow linearly, except
        those with $d = -g$. For $\alpha > 2$ the spectral radius is
        $\tfrac14 (\alpha + \sqrt{\alpha^2 - 4})^2 > 1$, 1.221301 at $\alpha = 2.01$.

    Arguments:
        state: The players $(d, g)$ after a whole round, when both have moved.
        step: The step $\alpha$.
    """
    d, g = state.unbind(-1)
    return d**2 + g**2 + _like(state, step) * d * g


def update_matrix(method: str, step: Value, **options: Any) -> Float[Tensor, "... n n"]:
    r"""Returns the matrix $A$ of one update of the players $x = (d, g)$ by a method.

    With $J = \begin{pmatrix} 0 & 1 \\ -1 & 0 \end{pmatrix}$, so that $Jx$ is the `velocity`:

    | method | update | options |
    |---|---|---|
    | `"simultaneous"` | $x + \alpha Jx$ | |
    | `"alternating"` | $d^+ = d + \alpha g$, then $g^+ = g - \alpha d^+$ | |
    | `"extragradient"` | $x + \alpha J(x + \eta Jx)$ | `eta`, `inner_steps` |
    | `"proximal"` | $x^+ = x + \alpha Jx^+$ | |
    | `"optimistic"` | $x_k + 2\alpha Jx_k - \alpha Jx_{k-1}$ | |
    | `"consensus"` | $x + \alpha (Jx + \gamma J^2x)$ | `gamma` |
    | `"momentum"` | $x_k + \alpha Jx_k + \beta(x_k - x_{k-1})$ | `beta`, `alternating` |

    The matrices of the methods with memory, optimistic and momentum, act on $(x_k, x_{k-1})$.

    Claim: bilinear-A
        Let $d$ maximise and $g$ minimise $V(d, g) = dg$ by gradient steps of the same size
        $\alpha > 0$, both at the same time. Then
        $$\begin{pmatrix} d_{k+1} \\ g_{k+1} \end{pmatrix} =
        A \begin{pmatrix} d_k \\ g_k \end{pmatrix}, \qquad
        A = \begin{pmatrix} 1 & \alpha \\ -\alpha & 1 \end{pmatrix}.$$

    Arguments:
        method: One of the names above.
        step: The step $\alpha$, positive.
        **options: `gamma`, the weight $\gamma$ of consensus. `beta`, the momentum $\beta$,
            and `alternating=True` if $g$ answers the new $d$. `eta`, the positive step $\eta$ with
            which extragradient looks ahead, $\alpha$ by default; `inner_steps`, how often it does,
            $\tilde x \leftarrow x + \eta J\tilde x$ from $\tilde x = x$, 1 by default. With any
            method `payoff`, a matrix $B$ for the game $d^\top Bg$ of two vectors.
    """
    B, numbers, inner_steps, alternating = _arguments(method, step, options)
    up = torch.nn.functional.pad(B, (B.shape[-2], 0, 0, B.shape[-1]))
    numbers = [v[..., None, None] for v in numbers]
    in_turn = alternating or method == "alternating"
    now, before = _update(method, up if in_turn else up - up.mT, numbers, inner_steps)
    if in_turn:
        answer, _ = _update("simultaneous", -up.mT, numbers, inner_steps)
        now, before = answer @ now, answer @ before
    if method not in _MEMORY:
        return now
    top = torch.cat([now, before.expand_as(now)], -1)
    return torch.cat([top, torch.eye(*top.shape[-2:]).to(top).expand_as(top)], -2)


def spectral_radius(method: str, step: Value, **options: Any) -> Float[Tensor, "..."]:
    r"""Returns $\rho(A)$, the largest modulus of an eigenvalue of the `update_matrix`.

    It comes from closed forms, only for momentum with `alternating=True` from a solver. Near the
    best momentum, where three eigenvalues meet, rounding errors of $10^{-16}$ leave their modulus
    certain to some $10^{-5}$. Where eigenvalues meet, autograd may return nan.

    Claim: bilinear-divergence
        The simultaneous update of $V(d, g) = dg$ with step $\alpha > 0$ has the eigenvalues
        $1 \pm i\alpha$, both of modulus $\sqrt{1 + \alpha^2} > 1$. Its matrix is
        $\sqrt{1 + \alpha^2}$ times a rotation by $\arctan\alpha$, clockwise in the plane of
        $(d, g)$. So $\lVert x_k \rVert = (1 + \alpha^2)^{k/2} \lVert x_0 \rVert$ exactly: from
        every $x_0 \ne 0$ and for every $\alpha$ the players spiral outwards, and $d_k$ and $g_k$
        change sign for ever and are unbounded. For $\alpha = 0.1$ the distance grows
        144.7727724326 times in 1000 steps.

    Arguments:
        method: As in `update_matrix`.
        step: The step $\alpha$, positive.
        **options: As in `update_matrix`.
    """
    B, numbers, inner_steps, alternating = _arguments(method, step, options)
    if alternating:
        values: Tensor = torch.linalg.eigvals(update_matrix(method, step, **options).double())
        return values.abs().amax(-1).to(B.dtype)
    still = int(B.shape[-2] != B.shape[-1])
    s = torch.nn.functional.pad(torch.linalg.svdvals(B), (0, still))[..., None, None]
    numbers = [v[..., None, None, None] for v in numbers]
    now, before = _update(method, 1j * s, numbers, inner_steps)
    if method == "alternating":
        now, before = 2 - (numbers[0] * s) ** 2, before - 1
    root = (now**2 + 4 * before).sqrt()
    return torch.maximum((now + root).abs(), (now - root).abs()).amax((-3, -2, -1)) / 2


def trajectory(
    method: str,
    start: Float[Tensor, "*batch n"],
    steps: Float[Tensor, " k"] | Sequence[float],
    **options: Any,
) -> Float[Tensor, "*batch times n"]:
    r"""Returns the players $x_0, x_1, \dots, x_k$, where update $j$ has the step $\alpha_j$.

    Methods with memory begin at rest, $x_{-1} = x_0$.

    Claim: x-bilinear-schedule
        For simultaneous steps of any sizes $\alpha_1, \alpha_2, \dots > 0$ from $x_0 \ne 0$,
        $\lVert x_k \rVert^2 = \lVert x_0 \rVert^2 \prod_{j \le k} (1 + \alpha_j^2)$. The distance
        from the equilibrium grows at every step, and stays bounded if and only if
        $\sum \alpha_j^2 < \infty$. If also $\sum \alpha_j = \infty$, the players circle for ever.
        With $\alpha_j = 1/j$ the squared distance grows by $\sinh(\pi)/\pi$, 3.67607791 times.

    Arguments:
        method: As in `update_matrix`.
        start: The players $x_0 = (d, g)$.
        steps: The steps $\alpha_1, \dots, \alpha_k$, positive.
        **options: As in `update_matrix`, each for all updates or, in a batch, one for each.
    """
    sizes = _like(start, steps)
    matrices = update_matrix(method, sizes, **options).to(start)
    if sizes.ndim != 1 or matrices.shape[:-2] != sizes.shape:
        raise ValueError(f"steps must be one sequence, got shape {tuple(matrices.shape[:-2])}")
    n, copies = start.shape[-1], 1 + (method in _MEMORY)
    if matrices.shape[-1] != copies * n:
        raise ValueError(f"start must hold {matrices.shape[-1] // copies} numbers, got {n}")
    points = [torch.cat([start] * copies, -1)]
    for matrix in matrices:
        points.append(points[-1] @ matrix.mT)
    return torch.stack(points, -2)[..., :n]


def _like(state: Tensor, value: Any) -> Tensor:
    """Numbers in the dtype of the players."""
    if not state.is_floating_point():
        raise ValueError(f"players must have a floating dtype, got {state.dtype}")
    return torch.as_tensor(value, dtype=state.dtype, device=state.device)


def _arguments(method: str, step: Value, options: dict[str, Any]) -> tuple[Tensor, list[Tensor], int, bool]:
    """The arguments, checked; numbers are alpha, beta, gamma and eta, all of one dtype."""
    if method not in _OPTIONS:
        raise ValueError(f"method must be one of {', '.join(sorted(_OPTIONS))}, got {method!r}")
    options = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(options) - _OPTIONS[method]):
        raise ValueError(f"options of {method} are {sorted(_OPTIONS[method])}, got {unknown}")
    for name in sorted({"beta", "gamma"} & _OPTIONS[method] - set(options)):
        raise ValueError(f"{name} must be given for {method}")
    values = {"payoff": [[1.0]], "step": step, "beta": 0.0, "gamma": 0.0, "eta": step} | options
    inner_steps, alternating = values.pop("inner_steps", 1), values.pop("alternating", False)
    if inner_steps < 1 or inner_steps % 1:
        raise ValueError(f"inner_steps must be a whole number, at least 1, got {inner_steps}")
    given = [v for v in values.values() if isinstance(v, Tensor)]
    dtype = torch.result_type(1.0 * sum(v.sum() for v in given), 1.0) if given else torch.float64
    device = given[0].device if given else None
    numbers = [torch.as_tensor(v, dtype=dtype, device=device) for v in values.values()]
    for name, value in zip(values, numbers, strict=True):
        positive = name in ("step", "eta")
        if not (value.isfinite() & (value > 0 if positive else True)).all():
            raise ValueError(f"{name} must be {'above 0 and ' * positive}finite, got {value.tolist()}")
    if numbers[0].ndim < 2:
        raise ValueError(f"payoff must be a matrix, got shape {tuple(numbers[0].shape)}")
    return numbers[0], numbers[1:], inner_steps, alternating


def _update(method: str, J: Tensor, numbers: list[Tensor], inner_steps: int) -> tuple[Tensor, Tensor]:
    """The factors of the players and of those before; J is their turn, gamma 0 but for consensus."""
    alpha, beta, gamma, eta = numbers
    one = torch.eye(J.shape[-1]).to(J)
    match method:
        case "extragradient":
            ahead = one
            for _ in range(inner_steps):
                ahead = one + eta * J @ ahead
            return one + alpha * J @ ahead, 0 * one
        case "proximal":
            return torch.linalg.inv(one - alpha * J), 0 * one
        case "optimistic":
            return one + 2 * alpha * J, -alpha * J
        case "momentum":
            return (1 + beta) * one + alpha * J, -beta * one
    return one + alpha * (J + gamma * J @ J), 0 * one
