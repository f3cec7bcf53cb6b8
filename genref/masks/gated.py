r"""Gated stacks, which see the whole past of a pixel: two maps of features instead of one.

The vertical map reads whole rows, to both sides, up to the pixel's own row. Moved by one row, so
that only earlier rows are left in it, it joins the horizontal map, which reads the pixel's own row
up to the pixel. Together they leave no blind spot.
"""

from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genref.masks.causal import MaskedConv2d, Past, mask

__all__ = ["GatedLayer", "GatedStack", "depth", "gate", "receptive_field"]


def gate(
    x: Float[Tensor, "*batch channels height width"],
    colours: int = 1,
) -> Float[Tensor, "*batch half height width"]:
    r"""Returns $\tanh(x') \odot \sigma(x'')$, with the two halves $x'$ and $x''$ of each colour.

    Arguments:
        x: An even number of channels for each colour, in blocks of one colour.
        colours: The number of ordered groups of channels, at least 1.
    """
    half = x.shape[-3] // (2 * max(colours, 1))
    if half * 2 * colours != x.shape[-3]:
        raise ValueError(f"colours must cut {x.shape[-3]} channels into even blocks, got {colours}")
    one, other = x.reshape(*x.shape[:-3], colours, 2, half, *x.shape[-2:]).unbind(-4)
    return (one.tanh() * other.sigmoid()).flatten(-4, -3)


class GatedLayer(nn.Module):
    r"""Maps a vertical and a horizontal map to $(\mathrm{gate}(v'), h + \mathrm{gate}(h' + Sv'))$.

    Here $v'$ is a convolution of $v$ over the rows up to the pixel's own, $h'$ a masked convolution
    of $h$ within its row, and $S$ moves a map on by one row. Convolutions with kernels of a single
    tap mix the channels of $Sv'$ and of the second gate. A layer of type A leaves out the $h$ in
    front, which is the image.

    Arguments:
        kind: The type of the horizontal convolution, `"A"` for the first layer, else `"B"`.
        in_channels: Divisible by `colours`; of type B as many as `channels`.
        channels: The channels of $v$ and $h$ afterwards, divisible by `colours`.
        kernel_size: The odd number of columns of both kernels, and of rows of the vertical one.
        past: The rows that come first.
        colours: The number of ordered groups of channels.
    """

    def __init__(
        self,
        kind: str,
        in_channels: int,
        channels: int,
        kernel_size: int = 3,
        past: Past = "above",
        colours: int = 1,
    ) -> None:
        super().__init__()
        if kind == "B" and in_channels != channels:
            raise ValueError(f"in_channels must be {channels} in type B, got {in_channels}")
        if colours > 0 and channels % colours:
            raise ValueError(f"channels must be divisible by colours, got {channels}")
        self.kind, self.past, self.colours = kind, past, colours
        self.vertical = MaskedConv2d("B", in_channels, 2 * channels, kernel_size, past)
        self.vertical.mask |= self.vertical.mask.flip(-1)
        row = (1, kernel_size)
        self.horizontal = MaskedConv2d(kind, in_channels, 2 * channels, row, past, colours)
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.mix = MaskedConv2d("B", channels, channels, 1, past, colours)

    def moved(self, rows: Tensor) -> Tensor:
        r"""Returns the map moved on by one row in the order; the first row becomes zero."""
        return F.pad(rows, (0, 0, 1, -1) if self.past == "above" else (0, 0, -1, 1))

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the two maps, of the height and width that they had."""
        rows = self.vertical(v)
        joined = self.horizontal(h) + self.link(self.moved(rows))
        new = self.mix(gate(joined, self.colours))
        return gate(rows), new if self.kind == "A" else h + new


class GatedStack(nn.Module):
    r"""Maps an image to features of each pixel's past, by $L$ layers, the first of type A.

    Claim: x-masks-gated
        A gated layer has a vertical map, which it convolves with a $k \times k$ kernel over the
        rows up to the pixel's own, $k = 2\rho + 1 \ge 3$, and a horizontal map, which it convolves
        with a masked $1 \times k$ kernel and to which it adds the vertical one of the row before.
        Let $L$ such layers follow each other, the first horizontal kernel of type A, the others of
        type B.

        Whatever the weights, no output pixel depends on its own input pixel or on a later one. For
        generic weights it depends on exactly those pixels of the map that are $a$ rows back and $b$
        columns to the right with $a = 0$ and $-\rho L \le b < 0$, or with $1 \le a \le \rho L + 1$
        and $\lvert b \rvert \le \rho L$. So on a map of $H$ rows and $W$ columns every output pixel
        sees the whole of its past if and only if $\rho L \ge W - 1$ and $\rho L \ge H - 2$. On a
        $5 \times 5$ map with $k = 3$, four layers do and three do not. If pixels have ordered
        colours, an output depends on all colours of these pixels and on the earlier colours of its
        own. This holds whether the rows above come first or the rows below.

    Arguments:
        layers: The number $L \ge 1$ of layers.
        in_channels: The channels of the image, divisible by `colours`.
        channels: The channels of both maps, divisible by `colours`.
        out_channels: The channels of the result, divisible by `colours`.
        kernel_size: The odd number $k$.
        past: The rows that come first.
        colours: The number of ordered groups of channels.
    """

    def __init__(
        self,
        layers: int,
        in_channels: int,
        channels: int,
        out_channels: int,
        kernel_size: int = 3,
        past: Past = "above",
        colours: int = 1,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        wide = [in_channels] + [channels] * (layers - 1)
        kinds = "A" + "B" * (layers - 1)
        self.layers = nn.ModuleList(
            GatedLayer(kind, width, channels, kernel_size, past, colours)
            for kind, width in zip(kinds, wide, strict=True)
        )
        self.head = MaskedConv2d("B", channels, out_channels, 1, past, colours)

    def forward(self, image: Tensor) -> Tensor:
        r"""Returns `out_channels` features for each pixel, made of earlier values only."""
        v = h = image
        for layer in self.layers:
            v, h = layer(v, h)
        result: Tensor = self.head(h)
        return result


def receptive_field(
    layers: int,
    at: tuple[int, int],
    size: tuple[int, int] = (5, 5),
    kernel_size: int = 3,
    past: Past = "above",
) -> set[tuple[int, int]]:
    r"""Returns the input pixels to which a path of taps leads from an output pixel.

    ```python
    from genref.masks.gated import receptive_field

    print(sorted(receptive_field(1, at=(3, 2), size=(3, 4))))
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1)]
    ```

    Arguments:
        layers: The number $L \ge 1$ of layers.
        at: The output pixel, a row and a column of the map, counted from 1.
        size: The rows and columns of the map, at least 1 each.
        kernel_size: The odd number $k$.
        past: The rows that come first.

    Returns:
        Pairs (row, column), counted from 1.
    """
    if layers < 1:
        raise ValueError(f"layers must be at least 1, got {layers}")
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {size}")
    grid = set(product(range(1, size[0] + 1), range(1, size[1] + 1)))
    if at not in grid:
        raise ValueError(f"at must be a pixel from (1, 1) to {size}, got {at}")
    causal = mask("B", kernel_size, past)
    back = -1 if past == "above" else 1
    vertical, horizontal = set[tuple[int, int]](), {at}
    for kind in "B" * (layers - 1) + "A":
        before = {(row + back, column) for row, column in horizontal}
        vertical = _read(vertical | before, causal | causal.flip(-1), grid)
        horizontal = _read(horizontal, mask(kind, (1, kernel_size), past), grid)
    return vertical | horizontal


def _read(
    pixels: set[tuple[int, int]], kept: Bool[Tensor, "rows columns"], grid: set[tuple[int, int]]
) -> set[tuple[int, int]]:
    steps = (kept.nonzero() - torch.tensor(kept.shape) // 2).tolist()
    on_map = pixels & grid
    return {(row + down, column + right) for row, column in on_map for down, right in steps} & grid


def depth(size: tuple[int, int], kernel_size: int = 3) -> int:
    r"""Returns $\max\{\lceil (W - 1) / \rho \rceil, \lceil (H - 2) / \rho \rceil, 1\}$ layers.

    With so many layers every output pixel of an $H \times W$ map sees its whole past, and with
    fewer not every one does.

    Arguments:
        size: The rows $H$ and columns $W$ of the map, at least 1 each.
        kernel_size: The odd number $k = 2\rho + 1 \ge 3$.
    """
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {size}")
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and at least 3, got {kernel_size}")
    reach = kernel_size // 2
    return max(-(-(size[1] - 1) // reach), -(-(size[0] - 2) // reach), 1)
