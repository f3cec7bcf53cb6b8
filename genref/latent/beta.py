r"""The beta-VAE: its optimal encoder for every weight of the divergence, and what collapses when.

At one datum $x$ the loss of an encoder $q$ is
$-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$, where $p(z)$ is the prior. Functions of
a finite $z$ have its values in the last dimension. They take probabilities, some of which may be
zero; the likelihood $p(x \mid z)$ may also hold densities of a continuous $x$.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "collapse_threshold",
    "kl_parts",
    "linear_posterior",
    "loss",
    "noise_variance",
    "optimal_loss",
    "optimal_posterior",
    "squared_weights",
]


def loss(
    prior: Float[Tensor, "*#batch z"],
    likelihood: Float[Tensor, "*#batch z"],
    q: Float[Tensor, "*#batch z"],
    beta: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$ for a finite $\beta$.

    Claim: x-betavae-bound
        Let $p(x \mid z)$ be bounded in $z$ and $p(x) > 0$. If $\beta \ge 1$, minus the loss is at
        most $\log p(x)$ for every $q$. If $0 \le \beta < 1$ and the posterior is not the prior, it
        is no bound: at the posterior minus the loss exceeds $\log p(x)$ by
        $(1 - \beta)\, \mathrm{KL}(p(z \mid x) \Vert p(z)) > 0$. With the prior $(0.3, 0.7)$, the
        likelihood $(0.8, 0.1)$ and $\beta = 0.5$ the largest value of minus the loss is $-0.807$,
        while $\log p(x) = -1.171$.
    """
    _check_law("prior", prior, likelihood.shape[-1])
    _check_law("q", q, likelihood.shape[-1])
    _check("likelihood", likelihood)
    weight = _number("beta", beta, likelihood)
    rate = (torch.xlogy(q, q) - torch.xlogy(q, prior)).sum(-1)
    return (weight * rate).where(weight > 0, 0) - torch.xlogy(q, likelihood).sum(-1)


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
        At $\beta = 0$ the loss $-E_q \log p(x \mid z)$ is at least $-\log \sup_z p(x \mid z)$, with
        equality for every $q$ whose whole mass lies where the supremum is attained, and for no
        other. If one $z$ alone attains it, the optimal encoder is deterministic; neither the prior
        nor the posterior matters. If $z$ has finitely many values of positive prior probability,
        $q_\beta^\star$ tends as $\beta \to 0$ to the $q$ that shares its mass among the maximisers
        in proportion to the prior. On $\mathbb{R}^d$ no normal $q$ attains the infimum, unless
        $p(x \mid z)$ is constant almost everywhere. If the variance of a normal decoder is learnt
        too, and the decoder can reproduce $x$, the loss has no lower bound.

    Claim: betavae-kl-only
        The divergence $\mathrm{KL}(q(z \mid x) \Vert p(z))$ alone is least, namely 0, if and only
        if $q(z \mid x)$ is the prior. If it is at every $x$, the code says nothing about the datum,
        $I(X; Z) = 0$, and no term asks anything of the decoder. If $z$ has finitely many values,
        $q_\beta^\star$ tends as $\beta \to \infty$ to the prior restricted to the $z$ with
        $p(x \mid z) > 0$, which is the prior if these have all its mass.

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


def linear_posterior(
    x: Float[Tensor, "*#batch D"],
    W: Float[Tensor, "*#batch D d"],
    variance: float | Float[Tensor, "*#batch"],
    beta: float | Float[Tensor, "*#batch"],
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    r"""Returns mean and covariance of $q_\beta^\star$ under $x \sim \mathcal{N}(Wz, \sigma^2 I)$.

    Claim: x-betavae-linear-gaussian
        Let $z \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$ and $x \sim \mathcal{N}(Wz, \sigma^2 I)$
        given $z$. For $\beta > 0$ the optimal encoder is the posterior of the model whose noise has
        the variance $\beta \sigma^2$, which with $\Lambda = I + W^\top W / (\beta \sigma^2)$ is
        $$q_\beta^\star
        = \mathcal{N}\bigl(\Lambda^{-1} W^\top x / (\beta \sigma^2),\ \Lambda^{-1}\bigr).$$
        In one dimension its mean is $wx / (w^2 + \beta \sigma^2)$ and its variance
        $\beta \sigma^2 / (w^2 + \beta \sigma^2)$. It tends to the prior as $\beta \to \infty$. As
        $\beta \to 0$ its mean tends to the shortest least-squares solution of $Wz = x$, and its
        variance vanishes in every direction orthogonal to the kernel of $W$.

    Arguments:
        x: The datum, less the mean of the data.
        W: The weights of the decoder.
        variance: The noise variance $\sigma^2 > 0$: a number, or a tensor of the batch.
        beta: The weight $\beta > 0$, likewise.
    """
    noise = _number("variance", variance, W, positive=True).sqrt()[..., None]
    noise = noise * _number("beta", beta, W, positive=True, finite=False).sqrt()[..., None]
    top, d = W / noise[..., None], W.shape[-1]
    eye = torch.eye(d, dtype=top.dtype, device=top.device).expand(*top.shape[:-2], d, d)
    Q, R = torch.linalg.qr(torch.cat([top, eye], -2))
    inverse = torch.linalg.solve_triangular(R, eye, upper=True)
    mean = (inverse @ (Q.mT @ F.pad(x / noise, (0, d))[..., None]))[..., 0]
    return mean, (inverse @ inverse.mT).expand(*mean.shape, d)


def squared_weights(
    eigenvalues: Float[Tensor, "*#batch D"],
    variance: float | Float[Tensor, "*#batch"],
    beta: float | Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch D"]:
    r"""Returns $w_i^2 = \max(\lambda_i - \beta \sigma^2, 0)$, the squared weights learnt.

    Claim: x-betavae-collapse
        Let the data have mean 0 and a covariance with eigenvalues
        $\lambda_1 \ge \dots \ge \lambda_D$ and orthonormal eigenvectors $u_1, \dots, u_D$. Let
        $z \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$, $d \le D$, and
        $x \sim \mathcal{N}(Wz, \sigma^2 I)$ given $z$, with fixed $\sigma^2 > 0$ and $\beta > 0$.
        Over all encoders and all $W$ the mean loss of the data is least if $W$ has the columns
        $w_i u_i$ with $w_i^2 = \max(\lambda_i - \beta \sigma^2, 0)$, $i \le d$. So direction $i$
        collapses if and only if $\beta \ge \lambda_i / \sigma^2$. One that survives is
        reconstructed with mean squared error $\beta \sigma^2$ and costs
        $\tfrac12 \log(\lambda_i / (\beta \sigma^2))$ nats of mean divergence; one that has
        collapsed has the error $\lambda_i$ and costs nothing.

    Arguments:
        eigenvalues: The eigenvalues $\lambda_i$ of the covariance of the data, the $d$ largest.
        variance: The noise variance $\sigma^2 > 0$: a number, or a tensor of the batch.
        beta: The weight $\beta \ge 0$, likewise.
    """
    _check("eigenvalues", eigenvalues)
    variance = _number("variance", variance, eigenvalues, positive=True)
    level = variance * _number("beta", beta, eigenvalues, finite=False)
    return (eigenvalues - level[..., None]).clamp(min=0)


def collapse_threshold(
    eigenvalues: Float[Tensor, "*#batch D"],
    variance: float | Float[Tensor, "*#batch"] | None = None,
) -> Float[Tensor, "*batch D"]:
    r"""Returns $\lambda_i / \sigma^2$, the weight $\beta$ from which on direction $i$ is collapsed.

    Without a `variance` the noise is learnt. Then it is
    $D \lambda_i / \sum_j \min(\lambda_i, \lambda_j)$, and `eigenvalues` has to hold all of them.
    """
    _check("eigenvalues", eigenvalues)
    if variance is not None:
        return eigenvalues / _number("variance", variance, eigenvalues, positive=True)[..., None]
    smaller = torch.minimum(eigenvalues[..., None], eigenvalues[..., None, :])
    return eigenvalues / smaller.mean(-1).where(eigenvalues > 0, 1)


def noise_variance(
    eigenvalues: Float[Tensor, "*#batch D"],
    beta: float | Float[Tensor, "*#batch"],
    latents: int,
) -> Float[Tensor, "*batch"]:
    r"""Returns the learnt $\sigma^2 = \min_k \sum_{i > k} \lambda_i / (D - \beta k)$, $k \le d$.

    Only $k$ with $\beta k < D$ count. The result 0 says that the loss has no lower bound.

    Claim: betavae-learnt-noise
        Let the data have mean 0 and a covariance with eigenvalues
        $\lambda_1 \ge \dots \ge \lambda_D > 0$. Let $z \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$,
        $1 \le d \le D$, and $x \sim \mathcal{N}(Wz, \sigma^2 I)$ given $z$. Minimise the mean loss
        of the data over the encoder, $W$ and $\sigma^2$, with $\beta > 0$. If $d < D$ or
        $\beta > 1$, the minimum has the only $\sigma^2 > 0$ with
        $$D \sigma^2 = \sum_{i \le d} \min(\lambda_i, \beta \sigma^2) + \sum_{i > d} \lambda_i,$$
        the mean squared error of $x$, and $w_i^2 = \max(\lambda_i - \beta \sigma^2, 0)$. Direction
        $i \le d$ collapses if and only if $\beta \ge D \lambda_i / \sum_j \min(\lambda_i,
        \lambda_j)$, and so all do if and only if $\beta \ge D \lambda_1 / \sum_j \lambda_j$. If $d
        = D$, the loss has no lower bound for $\beta < 1$, and for $\beta = 1$ it is least at every
        $\sigma^2 \le \lambda_D$. So data in one dimension collapse for every $\beta > 1$, with
        $\sigma^2 = \lambda_1$, while $\lambda = (9, 1, 1)$ with one latent and $\beta = 1.3$ has
        $\sigma^2 = 1.176471$ and $w_1^2 = 7.470588$.

    Arguments:
        eigenvalues: All eigenvalues $\lambda_i$ of the covariance of the data, in any order.
        beta: The weight $\beta \ge 0$, finite: a number, or a tensor of the batch.
        latents: The dimension $d \ge 0$ of the latent.
    """
    _check("eigenvalues", eigenvalues)
    if latents < 0:
        raise ValueError(f"latents must be at least 0, got {latents}")
    D = eigenvalues.shape[-1]
    k = torch.arange(min(latents, D) + 1, dtype=eigenvalues.dtype, device=eigenvalues.device)
    tails = F.pad(eigenvalues.sort(-1).values.cumsum(-1).flip(-1), (0, 1))[..., : len(k)]
    free = D - k * _number("beta", beta, eigenvalues)[..., None]
    return (tails / free.where(free > 0, 1)).where(free > 0, math.inf).amin(-1)


def _tilted(
    prior: Tensor,
    likelihood: Tensor,
    beta: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Returns $\log p(z)$, $\log(\ell / \max \ell) / \beta$, $\log \max \ell$, $\beta$."""
    _check_law("prior", prior, likelihood.shape[-1])
    _check("likelihood", likelihood)
    weight = _number("beta", beta, prior + likelihood, finite=False)
    possible = (prior > 0) & (likelihood > 0)
    if not possible.any(-1).all():
        raise ValueError("likelihood must be positive for some z of the prior, got 0 for all")
    log_likelihood = likelihood.where(possible, 1).log()
    top = log_likelihood.where(possible, -math.inf).amax(-1)
    gap, b = log_likelihood - top[..., None], weight[..., None]
    limit = torch.zeros_like(gap).where(gap == 0, -math.inf)
    tilt = (gap / b.where(b > 0, 1)).where(b > 0, limit).where(possible | b.isinf(), -math.inf)
    return prior.where(prior > 0, 1).log().where(prior > 0, -math.inf), tilt, top, weight


def _number(
    name: str,
    value: float | Tensor,
    like: Tensor,
    positive: bool = False,
    finite: bool = True,
) -> Tensor:
    number = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    low = number > 0 if positive else number >= 0
    if not (low & (number < math.inf if finite else low)).all():
        domain = ("positive" if positive else "at least 0") + (" and finite" if finite else "")
        raise ValueError(f"{name} must be {domain}, got {value}")
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
