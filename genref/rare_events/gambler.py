r"""The gambler's ruin: a rare event with an exact answer, and samplers that find it.

A gambler with balance $s$ bets 1 in each game, wins it with probability $p$ or loses it, and stops
at 0, at the goal $g$, or after $k$ games. A `Fraction` for a probability gives exact fractions;
floats have a relative error near $10^{-13}$ in a thousand games, but lose digits below $10^{-308}$.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from genref.numerics.estimate import Estimate, estimate

__all__ = ["cross_entropy", "drift", "exact", "importance_sampling", "second_moment", "unlimited"]

_P = TypeVar("_P", float, Fraction)


def exact(p: _P, start: int, goal: int, games: int, ruin: bool = True, stop: bool = True) -> _P:
    r"""Returns $h(s, k)$, the chance to reach the goal from balance $s$ within $k$ games.

    Claim: gambler-exact
        Let each bet be won with probability $p$, $0 < p < 1$, independently, and let play stop at
        balance 0, at the goal $g$, or after $k$ games. The probability $h(s, k)$ of stopping at the
        goal, from balance $s$ with $k$ games left, is the solution of
        $$\begin{aligned} h(s, k) = {} & p\,h(s + 1, k - 1) \\
        & + (1 - p)\,h(s - 1, k - 1) \end{aligned}$$
        for $0 < s < g$ and $k \ge 1$, with $h(g, k) = 1$, $h(0, k) = 0$ and $h(s, 0) = 0$ for
        $s < g$. For $p = 18/37$, $s = 100$, $g = 200$ and $k = 600$ it is
        $2.38838345061 \times 10^{-6}$.

        It is not the probability $1.22945616565 \times 10^{-6}$ of having 200 or more after 600
        games that nothing stops, nor the probability $4.10647268852 \times 10^{-7}$ of having 200
        exactly. Ruin hardly matters: without the stop at 0, the probability of reaching 200 is
        larger by $3.304 \times 10^{-37}$; with no stop but that at 0, the probability of having 200
        or more is smaller by $2.414 \times 10^{-37}$ than without any. Without a limit of games the
        answer is $1 / (1 + (19/18)^{100})$, that is $4.46628453949 \times 10^{-3}$.

    Arguments:
        p: The probability of winning a bet, between 0 and 1.
        start: The balance $s$.
        goal: The goal $g > s$.
        games: The number $k$ of games.
        ruin: Whether play stops at 0. If not, the balance may become negative.
        stop: Whether play stops at the goal. If not, a balance of $g$ or more at the end counts.
    """
    _check(p, start, goal, games)
    low = 0 if ruin else start - games - 1
    high = goal if stop else start + games + 1
    end = [int(balance >= goal) for balance in range(low, high + 1)]
    return _chances(end, p, 1 - p, 1, start - low, games)[-1]


def unlimited(p: _P, start: int, goal: int) -> _P:
    r"""Returns $h(s, \infty) = r^{g-s} (1 - r^s) / (1 - r^g)$ with $r = p/(1-p)$; $s/g$ if $r = 1$.

    Claim: x-gambler-siegmund
        Let $0 < p < 1$, $k \ge g - s$ and $r = p / (1 - p)$, and draw the bets with the probability
        $q = 1 - p$. Every path from $s$ to the goal $g$ has the weight $r^{g - s}$, however long it
        is. So $h_p(s, k) = r^{g - s} h_{1 - p}(s, k)$, and one run has the relative variance
        $1 / h_{1 - p}(s, k) - 1$, with a limit of games or without.

        For $p < 1/2$ and $k = \infty$ this is $r^s (1 - r^{g - s}) / (1 - r^s)$, which tends to 0
        as $s$ grows. For $p = 18/37$, $s = 100$ and $g = 200$ it is $(18/19)^{100} = .00448632$;
        with $k = 600$ games it is $1877.39$.

    Arguments:
        p: The probability of winning a bet, between 0 and 1.
        start: The balance $s$.
        goal: The goal $g > s$.
    """
    _check(p, start, goal)
    if isinstance(p, Fraction):
        down = (1 - p) / p
        return Fraction(start, goal) if down == 1 else (1 - down**start) / (1 - down**goal)
    log_r = -abs(math.log(p / (1 - p)))  # the odds below 1: their powers do not overflow
    fall = 1.0 if p > 0.5 else math.exp((goal - start) * log_r)
    return fall * (math.expm1(start * log_r) / math.expm1(goal * log_r) if log_r else start / goal)


def importance_sampling(
    p: float | Fraction,
    q: float | Fraction,
    start: int,
    goal: int,
    games: int,
    runs: int,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Returns the mean of $1_A w$ over runs in which bets are won with probability $q$.

    Claim: gambler-is
        Let $0 < p, q < 1$. Draw bets that are won with probability $q$ until play stops, at time
        $T$. Let $W$ and $L$ be the numbers of bets won and lost until then, $A$ the event of
        stopping at the goal, and $w = (p/q)^W ((1 - p)/(1 - q))^L$. Then $1_A w$ has the mean
        $h(s, k)$, and its second moment solves the recursion of $h$ with $p^2/q$ and
        $(1 - p)^2/(1 - q)$ in the places of $p$ and $1 - p$. If all $k$ games are drawn and
        weighed, whatever happens, the mean is the same and the variance larger by
        $$E_p[1_A\,w\,(c^{k - T} - 1)], \quad c = 1 + \frac{(p - q)^2}{q (1 - q)}.$$

        If $k \ge g - s$, both second moments are log-convex in $q$. For $p = 18/37$, $s = 100$,
        $g = 200$ and $k = 600$, the standard deviation of one run relative to $h$ is $3.860165$ at
        $q = .55$ and at best $1.337031$, at $q = .58806973$. With the weights of all games it is
        $6.749347$ at $q = .55$ and at best $5.481693$, at $q = .56526661$.

    Arguments:
        p: The probability of winning a bet, between 0 and 1.
        q: The probability of winning used for sampling. With $q = p$ this is plain Monte Carlo.
        start: The balance $s$.
        goal: The goal $g > s$.
        games: The number $k$ of games.
        runs: The number of runs, at least 2.
        generator: Chance; results are on its device, in float64.
    """
    p, q = float(p), float(q)
    _check(p, start, goal, games, q, runs)
    device = None if generator is None else generator.device
    balance = torch.full((runs,), float(start), dtype=torch.float64, device=device)
    left = torch.full_like(balance, games)
    while (leap := balance.minimum(goal - balance).minimum(left)).any():  # no end inside a leap
        won = torch.binomial(leap, torch.full_like(leap, q), generator=generator)
        balance += 2 * won - leap
        left -= leap
    won = (games - left + balance - start) / 2
    lost = games - left - won
    log_w = won * math.log(p / q) + lost * math.log((1 - p) / (1 - q))
    log_w = log_w.where(balance == goal, -torch.inf)
    top = log_w.max().clamp(min=-1e3)  # taken out, or the squares of small weights underflow
    return Estimate(*(top.exp() * found for found in estimate((log_w - top).exp())))


def second_moment(p: _P, q: _P, start: int, goal: int, games: int, stopped: bool = True) -> _P:
    r"""Returns $E_q[1_A w^2]$; less $h(s, k)^2$, it is the variance of one run.

    Arguments:
        p: The probability of winning a bet, between 0 and 1.
        q: The probability of winning used for sampling, of the type of `p`.
        start: The balance $s$.
        goal: The goal $g > s$.
        games: The number $k$ of games.
        stopped: Whether weights end when play does. If not, they are those of all $k$ games.
    """
    _check(p, start, goal, games, q)
    won, lost = p**2 / q, (1 - p) ** 2 / (1 - q)
    return _chances([0] * goal + [1], won, lost, 1 if stopped else won + lost, start, games)[-1]


def cross_entropy(p: _P, start: int, goal: int, games: int, stopped: bool = True) -> _P:
    r"""Returns $q_{\mathrm{ce}} = E_p[W \mid A] / E_p[T \mid A]$, the share of wins in successes.

    Claim: x-gambler-ce
        Let $0 < p < 1$ and $k \ge g - s$. Among the laws $Q_q$, $0 < q \le 1$, of independent bets
        won with probability $q$ until play stops at time $T$, the nearest to that of successes, in
        $\mathrm{KL}(P_p(\cdot \mid A) \Vert Q_q)$, has
        $$q_{\mathrm{ce}} = \frac{E_p[W \mid A]}{E_p[T \mid A]}
        = \frac12 + \frac{g - s}{2 E_p[T \mid A]}.$$
        Let $g > 2$ and $k \ge g - s + 2$, so that a success may contain a loss. Then the second
        moment of $1_A w$ has exactly one minimiser $q_{\mathrm{var}}$, and
        $$\max(p, 1 - p) < q_{\mathrm{var}} < q_{\mathrm{ce}} < 1.$$

        For $p = 18/37$, $s = 100$, $g = 200$ and $k = 600$ a success takes $544.093019365$ games on
        average, and $q_{\mathrm{ce}} = .591896051264$. For the law of all 600 bets the nearest is
        $q = .582074167103$.

    Arguments:
        p: The probability of winning a bet, between 0 and 1.
        start: The balance $s$.
        goal: The goal $g > s$.
        games: The number $k$ of games, at least $g - s$.
        stopped: Whether the law is that of the bets up to $T$. If not, it is that of all $k$ bets.
    """
    _check(p, start, goal, games)
    if games < goal - start:
        raise ValueError(f"games must be at least goal - start = {goal - start}, got {games}")
    top = max(p, 1 - p)  # the law of T given success is the same, and larger chances underflow late
    h = _chances([0] * goal + [1], top, 1 - top, 1, start, games)
    if h[-1] == 0:
        raise ValueError(f"p must be a Fraction where success has the chance 0 as a float, got {p}")
    time: _P = games - sum(h[:-1]) / h[-1]
    won: _P = (time + goal - start) / 2
    return won / time if stopped else (won + p * (games - time)) / games


def drift(p: float | Fraction, goal: int, games: int) -> Float[Tensor, "left balance"]:
    r"""Returns the table of $q^\star(s, k) = p\,h(s + 1, k - 1) / h(s, k)$, in row $k$, column $s$.

    Claim: x-gambler-doob
        Let $0 < p < 1$, $0 < s < g$ and $k \ge g - s$, so that $h(s, k) > 0$. If each bet is won
        with probability
        $$q^\star(s, k) = \frac{p\,h(s + 1, k - 1)}{h(s, k)},$$
        where $s$ is the balance and $k$ the number of games left before it, then the path has the
        law $P_p(\cdot \mid A)$. Every run succeeds and has the weight $h(s, k)$ of its beginning:
        the estimate has variance 0, as under no other law of the path for which it is unbiased. The
        table is the same for $p$ and $1 - p$, and $q^\star > \max(p, 1 - p)$. For $p = 18/37$ and
        $g = 200$, $q^\star(100, 600) = .58789201$.

    Arguments:
        p: The probability of winning a bet, between 0 and 1.
        goal: The goal $g$, from 2 to 2000.
        games: The number of games at the beginning; the table has a row for 0 games too.

    Returns:
        Float64; with $\max(p, 1 - p)$ where success is impossible or play is over.
    """
    _check(p, 1, goal, games)
    if goal > 2000:
        raise ValueError(f"goal must be at most 2000, got {goal}")
    p = max(float(p), float(1 - p))  # the table is the same
    up = p**0.5  # chances are divided by up^(g - s), the middle of their range: no underflow
    rows = islice(_rows([0.0] * goal + [1.0], up, up * (1 - p), 1.0), games + 1)
    h = torch.tensor(list(rows), dtype=torch.float64)
    q = torch.full_like(h, p)
    q[1:, 1:-1] = (up * h[:-1, 2:] / h[1:, 1:-1]).where(h[1:, 1:-1] > 0, p)
    return q


def _rows(h: list[Any], won: Any, lost: Any, after: Any) -> Iterator[list[Any]]:
    """Yields the chances from all balances with 0, 1, 2, ... games left; the ends absorb."""
    while True:
        yield h
        inner = [lost * poor + won * rich for poor, rich in zip(h, h[2:], strict=False)]
        h = [after * h[0], *inner, after * h[-1]]


def _chances(end: list[int], won: _P, lost: _P, after: Any, start: int, games: int) -> list[_P]:
    """Returns the chances from one balance; fractions are integers over a common denominator."""
    if not isinstance(won, Fraction):
        rows = _rows([float(h) for h in end], won, lost, after)
        return [h[start] for h in islice(rows, games + 1)]
    scale = math.lcm(won.denominator, lost.denominator, after.denominator)
    rows = _rows(end, int(scale * won), int(scale * lost), int(scale * after))
    return [Fraction(h[start], scale**k) for k, h in enumerate(islice(rows, games + 1))]


def _check(p: Any, start: int, goal: int, games: int = 0, q: Any = 0.5, runs: int = 2) -> None:
    for name, chance in {"p": p, "q": q}.items():
        if not 0 < chance < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {chance}")
    least = {"start": (start, 1), "goal": (goal, 2), "games": (games, 0), "runs": (runs, 2)}
    for name, (number, lowest) in least.items():
        if not hasattr(number, "__index__") or number < lowest:
            raise ValueError(f"{name} must be a whole number, at least {lowest}, got {number}")
    if start >= goal:
        raise ValueError(f"start must be less than goal = {goal}, got {start}")
