"""Weights reach real engines whole, from every layout, and what goes wrong on the way is named."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.handover import EXPERT, FAULTS, engine_config, engine_fields, message, move_weights
from support.models import new_policy, random_probe
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
        handover.receipts_before = receipts(handover)
        move_weights(policy, COURSES + number)
        with FAULTS[fault](handover):
            said[fault] = message(handover.run)
        said[f"after {fault}"] = message(handover.run)
    return {"differences": differences, "said": said, "summary": handover.summary()}


def receipts(handover: Any) -> Any:
    """What the engines say that they hold."""
    return handover.engines.update_weights({"version": handover.policy.version})


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
            conforming = beside_vllm(policy.source)
            engines.wait()
            return hand_over(plan, config, fields, engines, list(FAULTS)) | {"source": conforming}


def together(ports: list[int], folder: Path) -> dict[str, Any]:
    """Two ranks with an engine each, which outlive the layouts that the trainer takes in turn."""
    fields, config = engine_fields(random.Random(1)), engine_config(folder, replicas=2)
    found = {}
    with ExitStack() as stack:
        for port, (name, degrees) in zip(ports, LAYOUTS.items(), strict=True):
            with layout(port, **degrees) as plan:
                from r1mega.stages.serving import open_engines

                if not found:
                    engines = stack.enter_context(open_engines(config, new_policy(fields, plan)))
                    engines.wait()
                faults = ["flipped bit", "dropped tensor"] if name == "ep2" else []
                found[name] = hand_over(plan, config, fields, engines, faults)
    return found


WITH_DRAFT = {
    "num_nextn_predict_layers": 1,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 4,
}


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


def stream(source: Any) -> list[list[tuple[str, str, tuple[int, ...], bytes]]]:
    return [
        [(name, str(x.dtype), tuple(x.shape), x.numpy().tobytes()) for name, x in zip(*group, strict=True)]
        for group in source.iter_groups()
    ]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    [found] = run_ranks(1, alone, free_ports(1)[0], tmp_path_factory.mktemp("run"))
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(2, together, free_ports(len(LAYOUTS)), tmp_path_factory.mktemp("run"))


def test_engines_score_as_the_trainer_after_every_change(single: Any, ranks: Any) -> None:
    for found in [single, *(rank[name] for rank in ranks for name in LAYOUTS)]:
        print([f"{difference:.1e}" for difference in found["differences"]])
        assert len(found["differences"]) == COURSES
        assert max(found["differences"]) <= LIMIT
        assert found["summary"]["max_abs_dlogp"] <= LIMIT


def test_every_fault_is_named(single: Any) -> None:
    said = single["said"]
    one, other = f"{EXPERT.format(0)}[", f"{EXPERT.format(1)}["
    assert f"never received {other}" in said["dropped tensor"]
    assert one not in said["dropped tensor"]
    assert "loaded nothing into its parameter model.norm.weight" in said["dropped parameter"]
    assert f"other bytes of {one}" in said["swapped experts"]
    assert f"other bytes of {other}" in said["swapped experts"]
    assert f"other bytes of {other}" in said["flipped bit"]
    assert f"other bytes of {one}" not in said["flipped bit"]
    version = COURSES + list(FAULTS).index("stale engine") + 1
    assert f"holds version {version - 1}; the policy is at {version}" in said["stale engine"]


def test_what_no_checksum_sees_the_probe_does(single: Any) -> None:
    """Two experts that the trainer mistakes for each other arrive as they were sent."""
    said = single["said"]["mislabelled experts"]
    assert "bytes" not in said
    assert "engine 0 scores the probe otherwise than the trainer" in said


def test_a_hand_over_that_failed_leaves_nothing_behind(single: Any, ranks: Any) -> None:
    for found in [single, *(rank["ep2"] for rank in ranks)]:
        assert {
            fault: said for fault, said in found["said"].items() if fault.startswith("after") and said
        } == {}


def test_faults_are_named_on_every_rank_and_of_every_engine(ranks: Any) -> None:
    for rank in ranks:
        for engine in (0, 1):
            missing = f"engine {engine} worker 0 never received {EXPERT.format(1)}["
            assert missing in rank["ep2"]["said"]["dropped tensor"]
            damaged = f"engine {engine} worker 0 received other bytes of {EXPERT.format(1)}["
            assert damaged in rank["ep2"]["said"]["flipped bit"]


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
