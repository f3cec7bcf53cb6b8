r"""The evidence lower bound, the expected log-joint that it is trained by, and EM.

Throughout $x$ is observed and $z$ is not, the model has the parameters $\theta$, and $q$ is a law
of $z$. The evidence is $\log p_\theta(x)$, the bound is $L_1 = E_q[\log p_\theta(x, z) - \log q]$,
and $E_q \log p_\theta(x, z)$ is also known as the expected complete-data log-likelihood. Finite
laws are given by the logarithms of their probabilities, with the values of $z$ in the last
dimension; a rule of quadrature is such a law, its weights in place of probabilities.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from genref.numerics.estimate import Estimate, estimate

__all__ = [
    "e_step",
    "elbo",
    "elbo_estimate",
    "em_step",
    "entropy",
    "expected_log_joint",
    "m_step",
]


def expected_log_joint(
    log_joint: Float[Tensor, "*#batch z"],
    log_q: Float[Tensor, "*#batch z"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $E_q \log p(x, z) = \sum_z q(z) \log p(x, z)$.

    Claim: vae-ecll
        Let $0 < p_\theta(x) < \infty$, and let $q$ be a law of $z$ that has a density and a finite
        entropy $H(q)$ and is the same for all $\theta$. Then
        $$\begin{aligned}
        E_q \log p_\theta(x, z) = {}& \log p_\theta(x) - H(q) \\
        & - \mathrm{KL}(q \Vert p_\theta(z \mid x))
        \end{aligned}$$
        for every $\theta$. Both sides are $-\infty$ if $q$ has mass where the posterior has none.
        So the left side and the bound $\log p_\theta(x) - \mathrm{KL}$ have the same maximisers in
        $\theta$, if any, and their maxima differ by $H(q)$.

        For $z \sim \mathcal{N}(0, 1)$, $x \sim \mathcal{N}(\theta z, 1)$ given $z$, $x = 2$ and
        $q = \mathcal{N}(0.3, 0.5)$ both have their maximum at $\theta = 1.016949$. It is
        $-3.827792$ for the left side and $-2.755427$ for the bound, while the maximum of
        $\log p_\theta(x)$ and that of $-\mathrm{KL}$ add up to $-2.202031$.

    Claim: elbo-fisher
        Let $\theta_0$ be an interior point of the parameter space, and let the posterior
        $q = p_{\theta_0}(z \mid x)$ have a finite entropy. If $\log p_\theta(x)$ and, for this
        fixed $q$, $E_q \log p_\theta(x, z)$ are finite near $\theta_0$ and differentiable there,
        they have the same gradient at $\theta_0$,
        $$\nabla_\theta \log p_\theta(x) = \nabla_\theta E_q \log p_\theta(x, z).$$
        For $z \sim \mathcal{N}(0, 1)$, $x \sim \mathcal{N}(\theta z, 1)$ given $z$, $x = 2$ and
        $\theta_0 = 1/2$ it is $22/25$.

    Arguments:
        log_joint: The numbers $\log p(x, z)$, $-\infty$ allowed.
        log_q: The numbers $\log q(z)$, $-\infty$ allowed. Where $q(z) = 0$, `log_joint` does not
            matter.
    """
    _check(log_q, log_joint)
    return _mean(log_joint, log_q)


def entropy(log_q: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
    r"""Returns $H(q) = -\sum_z q(z) \log q(z)$."""
    _check(log_q, log_q)
    return _mean(-log_q, log_q)


def elbo(
    log_joint: Float[Tensor, "*#batch z"],
    log_q: Float[Tensor, "*#batch z"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $L_1 = E_q \log p(x, z) + H(q) = \log p(x) - \mathrm{KL}(q \Vert p(z \mid x))$.

    Arguments:
        log_joint: The numbers $\log p(x, z)$, $-\infty$ allowed.
        log_q: The numbers $\log q(z)$, likewise.
    """
    _check(log_q, log_joint)
    return _mean(log_joint - log_q, log_q)


def elbo_estimate(
    log_joint: Float[Tensor, "samples ..."],
    log_q: Float[Tensor, "samples ..."],
) -> Estimate:
    r"""Returns the mean of $\log p(x, z_j) - \log q(z_j)$, which estimates $L_1$ without bias.

    Arguments:
        log_joint: The numbers $\log p(x, z_j)$ at two or more independent draws $z_j$ from $q$,
            which stand in the first dimension.
        log_q: The numbers $\log q(z_j)$ at the same draws.
    """
    if log_joint.shape != log_q.shape:
        shapes = f"{tuple(log_joint.shape)} and {tuple(log_q.shape)}"
        raise ValueError(f"log_joint and log_q must have one shape, got {shapes}")
    return estimate(log_joint - log_q)


def e_step(
    x: Float[Tensor, "*#batch n D"],
    W: Float[Tensor, "*#batch D d"],
    variance: float | Float[Tensor, "..."] = 1.0,
) -> tuple[Float[Tensor, "*batch n d"], Float[Tensor, "... d d"]]:
    r"""Returns the means $m_i$ and the covariance $C$ of the posteriors of the linear model.

    The model is $z \sim \mathcal{N}(0, I)$, $x \sim \mathcal{N}(Wz, \operatorname{diag}(\sigma^2))$
    given $z$, and $C = (I + W^\top \operatorname{diag}(\sigma^2)^{-1} W)^{-1}$ is the same for all
    data. It is found by orthogonal factors, without $W^\top W$.

    Arguments:
        x: The data, one in each row. Subtract their mean first.
        W: The weights.
        variance: The noise variances $\sigma^2 > 0$: a number, or a tensor of shape (…, D) or
            (…, 1).
    """
    D, d = W.shape[-2:]
    if x.shape[-1] != D:
        raise ValueError(f"x must have {D} columns, one for each row of W, got {x.shape[-1]}")
    sigma = torch.as_tensor(variance).to(W).sqrt() * W.new_ones(D)
    if not ((sigma > 0) & sigma.isfinite()).all():
        raise ValueError(f"variance must be positive and finite, got {variance}")
    top = W / sigma[..., None]
    eye = torch.eye(d).to(W)
    Q, R = torch.linalg.qr(torch.cat([top, eye.expand(*top.shape[:-2], d, d)], -2))
    S: Tensor = torch.linalg.solve_triangular(R, eye, upper=True)
    return x / sigma[..., None, :] @ Q[..., :D, :] @ S.mT, S @ S.mT


def m_step(
    x: Float[Tensor, "*#batch n D"],
    loc: Float[Tensor, "*#batch n d"],
    covariance: Float[Tensor, "*#batch d d"],
) -> Float[Tensor, "*batch D d"]:
    r"""Returns the weights that maximise $\sum_i E_{q_i} \log p_W(x_i, z_i)$ in the linear model.

    They are $W = \sum_i x_i m_i^\top {\bigl( \sum_i (C + m_i m_i^\top) \bigr)}^{-1}$, whatever the
    noise variances. Only the first two moments of the laws $q_i$ matter.

    Claim: vae-ecll-onlyif
        Let $\hat\theta$ maximise $p_\theta(x)$. If $q$ is the posterior $p_{\hat\theta}(z \mid x)$,
        with a finite entropy, then $\hat\theta$ maximises $E_q \log p_\theta(x, z)$. That it does
        so only for this $q$ is false.

        If the decoder ignores $z$, the two have the same maximisers under every $q$ for which
        $E_q \log p(z)$ is finite. With $z \sim \mathcal{N}(0, 1)$,
        $x \sim \mathcal{N}(\theta, 1)$, $x = 2$ and $q = \mathcal{N}(5, 0.01)$ both are greatest
        at $\theta = 2$, and the divergence of $q$ from the posterior is 14.307585.

        Now let $x \sim \mathcal{N}(\theta z, 1)$ given $z$, still with $x = 2$. The likelihood is
        greatest at $\theta = \pm \sqrt 3$, and $E_q \log p_\theta(x, z)$ at
        $\theta = 2m / (m^2 + v)$ for each $q$ of mean $m$ and variance $v$. This is $\sqrt 3$ if
        $v = m (2 / \sqrt 3 - m)$ with $0 < m < 2 / \sqrt 3$, for instance for
        $\mathcal{N}(0.6, 0.332820)$. The posterior at $\sqrt 3$, $\mathcal{N}(\sqrt 3 / 2, 1/4)$,
        is one of these laws. The posterior at $\theta = 1/2$ is none of them and gives $10/9$.

    Arguments:
        x: The data, one in each row. Subtract their mean first.
        loc: The means $m_i$ of the laws $q_i$, one in each row.
        covariance: The covariance $C$ of the laws $q_i$, or the mean of their covariances.
    """
    n, d = loc.shape[-2:]
    if covariance.shape[-2:] != (d, d):
        shape = tuple(covariance.shape)
        raise ValueError(f"covariance must end in the shape {(d, d)}, got {shape}")
    W: Tensor = torch.linalg.solve(n * covariance + loc.mT @ loc, loc.mT @ x).mT
    return W


def em_step(
    x: Float[Tensor, "*#batch n D"],
    W: Float[Tensor, "*#batch D d"],
    variance: float | Float[Tensor, "..."] = 1.0,
) -> Float[Tensor, "*batch D d"]:
    r"""Returns the weights after one step of EM in the linear model, its noise known.

    Claim: x-vae-em
        Let $q_k = p_{\theta_k}(z \mid x)$ have a finite entropy, and let $\theta_{k+1}$ maximise
        $Q_k(\theta) = E_{q_k} \log p_\theta(x, z)$. Then
        $$\begin{aligned}
        & \log p_{\theta_{k+1}}(x) - \log p_{\theta_k}(x) \\
        & = Q_k(\theta_{k+1}) - Q_k(\theta_k) + \mathrm{KL}(q_k \Vert q_{k+1}),
        \end{aligned}$$
        in which neither the difference on the right nor the divergence is negative.

        In the linear model $z \sim \mathcal{N}(0, I)$,
        $x \sim \mathcal{N}(Wz, \operatorname{diag}(\sigma^2))$ given $z$, with data
        $x_1, \dots, x_n$ and posteriors $\mathcal{N}(m_i, C)$, the step is one of gradient ascent.
        With $\ell(W) = \sum_i \log p_W(x_i)$ and $G = \sum_i (C + m_i m_i^\top)$ it is
        $$W \mapsto W + \operatorname{diag}(\sigma^2)\, \nabla \ell(W)\, G^{-1},$$
        so its fixed points are the stationary points of the likelihood. With one datum $x = 2$,
        $d = \sigma = 1$ and $W = \theta$ they are $0$ and $\pm \sqrt 3$, and from
        $\theta_0 = 1/2$ the first step leads to $10/9$ and 60 steps to $\sqrt 3$ with an error
        below $10^{-10}$.

    Claim: elbo-em-rate
        Let $\theta^\star$ be an interior fixed point of EM. With
        $q = p_{\theta^\star}(z \mid x)$ and all derivatives at $\theta^\star$, let
        $I_c = -E_q \nabla^2 \log p_\theta(x, z)$,
        $I_m = \operatorname{Cov}_q \nabla \log p_\theta(x, z)$ and
        $I_o = -\nabla^2 \log p_\theta(x)$ be the complete, the missing and the observed
        information. Let densities be smooth enough that integrals over $z$ may be differentiated,
        twice in $\theta$, under the integral, and let $I_c$ be positive definite. Then
        $I_c = I_o + I_m$, and the map from $\theta_k$ to the stationary point of $Q_k$ near
        $\theta^\star$ has at $\theta^\star$ the Jacobian
        $$I_c^{-1} I_m = I - I_c^{-1} I_o.$$
        Its eigenvalues are real and not negative, and all are below 1 if and only if $I_o$ is
        positive definite. For $z \sim \mathcal{N}(0, 1)$, $x \sim \mathcal{N}(\theta z, 1)$ given
        $z$ and $|x| > 1$ it is $1 - 2 (x^2 - 1) / x^4$ at $\theta^\star = \pm \sqrt{x^2 - 1}$,
        which is $5/8$ at $x = 2$.

    Arguments:
        x: The data, one in each row. Subtract their mean first.
        W: The weights before the step.
        variance: The noise variances $\sigma^2 > 0$: a number, or a tensor of shape (…, D) or
            (…, 1).
    """
    return m_step(x, *e_step(x, W, variance))


def _mean(f: Tensor, log_q: Tensor) -> Tensor:
    q = log_q.exp()
    return (q * f.where(q > 0, 0)).sum(-1)


def _check(log_q: Tensor, log_joint: Tensor) -> None:
    if log_joint.shape[-1] != log_q.shape[-1]:
        values = log_q.shape[-1]
        raise ValueError(f"log_joint must have {values} values of z, got {log_joint.shape[-1]}")
    error = log_q.logsumexp(-1).abs().max()
    if not error <= torch.finfo(log_q.dtype).eps ** 0.5:
        raise ValueError(f"log_q must have a logsumexp of 0 over z, got one off by {error:g}")
