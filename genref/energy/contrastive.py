r"""The contrastive loss, the three terms it is made of, and what becomes of it with many terms.

A positive pair is a datum $x$ and another view $x'$ of it; a negative one has $x'$ drawn alone. The
score of a pair is $s = z \cdot y$ for the codes $z$ of $x$ and $y$ of $x'$; for a temperature
$\tau$, pass $z / \tau$. Laws are tables: a joint table holds the numbers $p(x, x')$ of positive
pairs, a table of scores, of the same shape, holds $s(x, x')$. All is in nats.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Positive",
    "alignment",
    "bias",
    "expected_loss",
    "fluctuation",
    "info_nce",
    "limit",
    "uniform_value",
    "uniformity",
]

Positive = Literal["included", "excluded"]
r"""Whether the positive pair is one of the $M$ terms of the denominator, or all are negative."""


def info_nce(scores: Float[Tensor, "*batch N columns"], positive: Positive = "included") -> Float[Tensor, "*batch"]:
    r"""Returns $L = \frac1N \sum_i [-s_{ii} + \log \sum_j e^{s_{ij}}]$, nothing subtracted.

    It costs a constant number of tables of the size of `scores`.

    Claim: contrastive-decomposition
        Let row $i$ of $N$ have the score $s_{ii}$ of its positive pair and $M$ terms
        $e^{s_{ij}}$ in its denominator, the positive one among them or not. Let
        $$L = \frac1N \sum_i \Bigl[ -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}} \Bigr],$$
        $$L_{\mathrm{align}} = \frac1N \sum_i s_{ii}, \quad
        L_{\mathrm{unif}} = \frac1N \sum_i \log \frac1M \sum_j e^{s_{ij}}.$$
        For every $N$, every $M$ and all scores
        $$L = -L_{\mathrm{align}} + L_{\mathrm{unif}} + \log M,$$
        with no limit taken; the sum with $+L_{\mathrm{align}}$ is too large by
        $2 L_{\mathrm{align}}$. As $\log M$ is constant, $\partial L / \partial s_{ij}
        = (e^{s_{ij}} / \sum_k e^{s_{ik}} - [i = j]) / N$ for all $M$ if the positive pair is among
        the terms. If all scores lie in $[-1/\tau, 1/\tau]$, as for unit codes at temperature
        $\tau$, then $|L - \log M| \le 2 / \tau$; if all scores are equal, $L = \log M$.

    Arguments:
        scores: The numbers $s_{ij}$ of row $x_i$ and column $x'_j$, at least as many columns as
            rows, with the positive pairs on the diagonal.
        positive: `"included"`: all columns are terms, so $M$ is their number. `"excluded"`: all
            but the diagonal one, so $M$ is one less.
    """
    rows, columns = scores.shape[-2:]
    _check_positive(positive)
    if not 1 <= rows <= columns:
        raise ValueError(f"scores must have a column for each row, got {tuple(scores.shape)}")
    if positive == "excluded" and columns < 2:
        raise ValueError(f"scores must have a negative pair, got {tuple(scores.shape)}")
    own = torch.eye(rows, columns, dtype=torch.bool, device=scores.device)
    negatives = scores.masked_fill(own, -math.inf).logsumexp(-1)
    loss = negatives - scores.diagonal(dim1=-2, dim2=-1)
    if positive == "included":
        loss = torch.logaddexp(loss, torch.zeros_like(loss))
    return loss.mean(-1)


def alignment(z: Float[Tensor, "*#batch N D"], y: Float[Tensor, "*#batch N D"]) -> Float[Tensor, "*batch"]:
    r"""Returns $L_{\mathrm{align}} = \frac1N \sum_i z_i \cdot y_i$, large where pairs agree."""
    if z.shape[-2:] != y.shape[-2:]:
        raise ValueError(f"y must have {tuple(z.shape[-2:])} entries, got {tuple(y.shape[-2:])}")
    return (z * y).sum(-1).mean(-1)


def uniformity(z: Float[Tensor, "*#batch N D"], y: Float[Tensor, "*#batch M D"]) -> Float[Tensor, "*batch"]:
    r"""Returns $L_{\mathrm{unif}} = \frac1N \sum_i \log \frac1M \sum_j e^{z_i \cdot y_j}$.

    Claim: contrastive-infomax
        Let $\ell = -E\, s(x, x') + E_x \log E_{x'} e^{s(x, x')}$ with bounded scores, where the
        first mean is over positive pairs and in the second $x'$ is drawn alone. Then
        $-\ell \le I(x; x')$. If $I(x; x')$ is finite, then with
        $q(x' \mid x) \propto p(x') e^{s(x, x')}$
        $$-\ell = I(x; x') - E_x \mathrm{KL}(p(x' \mid x) \,\Vert\, q(x' \mid x)).$$

        Let $z$ and $y$ be unit vectors of $\mathbb{R}^D$ and $s = z \cdot y / \tau$. If both are
        uniform, the second term of $\ell$ is
        $$u_D(\tau) = \log \bigl[ \Gamma(\tfrac D2) (2 \tau)^{D/2 - 1} I_{D/2 - 1}(1 / \tau)
        \bigr],$$
        with a modified Bessel function: $u_2(1) = 0.235914$, $u_3(1) = \log \sinh 1 = 0.161439$.
        If $z$ and $y$ have one law, whatever it is, the second term is at least $u_D(\tau)$, with
        equality for the uniform law and for no other; so $\ell \ge u_D(\tau) - 1 / \tau$, with
        equality if and only if $z = y$ almost surely and uniform. With two laws this fails for the
        second term: for $z = e$ and $y = -e$, a constant, it is $-1 / \tau < 0 < u_D(\tau)$.

    Arguments:
        z: The codes $z_i$, already divided by the temperature.
        y: The codes $y_j$ of the $M$ terms.
    """
    if z.shape[-1:] != y.shape[-1:]:
        raise ValueError(f"y must have {z.shape[-1]} coordinates, got {y.shape[-1]}")
    terms = y.shape[-2]
    return ((z @ y.mT).logsumexp(-1) - math.log(terms)).mean(-1)


def uniform_value(dimension: int, temperature: float = 1.0) -> float:
    r"""Returns $u_D(\tau) = \log E e^{z \cdot y / \tau}$ for a uniform unit vector $y$.

    It is the logarithm of $\sum_k (2 \tau)^{-2k} \Gamma(\frac D2) / (k! \, \Gamma(\frac D2 + k))$.

    Arguments:
        dimension: The number $D \ge 1$ of coordinates, not that of the sphere.
        temperature: The number $\tau > 0$.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    half, scale = dimension / 2, 2 * math.log(2 * temperature)
    terms = [
        math.lgamma(half) - math.lgamma(half + k) - math.lgamma(k + 1) - k * scale
        for k in range(60 + math.ceil(1 / temperature))
    ]
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))


def limit(
    joint: Float[Tensor, "*#batch x columns"], scores: Float[Tensor, "*#batch x columns"]
) -> Float[Tensor, "*batch"]:
    r"""Returns $\ell = -E\, s(x, x') + E_x \log E_{x'} e^{s(x, x')}$.

    Claim: contrastive-limit
        Let the score be bounded. For one row, let the denominator have $M$ terms: the positive one
        and those of $M - 1$ independent draws of $x'$ alone, or those of $M$ such draws. As $M$
        grows
        $$E L = \log M + \ell + \frac cM + O(M^{-2}).$$
        With $w = e^{s(x, x')} / E_{x'} e^{s(x, x')}$, where $x'$ is drawn alone,
        $$\begin{aligned}
        c &= -\tfrac12 E_x \operatorname{Var}_{x'} w, \\
        c &= -\tfrac12 E_x \operatorname{Var}_{x'} w + E\,w - 1,
        \end{aligned}$$
        the first if the positive pair is excluded, the second if it is included, where $E\,w$ is
        over positive pairs. So the loss itself diverges, as $\log M$. For a given $x$, the
        logarithm of the mean of $M$ independent terms has the standard deviation
        $(\operatorname{Var} w / M)^{1/2} (1 + O(1/M))$. For $y$ uniform on the circle and
        $\tau = 1$ the first $c$ is $-0.21107145$, and $(\operatorname{Var} w)^{1/2} = 0.6497$.

    Arguments:
        joint: The numbers $p(x, x')$.
        scores: The numbers $s(x, x')$, finite.
    """
    _check(joint, scores)
    log_mean = _log_mean(joint, scores).squeeze(-1)
    return (joint.sum(-1) * log_mean).sum(-1) - (joint * scores).sum((-2, -1))


def fluctuation(
    joint: Float[Tensor, "*#batch x columns"], scores: Float[Tensor, "*#batch x columns"]
) -> Float[Tensor, "*batch x"]:
    r"""Returns $(\operatorname{Var}_{x'} w)^{1/2}$ for each $x$, with the arguments of `limit`."""
    return (joint.sum(-2, keepdim=True) * _excess(joint, scores).square()).sum(-1).sqrt()


def bias(
    joint: Float[Tensor, "*#batch x columns"],
    scores: Float[Tensor, "*#batch x columns"],
    positive: Positive = "included",
) -> Float[Tensor, "*batch"]:
    r"""Returns the number $c$ of the claim at `limit`, with its arguments, and `positive`."""
    _check_positive(positive)
    excess = _excess(joint, scores)
    alone = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    c = -(alone * excess.square()).sum((-2, -1)) / 2
    return c if positive == "excluded" else c + (joint * excess).sum((-2, -1))


def expected_loss(
    joint: Float[Tensor, "*#batch x columns"],
    scores: Float[Tensor, "*#batch x columns"],
    terms: int,
    positive: Positive = "included",
) -> Float[Tensor, "*batch"]:
    r"""Returns $E L$ of one row, from $E \log S = \int (\exp(-e^u) - E \exp(-S e^u)) \, du$.

    Here $S$ is the denominator, and $E \exp(-S e^u)$ a product over its terms. The integrand is
    analytic and dies off at both ends, so the trapezoidal rule is exact but for rounding. It takes
    some 200 tables of the size of `scores`, and 4 for each nat that these span, for any $M$.

    Arguments:
        joint: The numbers $p(x, x')$.
        scores: The numbers $s(x, x')$, finite.
        terms: The number $M \ge 1$ of terms in the denominator.
        positive: Whether one of them is the positive pair; the others are drawn independently.
    """
    _check(joint, scores)
    _check_positive(positive)
    if terms < 1:
        raise ValueError(f"terms must be at least 1, got {terms}")
    centre = _log_mean(joint, scores) + math.log(terms)
    s = scores - centre
    least, most = s.detach().aminmax()
    low, high, step = -42 - max(0.0, most.item()), 4 - math.log(terms) - least.item(), 1 / 4
    u = torch.arange(low, high, step, dtype=s.dtype, device=s.device)
    died = torch.expm1(-(u + s[..., None]).clamp(max=5).exp())
    others = (joint.sum(-2, keepdim=True)[..., None] * died).sum(-2)
    others = others.clamp(min=torch.finfo(s.dtype).eps - 1).log1p()
    if positive == "included":
        first = (joint[..., None] * (1 + died)).sum(-2)
        survival = first * ((terms - 1) * others).exp()
    else:
        survival = joint.sum(-1)[..., None] * (terms * others).exp()
    integral = ((-u.exp()).exp() - survival.sum(-2)).sum(-1) * step
    return integral + (joint * (centre - scores)).sum((-2, -1))


def _log_mean(joint: Tensor, scores: Tensor) -> Tensor:
    return (scores + joint.sum(-2, keepdim=True).log()).logsumexp(-1, keepdim=True)


def _excess(joint: Tensor, scores: Tensor) -> Tensor:
    _check(joint, scores)
    possible = joint.sum(-2, keepdim=True) > 0
    return torch.expm1((scores - _log_mean(joint, scores)).where(possible, 0))


def _check_positive(positive: str) -> None:
    if positive not in get_args(Positive):
        raise ValueError(f"positive must be 'included' or 'excluded', got {positive!r}")


def _check(joint: Tensor, scores: Tensor) -> None:
    if scores.shape[-2:] != joint.shape[-2:]:
        wanted, size = tuple(joint.shape[-2:]), tuple(scores.shape[-2:])
        raise ValueError(f"scores must match the size {wanted} of joint, got {size}")
    if not scores.isfinite().all():
        raise ValueError(f"scores must be finite, got {scores.min():g} to {scores.max():g}")
    if not (joint >= 0).all():
        raise ValueError(f"joint must not be negative, got {joint.min():g}")
    error = (joint.sum((-2, -1)) - 1).abs().max()
    if not error <= torch.finfo(joint.dtype).eps ** 0.5:
        raise ValueError(f"joint must sum to 1, got a sum that is off by {error:g}")
