"""What the forward pass keeps for the backward pass, tensor by tensor, on paper.

A row of the tables below is a tensor that autograd keeps: of which part of the model it is, how many elements
a rank has of it, of how many bytes each, which layers keep it (torch's, or Transformer Engine's), and which
recomputations free it. The tables of torch's layers are held against a real `Policy`
(`tests/dist/test_planner_activations.py`). Those of Transformer Engine's follow from its sources; nothing of
them was measured on a GPU.

Tokens are counted on one rank: `T` of its part of a row of packed samples, `S` between layers, where
sequence parallelism splits them, `D` copies that it sends to experts, `R` copies that its experts receive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any

from r1mega.config import FULL_RECOMPUTE, Dtype
from r1mega.model.family import family_of
from r1mega.model.scalar import is_scalar
from r1mega.parallel.plan import Plan
from r1mega.planner.training import BYTES, FP32
from r1mega.planner.weights import Layer, layers_by_chunk

INT64, BOOL = 8, 1


class Layers(StrEnum):
    """Whose layers compute."""

    torch = "torch"
    te = "te"
    """Transformer Engine's, in bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSize:
    """What a rank's activations depend on of a row of packed samples."""

    tokens: int
    """Of the whole row, padding included."""
    samples: int
    """Torch's attention lays them out in rows of the longest; padding at a row's end is one more sample."""
    longest: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor that is kept."""

    cause: str
    what: str
    elements: int
    element_bytes: int
    freed_by: tuple[str, ...] = ()
    """Modules of `train.recompute`, any of which frees it."""
    by: Layers | None = None
    """Whose layers keep it; None: both."""
    kept_for: str | None = None
    """The module without whose recomputation it is not kept."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.elements * self.element_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The symbols of the tables, each as one rank has it."""

    # Tokens.
    T: int
    S: int
    D: int
    R: int
    K: int
    """Tokens of keys and values: of the whole row, which context parallelism gathers."""
    queries: int
    """Places of queries in torch's rows of the longest sample, padding included."""
    keys: int
    scores: int
    """Pairs of these two, of all samples."""
    # The model.
    H: int
    heads: int
    groups: int
    """Heads of keys and values."""
    qk: int
    v: int
    rope: int
    q_rank: int
    kv_rank: int
    F: int
    experts: int
    expert_F: int
    shared_F: int
    topk: int
    V: int
    # The rest.
    w: int
    """Bytes of an element of the run's dtype."""
    tp: int
    cp: int
    softmax_router: bool
    """Not DeepSeek's by sigmoid."""
    softmax_of_chosen: bool
    """Of the few that were chosen alone."""
    drafts: int
    scalar: bool


def sizes(hf: dict[str, Any], plan: Plan, row: RowSize, dtype: Dtype, routed: int | None = None) -> Sizes:
    """The symbols of a model in a layout.

    Args:
        routed: copies of tokens that a rank's experts receive; None: their equal share.
    """
    shape, fields = family_of(hf).shape(hf), family_of(hf).read(hf)
    latent, topk = "kv_lora_rank" in fields, fields.get("num_experts_per_tok", 0)
    tokens = row.tokens // plan.cp
    between = tokens // plan.tp
    queries = row.samples * (row.longest // plan.cp)
    groups = shape.key_value_heads or shape.attention_heads
    return Sizes(
        T=tokens,
        S=between,
        D=between * topk,
        R=between * topk * plan.etp if routed is None else routed,
        K=row.tokens,
        queries=queries,
        keys=row.samples * row.longest,
        scores=queries * row.longest,
        H=fields["hidden_size"],
        heads=shape.attention_heads // plan.tp,
        groups=groups // plan.tp,
        qk=shape.head_size,
        v=fields["v_head_dim"] if latent else shape.head_size,
        rope=fields["qk_rope_head_dim"] if latent else shape.head_size,
        q_rank=fields.get("q_lora_rank") or 0,
        kv_rank=fields.get("kv_lora_rank", 0),
        F=fields["intermediate_size"] // plan.tp,
        experts=shape.experts,
        expert_F=shape.expert_size // plan.etp,
        shared_F=fields.get("n_shared_experts", 0) * shape.expert_size // plan.tp,
        topk=topk,
        V=shape.vocabulary // plan.tp,
        w=BYTES[dtype],
        tp=plan.tp,
        cp=plan.cp,
        softmax_router=not latent,
        softmax_of_chosen=not latent and fields.get("norm_topk_prob", False),
        drafts=shape.draft_layers,
        scalar=is_scalar(hf),
    )


def norm(z: Sizes, what: str, tokens: int, size: int) -> list[Kept]:
    """An RMS norm; what it gives is a row of whoever takes it."""
    return [
        Kept("norms", f"{what}, before its norm", tokens * size, z.w),
        Kept("norms", f"{what}, 1 / its size", tokens, FP32),
        Kept("norms", f"{what}, normalised", tokens * size, z.w, (), Layers.torch),
    ]


def normed(cause: str, what: str, elements: int, element_bytes: int, module: tuple[str, ...]) -> list[Kept]:
    """A norm's output that a module takes. Transformer Engine's linears norm it themselves, in the module."""
    return [
        Kept(cause, what, elements, element_bytes, (), Layers.torch),
        Kept(cause, what, elements, element_bytes, module, Layers.te),
    ]


def latent_attention(z: Sizes) -> list[Kept]:
    """Multi-latent attention."""
    cause, up = "attention", ("mla_up_proj",)
    combined = z.kv_rank + z.rope
    rows = [
        *norm(z, "the layer's input", z.S, z.H),
        Kept(cause, "input of the down-projections", z.S * z.H, z.w, ("layernorm",)),
        Kept("norms", "latent of keys and values, and rotary keys", z.S * combined, z.w),
        Kept("norms", "that latent, 1 / its size", z.S, FP32),
        Kept("norms", "that latent, normalised", z.S * z.kv_rank, z.w, (), Layers.torch),
        *normed(cause, "input of the up-projection of keys and values", z.S * z.kv_rank, z.w, up),
        Kept(cause, "rotary angles of queries and of keys", 4 * z.T * z.rope, z.w, up),
    ]
    if z.tp > 1:
        rows.append(Kept(cause, "rotary keys, gathered", z.T * z.rope, z.w, kept_for="mla_up_proj"))
    if z.q_rank:
        rows += norm(z, "latent of queries", z.S, z.q_rank)
        rows += normed(cause, "input of the up-projection of queries", z.S * z.q_rank, z.w, up)
    values = z.T * z.heads * z.v
    rows.append(Kept(cause, "values", values, z.w, up, Layers.torch, kept_for="core_attn"))
    return rows + core_attention(z, z.heads, up)


def grouped_attention(z: Sizes, *, head_norms: bool) -> list[Kept]:
    """Grouped-query attention; queries, keys and values come out of one linear, mixed."""
    cause, both = "attention", z.T * (z.heads + z.groups)
    mixed = z.T * (z.heads + 2 * z.groups) * z.qk
    rows = [
        *norm(z, "the layer's input", z.S, z.H),
        Kept(cause, "input of queries, keys and values", z.S * z.H, z.w),
        Kept(cause, "rotary angles of queries and of keys", 4 * z.T * z.rope, z.w),
    ]
    if not head_norms:
        # Values are a view of it.
        rows.append(Kept(cause, "the mix", mixed, z.w, (), Layers.torch, kept_for="core_attn"))
    else:
        parted = z.groups > 1 and z.heads > z.groups
        rows += [
            Kept("norms", "the mix, before the norms of queries and keys", mixed, z.w),
            Kept("norms", "queries, parted from it", z.T * z.heads * z.qk * parted, z.w),
            Kept("norms", "queries and keys, 1 / their sizes", both, FP32),
            Kept("norms", "queries and keys, normalised", both * z.qk, z.w, (), Layers.torch),
        ]
    return rows + core_attention(z, z.groups, ())


def core_attention(z: Sizes, groups: int, up: tuple[str, ...]) -> list[Kept]:
    """From queries, keys and values to the output layer's input.

    Args:
        groups: heads of keys and values.
        up: the module that gives all three, where it can be computed again.
    """
    cause, core, torch, te = "attention", ("core_attn",), Layers.torch, Layers.te
    wide = max(z.qk, z.v)
    gathered = z.cp > 1
    rows = [
        Kept(cause, "queries", z.T * z.heads * z.qk, z.w, up),
        Kept(cause, "keys", z.T * groups * z.qk, z.w, up, te if gathered else None),
        Kept(cause, "values", z.T * groups * z.v, z.w, up, te),
        Kept(cause, "softmax statistics", z.T * z.heads, FP32, core, te),
        Kept(cause, "values, as wide as keys", z.K * groups * wide, z.w, core, torch),
        Kept(cause, "places of tokens in rows of samples", z.T, INT64, core, torch),
        Kept(cause, "queries in rows of samples", z.queries * z.heads * z.qk, z.w, core, torch),
        Kept(cause, "keys in rows of samples", z.keys * z.heads * z.qk, z.w, core, torch),
        Kept(cause, "values in rows of samples", z.keys * z.heads * wide, z.w, core, torch),
        Kept(cause, "the output layer's input", z.T * z.heads * z.v, z.w, (), te),
        # Of a single head it is a view of what is as wide as keys.
        Kept(
            cause, "the output layer's input", z.T * z.heads * (wide if z.heads == 1 else z.v), z.w, (), torch
        ),
    ]
    if gathered:
        rows += [
            Kept(cause, "keys", z.T * groups * z.qk, z.w, up, torch, kept_for="core_attn"),
            Kept(cause, "keys and values, gathered", z.K * groups * (z.qk + z.v), z.w, core, torch),
            Kept(cause, "places of keys, and their order", 2 * z.K, INT64, core, torch),
            Kept(cause, "mask", z.scores, z.w, core, torch),
        ]
    if z.v > z.qk:  # no fused kernel takes it
        rows.append(Kept(cause, "probabilities", z.scores * z.heads, z.w, core, torch))
    else:
        rows += [
            Kept(cause, "output in rows of samples", z.queries * z.heads * z.qk, z.w, core, torch),
            Kept(cause, "softmax statistics", z.queries * z.heads, FP32, core, torch),
        ]
    return rows


def swiglu(cause: str, tokens: int, width: int, element_bytes: int, freed_by: tuple[str, ...]) -> list[Kept]:
    """A gated feed-forward block after its first linear's input."""
    return [
        Kept(cause, "gate and up", tokens * 2 * width, element_bytes, freed_by),
        Kept(cause, "activated gate", tokens * width, element_bytes, freed_by),
        Kept(cause, "up, plus Megatron's offset of 0", tokens * width, element_bytes, freed_by),
        Kept(cause, "input of the second linear", tokens * width, element_bytes, freed_by),
    ]


def dense(z: Sizes) -> list[Kept]:
    """The second norm and the feed-forward block of a dense layer."""
    return [
        *norm(z, "the block's input", z.S, z.H),
        *normed("feed-forward", "input of the first linear", z.S * z.H, z.w, ("mlp",)),
        *swiglu("feed-forward", z.T, z.F, z.w, ("mlp",)),
    ]


def sparse(z: Sizes) -> list[Kept]:
    """The second norm, the router, the experts and those that all tokens share."""
    moe, act, cause = ("moe",), ("moe", "moe_act"), "experts"
    gate, *activated = swiglu(cause, z.R, z.expert_F, z.w, moe)
    return [
        *norm(z, "the block's input", z.S, z.H),
        Kept("router", "input", z.S * z.H, z.w, ("layernorm",)),
        *router(z),
        Kept("router", "tokens of experts: which", z.S * z.experts, BOOL, moe),
        Kept("router", "tokens of experts: weights", z.S * z.experts, FP32, moe),
        Kept("router", "tokens of experts: places", z.D, INT64, moe),
        Kept(cause, "input of the first linear", z.R * z.H, z.w, moe),
        gate,
        *(Kept(one.cause, one.what, one.elements, one.element_bytes, act) for one in activated),
        Kept(cause, "weights", z.R, FP32, moe),
        Kept(cause, "output of the activation, before its weight", z.R * z.expert_F, z.w, act),
        *swiglu("shared experts", z.T, z.shared_F, z.w, ("moe", "shared_experts")),
    ]


def router(z: Sizes) -> list[Kept]:
    """From scores to the weights of the chosen experts; what chooses them has no gradient and is not kept."""
    cause, moe, several = "router", ("moe",), z.topk > 1
    scores = z.topk if z.softmax_of_chosen else z.experts
    rows = [
        Kept(cause, "scores", z.S * scores, FP32, moe),
        Kept(cause, "chosen experts", z.S * z.topk, INT64, moe),
    ]
    if several and not z.softmax_router:
        rows.append(Kept(cause, "weights and their sum", z.S * (z.topk + 1), FP32, moe))
    return rows


def embedding(z: Sizes) -> list[Kept]:
    """The words of the vocabulary's part; without tensor parallelism they are the row's own."""
    words = [Kept("embedding", "words", z.T, INT64), Kept("embedding", "those of other ranks", z.T, BOOL)]
    return words if z.tp > 1 else []


def draft(z: Sizes, layer: Sequence[Kept], *, full: bool) -> list[Kept]:
    """A multi-token-prediction layer around a layer of the model's kind; its own norm at its end with it.

    Args:
        full: it is computed again from what goes into it.
    """
    cause = "draft layers"
    words = embedding(z) or [Kept(cause, "words", z.T, INT64)]
    if full:
        return [*words, Kept("layers' inputs", "next token's embedding", z.S * z.H, z.w)]
    inner = [
        *norm(z, "next token's embedding", z.S, z.H),
        *norm(z, "hidden state", z.S, z.H)[1:],  # kept as the output of the norm before
        Kept(cause, "both, side by side", z.S * 2 * z.H, z.w),
        # Its layer's input is a view of all tensor-parallel ranks' tokens.
        Kept(cause, "other ranks' tokens", (z.T - z.S) * z.H, z.w),
        *layer,
        *norm(z, "last hidden state", z.S, z.H),
    ]
    return [*words, *inner]


def head(z: Sizes) -> list[Kept]:
    """The last norm, the output layer and the loss, those of draft layers too."""
    cause, outputs = "head and loss", 1 + z.drafts
    rows = norm(z, "the last layer's output", z.S, z.H)
    rows.append(Kept(cause, "input of the output layer", z.S * z.H, z.w))
    if z.scalar:
        return [*rows, Kept(cause, "that in fp32", z.S * z.H * (z.w != FP32), FP32)]
    if z.drafts:
        # All inputs of the output layer, in one piece; the one above went into the first draft layer.
        rows += [
            Kept(cause, "inputs of the output layer", z.S * z.H * outputs, z.w),
            Kept(cause, "draft layers' losses and their weights", 2 * z.T * z.drafts, FP32),
        ]
    return [
        *rows,
        Kept(cause, "probabilities", outputs * z.T * z.V, FP32),
        Kept(cause, "labels, and which are other ranks'", outputs * z.T, INT64 + BOOL),
    ]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a (virtual) pipeline stage keeps of one micro-batch."""

    kept: Sequence[Kept]
    again: int = 0
    """Bytes that computing one layer again makes, beside what is kept: the most of any layer."""
    widest: int = 0
    """Bytes that a forward pass alone has at a time: a block's, with all that it makes, the most of any."""

    @property
    def causes(self) -> Counter[str]:
        """Bytes by cause."""
        found: Counter[str] = Counter()
        for one in self.kept:
            found[one.cause] += one.bytes
        return found

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return _bytes(self.kept)


def chunks(
    hf: dict[str, Any],
    plan: Plan,
    z: Sizes,
    layers: Layers,
    recompute: Sequence[str],
) -> list[list[Chunk]]:
    """By pipeline rank, what each of its virtual stages keeps of a micro-batch."""
    parts = layers_by_chunk(hf, plan)
    last = parts[-1][-1]
    return [[_chunk(part, part is last, z, layers, recompute) for part in of_rank] for of_rank in parts]


def _chunk(part: Sequence[Layer], last: bool, z: Sizes, layers: Layers, recompute: Sequence[str]) -> Chunk:
    made = {layer: _of_layer(layer, z, layers, recompute) for layer in {*part}}
    kept = list(chain.from_iterable(made[layer].kept for layer in part))
    widest = max(one.widest for one in made.values())
    if last:
        end = _left(head(z), layers, ())
        kept += end
        widest = max(widest, _bytes(end) // (1 + z.drafts) + logits_bytes(z))
    else:
        kept.append(Kept("handed on", "the next stage's input", z.S * z.H, z.w))
    return Chunk(kept, max(one.again for one in made.values()), widest)


def logits_bytes(z: Sizes) -> int:
    """The logits in the run's dtype, before the loss takes them in fp32; in fp32 it takes themselves."""
    return 0 if z.scalar or z.w == FP32 else z.T * z.V * z.w


def _of_layer(layer: Layer, z: Sizes, layers: Layers, recompute: Sequence[str]) -> Chunk:
    """What a layer, or the embedding, keeps."""
    names = [row.megatron for row in layer.rows]
    if not any("{" in name for name in names):
        first = names[0].startswith("embedding.") and not layer.copy
        return Chunk(embedding(z) if first else [])
    attention, block = (_left(rows, layers, ()) for rows in _blocks(z, names))
    full, drafts = list(recompute) == [FULL_RECOMPUTE], any("{m}" in name for name in names)
    rows = list(chain(*_blocks(z, names)))
    plain = _left(draft(z, rows, full=False) if drafts else rows, layers, ())
    if full:
        kept = draft(z, [], full=True) if drafts else [Kept("layers' inputs", "input", z.S * z.H, z.w)]
    else:
        kept = _left(draft(z, rows, full=False) if drafts else rows, layers, recompute)
    again = max(0, _bytes(plain) - _bytes(kept)) if recompute else 0
    return Chunk(kept, again, max(_bytes(attention), _bytes(block)))


def _blocks(z: Sizes, names: Sequence[str]) -> tuple[list[Kept], list[Kept]]:
    """A layer's rows, of attention and of what follows, by how its weights are named."""

    def has(part: str) -> bool:
        return any(part in name for name in names)

    if has("linear_kv_up_proj."):
        attention = latent_attention(z)
    else:
        attention = grouped_attention(z, head_norms=has("self_attention.q_layernorm."))
    return attention, sparse(z) if has("mlp.router.") else dense(z)


def _bytes(rows: Iterable[Kept]) -> int:
    return sum(row.bytes for row in rows)


def _left(rows: Iterable[Kept], layers: Layers, recompute: Sequence[str]) -> list[Kept]:
    """The rows that these layers keep under this recomputation."""
    return [
        row
        for row in rows
        if row.by in (None, layers)
        and not {*row.freed_by} & {*recompute}
        and (row.kept_for is None or row.kept_for in recompute)
    ]


def in_flight(plan: Plan, stage: int, microbatches: int, sizes: Sequence[float]) -> list[int]:
    """How many micro-batches of each virtual stage a pipeline rank keeps when it keeps most.

    As Megatron-Core's 1F1B schedule has them, plain or interleaved: some forward passes, then one forward and
    one backward in turn. Interleaved, virtual stages take `pp` micro-batches in turn.

    Args:
        stage: the pipeline rank.
        sizes: bytes of one micro-batch, by virtual stage.
    """
    # After the warm-up all goes round and round: what comes later than this keeps no more.
    microbatches = min(microbatches, 4 * plan.pp)
    forward = [
        chunk
        for first in range(0, microbatches, plan.pp)
        for chunk in range(plan.vpp)
        for _ in range(first, min(first + plan.pp, microbatches))
    ]
    warmup = plan.pp - stage - 1
    if plan.vpp > 1:
        warmup = 2 * warmup + (plan.vpp - 1) * plan.pp
    held, most, found = Counter[int](), -1.0, Counter[int]()
    for step, chunk in enumerate(forward):
        held[chunk] += 1
        size = sum(count * sizes[number] for number, count in held.items())
        if size > most:
            most, found = size, Counter(held)
        if step >= warmup:
            held[plan.vpp - 1 - forward[step - warmup]] -= 1
    return [found[number] for number in range(plan.vpp)]


ROTARY_TABLES = 32
"""Megatron-Core 0.16 keeps so many tables of rotary angles, each of another row's longest sample."""


class Activations:
    """A run's activations on paper, of a row as full, and of samples as long, as they may be."""

    def __init__(
        self,
        hf: dict[str, Any],
        plan: Plan,
        row: RowSize,
        dtype: Dtype,
        layers: Layers,
        recompute: Sequence[str],
        microbatches: int,
    ) -> None:
        """Count what each pipeline rank keeps.

        Args:
            microbatches: of an update, on a data-parallel rank.
        """
        self.plan, self.microbatches = plan, microbatches
        self.sizes = sizes(hf, plan, row, dtype)
        self.chunks = chunks(hf, plan, self.sizes, layers, recompute)
        self.rotary = ROTARY_TABLES * row.longest * self.sizes.rope * FP32

    def update(self, stage: int) -> Counter[str]:
        """Bytes by cause on a pipeline rank when it keeps most, while it computes one layer of it again."""
        here = self.chunks[stage]
        counts = in_flight(self.plan, stage, self.microbatches, [chunk.bytes for chunk in here])
        found = Counter({"a layer, computed again": max(chunk.again for chunk in here)})
        for chunk, count in zip(here, counts, strict=True):
            for cause, size in chunk.causes.items():
                found[cause] += size * count
        return found + self._besides(stage)

    def scoring(self, stage: int) -> Counter[str]:
        """The same of a forward pass alone: the block that makes most, with all that it makes."""
        widest = max(chunk.widest for chunk in self.chunks[stage])
        return Counter({"one block's": widest}) + self._besides(stage, logits=False)

    def _besides(self, stage: int, *, logits: bool = True) -> Counter[str]:
        z = self.sizes
        ends = logits and stage == self.plan.pp - 1
        return Counter(
            {
                "rotary angles, cached": self.rotary,
                "gathered over tensor-parallel ranks": z.T * z.H * z.w if z.tp > 1 else 0,
                "logits, before the loss": logits_bytes(z) if ends else 0,
            }
        )
