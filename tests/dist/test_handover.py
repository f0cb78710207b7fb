"""Weights reach real engines whole, from every layout, and what goes wrong on the way is named."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.handover import BY_BYTES, FAULTS, engine_config, engine_fields, message, move_weights
from support.models import new_policy, random_dense_fields, random_probe
from support.ranks import free_ports, layout, run_ranks

LIMIT = 1e-4
LAYOUTS: dict[str, dict[str, int]] = {"tp2": {"tp": 2}, "pp2": {"pp": 2}, "ep2": {"ep": 2}}
COURSES = 3
GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4}


def hand_over(
    plan: Any, config: Any, fields: dict[str, Any], engines: Any, faults: list[str]
) -> dict[str, Any]:
    """Hand over ever new weights, then each fault, then sound weights again; all that was said of it."""
    from r1mega.stages.handover import Handover

    policy = new_policy(fields, plan)
    handover = Handover(config, policy, engines, random_probe(fields["vocab_size"]))
    differences = []
    for course in range(COURSES):
        move_weights(policy, course)
        differences.append(handover.run()["handover/max_abs_dlogp"])
    said = {}
    for number, fault in enumerate(faults):
        move_weights(policy, COURSES + number)
        with FAULTS[fault](handover):
            said[fault] = message(handover.run)
        said[f"after {fault}"] = message(handover.run)
    return {
        "differences": differences,
        "said": said,
        "summary": handover.summary(),
        "workers": handover.way.workers.names,
        "paper": on_paper(plan, config, policy, handover),
    }


def on_paper(plan: Any, config: Any, policy: Any, handover: Any) -> dict[str, tuple[Any, Any]]:
    """What is held and needed, as computed for a model on paper and as it is here."""
    from r1mega.parallel.plan import RolloutPlan
    from r1mega.weights.paper import held_on_paper, needed_on_paper
    from r1mega.weights.shared_memory import served_to_engine
    from r1mega.weights.transfer import Box

    table, shape = policy.family.weight_table(policy.hf), policy.family.shape(policy.hf)
    rollout = RolloutPlan(replicas=config.rollout.replicas, tp=config.rollout.tensor_parallel, pp=1, ep=1)
    holders = served_to_engine(policy.source.holders)
    workers = range(len(handover.way.workers.paths))
    return {
        "held": (
            {box: sorted(ranks) for box, ranks in held_on_paper(table, plan, shape.layers).items()},
            {Box(p.name, p.start, p.size): sorted(ranks) for p, ranks in holders.items()},
        ),
        "needed": (
            [set(boxes) for boxes in needed_on_paper(table, rollout, shape.key_value_heads)],
            [set(handover.way.workers.boxes(worker)) for worker in workers],
        ),
        "bytes": (
            sum(handover.way.plan.sent_bytes()),
            sum(box_bytes for worker in workers for box_bytes in needed_bytes(handover, worker)),
        ),
    }


def needed_bytes(handover: Any, worker: int) -> list[int]:
    from math import prod

    return [4 * prod(box.size) for box in handover.way.workers.boxes(worker)]


def alone(port: int, folder: Path) -> dict[str, Any]:
    """One rank with one engine: every fault. And MegatronSource beside vLLM's own protocol."""
    fields, config = (
        engine_fields(random.Random(0), **GROUPS, num_nextn_predict_layers=1),
        engine_config(folder, replicas=1),
    )
    with layout(port) as plan:
        from r1mega.stages.serving import open_engines

        policy = new_policy(fields, plan)
        with open_engines(config, policy) as engines:
            conforming = beside_vllm(policy.source) | cut(policy)
            engines.wait()
            return hand_over(plan, config, fields, engines, list(FAULTS)) | {"source": conforming}


SMALL_GROUP_BYTES = 20_000
"""Less than any layer of the small models here has."""

ENGINES: dict[str, dict[str, int]] = {
    "two replicas": {"replicas": 2},
    "tensor parallel": {"replicas": 1, "tensor_parallel": 2},
}


def together(ports: list[int], folder: Path, engines_are: dict[str, int]) -> dict[str, Any]:
    """Two ranks with two workers, which outlive the layouts that the trainer takes in turn."""
    fields, config = engine_fields(random.Random(1)), engine_config(folder, **engines_are)
    found = {}
    with ExitStack() as stack:
        for port, (name, degrees) in zip(ports, LAYOUTS.items(), strict=True):
            with layout(port, **degrees) as plan:
                from r1mega.stages.serving import open_engines

                if not found:
                    engines = stack.enter_context(open_engines(config, new_policy(fields, plan)))
                    engines.wait()
                faults = ["flipped bit", "dropped", "wrong shard"] if name == "ep2" else []
                found[name] = hand_over(plan, config, fields, engines, faults)
    return found


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {"tie_word_embeddings": False, "mlp_only_layers": [0], "decoder_sparse_step": 1},
}


def every_family(ports: list[int], folder: Path) -> dict[str, Any]:
    """Two ranks, one engine of two workers, for one small model of each family but DeepSeek's."""
    found = {}
    for number, (port, (kind, fixed)) in enumerate(zip(ports, FAMILIES.items(), strict=True)):
        # What goes into experts and comes out of them by 32; keys of one head, which both workers get.
        fields = random_dense_fields(
            random.Random(number),
            kind,
            divisible_by=2,
            hidden_size=64,
            head_dim=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=2,
            **fixed,
        )
        config = engine_config(folder / kind, replicas=1, tensor_parallel=2)
        config.folder.mkdir(parents=True, exist_ok=True)
        with layout(
            port, **({"ep": 2} if kind == "qwen3_moe" else {"pp": 2} if kind == "llama" else {"tp": 2})
        ) as plan:
            from r1mega.stages.serving import open_engines

            with open_engines(config, new_policy(fields, plan)) as engines:
                engines.wait()
                found[kind] = hand_over(plan, config, fields, engines, [])
    return found


def beside_vllm(source: Any) -> dict[str, Any]:
    """What vLLM's own default methods make of the source, and what the source makes of itself."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class AsVllm(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]

        def __iter__(self) -> Any:
            return iter(source)

    theirs = AsVllm()
    verbs = [name for name in vars(WeightSource) if not name.startswith("_")]
    return {
        "abstract": sorted(WeightSource.__abstractmethods__),
        "verbs": sorted(verbs),
        "lacking": [name for name in [*verbs, "__iter__"] if not callable(getattr(source, name, None))],
        "held_names": source.held_names(),
        "groups": (source.groups(), theirs.groups()),
        "streams": (stream(source), stream(theirs)),
        "again": stream(source),
        "metadata": [(meta.name, str(meta.dtype), tuple(meta.shape)) for meta in theirs.metadata()],
    }


def cut(policy: Any) -> dict[str, Any]:
    """The same stream where no more than a few tensors are gathered at a time."""
    from r1mega.weights.source import MegatronSource

    return {"cut": stream(MegatronSource(policy.pieces, group_bytes=SMALL_GROUP_BYTES))}


def stream(source: Any) -> list[list[tuple[str, str, tuple[int, ...], bytes]]]:
    return [
        [(name, str(x.dtype), tuple(x.shape), x.numpy().tobytes()) for name, x in zip(*group, strict=True)]
        for group in source.iter_groups()
    ]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    [found] = run_ranks(1, alone, free_ports(1)[0], tmp_path_factory.mktemp("run"))
    return found


@pytest.fixture(scope="module", params=ENGINES)
def ranks(request: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    return run_ranks(2, together, free_ports(len(LAYOUTS)), folder, ENGINES[request.param])


def sound(found: dict[str, Any]) -> None:
    print([f"{difference:.1e}" for difference in found["differences"]])
    assert len(found["differences"]) == COURSES
    assert max(found["differences"]) <= LIMIT
    assert found["summary"]["max_abs_dlogp"] <= LIMIT
    for what, (paper, here) in found["paper"].items():
        assert paper == here, what
    after = {fault: said for fault, said in found["said"].items() if fault.startswith("after")}
    assert set(after.values()) <= {""}, after


def test_the_engine_scores_as_the_trainer_after_every_change(single: Any) -> None:
    sound(single)


def test_engines_score_as_the_trainer_whatever_its_layout_and_theirs(ranks: Any) -> None:
    for rank in ranks:
        for name in LAYOUTS:
            sound(rank[name])


def test_every_family_is_handed_over(tmp_path: Path) -> None:
    for rank in run_ranks(2, every_family, free_ports(len(FAMILIES)), tmp_path):
        assert rank.keys() == FAMILIES.keys()
        for found in rank.values():
            sound(found)


@pytest.mark.parametrize("fault", BY_BYTES)
def test_what_is_spoilt_on_its_way_is_named_by_its_bytes_alone(single: Any, fault: str) -> None:
    """Whatever the probe says of it: no fault is found by luck."""
    said = single["said"][fault]
    named = {line.split(" other bytes of ")[1].split("[")[0] for line in said.splitlines() if "bytes" in line}
    assert named == set(BY_BYTES[fault][1])


def test_an_engine_that_did_nothing_is_found_by_its_version(single: Any) -> None:
    version = COURSES + list(FAULTS).index("stale") + 1
    assert f"holds version {version - 1}; the policy is at {version}" in single["said"]["stale"]


def test_what_no_checksum_sees_the_probe_does(single: Any) -> None:
    """Two experts that the trainer mistakes for each other arrive as they were sent."""
    said = single["said"]["wrong expert"]
    assert "bytes" not in said
    assert "engine 0 scores the probe otherwise than the trainer" in said


def test_faults_are_named_on_every_rank_and_of_every_worker(ranks: Any) -> None:
    for rank in ranks:
        names = rank["ep2"]["workers"]
        assert len(names) == 2
        for fault in ("dropped", "wrong shard"):
            said = rank["ep2"]["said"][fault]
            assert all(f"{name} holds other bytes of {BY_BYTES[fault][1][0]}[" in said for name in names)
        assert f"holds other bytes of {BY_BYTES['flipped bit'][1][0]}[" in rank["ep2"]["said"]["flipped bit"]


def test_the_source_has_all_that_vllm_asks_of_one(single: Any) -> None:
    found = single["source"]
    assert found["abstract"] == ["__iter__", "metadata"]
    assert {"groups", "held_names", "iter_groups", "metadata"} <= set(found["verbs"])
    assert found["lacking"] == []
    assert found["held_names"] is None
    ours, theirs = found["groups"]
    assert ours == theirs


def test_the_source_streams_what_it_declares_as_vllm_would(single: Any) -> None:
    found = single["source"]
    ours, theirs = found["streams"]
    assert ours == theirs == found["again"]
    assert [tensor[:3] for group in ours for tensor in group] == found["metadata"]


def test_layers_too_large_are_gathered_in_parts(single: Any) -> None:
    whole, parts = single["source"]["streams"][0], single["source"]["cut"]
    assert len(parts) > 2 * len(whole)
    assert [tensor for group in parts for tensor in group] == [tensor for group in whole for tensor in group]
    for group in parts:
        assert len(group) == 1 or sum(len(tensor[3]) for tensor in group) <= SMALL_GROUP_BYTES
