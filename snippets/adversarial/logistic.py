"""A trained discriminator that says how well it knows the ratio of two densities."""

# --8<-- [start:setup]
import math

import torch
from torch.nn.functional import logsigmoid

from genref.adversarial.discriminator import jensen_shannon_estimate
from genref.adversarial.logistic import logistic

p_0, p_1 = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.5, 0.7)
generator = torch.Generator().manual_seed(3)


def features(x):
    return torch.stack([x, x**2], -1)


def samples(*shape):
    """Samples of p_1 and of p_0, many studies at once."""
    noise = torch.randn(2, *shape, generator=generator)
    return 1.5 + 0.7 * noise[0], noise[1]


# --8<-- [end:setup]

# --8<-- [start:check]
studies = 500
x_1, x_0 = samples(studies, 300)
trained = logistic(features(x_1), features(x_0))

at = torch.tensor([-0.5, 0.5, 1.5, 2.5])
low, high = trained.log_ratio(features(at)).interval(1.96)
truth = p_1.log_prob(at) - p_0.log_prob(at)
hits = ((low <= truth) & (truth <= high)).float().mean(0)
print("95% intervals of the log-ratio that hold it:", *(f"{h:.2f}" for h in hits))

fresh_1, fresh_0 = samples(studies, 300)
logit_1, logit_0 = (trained.log_ratio(features(x)).mean for x in (fresh_1, fresh_0))
estimates = jensen_shannon_estimate(logsigmoid(logit_1), logsigmoid(-logit_0))
low, high = estimates.interval(1.96)
divergence = 0.287768778
share = ((low <= divergence) & (divergence <= high)).float().mean()
print(f"95% intervals of the JSD that hold it: {share:.2f}")
assert abs(share - 0.95) < 0.05
assert (hits - 0.95).abs().max() < 0.05
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Left, the true log-ratio, a parabola that opens downwards, inside the band of one training
    run, which is narrow where both laws have samples and wide at the ends. Right, the scores of 500
    runs in order against the normal quantiles: the correct errors give a diagonal, the usual
    ones, of classes drawn at random, a flatter line.
    """
    fig.set_size_inches(7.6, 3.4)
    left, right = fig.subplots(1, 2)
    x = torch.linspace(-2, 4, 60)
    one = logistic(features(x_1[0]), features(x_0[0]))
    low, high = one.log_ratio(features(x)).interval(1.96)
    left.fill_between(x, low, high, color=("C0", 0.3), label="95% interval, one run")
    left.plot(x, p_1.log_prob(x) - p_0.log_prob(x), "C1--", label="true log-ratio")
    left.set(xlabel="$x$", ylabel="$\\log(f_1/f_0)$", ylim=(-14, 5))
    left.legend(loc="lower center")
    estimate = trained.log_ratio(features(at[1:2]))
    deviation = (estimate.mean - truth[1])[:, 0]
    naive = (estimate.standard_error**2 + 2 / 300).sqrt()[:, 0]
    level = (torch.arange(studies) + 0.5) / studies
    normal = math.sqrt(2) * torch.erfinv(2 * level - 1)
    for error, name, marker in (
        (estimate.standard_error[:, 0], "classes of fixed size", "C0."),
        (naive, "classes drawn at random", "C3x"),
    ):
        right.plot(normal[::8], (deviation / error).sort().values[::8], marker, label=name)
    right.axline((0, 0), slope=1, color="C1", linewidth=1)
    right.set(xlabel="normal quantile", ylabel="deviation / standard error")
    right.legend()


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    plt.show()
