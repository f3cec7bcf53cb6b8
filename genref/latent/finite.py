r"""Models with a finite latent variable, where every expectation is a sum that can be carried out.

A joint table holds the numbers $p(x, z)$. Its last dimension is $z$; a dimension before it may be
$x$, otherwise the table is about one datum. Entries may be zero: $0 \log 0 = 0$, and where supports
do not match, the results are infinite as they should be.
"""

import math
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "divergence",
    "elbo",
    "entropy",
    "exact_bound",
    "exact_proposal",
    "log_evidence",
    "mutual_information",
    "posterior",
    "table",
]


def table(
    prior: Float[Tensor, "*#batch z"],
    likelihood: Float[Tensor, "*#batch z"],
) -> Float[Tensor, "*batch z"]:
    r"""Returns the joint table $p(x, z) = p(z)\, p(x \mid z)$.

    Arguments:
        prior: The probabilities $p(z)$.
        likelihood: The numbers $p(x \mid z)$ for one $x$, or with a dimension for $x$ before the
            last. They may be densities of a continuous $x$.
    """
    _check_sum("prior", prior, likelihood.shape[-1])
    _check("likelihood", likelihood)
    return prior * likelihood


def log_evidence(joint: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
    r"""Returns $\log p(x) = \log \sum_z p(x, z)$, which is $-\infty$ for an impossible $x$."""
    _check("joint", joint)
    return joint.sum(-1).log()


def posterior(joint: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch z"]:
    r"""Returns $p(z \mid x) = p(x, z) / \sum_{z'} p(x, z')$.

    Claim: finite-posterior
        Let $z$ have finitely many values and $p(x, z) = p(z)\, p(x \mid z)$. If
        $p(x) = \sum_z p(x, z)$ is positive, the posterior $p(z \mid x) = p(x, z) / p(x)$ sums to
        one over $z$ and is zero exactly where the prior or the likelihood is. If $x$ is discrete,
        the mean of the posterior, $\sum_x p(x)\, p(z \mid x)$, is the prior.
    """
    _check("joint", joint)
    evidence = joint.sum(-1, keepdim=True)
    if not (evidence > 0).all():
        raise ValueError("joint must have a positive sum over z for each x, got the sum 0")
    return joint / evidence


def entropy(p: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch"]:
    r"""Returns $H(p) = -\sum_z p(z) \log p(z)$."""
    _check_sum("p", p)
    surprise: Tensor = torch.special.entr(p)
    return surprise.sum(-1)


def divergence(
    q: Float[Tensor, "*#batch z"],
    p: Float[Tensor, "*#batch z"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $\mathrm{KL}(q \Vert p) = \sum_z q(z) \log (q(z) / p(z))$.

    The law that is averaged over stands first. The result is $\infty$ if it has mass where the
    other has none.
    """
    _check_sum("p", p)
    return -elbo(p, q)


def elbo(
    joint: Float[Tensor, "*#batch z"],
    q: Float[Tensor, "*#batch z"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $L_1 = E_q[\log p(x, z) - \log q(z)]$.

    Claim: finite-elbo
        Let $z$ have finitely many values, let $p(x) > 0$ and let $q$ be any distribution of $z$.
        Then
        $$E_q \log p(x, z) + H(q) = \log p(x) - \mathrm{KL}(q \Vert p(z \mid x)) \le \log p(x),$$
        with equality if and only if $q$ is the posterior. If $q$ has mass where $p(x, z) = 0$, the
        left side is $-\infty$ and the divergence $\infty$. Where $q$ has no mass, nothing is
        required.

    Arguments:
        joint: The numbers $p(x, z)$.
        q: The probabilities $q(z)$.
    """
    _check("joint", joint)
    _check_sum("q", q, joint.shape[-1])
    return torch.xlogy(q, joint.where(q > 0, 1)).sum(-1) + entropy(q)


def exact_bound(
    joint: Float[Tensor, "*#batch z"],
    proposal: Float[Tensor, "*#batch z"],
    samples: int,
) -> Float[Tensor, "*batch"]:
    r"""Returns $L_K = E \log \tfrac1K \sum_{j=1}^K w_j$ with $w_j = p(x, z_j) / q(z_j)$.

    The sum runs over the $\binom{K + n - 1}{n - 1}$ ways in which $K$ samples fall on the $n$
    values of $z$. It is taken over the gap, whose terms have one sign, so that the gap keeps its
    digits when $K$ is large.

    Claim: finite-bound
        Let $z$ have finitely many values, let $z_1, \dots, z_K$ be independent draws from $q$, and
        $w(z) = p(x, z) / q(z)$ where $q(z) > 0$. Then
        $$L_K = E \log \frac1K \sum_{j=1}^K w(z_j) = \sum_k \frac{K!}{\prod_z k_z!}
        \prod_z q(z)^{k_z} \log \Bigl( \frac1K \sum_z k_z w(z) \Bigr),$$
        a sum over the counts $k_z$ of sum $K$ with $k_z = 0$ where $q(z) = 0$. If $q$ has mass
        where $p(x, z) = 0$, every $L_K$ is $-\infty$. Otherwise $L_1$ is the ELBO, and $L_K$ grows
        with $K$, strictly unless $w$ is constant where $q(z) > 0$. Its limit is the logarithm of
        $\sum_{q(z) > 0} p(x, z)$, the part of $p(x)$ that $q$ covers.

    Arguments:
        joint: The numbers $p(x, z)$.
        proposal: The probabilities $q(z)$.
        samples: The number $K \ge 1$.
    """
    w, counts, probability = _draws(joint, proposal, samples)
    limit = (proposal * w).sum(-1)
    excess = (w @ counts.mT / samples / limit[..., None] - 1).where(probability > 0, 0)
    gap = (probability * (excess - excess.log1p())).sum(-1)
    lost = ((proposal > 0) & (joint == 0)).any(-1)
    return (limit.log() - gap).where(~lost, -math.inf)


def exact_proposal(
    joint: Float[Tensor, "*#batch z"],
    proposal: Float[Tensor, "*#batch z"],
    samples: int,
) -> Float[Tensor, "*batch z"]:
    r"""Returns $q_K$, the law of one of $K$ samples chosen with probabilities $w_j / \sum_i w_i$.

    Claim: finite-proposal
        Let $z$ have finitely many values, let $z_1, \dots, z_K$ be independent draws from $q$, and
        $w(z) = p(x, z) / q(z)$ where $q(z) > 0$. Unless all weights are zero, draw an index $J$
        with the probabilities $w(z_j) / \sum_i w(z_i)$. Then $z_J$ has the probabilities
        $$q_K(z) = \sum_k \frac{K!}{\prod_{z'} k_{z'}!} \prod_{z'} q(z')^{k_{z'}}
        \frac{k_z w(z)}{\sum_{z'} k_{z'} w(z')},$$
        a sum over the counts as in $L_K$, without those of total weight zero. They sum to
        $1 - q_0^K$, where $q_0$ is the mass of $q$ where $p(x, z) = 0$. If $q$ covers the
        posterior, $q_K$ tends to it.

    Arguments:
        joint: The numbers $p(x, z)$.
        proposal: The probabilities $q(z)$.
        samples: The number $K \ge 1$.
    """
    w, counts, probability = _draws(joint, proposal, samples)
    total = w @ counts.mT
    share = probability / total.where(total > 0, math.inf)
    return w * (share @ counts)


def mutual_information(joint: Float[Tensor, "*batch x z"]) -> Float[Tensor, "*batch"]:
    r"""Returns $I(X; Z)$ of a table over all $x$ and $z$.

    Claim: finite-information
        Let $X$ and $Z$ have finitely many values. Then
        $$\begin{aligned}
        I(X; Z) &= \sum_{x, z} p(x, z) \log \frac{p(x, z)}{p(x)\, p(z)} \\
        &= H(X) + H(Z) - H(X, Z) = \sum_x p(x)\, \mathrm{KL}(p(z \mid x) \Vert p(z)),
        \end{aligned}$$
        where the last sum is over the $x$ with $p(x) > 0$. It lies between $0$, which it is if and
        only if $X$ and $Z$ are independent, and the smaller of $H(X)$ and $H(Z)$.
    """
    _check_sum("joint", joint.flatten(-2))
    x, z = joint.sum(-1, keepdim=True), joint.sum(-2, keepdim=True)
    return (torch.xlogy(joint, joint) - torch.xlogy(joint, x) - torch.xlogy(joint, z)).sum((-2, -1))


def _draws(joint: Tensor, proposal: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns the weights $w(z)$, the lists of counts $k_z$ and their probabilities."""
    _check("joint", joint)
    _check_sum("proposal", proposal, joint.shape[-1])
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    n, covered = joint.shape[-1], proposal > 0
    q = proposal.where(covered, 1)
    end = samples + n - 1
    bars = [(-1, *chosen, end) for chosen in combinations(range(end), n - 1)]
    counts = torch.tensor(bars, dtype=q.dtype, device=q.device).diff() - 1
    possible = (~covered).to(q.dtype) @ counts.mT == 0
    log_number = math.lgamma(samples + 1) - torch.lgamma(counts + 1).sum(-1)
    probability = (log_number + q.log() @ counts.mT).exp().where(possible, 0)
    return (joint / q).where(covered, 0), counts, probability


def _check(name: str, p: Tensor) -> None:
    if not ((p >= 0) & p.isfinite()).all():
        raise ValueError(f"{name} must be finite and not negative, got {p.min():g} to {p.max():g}")


def _check_sum(name: str, p: Tensor, values: int | None = None) -> None:
    _check(name, p)
    error = (p.sum(-1) - 1).abs().max()
    if not error <= torch.finfo(p.dtype).eps ** 0.5:
        raise ValueError(f"{name} must sum to 1, got a sum that is off by {error:g}")
    if values not in (None, p.shape[-1]):
        raise ValueError(f"{name} must have {values} values of z, got {p.shape[-1]}")
