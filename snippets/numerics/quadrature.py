"""Means under normal laws by quadrature: how many nodes, and what they cannot do."""

# --8<-- [start:setup]
import math

import torch

from genref.numerics.quadrature import expectation, hermite, joint_expectation

# --8<-- [end:setup]

# --8<-- [start:check]
for n in (3, 5, 7, 9):
    mean = math.exp(-(1.2**2) / 2) * math.cos(0.3)
    error = expectation(torch.cos, 0.3, 1.2, n) - mean
    bound = 1.2 ** (2 * n) * math.factorial(n) / math.factorial(2 * n)
    assert abs(error) <= bound
    print(f"E cos, {n} nodes: error {abs(error):.0e}, bound {bound:.0e}")

nodes, weights = hermite(3)
for degree, mean in ((2, 1), (4, 3), (6, 15)):
    print(f"E x^{degree} with 3 nodes: {weights @ nodes**degree:.0f} for {mean}")

scale = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
product = joint_expectation(lambda x: x.prod(-1), torch.zeros(2), scale, 2)
print(f"E x1 x2 under a covariance of 0.8: {product:.1f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Relative error of the rules with 3, 5 and 8 nodes against the degree of an even power, on a
    logarithmic axis. Each stays at rounding level up to degree 4, 8 and 14, jumps up by twelve
    orders of magnitude or more at degree 6, 10 and 16, and then tends to one.
    """
    degrees = list(range(2, 27, 2))
    for n, marker in ((3, "o"), (5, "s"), (8, "D")):
        nodes, weights = hermite(n)
        sums = [weights @ nodes**degree for degree in degrees]
        means = [math.prod(range(1, degree, 2)) for degree in degrees]
        short = [max(1 - s / m, 1e-15) for s, m in zip(sums, means, strict=True)]
        ax.semilogy(degrees, short, f"{marker}-", markersize=4.5, label=f"{n} nodes")
    ax.set(xlabel="degree", ylabel="relative error", xticks=degrees[::2], ylim=(2e-16, 5))
    ax.legend(loc="lower right")


# --8<-- [end:figure]


# --8<-- [start:figure_nodes]
def figure_nodes(ax):
    """Absolute error against the number of nodes, 2 to 60, logarithmic, for four functions.
    That of cos 2x falls below 1e-13 at 17 nodes, ever faster; that of exp(0.3 x squared) falls on a
    straight line to 1e-14 at 39. That of 1/(1 + x squared) falls ever more slowly, to 1e-6, on the
    curve of exp(-2 sqrt n), and that of |x| as 1/n, to 0.01, on two curves, one for even numbers of
    nodes and one for odd ones.
    """
    pole = math.sqrt(math.pi / 2) * math.exp(0.5) * math.erfc(math.sqrt(0.5))
    cases = [
        ("$|x|$", torch.abs, math.sqrt(2 / math.pi), "o", 52, 5e-2),
        ("$1/(1 + x^2)$", lambda x: 1 / (1 + x**2), pole, "s", 52, 4e-5),
        ("$e^{0.3 x^2}$", lambda x: (0.3 * x**2).exp(), 0.4**-0.5, "^", 35, 1e-10),
        (r"$\cos 2x$", lambda x: (2 * x).cos(), math.exp(-2), "D", 7, 1e-10),
    ]
    for k, (name, f, mean, marker, *place) in enumerate(cases):
        error = {n: abs(expectation(f, 0.0, 1.0, n) - mean).item() for n in range(2, 61)}
        seen = {n: e for n, e in error.items() if e > 4e-15}
        ax.semilogy(seen.keys(), seen.values(), marker, markersize=2.5)
        ax.text(*place, name, color=f"C{k}", ha="center")
    n, wave = torch.arange(2, 61), math.pi * math.sqrt(2 * math.pi)
    ax.plot(n, wave / 24 / n, color="C0", linewidth=0.8)
    ax.plot(n, wave / 12 / n, color="C0", linewidth=0.8)
    law = math.sqrt(2 * math.pi * math.e) * torch.exp(-2 * n.sqrt())
    ax.plot(n, law, color="C1", linewidth=0.8)
    ax.set(xlabel="number of nodes", ylabel="absolute error", ylim=(2e-15, 3))


# --8<-- [end:figure_nodes]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained").gca())
    figure_nodes(plt.figure(layout="constrained").gca())
    plt.show()
