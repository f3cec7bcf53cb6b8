import math
import re
from fractions import Fraction
from functools import cache
from itertools import product
from math import comb
from pathlib import Path
from runpy import run_path

import mpmath
import pytest
import torch
from matplotlib.figure import Figure
from scipy.optimize import brentq, minimize_scalar

from genref._site.claims import mutant
from genref.numerics.estimate import Estimate, estimate
from genref.rare_events.gambler import (
    cross_entropy,
    drift,
    exact,
    importance_sampling,
    second_moment,
    unlimited,
)

DOUBLE = torch.float64
SNIPPET = Path(__file__).parents[2] / "snippets/rare_events/gambler.py"
WHEEL, START, GOAL, GAMES = Fraction(18, 37), 100, 200, 600
HINT = Fraction(11, 20)
QUESTION = (START, GOAL, GAMES)
READINGS = list(product((True, False), repeat=2))
SMALL = [(s, g, k) for g in (2, 3, 5) for s in range(1, g) for k in (0, 1, 2, 5, 8)]


def double(*values):
    return torch.tensor([float(value) for value in values], dtype=DOUBLE)


def probability(generator):
    """A fraction between 1/6 and 5/6 that is not 1/2."""
    return Fraction(2 * int(torch.randint(17, 83, (), generator=generator)) + 1, 200)


def inner(generator):
    """A probability for sampling that is not too far from the middle."""
    return Fraction(2 * int(torch.randint(45, 70, (), generator=generator)) + 1, 200)


# Every sequence of bets, played by hand.


@cache
def plays(start, goal, games, ruin=True, stop=True):
    """Of all sequences of bets: the sequence, whether it succeeds, and when play stops."""
    found = []
    for bets in product((1, -1), repeat=games):
        balance, time = start, games
        for number, bet in enumerate(bets, 1):
            balance += bet
            if (ruin and balance == 0) or (stop and balance == goal):
                time = number
                break
        found.append((bets, balance >= goal, time))
    return found


def chance(p, bets):
    return p ** bets.count(1) * (1 - p) ** bets.count(-1)


def enumerated(p, start, goal, games, ruin=True, stop=True):
    return sum(chance(p, bets) for bets, won, _ in plays(start, goal, games, ruin, stop) if won)


def moment_enumerated(p, q, start, goal, games, stopped):
    total = Fraction(0)
    for bets, won, time in plays(start, goal, games):
        weighed = bets[:time] if stopped else bets
        total += won * chance(q, bets) * (chance(p, weighed) / chance(q, weighed)) ** 2
    return total


# Counts of paths by images, for the question itself.


def to(distance, bets):
    """The number of sequences of bets that end at a distance."""
    possible = abs(distance) <= bets and (bets + distance) % 2 == 0
    return comb(bets, (bets + distance) // 2) if possible else 0


@cache
def first_visits(start, goal, games):
    """How many paths between 0 and the goal reach it first at each time."""
    wrap = range(-games // (2 * goal) - 1, games // (2 * goal) + 2)
    ways = {}
    for time in range(goal - start, games + 1, 2):
        away = [(goal - 1 - start + 2 * m * goal, 1 - goal - start + 2 * m * goal) for m in wrap]
        ways[time] = sum(to(near, time - 1) - to(image, time - 1) for near, image in away)
    return ways


def summed(won, lost, start, goal, games):
    """The sum over successes of the powers of two numbers, one for each bet won and lost."""
    d = goal - start
    ways = first_visits(start, goal, games)
    return sum(n * won ** ((t + d) // 2) * lost ** ((t - d) // 2) for t, n in ways.items())


def by_images(p, start, goal, games, ruin=True, stop=True):
    d = goal - start
    if ruin and stop:
        return summed(p, 1 - p, start, goal, games)
    if stop:  # the hitting time theorem
        times = range(d, games + 1, 2)
        return sum(to(d, t) * won(p, d, t) * d / t for t in times)
    ends = range(d, games + 1)
    image = {x: to(x + 2 * start, games) if ruin else 0 for x in ends}
    return sum((to(x, games) - image[x]) * won(p, x, games) for x in ends if not (x + games) % 2)


def won(p, distance, bets):
    return p ** ((bets + distance) // 2) * (1 - p) ** ((bets - distance) // 2)


def success(p):
    return by_images(p, *QUESTION)


def moment_by_images(p, q, start, goal, games, stopped=True):
    up, down, d = p**2 / q, (1 - p) ** 2 / (1 - q), goal - start
    rest = 1 if stopped else up + down
    ways = first_visits(start, goal, games)
    powers = {t: up ** ((t + d) // 2) * down ** ((t - d) // 2) * rest ** (games - t) for t in ways}
    return sum(n * powers[t] for t, n in ways.items())


def relative_deviation(moment, h):
    return math.sqrt(moment / h**2 - 1)


def slope(q, p, start, goal, games, stopped=True):
    """The derivative in q of the logarithm of the second moment."""
    d = goal - start
    rest = 1 if stopped else p**2 / q + (1 - p) ** 2 / (1 - q)
    growth = 0 if stopped else ((1 - p) / (1 - q)) ** 2 - (p / q) ** 2
    logs, slopes = [], []
    for t, n in first_visits(start, goal, games).items():
        log = math.log(n) + (t + d) / 2 * math.log(p**2 / q) + (games - t) * math.log(rest)
        logs.append(log + (t - d) / 2 * math.log((1 - p) ** 2 / (1 - q)))
        slopes.append((t - d) / 2 / (1 - q) - (t + d) / 2 / q + (games - t) * growth / rest)
    weights = torch.tensor(logs, dtype=DOUBLE).softmax(0)
    return (weights @ torch.tensor(slopes, dtype=DOUBLE)).item()


def best(p, start, goal, games, stopped=True):
    return brentq(slope, 0.01, 0.99, (float(p), start, goal, games, stopped), xtol=1e-14)


@pytest.mark.claim("gambler-exact", answers=["D5"])
def test_exact(evidence, chance_of=exact):
    mpmath.mp.dps = 40
    p = probability(evidence.generator)
    cases = [(*case, *reading) for case in SMALL for reading in READINGS]
    evidence.exact(
        {case: chance_of(p, *case) for case in cases},
        {case: enumerated(p, *case) for case in cases},
        oracle="all sequences of bets, played by hand",
    )
    for x in (WHEEL, probability(evidence.generator)):
        evidence.exact(
            {reading: chance_of(x, *QUESTION, *reading) for reading in READINGS},
            {reading: by_images(x, *QUESTION, *reading) for reading in READINGS},
            oracle="paths counted by images",
        )
        for reading in READINGS:
            evidence.numeric(
                double(chance_of(float(x), *QUESTION, *reading)),
                double(by_images(mpmath.mpf(float(x)), *QUESTION, *reading)),
                bound=1e-13,
                relative=True,
                oracle="paths counted by images",
            )
    reach, both = chance_of(WHEEL, *QUESTION), chance_of(WHEEL, *QUESTION, False, False)
    evidence.numeric(
        double(
            reach,
            both,
            comb(600, 350) * WHEEL**350 * (1 - WHEEL) ** 250,
            1 / (1 + Fraction(19, 18) ** 100),
        ),
        double(2.38838345061e-6, 1.22945616565e-6, 4.10647268852e-7, 4.46628453949e-3),
        bound=1e-11,
        relative=True,
        oracle="the numbers of the claim",
    )
    evidence.numeric(
        double(
            chance_of(WHEEL, *QUESTION, False, True) - reach,
            both - chance_of(WHEEL, *QUESTION, True, False),
        ),
        double(3.304e-37, 2.414e-37),
        bound=1e-3,
        relative=True,
        oracle="the numbers of the claim",
    )
    evidence.numeric(
        double(chance_of(18 / 37, 10, 20, 4000)),
        double(1 / (1 + Fraction(19, 18) ** 10)),
        bound=1e-12,
        relative=True,
        oracle="the chance without a limit of games",
    )


@mutant(test_exact, "350 of 600 games are to be won, whatever happens on the way")
def final_balance(p, start, goal, games, ruin=True, stop=True):
    return exact(p, start, goal, games, ruin=False, stop=False)


@mutant(test_exact, "the balance is to be the goal after the last game")
def final_goal(p, start, goal, games, ruin=True, stop=True):
    return to(goal - start, games) * won(p, goal - start, games)


@mutant(test_exact, "play goes on in debt")
def in_debt(p, start, goal, games, ruin=True, stop=True):
    return exact(p, start, goal, games, False, stop)


@mutant(test_exact, "ruin is a balance below 0")
def below_zero(p, start, goal, games, ruin=True, stop=True):
    return exact(p, start + 1, goal + 1, games, ruin, stop)


@mutant(test_exact, "success is a balance above the goal")
def above_goal(p, start, goal, games, ruin=True, stop=True):
    return exact(p, start, goal + 1, games, ruin, stop)


@mutant(test_exact, "one game more")
def one_more(p, start, goal, games, ruin=True, stop=True):
    return exact(p, start, goal, games + 1, ruin, stop)


@mutant(test_exact, "a wheel with a second zero")
def american(p, start, goal, games, ruin=True, stop=True):
    return exact(p * 37 / 38, start, goal, games, ruin, stop)


@mutant(test_exact, "the reflection principle of the fair game")
def reflected(p, start, goal, games, ruin=True, stop=True):
    if not stop:
        return exact(p, start, goal, games, ruin, stop)
    ends = range(goal - start, games + 1)
    ends = [x for x in ends if not (x + games) % 2]
    return sum((1 + (x > goal - start)) * to(x, games) * won(p, x, games) for x in ends)


@pytest.mark.claim("gambler-is", answers=["D5"])
def test_importance_sampling(evidence, sampler=importance_sampling, moment=second_moment):
    p, q = probability(evidence.generator), inner(evidence.generator)
    settings = [(p, q, 2, 5, 12), (Fraction(2, 9), q, 3, 7, 30), (WHEEL, HINT, 3, 6, 41)]
    settings.append((WHEEL, HINT, *QUESTION))
    for *chances_of, start, goal, games in settings:
        case = (start, goal, games)
        runs = [sampler(*chances_of, *case, 3000, evidence.generator) for _ in range(60)]
        h = by_images(chances_of[0], *case)
        variance = moment_by_images(*chances_of, *case) - h**2
        evidence.statistical(
            [float(run.mean) / float(h) for run in runs],
            1.0,
            oracle="the exact chance, paths counted by images",
            detects=0.1,
        )
        evidence.statistical(
            [3000 * float(run.standard_error) ** 2 / float(variance) for run in runs],
            1.0,
            oracle="the exact variance of one run, paths counted by images",
            detects=0.2,
        )
    cases = [(*case, stopped) for case in SMALL for stopped in (True, False)]
    evidence.exact(
        {case: moment(p, q, *case) for case in cases},
        {case: moment_enumerated(p, q, *case) for case in cases},
        oracle="all sequences of bets, played by hand",
    )
    evidence.exact(
        {case: moment(p, q, *case, False) - moment(p, q, *case) for case in SMALL},
        {case: price_of_going_on(p, q, *case) for case in SMALL},
        oracle="the excess of the claim, over all sequences of bets",
    )
    for stopped in (True, False):
        for x in (0.55, float(q)):
            evidence.numeric(
                double(moment(18 / 37, x, *QUESTION, stopped)),
                double(moment_by_images(18 / 37, x, *QUESTION, stopped)),
                bound=1e-12,
                relative=True,
                oracle="paths counted by images",
            )
        log_moment = [math.log(moment(18 / 37, x / 100, *QUESTION, stopped)) for x in (50, 60, 70)]
        evidence.ordered(
            double(2 * log_moment[1] - log_moment[0] - log_moment[2]),
            double(0.0),
            bound=1e-12,
            oracle="a convex function lies below its chords",
        )
        lowest = minimize_scalar(
            lambda x, stopped=stopped: math.log(moment(18 / 37, x, *QUESTION, stopped)),
            bounds=(0.5, 0.65),
            method="bounded",
            options={"xatol": 1e-9},
        )
        h = float(success(WHEEL))
        at = best(WHEEL, *QUESTION, stopped)
        evidence.numeric(
            double(lowest.x),
            double(at),
            bound=1e-7,
            oracle="root of the slope, paths counted by images",
        )
        evidence.numeric(
            double(lowest.x, relative_deviation(math.exp(lowest.fun), h)),
            double(*((0.58806973, 1.337031) if stopped else (0.56526661, 5.481693))),
            bound=5e-7,
            oracle="the numbers of the claim",
        )
        evidence.numeric(
            double(relative_deviation(moment(18 / 37, 0.55, *QUESTION, stopped), h)),
            double(3.860165 if stopped else 6.749347),
            bound=5e-7,
            oracle="the numbers of the claim",
        )


def price_of_going_on(p, q, start, goal, games):
    c = 1 + (p - q) ** 2 / (q * (1 - q))
    total = Fraction(0)
    for bets, succeeds, time in plays(start, goal, games):
        w = chance(p, bets[:time]) / chance(q, bets[:time])
        total += succeeds * chance(p, bets) * w * (c ** (games - time) - 1)
    return total


def bets_until(q, start, goal, games, runs, generator):
    """All bets, the balances after them and when play stops, game by game."""
    bets = 2 * (torch.rand(runs, games, generator=generator, dtype=DOUBLE) < float(q)).long() - 1
    balance = start + bets.cumsum(1)
    over = (balance <= 0) | (balance >= goal)
    over[:, -1] = True
    time = over.long().argmax(1)
    return bets, balance, time


def log_ratios(bets, p, q):
    p, q = float(p), float(q)
    return torch.where(bets > 0, math.log(p / q), math.log((1 - p) / (1 - q))).to(DOUBLE).cumsum(1)


def naive(p, q, start, goal, games, runs, generator, weigh):
    bets, balance, time = bets_until(q, start, goal, games, runs, generator)
    log_w = log_ratios(bets, p, q)
    at = time[:, None]
    success = balance.gather(1, at)[:, 0] == goal
    return weigh(success.to(DOUBLE), log_w.gather(1, at)[:, 0], log_w[:, -1], balance[:, -1])


@mutant(test_importance_sampling, "the weights are left out", of="sampler")
def unweighted(*arguments):
    return naive(*arguments, lambda success, log_w, full, end: estimate(success))


@mutant(test_importance_sampling, "the ratio is upside down", of="sampler")
def inverted(*arguments):
    return naive(*arguments, lambda success, log_w, full, end: estimate(success * (-log_w).exp()))


@mutant(test_importance_sampling, "the weights of all games", of="sampler")
def all_weights(*arguments):
    return naive(*arguments, lambda success, log_w, full, end: estimate(success * full.exp()))


@mutant(test_importance_sampling, "success is judged after the last game", of="sampler")
def judged_late(p, q, start, goal, *rest):
    return naive(
        *(p, q, start, goal, *rest),
        lambda success, log_w, full, end: estimate((end >= goal) * full.exp()),
    )


@mutant(test_importance_sampling, "a wheel with a second zero", of="sampler")
def american_sampler(p, *rest):
    return importance_sampling(p * 37 / 38, *rest)


@mutant(test_importance_sampling, "a standard deviation for the standard error", of="sampler")
def spread(*arguments):
    found = importance_sampling(*arguments)
    return Estimate(found.mean, found.standard_error * 3000**0.5)


@mutant(test_importance_sampling, "the square of the ratio is not averaged under q", of="moment")
def squared_ratio(p, q, start, goal, games, stopped=True):
    d = goal - start
    ways = first_visits(start, goal, games)
    up, down = (p / q) ** 2, ((1 - p) / (1 - q)) ** 2
    return sum(n * up ** ((t + d) // 2) * down ** ((t - d) // 2) for t, n in ways.items())


@mutant(test_importance_sampling, "the games after stopping cost nothing", of="moment")
def free_games(p, q, start, goal, games, stopped=True):
    return second_moment(p, q, start, goal, games)


@mutant(test_importance_sampling, "the variance for the second moment", of="moment")
def centred(p, q, start, goal, games, stopped=True):
    return second_moment(p, q, start, goal, games, stopped) - exact(p, start, goal, games) ** 2


@pytest.mark.claim("x-gambler-siegmund")
def test_siegmund(evidence, closed=unlimited, moment=second_moment):
    p = probability(evidence.generator)
    r = p / (1 - p)
    cases = [(s, g, k) for s, g, k in SMALL if k >= g - s]
    evidence.exact(
        {case: moment(p, 1 - p, *case) / enumerated(p, *case) ** 2 - 1 for case in cases},
        {case: 1 / enumerated(1 - p, *case) - 1 for case in cases},
        oracle="all sequences of bets, played by hand",
    )
    evidence.exact(
        {(s, g, k): moment(p, 1 - p, s, g, k) for s, g, k in cases},
        {(s, g, k): r ** (g - s) * enumerated(p, s, g, k) for s, g, k in cases},
        oracle="one weight for all successes, played by hand",
    )
    evidence.exact(
        {(s, g): closed(p, s, g) for g in (2, 3, 7) for s in range(1, g)},
        {(s, g): eliminated(p, s, g) for g in (2, 3, 7) for s in range(1, g)},
        oracle="linear equations of the balances, solved in fractions",
    )
    for x in (p, 1 - p, Fraction(1, 2), WHEEL, Fraction(2**40 - 1, 2**41)):
        for s, g in ((3, 7), (70, 110)):
            evidence.numeric(
                double(closed(float(x), s, g)),
                double(eliminated(Fraction(float(x)), s, g)),
                bound=1e-12,
                relative=True,
                oracle="linear equations of the balances, solved in fractions",
            )
    r, pairs = WHEEL / (1 - WHEEL), ((50, 70), (100, 200), (200, 400))
    evidence.exact(
        {(s, g): 1 / closed(1 - WHEEL, s, g) - 1 for s, g in pairs},
        {(s, g): r**s * (1 - r ** (g - s)) / (1 - r**s) for s, g in pairs},
        oracle="the relative variance of the claim",
    )
    evidence.numeric(
        double(1 / closed(1 - WHEEL, START, GOAL) - 1, Fraction(18, 19) ** 100),
        double(0.00448632, 0.00448632),
        bound=5e-9,
        oracle="the number of the claim",
    )
    evidence.numeric(
        double(moment(WHEEL, 1 - WHEEL, *QUESTION) / success(WHEEL) ** 2 - 1),
        double(1877.39),
        bound=5e-3,
        oracle="the number of the claim",
    )


def eliminated(p, start, goal):
    """Without a limit of games: elimination in u(s) = p u(s + 1) + (1 - p) u(s - 1)."""
    share, shares = Fraction(0), []
    for _ in range(1, goal):
        share = p / (1 - (1 - p) * share)  # u(s) = share * u(s + 1)
        shares.append(share)
    return math.prod(shares[start - 1 :], start=Fraction(1))


@mutant(test_siegmund, "the odds are upside down", of="closed")
def odds_of_losing(p, start, goal):
    return unlimited(1 - p, start, goal)


@mutant(test_siegmund, "there is no ruin", of="closed")
def no_ruin(p, start, goal):
    return min((p / (1 - p)) ** (goal - start), 1 + 0 * p)


@mutant(test_siegmund, "the game is fair", of="closed")
def fair(p, start, goal):
    return Fraction(start, goal)


@mutant(test_siegmund, "the chance of ruin", of="closed")
def of_ruin(p, start, goal):
    return 1 - unlimited(p, start, goal)


@mutant(test_siegmund, "the weights go on after the goal", of="moment")
def weighed_on(p, q, start, goal, games):
    return second_moment(p, q, start, goal, games, stopped=False)


@pytest.mark.claim("x-gambler-ce")
def test_cross_entropy(evidence, nearest=cross_entropy):
    p = probability(evidence.generator)
    cases = [(1, 3, 8), (2, 3, 7), (2, 5, 8), (3, 5, 4), (1, 5, 8)]
    for stopped in (True, False):
        evidence.exact(
            {case: nearest(p, *case, stopped) for case in cases},
            {case: share_of_wins(p, *case, stopped) for case in cases},
            oracle="bets won in all successes, played by hand",
        )
    for case in cases:
        lowest = minimize_scalar(
            divergence,
            bounds=(0.01, 0.99),
            args=(p, *case),
            options={"xatol": 1e-9},
        )
        evidence.numeric(
            double(nearest(float(p), *case)),
            double(lowest.x),
            bound=1e-6,
            oracle="divergence, minimised by Brent",
        )
        evidence.numeric(
            double(divergence(0.6, p, *case) - divergence(float(nearest(p, *case)), p, *case)),
            double(excess(0.6, p, *case)),
            bound=1e-10,
            oracle="the mean number of games times the divergence of one bet",
        )
    for x, case in [(p, case) for case in cases] + [(WHEEL, QUESTION), (1 - p, (3, 8, 31))]:
        best_q = best(x, *case)
        evidence.ordered(
            double(max(x, 1 - x), -nearest(x, *case)),
            double(best_q, -best_q),
            bound=0,
            oracle="root of the slope of the second moment, paths by images",
        )
    times = {t: n * won(WHEEL, 100, t) for t, n in first_visits(*QUESTION).items()}
    mean = sum(t * x for t, x in times.items()) / sum(times.values())
    q = nearest(WHEEL, *QUESTION)
    evidence.exact(100 / (2 * q - 1), mean, oracle="paths counted by images")
    evidence.numeric(
        double(100 / (2 * q - 1)),
        double(544.093019365),
        bound=5e-10,
        oracle="the number of the claim",
    )
    evidence.numeric(
        double(q, nearest(18 / 37, *QUESTION), nearest(18 / 37, *QUESTION, False)),
        double(0.591896051264, 0.591896051264, 0.582074167103),
        bound=1e-12,
        oracle="the numbers of the claim",
    )


def share_of_wins(p, start, goal, games, stopped):
    wins = length = Fraction(0)
    for bets, succeeds, time in plays(start, goal, games):
        counted = bets[:time] if stopped else bets
        wins += succeeds * chance(p, bets) * counted.count(1)
        length += succeeds * chance(p, bets) * len(counted)
    return wins / length


def successes(p, start, goal, games):
    """The law of the successful paths, each up to its end."""
    law = {bets[:t]: chance(p, bets[:t]) for bets, ok, t in plays(start, goal, games) if ok}
    return {path: x / sum(law.values()) for path, x in law.items()}


def divergence(q, p, *case):
    law = successes(p, *case)
    return sum(float(x) * math.log(float(x) / chance(q, path)) for path, x in law.items())


def excess(q, p, *case):
    law = successes(p, *case)
    games = float(sum(x * len(path) for path, x in law.items()))
    best = float(sum(x * path.count(1) for path, x in law.items())) / games
    return games * (best * math.log(best / q) + (1 - best) * math.log((1 - best) / (1 - q)))


@mutant(test_cross_entropy, "the goal is to be reached with the last game")
def just_in_time(p, start, goal, games, stopped=True):
    return Fraction(1, 2) + Fraction(goal - start, 2 * games)


@mutant(test_cross_entropy, "the mean of the share of wins, not the share of the means")
def mean_of_ratios(p, start, goal, games, stopped=True):
    if not stopped:
        return cross_entropy(p, start, goal, games, False)
    d = goal - start
    times = {t: n * won(p, d, t) for t, n in first_visits(start, goal, games).items()}
    return sum(x * Fraction(t + d, 2 * t) for t, x in times.items()) / sum(times.values())


@mutant(test_cross_entropy, "the games after stopping count")
def all_games(p, start, goal, games, stopped=True):
    return cross_entropy(p, start, goal, games, False)


@mutant(test_cross_entropy, "the games of all runs, not of the successes")
def unconditional(p, start, goal, games, stopped=True):
    if not stopped:
        return cross_entropy(p, start, goal, games, False)
    rise, fall = first_visits(start, goal, games), first_visits(goal - start, goal, games)
    ends = {t: n * won(p, goal - start, t) for t, n in rise.items()}
    down = {t: n * won(1 - p, start, t) for t, n in fall.items()}
    rest = games * (1 - sum(ends.values()) - sum(down.values()))
    mean = sum(t * x for part in (ends, down) for t, x in part.items()) + rest
    return Fraction(1, 2) + (goal - start) / (2 * mean)


@mutant(test_cross_entropy, "the least variance, not the least divergence")
def least_variance(p, start, goal, games, stopped=True):
    return best(p, start, goal, games, stopped)


@pytest.mark.claim("x-gambler-doob")
def test_doob(evidence, table=drift):
    p = probability(evidence.generator)
    for goal, games in ((3, 6), (5, 8)):
        pairs = [(s, k) for k in range(1, games + 1) for s in range(max(1, goal - k), goal)]
        q = table(float(p), goal, games)
        evidence.numeric(
            double(*[q[k, s] for s, k in pairs]),
            double(*[first_bet(p, s, goal, k) for s, k in pairs]),
            bound=1e-13,
            oracle="first bets of all successes, played by hand",
        )
        evidence.numeric(
            double(*[q[k, s] for s, k in pairs]),
            double(*[first_bet(1 - p, s, goal, k) for s, k in pairs]),
            bound=1e-13,
            oracle="first bets of all successes of the other gambler",
        )
        evidence.ordered(
            double(*[-q[k, s] for s, k in pairs]),
            double(*[-max(p, 1 - p)] * len(pairs)),
            bound=0,
            oracle="the larger of p and 1 - p",
        )
        law = successes(p, goal - 2, goal, games)
        evidence.numeric(
            double(*[product_of(q, path, goal - 2) for path in law]),
            double(*law.values()),
            bound=1e-13,
            oracle="the law of the successes, played by hand",
        )
    q = table(18 / 37, GOAL, GAMES)
    ahead = WHEEL * by_images(WHEEL, START + 1, GOAL, GAMES - 1) / success(WHEEL)
    first = double(q[600, 100])
    evidence.numeric(first, double(ahead), bound=1e-13, oracle="paths counted by images")
    evidence.numeric(first, double(0.58789201), bound=5e-9, oracle="the number of the claim")
    for x, s in ((WHEEL, START), (WHEEL, 37), (p, 150)):
        weights = steered(float(x), table(float(x), GOAL, GAMES), s, 200, evidence.generator)
        evidence.numeric(
            weights,
            double(*[by_images(x, s, GOAL, GAMES)] * 200),
            bound=1e-13,
            relative=True,
            oracle="paths counted by images",
        )


def first_bet(p, start, goal, games):
    law = successes(p, start, goal, games)
    return sum(x for path, x in law.items() if path[0] > 0)


def product_of(q, path, balance):
    """The probability of a path under a table of chances."""
    total = 1.0
    for number, bet in enumerate(path):
        chance_of_win = q[q.shape[0] - 1 - number, balance]
        total *= chance_of_win if bet > 0 else 1 - chance_of_win
        balance += bet
    return total


def steered(p, q, start, runs, generator):
    """The weights of runs that are drawn with a table of chances."""
    balance, w = torch.full((runs,), start), torch.ones(runs, dtype=DOUBLE)
    for left in range(q.shape[0] - 1, 0, -1):
        x = q[left, balance]
        wins = torch.rand(runs, dtype=DOUBLE, generator=generator) < x
        playing = (balance > 0) & (balance < q.shape[1] - 1)
        w = torch.where(playing, w * torch.where(wins, p / x, (1 - p) / (1 - x)), w)
        balance = balance + playing * (2 * wins.long() - 1)
    return w.where(balance == q.shape[1] - 1, 0)


def chances(p, goal, games):
    rows = [[exact(p, s, goal, k) for s in range(1, goal)] for k in range(games + 1)]
    return torch.tensor([[0.0, *row, 1.0] for row in rows], dtype=DOUBLE)


def filled(ratio, goal, games):
    q = torch.full((games + 1, goal + 1), 0.5, dtype=DOUBLE)
    q[1:, 1:-1] = ratio.nan_to_num(0.5)
    return q


@mutant(test_doob, "the bet itself is not counted as a game")
def no_clock(p, goal, games):
    h = chances(p, goal, games)
    return filled(p * h[1:, 2:] / h[1:, 1:-1], goal, games)


@mutant(test_doob, "the chance of the bet is left out")
def no_prior(p, goal, games):
    h = chances(p, goal, games)[:-1]
    return filled(h[:, 2:] / (h[:, 2:] + h[:, :-2]), goal, games)


@mutant(test_doob, "the table of the game without a limit")
def no_limit(p, goal, games):
    u = torch.tensor([unlimited(p, s, goal) for s in range(1, goal)] + [1.0], dtype=DOUBLE)
    return filled((p * u[1:] / u[:-1]).expand(games, -1), goal, games)


@mutant(test_doob, "one probability for all bets")
def constant(p, goal, games):
    return torch.full((games + 1, goal + 1), 0.55, dtype=DOUBLE)


def test_fractions_give_fractions_and_floats_floats():
    third = Fraction(1, 3)
    for games in (0, 1, 9):
        assert type(exact(third, 2, 4, games)) is Fraction
        assert type(exact(1 / 3, 2, 4, games)) is float
    for of in (lambda p: second_moment(p, 2 * p, 2, 4, 9), lambda p: cross_entropy(p, 2, 4, 9)):
        assert type(of(third)) is Fraction
        assert type(of(1 / 3)) is float
        assert of(1 / 3) == pytest.approx(float(of(third)), rel=1e-14)
    assert type(unlimited(third, 2, 4)) is type(unlimited(Fraction(1, 2), 2, 4)) is Fraction
    assert type(unlimited(1 / 3, 2, 4)) is type(unlimited(0.5, 2, 4)) is float
    assert torch.equal(drift(Fraction(1, 4), 4, 6), drift(0.25, 4, 6))


def test_powers_of_large_odds_do_not_overflow():
    assert unlimited(0.9, 4000, 9000) == 1.0
    assert unlimited(0.1, 4000, 4002) == pytest.approx(1 / 81, rel=1e-13)


@pytest.mark.parametrize("p", [1e-300, 1e-20, 1e-10, 0.3, 1 - 1e-10])
def test_unlikely_wins_keep_their_digits(p):
    for s, g in ((2, 3), (3, 4), (5, 6)):
        assert unlimited(p, s, g) == pytest.approx(float(unlimited(Fraction(p), s, g)), rel=1e-13)


def test_the_table_does_not_underflow():
    q, half = drift(0.5, 2000, 2001), Fraction(1, 2)
    assert all(abs(q[k, 2000 - k] - 1) < 1e-14 for k in range(1, 2000))
    for s, k in ((2, 2000), (300, 1702), (300, 2001)):
        share = half * by_images(half, s + 1, 2000, k - 1) / by_images(half, s, 2000, k)
        assert q[k, s].item() == pytest.approx(float(share), rel=1e-12)
    with pytest.raises(ValueError, match="goal must be at most 2000, got 2001"):
        drift(0.5, 2001, 5)


def test_a_share_that_needs_a_fraction_raises():
    words = "p must be a Fraction where success has the chance 0 as a float, got 0.5"
    with pytest.raises(ValueError, match=words):
        cross_entropy(0.5, 1, 1200, 1199)
    assert cross_entropy(Fraction(1, 2), 1, 1200, 1199) == 1
    assert cross_entropy(0.01, 200, 400, 600) == pytest.approx(
        float(cross_entropy(Fraction(1, 100), 200, 400, 600)), rel=1e-12
    )


def test_what_cannot_be_reached_has_no_chance():
    assert exact(0.6, 3, 8, 4) == 0.0
    assert importance_sampling(0.6, 0.7, 3, 8, 4, 50) == (0.0, 0.0)
    assert exact(0.6, 3, 8, 4, ruin=False, stop=False) == 0.0
    assert second_moment(0.6, 0.7, 3, 8, 4, stopped=False) == 0.0
    assert importance_sampling(0.6, 0.7, 3, 8, 0, 50) == (0.0, 0.0)


def test_sampling_with_p_itself_counts_successes():
    generator = torch.Generator().manual_seed(1)
    mean, error = importance_sampling(0.45, 0.45, 3, 6, 20, 1000, generator)
    successes = round(1000 * mean.item())
    assert 0 < successes < 1000
    assert mean.item() == pytest.approx(successes / 1000, rel=1e-14)
    assert error.item() == pytest.approx((mean * (1 - mean) / 999).sqrt().item(), rel=1e-12)


def test_one_generator_gives_one_estimate_in_float64():
    def run(seed):
        return importance_sampling(WHEEL, 0.55, *QUESTION, 500, torch.Generator().manual_seed(seed))

    assert run(3) == run(3)
    assert run(3) != run(4)
    assert run(3).mean.dtype == run(3).standard_error.dtype == DOUBLE


def test_the_error_of_a_tiny_chance_does_not_underflow():
    generator = torch.Generator().manual_seed(2)
    found = importance_sampling(0.1, 0.91, 200, 400, 600, 2000, generator)
    h = exact(0.1, 200, 400, 600)
    deviation = second_moment(0.1, 0.91, 200, 400, 600)
    assert h < 1e-190
    assert deviation == 0.0, "squares of such chances are out of the range of floats"
    fractions = (Fraction(1, 10), Fraction(91, 100), 200, 400, 600)
    ratio = second_moment(*fractions) / exact(Fraction(1, 10), 200, 400, 600) ** 2 - 1
    assert found.standard_error.item() / h == pytest.approx((float(ratio) / 2000) ** 0.5, rel=0.2)
    assert abs(found.mean.item() - h) < 5 * found.standard_error.item()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 0}, "p must lie between 0 and 1, got 0"),
        ({"p": 1.0}, "p must lie between 0 and 1, got 1.0"),
        ({"p": 18}, "p must lie between 0 and 1, got 18"),
        ({"p": math.nan}, "p must lie between 0 and 1, got nan"),
        ({"start": 0}, "start must be a whole number, at least 1, got 0"),
        ({"start": 99.5}, "start must be a whole number, at least 1, got 99.5"),
        ({"start": 100.0}, "start must be a whole number, at least 1, got 100.0"),
        ({"start": 200}, "start must be less than goal = 200, got 200"),
        ({"start": 1, "goal": 1}, "goal must be a whole number, at least 2, got 1"),
        ({"goal": 200.5}, "goal must be a whole number, at least 2, got 200.5"),
        ({"goal": math.inf}, "goal must be a whole number, at least 2, got inf"),
        ({"games": -1}, "games must be a whole number, at least 0, got -1"),
        ({"games": 600.5}, "games must be a whole number, at least 0, got 600.5"),
        ({"games": math.nan}, "games must be a whole number, at least 0, got nan"),
        ({"q": 0.0}, "q must lie between 0 and 1, got 0.0"),
        ({"q": 1}, "q must lie between 0 and 1, got 1"),
        ({"q": -0.55}, "q must lie between 0 and 1, got -0.55"),
        ({"runs": 1}, "runs must be a whole number, at least 2, got 1"),
        ({"runs": 2.5}, "runs must be a whole number, at least 2, got 2.5"),
    ],
)
def test_bad_arguments_raise(options, words):
    accepted = 0
    for function, names in {
        exact: ("p", "start", "goal", "games"),
        unlimited: ("p", "start", "goal"),
        second_moment: ("p", "q", "start", "goal", "games"),
        cross_entropy: ("p", "start", "goal", "games"),
        drift: ("p", "goal", "games"),
        importance_sampling: ("p", "q", "start", "goal", "games", "runs"),
    }.items():
        if options.keys() <= set(names):
            good = {"p": 0.4, "q": 0.55, "start": 100, "goal": 200, "games": 600, "runs": 9}
            arguments = {name: (good | options)[name] for name in names}
            with pytest.raises(ValueError, match=re.escape(words)):
                function(**arguments)
            accepted += 1
    assert accepted


def test_cross_entropy_needs_a_success():
    words = "games must be at least goal - start = 5, got 4"
    with pytest.raises(ValueError, match=re.escape(words)):
        cross_entropy(0.4, 3, 8, 4)
    assert cross_entropy(0.4, 3, 8, 5) == 1.0


@pytest.fixture(scope="module")
def snippet():
    return run_path(str(SNIPPET))


def error_of(q, stopped):
    moment = moment_by_images(18 / 37, q, *QUESTION, stopped)
    return 100 * relative_deviation(moment, float(success(WHEEL))) / 3000**0.5


def test_the_curves_are_those_of_the_oracle(snippet):
    ax = Figure().gca()
    snippet["figure"](ax)
    lines = {line.get_label(): line for line in ax.lines}
    for name, stopped in (("bets weighed until play ends", True), ("all 600 bets weighed", False)):
        q, error = lines[name].get_data()
        for i in (0, 7, 23, 43):
            assert error[i] == pytest.approx(error_of(q[i], stopped), rel=1e-9)
    lowest = [line.get_xdata()[0] for line in ax.lines if line.get_marker() in ("o", "s")]
    assert lowest == pytest.approx([best(WHEEL, *QUESTION, s) for s in (True, False)], abs=2e-3)
    (triangle,) = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "^"]
    assert tuple(triangle) == pytest.approx((19 / 37, error_of(19 / 37, True)), rel=1e-9)


def test_the_paths_end_where_play_does(snippet):
    figure = Figure()
    snippet["figure_paths"](figure)
    arrived = []
    for ax in figure.axes:
        paths = [line for line in ax.lines if len(line.get_xdata()) > 2]
        ends = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "o"]
        assert len(paths) == len(ends) == 6
        arrived.append(sum(line.get_linestyle() == "-" for line in paths))
        for line in paths:
            time, balance = line.get_data()
            assert balance[0] == START
            assert (abs(balance[1:] - balance[:-1]) <= 20).all()
            assert (balance > 0).all()
            assert (balance <= GOAL).all()
            assert (time <= GAMES).all()
        assert all(end <= GAMES for end, balance in ends if balance == GOAL)
        if ax is figure.axes[2]:
            assert all(end > 500 for end, balance in ends)
    assert arrived == [0, 1, 6]


def test_the_drawn_drift_is_that_of_the_oracle(snippet):
    ax = Figure().gca()
    snippet["figure_drift"](ax)
    for line, left in zip(ax.lines, (600, 300, 150, 60), strict=False):
        balance, q = line.get_data()
        assert balance[0] == max(1, GOAL - left)
        for i in (0, 5, len(balance) - 1):
            s = int(balance[i])
            ahead = by_images(WHEEL, s + 1, GOAL, left - 1) if s + 1 < GOAL else 1
            assert q[i] == pytest.approx(float(WHEEL * ahead / by_images(WHEEL, s, GOAL, left)))
