"""A density and its normaliser, learnt from data and noise."""

# --8<-- [start:setup]
import torch

from genref.energy.noise_contrastive import energy, log_normaliser, objective, variance

generator = torch.Generator().manual_seed(1)
noise_law = torch.distributions.Normal(0.0, 2.0)


def log_f(x):
    """Two bumps, not normalised."""
    return torch.logaddexp(-2 * (x - 1.5) ** 2, -2 * (x + 1.5) ** 2)


x = torch.linspace(-9, 9, 3001)
log_z = torch.trapezoid(log_f(x).exp(), x).log()
n, ratio = 2000, 3
side = torch.randint(0, 2, (n,), generator=generator) * 3.0 - 1.5
data = side + 0.5 * torch.randn(n, generator=generator)
noise = 2 * torch.randn(ratio * n, generator=generator)
# --8<-- [end:setup]

# --8<-- [start:check]
c, error = log_normaliser(*(log_f(s) - noise_law.log_prob(s) for s in (data, noise)))
assert abs(c - log_z) < 4 * error
p_d, p_n = (log_f(x) - log_z).exp() * 0.006, noise_law.log_prob(x).exp() * 0.006
limit = (variance(p_d, p_n, ratio) / n).sqrt()
print(f"log Z = {log_z:.3f}, standard error {error:.3f}, by theory {limit:.3f}")


def basis(x):
    """Features of a logit: a constant, powers, and a smooth kink."""
    return torch.stack([torch.ones_like(x), x / 2, x**2 / 4, (3 * x).cosh().log() / 4], -1)


weight = torch.zeros(4, requires_grad=True)
features = basis(data), basis(noise)
ascent = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")


def loss():
    ascent.zero_grad()
    lost = -objective(features[0] @ weight, features[1] @ weight, ratio)
    lost.backward()
    return lost


ascent.step(loss)
logit = (basis(x) @ weight).detach()
learnt = (-energy(logit, noise_law.log_prob(x), ratio)).exp()
print(f"mass of the learnt density, which nothing normalised: {torch.trapezoid(learnt, x):.2f}")
assert (learnt - (log_f(x) - log_z).exp()).abs().max() < 0.06
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(fig):
    """Left, a density of two bumps, the broad noise, and the learnt density, which covers the
    bumps. Right, the variance of the normaliser against the width of the noise on a
    logarithmic scale: importance sampling is infinite below a width of about 0.7, its inverse above
    1.4, and the contrastive curve is finite everywhere and lower than both.
    """
    fig.set_size_inches(7.6, 3.4)
    left, right = fig.subplots(1, 2)
    some = slice(750, 2251, 15)
    left.plot(x[some], (log_f(x) - log_z).exp()[some], "C0", label="data")
    left.plot(x[some], learnt[some], "C3--", label="learnt")
    left.plot(x[some], noise_law.log_prob(x).exp()[some], "C1-.", label="noise")
    left.set(xlabel="$x$", ylabel="density", ylim=(0, 0.55))
    left.legend(ncols=3, loc="upper center", fontsize="small")
    width = torch.cat([torch.linspace(0.3, 0.98, 40), torch.linspace(1.02, 3.5, 60)]).double()
    fine = torch.linspace(-12, 12, 6001, dtype=torch.float64)
    tables = [
        torch.distributions.Normal(0.0, s).log_prob(fine).exp() * 0.004
        for s in (torch.ones(1, 1).double(), width[:, None])
    ]
    right.plot(width, variance(*tables), "C0", label="contrastive")
    wide, thin = width[width**2 > 0.5], width[width**2 < 2]
    right.plot(wide, wide**2 / (2 * wide**2 - 1).sqrt() - 1, "C1--", label="samples of the noise")
    right.plot(thin, 1 / (thin * (2 - thin**2).sqrt()) - 1, "C2-.", label="samples of the data")
    right.set(xlabel="noise scale", ylabel="variance times $n_d$", yscale="log", ylim=(1e-4, 30))
    right.legend(fontsize="small")


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.figure(layout="constrained"))
    plt.show()
