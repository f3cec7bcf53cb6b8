r"""What a contrastive loss says about mutual information, and the most that it can say.

Laws and scores are tables, as in `genref.energy.contrastive`: $p(x, x')$ for positive pairs, and
$s(x, x')$. The value of a loss is $\log M - L$, in nats.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from genref.energy.contrastive import Positive, _check, expected_loss, info_nce

__all__ = ["Kind", "best_score", "both_views", "bound", "cap", "two_sided"]

Kind = Literal["drawn", "batch", "joint"]
r"""Codes of one view each, with other views drawn or from one batch; or any score of both views."""


def bound(
    joint: Float[Tensor, "*#batch x columns"],
    scores: Float[Tensor, "*#batch x columns"],
    terms: int,
    positive: Positive = "included",
) -> Float[Tensor, "*batch"]:
    r"""Returns $\log M - E L$, exactly; a lower bound of $I(x; x')$ if the positive is included.

    Claim: x-infonce-bound
        Let $x$ and $x'$ have finitely many values and let
        $r(x, x') = p(x, x') / (p(x) p(x'))$. Let a row have $M$ terms: the positive pair and
        $M - 1$ pairs with independent draws of $x'$. For every score $s$
        $$\log M - E L \le I_M \le \min(I(x; x'), \log M),$$
        $$I_M = I(x; x') - E\, m \log m, \qquad m = \frac1M \sum_{j=1}^M r(x, x'_j),$$
        where in the last mean $x, x'_1, \dots, x'_M$ are independent. The scores
        $s = \log r + c(x)$, with any $c$, reach $I_M$, and if $M \ge 2$ and $r > 0$ everywhere, no
        others do. $I_M$ is 0 at $M = 1$, never falls as $M$ grows, and tends to $I(x; x')$; for a
        given score $\log M - E L$ may fall. If the positive pair is not among the $M$ terms, there
        is no bound: for $x = x'$ uniform on three symbols, the score $\lambda$ for equal ones and
        $-\lambda$ for others, and $M = 2$,
        $$\log M - E L = \tfrac89 \lambda + \tfrac49 (\log 2 - \log(1 + e^{-2 \lambda})),$$
        which is 5.6414 for $\lambda = 6$, where $I(x; x') = \log 3$.

    Arguments:
        joint: The numbers $p(x, x')$.
        scores: The numbers $s(x, x')$, finite.
        terms: The number $M \ge 1$ of terms in the denominator.
        positive: Whether one of them is the positive pair; the others are drawn independently.
    """
    return -expected_loss(joint, scores, terms, positive) + math.log(terms)


def best_score(joint: Float[Tensor, "*batch x columns"]) -> Float[Tensor, "*batch x columns"]:
    r"""Returns $\log r(x, x') = \log p(x, x') - \log p(x) - \log p(x')$, for $p(x, x') > 0$."""
    if not (joint > 0).all():
        raise ValueError(f"joint must be positive, got {joint.min():g}")
    _check(joint, torch.zeros_like(joint))
    return joint.log() - joint.sum(-1, keepdim=True).log() - joint.sum(-2, keepdim=True).log()


def cap(terms: int, temperature: float = 1.0, kind: Kind = "batch") -> float:
    r"""Returns $-\log(\frac1M + (1 - \frac1M) e^{-\Delta})$, the most that $\log M - L$ can be.

    Claim: x-contrastive-sphere-cap
        Let a row of a loss $L$ have the positive pair and $M - 1 \ge 1$ others as its terms, and
        let $\Delta$ be the mean of $s_{ii} - s_{ij}$ over all of them, $j \ne i$. For all scores
        $$\log M - L \le -\log \bigl( \tfrac1M + (1 - \tfrac1M) e^{-\Delta} \bigr)
        \le (1 - \tfrac1M)\, \Delta.$$
        Let $s = z \cdot y / \tau$ with unit vectors $z$ of $x$ alone and $y$ of $x'$ alone. If the
        others are independent draws of $x'$, then in expectation
        $$\Delta = (E\, z \cdot y - E z \cdot E y) / \tau \le 1 / \tau;$$
        if they are the other pairs of a batch of $M$, any batch, then
        $\Delta \le M / ((M - 1) \tau)$, with equality if $z_i = y_i$ are the corners of a regular
        simplex around the origin, and then also in the first half of the first line.
        So two encoders of one view each certify less than $1/\tau$ nats, however much $x$ and $x'$
        share, and come as close as one likes if $M$ and the number of corners are large. For an
        encoder of both views, with any score in $[-1/\tau, 1/\tau]$, $\Delta \le 2 / \tau$. If
        all positive pairs score $1 / \tau$ and all others $-1 / \tau$, the first line up to its
        second expression is an equality again, and the cap tends to $2 / \tau$ as
        $M \to \infty$.

    Arguments:
        terms: The number $M \ge 2$ of terms in the denominator.
        temperature: The number $\tau > 0$.
        kind: `"drawn"`: $\Delta = 1 / \tau$. `"batch"`: $\Delta = M / ((M - 1) \tau)$. `"joint"`:
            $\Delta = 2 / \tau$, any score of both views.
    """
    if terms < 2:
        raise ValueError(f"terms must be at least 2, got {terms}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be 'drawn', 'batch' or 'joint', got {kind!r}")
    difference = {"drawn": 1, "batch": terms / (terms - 1), "joint": 2}[kind] / temperature
    return -math.log((1 + (terms - 1) * math.exp(-difference)) / terms)


def two_sided(scores: Float[Tensor, "*batch N N"]) -> Float[Tensor, "*batch"]:
    r"""Returns the mean of the included losses of the rows and of the columns.

    Claim: x-contrastive-denominators
        Four losses are called contrastive. For a row with $M$ terms, the positive pair
        *included* or *excluded*, $L$ is $\log M$ if all scores are equal. For a batch of $N$ pairs,
        the *two-sided* loss is the mean of the included one over rows and over columns, $N$ terms
        each, $\log N$ at equal scores; in general it is not that of the rows. The loss with *both
        views* compares each of the $2N$ codes with its partner and with the $2N - 2$ codes of the
        other pairs, and is $\log(2N - 1)$ at equal scores.

        For $N$ independent pairs, one encoder for both views and any score of two codes, the
        included and the two-sided loss satisfy $\log N - E L \le I(x; x')$. The excluded one does
        not. The one with both views has $\log N - E L \le I(x; x')$, but $\log(2N - 1) - E L$ may
        pass $I(x; x')$: if $z = y$ is $e$ or $-e$, each with probability $\frac12$, and $N = 5$, it
        tends to
        $$\log 9 - \tfrac{1}{16} (4 \log 3 + 6 \log 5 + 4 \log 7 + \log 9) = 0.695228$$
        as $\tau \to 0$, which is more than $\log 2 = I(x; x')$.

    Arguments:
        scores: The numbers $s_{ij}$ of $x_i$ with $x'_j$, the positive pairs on the diagonal.
    """
    if scores.shape[-2] != scores.shape[-1]:
        raise ValueError(f"scores must be square, got {tuple(scores.shape)}")
    return (info_nce(scores) + info_nce(scores.mT)) / 2


def both_views(
    z: Float[Tensor, "*#batch N D"], y: Float[Tensor, "*#batch N D"], temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""Returns the loss of $2N$ codes, each with $2N - 1$ terms: all but itself.

    Arguments:
        z: The codes $z_i$ of the first views.
        y: The codes $y_i$ of the second views, from the same encoder.
        temperature: The number $\tau > 0$ by which $z \cdot y$ is divided.
    """
    if z.shape[-2:] != y.shape[-2:]:
        raise ValueError(f"y must have {tuple(z.shape[-2:])} entries, got {tuple(y.shape[-2:])}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    codes = torch.cat(torch.broadcast_tensors(z, y), -2)  # type: ignore[no-untyped-call]
    own = torch.eye(codes.shape[-2], dtype=torch.bool, device=codes.device)
    scores = (codes @ codes.mT / temperature).masked_fill(own, -math.inf)
    return info_nce(scores.roll(-z.shape[-2], -1))
