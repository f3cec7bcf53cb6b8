r"""Receptive fields of stacked masked convolutions, followed pixel by pixel.

An output pixel sees an input pixel if a path joins them: one kept tap in each layer, on the map all
the way. Paths are followed on the grid itself, so there are no weights that could cancel.
"""

from collections.abc import Iterable
from itertools import product

import torch

from genref.masks.causal import Past, mask

__all__ = ["receptive_field"]


def receptive_field(
    kinds: Iterable[str],
    at: tuple[int, int],
    size: tuple[int, int] = (5, 5),
    kernel_size: int | tuple[int, int] = 3,
    past: Past = "above",
) -> set[tuple[int, int]]:
    r"""Returns $\{j : (M_L \cdots M_1)_{ij} > 0\}$, the input pixels that output pixel $i$ sees.

    The matrix $M_l$ says which pixels the taps of layer $l$ join. For generic weights these are the
    pixels on which the output pixel depends.

    ```python
    from genref.masks.receptive_field import receptive_field

    print(sorted(receptive_field("AA", at=(2, 3), size=(3, 4))))
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    [(1, 1), (1, 2), (1, 3), (2, 1)]
    ```

    Claim: masks-AA
        Let two layers of type A have $3 \times 3$ kernels, zero padding and the rows below as their
        past. On a $5 \times 5$ map, for generic weights, the output pixel in row 3 and column 4
        depends on exactly the 8 input pixels 32, 42, 43, 44, 52, 53, 54 and 55. Of its past it
        misses 31, 33, 41, 45 and 51.

    Claim: masks-AB
        Let a layer of type A, then one of type B, have $3 \times 3$ kernels, zero padding and the
        rows below as their past. On a $5 \times 5$ map, for generic weights, the output pixel in
        row 3 and column 4 depends on exactly the 10 input pixels 32, 33, 42, 43, 44, 45, 52, 53, 54
        and 55. Of its past it misses 31, 41 and 51.

    Claim: masks-BA
        Let a layer of type B, then one of type A, have $3 \times 3$ kernels, zero padding and the
        rows below as their past. On a $5 \times 5$ map, for generic weights, the output pixel in
        row 3 and column 4 depends on exactly the 10 input pixels 32, 33, 42, 43, 44, 45, 52, 53, 54
        and 55. Of its past it misses 31, 41 and 51.

    Claim: masks-BB
        Let two layers of type B have $3 \times 3$ kernels, zero padding and the rows below as their
        past. On a $5 \times 5$ map, for generic weights, the output pixel in row 3 and column 4
        depends on exactly the 11 input pixels 32, 33, 34, 42, 43, 44, 45, 52, 53, 54 and 55, itself
        among them. Of its past it misses 31, 41 and 51.

    Claim: x-masks-blindspot
        Let $L$ layers have $3 \times 3$ kernels, the first layer of type A and the others of type
        B. On an unbounded image, for generic weights, an output pixel depends on exactly the pixels
        $a$ rows back and $b$ columns to the right with $0 \le a \le L$ and $-L \le b \le a$, where
        $b < 0$ if $a = 0$. They are $(3L^2 + 5L) / 2$. A map cuts this set at its edges and changes
        nothing else.

        So an earlier pixel with $b \le a$ is seen from $\max(a, |b|)$ layers on, and one with
        $b > a$ at no depth, such as pixel 45 of a $5 \times 5$ map from output 33, if the rows
        below are the past.

        Of the past in the window $a \le L$, $|b| \le L$ the share $(L - 1) / (4 (L + 1))$ is
        missed. Of all pairs of a pixel and an earlier one in an image of $n \times n$ pixels,
        $n \ge 2$, the share $(3n - 1)(n - 2) / (12 n (n + 1))$ is joined at no depth. Both shares
        tend to $1/4$.

    Arguments:
        kinds: The type of each layer, `"A"` or `"B"`, from input to output, for example `"AB"`.
        at: The output pixel $i$, a row and a column of the map, counted from 1.
        size: The rows and columns of the map, at least 1 each.
        kernel_size: Odd and positive; a pair is (rows, columns).
        past: The rows that come first.

    Returns:
        Pairs (row, column), counted from 1.
    """
    layers = list(kinds)
    if not layers or not set(layers) <= {"A", "B"}:
        raise ValueError(f"kinds must be one or more of 'A' and 'B', got {layers}")
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {size}")
    grid = set(product(range(1, size[0] + 1), range(1, size[1] + 1)))
    if at not in grid:
        raise ValueError(f"at must be a pixel from (1, 1) to {size}, got {at}")
    seen = {at}
    for kind in reversed(layers):
        kept = mask(kind, kernel_size, past)
        steps = (kept.nonzero() - torch.tensor(kept.shape) // 2).tolist()
        seen = {(row + down, col + right) for row, col in seen for down, right in steps} & grid
    return seen
