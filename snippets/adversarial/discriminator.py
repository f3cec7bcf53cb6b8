"""What the best discriminator of two normal laws knows, and what an imperfect one loses."""

# --8<-- [start:setup]
import math

import torch
from torch.nn.functional import logsigmoid

from genref.adversarial.discriminator import (
    accept,
    density_ratio,
    jensen_shannon_estimate,
    optimum,
    shortfall,
    value,
)

p_0, p_1 = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.5, 0.7)
x = torch.linspace(-8, 8, 2001, dtype=torch.float64)
log_f_0, log_f_1 = p_0.log_prob(x), p_1.log_prob(x)
f_0, f_1 = log_f_0.exp(), log_f_1.exp()
d_star = optimum(log_f_1, log_f_0)
step = x[1] - x[0]
divergence = math.log(2) + step * value(f_1, f_0, d_star) / 2
# --8<-- [end:setup]

# --8<-- [start:check]
print(f"JSD                      {divergence:.6f}")
sharpness = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
d = torch.sigmoid(sharpness * (log_f_1 - log_f_0)).clamp(1e-9, 1 - 1e-9)
proved = math.log(2) + step * value(f_1, f_0, d) / 2
lost = step * ((f_1 + f_0) / 2 * shortfall(d_star, d)).sum(-1)
for s, gain, loss in zip(sharpness[:, 0], proved, lost, strict=True):
    print(f"logit times {s:3.1f}: proves {gain.clamp(min=0):6.4f}, loses {loss:6.4f}")
assert torch.allclose(proved + lost, divergence, atol=1e-7)

generator = torch.Generator().manual_seed(2)
noise = torch.randn(2, 40_000, generator=generator)
samples = 1.5 + 0.7 * noise[0], noise[1]
logit_1, logit_0 = (p_1.log_prob(x) - p_0.log_prob(x) for x in samples)
mean, error = jensen_shannon_estimate(logsigmoid(logit_1), logsigmoid(-logit_0))
assert abs(mean - divergence) < 4 * error
log_bound = (log_f_1 - log_f_0).max().item() + 1e-4
kept = samples[1][accept(logit_0, log_bound, generator)]
print(f"kept as samples of p_1: {len(kept) / 40_000:.2f}, mean {kept.mean():.1f}")
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Left, the densities of two normal laws, a wide one at 0 and a narrower one at 1.5, and above
    them the best discriminator, which rises from 0 to almost 1 and falls again on the far right.
    Right, the divergence that a discriminator proves against the factor on its logit: a hill that
    touches the true divergence at the factor 1 and falls to 0 at the factor 0.
    """
    fig.set_size_inches(7.6, 3.4)
    left, right = fig.subplots(1, 2)
    near = slice(500, 1751, 10)
    left.plot(x[near], d_star[near], "C3", label="$D^\\star$")
    left.plot(x[near], f_1[near], "C0--", label="$f_1$")
    left.plot(x[near], f_0[near], "C1-.", label="$f_0$")
    left.set(xlabel="$x$", ylim=(0, 1.25))
    left.legend(ncols=3, loc="upper center")
    s = torch.linspace(0, 3.2, 60, dtype=torch.float64)
    d = torch.sigmoid(s[:, None] * (log_f_1 - log_f_0)).clamp(1e-12, 1 - 1e-12)
    proved = math.log(2) + step * value(f_1, f_0, d) / 2
    right.axhline(divergence, color="C3", linewidth=1, label="JSD")
    right.plot(s, proved, "C0", label="proved by $D$")
    right.fill_between(s, proved, divergence, color=("C0", 0.15), hatch="//", label="shortfall")
    right.set(xlabel="factor on the logit of $D^\\star$", ylabel="nats", ylim=(0, 0.36))
    right.legend(loc="lower center")


# --8<-- [end:figure]


# --8<-- [start:figure_ratio]
def figure_ratio(ax):
    """The density of p_1 and what is recovered of it where D is 0.01 too large or too small. The
    band is narrow at 0.7, where the densities cross, and wide right of the peak. The dotted
    relative error is least at 0.7, has a hill around 2.9, and leaves the frame on the left.
    """
    near = slice(900, 1651, 6)
    low, high = (f_0 * density_ratio((d_star + e).clamp(0, 1)) for e in (-0.01, 0.01))
    ax.fill_between(x[near], low[near], high[near], color=("C0", 0.35), label="$D^\\star\\pm0.01$")
    ax.plot(x[near], f_1[near], "C0", label="$f_1$")
    ax.plot(x[near], f_0[near], "C1-.", label="$f_0$")
    error = 0.01 / (d_star * (1 - d_star))
    ax.plot(x[near], error[near], "C3:", label="relative error")
    ax.set(xlabel="$x$", ylim=(0, 0.7))
    ax.legend()


# --8<-- [end:figure_ratio]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    figure_ratio(plt.figure(layout="constrained").gca())
    plt.show()
