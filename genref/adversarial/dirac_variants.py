r"""The Dirac-GAN in steps, with other losses and with noise.

States are $(\psi_0, \psi_1, \theta)$, the slope and the offset of the critic and the generated
point; $C = \psi_0 \theta + \psi_1$ and $r^2 = \psi_0^2 + \theta^2$.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from genref.adversarial.dirac import _players, eigenvalues, jacobian, velocity
from genref.numerics.quadrature import hermite

__all__ = [
    "held",
    "noisy",
    "non_saturating",
    "period",
    "step_limit",
    "update",
    "update_matrix",
    "wasserstein",
]

Field = Callable[[Tensor], Tensor]
r"""A velocity: from states to states, batch dimensions first."""


def held(field: Field) -> Field:
    r"""Returns the field with $\psi_1' = 0$: the offset keeps the value with which it starts.

    Arguments:
        field: A velocity.
    """
    return lambda state: field(state) * torch.tensor([1, 0, 1]).to(state)


def period(state: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    r"""Returns $T = 2\pi \bigl( 1 + e^{-\psi_1} I_0(r^2/2) \bigr)$, the time of a turn.

    Claim: x-dirac-period
        Hold the offset at $\psi_1$ and let $(\psi_0, \theta)$ follow the velocity of the Dirac-GAN
        without penalty from a point with $r > 0$. It runs round the circle of radius $r$, once in
        the time $T = 2\pi \bigl( 1 + e^{-\psi_1} I_0(r^2/2) \bigr)$ with the modified Bessel
        function $I_0$. Without offset, $\psi_1 = 0$, this is $2\pi \bigl( 1 + I_0(r^2/2) \bigr)$,
        which tends to the period $4\pi$ of the linearised game as $r \to 0$ and grows without bound
        with $r$.

    Arguments:
        state: Any point of the circle, $r > 0$, with the offset that is held.
    """
    psi_0, psi_1, theta = _players(state)
    r_squared = psi_0**2 + theta**2
    if not (r_squared > 0).all():
        raise ValueError(f"state must have psi_0 or theta different from 0, got {state}")
    slow: Tensor = torch.exp(r_squared / 2 - psi_1) * torch.special.i0e(r_squared / 2)
    return 2 * math.pi * (1 + slow)


def update(
    field: Field,
    state: Float[Tensor, "*#batch 3"],
    step: float | Float[Tensor, "*#batch"],
    alternating: bool = False,
) -> Float[Tensor, "*batch 3"]:
    r"""Returns $x + \alpha v(x)$, or the same with $\theta$ moved last, by $v$ at the new $\psi$.

    Claim: x-dirac-discrete
        Let both players of the Dirac-GAN without penalty move at the same time with a step
        $\alpha > 0$. One step multiplies $r^2$ by exactly $1 + \alpha^2 \sigma(C)^2$, whatever the
        offset is and does. From every start with $r > 0$ and for every $\alpha > 0$, $r$ grows
        in each step and tends to infinity.

    Claim: x-dirac-alternating
        Let the critic of the Dirac-GAN without penalty move first and the generator answer the new
        critic, with a step $\alpha > 0$. At $(0, 0, 0)$ the Jacobian of this update has the
        eigenvalues $1 - \tfrac12 \alpha$ and the zeros of
        $\lambda^2 - (2 - \tfrac14 \alpha^2) \lambda + 1$. These zeros have modulus 1 for
        $\alpha \le 4$. At $\alpha = 4$ all three eigenvalues are $-1$, and the eigenvectors span a
        plane only. For $\alpha > 4$ one of the zeros is below $-1$, so that the stationary point is
        unstable.

    Arguments:
        field: The velocity $v$, from states to states.
        state: The parameters $(\psi_0, \psi_1, \theta)$ in the last dimension.
        step: The step $\alpha > 0$.
        alternating: Whether the generator answers the new critic, instead of the old one.
    """
    _players(state)
    alpha = _step(step, state)[..., None]
    moved = state + alpha * field(state)
    if not alternating:
        return moved
    answered = torch.cat([moved[..., :2], state.expand_as(moved)[..., 2:]], -1)
    return torch.cat([moved[..., :2], (answered + alpha * field(answered))[..., 2:]], -1)


def update_matrix(
    step: float | Float[Tensor, "*#batch"],
    gamma: float | Float[Tensor, "*#batch"] = 0.0,
    alternating: bool = False,
) -> Float[Tensor, "*batch 3 3"]:
    r"""Returns the Jacobian of `update` at the stationary point, with penalty.

    It is $I + \alpha \bar J^\star$, and for alternating steps
    $(I + \alpha P_\theta \bar J^\star)(I + \alpha P_\psi \bar J^\star)$. The projections
    $P_\psi$ and $P_\theta$ keep what belongs to the critic and to the generator.

    Arguments:
        step: The step $\alpha > 0$.
        gamma: The weight $\gamma \ge 0$ of the penalty $R_1$.
        alternating: Whether the generator answers the new critic, instead of the old one.
    """
    tensors = [value for value in (step, gamma) if isinstance(value, Tensor)]
    at = torch.zeros(3, dtype=torch.float64) if not tensors else torch.zeros(3).to(tensors[0])
    moves = _step(step, at)[..., None, None] * jacobian(at, gamma)
    still = torch.eye(3).to(at)
    if not alternating:
        return still + moves
    generator = torch.diag(torch.tensor([0, 0, 1])).to(at)
    return (still + generator @ moves) @ (still + (still - generator) @ moves)


def step_limit(
    gamma: float | Float[Tensor, "*batch"],
    alternating: bool = False,
) -> Float[Tensor, "*batch"]:
    r"""Returns the $\alpha$ below which steps with penalty converge near the stationary point.

    Claim: x-dirac-r1-step
        Let $\gamma > 0$. At $(0, 0, 0)$ the Jacobian of the simultaneous update with penalty
        $\tfrac{\gamma}{2} R_1$ has all eigenvalues inside the unit circle if and only if
        $\alpha < 4\gamma$ where $\gamma \le 1$, and
        $\alpha < 4 / \bigl( \gamma + \sqrt{\gamma^2 - 1} \bigr)$ where $\gamma \ge 1$. That of the
        alternating update has them there if and only if
        $\alpha < 4 / \bigl( \gamma + \sqrt{\gamma^2 + 1} \bigr)$: at $\gamma = 1$ the limits are 4
        and 1.656854. The alternating limit is the larger one for $\gamma < 1/\sqrt3$, and the
        smaller one for $\gamma > 1/\sqrt3$. Below its limit an update converges from every start
        near $(0, 0, 0)$; above it, this point is unstable. At $\gamma = 1$, $\alpha = 2$ the
        square of the simultaneous Jacobian is 0.

    Arguments:
        gamma: The weight $\gamma \ge 0$ of the penalty; a number counts as float64.
        alternating: Whether the generator answers the new critic, instead of the old one.
    """
    modes = eigenvalues(gamma)
    if not alternating:
        return (-2 * modes.real / modes.abs() / modes.abs()).amin(-1)
    weight = torch.as_tensor(gamma, dtype=modes.real.dtype, device=modes.device)
    return 4 / (weight + torch.hypot(weight, torch.ones_like(weight)))


def non_saturating(state: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    r"""Returns the velocity with $\theta' = \psi_0 \sigma(-C)$ in place of $\psi_0 \sigma(C)$.

    Claim: x-dirac-ns
        Let the generator of the Dirac-GAN ascend $\log\sigma(C)$ instead of descending
        $\log\sigma(-C)$, without penalty. Its velocity is $\theta' = \psi_0 \sigma(-C)$, the
        stationary point and its Jacobian $J^\star$ are the same, and $r$ is not conserved:
        $(r^2)' = -2 \psi_0 \theta \tanh(C/2)$. With the offset held at 0 every solution
        tends to 0, and $t \, r(t)^2 \to 8$ if $r > 0$. With the offset learned, every solution
        that starts near enough to 0 tends to 0, and $t \, r(t)^2 \to 80/9$ if $r > 0$.

    Arguments:
        state: The parameters $(\psi_0, \psi_1, \theta)$ in the last dimension.
    """
    psi_0, psi_1, theta = _players(state)
    answer = psi_0 * torch.sigmoid(-psi_0 * theta - psi_1)
    return torch.cat([velocity(state)[..., :2], answer[..., None]], -1)


def wasserstein(state: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    r"""Returns $(-\theta, 0, \psi_0)$, the velocity of the game $E_{p_D} C - E_{p_\theta} C$.

    Claim: x-dirac-wgan
        Let the critic of the Dirac-GAN ascend and the generator descend $C(0) - C(\theta)$, without
        any bound on the critic. The value is $-\psi_0 \theta$: the offset drops out, and
        $(\psi_0, -\theta)$ play the bilinear game. All points $(0, \psi_1, 0)$ are stationary,
        $(\psi_0, \theta)$ turns at unit speed, $r$ is constant, and every solution with $r > 0$ has
        the period $2\pi$. A simultaneous step $\alpha$ multiplies $r^2$ by $1 + \alpha^2$; an
        alternating one conserves $\psi_0^2 + \theta^2 - \alpha \psi_0 \theta$.

    Arguments:
        state: The parameters $(\psi_0, \psi_1, \theta)$ in the last dimension.
    """
    psi_0, psi_1, theta = _players(state)
    return torch.stack([-theta, torch.zeros_like(psi_1), psi_0], -1)


def noisy(
    state: Float[Tensor, "*#batch 3"],
    scale: float | Float[Tensor, "*#batch"],
    nodes: int = 60,
) -> Float[Tensor, "*batch 3"]:
    r"""Returns the mean velocity with noise $\mathcal{N}(0, s^2)$ on datum and generated point.

    Claim: x-dirac-instance-noise
        Add to the datum and to the generated point noise of one law, of mean 0 and variance
        $s^2 > 0$. At $(0, 0, 0)$ the mean velocity vanishes, and its Jacobian is that of the
        penalty $R_1$ with $\gamma = s^2/2$, whatever the law of the noise. The fields are
        different: for normal noise with $s = 0.8$ the velocity at $(0.7, -0.2, 1.1)$ is
        $(-0.8941, -0.0834, 0.4409)$, with the penalty it is $(-0.9266, -0.0889, 0.4471)$. For
        normal noise, with $g(u) = \sigma(u) \sigma(-u)$,
        $$(r^2)' = -2 s^2 \psi_0^2 \, E\bigl[ g(\psi_1 + \psi_0 \xi) +
        g(C + \psi_0 \xi) \bigr],$$ and every solution tends to 0, wherever it starts.

    Arguments:
        state: The parameters $(\psi_0, \psi_1, \theta)$ in the last dimension.
        scale: The standard deviation $s \ge 0$ of the noise.
        nodes: The points of Gauss-Hermite quadrature; 60 give nine digits up to $|\psi_0| s = 2$.
    """
    psi_0, psi_1, theta = (value[..., None] for value in _players(state))
    s = torch.as_tensor(scale, dtype=state.dtype, device=state.device)[..., None]
    if not (s >= 0).all():
        raise ValueError(f"scale must be at least 0, got {scale}")
    noise, w = hermite(nodes, state.dtype, state.device)
    real = torch.sigmoid(-psi_1 - psi_0 * s * noise)
    fake = torch.sigmoid(psi_0 * (theta + s * noise) + psi_1)
    pull = (s * noise * real - (theta + s * noise) * fake) @ w
    return torch.stack([pull, (real - fake) @ w, psi_0[..., 0] * (fake @ w)], -1)


def _step(step: float | Tensor, like: Tensor) -> Tensor:
    alpha = torch.as_tensor(step, dtype=like.dtype, device=like.device)
    if not (alpha > 0).all():
        raise ValueError(f"step must be above 0, got {step}")
    return alpha
