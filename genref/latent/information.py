r"""How much information a code must hold, read from the loss of an autoencoder.

All laws are tables. A joint table holds the numbers $p(x, y)$ of a datum and its code; a table of
losses, of the same shape, holds $l(x, y)$ for the decoder's output at the code $y$. All is in nats.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "best_reconstruction",
    "contrastive_bound",
    "cross_entropy",
    "excess",
    "information_bound",
    "views",
]


def cross_entropy(
    x: Float[Tensor, "*#batch x D"],
    x_hat: Float[Tensor, "*#batch y D"],
) -> Float[Tensor, "*batch x y"]:
    r"""Returns $l(x, y) = -\sum_j [x_j \log \hat x_j(y) + (1 - x_j) \log(1 - \hat x_j(y))]$.

    Arguments:
        x: A row of zeros and ones for each value of the datum.
        x_hat: A row $\hat x(y)$ for each code, with entries from 0 to 1.
    """
    if not ((x == 0) | (x == 1)).all():
        raise ValueError(f"x must be 0 or 1, got values from {x.min():g} to {x.max():g}")
    if not ((x_hat >= 0) & (x_hat <= 1)).all():
        raise ValueError(f"x_hat must be in [0, 1], got {x_hat.min():g} to {x_hat.max():g}")
    _check_size("x_hat", x_hat.shape[-1:], x.shape[-1:])
    x, x_hat = x[..., :, None, :], x_hat[..., None, :, :]
    log_r: Tensor = torch.xlogy(x, x_hat) + torch.special.xlog1py(1 - x, -x_hat)
    return -log_r.sum(-1)


def best_reconstruction(
    joint: Float[Tensor, "*#batch x y"],
    x: Float[Tensor, "*#batch x D"],
) -> Float[Tensor, "*batch y D"]:
    r"""Returns $\hat x(y) = E[X \mid Y = y]$, which has the least cross-entropy and squared error.

    For a code that never occurs, any value would do. It is the lowest entry of `x`.

    Arguments:
        joint: The numbers $p(x, y)$.
        x: A row for each value of the datum.
    """
    _check_law("joint", joint, 2)
    low, high = x.min(), x.max()
    code = joint.sum(-2)[..., None]
    mean = joint.mT @ x / code.where(code > 0, 1)
    return mean.where(code > 0, low).clamp(low, high)


def excess(loss: Float[Tensor, "*batch x y"]) -> Float[Tensor, "*batch"]:
    r"""Returns $\max_y \log \sum_x e^{-l(x, y)}$, the most by which $H(X) - l$ passes $I(X; Y)$."""
    return torch.logsumexp(-loss, -2).amax(-1)


def information_bound(
    joint: Float[Tensor, "*#batch x y"],
    loss: Float[Tensor, "*#batch x y"],
) -> Float[Tensor, "*batch"]:
    r"""Returns $H(X) - l(X \mid Y)$, which $I(X; Y)$ is never below.

    Claim: ae-mi-bound
        Let $X \in \{0, 1\}^D$ have any law, let the code $Y$ have finitely many values, drawn from
        any encoder $p(y \mid x)$, deterministic or not, and let $\hat x(y) \in [0, 1]^D$ be any
        decoder. Let $l(X \mid Y)$ be the mean of the cross-entropy
        $l(x, y) = -\sum_j [x_j \log \hat x_j(y) + (1 - x_j) \log(1 - \hat x_j(y))]$, with the same
        logarithm as in $H$ and $I$. Then
        $$\begin{aligned}
        &I(X; Y) - \bigl( H(X) - l(X \mid Y) \bigr) \\
        &\qquad = E_Y \mathrm{KL} \Bigl( p(x \mid Y) \Bigm\Vert \prod_j \hat x_j(Y)^{x_j}
        (1 - \hat x_j(Y))^{1 - x_j} \Bigr) \ge 0,
        \end{aligned}$$
        so for all parameters $\theta$ of the two,
        $\sup_\theta I(X; Y) \ge \sup_\theta [H(X) - l(X \mid Y)]$. Equality holds in the formula
        if and only if, given any code that occurs, the $X_j$ are independent with the means
        $\hat x_j$. For any other table of losses of a finite $X$, the most by which
        $H(X) - E\, l(X, Y)$ can pass $I(X; Y)$ is $\max_y \log \sum_x e^{-l(x, y)}$. With $\hat x$
        constant this is at most, and at $\hat x = \frac12$ it is: $\log 3 - \log 2 = 0.405465$ for
        the cross-entropy of the grey levels $0, \frac12, 1$; $\log 2 - \frac18 = 0.568147$ for
        $\frac12 (x - \hat x)^2$ of a bit; and $1 - \log 2 = 0.3069$ bits for the cross-entropy of a
        bit in nats, subtracted from an entropy in bits.

    Arguments:
        joint: The numbers $p(x, y)$.
        loss: The numbers $l(x, y)$ in nats, infinite where $\hat x(y)$ rules $x$ out. Of each code,
            $\sum_x e^{-l(x, y)}$ must be at most 1, as it is for `cross_entropy`.
    """
    _check_law("joint", joint, 2)
    _check_size("loss", loss.shape[-2:], joint.shape[-2:])
    most = excess(loss).max()
    if not most <= torch.finfo(loss.dtype).eps ** 0.5:
        raise ValueError(f"loss must have an excess of at most 0, got {most:g}: it is no bound")
    surprise: Tensor = torch.special.entr(joint.sum(-1))
    return surprise.sum(-1) - (joint * loss.where(joint > 0, 0)).sum((-2, -1))


def views(
    datum: Float[Tensor, "*#batch s"],
    augmentation: Float[Tensor, "*#batch s x"],
) -> Float[Tensor, "*batch x x"]:
    r"""Returns $p(x, x') = \sum_s p(s)\, a(x \mid s)\, a(x' \mid s)$, of two views of one datum.

    Arguments:
        datum: The probabilities $p(s)$.
        augmentation: The probabilities $a(x \mid s)$, a row for each $s$.
    """
    _check_law("datum", datum, 1)
    _check_law("augmentation", augmentation, 1)
    _check_size("augmentation", augmentation.shape[-2:-1], datum.shape[-1:])
    return augmentation.mT @ (datum[..., None] * augmentation)


def contrastive_bound(
    joint: Float[Tensor, "*#batch z y"],
    score: Float[Tensor, "*#batch z y"],
    terms: int,
) -> Float[Tensor, "*batch"]:
    r"""Returns $I_M = E \log (e^{t(z, z'_1)} / \frac1M \sum_{j=1}^M e^{t(z, z'_j)})$, exactly.

    The sum runs over the ways in which $M - 1$ independent draws fall on the values of $z'$.

    Claim: ssl-replacement
        Let $x$ and $x'$ be two views with finitely many values, and let $z$ and $z'$ be codes of
        them, each made from its view alone. Let $z'_1 = z'$, and let $z'_2, \dots, z'_M$ be
        independent draws from the law of $z'$. For every score $t$,
        $$I_M = E \log \frac{e^{t(z, z'_1)}}{\frac1M \sum_{j=1}^M e^{t(z, z'_j)}}
        \le \min \bigl( \log M, I(z; z') \bigr) \le \min \bigl( \log M, I(x; x') \bigr).$$
        Let $x = (s, v)$ and $x' = (s, v')$, with $s$ uniform on four values, $v$ and $v'$ fair
        bits, and all three independent. For every code $z$ of $x$ and every $\beta$,
        $$\begin{aligned}
        I(z; x') - \beta I(x; z) &= (1 - \beta)\, I(z; s) - \beta\, I(z; v \mid s), \\
        I(x; z) - \beta I(x; z) &= (1 - \beta)\, I(z; s) + (1 - \beta)\, I(z; v \mid s).
        \end{aligned}$$
        For $0 < \beta < 1$ the greatest value of the first line is $(1 - \beta) \log 4$, reached
        by $z = s$ and by no code that depends on $v$ given $s$; that of the second, where $x$ is
        reconstructed, is $(1 - \beta) \log 8$, reached by $z = x$. For $z = s$ and $z' = s$ with
        $e^t = 1$ for equal codes and $e^t = 0$ for others, $I_M = E \log (M / (1 + N))$, where $N$
        is binomial with $M - 1$ trials of probability $1/4$, and this tends to
        $I(x; x') = \log 4$.

    Arguments:
        joint: The numbers $p(z, z')$.
        score: The numbers $t(z, z')$; $-\infty$ stands for $e^t = 0$, but not in all of a row. If
            a pair that occurs has it, the result is $-\infty$.
        terms: The number $M \ge 1$ of terms in the denominator, the positive one among them.
    """
    _check_law("joint", joint, 2)
    _check_size("score", score.shape[-2:], joint.shape[-2:])
    top = score.amax(-1)
    if not top.isfinite().all():
        raise ValueError(f"score must have a finite maximum in each row, got {top.min():g}")
    if terms < 1:
        raise ValueError(f"terms must be at least 1, got {terms}")
    counts, chance = _draws(joint.sum(-2), terms - 1)
    live = score > -math.inf
    negatives = (score[..., None, :] + counts.log()).where(live[..., None, :], -math.inf)
    none = (negatives == -math.inf).all(-1)
    others = negatives.where(~none[..., None], 0).logsumexp(-1).where(~none, -math.inf)
    positive = score.where(live, 0)[..., None]
    value = positive - torch.logaddexp(positive, others[..., None, :]) + math.log(terms)
    mass = joint[..., None] * chance[..., None, None, :]
    return (mass * value.where(live[..., None], -math.inf).where(mass > 0, 0)).sum((-3, -2, -1))


def _draws(p: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Returns how often each value can be drawn in so many draws, and the probabilities."""
    n = p.shape[-1]
    end = number + n - 1
    bars = [(-1, *chosen, end) for chosen in combinations(range(end), n - 1)]
    counts = torch.tensor(bars, dtype=p.dtype, device=p.device).diff() - 1
    ways = math.lgamma(number + 1) - torch.lgamma(counts + 1).sum(-1)
    return counts, (ways + torch.xlogy(counts, p[..., None, :]).sum(-1)).exp()


def _check_size(name: str, size: Sequence[int], wanted: Sequence[int]) -> None:
    if size != wanted:
        raise ValueError(f"{name} must match the size {tuple(wanted)}, got {tuple(size)}")


def _check_law(name: str, p: Tensor, dims: int) -> None:
    if not (p >= 0).all():
        raise ValueError(f"{name} must not be negative, got {p.min():g}")
    error = (p.flatten(-dims).sum(-1) - 1).abs().max()
    if not error <= torch.finfo(p.dtype).eps ** 0.5:
        raise ValueError(f"{name} must sum to 1, got a sum that is off by {error:g}")
