import json
import re
from itertools import product
from pathlib import Path
from runpy import run_path

import mpmath
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Geometric, Independent, MultivariateNormal, Normal

from genref._site.claims import mutant
from genref.flows.coupling import Additive, Affine, Conditional, Flow, mask
from genref.numerics.autodiff import jacobian, slogdet, sparsity

DOUBLE = torch.float64
ROOT = Path(__file__).parents[2]
MASKS = [[1, 0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1, 0, 1], [1, 0], [0, 1, 1, 1, 0], [0, 1, 0, 0, 0]]


def draw(generator, *shape):
    return torch.randn(*shape, dtype=DOUBLE, generator=generator)


def masks():
    return [torch.tensor(m) for m in MASKS]


def shift(point, A):
    return 2 * torch.sin(point @ A)


def log_scale(point, B):
    return torch.tanh(point @ B) - 0.3


def part(A, m):
    """What leads from kept coordinates to moved ones."""
    return A[m == 1][:, m == 0]


def network(m, A, B=None):
    """The functions of the kept coordinates alone, as a layer takes them."""
    if B is None:
        return lambda kept: shift(kept, part(A, m))
    return lambda kept: torch.cat([shift(kept, part(A, m)), log_scale(kept, part(B, m))], -1)


def by_hand(m, A, B=None):
    """The same map of whole points, as the formula of the claim has it."""

    def f(z):
        scale = 1 if B is None else log_scale(m * z, B).exp()
        return m * z + (1 - m) * (z * scale + shift(m * z, A))

    return f


def standard(D):
    return Independent(Normal(torch.zeros(D, dtype=DOUBLE), torch.ones(D, dtype=DOUBLE)), 1)


def claimed(h):
    return [h**2 + 2 * h, 3 * h**2 + h, 4 * h**2]


@pytest.mark.claim("coupling-additive-logdet")
def test_additive(evidence, layer=Additive, nonzeros=claimed):
    for m in masks():
        A, z = draw(evidence.generator, len(m), len(m)), draw(evidence.generator, 2, 3, len(m))
        made, formula = layer(m, network(m, A)), by_hand(m, A)
        x, log_det = made.to_data(z)
        evidence.numeric(x, formula(z), bound=1e-14, oracle="the formula of the claim")
        evidence.numeric(log_det, slogdet(formula, z)[1], bound=1e-12, oracle="autograd on the formula")
        opposite = made.to_latent(x)[1]
        J = jacobian(formula, z)
        evidence.numeric(
            jacobian(lambda x, made=made: made.to_latent(x)[0], x),
            torch.linalg.inv(J),
            bound=1e-12,
            oracle="the inverse of the Jacobian of the formula",
        )
        evidence.numeric(opposite, J.det().log(), bound=1e-12, oracle="autograd on the formula")
    for h in (1, 2, 3, 4):
        keeps = [torch.arange(2 * h) // h == i % 2 for i in (1, 0, 1)]
        As = [draw(evidence.generator, 2 * h, 2 * h) for _ in keeps]
        zs = draw(evidence.generator, 3, 2 * h)
        layers = [layer(m, network(m, A)) for m, A in zip(keeps, As, strict=True)]
        formulas = [by_hand(m.long(), A) for m, A in zip(keeps, As, strict=True)]
        counted = [int(sparsity(stack(formulas[:n]), zs).sum()) for n in (1, 2, 3)]
        flows = [Flow(layers[:n], standard(2 * h)) for n in (1, 2, 3)]
        of_flow = [int(sparsity(lambda z, f=f: f.to_data(z)[0], zs).sum()) for f in flows]
        evidence.exact(nonzeros(h), counted, oracle="autograd on the formulas, one after another")
        evidence.exact(of_flow, counted, oracle="autograd on the formulas, one after another")
        evidence.numeric(
            flows[-1].to_data(zs)[1],
            slogdet(stack(formulas), zs)[1],
            bound=1e-11,
            oracle="autograd on the formulas, one after another",
        )


def stack(formulas):
    def f(z):
        for formula in formulas:
            z = formula(z)
        return z

    return f


@mutant(test_additive, "two layers suffice", of="nonzeros")
def two_suffice(h):
    return [h**2 + 2 * h, 4 * h**2, 4 * h**2]


@mutant(test_additive, "the first layer is counted without its diagonal", of="nonzeros")
def no_diagonal(h):
    return [h**2, 3 * h**2 + h, 4 * h**2]


@mutant(test_additive, "the shift is a function of the half that it moves", of="layer")
class ReadsItself(Additive):
    def _move(self, v, told):
        wide = torch.cat([v] * told.shape[-1], -1)[..., : told.shape[-1]]
        return v + 2 * torch.sin(wide), v.new_zeros(v.shape[:-1])


@mutant(test_additive, "the shift is added in both directions", of="layer")
class SameWay(Additive):
    def _back(self, v, told):
        return self._move(v, told)


@mutant(test_additive, "the shift counts as a log-determinant", of="layer")
class ShiftCounts(Additive):
    def _move(self, v, told):
        return v + told, told.sum(-1)


@mutant(test_additive, "the same half moves in every layer", of="layer")
class SameHalf(Additive):
    def __init__(self, m, net):
        super().__init__(m, net)
        h = len(m) // 2
        if m.dtype == torch.bool and m[:h].all():
            super().__init__(~m, net)


@pytest.mark.claim("coupling-affine-logdet")
def test_affine(evidence, layer=Affine):
    for m in masks():
        A, B = draw(evidence.generator, 2, len(m), len(m))
        z = draw(evidence.generator, 2, 3, len(m))
        made, formula = layer(m, network(m, A, B)), by_hand(m, A, B)
        x, log_det = made.to_data(z)
        evidence.numeric(x, formula(z), bound=1e-13, oracle="the formula of the claim")
        sign, expected = slogdet(formula, z)
        evidence.numeric(log_det, expected, bound=1e-12, oracle="autograd on the formula")
        evidence.exact(sign, torch.ones(2, 3, dtype=DOUBLE), oracle="an exponential is positive")
        opposite = made.to_latent(formula(z))[1]
        evidence.numeric(opposite, -expected, bound=1e-12, oracle="autograd on the formula")
        evidence.numeric(
            jacobian(lambda x, made=made: made.to_latent(x)[0], formula(z)),
            torch.linalg.inv(jacobian(formula, z)),
            bound=1e-11,
            oracle="the inverse of the Jacobian of the formula",
        )


@mutant(test_affine, "the sum runs over shifts and scales")
class AllOutputs(Affine):
    def _move(self, v, told):
        return super()._move(v, told)[0], told.sum(-1)


@mutant(test_affine, "to_data returns the log-determinant of the inverse")
class Opposite(Affine):
    def _move(self, v, told):
        x, log_det = super()._move(v, told)
        return x, -log_det


@mutant(test_affine, "to_latent returns the log-determinant of to_data")
class Unturned(Affine):
    def _back(self, v, told):
        z, log_det = super()._back(v, told)
        return z, -log_det


@mutant(test_affine, "the scales are summed, not their logarithms")
class Scales(Affine):
    def _move(self, v, told):
        return super()._move(v, told)[0], told.chunk(2, -1)[1].exp().sum(-1)


@mutant(test_affine, "the mean over the coordinates, not the sum")
class Mean(Affine):
    def _move(self, v, told):
        x, log_det = super()._move(v, told)
        return x, log_det / (2 * v.shape[-1])


@mutant(test_affine, "the scale multiplies the shift too")
class ShiftFirst(Affine):
    def _move(self, v, told):
        t, log_scale = told.chunk(2, -1)
        return (v + t) * log_scale.exp(), log_scale.sum(-1)


def root(x, t, scale):
    """The z with z e^scale + t = x, bracketed and refined in numbers of 50 digits."""
    with mpmath.workdps(50):
        factor, ends = mpmath.exp(scale), (-(mpmath.mpf(10) ** 12), mpmath.mpf(10) ** 12)
        return float(mpmath.findroot(lambda z: z * factor + t - x, ends, solver="ridder"))


def steps(kept):
    """A function that is neither continuous nor injective, with integers as values."""
    return torch.floor(kept.sum(-1, keepdim=True)) % 7 * 3


def added(row, m):
    """What an additive layer with these steps makes of integers."""
    told = sum(z for z, keep in zip(row, m, strict=True) if keep) % 7 * 3
    return [z if keep else z + told for z, keep in zip(row, m, strict=True)]


def wild(generator, m, height, steep):
    """Large shifts and steep scales with jumps."""
    C = draw(generator, int((m == 1).sum()), 2 * int((m == 0).sum()))

    def told(kept):
        t, scale = torch.frac(31 * torch.sin(kept @ C / kept.abs().max())).chunk(2, -1)
        return torch.cat([height * t, steep * scale], -1)

    return told


@pytest.mark.claim("coupling-inverse-exact")
def test_inverse(evidence, additive=Additive, affine=Affine):
    for m in masks():
        n = int((m == 0).sum())
        whole = torch.randint(-50, 50, (40, len(m)), generator=evidence.generator)
        made = additive(m, lambda kept, n=n: steps(kept).expand(*kept.shape[:-1], n))
        x = made.to_data(whole.double())[0]
        sums = [added(row, m.tolist()) for row in whole.tolist()]
        evidence.exact(x.tolist(), sums, oracle="sums of integers, which float64 holds exactly")
        evidence.exact(made.to_latent(x)[0].tolist(), whole.tolist(), oracle="the start")
    for size, height, steep in ((1e-3, 1e6, 0), (1e-9, 1e6, 3), (1, 1, 9), (1e3, 1e-3, 30)):
        for m in masks():
            z = size * draw(evidence.generator, 50, len(m))
            told = wild(evidence.generator, m, height, steep)
            t, scale = told(z[:, m == 1]).chunk(2, -1)
            start = z[:, m == 0]
            made = affine(m, told)
            back = made.to_latent(made.to_data(z)[0])[0]
            evidence.exact(back[:, m == 1], z[:, m == 1], oracle="the start")
            evidence.ordered(
                (back[:, m == 0] - start).abs() * 2.0**53,
                1.1 * t.abs() * (-scale).exp() + 9 * start.abs(),
                bound=1e-9,
                oracle="the bound of the claim",
            )
            made = additive(m, lambda kept, told=told: told(kept).chunk(2, -1)[0])
            back = made.to_latent(made.to_data(z)[0])[0]
            evidence.ordered(
                (back[:, m == 0] - start).abs() * 2.0**53,
                1.1 * t.abs() + 3 * start.abs(),
                bound=1e-9,
                oracle="the bound of the claim",
            )
            lost = ((back[:, m == 0] - start) / start).abs().max()
            if (size, height) == (1e-9, 1e6):
                evidence.ordered(0.01 / lost, 1.0, bound=0, oracle="an error of 1 % of z, or more")
            tiny = z.clone()
            tiny[:, m == 0] = start.sign() * 2.0**-55 * t.abs() * (-scale).exp()
            gone = affine(m, told).to_latent(affine(m, told).to_data(tiny)[0])[0][:, m == 0]
            evidence.exact(gone, torch.zeros_like(start), oracle="zero: no digit of z is in x")
    for m in masks():
        goal = draw(evidence.generator, len(m))
        told = wild(evidence.generator, m, 10, 3)
        numbers = [goal[m == 0], *told(goal[m == 1]).chunk(2, -1)]
        roots = [root(*three) for three in zip(*(v.tolist() for v in numbers), strict=True)]
        evidence.numeric(
            affine(m, told).to_latent(goal)[0][m == 0],
            torch.tensor(roots, dtype=DOUBLE),
            bound=1e-13,
            oracle="a root of the map, bracketed in 50 digits",
        )


@mutant(test_inverse, "the scale is taken off first, then the shift", of="affine")
class ScaleFirst(Affine):
    def _back(self, v, told):
        t, log_scale = told.chunk(2, -1)
        return v * (-log_scale).exp() - t, -log_scale.sum(-1)


@mutant(test_inverse, "divided by the scale's logarithm", of="affine")
class Divided(Affine):
    def _back(self, v, told):
        t, log_scale = told.chunk(2, -1)
        return (v - t) / (log_scale + 2.0**-40), -log_scale.sum(-1)


@mutant(test_inverse, "only the shift is undone", of="affine")
class OnlyShift(Affine):
    def _back(self, v, told):
        t, log_scale = told.chunk(2, -1)
        return v - t, -log_scale.sum(-1)


@mutant(test_inverse, "the shift is read from the half that was moved", of="additive")
class OtherHalf(Additive):
    def _back(self, v, told):
        return v - steps(v).expand(told.shape), v.new_zeros(v.shape[:-1])


def matrices(entries, C):
    """L, U, s and t out of the numbers that the network returns, entry by entry."""
    numbers = iter(entries)
    L = [[next(numbers) if j < i else float(i == j) for j in range(C)] for i in range(C)]
    U = [[next(numbers) if j > i else 0.0 for j in range(C)] for i in range(C)]
    s, t = [next(numbers) for _ in range(C)], [next(numbers) for _ in range(C)]
    return (
        (torch.stack([torch.as_tensor(x, dtype=DOUBLE) for row in M for x in row]).view(C, C) for M in (L, U)),
        s,
        t,
    )


def pixelwise(m, P, told):
    """The map of the claim for one image of (channels, rows, columns), pixel by pixel."""

    def f(image):
        C = len(P)
        kept, moved = image[m == 1], image[m == 0].flatten(1)
        (L, U), s, t = matrices(told(kept), C)
        A = P @ L @ (U + torch.diag(torch.stack(s)))
        columns = [A @ v + torch.stack(t) for v in moved.T]
        x = image.clone()
        x[m == 0] = torch.stack(columns, 1).view(C, *image.shape[1:])
        return x

    return f


@pytest.mark.claim("coupling-conditional-logdet")
def test_conditional(evidence, layer=Conditional):
    for m in masks():
        n = int((m == 0).sum())
        for height, width in ((1, 1), (2, 3)):
            P = torch.eye(n, dtype=DOUBLE)[torch.randperm(n, generator=evidence.generator)]
            W = draw(evidence.generator, int((m == 1).sum()) * height * width, n**2 + n)
            sign = draw(evidence.generator, n).sign()

            def told(kept, W=W, n=n, sign=sign, event=3):
                out = torch.sin(kept.flatten(-event) @ W)
                s = sign * (0.5 + out[..., n**2 - n : n**2].exp())
                return torch.cat([out[..., : n**2 - n], s, out[..., n**2 :]], -1)

            z = draw(evidence.generator, 2, len(m), height, width)
            formula, made = pixelwise(m, P, told), layer(m, P, told, event_dims=3)
            x, log_det = made.to_data(z)
            images = torch.stack([formula(image) for image in z])
            evidence.numeric(x, images, bound=1e-12, oracle="matrices built entry by entry")
            expected = slogdet(formula, z, event_dims=3)[1]
            evidence.numeric(log_det, expected, bound=1e-11, oracle="autograd on the formula")
            back, opposite = made.to_latent(images)
            evidence.numeric(back, z, bound=1e-10, oracle="the start")
            evidence.numeric(opposite, -expected, bound=1e-11, oracle="autograd on the formula")
        vector = layer(m, P, lambda kept, told=told: told(kept[..., None, None].expand(*kept.shape, 2, 3)))
        y, of_vector = vector.to_data(z[..., 0, 0])
        flat = pixelwise(m, P, lambda kept, told=told: told(kept.expand(-1, 2, 3)))
        points = z[..., :1, :1]
        evidence.numeric(of_vector, slogdet(flat, points, event_dims=3)[1], bound=1e-11, oracle="autograd")
        pixels = torch.stack([flat(point) for point in points])
        evidence.numeric(y, pixels[..., 0, 0], bound=1e-12, oracle="matrices built entry by entry")


@mutant(test_conditional, "no absolute value")
class NoAbs(Conditional):
    def _move(self, v, told):
        s = self._factors(told)[3]
        return super()._move(v, told)[0], v.numel() // s.numel() * s.log().sum(-1)


@mutant(test_conditional, "the pixels are not counted")
class OnePixel(Conditional):
    def _move(self, v, told):
        x, log_det = super()._move(v, told)
        return x, log_det / v[0, 0].numel() if v.dim() == 4 else log_det


@mutant(test_conditional, "the permutation is inverted")
class Transposed(Conditional):
    def __init__(self, m, P, net, event_dims=1):
        super().__init__(m, P.T, net, event_dims)


@mutant(test_conditional, "the upper factor is applied after the lower one")
class OtherOrder(Conditional):
    def _move(self, v, told):
        P, L, U, s, t = self._factors(told)
        x = P @ (U + s.diag_embed()) @ L @ v.reshape(*s.shape, -1) + t[..., 0]
        return x.reshape(v.shape), x.shape[-1] * s.abs().log().sum(-1)


@mutant(test_conditional, "to_latent keeps the sign of the log-determinant")
class SameSign(Conditional):
    def _back(self, v, told):
        z, log_det = super()._back(v, told)
        return z, -log_det


def linear(generator, D, layers):
    """Masks, functions and the matrices and offsets of affine layers that are affine maps."""
    made = []
    for i in range(layers):
        m = torch.arange(D) % 2 == i % 2
        A, b = draw(generator, D, D), draw(generator, D)
        scale = draw(generator, D) / 2
        G = torch.diag(torch.where(m, 1, scale.exp()))
        G[~m] += torch.where(m, A[~m], torch.zeros(D, dtype=DOUBLE))
        told = torch.cat([b[~m], scale[~m]])

        def net(kept, A=A, m=m, told=told):
            moved = kept @ A[~m][:, m].T
            return torch.cat([moved, torch.zeros_like(moved)], -1) + told

        made.append((m, net, G, torch.where(m, 0, b)))
    return made


def gaussian(made, D):
    """The law of the image of standard normal noise under these affine maps."""
    mean, S = torch.zeros(D, dtype=DOUBLE), torch.eye(D, dtype=DOUBLE)
    for *_, G, b in made:
        mean, S = G @ mean + b, G @ S
    return MultivariateNormal(mean, S @ S.T)


@pytest.mark.claim("coupling-flow-density")
def test_flow(evidence, flow=Flow):
    for D, depth in ((2, 1), (2, 3), (5, 4)):
        made = linear(evidence.generator, D, depth)
        law = gaussian(made, D)
        stacked = flow([Affine(m, net) for m, net, *_ in made], standard(D))
        x = 2 * draw(evidence.generator, 3, 4, D)
        evidence.numeric(
            stacked.log_prob(x),
            law.log_prob(x),
            bound=1e-9,
            relative=True,
            oracle="the normal law with the product of the matrices",
        )
        y, log_prob = stacked.sample_with_log_prob(20000, evidence.generator)
        evidence.numeric(
            (log_prob - law.log_prob(y)) / log_prob.abs(),
            torch.zeros(20000, dtype=DOUBLE),
            bound=1e-9,
            oracle="the normal law, at the samples",
        )
        direction = draw(evidence.generator, D)
        centred = (y - law.mean) @ direction
        spread = float(direction @ law.covariance_matrix @ direction)
        oracle = "a variance of the normal law"
        evidence.statistical(centred**2, spread, detects=0.2 * spread, oracle=oracle)
    A, B = draw(evidence.generator, 2, 2, 2) / 2
    m = torch.tensor([1, 0])
    bent = [Affine(m, network(m, A, B)), Affine(1 - m, network(1 - m, A, B))]
    line = torch.linspace(-25, 25, 1001, dtype=DOUBLE)
    for layers in (bent[:1], bent, [*bent, Additive(m, network(m, B))]):
        density = flow(layers, standard(2)).log_prob(torch.cartesian_prod(line, line)).exp()
        total = density.sum() * 0.05**2
        evidence.numeric(total, 1.0, bound=1e-9, oracle="a density integrates to one")


@mutant(test_flow, "the log-determinants of to_data are added, not subtracted")
class Added(Flow):
    def sample_with_log_prob(self, n, generator=None):
        z = self._noise(n, generator)
        x, log_det = self.to_data(z)
        return x, self.base.log_prob(z) + log_det


@mutant(test_flow, "the layers are inverted first to last")
class FirstToLast(Flow):
    def to_latent(self, x):
        log_det = 0
        for layer in self.layers:
            x, step = layer.to_latent(x)
            log_det = log_det + step
        return x, log_det


@mutant(test_flow, "only the last layer's log-determinant is counted")
class LastOnly(Flow):
    def log_prob(self, x):
        return self.base.log_prob(self.to_latent(x)[0]) + self.layers[-1].to_latent(x)[1]


@mutant(test_flow, "the base density is taken at the data point")
class BaseAtData(Flow):
    def log_prob(self, x):
        return self.base.log_prob(x) + self.to_latent(x)[1]


@mutant(test_flow, "the density of the base is carried along unchanged")
class NoLogDet(Flow):
    def log_prob(self, x):
        return self.base.log_prob(self.to_latent(x)[0])


@mutant(test_flow, "samples leave the base through the inverse")
class ThroughInverse(Flow):
    def sample_with_log_prob(self, n, generator=None):
        x = self.to_latent(self._noise(n, generator))[0]
        return x, self.log_prob(x)


def test_masks():
    assert mask(5).tolist() == [True, True, False, False, False]
    assert mask(4, "alternating").tolist() == [True, False, True, False]
    assert mask(2).tolist() == mask(2, "alternating").tolist() == [True, False]


def layers_of(dtype, D=5):
    """One layer of each kind, with a module as its network."""
    m, n = mask(D, "alternating"), D // 2
    P = torch.eye(n).roll(1, 0)
    sizes = {Additive: n, Affine: 2 * n, Conditional: n**2 + n}
    nets = {kind: nn.Linear(D - n, size).to(dtype) for kind, size in sizes.items()}
    return [
        Additive(m, nets[Additive]),
        Affine(m, nets[Affine]),
        Conditional(m, P, nets[Conditional]),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 1, 3)])
def test_dtype_and_batch_dimensions_are_kept(dtype, kind, batch):
    torch.manual_seed(0)
    layer, z = layers_of(dtype)[kind], torch.randn(*batch, 5, dtype=dtype)
    x, log_det = layer.to_data(z)
    back, opposite = layer.to_latent(x)
    assert x.dtype == log_det.dtype == back.dtype == opposite.dtype == dtype
    assert x.shape == back.shape == z.shape
    assert log_det.shape == opposite.shape == batch
    assert torch.allclose(back, z, atol=1e-3)
    assert torch.equal(opposite, -log_det)


def test_a_network_of_another_precision_does_not_change_the_result():
    z, W = torch.randn(4, 2, dtype=DOUBLE), torch.tensor([[0.3, -0.8]])
    x, log_det = Affine(mask(2), lambda kept: kept.float() @ W).to_data(z)
    assert x.dtype == log_det.dtype == DOUBLE
    told = (z[:, :1].float() @ W).double()
    assert torch.equal(log_det, told[:, 1])
    assert torch.allclose(x[:, 1], z[:, 1] * told[:, 1].exp() + told[:, 0], atol=1e-15)


def test_gradients_reach_the_point_and_the_networks():
    torch.manual_seed(0)
    for layer in layers_of(DOUBLE):
        z = torch.randn(4, 5, dtype=DOUBLE, requires_grad=True)
        f = lambda z, *_, layer=layer: layer.to_latent(layer.to_data(z)[0] + 1)
        weight = layer.net.weight
        assert torch.autograd.gradcheck(f, (z, weight))
        assert torch.autograd.gradcheck(lambda z, layer=layer: layer.to_data(z), (z,))


def test_images_move_by_channels():
    m, P = torch.tensor([1, 0, 0]), torch.eye(2)
    net = nn.Sequential(nn.Conv2d(1, 6, 2), nn.Flatten(-3))
    x, log_det = Conditional(m, P, net, event_dims=3).to_data(torch.randn(5, 3, 2, 2))
    assert x.shape == (5, 3, 2, 2)
    assert log_det.shape == (5,)


def test_a_layer_moves_with_its_module():
    layer = Affine(torch.tensor([0, 1, 1, 0, 1]), nn.Linear(3, 4)).double()
    assert layer.order.tolist() == [0, 3, 1, 2, 4]
    assert list(layer.state_dict()) == ["net.weight", "net.bias"]


class Shift:
    """A layer that is no module."""

    def to_data(self, z):
        return z + 1, z.new_zeros(z.shape[:-1])

    def to_latent(self, x):
        return x - 1, x.new_zeros(x.shape[:-1])


def test_a_flow_takes_layers_that_are_no_modules_and_other_flows():
    base = standard(2)
    inner = Flow([Affine(mask(2), nn.Linear(1, 2, dtype=DOUBLE)), Shift()], base)
    outer = Flow([inner, Shift()], base)
    z = torch.randn(3, 2, dtype=DOUBLE)
    assert torch.equal(outer.to_data(z)[0], inner.to_data(z)[0] + 1)
    assert [name for name, _ in outer.named_parameters()] == ["0.0.net.weight", "0.0.net.bias"]
    assert torch.equal(Flow(inner, base).log_prob(z), inner.log_prob(z))
    assert torch.equal(Flow([], base).log_prob(z), base.log_prob(z))
    assert torch.equal(Flow([], base).to_data(z)[1], torch.zeros(3, dtype=DOUBLE))


def test_a_generator_decides_the_samples_and_nothing_else_changes():
    flow = Flow([Affine(mask(2), nn.Linear(1, 2, dtype=DOUBLE)), Shift()], standard(2))
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(5)
    first = flow.sample(4, generator)
    assert torch.equal(torch.get_rng_state(), state)
    noise = torch.randn(4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, flow.to_data(noise)[0])
    assert not torch.equal(flow.sample(4, generator), first)
    x, log_prob = flow.sample_with_log_prob(4, generator.manual_seed(5))
    assert torch.equal(x, first)
    assert torch.allclose(log_prob, flow.log_prob(x))
    torch.manual_seed(3)
    free = flow.sample(4)
    torch.manual_seed(3)
    assert torch.equal(free, flow.sample(4))
    assert first.requires_grad


def test_a_base_without_reparameterisation():
    base = Independent(Geometric(torch.tensor([0.3, 0.4])), 1)
    assert not base.has_rsample
    x = Flow([Shift()], base).sample(3, torch.Generator().manual_seed(0))
    assert x.shape == (3, 2)


LINEAR = nn.Linear(2, 4)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mask(1), "size must be at least 2, got 1"),
        (lambda: mask(4, "odd"), "kind must be 'halves' or 'alternating', got 'odd'"),
        (
            lambda: Additive(torch.ones(3), LINEAR),
            "mask must be a vector with both zeros and ones, got [1.0, 1.0, 1.0]",
        ),
        (
            lambda: Affine(torch.tensor([0, 2, 1]), LINEAR),
            "mask must be a vector with both zeros and ones, got [0, 2, 1]",
        ),
        (lambda: Affine(torch.eye(2), LINEAR), "mask must be a vector with both zeros and ones"),
        (
            lambda: Affine(mask(4), LINEAR).to_data(torch.ones(2, 4).long()),
            "z must be floating, got torch.int64",
        ),
        (
            lambda: Affine(mask(4), LINEAR).to_data(torch.ones(2, 6)),
            "z must have 4 coordinates, got (2, 6)",
        ),
        (
            lambda: Affine(mask(4), LINEAR).to_latent(torch.ones(())),
            "x must have 4 coordinates, got ()",
        ),
        (
            lambda: Affine(mask(4), nn.Linear(4, 4)).to_data(torch.ones(5, 4)),
            "net must take the kept coordinates alone, (5, 2) of torch.float32",
        ),
        (
            lambda: Affine(mask(4), nn.Linear(2, 4)).to_data(torch.ones(5, 4).double()),
            "net must take the kept coordinates alone, (5, 2) of torch.float64",
        ),
        (
            lambda: Affine(mask(4), nn.Linear(2, 2)).to_data(torch.ones(5, 4)),
            "net must return the shape (5, 4), got (5, 2)",
        ),
        (
            lambda: Additive(mask(4), lambda kept: torch.ones(2)).to_latent(torch.ones(5, 4)),
            "net must return the shape (5, 2), got (2,)",
        ),
        (
            lambda: Conditional(mask(4), torch.ones(2, 2), LINEAR),
            "permutation must have one 1 in each row and column, got [[1.0, 1.0], [1.0, 1.0]]",
        ),
        (
            lambda: Conditional(mask(4), torch.tensor([[1, 0], [1, 0]]), LINEAR),
            "permutation must have one 1 in each row and column, got [[1, 0], [1, 0]]",
        ),
        (lambda: Conditional(mask(4), torch.eye(3), LINEAR), "permutation must be 2 x 2, got shape (3, 3)"),
        (
            lambda: Conditional(mask(4), torch.eye(2), LINEAR, event_dims=2),
            "event_dims must be 1 or 3, got 2",
        ),
        (
            lambda: Conditional(mask(4), torch.eye(2), lambda x: torch.zeros(6)).to_data(torch.ones(4)),
            "s must be finite and not 0, got 0",
        ),
        (
            lambda: Flow([], Normal(torch.zeros(2), torch.ones(2))),
            "base must have vectors as events, as in Independent, got Normal(loc:",
        ),
        (
            lambda: Flow([], standard(2)).log_prob(torch.ones(5, 1)),
            "x must end in the shape (2,) of the points of base, got (5, 1)",
        ),
        (
            lambda: Flow([], standard(2)).to_data(torch.ones(())),
            "z must end in the shape (2,) of the points of base, got ()",
        ),
        (
            lambda: Flow([Affine(mask(4), LINEAR)], standard(2)).sample(3),
            "z must have 4 coordinates, got (3, 2)",
        ),
        (
            lambda: Flow([LINEAR], standard(4)),
            "layers must have to_data and to_latent, got Linear(in_features=2",
        ),
    ],
)
def test_bad_arguments_raise(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_a_generator_on_another_device_is_refused():
    loc = torch.zeros(2, device="meta")
    base = Independent(Normal(loc, 1 + loc, validate_args=False), 1, validate_args=False)
    with pytest.raises(ValueError, match="generator must be on meta, like base, got cpu"):
        Flow([], base).sample(3, torch.Generator())


PEERS = ("normflows", "zuko", "nflows")


def test_the_record_of_other_libraries_is_whole():
    record = json.loads((ROOT / "docs/flows/peers.json").read_text())
    kinds = {"date": str, "machine": str, "stack": str, "versions": dict, "pairs": int}
    assert record.keys() == kinds.keys() | {"errors", "speed"}
    assert all(isinstance(record[name], kind) for name, kind in kinds.items())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert "/" not in record["machine"]
    pinned = (ROOT / "tests/flows/peers.txt").read_text().split()
    named = [f"{name}=={version}" for name, version in record["versions"].items()]
    assert set(named) <= set(pinned)
    assert set(record["versions"]) == {"torch", *PEERS}
    assert len(record["errors"]) == 6
    assert all(list(row["error"]) == ["genref", *PEERS] for row in record["errors"])
    rows = [(row["peer"], row["D"], row["task"], row["pass"]) for row in record["speed"]]
    tasks, ways = ("log_prob", "sample_with_log_prob"), ("forward", "forward and backward")
    assert rows == list(product(PEERS, (2, 16, 64), tasks, ways))
    assert all(sorted(row["ratio"]) == row["ratio"] for row in record["speed"])


def test_the_pinned_versions_agree_with_those_of_the_project():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    beside = (ROOT / "tests/flows/peers.txt").read_text().splitlines()
    both = [line.split("==") for line in beside if "==" in line]
    assert all(pinned.get(name, version) == version for name, version in both)


def test_the_figures_show_what_they_say():
    drawn = run_path(str(ROOT / "snippets/flows/coupling.py"))
    figure = Figure(layout="constrained")
    drawn["figure"](figure)
    assert [len(ax.patches) for ax in figure.axes] == claimed(3)
    figure = Figure(layout="constrained")
    drawn["figure_density"](figure)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["additive: at most 0.16", "affine: at most 0.80"]
    ax = Figure(layout="constrained").subplots()
    drawn["figure_rounding"](ax)
    bound, error, _ = (line.get_ydata() for line in ax.lines)
    assert (torch.as_tensor(error) <= torch.as_tensor(bound)).all()
