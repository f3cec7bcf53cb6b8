r"""Posterior collapse in a linear beta-VAE: the optimal encoder, and which latents survive.

The decoder is $x \sim \mathcal{N}(Wz, \sigma^2 I)$ with the prior $z \sim \mathcal{N}(0, I)$, and
the loss at one datum is $-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$. Of the data
only the eigenvalues $\lambda_i$ of their covariance matter.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["collapse_threshold", "linear_posterior", "noise_variance", "squared_weights"]


def linear_posterior(
    x: Float[Tensor, "*#batch D"],
    W: Float[Tensor, "*#batch D d"],
    variance: float | Float[Tensor, "*#batch"],
    beta: float | Float[Tensor, "*#batch"],
) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    r"""Returns mean and covariance of $q_\beta^\star$ under $x \sim \mathcal{N}(Wz, \sigma^2 I)$.

    Claim: x-betavae-linear-gaussian
        Let $z \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$, $x \sim \mathcal{N}(Wz, \sigma^2 I)$ given
        $z$, and $\beta > 0$. The encoder $q$ of least loss
        $-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$ is the posterior of the model
        whose noise has the variance $\beta \sigma^2$, which with
        $\Lambda = I + W^\top W / (\beta \sigma^2)$ is
        $$q_\beta^\star
        = \mathcal{N}\bigl(\Lambda^{-1} W^\top x / (\beta \sigma^2),\ \Lambda^{-1}\bigr).$$
        In one dimension its mean is $wx / (w^2 + \beta \sigma^2)$ and its variance
        $\beta \sigma^2 / (w^2 + \beta \sigma^2)$. As $\beta \to \infty$ it tends to the prior. As
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
        Over all encoders $q(z \mid x)$ and all $W$ the mean over the data of
        $-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$ is least if $W$ has the columns
        $w_i u_i$ with $w_i^2 = \max(\lambda_i - \beta \sigma^2, 0)$, $i \le d$. So direction
        $i \le d$ collapses if and only if $\beta \ge \lambda_i / \sigma^2$. One that survives is
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
        $1 \le d \le D$, and $x \sim \mathcal{N}(Wz, \sigma^2 I)$ given $z$. For $\beta > 0$
        minimise the mean of $-E_q \log p(x \mid z) + \beta\, \mathrm{KL}(q \Vert p(z))$ over the
        encoder $q(z \mid x)$, $W$ and $\sigma^2$. If $d < D$ or $\beta > 1$, the minimum has the
        only $\sigma^2 > 0$ with
        $$D \sigma^2 = \sum_{i \le d} \min(\lambda_i, \beta \sigma^2) + \sum_{i > d} \lambda_i,$$
        the mean squared error of $x$, and $w_i^2 = \max(\lambda_i - \beta \sigma^2, 0)$. Direction
        $i \le d$ collapses if and only if
        $\beta \ge D \lambda_i / \sum_j \min(\lambda_i, \lambda_j)$, and so all do if and only if
        $\beta \ge D \lambda_1 / \sum_j \lambda_j$. If $d = D$, the loss has no lower bound for
        $\beta < 1$, and for $\beta = 1$ it is least at every $\sigma^2 \le \lambda_D$, with the
        $w_i^2$ that belong to it. So data in one dimension collapse for every $\beta > 1$, with
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
    if not p.is_floating_point():
        raise ValueError(f"{name} must be floating, got {p.dtype}")
    if not ((p >= 0) & p.isfinite()).all():
        got = f"got {p.min():g} to {p.max():g}"
        raise ValueError(f"{name} must be finite and not negative (clamp rounded zeros), {got}")
