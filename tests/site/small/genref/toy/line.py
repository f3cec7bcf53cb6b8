r"""A straight line through the origin."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["line"]

SLOPE = 2.0


def line(x: Float[Tensor, " points"], slope: float = SLOPE) -> Float[Tensor, " points"]:
    r"""Returns $a x$ for the slope $a$.

    ```python
    import torch

    from genref.toy.line import line

    assert line(torch.ones(1)) == 2
    ```

    Claim: toy-line
        For all $x$ and $y$, $f(x + y) = f(x) + f(y)$.
    """
    return torch.mul(x, slope)
