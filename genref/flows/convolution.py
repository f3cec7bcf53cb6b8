r"""Convolutions whose determinant needs no factors: exponentials and circular kernels.

Both act on the last three dimensions (channels, height, width) and mix the channels of a pixel, a
circular kernel its neighbours too. What is computed in float64 is rounded once, to the dtype of the
images.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

__all__ = ["Circular", "Exponential", "transfer"]


class Exponential(nn.Module):
    r"""The $1 \times 1$ convolution by $e^M = \sum_n M^n / n!$.

    Claim: x-glow-exp
        For every real $C \times C$ matrix $M$, $\det e^M = e^{\operatorname{tr} M} > 0$. So the
        $1 \times 1$ convolution by $e^M$ is invertible whatever $M$ is, its inverse is the one by
        $e^{-M}$, and on $C \times H \times W$ images $\log|\det J| = HW \operatorname{tr} M$. A
        negative eigenvalue of $e^M$ has an even multiplicity, so that
        $\operatorname{diag}(-1, -2)$ is no exponential; but every matrix of positive determinant is
        a product of two.

    Arguments:
        exponent: The matrix $M$, finite. It becomes a parameter.
    """

    def __init__(self, exponent: Float[Tensor, "C C"]) -> None:
        super().__init__()
        if exponent.dim() != 2 or exponent.shape[0] != exponent.shape[1]:
            raise ValueError(f"exponent must be square, got shape {tuple(exponent.shape)}")
        self.exponent = nn.Parameter(exponent.detach().clone())

    def to_data(
        self, z: Float[Tensor, "*batch C H W"]
    ) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
        r"""Returns $x = e^M z$ and $HW \operatorname{tr} M$."""
        return self._multiplied("z", z, 1)

    def to_latent(
        self, x: Float[Tensor, "*batch C H W"]
    ) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
        r"""Returns $z = e^{-M} x$ and $-HW \operatorname{tr} M$."""
        return self._multiplied("x", x, -1)

    def _multiplied(self, name: str, images: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        _require_images(name, images, self.exponent)
        exponent = sign * self.exponent.double()
        matrix = torch.linalg.matrix_exp(exponent).to(images.dtype)
        result = (matrix @ images.flatten(-2)).reshape(images.shape)
        log_det = images.shape[-2] * images.shape[-1] * exponent.trace()
        return result, log_det.to(images.dtype).expand(images.shape[:-3])


class Circular(nn.Module):
    r"""The convolution by $w_{ijuv}$ of images on a torus.

    It is $x_i(r, c) = \sum_{juv} w_{ijuv}\, z_j(r + u - \rho - 1, c + v - \rho' - 1)$, where rows
    are counted modulo $H$ and columns modulo $W$.

    Claim: x-glow-circular
        Let a kernel $w_{ijuv}$ from $C$ channels to $C$ have odd sizes $2\rho + 1$ and
        $2\rho' + 1$, and let it act on $C \times H \times W$ images with rows modulo $H$ and
        columns modulo $W$, which may be fewer than those of the kernel. For every frequency
        $(f, g)$ with $0 \le f < H$ and $0 \le g < W$ let $\hat w(f, g)$ be the $C \times C$ matrix
        $$\hat w_{ij}(f, g) = \sum_{u,v} w_{ijuv} \exp\bigl(2 \pi \mathrm{i}
        (f (u - \rho - 1) / H + g (v - \rho' - 1) / W)\bigr).$$
        Then $\det J = \prod_{f,g} \det \hat w(f, g)$. So
        $\log|\det J| = \sum_{f,g} \log|\det \hat w(f, g)|$, the map is a bijection if and only if
        no $\hat w(f, g)$ is singular, and then its inverse multiplies the discrete Fourier
        transform of $x$ at each frequency by $\hat w(f, g)^{-1}$.

    Arguments:
        kernel: The kernel $w$, of odd height and width. It becomes a parameter.
    """

    def __init__(self, kernel: Float[Tensor, "C C rows columns"]) -> None:
        super().__init__()
        if kernel.dim() != 4 or kernel.shape[0] != kernel.shape[1]:
            shape = tuple(kernel.shape)
            raise ValueError(f"kernel must have shape (C, C, rows, columns), got shape {shape}")
        if kernel.shape[2] * kernel.shape[3] % 2 == 0:
            raise ValueError(f"kernel must have odd sides, got {tuple(kernel.shape[2:])}")
        self.kernel = nn.Parameter(kernel.detach().clone())

    def to_data(
        self, z: Float[Tensor, "*batch C H W"]
    ) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
        r"""Returns $x$ and $\sum_{f,g} \log|\det \hat w(f, g)|$."""
        w_hat, log_det = self._spectrum("z", z)
        frequencies = torch.fft.fft2(z.double()).movedim(-3, -1)
        return _images(z, w_hat @ frequencies[..., None]), log_det

    def to_latent(
        self, x: Float[Tensor, "*batch C H W"]
    ) -> tuple[Float[Tensor, "*batch C H W"], Float[Tensor, "*batch"]]:
        r"""Returns $z$ and $-\sum_{f,g} \log|\det \hat w(f, g)|$."""
        w_hat, log_det = self._spectrum("x", x)
        frequencies = torch.fft.fft2(x.double()).movedim(-3, -1)
        return _images(x, torch.linalg.solve(w_hat, frequencies[..., None])), -log_det

    def _spectrum(self, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
        _require_images(name, images, self.kernel)
        w_hat = transfer(self.kernel, (images.shape[-2], images.shape[-1]))
        values = torch.linalg.svdvals(w_hat)
        rounding = 16 * torch.finfo(torch.float64).eps * self.kernel.detach().abs().sum()
        if not (values > rounding).all():
            got = f"a singular value of {values.min().item():.1e}"
            raise ValueError(f"kernel must be invertible at every frequency, got {got}")
        return w_hat, values.log().sum().to(images.dtype).expand(images.shape[:-3])


def transfer(
    kernel: Float[Tensor, "C C rows columns"],
    size: tuple[int, int],
) -> Complex[Tensor, "H W C C"]:
    r"""Returns the matrices $\hat w(f, g)$ of a kernel for images of size $H \times W$.

    Arguments:
        kernel: The kernel $w$, of odd height and width.
        size: The height and the width, at least 1.
    """
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {size}")
    waves = [_waves(n, taps) for n, taps in zip(size, kernel.shape[2:], strict=True)]
    w = kernel.to(torch.complex128)
    return torch.einsum("ijuv,fu,gv->fgij", w, *(wave.to(w.device) for wave in waves))


def _waves(n: int, taps: int) -> Tensor:
    r"""Returns $\exp(2 \pi \mathrm{i} f t / n)$ for frequencies $f$ and offsets $t$ of taps."""
    turns = torch.outer(torch.arange(n), torch.arange(taps) - taps // 2).remainder(n)
    angle = 2 * math.pi / n * turns.double()
    return torch.polar(torch.ones_like(angle), angle)


def _images(like: Tensor, frequencies: Tensor) -> Tensor:
    images: Tensor = torch.fft.ifft2(frequencies[..., 0].movedim(-1, -3)).real
    return images.to(like.dtype)


def _require_images(name: str, images: Tensor, parameter: Tensor) -> None:
    if images.dim() < 3 or images.shape[-3] != parameter.shape[0]:
        shape = f"(..., {parameter.shape[0]}, H, W)"
        raise ValueError(f"{name} must have shape {shape}, got shape {tuple(images.shape)}")
    if images.dtype != parameter.dtype:
        raise ValueError(f"{name} must have the dtype {parameter.dtype}, got {images.dtype}")
