# %% [markdown]
# # What a deep stack of masks sees
#
# A network of one masked layer of type A and three of type B gets random weights. The derivative
# $\partial y_{rc}/\partial x_{ij}$ of one output pixel says which input pixels it depends on; the
# receptive field, which is counted without any weights, must name the same ones.

# %%
import matplotlib.pyplot as plt
import torch

from genref.masks.causal import MaskedConv2d
from genref.masks.receptive_field import receptive_field

kinds, size, at = "ABBB", (7, 9), (6, 5)
generator = torch.Generator().manual_seed(11)
network = torch.nn.Sequential()
for kind, channels in zip(kinds, (1, 8, 8, 8), strict=True):
    network += torch.nn.Sequential(MaskedConv2d(kind, channels, 8, 3), torch.nn.Softplus())
for parameter in network.double().parameters():
    torch.nn.init.normal_(parameter, std=0.3, generator=generator)

# %% [markdown]
# Float64 keeps a small derivative apart from none: what a mask cuts contributes exactly zero.

# %%
image = torch.randn(1, 1, *size, dtype=torch.double, generator=generator).requires_grad_()
output = network(image)[0, 0, at[0] - 1, at[1] - 1]
slope = torch.autograd.grad(output, image)[0][0, 0].abs()
seen = {(row + 1, column + 1) for row, column in slope.nonzero().tolist()}
earlier = {(r, c) for r in range(1, at[0] + 1) for c in range(1, size[1] + 1) if (r, c) < at}
assert seen == receptive_field(kinds, at=at, size=size)
assert seen < earlier
print(f"{len(seen)} of {len(earlier)} earlier pixels are seen")

# %% [markdown]
# The top row is missed for want of a fifth layer. The wedge on the right is missed at any depth:
# for every column that a path of taps moves to the right, it must climb at least one row.

# %%
# alt: Dots fan out upwards from the output pixel; crosses mark earlier pixels that it misses.
ax = plt.figure().gca()
rows, columns = slope.nonzero().T + 1
area = 160 * (slope[rows - 1, columns - 1] / slope.max()).sqrt()
ax.scatter(columns, rows, s=8 + area, label="seen")
rows, columns = zip(*sorted(earlier - seen), strict=True)
ax.scatter(columns, rows, marker="x", label="earlier, not seen")
ax.scatter(at[1], at[0], s=80, marker="s", label="output")
ax.set(xlabel="column", ylabel="row", xlim=(0.5, 9.5), ylim=(7.5, 0.5), aspect="equal")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
