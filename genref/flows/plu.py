r"""Invertible $1 \times 1$ convolutions by $A = P L (U + \operatorname{diag}(s))$, as in Glow.

A pixel is a vector of $C$ channels, and all pixels are multiplied by one matrix. Its factors are
kept apart: the scales $s$ give the determinant, two triangular systems give the inverse.

Claim: glow-reshape
    Let $h$ map tensors of $D$ entries to tensors of $D$ entries and be differentiable at $X$. Write
    its input and its output as vectors, in any two orders of their entries. Then the absolute value
    of the Jacobian determinant at $X$ does not depend on the orders. The determinant itself is
    multiplied by $\operatorname{sgn}\pi \cdot \operatorname{sgn}\pi'$ when the orders are changed
    by permutations $\pi$ and $\pi'$, so it too is the same for every order that input and output
    share.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["PLU", "factors", "to_data", "to_latent"]


class PLU(nn.Module):
    r"""The $1 \times 1$ convolution $x = P L (U + \operatorname{diag}(s)) z$ of every pixel.

    The matrices $L$, $U$ and the vector $s$ become parameters. Training moves what is below the
    diagonal in $L$ and above it in $U$, and nothing else in them.

    Claim: glow-plu-det
        Let $P$ be a $C \times C$ permutation matrix, $L$ lower triangular with ones on its
        diagonal, $U$ upper triangular with zeros on its diagonal, and $s_i \ne 0$ of either sign
        for $i = 1, \dots, C$. Then $A = P L (U + \operatorname{diag}(s))$ is invertible,
        $\det A = \operatorname{sgn} P \cdot \prod_i s_i$, and
        $\log|\det A| = \sum_i \log|s_i|$.

    Claim: glow-conv
        Let $A = P L (U + \operatorname{diag}(s))$ with $s_i \ne 0$ for all $i$. The $1 \times 1$
        convolution with kernel $w_{ij11} = A_{ij}$ maps $C \times H \times W$ tensors with
        $\log|\det J| = HW \sum_i \log|s_i|$. If the entries are put in order pixel by pixel, and
        in each pixel channel by channel, its Jacobian is $HW$ copies of $A$ along the diagonal and
        zero elsewhere.

    Claim: glow-float32
        Let $s$ be in float32, every $s_i$ finite and not 0, let
        $(C + 2) \sum_i |\log|s_i|| \le 2^{27} |\sum_i \log|s_i||$, and let a logarithm in float64
        err by one unit in the last place at most. Then both directions of the layer return a
        log-determinant within one unit in the last place of $\pm HW \sum_i \log|s_i|$, if that is
        within the range of float32, whatever the condition number of $A$; it was checked for
        condition numbers from $6 \cdot 10^{16}$ on.

    Arguments:
        permutation: The matrix $P$.
        lower: The matrix $L$, zero above its diagonal of ones. It may be a batch of matrices, one
            for each event, and so may all four.
        upper: The matrix $U$, zero on and below its diagonal.
        s: The scales, finite and not 0.
    """

    permutation: Tensor

    def __init__(
        self,
        permutation: Float[Tensor, "*#batch C C"],
        lower: Float[Tensor, "*#batch C C"],
        upper: Float[Tensor, "*#batch C C"],
        s: Float[Tensor, "*#batch C"],
    ) -> None:
        super().__init__()
        _check(permutation, lower, upper, s)
        self.register_buffer("permutation", permutation.detach().clone())
        self.lower = nn.Parameter(lower.detach().clone())
        self.upper = nn.Parameter(upper.detach().clone())
        self.s = nn.Parameter(s.detach().clone())

    def to_data(
        self, z: Float[Tensor, "*#batch C H W"]
    ) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
        r"""Returns $x = P L (U + \operatorname{diag}(s)) z$ and $HW \sum_i \log|s_i|$."""
        return to_data(z, *self._factors())

    def to_latent(
        self, x: Float[Tensor, "*#batch C H W"]
    ) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
        r"""Returns $z = (U + \operatorname{diag}(s))^{-1} L^{-1} P^\top x$ and minus that sum."""
        return to_latent(x, *self._factors())

    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        one = torch.eye(self.s.shape[-1]).to(self.s)
        return self.permutation, self.lower.tril(-1) + one, self.upper.triu(1), self.s


def to_data(
    z: Float[Tensor, "*#batch C H W"],
    permutation: Float[Tensor, "*#batch C C"],
    lower: Float[Tensor, "*#batch C C"],
    upper: Float[Tensor, "*#batch C C"],
    s: Float[Tensor, "*#batch C"],
) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
    r"""Returns $x = P L (U + \operatorname{diag}(s)) z$ and $HW \sum_i \log|s_i|$.

    The factors may be those of a network that reads other channels; gradients flow to them.

    Claim: glow-coupling
        Let $x$ and $z$ be tensors of $2C \times H \times W$ and let $L$, $U$ and $s$ be
        differentiable functions of the first $C$ channels of $z$, with the shapes of a PLU layer
        and with $s_i \ne 0$ for all $i$ at every $z$. Keep the first $C$ channels, and let the
        $1 \times 1$ convolution by $P L (U + \operatorname{diag}(s))$ map the last $C$. This map is
        a bijection with $\log|\det J| = HW \sum_i \log|s_i|$, where $s$ is taken at the channels
        that are kept. How $L$, $U$ and $s$ change with these channels does not occur in it.

    Arguments:
        z: The latent images.
        permutation: The matrix $P$.
        lower: The matrix $L$, zero above its diagonal of ones.
        upper: The matrix $U$, zero on and below its diagonal.
        s: The scales, finite and not 0.
    """
    _check(permutation, lower, upper, s)
    _require_images("z", z, s)
    x = permutation @ (lower @ ((upper + s.diag_embed()) @ z.flatten(-2)))
    return x.reshape(*x.shape[:-1], *z.shape[-2:]), _log_det(x, s)


def to_latent(
    x: Float[Tensor, "*#batch C H W"],
    permutation: Float[Tensor, "*#batch C C"],
    lower: Float[Tensor, "*#batch C C"],
    upper: Float[Tensor, "*#batch C C"],
    s: Float[Tensor, "*#batch C"],
) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
    r"""Returns $z = (U + \operatorname{diag}(s))^{-1} L^{-1} P^\top x$ and $-HW \sum_i \log|s_i|$.

    Claim: x-glow-inverse
        If $s_i \ne 0$ for all $i$, then $x = P L (U + \operatorname{diag}(s)) z$ has for every $x$
        the one solution that is found by two triangular systems,
        $L y = P^\top x$ and $(U + \operatorname{diag}(s)) z = y$, and the log-determinant of the
        map from $x$ to $z$ is $-HW \sum_i \log|s_i|$. In floating-point numbers with unit roundoff
        $u$ and without overflow or underflow, substitution computes a $\hat z$ with a residual
        $r = x - P L (U + \operatorname{diag}(s)) \hat z$ for which
        $$|r| \le 3 (C + 1) u \, P\, |L|\, |U + \operatorname{diag}(s)|\, |\hat z|$$
        in every entry, if $10 C u \le 1$. No condition number occurs in it.

    Arguments:
        x: The images.
        permutation: The matrix $P$.
        lower: The matrix $L$, zero above its diagonal of ones.
        upper: The matrix $U$, zero on and below its diagonal.
        s: The scales, finite and not 0.
    """
    _check(permutation, lower, upper, s)
    _require_images("x", x, s)
    y = _solve(lower, permutation.mT @ x.flatten(-2), upper=False)
    z = _solve(upper + s.diag_embed(), y, upper=True)
    return z.reshape(*z.shape[:-1], *x.shape[-2:]), -_log_det(z, s)


def factors(
    A: Float[Tensor, "*batch C C"], permutation: Float[Tensor, "C C"] | None = None
) -> tuple[
    Float[Tensor, "*#batch C C"],
    Float[Tensor, "*batch C C"],
    Float[Tensor, "*batch C C"],
    Float[Tensor, "*batch C"],
]:
    r"""Returns $P$, $L$, $U$ and $s$ with $A = P L (U + \operatorname{diag}(s))$.

    Claim: x-glow-reach
        Let $d_0 = 1$ and let $d_k$ be the determinant of the first $k$ rows and columns of
        $P^\top A$. For a given permutation matrix $P$ there are factors with
        $A = P L (U + \operatorname{diag}(s))$ and no $s_i = 0$ if and only if no $d_k$ is 0. They
        are then unique, and $s_k = d_k / d_{k-1}$. So with $P = I$ no such factors give
        $\begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}$. If the signs of $s$ are fixed too, the
        matrices reached are those for which every $d_k$ has the sign of $s_1 \cdots s_k$: an open
        and connected set, and of the $2^C$ matrices $\operatorname{diag}(\pm 1) A$ it holds exactly
        one, if no $d_k$ is 0. Every square matrix $A$, singular or not, has factors for some $P$,
        with $|L_{ij}| \le 1$; some $s_i$ is 0 if and only if $A$ is singular.

    Arguments:
        A: The matrices.
        permutation: A given $P$. Without one, rows are exchanged so that all $|L_{ij}| \le 1$. With
            one they are not, and where some $s_k$ comes out as 0 there is an error.
    """
    if A.shape[-1:] != A.shape[-2:-1]:
        raise ValueError(f"A must hold square matrices, got shape {tuple(A.shape)}")
    if permutation is None:
        permutation, lower, upper = torch.linalg.lu(A)
        return permutation, lower, upper.triu(1), upper.diagonal(dim1=-2, dim2=-1)
    _require_permutation(permutation, A.shape[-1])
    lower, upper = torch.eye(A.shape[-1]).to(A).expand_as(A), permutation.mT @ A
    for k in range(A.shape[-1]):
        pivot = upper[..., k, k]
        if not (pivot.isfinite() & (pivot != 0)).all():
            raise ValueError(f"A must have factors with this permutation, got s = 0 at {k + 1}")
        ratio = (upper[..., k] / pivot[..., None])[..., k + 1 :, None]
        change = nn.functional.pad(ratio, (k, A.shape[-1] - k - 1, k + 1, 0))
        lower, upper = lower + change, upper - change[..., k : k + 1] * upper[..., k : k + 1, :]
    return permutation, lower, upper.triu(1), upper.diagonal(dim1=-2, dim2=-1)


def _log_det(columns: Tensor, s: Tensor) -> Tensor:
    r"""Returns $HW \sum_i \log|s_i|$, summed in float64 and rounded once."""
    log_det = columns.shape[-1] * s.double().abs().log().sum(-1)
    return log_det.to(s.dtype).expand(columns.shape[:-2])


def _solve(T: Tensor, y: Tensor, upper: bool) -> Tensor:
    r"""Solves triangular systems; a single $T$ takes all columns of the batch as one matrix."""
    rows = y if T.dim() > 2 else y.movedim(-2, 0)
    columns = rows if T.dim() > 2 else rows.flatten(1)
    solution: Tensor = torch.linalg.solve_triangular(T, columns, upper=upper)
    return solution if T.dim() > 2 else solution.view(rows.shape).movedim(0, -2)


def _require_permutation(P: Tensor, C: int) -> None:
    if P.shape[-2:] != (C, C):
        raise ValueError(f"permutation must be {C} x {C}, got shape {tuple(P.shape)}")
    if not (((P == 0) | (P == 1)).all() and (P.sum(-1) == 1).all() and (P.sum(-2) == 1).all()):
        raise ValueError(f"permutation must have one 1 in each row and column, got {P.tolist()}")


def _require_images(name: str, images: Tensor, s: Tensor) -> None:
    if images.dim() < 3 or images.shape[-3] != s.shape[-1]:
        shape = f"(..., {s.shape[-1]}, H, W)"
        raise ValueError(f"{name} must have shape {shape}, got shape {tuple(images.shape)}")
    if images.dtype != s.dtype:
        raise ValueError(f"{name} must have the dtype {s.dtype} of s, got {images.dtype}")


def _check(permutation: Tensor, lower: Tensor, upper: Tensor, s: Tensor) -> None:
    C = s.shape[-1] if s.dim() else 0
    _require_permutation(permutation, C)
    for name, matrix in (("lower", lower), ("upper", upper)):
        if matrix.shape[-2:] != (C, C):
            raise ValueError(f"{name} must be {C} x {C}, got shape {tuple(matrix.shape)}")
    one = torch.eye(C).to(lower)
    if (wrong := (lower - one).triu() != 0).any():
        got = lower[wrong][0].item()
        raise ValueError(f"lower must have ones on its diagonal, zeros above it, got {got:g} there")
    if (wrong := upper.tril() != 0).any():
        got = upper[wrong][0].item()
        raise ValueError(f"upper must have zeros on its diagonal and below it, got {got:g} there")
    if (wrong := ~s.isfinite() | (s == 0)).any():
        raise ValueError(f"s must be finite and not 0, got {s[wrong][0].item():g}")
