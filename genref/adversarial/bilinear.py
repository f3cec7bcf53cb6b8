r"""The bilinear game $V(d, g) = dg$ and the updates that are used to solve it, as matrices.

Player $d$ ascends, player $g$ descends. Near its equilibrium a smooth game with no curvature of its
own in either player is this one, or its form $d^\top Bg$ with vectors and a matrix.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["flow", "invariant", "spectral_radius", "trajectory", "update_matrix", "velocity"]

Value = float | Float[Tensor, "*#batch"]
r"""A number or a tensor of them; where there are only numbers, they count as float64."""

_Arguments = tuple[Tensor, list[Tensor], int, bool]
_METHODS = "simultaneous", "alternating", "proximal", "optimistic"
_OPTIONS = {name: {"payoff"} for name in _METHODS} | {
    "extragradient": {"payoff", "inner_steps", "eta"},
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
        by $(1 + \alpha^2)^{N/2}$ instead of 1, and
        $\tfrac12 \alpha T - \tfrac14 \alpha^3 T \le \tfrac{N}{2} \log(1 + \alpha^2)
        \le \tfrac12 \alpha T$. The factor tends to 1 as $\alpha \to 0$ at fixed $T$, and to
        infinity as $T \to \infty$ at fixed $\alpha$.

    Arguments:
        state: The players $(d, g)$ at the time 0.
        time: The time $t$, of either sign.
    """
    t = torch.as_tensor(time, dtype=state.dtype, device=state.device)[..., None]
    return t.cos() * state + t.sin() * velocity(state)


def invariant(state: Float[Tensor, "*batch 2"], step: Value) -> Float[Tensor, "*batch"]:
    r"""Returns $d^2 + g^2 + \alpha dg$, which alternating steps do not change.

    Claim: x-bilinear-alternating
        Let $d$ move first and $g$ answer the new $d$, with step $\alpha > 0$. The matrix of the
        update is $\begin{pmatrix} 1 & \alpha \\ -\alpha & 1 - \alpha^2 \end{pmatrix}$, of
        determinant 1 and trace $2 - \alpha^2$, and $d^2 + g^2 + \alpha dg$ never changes.
        For $\alpha < 2$ the orbit of $x_0 \ne 0$ stays on an ellipse around the origin, bounded,
        without a limit; the mean of its first $k$ points tends to 0 as $1/k$. For $\alpha = 2$
        the eigenvalue $-1$ is double and defective, and orbits grow linearly, except those with
        $d = -g$. For $\alpha > 2$ the spectral radius is
        $\tfrac14 (\alpha + \sqrt{\alpha^2 - 4})^2 > 1$, 1.221301 at $\alpha = 2.01$.

    Arguments:
        state: The players $(d, g)$ after a whole round, when both have moved.
        step: The step $\alpha$, positive.
    """
    d, g = state.unbind(-1)
    alpha = torch.as_tensor(step, dtype=state.dtype, device=state.device)
    if not (alpha > 0).all():
        raise ValueError(f"step must be above 0, got {step}")
    return d**2 + g**2 + alpha * d * g


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
        **options: `gamma`, the weight $\gamma \ge 0$ of consensus. `beta`, the momentum $\beta$,
            and `alternating=True` if $g$ answers the new $d$. `eta`, the positive step $\eta$ with
            which extragradient looks ahead, $\alpha$ by default; `inner_steps`, how often it does,
            $\tilde x \leftarrow x + \eta J\tilde x$ from $\tilde x = x$, 1 by default. With any
            method `payoff`, a square matrix $B$ for the game $d^\top Bg$ of two vectors.
    """
    B, numbers, inner_steps, alternating = _arguments(method, step, options)
    n = B.shape[-1]
    up = torch.nn.functional.pad(B, (n, 0, 0, n))
    down = -up.mT
    J, I = up + down, torch.eye(2 * n).to(up)  # noqa: E741  (the letter of the formula)
    alpha, beta, gamma, eta = (v[..., None, None] for v in numbers)
    match method:
        case "simultaneous":
            return I + alpha * J
        case "alternating":
            return (I + alpha * down) @ (I + alpha * up)
        case "extragradient":
            ahead = I
            for _ in range(inner_steps):
                ahead = I + eta * J @ ahead
            return I + alpha * J @ ahead
        case "proximal":
            inverse: Tensor = torch.linalg.solve(I - alpha * J, I)
            return inverse
        case "consensus":
            return I + alpha * (J + gamma * J @ J)
        case "optimistic":
            return _with_memory(I + 2 * alpha * J, -alpha * J)
    if not alternating:
        return _with_memory((1 + beta) * I + alpha * J, -beta * I)
    answer = I + alpha * down
    return _with_memory(answer @ ((1 + beta) * I + alpha * up), -beta * answer)


def spectral_radius(method: str, step: Value, **options: Any) -> Float[Tensor, "..."]:
    r"""Returns $\rho(A)$, the largest modulus of an eigenvalue of the `update_matrix`.

    It comes from the closed forms of the eigenvalues; only momentum with `alternating=True` needs
    the roots of a polynomial. Near its best step and momentum three of these coincide, and with
    rounding errors of $10^{-16}$ their modulus is certain to some $10^{-5}$, by any road.

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
    sigma = torch.linalg.svdvals(B) if "payoff" in options else B[..., 0]
    alpha, beta, gamma, eta = (v[..., None] for v in numbers)
    alpha, gamma, eta = sigma * alpha, sigma * gamma, sigma * eta
    if alternating:
        return _quartic_root(alpha, beta).square().amax(-1).to(alpha.dtype)
    i, none = 1j * torch.ones_like(alpha), torch.zeros_like(alpha)
    ahead = sum((i * eta) ** n for n in range(inner_steps + 1))
    b, c = {
        "simultaneous": (1 + i * alpha, none),
        "alternating": (2 - alpha**2 + none * i, none + 1),
        "extragradient": (1 + i * alpha * ahead, none),
        "proximal": (1 / (1 - i * alpha), none),
        "consensus": (1 - alpha * gamma + i * alpha, none),
        "optimistic": (1 + 2 * i * alpha, i * alpha),
        "momentum": (1 + beta + i * alpha, beta),
    }[method]
    root = (b * b - 4 * c).sqrt()
    return torch.maximum((b + root).abs(), (b - root).abs()).amax(-1) / 2


def trajectory(
    method: str,
    start: Float[Tensor, "*batch n"],
    steps: Float[Tensor, " k"] | Sequence[float],
    **options: Any,
) -> Float[Tensor, "*batch times n"]:
    r"""Returns the players $x_0, x_1, \dots, x_k$, where update $j$ has the step $\alpha_j$.

    Methods with memory begin at rest, $x_{-1} = x_0$.

    Claim: x-bilinear-schedule
        For simultaneous steps of any sizes $\alpha_1, \dots, \alpha_k$,
        $\lVert x_k \rVert^2 = \lVert x_0 \rVert^2 \prod_{j \le k} (1 + \alpha_j^2)$. The distance
        from the equilibrium never decreases, whatever the schedule. It stays bounded if and only
        if $\sum \alpha_j^2 < \infty$, and if also $\sum \alpha_j = \infty$, the players circle for
        ever. With $\alpha_j = 1/j$ the squared distance grows by $\sinh(\pi)/\pi$, 3.67607791
        times.

    Arguments:
        method: As in `update_matrix`.
        start: The players $x_0 = (d, g)$.
        steps: The steps $\alpha_1, \dots, \alpha_k$, positive.
        **options: As in `update_matrix`, each the same in all updates.
    """
    sizes = torch.as_tensor(steps, dtype=start.dtype, device=start.device)
    if sizes.ndim != 1:
        raise ValueError(f"steps must have one dimension, got shape {tuple(sizes.shape)}")
    matrices = update_matrix(method, sizes, **options).to(start)
    n, copies = start.shape[-1], 2 if method in ("optimistic", "momentum") else 1
    if matrices.shape[-1] != copies * n:
        raise ValueError(f"start must hold {matrices.shape[-1] // copies} numbers, got {n}")
    points = [torch.cat([start] * copies, -1)]
    for matrix in matrices:
        points.append(points[-1] @ matrix.mT)
    return torch.stack(points, -2)[..., :n]


def _arguments(method: str, step: Value, options: dict[str, Any]) -> _Arguments:
    """The arguments, checked; numbers are alpha, beta, gamma and eta, all of one dtype."""
    if method not in _OPTIONS:
        raise ValueError(f"method must be one of {', '.join(sorted(_OPTIONS))}, got {method!r}")
    if unknown := sorted(set(options) - _OPTIONS[method]):
        raise ValueError(f"options of {method} are {sorted(_OPTIONS[method])}, got {unknown}")
    for name in sorted({"beta", "gamma"} & _OPTIONS[method] - set(options)):
        raise ValueError(f"{name} must be given for {method}")
    inner_steps = options.get("inner_steps", 1)
    if inner_steps < 1 or inner_steps % 1:
        raise ValueError(f"inner_steps must be a whole number, at least 1, got {inner_steps}")
    values = {"payoff": [[1.0]], "step": step, "beta": 0.0, "gamma": 0.0, "eta": step}
    values |= {name: v for name, v in options.items() if name in values and v is not None}
    given = [v for v in values.values() if isinstance(v, Tensor)]
    dtype = torch.result_type(1.0 * sum(v.sum() for v in given), 1.0) if given else torch.float64
    device = given[0].device if given else None
    numbers = [torch.as_tensor(v, dtype=dtype, device=device) for v in values.values()]
    domains = "a number", "above 0", "a number", "at least 0", "above 0"
    for name, value, domain in zip(values, numbers, domains, strict=True):
        low = {"above 0": value > 0, "at least 0": value >= 0}.get(domain, True)
        if not (value.isfinite() & low).all():
            raise ValueError(f"{name} must be {domain} and finite, got {value.tolist()}")
    if numbers[0].ndim < 2 or numbers[0].shape[-1] != numbers[0].shape[-2]:
        raise ValueError(f"payoff must be square, got shape {tuple(numbers[0].shape)}")
    return numbers[0], numbers[1:], inner_steps, options.get("alternating", False)


def _with_memory(now: Tensor, before: Tensor) -> Tensor:
    """The matrix that takes (x, y) to (now x + before y, x)."""
    one = torch.eye(now.shape[-1]).to(now).expand_as(now)
    top = torch.cat([now, before.expand_as(now)], -1)
    return torch.cat([top, torch.cat([one, 0 * one], -1)], -2)


def _quartic_root(alpha: Tensor, beta: Tensor) -> Tensor:
    """The largest modulus of the zeros of u^4 - alpha u^3 + (1 + beta) u^2 + beta."""
    alpha, beta = alpha.double() + 0 * beta, beta.double() + 0 * alpha
    first = torch.stack([alpha, -1 - beta, 0 * beta, -beta], -1)[..., None, :]
    rest = torch.eye(3, 4).to(first).expand(*beta.shape, 3, 4)
    roots: Tensor = torch.linalg.eigvals(torch.cat([first, rest], -2))
    return roots.abs().amax(-1)
