r"""The linear-Gaussian model, whose evidence, posterior and bounds have closed forms.

The latent $z \in \mathbb{R}^d$ has the prior $\mathcal{N}(0, I)$. Given $z$, the coordinates of the
datum $x \in \mathbb{R}^D$ are independent, $x_i \sim \mathcal{N}((Wz + \mu)_i, \sigma_i^2)$ with
$\sigma_i > 0$. Let the matrix $A$ and the vector $b$ have the blocks
$$A = \begin{pmatrix} \operatorname{diag}(\sigma)^{-1} W \\ I \end{pmatrix}, \qquad
b = \begin{pmatrix} \operatorname{diag}(\sigma)^{-1} (x - \mu) \\ 0 \end{pmatrix}.$$
Then $\log p(x, z)$ is $-\tfrac12 \lVert b - Az \rVert^2$ plus a constant, and inference is least
squares. It is solved by $A = QS^{-1}$ with orthonormal columns in $Q$ and a lower triangular $S$;
$WW^\top$ and $W^\top W$, which would square the condition number, are never formed.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Gaussian",
    "LinearGaussian",
    "divergence",
    "entropy",
    "maximum_likelihood",
    "mean_field",
]


class Gaussian(NamedTuple):
    r"""Holds the normal law $\mathcal{N}(m, SS^\top)$, of which $m + S\epsilon$ is a draw.

    The matrix of scales keeps digits that the covariance would lose. For a covariance `C` it is
    `torch.linalg.cholesky(C)`, for a factorised law `torch.diag_embed` of its standard deviations.
    """

    loc: Float[Tensor, "*#batch d"]
    """The mean $m$."""
    scale: Float[Tensor, "*#batch d d"]
    r"""The matrix $S$, square and not singular, triangular or not."""

    @property
    def covariance(self) -> Float[Tensor, "*batch d d"]:
        r"""The matrix $C = SS^\top$."""
        return self.scale @ self.scale.mT


def entropy(q: Gaussian) -> Float[Tensor, "*batch"]:
    r"""Returns $H(q) = \tfrac d2 \log 2 \pi e + \log |\det S|$."""
    log_det: Tensor = torch.linalg.slogdet(q.scale).logabsdet
    return q.scale.shape[-1] * (_LOG_2PI + 1) / 2 + log_det


def divergence(q: Gaussian, p: Gaussian) -> Float[Tensor, "*batch"]:
    r"""Returns $\mathrm{KL}(q \Vert p)$, where $q$ is the law that is averaged over.

    With $B = S_p^{-1} S_q$ and $v = S_p^{-1} (m_q - m_p)$ it is
    $\tfrac12 (\lVert B \rVert_F^2 - d + \lVert v \rVert^2) - \log |\det B|$.
    """
    B: Tensor = torch.linalg.solve(p.scale, q.scale)
    v: Tensor = torch.linalg.solve(p.scale, (q.loc - p.loc)[..., None])
    squares = B.square().sum((-2, -1)) - B.shape[-1] + v.square().sum((-2, -1))
    log_det: Tensor = torch.linalg.slogdet(B).logabsdet
    return squares / 2 - log_det


def mean_field(p: Gaussian) -> Gaussian:
    r"""Returns the factorised law nearest to $p$, $\prod_i \mathcal{N}(m_i, 1 / \Lambda_{ii})$.

    Claim: linear-gaussian-mean-field
        Let $p = \mathcal{N}(m, \Lambda^{-1})$ on $\mathbb{R}^d$. Among all laws
        $q = \prod_i q_i$ with independent coordinates, normal or not,
        $q^\star = \prod_i \mathcal{N}(m_i, 1 / \Lambda_{ii})$ alone has the least divergence,
        $$\mathrm{KL}(q^\star \Vert p)
        = \tfrac12 \Bigl( \sum_i \log \Lambda_{ii} - \log \det \Lambda \Bigr).$$
        Its mean is that of $p$, its variances are never larger than those of $p$, and it is $p$ if
        and only if $\Lambda$ is diagonal. For the posterior of the linear-Gaussian model this says
        that the columns of $\operatorname{diag}(\sigma)^{-1} W$ are orthogonal.
    """
    deviation = torch.linalg.inv(p.scale).square().sum(-2).rsqrt()
    return Gaussian(p.loc, torch.diag_embed(deviation))


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    r"""Holds the parameters of $x_i \sim \mathcal{N}((Wz + \mu)_i, \sigma_i^2)$.

    The latent is $z \sim \mathcal{N}(0, I)$. All methods take data `x` with the shape (…, D), and
    batches of data and of models broadcast.
    """

    W: Float[Tensor, "*batch D d"]
    """The weights of the decoder."""
    variance: float | Float[Tensor, "..."]
    r"""The noise variance $\sigma^2 > 0$: a number, or a tensor of shape (…, D) or (…, 1)."""
    mean: float | Float[Tensor, "..."] = 0.0
    r"""The mean $\mu$ of the data: a number, or a tensor of shape (…, D) or (…, 1)."""

    def __post_init__(self) -> None:
        variance = torch.as_tensor(self.variance)
        if not ((variance > 0) & variance.isfinite()).all():
            raise ValueError(f"variance must be positive and finite, got {self.variance}")

    def log_evidence(self, x: Float[Tensor, "*#batch D"]) -> Float[Tensor, "*batch"]:
        r"""Returns $\log p(x) = \log \int p(z)\, p(x \mid z)\, dz$.

        Claim: linear-gaussian-evidence
            Let $z \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$ and, given $z$, let the coordinates of
            $x \in \mathbb{R}^D$ be independent, $x_i \sim \mathcal{N}((Wz + \mu)_i, \sigma_i^2)$
            with $\sigma_i > 0$. Then $x \sim \mathcal{N}(\mu, \Sigma)$ with
            $\Sigma = WW^\top + \operatorname{diag}(\sigma^2)$. With the $d \times d$ matrix
            $\Lambda = I + W^\top \operatorname{diag}(\sigma^2)^{-1} W$,
            $$\begin{aligned}
            \det \Sigma &= \det \Lambda \prod_i \sigma_i^2, \\
            (x - \mu)^\top \Sigma^{-1} (x - \mu) &= \min_z \Bigl( \sum_i
            \frac{(x - \mu - Wz)_i^2}{\sigma_i^2} + \lVert z \rVert^2 \Bigr).
            \end{aligned}$$
        """
        A, b, log_sigma = self._regression(x)
        Q, inverse = _factors(A)
        residual = b - _times(Q, _times(Q.mT, b))
        log_density = -(residual.square().sum(-1) + x.shape[-1] * _LOG_2PI) / 2
        return log_density - log_sigma - _log_det(inverse)

    def posterior(self, x: Float[Tensor, "*#batch D"]) -> Gaussian:
        r"""Returns $p(z \mid x) = \mathcal{N}(m, C)$; its `scale` is the Cholesky factor of $C$.

        Claim: linear-gaussian-posterior
            In the linear-Gaussian model $z \sim \mathcal{N}(0, I)$,
            $x_i \sim \mathcal{N}((Wz + \mu)_i, \sigma_i^2)$, the posterior is
            $p(z \mid x) = \mathcal{N}(m, C)$ with
            $$C^{-1} = \Lambda = I + W^\top \operatorname{diag}(\sigma^2)^{-1} W, \qquad
            m = C W^\top \operatorname{diag}(\sigma^2)^{-1} (x - \mu).$$
            So $m$ is where $\sum_i (x - \mu - Wz)_i^2 / \sigma_i^2 + \lVert z \rVert^2$ is least,
            and $C$ does not depend on $x$.
        """
        A, b, _ = self._regression(x)
        Q, inverse = _factors(A)
        eye = torch.eye(A.shape[-1]).to(A)
        scale = torch.linalg.solve_triangular(inverse, eye, upper=False)
        return Gaussian(_times(scale, _times(Q.mT, b)), scale)

    def expected_log_joint(
        self,
        x: Float[Tensor, "*#batch D"],
        q: Gaussian,
    ) -> Float[Tensor, "*batch"]:
        r"""Returns the expected complete-data log-likelihood $E_q \log p(x, z)$."""
        A, b, log_sigma = self._regression(x)
        squares = (b - _times(A, q.loc)).square().sum(-1) + (A @ q.scale).square().sum((-2, -1))
        return -(squares + A.shape[-2] * _LOG_2PI) / 2 - log_sigma

    def elbo(self, x: Float[Tensor, "*#batch D"], q: Gaussian) -> Float[Tensor, "*batch"]:
        r"""Returns $L_1 = E_q[\log p(x, z) - \log q(z)]$.

        Claim: linear-gaussian-elbo
            In the linear-Gaussian model $z \sim \mathcal{N}(0, I)$,
            $x_i \sim \mathcal{N}((Wz + \mu)_i, \sigma_i^2)$, let $q = \mathcal{N}(m_q, C_q)$ with
            any mean and any positive definite covariance. Then
            $$\begin{aligned}
            L_1 = {}& {-\tfrac12} \sum_i \Bigl( \frac{(x - \mu - Wm_q)_i^2 + (WC_qW^\top)_{ii}}
            {\sigma_i^2} + \log 2 \pi \sigma_i^2 \Bigr) \\
            & - \tfrac12 \bigl( \lVert m_q \rVert^2 + \operatorname{tr} C_q - d
            - \log \det C_q \bigr),
            \end{aligned}$$
            and with the posterior $\mathcal{N}(m, \Lambda^{-1})$ the gap $\log p(x) - L_1$ is
            $$\mathrm{KL}(q \Vert p(z \mid x)) = \tfrac12 \bigl( \operatorname{tr} \Lambda C_q - d
            - \log \det \Lambda C_q + (m_q - m)^\top \Lambda (m_q - m) \bigr).$$
        """
        return self.expected_log_joint(x, q) + entropy(q)

    def information(self) -> Float[Tensor, "*batch"]:
        r"""Returns the mutual information $I(x; z)$.

        Claim: linear-gaussian-information
            In the linear-Gaussian model $z \sim \mathcal{N}(0, I)$,
            $x_i \sim \mathcal{N}((Wz + \mu)_i, \sigma_i^2)$, let $s_j$ be the singular values of
            $\operatorname{diag}(\sigma)^{-1} W$ and $\Lambda^{-1}$ the covariance of the posterior.
            Then
            $$I(x; z) = E_{p(x)} \mathrm{KL}(p(z \mid x) \Vert p(z))
            = \tfrac12 \log \det \Lambda = \tfrac12 \sum_j \log (1 + s_j^2).$$
        """
        return _log_det(_factors(self._design()[0])[1])

    def _design(self) -> tuple[Tensor, Tensor]:
        r"""Returns $A$ and $\sigma$."""
        D, d = self.W.shape[-2:]
        sigma = torch.as_tensor(self.variance, dtype=self.W.dtype, device=self.W.device).sqrt()
        top = self.W / sigma[..., None]
        eye = torch.eye(d, dtype=top.dtype, device=top.device).expand(*top.shape[:-2], d, d)
        return torch.cat([top, eye], -2), sigma.expand(*sigma.shape[:-1], D)

    def _regression(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns $A$, $b$ and $\sum_i \log \sigma_i$."""
        D, d = self.W.shape[-2:]
        if x.shape[-1] != D:
            raise ValueError(f"x must have {D} coordinates, a row of W each, got {x.shape[-1]}")
        A, sigma = self._design()
        mean = torch.as_tensor(self.mean, dtype=x.dtype, device=x.device)
        return A, F.pad((x - mean) / sigma, (0, d)), sigma.log().sum(-1)


def maximum_likelihood(x: Float[Tensor, "n D"], d: int) -> LinearGaussian:
    r"""Returns the model of greatest likelihood with one noise variance for all coordinates.

    Each row of `x` is a datum, and `d` is the dimension of the latent.

    Claim: linear-gaussian-maximum-likelihood
        Let $x_1, \dots, x_n$ have the mean $\bar x$ and the covariance (divisor $n$) with
        eigenvalues $\lambda_1 \ge \dots \ge \lambda_D$ and orthonormal eigenvectors
        $u_1, \dots, u_D$. Let $1 \le d < D$ and $\lambda_{d+1} > 0$. Among the models with
        $z \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$ and $x \sim \mathcal{N}(Wz + \mu, \sigma^2 I)$
        given $z$, the likelihood is greatest for $\mu = \bar x$, the mean
        $\sigma^2 = \sum_{i > d} \lambda_i / (D - d)$ of the discarded eigenvalues, and the $W$ with
        the columns $(\lambda_j - \sigma^2)^{1/2} u_j$ for $j \le d$, as well as for this $W$ times
        an orthogonal matrix. The mean log-likelihood is then
        $$-\tfrac12 \Bigl( D \log 2 \pi e + \sum_{i \le d} \log \lambda_i
        + (D - d) \log \sigma^2 \Bigr).$$
    """
    n, D = x.shape
    if not 1 <= d < D:
        raise ValueError(f"d must be at least 1 and less than {D}, got {d}")
    mean = x.mean(0)
    s, Vh = torch.linalg.svd(x - mean, full_matrices=False)[1:]
    if len(s) <= d or s[d] <= max(n, D) * torch.finfo(x.dtype).eps * s[0]:
        raise ValueError(f"x must vary in more than d directions, got d = {d}")
    eigenvalues = s.square() / n
    variance = eigenvalues[d:].sum() / (D - d)
    W = Vh[:d].mT * (eigenvalues[:d] - variance).clamp(min=0).sqrt()
    return LinearGaussian(W, variance, mean)


_LOG_2PI = math.log(2 * math.pi)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _log_det(triangle: Tensor) -> Tensor:
    return triangle.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _factors(A: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns $Q$ and $S^{-1}$, lower triangular with a positive diagonal, of $A = QS^{-1}$."""
    Q, T = torch.linalg.qr(A.flip(-1))
    sign = T.diagonal(dim1=-2, dim2=-1).sgn()
    return (Q * sign[..., None, :]).flip(-1), (T * sign[..., None]).flip(-2, -1)
