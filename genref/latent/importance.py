r"""The bound of $K$ importance weights on the evidence, and the gradients that it gives.

Independent draws $z_1, \dots, z_K$ from a proposal $q(z \mid x)$ have the weights
$w_j = p(x, z_j) / q(z_j \mid x)$, whose mean is $p(x)$ if $q$ covers the posterior. All functions
take the logarithms of the weights; that of a weight of zero is $-\infty$.
"""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

__all__ = ["bound", "doubly_reparameterized", "effective_size", "gap", "jackknife"]


def bound(log_w: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    r"""Returns $\log \tfrac1K \sum_j w_j$ from $\log w_j$; its mean over the draws is $L_K$.

    ```python
    import torch

    from genref.latent.importance import bound

    log_w = torch.tensor([[-9001.0, -9000.0, -9002.0], [8000.0, 8000.0, -torch.inf]])
    print(bound(log_w))
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    tensor([-9000.6914,  7999.5947])
    ```

    Claim: iwae-monotone
        Let $0 < p(x) < \infty$, let $z_1, z_2, \dots$ be independent draws from $q(z \mid x)$,
        $w_j = p(x, z_j) / q(z_j \mid x)$ and $L_K = E \log \tfrac1K \sum_{j=1}^K w_j$. Then
        $$L_K \le L_{K+1} \le \log p(x)$$
        for all $K \ge 1$, and $L_K < L_{K+1}$ if $L_K > -\infty$ and $w_1$ is not almost surely
        constant. If $L_1 > -\infty$, then $L_K$ tends to the logarithm of the part of $p(x)$ that
        $q$ covers, the integral of $p(x, z)$ over $q(z \mid x) > 0$. So it tends to $\log p(x)$ if
        $q$ covers the posterior, which is positive only where $q$ is.

    Claim: x-iwae-extreme
        Let the $\log w_j$ be at most 1000 numbers in float32, all between $-10^4$ and $10^4$. Then
        $\log \tfrac1K \sum_j w_j$ is computed with an error of at most $5 \cdot 10^{-4}$, half a
        unit in the last place of $10^4$, and the derivative with respect to $\log w_j$, which is
        $\tilde w_j = w_j / \sum_i w_i$, with one of at most $10^{-6}$. A weight of zero adds
        nothing and has the derivative zero. If all weights are zero, the value is $-\infty$ and
        every derivative is zero.

    Claim: x-iwae-softmax-loss
        For positive weights with the shares $\tilde w_j = w_j / \sum_i w_i$,
        $$\sum_j \tilde w_j \log w_j = \log \frac1K \sum_j w_j + \log K - H(\tilde w).$$
        So with the shares held constant the gradient of the left side is that of the bound, but
        its value is larger by $\log K - H(\tilde w)$, the divergence of $\tilde w$ from the uniform
        law. That lies between $0$, for equal weights, and $\log K$. The left side is no lower bound
        on the evidence: for $p(x, z) = 0.1, 0.25, 0.05$, $q = 0.2, 0.3, 0.5$ and $K = 3$ its mean
        is $-0.820103$, while $\log p(x) = -0.916291$ and $L_3 = -1.056329$.

    Claim: x-iwae-snr
        Let $\partial$ be the derivative by one real parameter at fixed noise, and let the pairs
        $(w_j, \partial w_j)$ be independent with one law, $w_j > 0$, $E w_j = p(x)$ and
        $E\, \partial w_j = \partial p(x)$. Let $E w^4$, $E (\partial w)^2$ and
        $E (\partial \log w)^2$ be finite. Then
        $\Delta_K = \partial \log \tfrac1K \sum_j w_j$ has a signal-to-noise ratio
        $\mathrm{SNR}_K = |E \Delta_K| / (\operatorname{Var} \Delta_K)^{1/2}$ for which
        $$\begin{aligned}
        K^{-1/2}\, \mathrm{SNR}_K &\to \frac{|\partial p(x)|}
        {\operatorname{Var}(\partial w - w\, \partial \log p(x))^{1/2}}, \\
        K^{1/2}\, \mathrm{SNR}_K &\to \frac{|E\, w\, \partial w|}
        {p(x) \operatorname{Var}(\partial w)^{1/2}} \quad \text{if } \partial p(x) = 0,
        \end{aligned}$$
        if the variances on the right are not zero. The first line is for parameters of the model,
        the second for those of a reparameterised proposal, where
        $K\, E \Delta_K \to -E[w\, \partial w] / p(x)^2$. This is $-\partial c_1$, with the
        coefficient $c_1$ of $1/K$ in the gap, if $\partial E w^2 = 2 E\, w\, \partial w$.

    Arguments:
        log_w: The numbers $\log w_j$.
        dim: The dimension of the $K$ samples.
    """
    _count(log_w, dim)
    top = _top(log_w, dim)
    mean = (log_w - top).exp().mean(dim, keepdim=True)
    none = mean == 0
    return (top + mean.where(~none, 1).log()).where(~none, -math.inf).squeeze(dim)


def effective_size(log_w: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    r"""Returns $(\sum_j w_j)^2 / \sum_j w_j^2$, from 1 for one large weight to $K$ for equal ones.

    It is `nan` where all weights are zero. The arguments are those of `bound`.
    """
    _count(log_w, dim)
    return 1 / log_w.softmax(dim).square().sum(dim)


def gap(log_w: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    r"""Returns $\tfrac12 \sum_j (\tilde w_j - \tfrac1K)^2$, an estimate of $\log p(x) - L_K$.

    With the effective size $\mathrm{ESS}$ it is $\tfrac12 (1 / \mathrm{ESS} - 1/K)$. It is `nan`
    where all weights are zero. The arguments are those of `bound`.

    Claim: x-iwae-gap
        Let $w = p(x, z) / q(z \mid x)$ for $z \sim q$, where $q$ covers the posterior, and let
        $L_K$ be the mean of the logarithm of the average of $K$ independent such weights. Let
        $L_1 > -\infty$ and $\chi^2 = \operatorname{Var}(w) / p(x)^2 < \infty$. Then
        $$K\, (\log p(x) - L_K) \to c_1 = \tfrac12 \chi^2,$$
        where $\chi^2$ is the divergence $\chi^2(p(z \mid x) \Vert q)$. If $w / p(x)$ has a finite
        fourth moment, and the central moments $m_2 = \chi^2$ and $m_3$, then
        $$\log p(x) - L_K = \frac{c_1}{K} + \frac{c_2}{K^2} + o(K^{-2})$$
        with $c_2 = \tfrac34 m_2^2 - \tfrac13 m_3$.
        A weight of 2 with probability 0.3 and of 0.4 with 0.7 has $c_1 = 0.347107$ and
        $c_2 = 0.193156$. With the shares $\tilde w_j = w_j / \sum_i w_i$ of $K$ weights,
        $\tfrac K2 \sum_j (\tilde w_j - \tfrac1K)^2 \to c_1$ almost surely.

    Claim: x-iwae-gap-heavy
        Let the posterior be $\mathrm{Exp}(1)$ and $q = \mathrm{Exp}(r)$ with the rate $r > 1$. The
        weight $w = p(x, z) / q(z \mid x)$ has a Pareto law, $\Pr(w / p(x) > u) = (ru)^{-a}$ for
        $u \ge 1 / r$ with $a = r / (r - 1)$. For the bound $L_K$ of $K$ such weights, as
        $K \to \infty$,
        $$\log p(x) - L_K \sim \begin{cases}
        \dfrac{(r - 1)^2}{2 r (2 - r)}\, K^{-1} & r < 2, \\
        \dfrac{\log K + \log 2 - \frac32}{4}\, K^{-1} & r = 2, \\
        \dfrac{\pi\, r^{-a}}{\sin \pi (a - 1)}\, K^{-(a - 1)} & r > 2.
        \end{cases}$$
        The variance of the weights is infinite for $r \ge 2$. For $r = 3$ the gap falls like
        $0.604600\, K^{-1/2}$. In the second line even the difference of the two sides is $o(1/K)$.
    """
    K = _count(log_w, dim)
    return (log_w.softmax(dim) - 1 / K).square().sum(dim) / 2


def jackknife(log_w: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    r"""Returns $K \hat L - (K - 1)\, \tfrac1K \sum_i \hat L_{-i}$, an estimate of $\log p(x)$.

    Here $\hat L$ is the bound of all weights and $\hat L_{-i}$ that of all but $w_i$. The result is
    $\infty$ where exactly one weight is positive, and $-\infty$ where none is.

    Claim: x-iwae-jackknife
        Let $w_j = p(x, z_j) / q(z_j \mid x)$ for independent $z_1, \dots, z_K \sim q$, where $q$
        covers the posterior, $L_K = E \log \tfrac1K \sum_j w_j$ and $K \ge 2$. If
        $L_{K-1} > -\infty$, the jackknife estimate has the mean $K L_K - (K - 1) L_{K-1}$. If
        $L_1 > -\infty$ and the weights have a finite sixth moment, then
        $$K L_K - (K - 1) L_{K-1} = \log p(x) + \frac{c_2}{K^2} + o(K^{-2}),$$
        with the coefficient $c_2$ of $1/K^2$ in the gap. So it loses the term $c_1 / K$, and it is
        no lower bound: where $c_2 > 0$, its mean is larger than $\log p(x)$ for all large $K$.

    Arguments:
        log_w: The numbers $\log w_j$.
        dim: The dimension of the $K \ge 2$ samples.
    """
    K = _count(log_w, dim, least=2)
    none = log_w.isneginf().all(dim, keepdim=True)
    top = _top(log_w, dim)
    x = log_w.where(~none, 0) - top
    largest = x.argmax(dim, keepdim=True)
    small = x.softmax(dim).scatter(dim, largest, 0)
    rest = bound(x.scatter(dim, largest, -math.inf), dim) - bound(x, dim)
    left = (-small).log1p().sum(dim) + rest
    more = bound(x, dim) - (K - 1) * (left / K + math.log1p(1 / (K - 1)))
    return (top.squeeze(dim) + more).where(~none.squeeze(dim), -math.inf)


def doubly_reparameterized(
    log_weight: Callable[[Tensor], Tensor],
    z: Float[Tensor, "..."],
    dim: int = -1,
) -> Float[Tensor, "..."]:
    r"""Returns the bound, with the gradient $\sum_j \tilde w_j^2\, \partial \log w_j$ through $z$.

    What reaches a parameter through `z` has the weights $\tilde w_j^2$, what reaches it otherwise,
    such as a parameter of the model, the usual $\tilde w_j$. So one backward pass serves both.
    In $\log w = \log p(x, z) - \log q(z \mid x)$ the parameters of $q$ must be detached.

    Claim: x-iwae-dreg
        Let $z_j = g_\phi(\epsilon_j)$ with independent $\epsilon_j$ have the density $q_\phi$ with
        the score $s_j = \partial_\phi \log q_\phi(z_j)$. With $\phi$ held constant in $\log w$, let
        $g_j = \partial_z \log w(z_j)\, \partial_\phi z_j$. Let $w > 0$, let $\partial_\phi L_K$ be
        the mean of $\partial_\phi \log \tfrac1K \sum_j w_j$, and let
        $E f(z_j)\, s_j = E f'(z_j)\, \partial_\phi z_j$ for $f = \tilde w_j = w_j / \sum_i w_i$, as
        a function of $z_j$. Then
        $$\partial_\phi L_K = E \sum_j \tilde w_j^2\, g_j .$$
        If $q$ covers the posterior and $E w^4$, $E g^2$ and $E b^2$ are finite, where $b = w^2 g$
        and $B = E\, b$, then the signal-to-noise ratio of $\sum_j \tilde w_j^2\, g_j$ grows:
        $$K^{-1/2}\, \mathrm{SNR}_K \to
        \frac{|B|}{\operatorname{Var}(b - 2 B w / p(x))^{1/2}},$$
        if this variance is not zero.

    Claim: x-iwae-stl-bias
        Let $z_j = g_\phi(\epsilon_j)$ with independent $\epsilon_j$ have the density $q_\phi$ with
        the score $s_j = \partial_\phi \log q_\phi(z_j)$ with a finite $E |s|$, let $w > 0$ and let
        $\partial_\phi L_K$ be the mean of $\partial_\phi \log \tfrac1K \sum_j w_j$. Drop the score:
        hold $\phi$ constant in $\log w$, so that it acts through $z$ alone. The gradient then has
        the mean
        $$\partial_\phi L_K + E \sum_j \tilde w_j s_j, \qquad \tilde w_j = w_j / \sum_i w_i .$$
        For $K = 1$ the second term is $E\, s$. This is 0 if $\int q_\phi\, dz$ may be
        differentiated under the integral. If $E\, w |s|$ is finite and $q$ covers the posterior,
        the second term tends to $E_{p(z \mid x)}\, s$ as $K \to \infty$. This is
        $-\partial_\phi \mathrm{KL}(p(z \mid x) \Vert q_\phi)$ if the divergence may be
        differentiated under its integral.

    Arguments:
        log_weight: From samples to $\log w_j$, one for each sample.
        z: The reparameterised samples, of the shape of their weights and then that of an event.
        dim: The dimension of the $K$ samples, counted in the shape of the weights.
    """
    z = z.view_as(z)
    log_w = log_weight(z)
    if log_w.shape != z.shape[: log_w.dim()]:
        shapes = f"z of shape {tuple(z.shape)}, got shape {tuple(log_w.shape)}"
        raise ValueError(f"log_weight must return one number for each sample, for {shapes}")
    share = log_w.detach().softmax(dim).nan_to_num()
    share = share.view(*share.shape, *[1] * (z.dim() - share.dim()))
    if z.requires_grad:
        z.register_hook(lambda gradient: share * gradient)  # type: ignore[no-untyped-call]
    return bound(log_w, dim)


def _count(log_w: Tensor, dim: int, least: int = 1) -> int:
    samples = log_w.shape[dim]
    if samples < least:
        raise ValueError(f"log_w must hold {least} or more weights along dim {dim}, got {samples}")
    return samples


def _top(log_w: Tensor, dim: int) -> Tensor:
    r"""Returns the largest $\log w_j$, or 0 where that is not finite."""
    top = log_w.detach().amax(dim, keepdim=True)
    return top.where(top.isfinite(), 0)
