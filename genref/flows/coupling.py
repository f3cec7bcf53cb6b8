r"""Coupling layers, which move some coordinates by functions of the others, and stacks of layers.

A mask $m$ divides the coordinates. Those with $m_i = 1$ pass unchanged and are all that a network
reads; those with $m_i = 0$ are moved by what it returns. So it can be evaluated again on the
result, and the layer is inverted without inverting the network.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.distributions import Distribution

from genref.flows.plu import _require_permutation, to_data, to_latent

__all__ = ["Additive", "Affine", "Conditional", "Flow", "Layer", "Mapped", "mask"]

Mapped = tuple[Float[Tensor, "*shape"], Float[Tensor, "*batch"]]
"""Points, and for each of them one number: a log-determinant or a log-density."""


@runtime_checkable
class Layer(Protocol):
    """What all layers have, and what a flow can be made of: a bijection in both directions."""

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns $x = g(z)$ and $\log \lvert \det J_g(z) \rvert$."""
        ...

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns $z = g^{-1}(x)$ and $\log \lvert \det J_{g^{-1}}(x) \rvert$."""
        ...


def mask(size: int, kind: Literal["halves", "alternating"] = "halves") -> Bool[Tensor, " size"]:
    r"""Returns a mask $m$ that keeps the first half of the coordinates, or every other one.

    The next layer takes `~mask`: what one layer moves, the next one reads.

    Arguments:
        size: The number $D \ge 2$ of coordinates. If it is odd, the first half is the smaller one.
        kind: `"halves"`, or `"alternating"`, which begins with a coordinate that is kept.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2, got {size}")
    if kind not in ("halves", "alternating"):
        raise ValueError(f"kind must be 'halves' or 'alternating', got {kind!r}")
    place = torch.arange(size)
    return place < size // 2 if kind == "halves" else place % 2 == 0


class _Coupling(nn.Module, ABC):
    """Both directions of a layer whose `_move` and `_back` change the moved coordinates."""

    order: Tensor
    back: Tensor

    def __init__(self, mask: Shaped[Tensor, " size"], net: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if mask.dim() != 1 or set(mask.tolist()) != {0, 1}:
            raise ValueError(f"mask must be a vector with both zeros and ones, got {mask.tolist()}")
        self.net, self.dim, self.moved = net, -1, int((mask == 0).sum())
        parts = [(mask == mask[0]).nonzero()[:, 0], (mask != mask[0]).nonzero()[:, 0]]
        self.sizes, self.turn = [len(part) for part in parts], 1 if mask[0] == 1 else -1
        self.register_buffer("order", torch.cat(parts), persistent=False)
        self.register_buffer("back", self.order.argsort(), persistent=False)
        self.in_order = self.order.tolist() == list(range(len(mask)))

    def to_data(self, z: Float[Tensor, "*shape"]) -> Mapped:
        return self._changed(z, "z", self._move)

    def to_latent(self, x: Float[Tensor, "*shape"]) -> Mapped:
        return self._changed(x, "x", self._back)

    def _changed(self, x: Tensor, name: str, change: Callable[[Tensor, Tensor], Mapped]) -> Mapped:
        """The point with its moved coordinates changed, and the log-determinant."""
        if not x.is_floating_point():
            raise ValueError(f"{name} must be floating, got {x.dtype}")
        if x.dim() < -self.dim or x.shape[self.dim] != len(self.order):
            wanted = f"{len(self.order)} coordinates"
            raise ValueError(f"{name} must have {wanted}, got {tuple(x.shape)}")
        ordered = x if self.in_order else x.index_select(self.dim, self.order)
        kept, moved = ordered.split_with_sizes(self.sizes, self.dim)[:: self.turn]
        moved, log_det = change(moved, self._told(kept))
        x = torch.cat((kept, moved)[:: self.turn], self.dim)
        return x if self.in_order else x.index_select(self.dim, self.back), log_det

    def _told(self, kept: Tensor) -> Tensor:
        """What the network says about the kept coordinates."""
        try:
            told = self.net(kept)
        except RuntimeError as error:
            given = f"the kept coordinates alone, {tuple(kept.shape)} of {kept.dtype}"
            raise ValueError(f"net must take {given}: {error}") from error
        if told.shape != (shape := (*kept.shape[: self.dim], self._outputs(self.moved))):
            raise ValueError(f"net must return the shape {shape}, got {tuple(told.shape)}")
        return told.to(kept.dtype)

    @abstractmethod
    def _outputs(self, moved: int) -> int:
        """How many numbers the network returns."""

    @abstractmethod
    def _move(self, v: Tensor, told: Tensor) -> Mapped:
        """The moved coordinates of x, from those of z, and the log-determinant."""

    @abstractmethod
    def _back(self, v: Tensor, told: Tensor) -> Mapped:
        """The moved coordinates of z, from those of x, and the log-determinant."""


class Additive(_Coupling):
    r"""The map $x = z + \bar m \odot t(m \odot z)$, of determinant one.

    Claim: coupling-additive-logdet
        Let $m \in \{0, 1\}^D$ hold both values and let $t$ be any differentiable function. The
        Jacobian of $x = z + \bar m \odot t(m \odot z)$ has determinant 1 at every point, and so has
        that of a stack of such layers: both preserve volume, whatever $t$ is. Let $D = 2h$, let the
        two halves take turns to be moved, and let the Jacobians of the shifts be generic. After 1,
        2 and 3 layers the Jacobian of the stack has $h^2 + 2h$, $3h^2 + h$ and $4h^2$ entries that
        are not zero. So if $h \ge 2$, every output depends on every input from three layers on, and
        not before.

    Arguments:
        mask: A vector of $D$ zeros and ones: one where a coordinate passes unchanged.
        net: The function $t$, from the kept coordinates alone, in their order, to a shift for each
            moved one. A module is trained with the layer.
    """

    def _outputs(self, moved: int) -> int:
        return moved

    def _move(self, v: Tensor, told: Tensor) -> Mapped:
        return v + told, v.new_zeros(v.shape[:-1])

    def _back(self, v: Tensor, told: Tensor) -> Mapped:
        return v - told, v.new_zeros(v.shape[:-1])


class Affine(_Coupling):
    r"""The map $x = m \odot z + \bar m \odot (z \odot e^{\lambda(m \odot z)} + t(m \odot z))$.

    Claim: coupling-affine-logdet
        Let $m \in \{0, 1\}^D$ hold both values, let $t$ and $\lambda$ be differentiable functions,
        and let $y = m \odot z$. The Jacobian of
        $x = y + \bar m \odot (z \odot e^{\lambda(y)} + t(y))$ has
        $\log \det J = \sum_{i : m_i = 0} \lambda_i(y)$, and that of the inverse map, at $x$, the
        opposite number. No derivative of $t$ or $\lambda$ occurs in it.

    Claim: coupling-inverse-exact
        For any functions $t$ and $\lambda$, continuous or not, injective or not, with
        $y = m \odot z$ the map $x = y + \bar m \odot (z \odot e^{\lambda(y)} + t(y))$ is a
        bijection of $\mathbb{R}^D$. Its inverse
        $z = y + \bar m \odot (x - t(y)) \odot e^{-\lambda(y)}$ with $y = m \odot x$ evaluates
        $t$ and $\lambda$ without inverting them. In float64, without overflow or underflow, with
        functions that repeat their results, and an exponential that errs by at most
        $2^{-52}$ of its value, `to_latent(to_data(z))` returns the kept coordinates bit for bit,
        and each moved one with an error of at most
        $2^{-53} (1.1\, |t_i| e^{-\lambda_i} + 9\, |z_i|)$; with $\lambda = 0$, as in `Additive`,
        $2^{-53} (1.1\, |t_i| + 3\, |z_i|)$. So a large shift takes the digits of $z_i$, and all of
        them if $|t_i| \ge 2^{55} |z_i| e^{\lambda_i}$: then zero comes back.

    Arguments:
        mask: A vector of $D$ zeros and ones: one where a coordinate passes unchanged.
        net: From the kept coordinates, in their order, to the shifts $t$ of the moved ones, then
            the logarithms $\lambda$ of their scales: twice as many numbers as are moved.
    """

    def _outputs(self, moved: int) -> int:
        return 2 * moved

    def _move(self, v: Tensor, told: Tensor) -> Mapped:
        t, log_scale = told.chunk(2, -1)
        log_scale = log_scale.contiguous()  # several times faster in exp
        return torch.addcmul(t, v, log_scale.exp()), log_scale.sum(-1)

    def _back(self, v: Tensor, told: Tensor) -> Mapped:
        t, log_scale = told.chunk(2, -1)
        log_scale = -log_scale
        return (v - t) * log_scale.exp(), log_scale.sum(-1)


class Conditional(_Coupling):
    r"""The map $x_{\bar m} = P L (U + \operatorname{diag}(s))\, z_{\bar m} + t$ and $x_m = z_m$.

    Here $L$, $U$, $s$ and $t$ are functions of the kept coordinates, and $P$ is fixed.

    Claim: coupling-conditional-logdet
        Let a coupling move the vector of its $C$ moved coordinates, or that of the moved channels
        in each of $HW$ pixels, by $v \mapsto P L (U + \operatorname{diag}(s)) v + t$. Let $P$ be a
        permutation matrix, $L$ lower triangular with ones on its diagonal, $U$ upper triangular
        with zeros on its diagonal, $s_i \ne 0$ of either sign, and let $L$, $U$, $s$ and $t$ be
        differentiable functions of what is kept. Then the map is a bijection with
        $\log |\det J| = HW \sum_i \log |s_i|$, where $HW = 1$ for vectors.

    Arguments:
        mask: A vector of $D$ zeros and ones: one where a coordinate passes unchanged.
        permutation: The matrix $P$, with $C$ rows if $C$ coordinates are moved.
        net: From the kept coordinates to $C^2 + C$ numbers: the entries of $L$ below the diagonal
            and of $U$ above it, row by row, then $s$, where none may be zero, then $t$.
        event_dims: 1 for vectors; 3 for images $(\dots, D, H, W)$, whose channels the mask divides
            and whose pixels are all moved by the same matrix and shift.
    """

    permutation: Tensor

    def __init__(
        self,
        mask: Shaped[Tensor, " size"],
        permutation: Shaped[Tensor, "moved moved"],
        net: Callable[[Tensor], Tensor],
        event_dims: Literal[1, 3] = 1,
    ) -> None:
        super().__init__(mask, net)
        if event_dims not in (1, 3):
            raise ValueError(f"event_dims must be 1 or 3, got {event_dims}")
        _require_permutation(permutation, self.moved)
        self.dim = -event_dims
        self.register_buffer("permutation", permutation, persistent=False)

    def _outputs(self, moved: int) -> int:
        return moved**2 + moved

    def _move(self, v: Tensor, told: Tensor) -> Mapped:
        *factors, t = self._factors(told)
        x, log_det = to_data(self._image(v), *factors)
        return (x + t).view_as(v), log_det

    def _back(self, v: Tensor, told: Tensor) -> Mapped:
        *factors, t = self._factors(told)
        z, log_det = to_latent(self._image(v) - t, *factors)
        return z.view_as(v), log_det

    def _image(self, v: Tensor) -> Tensor:
        return v if self.dim == -3 else v[..., None, None]

    def _factors(self, told: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        C = self.moved
        below, above, s, t = told.tensor_split([C * (C - 1) // 2, C * (C - 1), C * C], -1)
        L = torch.eye(C).to(s).repeat(*s.shape[:-1], 1, 1)
        U = torch.zeros_like(L)
        L[(..., *torch.tril_indices(C, C, -1))] = below
        U[(..., *torch.triu_indices(C, C, 1))] = above
        return self.permutation.to(s), L, U, s, t[..., None, None]


class Flow(nn.Module):
    r"""The law of $g(Z)$ for a stack $g = g_n \circ \dots \circ g_1$ of layers and $Z$ from a base.

    Claim: coupling-flow-density
        Let $g = g_n \circ \dots \circ g_1$ be a stack of coupling layers with differentiable
        networks, and $Z$ have the density $p_Z$. With $z_n = x$ and
        $z_{k-1} = g_k^{-1}(z_k)$, the density of $g(Z)$ at $x$ has the logarithm
        $\log p_Z(z_0) + \sum_k \log |\det J_{g_k^{-1}}(z_k)|$. `log_prob` returns it, and
        `sample_with_log_prob` returns it at its own samples, which have that density.

    Arguments:
        layers: $g_1, \dots, g_n$, from the latent point to the data, or a single layer. A flow is a
            layer too.
        base: The law of $Z$, whose events are points, such as `Independent(Normal(...), 1)`, of the
            layers' dtype and device. It is no part of the module: make it again after `.double()`
            or `.to(device)`, and give its parameters, if it has any, to the optimiser yourself.
    """

    def __init__(self, layers: Layer | Iterable[Layer], base: Distribution) -> None:
        super().__init__()
        if not base.event_shape:
            raise ValueError(f"base must have vectors as events, as in Independent, got {base}")
        self.layers = (layers,) if isinstance(layers, Layer) else tuple(layers)
        self.base = base
        for number, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise ValueError(f"layers must have to_data and to_latent, got {layer}")
            if isinstance(layer, nn.Module):
                self.add_module(str(number), layer)

    def to_data(self, z: Float[Tensor, "*shape"]) -> Mapped:
        r"""Returns $x = g(z)$ and the sum of the log-determinants of the layers."""
        return self._through([layer.to_data for layer in self.layers], z, "z")

    def to_latent(self, x: Float[Tensor, "*shape"]) -> Mapped:
        r"""Returns $z = g^{-1}(x)$, last layer first, and the sum of the log-determinants."""
        return self._through([layer.to_latent for layer in self.layers[::-1]], x, "x")

    def log_prob(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        r"""Returns $\log p_Z(g^{-1}(x)) + \log \lvert \det J_{g^{-1}}(x) \rvert$."""
        z, log_det = self.to_latent(x)
        return self.base.log_prob(z) + log_det

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
        """Returns $n$ independent points, through which gradients flow to the layers."""
        return self.to_data(self._noise(n, generator))[0]

    def sample_with_log_prob(self, n: int, generator: torch.Generator | None = None) -> Mapped:
        """Returns $n$ independent points and their log-densities, without inverting a layer."""
        z = self._noise(n, generator)
        x, log_det = self.to_data(z)
        return x, self.base.log_prob(z) - log_det

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        draw = self.base.rsample if self.base.has_rsample else self.base.sample
        if generator is None:
            return draw((n,))
        on_cpu, place = generator.device.type == "cpu", generator.device.index
        default = torch.default_generator if on_cpu else torch.cuda.default_generators[place]
        with torch.random.fork_rng([] if on_cpu else [place]):  # distributions take no generator
            default.set_state(generator.get_state())
            z: Tensor = draw((n,))
            generator.set_state(default.get_state())
        if generator.device.type != z.device.type:
            raise ValueError(f"generator must be on {z.device}, like base, got {generator.device}")
        return z

    def _through(self, maps: list[Callable[[Tensor], Mapped]], x: Tensor, name: str) -> Mapped:
        event = self.base.event_shape
        if x.shape[-len(event) :] != event:
            wanted = f"{tuple(event)} of the points of base"
            raise ValueError(f"{name} must end in the shape {wanted}, got {tuple(x.shape)}")
        log_det = x.new_zeros(x.shape[: -len(event)])
        for each in maps:
            x, step = each(x)
            log_det = log_det + step
        return x, log_det
