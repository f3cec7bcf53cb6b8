r"""The beta-VAE: its optimal encoder for every weight of the divergence, and what its loss bounds.

At one datum $x$ the loss of an encoder $q$ is
$-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$, where $p(z)$ is the prior. Functions of
a finite $z$ have its values in the last dimension. They take probabilities, some of which may be
zero; the likelihood $p(x \mid z)$ may also hold densities of a continuous $x$.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kl_parts", "loss", "optimal_loss", "optimal_posterior"]


def loss(
    prior: Float[Tensor, "*#batch z"],
    likelihood: Float[Tensor, "*#batch z"],
    q: Float[Tensor, "*#batch z"],
    beta: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$ for a finite $\beta$.

    Claim: x-betavae-bound
        Let $p(x \mid z)$ be bounded in $z$ and $p(x) > 0$. If $\beta \ge 1$, minus the loss,
        $E_q \log p(x \mid z) - \beta\, \mathrm{KL}(q \Vert p(z))$, is at most $\log p(x)$ for every
        $q$. If $0 \le \beta < 1$ and the posterior is not the prior, it
        is no bound: at the posterior minus the loss exceeds $\log p(x)$ by
        $(1 - \beta)\, \mathrm{KL}(p(z \mid x) \Vert p(z)) > 0$. With the prior $(0.3, 0.7)$, the
        likelihood $(0.8, 0.1)$ and $\beta = 0.5$ the largest value of minus the loss is $-0.807$,
        while $\log p(x) = -1.171$.
    """
    _check_law("prior", prior, likelihood.shape[-1])
    _check_law("q", q, likelihood.shape[-1])
    _check("likelihood", likelihood)
    weight = _weight(beta, likelihood)
    prior = prior.where(weight[..., None] > 0, 1)
    rate = (torch.xlogy(q, q) - torch.xlogy(q, prior)).sum(-1)
    return weight * rate - torch.xlogy(q, likelihood).sum(-1)


def optimal_posterior(
    prior: Float[Tensor, "*#batch z"],
    likelihood: Float[Tensor, "*#batch z"],
    beta: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch z"]:
    r"""Returns $q_\beta^\star(z) \propto p(z)\, p(x \mid z)^{1 / \beta}$, the $q$ of least loss.

    Claim: x-betavae-optimal-q
        Let $\beta > 0$, let $p(x \mid z)$ be bounded in $z$ and
        $Z_\beta = \int p(z)\, p(x \mid z)^{1 / \beta}\, dz > 0$, a sum if $z$ is discrete. With
        $q_\beta^\star(z) = p(z)\, p(x \mid z)^{1 / \beta} / Z_\beta$, every $q$ has
        $$\begin{aligned}
        -E_q &\log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z)) \\
        &= -\beta \log Z_\beta + \beta\, \mathrm{KL}(q \Vert q_\beta^\star),
        \end{aligned}$$
        so $q_\beta^\star$ alone has the least loss, $-\beta \log Z_\beta$. In $\beta$ this is
        concave, and it increases strictly unless $p(x \mid z)$ is constant for almost all $z$ of
        the prior. At $\beta = 1$ it is $-\log p(x)$ and $q_1^\star = p(z \mid x)$. As
        $\beta \to 0$ it tends to $-\log \sup_z p(x \mid z)$, the essential supremum under the
        prior, and as $\beta \to \infty$ to $-E_{p(z)} \log p(x \mid z)$.

    Claim: betavae-beta0
        Let $p(x \mid z)$ have a positive and finite supremum over $z$. At $\beta = 0$ the loss
        $-E_q \log p(x \mid z)$ is at least $-\log \sup_z p(x \mid z)$, with equality for every $q$
        whose whole mass lies where the supremum is attained, and for no other. If one $z$ alone
        attains it, the optimal encoder is deterministic; neither the prior nor the posterior
        matters. If $z$ has finitely many values, the optimum
        $q_\beta^\star \propto p(z)\, p(x \mid z)^{1 / \beta}$ of $\beta > 0$ tends as
        $\beta \to 0$ to the $q$ that has its mass where $p(x \mid z)$ is largest among the $z$ of
        positive prior probability, shared in proportion to the prior. On $\mathbb{R}^d$ no normal
        $q$ attains the infimum, unless $p(x \mid z)$ is constant almost everywhere. If the variance
        of a normal decoder is learnt too, and the decoder can reproduce $x$, the loss has no lower
        bound.

    Claim: betavae-kl-only
        The divergence $\mathrm{KL}(q(z \mid x) \Vert p(z))$ alone is least, namely 0, if and only
        if $q(z \mid x)$ is the prior. If it is at every $x$, the code says nothing about the datum,
        $I(X; Z) = 0$, and no term asks anything of the decoder. If $z$ has finitely many values,
        $q_\beta^\star \propto p(z)\, p(x \mid z)^{1 / \beta}$ tends as $\beta \to \infty$ to the
        prior restricted to the $z$ with $p(x \mid z) > 0$, which is the prior if these have all its
        mass.

    Arguments:
        prior: The probabilities $p(z)$.
        likelihood: The numbers $p(x \mid z)$ for one $x$, positive for some $z$ of the prior.
        beta: The weight $\beta \ge 0$. At 0 the result is the limit, in which the most likely $z$
            share the mass in proportion to the prior; at infinity it is the prior.
    """
    log_prior, tilt, _, _ = _tilted(prior, likelihood, beta)
    return (log_prior + tilt).softmax(-1)


def optimal_loss(
    prior: Float[Tensor, "*#batch z"],
    likelihood: Float[Tensor, "*#batch z"],
    beta: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $-\beta \log \sum_z p(z)\, p(x \mid z)^{1 / \beta}$, the least loss.

    Arguments as in `optimal_posterior`. At 0 and at infinity it is the limit over the $z$ of the
    prior, $-\max_z \log p(x \mid z)$ and $-E_{p(z)} \log p(x \mid z)$.
    """
    log_prior, tilt, top, weight = _tilted(prior, likelihood, beta)
    excess = (prior * tilt.expm1()).sum(-1)
    small, large = excess.clamp(min=-0.5).log1p(), (log_prior + tilt).logsumexp(-1)
    finite = weight.isfinite()
    mean = torch.xlogy(prior, likelihood.where(~finite[..., None], 1)).sum(-1)
    value = top + weight.where(finite, 0) * small.where(excess > -0.5, large)
    return -value.where(finite, mean)


def kl_parts(
    data: Float[Tensor, "*#batch x"],
    encoder: Float[Tensor, "*#batch x z"],
    prior: Float[Tensor, "*#batch z"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Returns $I_q(X; Z)$ and $\mathrm{KL}(q(z) \Vert p(z))$, the parts of the mean divergence.

    Claim: x-betavae-kl-decomposition
        Let $x$ have the law $p(x)$ and, given $x$, let $z$ have the law $q(z \mid x)$, both with
        finitely many values. With $q(z) = \sum_x p(x)\, q(z \mid x)$ and any law $p(z)$
        $$\begin{aligned}
        &E_{p(x)} \mathrm{KL}(q(z \mid x) \Vert p(z)) \\
        &\quad = I_q(X; Z) + \mathrm{KL}(q(z) \Vert p(z)),
        \end{aligned}$$
        with infinity on both sides if $p(z)$ is zero where $q(z)$ is not. So the mean divergence is
        at least $I_q(X; Z)$, with equality if and only if $p(z) = q(z)$.

    Arguments:
        data: The probabilities $p(x)$.
        encoder: The probabilities $q(z \mid x)$, a row for each $x$.
        prior: The probabilities $p(z)$.
    """
    _check_law("data", data, encoder.shape[-2], "x")
    _check_law("prior", prior, encoder.shape[-1])
    _check_law("encoder", encoder)
    joint = data[..., None] * encoder
    q = joint.sum(-2)
    information = (torch.xlogy(joint, encoder) - torch.xlogy(joint, q[..., None, :])).sum((-2, -1))
    return information, (torch.xlogy(q, q) - torch.xlogy(q, prior)).sum(-1)


def _tilted(
    prior: Tensor,
    likelihood: Tensor,
    beta: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Returns $\log p(z)$, $\log(\ell / \max \ell) / \beta$, $\log \max \ell$, $\beta$."""
    _check_law("prior", prior, likelihood.shape[-1])
    _check("likelihood", likelihood)
    weight = _weight(beta, prior + likelihood, finite=False)
    possible = (prior > 0) & (likelihood > 0)
    if not possible.any(-1).all():
        raise ValueError("likelihood must be positive for some z of the prior, got 0 for all")
    log_likelihood = likelihood.where(possible, 1).log()
    top = log_likelihood.where(possible, -math.inf).amax(-1)
    gap, b = log_likelihood - top[..., None], weight[..., None]
    limit = torch.zeros_like(gap).where(gap == 0, -math.inf)
    tilt = (gap / b.where(b > 0, 1)).where(b > 0, limit).where(possible | b.isinf(), -math.inf)
    return prior.where(prior > 0, 1).log().where(prior > 0, -math.inf), tilt, top, weight


def _weight(beta: float | Tensor, like: Tensor, finite: bool = True) -> Tensor:
    number = torch.as_tensor(beta, dtype=like.dtype, device=like.device)
    if not ((number >= 0) & ((number < math.inf) | (not finite))).all():
        raise ValueError(f"beta must be at least 0{' and finite' if finite else ''}, got {beta}")
    return number


def _check(name: str, p: Tensor) -> None:
    if not ((p >= 0) & p.isfinite()).all():
        raise ValueError(f"{name} must be finite and not negative, got {p.min():g} to {p.max():g}")


def _check_law(name: str, p: Tensor, values: int | None = None, of: str = "z") -> None:
    _check(name, p)
    error = (p.sum(-1) - 1).abs().max()
    if not error <= torch.finfo(p.dtype).eps ** 0.5:
        raise ValueError(f"{name} must sum to 1, got a sum that is off by {error:g}")
    if values not in (None, p.shape[-1]):
        raise ValueError(f"{name} must have {values} values of {of}, got {p.shape[-1]}")
