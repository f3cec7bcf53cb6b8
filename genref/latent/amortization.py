r"""Amortised inference and one law for each datum: what each of them loses and what it costs.

A law $q$ of the latent, from a family $\mathcal{Q}$, is chosen for each datum $x_i$ by its bound
$L(q; x_i) = E_q[\log p_\theta(x_i, z) - \log q(z)]$. Alone, $x_i$ has parameters $\pi_i$ of its
own. An encoder has one vector $\phi$ for all data, and maps $x_i$ to the parameters of
$q_\phi(z \mid x_i)$.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Cost",
    "Gaps",
    "amortised_cost",
    "crossover",
    "encoder_size",
    "gaps",
    "maximiser",
    "separate_cost",
]


def maximiser(
    bound: Callable[[Tensor], Tensor], start: Float[Tensor, "*shape"], steps: int = 1000
) -> Float[Tensor, "*shape"]:
    r"""Returns $\arg\max \sum_i L_i$, found by L-BFGS from `start`.

    With `bound(pi)` and a row of `pi` for each datum these are the best laws of all data, each for
    itself. With `bound(encoder(phi))` it is the best encoder. The result is constant for autograd.

    Claim: vae-amortized-kl
        Fix $p_\theta$ and data $x_1, \dots, x_n$ with $0 < p_\theta(x_i) < \infty$ and the
        posteriors $p_i = p_\theta(\cdot \mid x_i)$. Let the laws
        $q_{\phi,i} = q_\phi(\cdot \mid x_i)$ of an encoder be in $\mathcal{Q}$ for all $\phi$. Let
        $q_i^\star$ maximise $L(q; x_i)$ over $\mathcal{Q}$, and $\phi^\star$ the sum
        $\sum_i L(q_{\phi,i}; x_i)$ over $\phi$, both with finite maxima. Then for every $i$
        $$\mathrm{KL}(q_{\phi^\star,i} \Vert p_i) \ge \mathrm{KL}(q_i^\star \Vert p_i),$$
        and so it is for every other $\phi$. Equality holds for all $i$ if and only if one $\phi$
        makes $q_{\phi,i}$ a maximiser of $L(q; x_i)$ for every $i$ at once.

        That both are optimal does not make them equal. With $p(z{=}1) = 0.4$,
        $p(x \mid z{=}0) = (0.6, 0.3, 0.1)$, $p(x \mid z{=}1) = (0.1, 0.2, 0.7)$, one datum at each
        of $x = 0, 1, 2$, and all laws of $z$ in $\mathcal{Q}$, the encoder
        $\operatorname{logit} q(z{=}1 \mid x) = ax + b$ leaves $0.00521586$, $0.00525247$ and
        $0.00186311$, in sum $0.01233144$, where the $q_i^\star$ leave 0. With a quadratic logit
        both leave 0.

    Arguments:
        bound: Maps parameters to the bounds of all data, differentiable by autograd.
        start: Where the search begins. Of several local maxima it finds one near by, and at a
            saddle it stays.
        steps: The most steps that it may take.
    """
    phi = start.detach().clone().requires_grad_()
    eps, far = torch.finfo(phi.dtype).eps, torch.finfo(phi.dtype).max ** 0.25
    search = torch.optim.LBFGS(
        [phi],
        max_iter=steps,
        tolerance_grad=eps,
        tolerance_change=eps,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        value, slope = _slope(bound, phi)
        phi.grad = -slope.nan_to_num(0.0, far, -far)
        return -value.nan_to_num(-far, far, -far)  # a step too far must not stop the line search

    search.step(loss)  # type: ignore[no-untyped-call]
    slope = _slope(bound, phi)[1].abs().max()
    if not slope <= eps ** (1 / 3):
        raise ValueError(f"bound must have a maximum in reach of start, got the slope {slope:g}")
    return phi.detach()


@torch.enable_grad()
def _slope(bound: Callable[[Tensor], Tensor], phi: Tensor) -> tuple[Tensor, Tensor]:
    value = bound(phi).sum()
    (slope,) = torch.autograd.grad(value, phi)
    return value.detach(), slope


class Gaps(NamedTuple):
    r"""Holds the two parts of $\log p_\theta(x_i) - L(q_{\phi,i}; x_i)$, datum by datum."""

    approximation: Float[Tensor, "*#batch"]
    r"""The loss of the family, $\log p_\theta(x_i) - L(q_i^\star; x_i) \ge 0$."""
    amortisation: Float[Tensor, "*#batch"]
    r"""The further loss of the encoder, $L(q_i^\star; x_i) - L(q_{\phi,i}; x_i) \ge 0$."""

    @property
    def bias(self) -> Float[Tensor, "*batch"]:
        r"""The bias of the encoder's bound as an estimate of $\log p_\theta(x_i)$, never positive.

        Claim: vae-bias
            Let $z_1, z_2, \dots$ be independent draws from $q$, let $L(q; x)$ be finite, and let
            $0 < p_\theta(x) < \infty$. For any number of draws the mean of
            $\log p_\theta(x, z_j) - \log q(z_j)$ has the expectation $L(q; x)$. As an estimate of
            $\log p_\theta(x)$ its bias is $-\mathrm{KL}(q \Vert p_\theta(\cdot \mid x)) \le 0$.

            Let $q_i^\star$ be the best law of the family $\mathcal{Q}$ for $x_i$, and $q_{\phi,i}$
            any law in it, such as that of the best encoder. With the posteriors $p_i$
            $$-\mathrm{KL}(q_{\phi,i} \Vert p_i) \le -\mathrm{KL}(q_i^\star \Vert p_i) \le 0$$
            for every $i$, and the middle is 0 if and only if the posterior is in $\mathcal{Q}$. So
            if it is not, both are negative: for $z \sim \mathcal{N}(0, 1)$,
            $x \mid z \sim \mathcal{N}(2z^2, 1)$ and $x = 4$ the best normal law has the bias
            $-0.711697$.
        """
        return -(self.approximation + self.amortisation)


def gaps(
    log_evidence: float | Float[Tensor, "*#batch"],
    best: float | Float[Tensor, "*#batch"],
    amortised: float | Float[Tensor, "*#batch"],
) -> Gaps:
    r"""Splits $\log p_\theta(x_i) - L(q_{\phi,i}; x_i)$ at $L(q_i^\star; x_i)$, datum by datum.

    Claim: x-vae-gap-decomposition
        Let the law $q_{\phi,i}$ of an encoder be in $\mathcal{Q}$, let $q_i^\star$ maximise
        $L(q; x_i)$ over $\mathcal{Q}$, and let $\log p_\theta(x_i)$ and both bounds be finite. With
        the posterior $p_i = p_\theta(\cdot \mid x_i)$ the inference gap is a sum of two,
        $$\begin{aligned}
        \log p_\theta(x_i) - L(q_{\phi,i}; x_i) &= G_i + G_{\phi,i}, \\
        G_i &= \mathrm{KL}(q_i^\star \Vert p_i), \\
        G_{\phi,i} &= \mathrm{KL}(q_{\phi,i} \Vert p_i) - \mathrm{KL}(q_i^\star \Vert p_i).
        \end{aligned}$$
        Neither the approximation gap $G_i$ nor the amortisation gap $G_{\phi,i}$ is negative. $G_i$
        does not depend on the encoder, and is 0 if and only if the posterior is in $\mathcal{Q}$;
        then $G_{\phi,i} = \mathrm{KL}(q_{\phi,i} \Vert q_i^\star)$.

        In general it is not. Let the posterior be normal in two dimensions, its precision matrix
        with 1 on the diagonal and $\rho$ beside it, let $\mathcal{Q}$ hold the factorised normal
        laws, and let $q_{\phi,i}$ differ from $q_i^\star$ by $\delta$ in both means. It has
        $G_{\phi,i} = (1 + \rho) \delta^2$ and $\mathrm{KL}(q_{\phi,i} \Vert q_i^\star) = \delta^2$.

    Arguments:
        log_evidence: The numbers $\log p_\theta(x_i)$, exact to rounding.
        best: The bounds $L(q_i^\star; x_i)$ of the best laws, at most `log_evidence`.
        amortised: The bounds $L(q_{\phi,i}; x_i)$ of the encoder, at most `best`.
    """
    log_p, top, value = _tensors(log_evidence, best, amortised)
    eps = torch.finfo(log_p.dtype).eps
    slack = eps**0.5 + 64 * eps * log_p.abs()
    result = Gaps(log_p - top, top - value)
    names = {"best": "log_evidence", "amortised": "best"}
    for (name, cap), gap in zip(names.items(), result, strict=True):
        if not (gap.isfinite() & (gap >= -slack)).all():
            raise ValueError(f"{name} must be finite and at most {cap}, got a gap of {gap.min():g}")
    return result


class Cost(NamedTuple):
    """Counts the work of inference."""

    decoder_gradients: int
    """Gradients of one datum's bound, each a pass through the decoder and back."""
    encoder_gradients: int
    """Such passes through the encoder."""
    encoder_passes: int
    """Passes through the encoder without the way back."""


def amortised_cost(data: int, epochs: int, new: int = 0) -> Cost:
    r"""Returns $T_\phi n$, $T_\phi n$ and $n + n'$, the work of an encoder.

    Claim: vae-compute
        Fix $\theta$ and count the gradients of the bound of one datum. Let an encoder be trained on
        $n$ data for $T_\phi$ epochs, and then be asked for the laws of these and of $n'$ further
        data; let each of the $n + n'$ data alone take $T$ steps. Then the encoder takes
        $T_\phi n$ gradients through the decoder and as many through itself, then $n + n'$ passes
        forward, and the data alone take $T(n + n')$ gradients through the decoder.

        So an epoch and a step for each of the $n$ data cost the same, and grow with $n$ alike. A
        further datum costs the encoder one pass, whatever $n$ is, and costs $T$ gradients alone.
        The encoder takes fewer gradients through the decoder if and only if
        $n' > (T_\phi / T - 1)\,n$.

    Arguments:
        data: The number $n$ of data for training.
        epochs: The number $T_\phi$ of passes over them.
        new: The number $n'$ of further data.
    """
    _check_counts(data=data, epochs=epochs, new=new)
    return Cost(epochs * data, epochs * data, data + new)


def separate_cost(data: int, steps: int, new: int = 0) -> Cost:
    r"""Returns $T(n + n')$, 0 and 0, the work of one law for each datum.

    Arguments:
        data: The number $n$ of data.
        steps: The number $T$ of steps for each.
        new: The number $n'$ of further data.
    """
    _check_counts(data=data, steps=steps, new=new)
    return Cost(steps * (data + new), 0, 0)


def encoder_size(widths: Sequence[int]) -> int:
    r"""Returns $|\phi| = \sum_l (h_{l-1} + 1)\,h_l$ for fully connected layers with biases.

    Arguments:
        widths: The numbers $h_0, h_1, \dots$ of units from input to output, each at least 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two or more positive numbers, got {list(widths)}")
    return sum((before + 1) * after for before, after in pairwise(widths))


def crossover(encoder: int, per_datum: int) -> int:
    r"""Returns the least $n$ with $|\phi| < n \dim\pi$, from which on the encoder is smaller.

    Claim: vae-memory
        Let an encoder have $|\phi|$ numbers, whatever $n$ is, and each of $n$ data a law with
        $\dim\pi$ numbers of its own. The encoder is smaller than the $n \dim\pi$ numbers if and
        only if $n > |\phi| / \dim\pi$. A normal law of $d$ independent coordinates has
        $\dim\pi = 2d$. Fully connected layers of widths $h_0, h_1, \dots$ with biases have
        $|\phi| = \sum_l (h_{l-1} + 1)\,h_l$: for 784, 400 and 4 units, with $d = 2$, these are
        315 604 numbers. The encoder is larger for $n < 78901$, both are equal at $n = 78901$, and
        for $n = 100$ the laws have 400 numbers.

    Arguments:
        encoder: The number $|\phi|$, not negative.
        per_datum: The number $\dim\pi$, at least 1.
    """
    _check_counts(encoder=encoder)
    if per_datum < 1:
        raise ValueError(f"per_datum must be at least 1, got {per_datum}")
    return encoder // per_datum + 1


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} must not be negative, got {count}")


def _tensors(*values: float | Tensor) -> list[Tensor]:
    """Python numbers take the dtype and the device of the tensors beside them."""
    found = [v for v in values if isinstance(v, Tensor)] or [torch.zeros(())]
    dtype = reduce(torch.promote_types, [v.dtype for v in found])
    return [torch.as_tensor(v, dtype=dtype, device=found[0].device) for v in values]
