"""Measures genref beside other libraries of flows on the same inputs: errors, and speed of stacks.

`make peers` runs it, in an environment of its own, and writes `docs/flows/peers.json`.
"""

import json
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import pairwise, product
from pathlib import Path

import mpmath
import normflows
import torch
import zuko
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow as FlowOfNflows
from nflows.transforms.base import CompositeTransform
from nflows.transforms.conv import OneByOneConvolution
from nflows.transforms.coupling import AffineCouplingTransform
from torch import nn
from torch.distributions import Independent, Normal
from zuko.flows.coupling import GeneralCouplingTransform

from genref.flows.coupling import Affine, Flow, mask
from genref.flows.monotone import SigmoidMixture
from genref.flows.plu import PLU
from genref.flows.radial import Radial
from genref.flows.residual import Residual

LAYERS, WIDTH, BATCH, SIZES = 8, 64, 4096, (2, 16, 64)
TASKS = ("log_prob", "sample_with_log_prob")
DOUBLE, NONE = torch.float64, "none"


class Network(nn.Sequential):
    def forward(self, x, context=None):  # one library passes a context
        return super().forward(x)


def network(inputs, outputs):
    widths = [inputs, WIDTH, WIDTH, outputs]
    parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return Network(*parts[:-1])


def halves(D):
    """The masks of the layers: what one layer moves, the next one reads."""
    return [mask(D) if i % 2 == 0 else ~mask(D) for i in range(LAYERS)]


class Genref:
    def __init__(self, D):
        layers = [Affine(m, network(D // 2, D)) for m in halves(D)]
        self.module = Flow(layers, Independent(Normal(torch.zeros(D), torch.ones(D)), 1))

    def log_prob(self, x):
        return self.module.log_prob(x)

    def sample_with_log_prob(self, n):
        return self.module.sample_with_log_prob(n)


class Normflows:
    def __init__(self, D):
        flows = []
        for _ in range(LAYERS):
            flows += [normflows.flows.AffineCouplingBlock(network(D // 2, D))]
            flows += [normflows.flows.Permute(D, mode="swap")]
        base = normflows.distributions.DiagGaussian(D, trainable=False)
        self.module = normflows.NormalizingFlow(base, flows)

    def log_prob(self, x):
        return self.module.log_prob(x)

    def sample_with_log_prob(self, n):
        return self.module.sample(n)


class Zuko:
    def __init__(self, D):
        layer = partial(GeneralCouplingTransform, D, hidden_features=(WIDTH, WIDTH))
        base = zuko.flows.UnconditionalDistribution(
            zuko.distributions.DiagNormal, torch.zeros(D), torch.ones(D), buffer=True
        )
        self.module = zuko.flows.Flow([layer(mask=m) for m in halves(D)], base)

    def log_prob(self, x):
        return self.module().log_prob(x)

    def sample_with_log_prob(self, n):
        return self.module().rsample_and_log_prob((n,))


class Nflows:
    def __init__(self, D):
        layers = [AffineCouplingTransform((~m).long(), network) for m in halves(D)]
        self.module = FlowOfNflows(CompositeTransform(layers), StandardNormal([D]))

    def log_prob(self, x):
        return self.module.log_prob(x)

    def sample_with_log_prob(self, n):
        return self.module.sample_and_log_prob(n)


PEERS = {"normflows": Normflows, "zuko": Zuko, "nflows": Nflows}


def forward(flow, task, x):
    with torch.no_grad():
        return flow.log_prob(x) if task == "log_prob" else flow.sample_with_log_prob(BATCH)


def step(flow, task, x):
    flow.module.zero_grad()
    if task == "log_prob":
        loss = -flow.log_prob(x).mean()
    else:
        y, log_q = flow.sample_with_log_prob(BATCH)
        loss = (log_q + y.square().sum(-1) / 2).mean()
    loss.backward()


PASSES = {"forward": forward, "forward and backward": step}


def seconds(action, *arguments):
    """The time on the processor, which other programs on the machine do not lengthen."""
    start = time.process_time()
    action(*arguments)
    return time.process_time() - start


def ratios(action, ours, theirs, task, x, pairs):
    """Quartiles of their time over ours, from pairs of calls that take turns to go first."""
    for flow in (ours, theirs, ours, theirs):
        action(flow, task, x)
    found = []
    for i in range(pairs):
        order = (ours, theirs) if i % 2 else (theirs, ours)
        took = {flow: seconds(action, flow, task, x) for flow in order}
        found.append(took[theirs] / took[ours])
    return [round(q, 2) for q in statistics.quantiles(found, n=4)]


def parameters(flow):
    return sum(p.numel() for p in flow.module.parameters() if p.requires_grad)


def speeds(pairs):
    rows = []
    for name, peer in PEERS.items():
        for D in SIZES:
            theirs, ours = peer(D), Genref(D)
            assert parameters(theirs) == parameters(ours), (name, D)
            x = torch.randn(BATCH, D)
            for task, (way, action) in product(TASKS, PASSES.items()):
                ratio = ratios(action, ours, theirs, task, x, pairs)
                rows.append({"peer": name, "D": D, "task": task, "pass": way, "ratio": ratio})
                said = " ".join(f"{r:6.2f}" for r in ratio)
                print(f"{name:10}{D:3}  {task:21} {way:21} {said}", flush=True)
    return rows


def write(size):
    return f"{size.item() if isinstance(size, torch.Tensor) else float(size):.0e}"


def radial():
    """The inverse in one dimension, at the two points where subtraction would cancel."""
    worst = 0
    for rho, alpha, total in ((1e-12, 1.0, 2.0), (1e-6, 1e-3, 100.0)):
        beta = total - alpha
        layer = Radial(torch.zeros(1, dtype=DOUBLE), alpha, beta)
        z = layer.to_latent(torch.tensor([rho], dtype=DOUBLE))[0].item()
        with mpmath.workdps(50):
            b, c = mpmath.mpf(alpha) + mpmath.mpf(beta) - mpmath.mpf(rho), alpha * mpmath.mpf(rho)
            root = 2 * c / (b + mpmath.sqrt(b**2 + 4 * c))
            worst = max(worst, abs(z / root - 1))
    error = {"genref": write(worst), "normflows": try_inverse(), "zuko": NONE, "nflows": NONE}
    where = "radial, inverse at two points near the centre: largest relative error"
    return {"where": where, "error": error}


def try_inverse():
    """What the radial layer of normflows says to an inverse."""
    try:
        normflows.flows.Radial((1,)).inverse(torch.ones(1, 1))
    except NotImplementedError:
        return "none (one direction only)"
    return "has one now: measure it"


class Branch(nn.Module):
    """A map with Lipschitz constant 0.97 that is nowhere diagonal."""

    def __init__(self):
        super().__init__()
        self.register_buffer("Q", torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE))[0])

    def forward(self, z):
        return -0.97 * torch.sin(z @ self.Q) @ self.Q.T


def residual():
    f = Branch()
    z = torch.randn(100, 3, dtype=DOUBLE)
    slope = 1 - 0.97 * torch.cos(z @ f.Q)
    exact = slope.log().sum(-1)
    ours, theirs = Residual(f, 0.97), normflows.flows.Residual(f).double().eval()
    x = z + f(z)
    found = theirs.forward(x)[0]
    inverse = {
        "genref": write((ours.to_latent(x)[0] - z).abs().max()),
        "normflows": write((found - z).abs().max()),
        "zuko": NONE,
        "nflows": NONE,
    }
    determinant = {
        "genref": write((ours.to_data(z)[1] - exact).abs().max()),
        "normflows": write((theirs.inverse(z)[1].detach() - exact).abs().max()),
        "zuko": NONE,
        "nflows": NONE,
    }
    return [
        {"where": "residual, inverse at L = 0.97: largest error of 100 points", "error": inverse},
        {
            "where": "residual, default log-determinant at L = 0.97: largest error, in nats",
            "error": determinant,
        },
    ]


def monotone():
    a, b, w = [1.0, 3.0, 0.5], [-2.0, 9.0, 0.3], [0.5, 0.3, 0.2]
    x = torch.cat([torch.linspace(-1e4, 1e4, 2001), torch.linspace(-9, 9, 2001)]).double()[:, None]
    layer = SigmoidMixture(a, b, w).double()
    back = layer.to_data(layer.to_latent(x)[0])[0]
    theirs = zuko.transforms.GaussianizationTransform(
        torch.tensor(b, dtype=DOUBLE), torch.tensor(a, dtype=DOUBLE).log()
    )
    lost = ((theirs(theirs.inv(x)) - x).abs() / (1 + x.abs())).max()
    top = theirs(torch.tensor(1e4, dtype=DOUBLE))
    error = {
        "genref": write(((back - x).abs() / (1 + x.abs())).max()),
        "normflows": NONE,
        "zuko": f"{write(lost)} (of normal laws; no value above {top:.3f})",
        "nflows": NONE,
    }
    where = "mixture of sigmoids, there and back, |x| up to 1e4: error / (1 + |x|)"
    return {"where": where, "error": error}


def ill_conditioned(C=32):
    """Unit triangular factors of normal entries and moderate scales, exact in float32."""
    L, U = torch.randn(2, C, C).tril(-1) + torch.eye(C), torch.randn(C, C).triu(1)
    s = torch.rand(C) * 2.5 + 0.1
    upper = U + torch.diag(s)
    inverse = [torch.linalg.inv(M.double()) for M in (L[0], upper)]
    condition = torch.linalg.matrix_norm(L[0].double() @ upper.double(), 2)
    condition = condition * torch.linalg.matrix_norm(inverse[1] @ inverse[0], 2)
    return L[0], U, s, condition.item()


def plu():
    """One pixel through layers in float32 with the same factors; the sum of log s in float64."""
    L, U, s, condition = ill_conditioned()
    C = len(s)
    while condition < 6e16:
        L, U, s, condition = ill_conditioned()
    exact, z, one = s.double().log().sum(), torch.randn(1, C, 1, 1), torch.eye(C)
    A = L.double() @ (U + torch.diag(s)).double()
    dense = normflows.flows.Invertible1x1Conv(C)
    dense.W.data = A.float()
    factored = normflows.flows.Invertible1x1Conv(C, use_lu=True)
    factored.P.data, factored.L.data, factored.U.data = one, L, U
    factored.log_S.data, factored.sign_S.data = s.log(), s.sign()
    linear = OneByOneConvolution(C)
    linear.lower_entries.data = L[linear.lower_indices]
    linear.upper_entries.data = U[linear.upper_indices]
    linear.unconstrained_upper_diag.data = (s - linear.eps).expm1().log()
    lower = (L.double() * s.double()).float()
    upper = ((U + torch.diag(s)).double() / s.double()[:, None]).float()
    both = zuko.transforms.LULinearTransform(lower.tril() + upper.triu(1))
    off = lambda log_det: write((log_det.detach().double().flatten()[0] - exact).abs())
    error = {
        "genref": off(PLU(one, L, U, s).to_data(z)[1]),
        "normflows": f"{off(dense.inverse(z)[1])} (with use_lu=True: {off(factored.inverse(z)[1])})",
        "zuko": off(both.log_abs_det_jacobian(z.view(1, C), z.view(1, C))),
        "nflows": off(linear(z)[1]),
    }
    where = f"1x1 convolution in float32, condition number {condition:.0e}: error in nats"
    return {"where": where, "error": error}


def precision():
    """The dtype of what a stack in float64 says about points in float64."""
    said = {}
    x = torch.randn(5, 4, dtype=DOUBLE)
    stacks = {"genref": Genref, **PEERS}
    for name, made in stacks.items():
        flow = made(4)
        flow.module = flow.module.double()
        dtype = log_det(name, flow, x).dtype
        said[name] = str(dtype).removeprefix("torch.")
    return {"where": "log-determinant of a stack in float64: its precision", "error": said}


def log_det(name, flow, x):
    if name == "genref":
        return flow.module.to_latent(x)[1]
    if name == "normflows":
        return flow.module.inverse_and_log_det(x)[1]
    if name == "zuko":
        return flow.module().transform.call_and_ladj(x)[1]
    return flow.module._transform(x)[1]


def machine():
    """The processor in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {model}, {torch.get_num_threads()} thread used"


def main(file, pairs):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if hasattr(os, "sched_setaffinity"):  # a process that stays on one core is timed more evenly
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    errors = [radial(), *residual(), monotone(), plu(), precision()]
    for row in errors:
        print(row["where"])
        for name, error in row["error"].items():
            print(f"    {name:10} {error}")
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {name: metadata.version(name).split("+")[0] for name in ("torch", *PEERS)},
        "stack": f"{LAYERS} affine layers, networks with two hidden layers of {WIDTH}, batch {BATCH}, float32",
        "pairs": pairs,
        "errors": errors,
        "speed": speeds(pairs),
    }
    file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
