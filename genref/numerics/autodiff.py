r"""Jacobians of any map by automatic differentiation: their determinants and their supports."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["jacobian", "slogdet", "sparsity"]


def jacobian(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "..."],
    event_dims: int = 1,
    create_graph: bool = False,
) -> Float[Tensor, "*batch outputs inputs"]:
    r"""Returns $J_{ij} = \partial f_i / \partial x_j$ at each point of a batch.

    The map is called once for each point, with that point alone, so it cannot mix points. Tensors
    such as images are flattened, the last dimension fastest.

    Arguments:
        f: From one event to a tensor of the same dtype. It may work in place.
        x: The points, leading batch dimensions first.
        event_dims: How many of the last dimensions are one event: 1 for vectors, 3 for images.
        create_graph: Whether the result is to be differentiated, as in `torch.autograd.grad`.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must be floating, got {x.dtype}")
    if not 0 <= event_dims <= x.dim():
        raise ValueError(f"event_dims must be from 0 to {x.dim()}, got {event_dims}")
    batch = x.shape[: x.dim() - event_dims]
    points = x.reshape(-1, *x.shape[len(batch) :])
    J = torch.stack([_rows(f, point, create_graph) for point in points])
    return J.view(*batch, *J.shape[1:])


def _rows(f: Callable[[Tensor], Tensor], point: Tensor, create_graph: bool) -> Tensor:
    """The gradient of each output, a row each; in-place work of the map meets a copy."""
    if not (create_graph and point.requires_grad):
        point = point.detach().requires_grad_()
    with torch.enable_grad():
        y = f(point.clone())
    if not isinstance(y, Tensor):
        raise ValueError(f"f must return one tensor, got {type(y).__name__}")
    if y.dtype != point.dtype:
        raise ValueError(f"f must keep the dtype {point.dtype}, got {y.dtype}")
    if not y.requires_grad:
        raise ValueError("f must be differentiable, got a result that autograd cannot follow")
    basis = torch.eye(y.numel(), dtype=y.dtype, device=y.device).view(-1, *y.shape)
    options = {"retain_graph": True, "create_graph": create_graph, "materialize_grads": True}
    rows = [torch.autograd.grad(y, point, each, **options)[0] for each in basis]
    return torch.stack(rows).reshape(y.numel(), -1)


def slogdet(
    f: Callable[[Tensor], Tensor],
    x: Float[Tensor, "..."],
    event_dims: int = 1,
    create_graph: bool = False,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Returns the sign of $\det J$ and $\log|\det J|$ at each point of a batch.

    Claim: numerics-logdet
        Let $f$ be differentiable at $x$ with an invertible Jacobian $J$, and $P J = L U$ with a
        permutation $P$, a lower triangular $L$ with unit diagonal and an upper triangular $U$. Then
        $\det J$ has the sign $\det P \, \prod_i \operatorname{sign} u_{ii}$, and
        $\log|\det J| = \sum_i \log|u_{ii}|$. Computed so in float64, at random points, both agree
        with the closed forms for affine, elementwise, triangular, coupling, planar and radial maps
        and for $1 \times 1$ convolutions: the signs exactly, whichever they are, the logarithms to
        $10^{-10}$. For 2000 factors $1/2$ the sum is $-1386.294361$, where the product underflows.

    With `layer.to_data` of a flow, which returns a pair, `f` is `lambda z: layer.to_data(z)[0]`.

    ```python
    import torch

    from genref.numerics.autodiff import slogdet

    sign, log_det = slogdet(lambda x: x.flip(-1) / 2, torch.ones(2000))
    print(f"{sign:.0f} {log_det:.1f}")
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    1 -1386.3
    ```

    Arguments:
        f: From one event to as many entries of the same dtype.
        x: The points, leading batch dimensions first.
        event_dims: How many of the last dimensions are one event: 1 for vectors, 3 for images.
        create_graph: Whether the result is to be differentiated, as in `torch.autograd.grad`.
    """
    J = jacobian(f, x, event_dims, create_graph)
    if J.shape[-1] != J.shape[-2]:
        raise ValueError(f"f must keep the number of entries {J.shape[-1]}, got {J.shape[-2]}")
    sign, log_det = torch.linalg.slogdet(J)
    return sign, log_det


def sparsity(
    f: Callable[[Tensor], Tensor], x: Float[Tensor, "..."], event_dims: int = 1
) -> Bool[Tensor, "outputs inputs"]:
    r"""Returns whether $J_{ij} \ne 0$ at one of the points of a batch at least.

    Claim: numerics-sparsity
        Let $f$ be a differentiable map of $\mathbb{R}^D$. If $J_{ij} \ne 0$ at some point, then
        output $i$ depends on input $j$: it is not constant in $x_j$. If $f$ is analytic, then at a
        point drawn from any density, with probability one, $J_{ij} \ne 0$ for all outputs $i$ and
        inputs $j$ of which $i$ depends on $j$.

    Arguments:
        f: From one event to a tensor of the same dtype.
        x: The points, drawn at random; several help where $f$ has flat pieces.
        event_dims: How many of the last dimensions are one event.
    """
    J = jacobian(f, x, event_dims)
    if not J.isfinite().all():
        raise ValueError("f must have a finite Jacobian at x, got one that is not")
    return (J != 0).reshape(-1, *J.shape[-2:]).any(0)
