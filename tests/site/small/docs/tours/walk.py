# %% [markdown]
# # A walk
#
# A tour goes from $0$ to $1$.

# %%
import matplotlib.pyplot as plt

steps = [0, 1]
assert sum(steps) == 1
print("one step")

# %%
sum(steps)

# %%
# alt: A straight line climbs from nought to one, from left to right.
plt.plot(steps)
