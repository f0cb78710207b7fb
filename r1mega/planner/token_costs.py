"""What one token costs in a model: multiplications, weights to be read, bytes that are kept and sent.

Counted once for a model, from its family's weight table; all that times are made of (`times.py`) follows
from these numbers, a layout and a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from r1mega.model.family import family_of
from r1mega.planner.weights import weight_table, whole_rows
from r1mega.weights.table import Row, Served


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """The numbers of a model. A weight of a matrix is multiplied with once a token: two operations."""

    layers: int
    hidden: int
    dense: int
    """Weights of all layers' matrices that every token is multiplied with; shared experts are among them."""
    expert: int
    """Weights of one routed expert of one layer; 0 in a dense model."""
    experts: int
    experts_per_token: int
    expert_layers: int
    """Layers that have routed experts."""
    most_machines: int
    """That a token may be sent to: where its experts must be of so many groups; else one for each expert."""
    feed_forward: int
    """Width of what a token passes between the two matrices of its feed-forward blocks, in a layer."""
    head: int
    """Weights of the vocabulary's matrix."""
    draft: int
    """Weights of the draft layers that a token is multiplied with; their use of the head is included."""
    parameters: int
    """Of the model, each once, without the draft layers."""
    tensors: int
    """By HF's names, as they are handed over."""
    scored: int
    """Operations a layer per query and key, when a text is given whole."""
    scored_decoding: int
    """The same when tokens come one by one and latent attention multiplies with the latent itself."""
    cache_bytes: int
    """Of one token in bf16, all layers."""
    cache_parts: int
    """Into how many parts tensor parallelism can split it; 1 for the latent, which each worker keeps."""

    @property
    def active(self) -> int:
        """Weights that a token is multiplied with, without the head."""
        return self.dense + self.expert * self.experts_per_token * self.expert_layers

    def touched(self, tokens: float) -> float:
        """Of a layer's experts, how many at least one of so many tokens is sent to, if all are as likely."""
        return self.experts * (1 - (1 - self.experts_per_token / self.experts) ** tokens)


def token_costs(hf: dict[str, Any]) -> TokenCosts:
    """The numbers of the model with these HF fields."""
    family = family_of(hf)
    fields = family.read(hf)
    rows = [row for row in weight_table(hf) if not row.fused]
    layer_rows = [row for row in rows if row.layers is not None and row.served is not Served.draft]
    [vocabulary] = [row for row in rows if row.megatron.startswith("embedding.")]
    head = _weights(vocabulary)
    routed = [row for row in layer_rows if row.experts]
    drafts = [row for row in rows if row.served is Served.draft]
    chosen = fields.get("num_experts_per_tok", 0)
    attention = _latent(fields) if "kv_lora_rank" in fields else _grouped(fields)
    moe_layers = len(routed[0].layers or ()) if routed else 0
    whole = [(row, copies) for row, copies in whole_rows(hf) if row.served is not Served.draft]
    return TokenCosts(
        layers=fields["num_hidden_layers"],
        hidden=fields["hidden_size"],
        dense=sum(_weights(row) * len(row.layers or ()) for row in layer_rows if not row.experts),
        expert=sum(_weights(row) for row in routed),
        experts=routed[0].experts if routed else 1,
        experts_per_token=chosen if routed else 0,
        expert_layers=moe_layers,
        most_machines=fields["topk_group"] if fields.get("n_group", 1) > 1 else chosen,
        feed_forward=_feed_forward(fields, moe_layers > 0),
        head=head,
        draft=sum(_weights(row) * (chosen if row.experts else 1) for row in drafts)
        + head * fields.get("num_nextn_predict_layers", 0),
        parameters=sum(_weights(row, vectors=True) * copies for row, copies in whole),
        tensors=sum(len(row.hf) * copies for row, copies in whole),
        **attention,
    )


def _weights(row: Row, *, vectors: bool = False) -> int:
    """Of one layer and one expert; norms and biases, which multiply nothing, only on request."""
    return sum(prod(shape) for shape in row.shapes if vectors or len(shape) > 1)


def _feed_forward(fields: dict[str, Any], routed: bool) -> int:
    if not routed:
        return int(fields["intermediate_size"])
    shared = fields.get("n_shared_experts") or 0
    return int(fields["moe_intermediate_size"] * (fields["num_experts_per_tok"] + shared))


def _latent(fields: dict[str, Any]) -> dict[str, int]:
    heads, rope, rank = fields["num_attention_heads"], fields["qk_rope_head_dim"], fields["kv_lora_rank"]
    query = fields["qk_nope_head_dim"] + rope
    return {
        "scored": 2 * heads * (query + fields["v_head_dim"]),
        "scored_decoding": 2 * heads * (2 * rank + rope),
        "cache_bytes": 2 * fields["num_hidden_layers"] * (rank + rope),
        "cache_parts": 1,
    }


def _grouped(fields: dict[str, Any]) -> dict[str, int]:
    heads, groups, size = (
        fields["num_attention_heads"],
        fields["num_key_value_heads"],
        fields["head_dim"],
    )
    return {
        "scored": 4 * heads * size,
        "scored_decoding": 4 * heads * size,
        "cache_bytes": 2 * fields["num_hidden_layers"] * 2 * groups * size,
        "cache_parts": groups,
    }
