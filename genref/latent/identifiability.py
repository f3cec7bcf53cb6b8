r"""Which changes of a latent variable no data can show.

A map $h$ of the latent space that keeps the prior, undone by the decoder, leaves the law of the
data as it was. For a normal prior these are rotations, reflections, and many curved maps.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["alignment", "rotation", "swirl"]


def rotation(angle: float | Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 2 2"]:
    r"""Returns $R(a)$, which turns the plane by $a$ counterclockwise.

    Claim: latent-nonunique
        Let $x \in \mathbb{R}^2$, $f_a(x) = x$ and $f_b(x) = Rx$ with an invertible $R \ne I$. Then
        $z_a \ne z_b$ for all $x$ outside a subspace of lower dimension, for instance
        $z_a = (1, 0)$ and $z_b = (0, 1)$ when $R$ turns by a right angle, and $R^{-1} z_b = z_a$
        loses nothing. Now let $z_a \sim \mathcal{N}(0, I)$ on $\mathbb{R}^d$ and
        $x \sim \mathcal{N}(Wz_a, \sigma^2 I)$ given $z_a$, and let $R$ be orthogonal. The model
        with the weights $WR^\top$ has the same prior for $z_b = Rz_a$, the same likelihood
        $p(x \mid z_b = Rz) = p(x \mid z_a = z)$ and the same evidence for every $x$, and its
        posterior, mean and covariance, is that of $z_a$ turned by $R$. If $R$ is invertible but not
        orthogonal, and $W$ has full column rank, then the weights $WR^{-1}$ with the prior
        $\mathcal{N}(0, I)$ give another law of $x$.

    Arguments:
        angle: In radians.
    """
    angle = torch.as_tensor(angle)
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def swirl(
    z: Float[Tensor, "*#batch 2"],
    strength: float | Float[Tensor, "*#batch"] = 3.0,
) -> Float[Tensor, "*batch 2"]:
    r"""Returns $h(z) = R(c \lVert z \rVert^2)\, z$, which turns each circle by its own angle.

    The inverse has the strength $-c$.

    Claim: latent-orbit
        Let $z$ have the prior $p(z)$, and $x$ given $z$ the law $p(x \mid z)$. For every bijection
        $h$ of the latent space, measurable with its inverse, $z' = h(z)$ with the decoder
        $p'(x \mid z') = p(x \mid h^{-1}(z'))$ gives the same law of $x$, and the posterior of $z'$
        is that of $z$ moved by $h$. The prior stays the same if and only if $h$ is in the group
        $\{h : h_\# p = p\}$, where $h_\# p$ is the law of $h(z)$. If $x = g(z)$ with an injective
        $g$, the injective $g'$ with the same image and the same law of $x$ are exactly
        $g \circ h^{-1}$ with $h$ in the group, provided that inverses are measurable. For
        $p = \mathcal{N}(0, I)$ on $\mathbb{R}^d$ the linear $h$ in it form $O(d)$, and two
        linear-Gaussian models with $\sigma^2 I$ of one $\sigma$ have the same law of $x$ if and
        only if their weights are $W$ and $WR$ with $R \in O(d)$. Nonlinear $h$ are many more. On
        $\mathbb{R}^2$, for every function $a$ with a continuous derivative,
        $h(z) = R(a(\lVert z \rVert^2))\, z$ has $\lVert h(z) \rVert = \lVert z \rVert$ and
        Jacobian determinant 1, so it keeps every law whose density depends on $\lVert z \rVert$
        alone.

    Arguments:
        z: The latent points.
        strength: The number $c$ in the angle $a(r^2) = c r^2$.
    """
    if z.shape[-1] != 2:
        raise ValueError(f"z must have 2 coordinates, got {z.shape[-1]}")
    angle = strength * z.square().sum(-1)
    return (rotation(angle) @ z[..., None])[..., 0]


def alignment(
    W: Float[Tensor, "*#batch D d"],
    other: Float[Tensor, "*#batch D d"],
) -> Float[Tensor, "*batch d d"]:
    r"""Returns the orthogonal $R$ for which $\lVert WR - W' \rVert_F$ is least.

    This least distance is zero if and only if the two weights give the same law of $x$ in
    linear-Gaussian models of equal noise. With $W^\top W' = U S V^\top$ the matrix is $U V^\top$,
    unique if no singular value is zero.

    Arguments:
        W: Weights of a linear decoder.
        other: The weights $W'$ of another one, of the same shape.
    """
    if W.shape[-2:] != other.shape[-2:]:
        shapes = f"{tuple(W.shape[-2:])} and {tuple(other.shape[-2:])}"
        raise ValueError(f"W and other must have one shape, got {shapes}")
    U, _, Vh = torch.linalg.svd(W.mT @ other)
    turn: Tensor = U @ Vh
    return turn
