"""The trainer's weights as FP8 rollout engines and FP8 checkpoints want them: quantised at the source.

A wrapper around a source of whole tensors. Each weight that DeepSeek quantises comes as its FP8 codes and,
right after it, its scales (`r1mega.weights.fp8`); the rest comes as it is. What is quantised is the whole
tensor, before any receiver splits it, so a block's scale is the same for every layout on either side.

Speaks vLLM's `WeightSource` protocol, as the source it wraps does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from r1mega.weights import fp8, fp8_names
from r1mega.weights.source import TensorMeta


class Source(Protocol):
    """A stream of whole tensors under HF names, in groups that are gathered together."""

    def metadata(self) -> list[TensorMeta]:
        """Every tensor, in the order of iteration."""

    def iter_groups(self) -> Iterator[tuple[list[str], list[Tensor]]]:
        """Names and tensors, a group at a time."""


class QuantisedSource:
    """The same weights, DeepSeek's projections as codes and scales."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def metadata(self) -> list[TensorMeta]:
        """Every tensor, scales among them, in the order of iteration; transfers nothing."""
        return [made for meta in self._source.metadata() for made in _made(meta)]

    def held_names(self) -> Collection[str] | None:
        """None: every rank yields every tensor."""
        return None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for names, tensors in self.iter_groups():
            yield from zip(names, tensors, strict=True)

    def iter_groups(self) -> Iterator[tuple[list[str], list[Tensor]]]:
        """The wrapped source's groups, each quantised when it is asked for."""
        for names, tensors in self._source.iter_groups():
            pairs = [
                pair for name, tensor in zip(names, tensors, strict=True) for pair in _quantised(name, tensor)
            ]
            yield [name for name, _ in pairs], [tensor for _, tensor in pairs]


def _made(meta: TensorMeta) -> Sequence[TensorMeta]:
    if not fp8_names.is_quantised(meta.name):
        return [meta]
    scales = TensorMeta(meta.name + fp8.SCALE, torch.float32, fp8_names.scale_shape(meta.shape))
    return [TensorMeta(meta.name, fp8.DTYPE, meta.shape), scales]


def _quantised(name: str, tensor: Tensor) -> Sequence[tuple[str, Tensor]]:
    if not fp8_names.is_quantised(name):
        return [(name, tensor)]
    return list(zip((name, name + fp8.SCALE), fp8.quantise(tensor), strict=True))
