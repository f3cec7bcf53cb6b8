import cmath
import math
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from matplotlib.figure import Figure

from genref._site.claims import mutant
from genref.latent.identifiability import alignment, rotation, swirl
from genref.latent.linear_gaussian import LinearGaussian

DOUBLE = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def orthogonal(generator, d):
    """By QR, of either determinant."""
    Q, T = torch.linalg.qr(normal(generator, d, d))
    return Q * T.diagonal().sgn()


def log_evidence(x, W, variance):
    covariance = (W @ W.T + variance * torch.eye(len(W), dtype=DOUBLE)).numpy()
    return torch.tensor(scipy.stats.multivariate_normal(cov=covariance).logpdf(x.numpy()))


@pytest.mark.claim("latent-nonunique", answers=["B2.5a"])
def test_two_codes(evidence, turn=rotation):
    g = evidence.generator
    right = turn(torch.tensor(math.pi / 2, dtype=DOUBLE))
    evidence.numeric(
        right @ torch.tensor([1, 0], dtype=DOUBLE),
        [0.0, 1.0],
        bound=1e-15,
        oracle="a right angle takes east to north",
    )
    for angle in (0.7, -2.1, 3.9):
        R = turn(torch.tensor(angle, dtype=DOUBLE))
        W, x, z = normal(g, 3, 2), normal(g, 5, 3), normal(g, 5, 2)
        z_b = z @ R.T
        evidence.numeric(
            z_b,
            torch.view_as_real(torch.view_as_complex(z) * cmath.rect(1, angle)),
            bound=1e-13,
            oracle="multiplication by a complex number of modulus one",
        )
        evidence.numeric(torch.linalg.solve(R, z_b.T).T, z, bound=1e-13, oracle="the points")
        evidence.numeric(z_b @ (W @ R.T).T, z @ W.T, bound=1e-13, oracle="the first decoder")
        evidence.numeric(z_b.square().sum(1), z.square().sum(1), bound=1e-13, oracle="norms of z")
        model = LinearGaussian(W @ R.T, 0.6)
        evidence.numeric(
            model.log_evidence(x),
            log_evidence(x, W, 0.6),
            bound=1e-12,
            oracle="the density of the data by scipy, with the weights that were not turned",
        )
        C = torch.linalg.inv(torch.eye(2) + W.T @ W / 0.6)
        turned = torch.tensor(scipy.linalg.expm(angle * np.array([[0, -1], [1, 0]])))
        evidence.numeric(
            model.posterior(x).loc,
            x @ W @ C @ turned.T / 0.6,
            bound=1e-12,
            oracle="the posterior mean by normal equations, turned by a matrix exponential",
        )
        evidence.numeric(
            model.posterior(x[0]).covariance,
            turned @ C @ turned.T,
            bound=1e-12,
            oracle="the posterior covariance, turned by a matrix exponential",
        )
    for d in (2, 3, 5):
        W, R, x = normal(g, d + 1, d), orthogonal(g, d), normal(g, 4, d + 1)
        evidence.numeric(
            LinearGaussian(W @ R.T, 0.6).log_evidence(x),
            log_evidence(x, W, 0.6),
            bound=1e-11,
            oracle="scipy, for orthogonal matrices of both determinants",
        )
        bent = torch.linalg.inv(R + 0.5 * torch.diag(normal(g, d)))
        other = (W @ bent) @ (W @ bent).T
        apart = torch.linalg.matrix_norm(other - W @ W.T) > 1e-3
        evidence.exact(bool(apart), True, oracle="another covariance where R is not orthogonal")


@mutant(test_two_codes, "a shear")
def shear(angle):
    return torch.tensor([[1.0, torch.as_tensor(angle)], [0.0, 1.0]], dtype=DOUBLE)


@mutant(test_two_codes, "a rotation with a scale")
def spiral(angle):
    return 1.1 * rotation(angle)


@mutant(test_two_codes, "clockwise")
def clockwise(angle):
    return rotation(-angle)


@mutant(test_two_codes, "the identity: the code is unique")
def unique(angle):
    return torch.eye(2, dtype=DOUBLE)


@mutant(test_two_codes, "a reflection called a rotation")
def mirrored(angle):
    return rotation(angle) @ torch.diag(torch.tensor([1.0, -1.0], dtype=DOUBLE))


def decoder(z):
    """A curved surface in three dimensions."""
    u, v = z.unbind(-1)
    return torch.stack([u + 0.3 * v.cos(), (u - v).tanh(), 0.5 * v.sin() - 0.2 * u], -1)


def gauss_hermite(x, variance, n=60):
    """The density of the data by a product rule on the latents themselves."""
    node, weight = np.polynomial.hermite_e.hermegauss(n)
    z = torch.cartesian_prod(torch.tensor(node), torch.tensor(node))
    mass = torch.cartesian_prod(torch.tensor(weight), torch.tensor(weight)).prod(1) / (2 * math.pi)
    return mass @ likelihood(x, decoder(z), variance)


def likelihood(x, mean, variance):
    squares = (x - mean[:, None]).square().sum(-1)
    return (-squares / (2 * variance)).exp() / (2 * math.pi * variance) ** 1.5


def disc(n=60, angles=256):
    """Points and masses of N(0, I): Laguerre in half the squared norm, equal steps around."""
    half, weight = np.polynomial.laguerre.laggauss(n)
    radius = torch.tensor(half).mul(2).sqrt()
    around = torch.arange(angles, dtype=DOUBLE) * (2 * math.pi / angles)
    z = radius[:, None, None] * torch.stack([around.cos(), around.sin()], -1)
    return z.flatten(0, 1), torch.tensor(weight).repeat_interleave(angles) / angles


@pytest.mark.claim("latent-orbit", answers=["B2.5b"])
def test_orbit(evidence, h=swirl, align=alignment):
    g = evidence.generator
    prior = scipy.stats.multivariate_normal(cov=np.eye(2))
    for c in (3.0, -0.8, 11.0):
        z = normal(g, 12, 2) * 1.3
        moved = h(z, c)
        slopes = torch.stack([jacobian(h, p, c) for p in z])
        volume = torch.linalg.slogdet(slopes).logabsdet
        log_p = torch.tensor(prior.logpdf(moved.numpy())) + volume
        evidence.numeric(log_p, prior.logpdf(z.numpy()), bound=1e-9, oracle="the density by scipy")
        evidence.numeric(volume, torch.zeros(12), bound=1e-9, oracle="volume 1")
        heavy = scipy.stats.multivariate_t(shape=np.eye(2), df=3)
        evidence.numeric(
            torch.tensor(heavy.logpdf(moved.numpy())) + volume,
            heavy.logpdf(z.numpy()),
            bound=1e-9,
            oracle="another density of the norm alone, by scipy",
        )
        evidence.numeric(
            moved,
            turned_by_hand(z, c),
            bound=1e-12,
            oracle="complex numbers times a phase",
        )
        evidence.numeric(h(moved, -c), z, bound=1e-12, oracle="the points that were moved")

    x = decoder(normal(g, 6, 2)) + normal(g, 6, 3)
    points, mass = disc()
    evidence.numeric(
        mass @ likelihood(x, decoder(h(points, -3.0)), 1.0),
        gauss_hermite(x, 1.0),
        bound=1e-7,
        oracle="the law of x with the first decoder, by Gauss-Hermite",
    )
    score = decoder(points)[:, 0]
    weight = likelihood(x, decoder(points), 1.0) * mass[:, None]
    back = likelihood(x, decoder(h(points, -3.0)), 1.0) * mass[:, None]
    evidence.numeric(
        decoder(h(points, -3.0))[:, 0] @ back / back.sum(0),
        score @ weight / weight.sum(0),
        bound=1e-7,
        oracle="a posterior mean of the first model",
    )

    prior = [Fraction(mass, 9) for mass in (2, 1, 2, 3, 1)]
    decode = torch.randperm(5, generator=g).tolist()
    law_of_x = dict(zip(decode, prior, strict=True))
    every = list(permutations(range(5)))
    keep = [turn for turn in every if all(prior[turn[z]] == prior[z] for z in range(5))]
    evidence.exact(
        {other for other in every if all(law_of_x[other[z]] == prior[z] for z in range(5))},
        {tuple(decode[turn.index(z)] for z in range(5)) for turn in keep},
        oracle="a decoder of five values after the permutations that keep the prior",
    )

    for D, d, rank in ((4, 3, 3), (5, 2, 2), (3, 3, 3), (2, 3, 2), (5, 3, 1)):
        W = normal(g, D, rank) @ normal(g, rank, d)
        R = orthogonal(g, d)
        found = align(W, W @ R)
        evidence.numeric(found @ found.T, torch.eye(d), bound=1e-12, oracle="orthogonality")
        evidence.numeric(W @ found, W @ R, bound=1e-9, oracle="the weights of the second model")
        if rank == d:
            by_scipy = scipy.linalg.orthogonal_procrustes(W.numpy(), (W @ R).numpy())[0]
            evidence.numeric(found, R, bound=1e-9, oracle="the orthogonal matrix that was drawn")
            evidence.numeric(found, by_scipy, bound=1e-9, oracle="Procrustes by scipy")
        if rank == d == D:
            root = torch.tensor(scipy.linalg.polar(W.numpy(), side="left")[1])
            evidence.numeric(W @ align(W, root), root, bound=1e-9, oracle="polar factors by scipy")
        far = W + normal(g, D, d)
        best = torch.linalg.matrix_norm(W @ align(W, far) - far)
        tried = torch.stack([W @ orthogonal(g, d) - far for _ in range(200)])
        evidence.ordered(
            best,
            torch.linalg.matrix_norm(tried).min(),
            bound=1e-12,
            oracle="two hundred random orthogonal matrices",
        )


def jacobian(h, z, c):
    return torch.autograd.functional.jacobian(lambda point: h(point, c), z)


def turned_by_hand(z, c):
    phase = torch.polar(torch.ones(len(z), dtype=DOUBLE), c * z.square().sum(1))
    return torch.view_as_real(torch.view_as_complex(z) * phase)


@mutant(test_orbit, "a shear: volume kept, norm not", of="h")
def sheared(z, c):
    return torch.stack([z[..., 0] + c * z[..., 1], z[..., 1]], -1)


@mutant(test_orbit, "the angle depends on the direction: norm kept, volume not", of="h")
def uneven(z, c):
    angle = c * torch.atan2(z[..., 1], z[..., 0]).sin() / 20
    return (rotation(angle) @ z[..., None])[..., 0]


@mutant(test_orbit, "the angle depends on one coordinate", of="h")
def one_coordinate(z, c):
    return (rotation(c * z[..., 0]) @ z[..., None])[..., 0]


@mutant(test_orbit, "the norm in place of its square", of="h")
def of_norm(z, c):
    return (rotation(c * z.norm(dim=-1)) @ z[..., None])[..., 0]


@mutant(test_orbit, "the radius moves with the angle", of="h")
def spiralling(z, c):
    return swirl(z, c) * (1 + 0.1 * z.square().sum(-1, keepdim=True))


@mutant(test_orbit, "rotations only, no reflections", of="align")
def proper(W, other):
    U, _, Vh = torch.linalg.svd(W.mT @ other)
    sign = torch.ones(U.shape[-1], dtype=U.dtype)
    sign[-1] = torch.linalg.det(U @ Vh).sign()
    return U @ torch.diag(sign) @ Vh


@mutant(test_orbit, "the transpose", of="align")
def transposed(W, other):
    return alignment(W, other).mT


@mutant(test_orbit, "least squares over all matrices", of="align")
def any_matrix(W, other):
    return torch.linalg.pinv(W) @ other


@mutant(test_orbit, "permutations and signs only", of="align")
def signed_permutation(W, other):
    product = W.mT @ other
    best = product.abs().argmax(0)
    R = torch.zeros_like(product)
    R[best, torch.arange(len(best))] = product[best, torch.arange(len(best))].sgn()
    return R


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_batches_and_gradients(dtype):
    g = torch.Generator().manual_seed(3)
    z = torch.randn(4, 1, 2, generator=g, dtype=dtype, requires_grad=True)
    strength = torch.tensor([0.5, -2.0, 3.0], dtype=dtype, requires_grad=True)
    moved = swirl(z, strength)
    assert moved.shape == (4, 3, 2)
    assert moved.dtype == dtype
    moved[..., 0].sum().backward()
    assert z.grad.isfinite().all()
    assert (strength.grad != 0).all()
    torch.testing.assert_close(swirl(z), swirl(z, 3))
    assert rotation(strength).shape == (3, 2, 2)
    assert rotation(strength).dtype == dtype
    W = torch.randn(5, 1, 4, 2, generator=g, dtype=dtype)
    R = rotation(strength.detach())
    torch.testing.assert_close(alignment(W, W @ R), R.expand(5, 3, 2, 2), rtol=1e-4, atol=1e-4)
    assert alignment(W, W).dtype == dtype


def test_angles_may_be_numbers():
    torch.testing.assert_close(rotation(0.3), rotation(torch.tensor(0.3)))
    torch.testing.assert_close(rotation(1), rotation(1.0))
    torch.testing.assert_close(swirl(torch.zeros(2), 5.0), torch.zeros(2))


@pytest.mark.usefixtures("untyped")
def test_bad_shapes_raise():
    with pytest.raises(ValueError, match=r"W and other must have one shape, got \(3, 2\) and"):
        alignment(torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(ValueError, match="z must have 2 coordinates, got 1"):
        swirl(torch.ones(4, 1))


def test_the_figure_moves_the_grid_and_only_the_shear_moves_the_contours():
    snippet = run_path(str(Path(__file__).parents[2] / "snippets/latent/identifiability.py"))
    figure = Figure(layout="constrained")
    snippet["figure"](figure)
    for ax in figure.axes:
        rings = [line for line in ax.lines if line.get_gid() == "contour"]
        radii = [np.hypot(*ring.get_data()) for ring in rings]
        assert len(radii) == 3
        kept = all(np.ptp(radius) < 1e-5 for radius in radii)
        assert kept == (ax.get_title() != "sheared")
