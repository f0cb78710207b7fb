"""The trainer's weights as a stream of whole tensors under HF names, in one fixed order.

`MegatronSource` speaks vLLM's `WeightSource` protocol (`metadata`, iteration, `held_names`,
`iter_groups`), so vLLM's own transports take it as it is. It does not inherit from it: importing vLLM
would add seven seconds to the start of every trainer rank.

Every rank of the run builds it and iterates it in step; what a rank sends is settled once, at the
start, each place by one of the ranks that hold it, the least loaded so far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from r1mega.parallel.groups import device
from r1mega.weights.groups import GROUP_BYTES, grouped, reading_order
from r1mega.weights.pieces import Piece, Place, cover


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Name, dtype and shape of one HF tensor; vLLM's `ParamMeta` by another name."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of the whole tensor."""
        return prod(self.shape) * self.dtype.itemsize


class MegatronSource:
    """A re-iterable stream of `(HF name, whole tensor)` over all ranks' shards."""

    def __init__(self, pieces: Sequence[Piece], group_bytes: int = GROUP_BYTES) -> None:
        """Settle with all ranks who sends what.

        Args:
            pieces: this rank's; views of its parameters, read anew at each iteration.
            group_bytes: gathered at a time, or one tensor.

        Raises:
            ValueError: the ranks' pieces do not make whole tensors.
        """
        places: list[list[Place]] = [[]] * dist.get_world_size()
        dist.all_gather_object(places, [piece.place for piece in pieces])
        self.holders = cover(places)
        self.places = _assign(self.holders, dist.get_world_size())
        own = self.places[dist.get_rank()]
        self.pieces = [piece for piece in pieces if piece.place in own]
        everything = {place.name: place for sent in self.places for place in sent}
        self._metadata = [
            TensorMeta(name, getattr(torch, place.dtype), place.shape)
            for name, place in sorted(everything.items(), key=lambda item: reading_order(item[0]))
        ]
        self._group_bytes = group_bytes

    def metadata(self) -> list[TensorMeta]:
        """Every tensor of the model, in the order of iteration; transfers nothing."""
        return self._metadata

    def held_names(self) -> Collection[str] | None:
        """None: every rank yields every tensor, gathered."""
        return None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for names, tensors in self.iter_groups():
            yield from zip(names, tensors, strict=True)

    def iter_groups(self) -> Iterator[tuple[list[str], list[Tensor]]]:
        """The same stream, a group at a time: one collective a group, never more memory than one."""
        metas = {meta.name: meta for meta in self._metadata}
        for names in self.groups():
            yield names, self._gather([metas[name] for name in names])

    def groups(self) -> list[list[str]]:
        """The names that go together: each layer, what comes before, what after; larger ones in parts."""
        sized = ((meta.name, meta.bytes) for meta in self._metadata)
        return [[name for name, _ in group] for group in grouped(sized, self._group_bytes)]

    def _gather(self, metas: list[TensorMeta]) -> list[Tensor]:
        """The whole tensors, on every rank.

        Each rank lays its places into zeros and the ranks add their bytes as integers, which keeps
        every bit (a sum of floats would lose the sign of -0.0).
        """
        pieces = defaultdict(list)
        for piece in self.pieces:
            pieces[piece.place.name].append(piece)
        sizes = [meta.bytes for meta in metas]
        # Eight-byte words suit every dtype's alignment.
        words = torch.zeros(sum(-(-size // 8) for size in sizes), dtype=torch.int64, device=device())
        tensors, at = [], 0
        for meta, size in zip(metas, sizes, strict=True):
            span = words[at : at + -(-size // 8)].view(torch.uint8)[:size]
            at += -(-size // 8)
            whole = span.view(meta.dtype).view(meta.shape)
            for piece in pieces[meta.name]:
                piece.place.of(whole).copy_(piece.tensor)
            tensors.append(whole)
        dist.all_reduce(words)
        return tensors


def _assign(holders: dict[Place, list[int]], ranks: int) -> list[set[Place]]:
    """Each place to one of its holders, the largest first, each to the least loaded."""
    sent: list[set[Place]] = [set() for _ in range(ranks)]
    load = [0] * ranks
    for place, held_by in sorted(holders.items(), key=lambda item: (-item[0].bytes, str(item[0]))):
        rank = min(held_by, key=lambda r: (load[r], r))
        sent[rank].add(place)
        load[rank] += place.bytes
    return sent
