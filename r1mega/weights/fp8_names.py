"""Which weights DeepSeek keeps in FP8, and in what blocks; without torch, for those who only count."""

from __future__ import annotations

import re
from collections.abc import Sequence

BLOCK = 128
"""Rows and columns of a block, which has one scale."""

_PROJECTION = re.compile(r".+\.(self_attn|mlp)\.(.+\.)?\w+_proj(_with_mqa)?\.weight")


def is_quantised(name: str) -> bool:
    """Whether DeepSeek keeps a weight in FP8: the projections of attention, feed-forward and experts.

    Not the embedding, the head, the router, norms, biases, or `eh_proj` of a multi-token-prediction layer.
    """
    return _PROJECTION.fullmatch(name) is not None


def scale_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the scales of a weight of this shape; blocks at the edges may be partial."""
    return tuple(-(-size // BLOCK) for size in shape)
