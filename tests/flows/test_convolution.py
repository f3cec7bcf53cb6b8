import re
from functools import partial
from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from genref._site.claims import mutant
from genref.flows.convolution import Circular, Exponential, transfer
from genref.numerics.autodiff import slogdet

DOUBLE = torch.float64


def mapped(layer):
    return lambda z: layer.to_data(z)[0]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


@pytest.mark.claim("x-glow-exp")
def test_exponential(evidence, layer=Exponential):
    for C, H, W in ((2, 2, 3), (3, 1, 2), (4, 3, 1)):
        exponent = normal(evidence.generator, C, C)
        z = normal(evidence.generator, 2, C, H, W)
        kernel = torch.from_numpy(scipy.linalg.expm(exponent.numpy()))[:, :, None, None]
        x, log_det = layer(exponent).to_data(z)
        evidence.numeric(x, F.conv2d(z, kernel), bound=1e-11, oracle="scipy.linalg.expm and conv2d")
        evidence.numeric(
            log_det,
            slogdet(partial(F.conv2d, weight=kernel), z, 3)[1],
            bound=1e-10,
            oracle="autograd Jacobian of that convolution",
        )
        evidence.exact(
            slogdet(mapped(layer(exponent)), z, 3)[0].tolist(),
            [1.0, 1.0],
            oracle="a determinant is positive",
        )
        back, inverse_log_det = layer(exponent).to_latent(F.conv2d(z, kernel))
        evidence.numeric(back, z, bound=1e-9, oracle="the points that were mapped")
        evidence.numeric(
            inverse_log_det,
            -slogdet(partial(F.conv2d, weight=kernel), z, 3)[1],
            bound=1e-10,
            oracle="autograd Jacobian of that convolution",
        )
    for C in (2, 3, 4):
        exponents = 2 * normal(evidence.generator, 60, C, C)
        pixels = torch.eye(C, dtype=DOUBLE)[:, :, None, None]
        matrices = [layer(W).to_data(pixels)[0][:, :, 0, 0].T.detach() for W in exponents]
        evidence.exact([alone(matrix) for matrix in matrices], [0] * 60, oracle="numpy")
        A = normal(evidence.generator, C, C)
        A[0] *= A.det().sign()
        turn, stretch = scipy.linalg.polar(A.numpy())
        logs = [torch.from_numpy(np.real(scipy.linalg.logm(part))) for part in (stretch, turn)]
        image = normal(evidence.generator, C, 1, 2)
        x = layer(logs[1]).to_data(layer(logs[0]).to_data(image)[0])[0]
        evidence.numeric(x.flatten(-2), A @ image.flatten(-2), bound=1e-9, oracle="the matrix")


def alone(A):
    """The number of negative eigenvalues that have no equal one."""
    values = np.linalg.eigvals(A.numpy())
    real = values[(abs(values.imag) == 0) & (values.real < 0)].real
    gaps = [[abs(v - w) / abs(v) for w in real if w is not v] for v in real]
    return sum(min(gap, default=1) > 1e-6 for gap in gaps)


class Changed(Exponential):
    """An exponential with another log-determinant."""

    def to_data(self, z):
        wrong = self.wrong(z.shape[-2], z.shape[-1])
        return super().to_data(z)[0], wrong * torch.ones(z.shape[:-3], dtype=z.dtype)


@mutant(test_exponential, "the determinant of the exponent")
class DetOfExponent(Changed):
    def wrong(self, H, W):
        return H * W * self.exponent.det().abs().log()


@mutant(test_exponential, "one pixel counted instead of all")
class OnePixel(Changed):
    def wrong(self, H, W):
        return self.exponent.trace()


@mutant(test_exponential, "the exponential of each entry")
class EntryByEntry(Exponential):
    def to_data(self, z):
        x = torch.einsum("ij,...jhw->...ihw", self.exponent.exp(), z)
        return x, super().to_data(z)[1]


@mutant(test_exponential, "the first two terms of the series")
class FirstOrder(Exponential):
    def to_data(self, z):
        x = z + torch.einsum("ij,...jhw->...ihw", self.exponent, z)
        return x, super().to_data(z)[1]


@mutant(test_exponential, "the transpose as inverse")
class TransposedBack(Exponential):
    def to_latent(self, x):
        return Exponential(self.exponent.T).to_data(x)[0], super().to_latent(x)[1]


@pytest.mark.claim("x-glow-circular")
def test_circular(evidence, layer=Circular):
    cases = (((1, 3, 3), (4, 5)), ((2, 3, 3), (3, 4)), ((3, 1, 3), (2, 2)), ((2, 5, 3), (2, 3)))
    for (C, *taps), (H, W) in cases:
        kernel = normal(evidence.generator, C, C, *taps)
        J = around(kernel, H, W)
        z = normal(evidence.generator, 2, C, H, W)
        x, log_det = layer(kernel).to_data(z)
        image = (z.flatten(1) @ J.T).view(z.shape)
        evidence.numeric(x, image, bound=1e-12, oracle="a matrix filled tap by tap")
        evidence.numeric(
            log_det,
            [torch.linalg.slogdet(J).logabsdet] * 2,
            bound=1e-10,
            oracle="LU factors of that matrix",
        )
        evidence.exact(
            [int(sign) for sign in slogdet(mapped(layer(kernel)), z, 3)[0]],
            [int(torch.linalg.slogdet(J).sign)] * 2,
            oracle="the sign from LU factors of that matrix",
        )
        back, inverse_log_det = layer(kernel).to_latent(x.detach())
        evidence.numeric(
            back,
            torch.linalg.solve(J, (z.flatten(1) @ J.T).T).T.view(z.shape),
            bound=1e-9,
            oracle="the system of that matrix, solved",
        )
        evidence.numeric(
            inverse_log_det,
            [-torch.linalg.slogdet(J).logabsdet] * 2,
            bound=1e-10,
            oracle="LU factors of that matrix",
        )
    mean = torch.ones(1, 1, 1, 3, dtype=DOUBLE)
    mixing = torch.tensor([[0, 2, 1], [0, 1, 0], [0, 1, 0], [0, 2, 1]], dtype=DOUBLE)
    for n in range(2, 9):
        for kernel in (mean, mixing.view(2, 2, 1, 3)):
            J = around(kernel, 1, n).numpy()
            full = int(np.linalg.matrix_rank(J)) == len(J)
            evidence.exact(accepted(layer, kernel, n), full, oracle="the rank of the Jacobian")


def around(kernel, H, W):
    """The Jacobian on a torus, filled tap by tap."""
    C, _, rows, columns = kernel.shape
    J = torch.zeros(C, H, W, C, H, W, dtype=kernel.dtype)
    for i, j, u, v in product(range(C), range(C), range(rows), range(columns)):
        for r, c in product(range(H), range(W)):
            J[i, r, c, j, (r + u - rows // 2) % H, (c + v - columns // 2) % W] += kernel[i, j, u, v]
    return J.view(C * H * W, -1)


def accepted(layer, kernel, n):
    try:
        layer(kernel).to_data(torch.ones(len(kernel), 1, n, dtype=DOUBLE))
    except ValueError:
        return False
    return True


class Other(Circular):
    """A circular convolution with another log-determinant."""

    def to_data(self, z):
        wrong = self.wrong(z.shape[-2], z.shape[-1])
        return super().to_data(z)[0], wrong * torch.ones(z.shape[:-3], dtype=z.dtype)


@mutant(test_circular, "the centre tap only")
class Centre(Other):
    def wrong(self, H, W):
        rows, columns = self.kernel.shape[2:]
        return H * W * self.kernel[:, :, rows // 2, columns // 2].det().abs().log()


@mutant(test_circular, "frequency 0 for all frequencies")
class Constant(Other):
    def wrong(self, H, W):
        return H * W * self.kernel.sum((2, 3)).det().abs().log()


@mutant(test_circular, "half of the frequencies, as a real transform returns them")
class HalfSpectrum(Other):
    def wrong(self, H, W):
        return transfer(self.kernel, (H, W))[:, : W // 2 + 1].det().abs().log().sum()


@mutant(test_circular, "zeros beyond the edges instead of a torus")
class ZeroPadded(Circular):
    def to_data(self, z):
        rows, columns = self.kernel.shape[2:]
        x = F.conv2d(z, self.kernel, padding=(rows // 2, columns // 2))
        return x, super().to_data(z)[1]


@mutant(test_circular, "the kernel is flipped")
class Flipped(Circular):
    def to_data(self, z):
        return Circular(self.kernel.flip(2, 3)).to_data(z)


@mutant(test_circular, "channels do not mix")
class Unmixed(Other):
    def wrong(self, H, W):
        return transfer(self.kernel, (H, W)).diagonal(dim1=-2, dim2=-1).abs().log().sum()


@mutant(test_circular, "no entry may vanish, instead of no singular value")
class EntriesOnly(Circular):
    def to_data(self, z):
        try:
            return super().to_data(z)
        except ValueError:
            if (transfer(self.kernel, z.shape[-2:]).abs() < 1e-12).any():
                raise
            return z, 0


@mutant(test_circular, "the inverse divides by the conjugate")
class Adjoint(Circular):
    def to_latent(self, x):
        return Circular(self.kernel.flip(2, 3)).to_latent(x)


def test_the_transfer_of_a_single_tap_is_its_matrix():
    A = normal(torch.Generator().manual_seed(1), 3, 3)
    W_hat = transfer(A[:, :, None, None], (2, 5))
    torch.testing.assert_close(W_hat.real, A.expand(2, 5, 3, 3))
    assert not W_hat.imag.any()


def layers(dtype):
    generator = torch.Generator().manual_seed(3)
    exponent = torch.randn(2, 2, generator=generator)
    kernel = torch.randn(2, 2, 3, 3, generator=generator)
    return [Exponential(exponent.to(dtype)), Circular(kernel.to(dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_round_trips_keep_dtype_and_batch(dtype):
    z = torch.randn(3, 4, 2, 5, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    for layer in layers(dtype):
        x, log_det = layer.to_data(z)
        back, inverse = layer.to_latent(x)
        assert x.dtype == back.dtype == log_det.dtype == inverse.dtype == dtype
        assert log_det.shape == inverse.shape == (3, 4)
        assert torch.equal(log_det, -inverse)
        torch.testing.assert_close(back, z, atol=1e4 * torch.finfo(dtype).eps, rtol=0)


def test_gradients_flow_to_points_and_parameters():
    for layer in layers(DOUBLE):
        z = normal(torch.Generator().manual_seed(5), 2, 3, 2).requires_grad_()
        for way in (layer.to_data, layer.to_latent):
            value, log_det = way(z)
            (parameter,) = layer.parameters()
            gradients = torch.autograd.grad(value.square().sum() + log_det, [z, parameter])
            assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("C", [1, 2])
def test_the_density_has_integral_one(C):
    exponent = torch.tensor([[0.3, -0.5], [0.4, 0.1]], dtype=DOUBLE)[:C, :C]
    for layer in (Exponential(exponent), Circular(exponent[:, :, None, None])):
        axis = torch.linspace(-14, 14, 401, dtype=DOUBLE)
        points = torch.cartesian_prod(*[axis] * C).view(-1, C, 1, 1)
        z, log_det = layer.to_latent(points)
        normal_density = (-0.5 * z.flatten(1).square().sum(1)).exp() / (2 * torch.pi) ** (C / 2)
        total = (normal_density * log_det.exp()).sum() * (axis[1] - axis[0]) ** C
        assert abs(total.item() - 1) < 1e-9


def test_both_directions_agree_with_autograd():
    z = normal(torch.Generator().manual_seed(6), 2, 2, 3)
    for layer in layers(DOUBLE):
        for way in (layer.to_data, layer.to_latent):
            _, found = slogdet(lambda z, way=way: way(z)[0], z, 3)
            torch.testing.assert_close(way(z)[1], found)


def test_a_large_exponent_is_no_overflow_of_the_log_det():
    layer = Exponential(torch.tensor([[400.0, 3.0], [0.0, 401.0]], dtype=DOUBLE))
    assert layer.to_data(torch.zeros(2, 28, 28, dtype=DOUBLE))[1].item() == 801.0 * 784


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Exponential(torch.ones(2, 3)), "exponent must be square, got shape (2, 3)"),
        (lambda: Exponential(torch.ones(2)), "exponent must be square, got shape (2,)"),
        (lambda: Circular(torch.ones(2, 2)), "kernel must have shape (C, C, rows, columns), got"),
        (lambda: Circular(torch.ones(2, 3, 3, 3)), "kernel must have shape (C, C, rows, columns)"),
        (lambda: Circular(torch.ones(2, 2, 3, 4)), "kernel must have odd sides, got (3, 4)"),
        (lambda: transfer(torch.ones(1, 1, 3, 3), (0, 4)), "size must be at least (1, 1), got"),
        (
            lambda: Circular(torch.ones(1, 1, 1, 3)).to_data(torch.ones(1, 4, 6)),
            "kernel must be invertible at every frequency, got a singular value of",
        ),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("layer", layers(torch.float32))
def test_images_that_do_not_fit_raise(layer):
    for name, way in (("z", layer.to_data), ("x", layer.to_latent)):
        with pytest.raises(ValueError, match=re.escape(f"{name} must have shape (..., 2, H, W)")):
            way(torch.ones(3, 2))
        with pytest.raises(ValueError, match=f"{name} must have the dtype torch.float32"):
            way(torch.ones(2, 1, 1, dtype=DOUBLE))
