"""Times of `importance_sampling` and of a plain loop, on one thread: 3000 runs of up to 600 games.

No test: times depend on the machine. To run it: `python tests/rare_events/benchmark_gambler.py`.
"""

import math
import random
import resource
import time
from collections.abc import Callable
from statistics import median

import torch

from genref.rare_events.gambler import exact, importance_sampling

P, Q, START, GOAL, GAMES = 18 / 37, 0.55, 100, 200, 600


def plain(runs: int, seed: int) -> float:
    """The same estimate, bet by bet."""
    chance = random.Random(seed)
    won, lost = math.log(P / Q), math.log((1 - P) / (1 - Q))
    total = 0.0
    for _ in range(runs):
        balance, log_w = START, 0.0
        for _ in range(GAMES):
            wins = chance.random() < Q
            balance += 1 if wins else -1
            log_w += won if wins else lost
            if balance in (0, GOAL):
                break
        if balance == GOAL:
            total += math.exp(log_w)
    return total / runs


def leaping(runs: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    return importance_sampling(P, Q, START, GOAL, GAMES, runs, generator).mean.item()


def timed(estimate: Callable[[int, int], float], runs: int, repeats: int) -> float:
    """Median seconds."""
    times = []
    for seed in range(repeats):
        begin = time.perf_counter()
        estimate(runs, seed)
        times.append(time.perf_counter() - begin)
    return median(times)


if __name__ == "__main__":
    torch.set_num_threads(1)
    leaping(3000, 0)
    fast, slow = timed(leaping, 3000, 25), timed(plain, 3000, 7)
    print(f"exact chance          {exact(P, START, GOAL, GAMES):.4e}")
    print(f"importance_sampling   {1e3 * fast:8.2f} ms  {leaping(3000, 0):.4e}")
    print(f"plain Python loop     {1e3 * slow:8.2f} ms  {plain(3000, 0):.4e}")
    print(f"ratio                 {slow / fast:8.1f}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    million = timed(leaping, 1_000_000, 3)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"a million runs        {million:8.2f} s, {grown:.0f} MiB more")
