r"""Masked convolutions, which read the past of a pixel and never its future.

The values of an image have an order: row by row, left to right in a row, colour by colour in a
pixel. A masked kernel keeps the taps that read a value earlier than the one it predicts (type A),
or that value too (type B). Kernels are not flipped: a tap below the centre reads the row below.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["MaskedConv2d", "Past", "mask", "total_probability"]

Past = Literal["above", "below"]
r"""The rows that come first: those above, as in PixelCNN, or those below, as in problem set A."""


def mask(
    kind: str,
    kernel_size: int | tuple[int, int] = 3,
    past: Past = "above",
    colours: int = 1,
) -> Bool[Tensor, "*colours rows columns"]:
    r"""Returns the kept taps: those with $(a, b, g') < (0, 0, g)$ in type A, $\le$ in type B.

    The tap reads colour $g'$ for colour $g$, $a$ rows later in the order (lower if the past is
    above, higher if it is below) and $b$ columns to the right. Triples compare like words in a
    dictionary, first entry first.

    ```python
    from genref.masks.causal import mask

    print(mask("A", past="below").long())
    ```
    <!--pytest-codeblocks:expected-output-->
    ```
    tensor([[0, 0, 0],
            [1, 0, 0],
            [1, 1, 1]])
    ```

    Claim: masks-channel-groups
        Let the channels form $G$ ordered groups and let the kernels have size $k = 2\rho + 1$. A
        stack of masked layers, at least one of them of type A, is strictly causal in the order
        pixel, then group, so the probabilities of all $2^{GHW}$ binary images sum to one. With one
        group and $\rho \ge 1$, $L$ layers, the first of type A and the others of type B, reach on
        an unbounded image exactly the pixels $a$ rows back and $b$ columns to the right with
        $0 \le a \le \rho L$ and $-\rho L \le b \le \rho \min(a, L)$, where $b < 0$ if $a = 0$. Of
        the past in the window $a \le \rho L$, $|b| \le \rho L$ they miss the fraction
        $(L - 1) / (4 \rho L + 4)$, which tends to $1 / (4 \rho)$.

    Arguments:
        kind: `"A"` or `"B"`.
        kernel_size: Odd and positive; a pair is (rows, columns).
        past: The rows that come first.
        colours: The number $G \ge 1$ of ordered groups of channels.

    Returns:
        Shape (rows, columns); with `colours > 1` the predicted and the read colour come before.
    """
    rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    if kind not in ("A", "B"):
        raise ValueError(f"kind must be 'A' or 'B', got {kind!r}")
    if past not in ("above", "below"):
        raise ValueError(f"past must be 'above' or 'below', got {past!r}")
    if min(rows, columns) < 1 or rows * columns % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if colours < 1:
        raise ValueError(f"colours must be at least 1, got {colours}")
    step = torch.arange(rows * columns).view(rows, columns) - rows * columns // 2
    step = step if past == "above" else step.flip(0)
    colour = torch.arange(colours)
    lead = colours * step + (colour - colour[:, None])[:, :, None, None]
    kept = lead < 0 if kind == "A" else lead <= 0
    return kept if colours > 1 else kept[0, 0]


class MaskedConv2d(nn.Conv2d):
    r"""Convolves with the kernel $w \odot M$, where $M$ is the `mask` of the given kind.

    Weights outside the mask are never read and receive no gradient. The mask is a buffer: it
    follows the layer to its device, and the `state_dict` stays that of `torch.nn.Conv2d`.

    Claim: masks-causal
        Stack masked convolutions of one order, with pixelwise functions between them. If at least
        one layer, anywhere in the stack, is of type A, the stack is strictly causal, whatever its
        weights: no output pixel depends on its own input pixel or on a later one. Let the functions
        also be analytic with a positive slope, as the hyperbolic tangent is. If all layers are of
        type B, then for generic weights every output pixel depends on its own input pixel. So AA,
        AB and BA are strictly causal and BB is not; and with kernels of one size and dilation AB
        and BA have, for generic weights, the same receptive field at every pixel of every map. All
        of this holds whether the rows above come first, as in PixelCNN, or the rows below, as in
        problem set A.

    Arguments:
        kind: `"A"` or `"B"`.
        in_channels: Divisible by `colours`; a colour is a block of consecutive channels.
        out_channels: Likewise.
        kernel_size: Odd and positive; a pair is (rows, columns).
        past: The rows that come first.
        colours: The number of ordered groups of channels, at least 1.
        padding: `"same"`, or the number that comes to the same.
        **options: As in `torch.nn.Conv2d`, but `stride` is 1, `padding_mode` is `"zeros"`, and
            `groups` is 1 where `colours > 1`.
    """

    mask: Bool[Tensor, "..."]

    def __init__(
        self,
        kind: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        past: Past = "above",
        colours: int = 1,
        padding: str | int | tuple[int, int] = "same",
        **options: Any,
    ) -> None:
        kept = mask(kind, kernel_size, past, colours)
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, **options)
        same = tuple(d * (k // 2) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        if in_channels % colours:
            raise ValueError(f"in_channels must be divisible by colours, got {in_channels}")
        if out_channels % colours:
            raise ValueError(f"out_channels must be divisible by colours, got {out_channels}")
        if self.padding not in ("same", same):
            raise ValueError(f"padding must be 'same' or {same}, got {padding!r}")
        if self.stride != (1, 1):
            raise ValueError(f"stride must be 1, got {self.stride}")
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {self.padding_mode!r}")
        if colours > 1:
            if self.groups > 1:
                raise ValueError(f"groups must be 1 where colours > 1, got {self.groups}")
            kept = kept.repeat_interleave(out_channels // colours, 0)
            kept = kept.repeat_interleave(in_channels // colours, 1)
        self.register_buffer("mask", kept.to(self.weight.device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        r"""Returns the convolution; input and output have one height and width."""
        weight = self.weight.where(self.mask, 0)
        return F.conv2d(input, weight, self.bias, 1, self.padding, self.dilation, self.groups)


def total_probability(
    network: Callable[[Tensor], Tensor],
    size: tuple[int, int] = (3, 3),
    colours: int = 1,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, ""]:
    r"""Returns $\sum_x \prod_i p(x_i \mid x)$ over all binary images $x$.

    Claim: x-masks-normalisation
        Let a network give each pixel $i$ of a binary image a distribution
        $p(x_i \mid x_{P(i)})$. If no chain of dependences leads from a pixel back to itself, then
        $$\sum_{x} \prod_i p(x_i \mid x_{P(i)}) = 1.$$
        If the pixels form a ring, each one depending on the one before it, and pixel $i$ is 1
        with probability $\alpha_i$ after a 0 and $\beta_i$ after a 1, the sum is
        $1 + \prod_i (\beta_i - \alpha_i)$. Over the $2^9$ images of size $3 \times 3$ the stacks
        AA, AB and BA give 1 whatever their weights, while BB with all weights 1, no bias and a
        hyperbolic tangent between its layers gives 1.492728.

    Arguments:
        network: From images (N, colours, height, width) of zeros and ones to logits of a one.
        size: The height and the width; all $2^{\text{colours} \times \text{height} \times
            \text{width}}$ images are passed as one batch.
        colours: The number of channels of the images.
        dtype: Of the images, as in `torch.zeros`.
        device: Of the images, as in `torch.zeros`.
    """
    bit = torch.tensor([0.0, 1.0], dtype=dtype, device=device)
    images = torch.cartesian_prod(*[bit] * (colours * size[0] * size[1])).view(-1, colours, *size)
    with torch.no_grad():
        logits = network(images)
    if logits.shape != images.shape:
        raise ValueError(f"network must keep the shape {images.shape}, got {logits.shape}")
    return F.logsigmoid((2 * images - 1) * logits).flatten(1).sum(1).exp().sum()
