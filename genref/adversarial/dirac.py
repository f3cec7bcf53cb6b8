r"""The Dirac-GAN: one datum, one generated point, a critic that is a line.

The datum lies at 0, the generated point at $\theta$, and the critic is $C(x) = \psi_0 x + \psi_1$.
A state is $(\psi_0, \psi_1, \theta)$; below, $C$ is the value $\psi_0 \theta + \psi_1$ at $\theta$.
"""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["eigenvalues", "eigenvectors", "jacobian", "orbit", "rate", "velocity"]


def velocity(
    state: Float[Tensor, "*#batch 3"],
    gamma: float | Float[Tensor, "*#batch"] = 0.0,
) -> Float[Tensor, "*batch 3"]:
    r"""Returns the velocity of training with the penalty $\tfrac{\gamma}{2} R_1$.

    Its entries are $-\theta \sigma(C) - \gamma \psi_0$, $\sigma(-\psi_1) - \sigma(C)$ and
    $\psi_0 \sigma(C)$.

    Claim: dirac-gan-velocity
        Let the data be a point mass at 0, the model a point mass at $\theta$, and the critic
        $C(x) = \psi_0 x + \psi_1$. Let the critic follow the gradient of
        $L(\psi, \theta) = \log\sigma(\psi_1) + \log\sigma(-C)$, where $C = \psi_0 \theta + \psi_1$,
        and the generator the negative gradient. In the coordinates $(\psi_0, \psi_1, \theta)$ the
        velocity is $$v = \bigl( -\theta \sigma(C),\ \sigma(-\psi_1) - \sigma(C),
        \: \psi_0 \sigma(C) \bigr),$$ and $(0, 0, 0)$ is the only point at which it vanishes.

    Claim: dirac-gan-r1-velocity
        In the same game let the critic also descend $\tfrac{\gamma}{2} R_1$ with $\gamma > 0$,
        where $R_1$ is the mean of $\lvert C'(x) \rvert^2$ over the data. Here
        $R_1 = \psi_0^2$, wherever the data lie, the velocity is
        $$\bar v = \bigl( -\theta \sigma(C) - \gamma \psi_0,\ \sigma(-\psi_1) - \sigma(C),
        \: \psi_0 \sigma(C) \bigr),$$ and $(0, 0, 0)$ is still the only point at which it vanishes.

    Arguments:
        state: The parameters $(\psi_0, \psi_1, \theta)$ in the last dimension.
        gamma: The weight $\gamma \ge 0$ of the penalty.
    """
    psi_0, psi_1, theta = _players(state)
    real, fake = torch.sigmoid(-psi_1), torch.sigmoid(psi_0 * theta + psi_1)
    pull = -theta * fake - _weight(gamma, state) * psi_0
    return torch.stack([part.expand_as(pull) for part in (pull, real - fake, psi_0 * fake)], -1)


def jacobian(
    state: Float[Tensor, "*#batch 3"],
    gamma: float | Float[Tensor, "*#batch"] = 0.0,
) -> Float[Tensor, "*batch 3 3"]:
    r"""Returns $J_{ij} = \partial v_i / \partial x_j$, where $x = (\psi_0, \psi_1, \theta)$.

    Claim: dirac-gan-jacobian
        With $g(u) = \sigma(u) \sigma(-u)$ the velocity without penalty has, at every point, the
        Jacobian $$J = \begin{pmatrix} -\theta^2 g(C) & -\theta g(C) &
        -\sigma(C) - \theta \psi_0 g(C) \\ -\theta g(C) & -g(\psi_1) - g(C) & -\psi_0 g(C) \\
        \sigma(C) + \theta \psi_0 g(C) & \psi_0 g(C) & \psi_0^2 g(C) \end{pmatrix},$$
        so that $J_{13} = -0.816437$ at $(0.7, -0.2, 1.1)$. At the stationary point it is
        $$J^\star = \begin{pmatrix} 0 & 0 & -\tfrac12 \\ 0 & -\tfrac12 & 0 \\ \tfrac12 & 0 & 0
        \end{pmatrix}.$$

    Claim: dirac-gan-r1-jacobian
        The penalty $\tfrac{\gamma}{2} R_1$ subtracts $\gamma$ from the entry $J_{11}$, at every
        point, and changes no other entry. At the stationary point the Jacobian is
        $$\bar J^\star = \begin{pmatrix} -\gamma & 0 & -\tfrac12 \\ 0 & -\tfrac12 & 0 \\
        \tfrac12 & 0 & 0 \end{pmatrix}.$$

    Arguments:
        state: The parameters $(\psi_0, \psi_1, \theta)$ in the last dimension.
        gamma: The weight $\gamma \ge 0$ of the penalty.
    """
    psi_0, psi_1, theta = _players(state)
    one, zero = torch.ones_like(theta), torch.zeros_like(theta)
    fake, slope = torch.sigmoid(psi_0 * theta + psi_1), _slope(psi_0 * theta + psi_1)
    gamma = _weight(gamma, state) + zero
    moved = torch.stack([-theta, -one, psi_0], -1)
    by = torch.stack([theta, one, psi_0], -1)
    turned = torch.tensor([[0, 0, -1], [0, 0, 0], [1, 0, 0]]).to(state)
    own = torch.stack([part.expand_as(gamma) for part in (-gamma, -_slope(psi_1), zero)], -1)
    curved = slope[..., None, None] * moved[..., :, None] * by[..., None, :]
    return curved + fake[..., None, None] * turned + torch.diag_embed(own)


def eigenvalues(gamma: float | Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch 3"]:
    r"""Returns the eigenvalues $-\tfrac12$, $\lambda_+$ and $\lambda_-$ of $\bar J^\star$.

    Here $2\lambda_\pm = -\gamma \pm \sqrt{\gamma^2 - 1}$. No digits are lost for large $\gamma$:
    $\lambda_+$ is computed as $1 / (4\lambda_-)$.

    ```python
    from genref.adversarial.dirac import eigenvalues

    for gamma in (0.0, 0.6, 1.25):
        print(gamma, *(f"{value:.2f}" for value in eigenvalues(gamma).tolist()))
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    0.0 -0.50+0.00j 0.00+0.50j -0.00-0.50j
    0.6 -0.50+0.00j -0.30+0.40j -0.30-0.40j
    1.25 -0.50+0.00j -0.25+0.00j -1.00+0.00j
    ```

    Claim: dirac-gan-eigenvalues
        $J^\star$ has the eigenvalues $-\tfrac12$, $\tfrac{i}{2}$ and $-\tfrac{i}{2}$, with the
        eigenvectors $(0, 1, 0)$, $(i, 0, 1)$ and $(-i, 0, 1)$.

    Claim: dirac-gan-r1-eigenvalues
        $\bar J^\star$ has the eigenvalues $-\tfrac12$ and
        $\lambda_\pm = \tfrac12 (-\gamma \pm \sqrt{\gamma^2 - 1})$, with the eigenvectors
        $(0, 1, 0)$ and $(2\lambda_\pm, 0, 1)$. For every $\gamma > 0$ all three have a negative
        real part. The pair is complex, of modulus $\tfrac12$, for $\gamma < 1$ and real for
        $\gamma > 1$. At $\gamma = 1$ all three are $-\tfrac12$, the eigenvectors span a plane only,
        and $e^{t \bar J^\star} = e^{-t/2} \bigl( I + t (\bar J^\star + \tfrac12 I) \bigr)$.

    Arguments:
        gamma: The weight $\gamma \ge 0$ of the penalty; a number counts as float64.
    """
    gamma = _weight(gamma)
    far = gamma + (gamma - 1 + 0j).sqrt() * (gamma + 1).sqrt()
    return torch.stack([torch.full_like(far, -0.5), -0.5 / far, -0.5 * far], -1)


def eigenvectors(gamma: float | Float[Tensor, "*batch"]) -> Complex[Tensor, "*batch 3 3"]:
    r"""Returns the columns $(0, 1, 0)$, $(2\lambda_+, 0, 1)$, $(2\lambda_-, 0, 1)$.

    They belong to the `eigenvalues` in the same order. At $\gamma = 1$ the last two are one vector.

    Arguments:
        gamma: The weight $\gamma \ge 0$ of the penalty; a number counts as float64.
    """
    _, near, far = eigenvalues(gamma).unbind(-1)
    zero, one = torch.zeros_like(near), torch.ones_like(near)
    rows = [zero, 2 * near, 2 * far], [one, zero, zero], [zero, one, one]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rate(gamma: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Returns $\mu = \min_i |\operatorname{Re} \lambda_i|$, the rate of the slowest mode.

    Claim: dirac-gan-comparison
        Let $\mu(\gamma) = \tfrac12 \gamma$ for $0 \le \gamma \le 1$, and
        $1 / (2 \gamma + 2 \sqrt{\gamma^2 - 1})$ for $\gamma \ge 1$. Without penalty no solution
        with $r > 0$ converges. With $\gamma > 0$ all do, and for every $m < \mu(\gamma)$ there are
        $K$ and $\delta > 0$ such that
        $\lVert x(t) \rVert \le K e^{-mt} \lVert x(0) \rVert$ for all $t \ge 0$ and all solutions
        with $\lVert x(0) \rVert \le \delta$; for no $m > \mu(\gamma)$ are there such. This rate is
        largest at $\gamma = 1$, where it is $\tfrac12$, and
        $4 \gamma \mu(\gamma) \to 1$ as $\gamma \to \infty$.

        An eigenvalue with real part 0 excludes exponential convergence, whatever the terms of
        higher order, and promises no slower one. From $(0.4, 0, 0.2)$, where $r = 0.447214$, the
        time 80 leads to $r = 0.447214$ under $v$; to 0.266476 where $\theta' = \psi_0 \sigma(-C)$;
        to 0.746678 under $v + 0.02 \lVert x \rVert^2 x$; and all three fields have the same
        $J^\star$.

    Arguments:
        gamma: The weight $\gamma \ge 0$ of the penalty; a number counts as float64.
    """
    return eigenvalues(gamma).real.abs().amin(-1)


def orbit(
    field: Callable[[Tensor], Tensor],
    state: Float[Tensor, "*batch 3"],
    step: float,
    steps: int,
) -> Float[Tensor, "times *batch 3"]:
    r"""Returns $x(0), x(h), \dots, x(nh)$ for $x' = v(x)$, by the Runge-Kutta method of order 4.

    Claim: dirac-gan-stability
        Let $x' = v(x)$ without penalty and $r^2 = \psi_0^2 + \theta^2$. Along every solution $r$ is
        constant and $\lvert \psi_1(t) \rvert \le \max(\lvert \psi_1(0) \rvert, r^2/4)$. So the
        stationary point is stable, and it is not asymptotically stable. On the axis $r = 0$,
        $\sinh(\psi_1(t)/2) = e^{-t/2} \sinh(\psi_1(0)/2)$. Each cylinder $r > 0$ carries exactly
        one closed orbit, on which $\psi_1$ has the same value at opposite points, and every
        solution on the cylinder tends to it; none converges to a point.

        The eigenvalues of $J^\star$ do not decide this. The fields
        $v + \kappa \lVert x \rVert^2 x$ share them, and $(r^2)' = 2\kappa \lVert x \rVert^2 r^2$
        along their solutions: for $\kappa < 0$ the stationary point is asymptotically stable, for
        $\kappa > 0$ it is unstable.

    Claim: dirac-gan-r1-stability
        Let $x' = \bar v(x)$ with $\gamma > 0$. Along every solution $(r^2)' = -2\gamma \psi_0^2$
        and $\lvert \psi_1(t) \rvert \le \max(\lvert \psi_1(0) \rvert, r(0)^2/4)$. The stationary
        point is stable, and every solution tends to it, wherever it starts: it is globally
        asymptotically stable.

    Arguments:
        field: The velocity $v$, from states to states.
        state: The start $x(0)$.
        step: The time $h$ of one step; a negative one leads into the past.
        steps: Their number $n \ge 0$.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    _players(state)
    x = [state]
    for _ in range(steps):
        k_1 = field(x[-1])
        k_2 = field(x[-1] + step / 2 * k_1)
        k_3 = field(x[-1] + step / 2 * k_2)
        k_4 = field(x[-1] + step * k_3)
        x.append(x[-1] + step / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4))
    return torch.stack(x)


def _slope(u: Tensor) -> Tensor:
    r"""The derivative $\sigma(u) \sigma(-u)$ of the logistic function."""
    return torch.sigmoid(u) * torch.sigmoid(-u)


def _players(state: Tensor) -> tuple[Tensor, ...]:
    """The slope, the offset and the point."""
    if state.shape[-1:] != (3,):
        raise ValueError(f"state must end in a dimension of 3, got shape {tuple(state.shape)}")
    if not state.is_floating_point():
        raise ValueError(f"state must be floating, got {state.dtype}")
    return state.unbind(-1)


def _weight(gamma: float | Tensor, like: Tensor | None = None) -> Tensor:
    """The weight as a tensor, with the dtype and the device of the state where there is one."""
    if like is None:
        floating = isinstance(gamma, Tensor) and gamma.is_floating_point()
        gamma = torch.as_tensor(gamma, dtype=None if floating else torch.float64)
        like = gamma
    weight = torch.as_tensor(gamma, dtype=like.dtype, device=like.device)
    if not (weight >= 0).all():
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    return weight
