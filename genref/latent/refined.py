r"""The proposal that a bound of $K$ samples implies: one can evaluate it and draw from it.

The weights $w_j = p(x, z_j) / q(z_j)$ of $K$ independent draws from a proposal $q(z \mid x)$, short
$q(z)$, are given by their logarithms; that of a weight of zero is $-\infty$. They may all be
multiplied by one constant, which changes nothing here. The mass of $q$ where $p(x, z) = 0$ is
called $q_0$.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from genref.numerics.estimate import Estimate, estimate

__all__ = ["density", "law", "log_refined", "resample", "sample"]


def log_refined(
    log_q: float | Float[Tensor, "*#batch"],
    log_w: Float[Tensor, "*#batch"],
    rest: Float[Tensor, "*#batch others"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $\log \tilde q(z \mid z_2, \dots, z_K) = \log q(z) + \log K + \log \tilde w_1$.

    Here $\tilde w_1 = w(z) / (w(z) + \sum_{j \ge 2} w_j)$. The result is $-\infty$ where $q(z)$ or
    $p(x, z)$ is zero.

    Claim: iwae-refined-proposal
        Let $0 < p(x) < \infty$, let $z_1, \dots, z_K$ be independent draws from $q$, let
        $p(x, z) > 0$ for $q$-almost all $z$, and let
        $$\tilde q(z \mid z_2, \dots, z_K)
        = \frac{p(x, z)}{\frac1K \bigl( w(z) + \sum_{j=2}^K w(z_j) \bigr)}, \qquad
        w = \frac{p(x, \cdot)}{q},$$
        where $q(z) > 0$, and $0$ elsewhere. With
        $L_1[\tilde q] = \int \tilde q \log (p(x, z) / \tilde q) \, dz$, whether or not $\tilde q$
        is normalised,
        $$L_K[q] = E_{z_2, \dots, z_K} L_1[\tilde q(\cdot \mid z_2, \dots, z_K)],$$
        where both sides may be $-\infty$. For $q = 0.2, 0.3, 0.5$, $p(x, z) = 0.1, 0.25, 0.05$ and
        $K = 3$ both are $-1.056329$. There $\tilde q$ has the masses $0.741667$, $0.557143$ and
        $1.369048$ for $K = 2$ and the three values of $z_2$.

    Arguments:
        log_q: The number $\log q(z)$.
        log_w: The number $\log w(z)$, which does not matter where $q(z) = 0$.
        rest: The numbers $\log w_2, \dots, \log w_K$; none of them gives $q$ itself.
    """
    _check_weights("rest", rest)
    log_q = torch.as_tensor(log_q, dtype=log_w.dtype, device=log_w.device)
    seen = (log_q > -math.inf) & (log_w != -math.inf)
    first = log_w.where(seen, 0)
    _check_weights("log_w", first)
    none = (rest == -math.inf).all(-1)
    others = rest.where(~none[..., None], 0).logsumexp(-1)
    share: Tensor = F.logsigmoid(first - others).where(~none, 0)
    return (log_q.where(seen, 0) + math.log(rest.shape[-1] + 1) + share).where(seen, -math.inf)


def density(
    log_q: float | Float[Tensor, "*#batch"],
    log_w: Float[Tensor, "*#batch"],
    rest: Float[Tensor, "n *#batch others"],
) -> Estimate:
    r"""Returns the mean of $\tilde q(z \mid z_2, \dots, z_K)$ over $n$ draws of $z_2, \dots, z_K$.

    It is an unbiased estimate of $q_K(z)$, from terms between 0 and $K q(z)$. With zero for `log_q`
    it is one of $q_K(z) / q(z)$, which does not underflow in high dimension. Its logarithm is too
    low in the mean.

    Arguments:
        log_q: The number $\log q(z)$.
        log_w: The number $\log w(z)$.
        rest: The numbers $\log w_2, \dots, \log w_K$ of the $n \ge 2$ draws, which are the first
            dimension, then those of the points. The same draws serve all points where these have
            the size 1.
    """
    dims = max(torch.as_tensor(log_q).dim(), log_w.dim()) + 2
    if rest.dim() < dims:
        raise ValueError(f"rest must have {dims} or more dimensions, got shape {tuple(rest.shape)}")
    return estimate(log_refined(log_q, log_w, rest).exp())


def law(
    log_q: Float[Tensor, "*#batch z"],
    log_w: Float[Tensor, "*#batch z"],
    samples: int,
) -> Float[Tensor, "*batch z"]:
    r"""Returns $q_K(z) = K p(x, z) \int_0^\infty e^{-t w(z)} (E_q e^{-t w})^{K - 1} \, dt$.

    The integral over $\log t$ is a sum of steps of $\tfrac14$, which gives it to rounding. The cost
    grows with the range of $\log w$, hardly with $K$. Where $q(z) = 0$, the result is 0.

    ```python
    import torch

    from genref.latent.refined import law

    q, joint = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.1, 0.25, 0.05])
    for K in (1, 2, 50):
        print(law(q.log(), (joint / q).log(), K))
    print(joint / joint.sum())
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    tensor([0.2000, 0.3000, 0.5000])
    tensor([0.2517, 0.4329, 0.3155])
    tensor([0.2520, 0.6194, 0.1286])
    tensor([0.2500, 0.6250, 0.1250])
    ```

    Claim: iwae-qK-density
        Let $0 < p(x) < \infty$, let $z_2, \dots, z_K$ be independent draws from $q$ and
        $w = p(x, \cdot) / q$. Where $q(z)$ and $p(x, z)$ are positive, let
        $$\begin{aligned}
        q_K(z) &= E \, \frac{K p(x, z)}{w(z) + \sum_{j=2}^K w(z_j)} \\
        &= K p(x, z) \int_0^\infty e^{-t w(z)} {\bigl( E_q e^{-t w} \bigr)}^{K - 1} \, dt,
        \end{aligned}$$
        and $0$ elsewhere. Then $0 \le q_K \le K q$, and if $q_0$ is the mass of $q$ where
        $p(x, z) = 0$,
        $$\int q_K(z) \, dz = 1 - q_0^K .$$
        So $q_K$ is a density if and only if $p(x, z) > 0$ for $q$-almost all $z$; otherwise
        $L_K[q] = -\infty$ for every $K$. For $q = 0.2, 0.3, 0.5$ and $p(x, z) = 0.1, 0.25, 0.05$ it
        is $q_2 = 151/600, 303/700, 53/168$.

    Claim: iwae-tighter
        Let $0 < p(x) < \infty$ and $p(x, z) > 0$ for $q$-almost all $z$. With $w = p(x, \cdot) / q$
        and independent draws from $q$ let $L_K[q] = E \log \frac1K \sum_{j=1}^K w(z_j)$ and
        $q_K(z) = E \, K p(x, z) / (w(z) + \sum_{j=2}^K w(z_j))$. Then
        $$L_1[q] \le L_K[q] \le L_1[q_K] \le \log p(x) .$$
        Since $L_1[q] = \log p(x) - \mathrm{KL}(q \Vert p(z \mid x))$, this says
        $\mathrm{KL}(q_K \Vert p(z \mid x)) \le \mathrm{KL}(q \Vert p(z \mid x))$. If $K \ge 2$ and
        $L_1[q] > -\infty$, the first sign is an equality if and only if $w$ is constant $q$-almost
        surely, so is the second, and the third if and only if $q$ is the posterior. For
        $q = 0.2, 0.3, 0.5$, $p(x, z) = 0.1, 0.25, 0.05$ and $K = 4$ the four numbers are
        $-1.344618450$, $-1.016090279$, $-0.942435034$ and $-0.916290732$.

    Claim: x-iwae-closer
        Let $0 < p(x) < \infty$ and $p(x, z) > 0$ for $q$-almost all $z$. With $w = p(x, \cdot) / q$
        and independent draws from $q$ let
        $q_K(z) = E \, K p(x, z) / (w(z) + \sum_{j=2}^K w(z_j))$. As functions of $w(z)$, neither
        $q_{K+1}(z) / q_K(z)$ nor $p(z \mid x) / q_K(z)$ decreases: each further sample moves mass
        to larger weights, and never past the posterior. Therefore
        $$D_f(q_{K+1} \Vert p(z \mid x)) \le D_f(q_K \Vert p(z \mid x))$$
        for every convex $f$ with $f(1) = 0$ and all $K \ge 1$, which includes both directions of
        the Kullback-Leibler divergence and the total variation. If $q$ covers the posterior, also
        $\chi^2(p(z \mid x) \Vert q_K) \le \tfrac1K \chi^2(p(z \mid x) \Vert q)$.

    Arguments:
        log_q: The logarithms of the probabilities of all values of $z$. For a density they are
            those of the masses of small cells.
        log_w: The numbers $\log w(z)$.
        samples: The number $K \ge 1$.
    """
    q = log_q.exp()
    error = (q.sum(-1) - 1).abs().max()
    if not error <= torch.finfo(q.dtype).eps ** 0.5:
        raise ValueError(f"log_q must be of probabilities, got a sum that is off by {error:g}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if log_w.shape[-1] != q.shape[-1]:
        raise ValueError(f"log_w must have {q.shape[-1]} values of z, got {log_w.shape[-1]}")
    log_w = log_w.where(log_q > -math.inf, -math.inf)
    _check_weights("log_w", log_w)
    x = _steps(log_w, samples)
    mean = ((-x).exp() * q[..., None, :]).sum(-1, keepdim=True)
    near_one = ((-x).expm1() * q[..., None, :]).sum(-1, keepdim=True)
    log_mean = mean.clamp(min=torch.finfo(q.dtype).tiny).log()
    log_mean = near_one.clamp(min=-0.5).log1p().where(mean > 0.5, log_mean)
    others = ((samples - 1) * log_mean).exp()
    return q * samples * _STEP * (x * (-x).exp() * others).sum(-2)


def resample(
    log_w: Float[Tensor, "..."],
    generator: torch.Generator | None = None,
    dim: int = -1,
) -> Int[Tensor, "..."]:
    r"""Returns an index $J$ with the probabilities $w_j / \sum_i w_i$.

    With independent $e_j$ of the law $\mathrm{Exp}(1)$ it is the place of the least $e_j / w_j$.

    Claim: iwae-resampling
        Let $0 < p(x) < \infty$, let $z_1, \dots, z_K$ be independent draws from $q$, and if not all
        weights are zero, let $J$ be an index with the probabilities $w_j / \sum_i w_i$. Counting
        $z_J \in A$ as false if all of them are zero,
        $$\Pr(z_J \in A) = \int_A q_K(z) \, dz$$
        for every event $A$, where $q_K$ is the mean of $K p(x, z) / (w(z) + \sum_{j=2}^K w(z_j))$
        over $z_2, \dots, z_K$. So if $p(x, z) > 0$ for $q$-almost all $z$, the refined proposal
        $q_K$ is exactly the law of $z_J$. Then also, if $\tilde q$ is that quotient, before its
        mean is taken, at the chosen sample and the others,
        $$E \log \frac{p(x, z_J)}{\tilde q(z_J \mid z_i, i \ne J)} = L_K[q].$$

    Arguments:
        log_w: The numbers $\log w_j$, not all of them $-\infty$.
        generator: The source of chance.
        dim: The dimension of the $K$ samples.
    """
    _check_weights("log_w", log_w)
    if not (log_w > -math.inf).any(dim).all():
        raise ValueError(f"log_w must have a positive weight along dim {dim}, got all -inf")
    race = torch.empty_like(log_w).exponential_(generator=generator)
    return (log_w - race.clamp_(min=torch.finfo(race.dtype).tiny).log()).argmax(dim)


def sample(
    z: Shaped[Tensor, "..."],
    log_w: Float[Tensor, "*batch samples"],
    generator: torch.Generator | None = None,
) -> Shaped[Tensor, "..."]:
    r"""Returns $z_J$, a draw from $q_K$ for each row of $K$ draws from $q$ and their weights.

    Arguments:
        z: The draws, of the shape of `log_w` and then that of one $z$.
        log_w: The numbers $\log w_j$, not all of them $-\infty$ in a row.
        generator: The source of chance.
    """
    if z.shape[: log_w.dim()] != log_w.shape:
        shapes = f"log_w of shape {tuple(log_w.shape)}, got shape {tuple(z.shape)}"
        raise ValueError(f"z must hold one draw for each weight, for {shapes}")
    dim = log_w.dim() - 1
    J = resample(log_w, generator).view(*log_w.shape[:-1], *[1] * (z.dim() - dim))
    return z.take_along_dim(J, dim).squeeze(dim)


_STEP = 0.25


def _steps(log_w: Tensor, samples: int) -> Tensor:
    r"""Returns $t w(z)$ for all $t$ of the sum: $t \sum_j w_j$ covers $e^{-37}$ to $e^4$."""
    positive = log_w.detach()[log_w > -math.inf]
    ends = [-positive.max().item(), -positive.min().item()] if len(positive) else [0, 0]
    count = math.ceil((ends[1] - ends[0] + 41 + math.log(samples)) / _STEP)
    steps = torch.arange(count, dtype=log_w.dtype, device=log_w.device)
    log_t = ends[0] - 37 - math.log(samples) + _STEP * steps
    return (log_t[:, None] + log_w[..., None, :]).clamp(max=6).exp()


def _check_weights(name: str, log_w: Tensor) -> None:
    if not (log_w < math.inf).all():
        raise ValueError(f"{name} must be finite or -inf, got {log_w.max():g}")
