"""The graph of a pipeline: its order, what each stage is told, and every fault of every stage at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pipelines import BASE, CHAIN, EVALUATION, TUNED, WORLD, ZERO, changed, nodes_of, whole

from r1mega.config import BadRun, PipelineStageConfig
from r1mega.pipeline.graph import _order, dependents
from r1mega.pipeline.overrides import last_of_each, quoted, shared


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(stages: dict[str, PipelineStageConfig], *arguments: str, **keys: object) -> list[str]:
    with pytest.raises(BadRun) as raised:
        nodes_of(whole(stages, **keys), *arguments)
    return raised.value.faults


@settings(derandomize=True)
@given(st.data())
def test_each_comes_after_all_that_it_reads_and_else_as_given(data: st.DataObject) -> None:
    names = [f"s{i}" for i in range(data.draw(st.integers(1, 7)))]
    reads = {
        name: data.draw(st.sets(st.sampled_from(names[:i]))) if i else set() for i, name in enumerate(names)
    }
    given_order = data.draw(st.permutations(names))
    stages = {
        name: PipelineStageConfig(
            run="x", reads={f"k{n}": f"{one}/model" for n, one in enumerate(sorted(reads[name]))}
        )
        for name in given_order
    }
    order = _order(stages)
    assert sorted(order) == sorted(names)
    for at, name in enumerate(order):
        assert reads[name] <= set(order[:at])
        # Of all that could have come here, it is the first of those given.
        ready = [one for one in given_order if one not in order[:at] and reads[one] <= set(order[:at])]
        assert name == ready[0]


def test_a_stage_is_told_where_what_it_reads_lies() -> None:
    nodes = nodes_of(whole({"tuned": TUNED, "world": WORLD, "base": BASE}))
    assert list(nodes) == ["world", "base", "tuned"]
    tuned = nodes["tuned"]
    assert tuned.config.model.init_from == str(nodes["base"].writes["model"])
    assert tuned.config.sft.data_files == ["runs/r/world/cold_start.jsonl", "runs/r/world/general.jsonl"]
    assert tuned.config.folder == Path("runs/r/tuned")
    assert tuned.reads == {
        "model.init_from": "base/model",
        "sft.data_files[0]": "world/cold_start",
        "sft.data_files[1]": "world/general",
    }
    assert tuned.after == {"base", "world"}
    assert tuned.ranks == 2


def test_models_that_are_compared_are_read_by_name() -> None:
    several = PipelineStageConfig(
        run="cpu_evaluate", reads={"eval.models.first": "base/model", "eval.models.then": "zero/model"}
    )
    node = nodes_of(whole({"base": BASE, "zero": ZERO, "compared": several}))["compared"]
    assert list(node.config.eval.models) == ["first", "then"]
    assert node.after == {"base", "zero"}


def test_overrides_of_the_command_reach_every_stage_and_a_stages_own_come_last() -> None:
    stages = CHAIN | {"zero": changed(ZERO, "seed=7", "parallel=tp2")}
    config = whole(stages, overrides=["seed=2", "eval.questions=9"])
    nodes = nodes_of(config, "run=r1", "name=r", "seed=3", "pipeline.plan_only=true", "parallel=single")
    assert [node.config.seed for node in nodes.values()] == [3, 7, 3]
    assert [node.config.parallel.tp for node in nodes.values()] == [1, 2, 1]
    assert {node.config.eval.questions for node in nodes.values()} == {9}
    assert [node.config.name for node in nodes.values()] == list(stages)


def test_what_is_the_pipelines_own_reaches_no_stage() -> None:
    own = ["run=r1", "name=x", "runs_dir=y", "fresh=true", "stage=pipeline", "+pipeline.submit=true"]
    assert shared([*own, "seed=1", "+model.hf.a=1", "~model.hf.b"]) == [
        "seed=1",
        "+model.hf.a=1",
        "~model.hf.b",
    ]
    assert last_of_each(["a=1", "b=1", "++a=2"]) == ["b=1", "++a=2"]


@settings(derandomize=True)
@given(st.text(st.sampled_from("ab 1/\\'\",{}[]()=:%~+-中"), min_size=1).map(Path))
def test_any_path_comes_through_hydras_grammar(path: Path) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parse = OverridesParser.create().parse_overrides
    one, two = parse([f"key={quoted(path)}", f"key=[{quoted(path)},{quoted(path)}]"])
    assert one.value() == str(path)
    assert two.value() == [str(path)] * 2


def test_a_circle_is_named() -> None:
    stages = {
        "a": changed(ZERO, **{"model.init_from": "b/model"}),
        "b": changed(ZERO, **{"model.init_from": "c/model"}),
        "c": changed(ZERO, **{"model.init_from": "a/model"}),
    }
    [fault] = faults(stages)
    assert fault.startswith("pipeline.stages: ")
    assert fault.endswith(", in a circle")
    for pair in ("a reads b", "b reads c", "c reads a"):
        assert pair in f"{fault[:-13]} {fault.split(': ')[1]}"


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({}, "pipeline.stages: was empty"),
        ({"a/b": BASE}, "a/b: a stage's name is its folder's"),
        ({"base": changed(BASE, **{"model.init_from": "base"})}, "must be STAGE/ARTIFACT"),
        ({"zero": ZERO}, "zero: reads.model.init_from: was base/model; stages: zero"),
        (
            {"base": BASE, "zero": changed(ZERO, **{"model.init_from": "base/modle"})},
            "zero: reads.model.init_from: was base/modle; base (pretrain) writes model",
        ),
        (
            CHAIN | {"more": changed(ZERO, **{"model.init_from": "evaluation/model"})},
            "more: reads.model.init_from: was evaluation/model; evaluation (evaluate) writes nothing",
        ),
        (
            {"base": BASE, "zero": changed(ZERO, **{"data.template": "base/model"})},
            "zero: reads.data.template: must be a key that names a file or folder",
        ),
        ({"base": PipelineStageConfig(run="nowhere")}, "base: run=nowhere: "),
        ({"base": changed(BASE, "grpo.rolouts=1")}, "base: grpo.rolouts=1: "),
        ({"base": changed(BASE, "stage=pipeline")}, "base: run: was cpu_pretrain; must be no pipeline"),
    ],
)
def test_what_is_wrong_is_said_with_the_stage(stages: dict[str, PipelineStageConfig], words: str) -> None:
    assert any(words in fault for fault in faults(stages))


def test_a_start_that_is_no_stage_is_said() -> None:
    assert faults(CHAIN, **{"from": "zeros"}) == [
        "pipeline.from: was zeros; must be a stage: base, zero, evaluation"
    ]


def test_faults_of_all_stages_come_at_once() -> None:
    stages = {
        "base": changed(BASE, "pretrain.updates=0"),
        "zero": changed(ZERO, "grpo.rollouts=many"),
        "evaluation": changed(EVALUATION, "eval.questions=1", "rollout.top_p=2"),
        "other": changed(ZERO, **{"model.init_from": "bass/model"}),
    }
    found = faults(stages)
    for words in (
        "base: pretrain.updates: was 0",
        "zero: grpo.rollouts=many: ",
        "evaluation: eval.questions: was 1",
        "evaluation: rollout.top_p: was 2",
        "other: reads.model.init_from: was bass/model",
    ):
        assert any(fault.startswith(words) for fault in found), words
    assert len(found) == 5


def test_a_model_that_is_still_to_be_made_is_no_fault_and_is_checked_by_its_makers_fields() -> None:
    longer = CHAIN | {"evaluation": changed(EVALUATION, "rollout.max_context_tokens=200")}
    assert nodes_of(whole(longer))
    # The evaluation's own fields would hold 200; those of the base, from which its model descends, do not.
    short = {"base": changed(BASE, "model.hf.max_position_embeddings=150")}
    assert faults(longer | short) == [
        "evaluation: rollout.max_context_tokens: was 200;"
        " the model's max_position_embeddings = 150 must hold it, or model.max_position_embeddings raise it"
    ]


def test_a_model_that_no_stage_makes_must_be_there() -> None:
    [fault] = faults({"zero": changed(PipelineStageConfig(run="cpu_zero"), "model.init_from=nowhere")})
    assert fault.startswith("zero: model.init_from: was nowhere; no such folder")


def test_what_depends_on_a_stage() -> None:
    nodes = list(nodes_of(whole(CHAIN | {"world": WORLD, "tuned": TUNED})).values())
    assert dependents(nodes, "base") == {"base", "zero", "evaluation", "tuned"}
    assert dependents(nodes, "world") == {"world", "tuned"}
    assert dependents(nodes, "evaluation") == {"evaluation"}
