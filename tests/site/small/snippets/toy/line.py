"""A line, twice as high at 2 as at 1."""

# --8<-- [start:setup]
import torch

from genref.toy.line import line

# --8<-- [end:setup]

# --8<-- [start:check]
low, high = line(torch.tensor([1.0, 2.0]))
assert high == 2 * low
print("twice as high at 2 as at 1")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """A straight line through the origin climbs from lower left to upper right."""
    x = torch.linspace(-1, 1, 5)
    ax.plot(x, line(x))


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.gca())
    plt.show()
