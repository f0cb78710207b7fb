"""Recorded samples through a policy: all that a layout could change, by names that no layout knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from support.models import new_policy, samples_of


def replay(plan: Any, recording: dict[str, Any], *, moved_bias: float = 0.0) -> dict[str, Any]:
    """Score the samples, and take one update on them.

    Args:
        moved_bias: added to one expert's bias in every layer, to send tokens elsewhere.
    """
    from r1mega.config import OptimizerConfig
    from r1mega.weights.memory import checksum

    policy = new_policy(recording["fields"], plan)
    policy.load(recording["folder"])
    for piece in policy.pieces:
        if piece.place.name.endswith("e_score_correction_bias"):
            piece.tensor[0] += moved_bias
    samples = samples_of(recording["texts"])
    backwards = [array(x) for x in policy.score(samples[::-1], 1.0)]
    with watch_routers(policy) as calls:
        scores = [array(x) for x in policy.score(samples, 1.0)]
    routed = routed_tokens(policy, samples, calls)
    before = whole(policy)
    policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
    draft_weight = 0.3 if recording["fields"].get("num_nextn_predict_layers") else 0.0
    loss = partial(policy_loss, clip_eps=0.2, kl_coefficient=0.05)
    with policy.using(policy.snapshot()):  # whose router bias each backward moves
        losses = policy.backward(samples, recording["values"], loss, draft_weight)
        gradients = whole_gradients(policy)
    stepped = policy.update(samples, recording["values"], loss, draft_weight)
    assert all(stepped[name] == value for name, value in losses.items())
    return {
        "scores": scores,
        "scores_backwards": backwards,
        "metrics": stepped,
        "gradients": gradients,
        "weights_before": before,
        "weights": whole(policy),
        "checksums": {str(piece.place): checksum(piece.tensor) for piece in policy.pieces},
        "routed": routed,
    }


def policy_loss(logps_T: Any, values_T: Mapping[str, Any], **settings: float) -> tuple[Any, dict[str, Any]]:
    """GRPO's loss, itself among the figures."""
    from r1mega.grpo.loss import grpo_loss

    names = ("old_logps", "ref_logps", "advantages", "weights")
    loss, figures = grpo_loss(logps_T, *(values_T[name] for name in names), **settings)
    return loss, figures | {"loss": loss.detach()}


def array(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy().copy()


def whole(policy: Any) -> dict[str, np.ndarray]:
    """Every weight of the model, by HF name, on every rank."""
    return {name: array(tensor) for name, tensor in policy.source}


def whole_gradients(policy: Any) -> dict[str, np.ndarray]:
    """Every gradient of the last `backward`, by HF name, on every rank.

    Megatron's distributed optimizer reduce-scatters: after `backward`, each rank has the sum over the
    data-parallel ranks in its own part of each bucket, and only its own terms in the rest. The parts are
    gathered first, over the ranks that share the bucket, which makes each `main_grad` (a view of the
    buckets) what it would be under an all-reduce. Then the gradients take the parameters' places, and the
    weights' own way to HF names, which `test_roundtrip` shows to keep every bit, carries them.
    """
    import torch
    import torch.distributed as dist

    for chunk in policy.chunks:
        for group in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups):
            ranks = group.intra_distributed_optimizer_instance_group
            for bucket in group.buckets:
                own = bucket.grad_data.chunk(dist.get_world_size(ranks))[dist.get_rank(ranks)].clone()
                dist.all_gather_into_tensor(bucket.grad_data, own, group=ranks)
    weights = policy.snapshot()
    with torch.no_grad():
        for chunk in policy.chunks:
            for parameter in chunk.parameters():
                parameter.copy_(parameter.main_grad)
        gradients = whole(policy)
        for piece, weight in zip(policy.pieces, weights, strict=True):
            piece.tensor.copy_(weight)
    # The router's bias is moved by rule; it has no gradient.
    return {name: x for name, x in gradients.items() if not name.endswith("e_score_correction_bias")}


@contextmanager
def watch_routers(policy: Any) -> Iterator[dict[int, list[tuple[Any, Any]]]]:
    """By layer (from 1), the router's logits and choices at each of its calls, here."""
    from megatron.core.transformer.moe.router import TopKRouter

    layer_of = {
        layer.mlp.router: layer.layer_number
        for chunk in policy.chunks
        for layer in chunk.module.decoder.layers
        if hasattr(layer.mlp, "router")
    }
    calls: dict[int, list[tuple[Any, Any]]] = {number: [] for number in layer_of.values()}
    routing = TopKRouter.routing

    def watched(self: Any, logits: Any, *arguments: Any, **named: Any) -> Any:
        probabilities, chosen = routing(self, logits, *arguments, **named)
        if self in layer_of:  # and not one of the draft layers
            gap = closest_call(self, logits.detach().flatten(0, -2))
            calls[layer_of[self]].append((chosen.clone(), gap))
        return probabilities, chosen

    TopKRouter.routing = watched
    try:
        yield calls
    finally:
        TopKRouter.routing = routing


def closest_call(router: Any, logits_TE: Any) -> Any:
    """How little decided each token's experts: the gap between the last score in and the first one out.

    With groups, the choice of groups (by their two best experts) is a call of its own.
    """
    import torch

    config = router.config
    scores_TE = logits_TE.float()
    scores_TE = (
        scores_TE.sigmoid() if config.moe_router_score_function == "sigmoid" else scores_TE.softmax(-1)
    )
    if router.expert_bias is not None:
        scores_TE = scores_TE + router.expert_bias
    gap_T = torch.full((len(scores_TE),), float("inf"))
    if config.moe_router_num_groups:
        groups_TGE = scores_TE.unflatten(1, (config.moe_router_num_groups, -1))
        rating_TG = groups_TGE.topk(2, dim=-1).values.sum(-1)
        gap_T = torch.minimum(gap_T, last_in_first_out(rating_TG, config.moe_router_group_topk))
        kept_TG = torch.zeros_like(rating_TG, dtype=torch.bool)
        kept_TG.scatter_(1, rating_TG.topk(config.moe_router_group_topk, dim=-1).indices, True)
        scores_TE = groups_TGE.masked_fill(~kept_TG[..., None], -1e9).flatten(1)
    return torch.minimum(gap_T, last_in_first_out(scores_TE, config.moe_router_topk))


def last_in_first_out(scores: Any, k: int) -> Any:
    if k == scores.shape[-1]:
        return scores.new_full((len(scores),), float("inf"))
    best = scores.topk(k + 1, dim=-1).values
    return best[:, k - 1] - best[:, k]


def routed_tokens(policy: Any, samples: list[Any], calls: dict[int, list[Any]]) -> dict[int, dict[str, Any]]:
    """By layer, this rank's tokens (numbered over all samples) with their experts and closest calls."""
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    firsts = np.cumsum([0, *(len(sample.tokens) for sample in samples)])
    rows = [numbers_of_tokens(row, samples, firsts) for row in policy._rows(samples, {})]
    found = {}
    for number, of_layer in calls.items():
        tokens, chosen, gaps = [], [], []
        assert len(of_layer) == len(rows)
        for row, (chosen_TE, gap_T) in zip(rows, of_layer, strict=True):
            # Sequence parallelism gives each tensor-parallel rank its stretch of the row.
            stretch = row[rank * len(chosen_TE) :][: len(chosen_TE)]
            assert len(row) == policy.plan.tp * len(chosen_TE)
            tokens.append(stretch[stretch >= 0])
            chosen.append(array(chosen_TE)[stretch >= 0])
            gaps.append(array(gap_T)[stretch >= 0])
        found[number] = {
            "tokens": np.concatenate(tokens),
            "chosen": np.concatenate(chosen),
            "gap": np.concatenate(gaps),
        }
    return found


def numbers_of_tokens(row: Any, samples: list[Any], firsts: np.ndarray) -> np.ndarray:
    """The numbers, over all samples, of the tokens that this rank has of a row; -1 for its padding."""
    whole = np.full(row.whole_tokens, -1)
    for index, (start, _) in zip(row.samples, row.spans, strict=True):
        start -= samples[index].answer_start - 1
        whole[start : start + len(samples[index].tokens)] = np.arange(firsts[index], firsts[index + 1])
    return whole[array(row.places_T)]


def routing(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """All ranks' parts together: `layers` L, `chosen` [L, T, E] and `gap` [L, T]; every token once."""
    layers = sorted({number for rank in ranks for number in rank["routed"]})
    parts = [[rank["routed"][number] for rank in ranks if number in rank["routed"]] for number in layers]
    joined = {
        key: [np.concatenate([part[key] for part in of]) for of in parts]
        for key in ("tokens", "chosen", "gap")
    }
    orders = [np.argsort(tokens) for tokens in joined["tokens"]]
    for tokens, order in zip(joined["tokens"], orders, strict=True):
        assert np.array_equal(tokens[order], np.arange(len(tokens)))
    return {
        "layers": layers,
        "chosen": np.stack([x[order] for x, order in zip(joined["chosen"], orders, strict=True)]),
        "gap": np.stack([x[order] for x, order in zip(joined["gap"], orders, strict=True)]),
    }
