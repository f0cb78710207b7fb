"""DeepSeek's block-quantised weights: one FP8 code an element, one fp32 scale a block of 128 x 128.

A weight `X.weight` of shape [M, N] and dtype float8_e4m3fn stands beside `X.weight_scale_inv` of shape
[ceil(M / 128), ceil(N / 128)]. Its numbers are code * scale: the name's `inv` says that the scale is the
inverse of what the weight was multiplied by. The convention is that of DeepSeek-V3's README_WEIGHTS.md.

Guarantees: a weight's blocks are those of the whole tensor, wherever a rank's part of it begins; the codes
of a quantised weight come back from its fp32 numbers bit for bit, and its scales with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from r1mega.weights.fp8_names import BLOCK, scale_shape

DTYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(DTYPE).max
SCALE = "_scale_inv"
"""What a weight's name has after it where it is the name of its scales."""

CONFIG = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "weight_block_size": [BLOCK, BLOCK],
    "activation_scheme": "dynamic",
}
"""`quantization_config` of a config.json."""


def blocks(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Where the scales are of all blocks that a box of the weight touches."""
    return tuple(slice(a // BLOCK, -(-(a + n) // BLOCK)) for a, n in zip(start, size, strict=True))


def dequantise(codes_MN: Tensor, scales: Tensor, start: Sequence[int] = (0, 0)) -> Tensor:
    """The numbers of a box of a weight.

    Args:
        codes_MN: the box, [M, N] float8_e4m3fn.
        scales: fp32, of the blocks that the box touches; see `blocks`.
        start: where the box begins in the whole weight.

    Returns:
        [M, N] fp32.
    """
    numbers_MN = codes_MN.float()
    for dim, (first, size) in enumerate(zip(start, codes_MN.shape, strict=True)):
        block_of = torch.arange(first, first + size, device=scales.device) // BLOCK - first // BLOCK
        scales = scales.index_select(dim, block_of)
    return numbers_MN.mul_(scales)


def quantise(weight_MN: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and scales of a whole weight; a block's largest number gets the largest code.

    A block that has an infinity or a NaN comes back as NaN.

    Returns:
        Codes [M, N] float8_e4m3fn and scales [ceil(M / 128), ceil(N / 128)] fp32.
    """
    rows, columns = scale_shape(weight_MN.shape)
    padded = weight_MN.new_zeros((rows * BLOCK, columns * BLOCK), dtype=torch.float32)
    padded[: weight_MN.shape[0], : weight_MN.shape[1]] = weight_MN
    tiles = padded.view(rows, BLOCK, columns, BLOCK)
    # Below the smallest normal number a quotient loses its bits, and a block of zeros would divide by zero.
    scales = (tiles.abs().amax(dim=(1, 3)) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    # The quotient of the largest number that comes back, so that the next quantisation finds it again.
    scales = scales * LARGEST / LARGEST
    codes = (tiles / scales[:, None, :, None]).to(DTYPE)
    return codes.view(padded.shape)[: weight_MN.shape[0], : weight_MN.shape[1]].contiguous(), scales
