"""Composing a run: what stands in conf/ is sound, and what a user gets wrong is said in the user's words."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from r1mega.__main__ import configurations
from r1mega.checks import check, model_fields, start_faults, topology
from r1mega.compose import compose, to_yaml
from r1mega.config import Backend, BadRun, Config, Stage
from r1mega.stages import pipeline
from r1mega.stages.finished import config_hash

CONF = configurations()
RUNS = sorted(path.stem for path in (CONF / "run").glob("*.yaml"))
# Composing takes a tenth of a second, and what fails is composed again for each override.
few = settings(max_examples=8, derandomize=True)


def composed(*overrides: str) -> Config:
    return compose(CONF, ["run=cpu_zero", *overrides])


def faults(*overrides: str) -> list[str]:
    """What is wrong with the run, a fault a line; its head, which counts them, left out."""
    with pytest.raises(BadRun) as raised:
        check(composed(*overrides), ranks=None)
    first, *rest = str(raised.value).split("\n  ")
    assert first == f"{len(rest)} faults:" or not rest
    return rest or [first]


def leaves(section: object, path: str = "") -> dict[str, object]:
    """Every key that is no section, with its value."""
    found: dict[str, object] = {}
    for item in fields(section):  # type: ignore[arg-type]
        value = getattr(section, item.name)
        deeper = leaves(value, f"{path}{item.name}.") if is_dataclass(value) else {}
        found |= deeper or {path + item.name: value}
    return found


LEAVES = leaves(composed())


@pytest.mark.parametrize("run", RUNS)
def test_every_run_composes_and_is_sound(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no model has been fetched
    config = compose(CONF, [f"run={run}"])
    if config.stage is Stage.pipeline:
        nodes, _ = pipeline.plan(config, [], partial(compose, CONF))
        assert [node.ranks for node in nodes if node.ranks not in (1, 2)] == []
    elif config.cluster.backend is Backend.cuda:
        # Nothing is wrong with the paper's runs but what their user brings, and the machine.
        with pytest.raises(BadRun) as error:
            check(config, ranks=None)
        brought = ("model.init_from", "data/", "runs/", "sft.", "reward", "reject.")
        assert [fault for fault in error.value.faults if not fault.startswith(brought)] == start_faults(
            config
        )
    elif config.stage is Stage.evaluate and config.model.init_from is None:
        with pytest.raises(BadRun, match=r"model\.init_from: was null; must be the folder"):
            check(config, ranks=None)
    elif config.model.init_from is not None:
        # The one fault: nothing else is wrong with the run.
        with pytest.raises(BadRun, match=r"^model\.init_from: was models/.*; make it with: make \w+$"):
            check(config, ranks=None)
        assert config.parallel.dp == 2
    else:
        assert check(config, ranks=None).world_size == 2


def test_of_all_runs_only_the_671bs_that_generate_are_planned_and_not_started() -> None:
    refused = {run for run in RUNS if start_faults(compose(CONF, [f"run={run}"]))}
    assert refused == {"r1_zero", "r1_zero_671b", "r1_reasoning_rl", "r1_reject", "r1_all_scenario_rl"}
    [fault] = start_faults(compose(CONF, ["run=r1_zero"]))
    assert fault.startswith("rollout.pipeline_parallel: was 4; this version starts engines of one stage")


def test_a_clusters_machines_say_how_many_ranks_there_will_be() -> None:
    gpus = ("cluster=h100_16", "precision=bf16")
    assert topology(composed(*gpus, "parallel=tp2"), ranks=None).training.dp == 8
    assert topology(composed(*gpus, "parallel=tp2"), ranks=4).training.dp == 2
    apart = topology(composed(*gpus, "rollout.placement=apart", "rollout.replicas=4"), ranks=None)
    assert (apart.training.world_size, apart.rollout.workers) == (12, 4)
    assert "parallel: tp 3 x pp 1 x cp 1 = 3 does not divide the run's 16 ranks" in faults(
        *gpus, "parallel.tp=3"
    )


def a_folder(path: Path, **fields: object) -> str:
    """An HF folder as far as it is looked at, of the demo's model with these fields."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(composed().model.hf | fields))
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (path / name).write_text("{}")
    return f"model.init_from={path}"


def test_a_run_may_give_a_model_more_positions_than_it_has(tmp_path: Path) -> None:
    longer = ("rollout.max_context_tokens=512", "train.tokens_per_microbatch=8192")
    start = ("run=cpu_zero", a_folder(tmp_path / "base", max_position_embeddings=256), "pretrain.updates=1")
    [fault] = faults(*start, *longer)
    assert fault.startswith("rollout.max_context_tokens: was 512;")
    assert fault.endswith("= 256 must hold it, or model.max_position_embeddings raise it")
    config = composed(*start, *longer, "model.max_position_embeddings=1024")
    check(config, ranks=None)
    hf, _ = model_fields(config)
    assert hf == config.model.hf | {"max_position_embeddings": 1024}
    [fault] = faults(*start, "model.max_position_embeddings=128")
    assert "was 128; must be at least the 256 of" in fault
    [fault] = faults("model.max_position_embeddings=1024")
    assert "without model.init_from it must be null, and model.hf.max_position_embeddings given" in fault


@pytest.mark.parametrize("layout", ["single", "tp2", "pp2", "ep2"])
def test_the_demo_runs_under_every_layout(layout: str) -> None:
    assert check(composed(f"parallel={layout}"), ranks=None).world_size == (1 if layout == "single" else 2)


def test_a_run_written_out_is_the_same_run() -> None:
    config = composed("seed=3", "grpo.optimizer.lr=0.001", "model.hf.rope_theta=50000.0")
    again = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(to_yaml(config)))
    assert OmegaConf.to_object(again) == config


@few
@given(st.sampled_from(sorted(LEAVES)), st.integers(0, 20), st.sampled_from("xyz_"))
def test_a_misspelt_key_is_named(key: str, at: int, letter: str) -> None:
    wrong = key[: at % len(key)] + letter + key[at % len(key) :]
    parts = wrong.split(".")
    assume(wrong not in LEAVES and "" not in parts)
    # Below these a user may put keys of his own.
    assume(not wrong.startswith(("model.hf.", "pretrain.mixture.", "reward.weights.", "eval.models.")))
    [fault] = faults(f"{wrong}=1")
    assert fault.startswith(f"{wrong}=1: ")
    assert "\n" not in fault
    if parts[:-1] == key.split(".")[:-1] and len(parts[-1]) > 4:
        assert f"did you mean {key}?" in fault


WRONG = {int: "many", float: "much", bool: "maybe"}


@few
@given(st.sampled_from([key for key, value in LEAVES.items() if type(value) in WRONG]))
def test_a_value_of_the_wrong_type_is_named(key: str) -> None:
    override = f"{key}={WRONG[type(LEAVES[key])]}"  # type: ignore[index]
    [fault] = faults(override)
    assert fault.startswith(f"{override}: ")
    assert "could not be converted" in fault or "is not a valid" in fault


MISTAKES = ["grpo.rolouts=1", "parallel.tp=two", "+foo=1", "track.wandb=on"]


@few
@given(st.lists(st.sampled_from(MISTAKES), min_size=1, unique=True))
def test_every_override_that_is_wrong_is_named_at_once(wrong: list[str]) -> None:
    found = faults("seed=4", *wrong)
    assert sorted(fault.split(": ")[0] for fault in found) == sorted(wrong)


@pytest.mark.parametrize("group", ["run", "model", "parallel", "rollout", "grpo", "data"])
def test_a_choice_that_is_not_there_is_answered_with_those_that_are(group: str) -> None:
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    [fault] = faults(f"{group}=nowhere")
    assert fault.startswith(f"{group}=nowhere: ")
    assert fault.endswith(f"choices: {', '.join(choices)}")


def test_a_run_must_be_named() -> None:
    with pytest.raises(BadRun, match=f"run: must be given.*{RUNS[0]}"):
        compose(CONF, ["seed=1"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=-1", "seed: was -1; must be at least 0"),
        ("grpo.rollouts=0", "grpo.rollouts: was 0; must be above 0"),
        ("grpo.optimizer.lr=0", "grpo.optimizer.lr: was 0.0; must be above 0"),
        ("rollout.top_p=1.5", "rollout.top_p: was 1.5; must be above 0 and at most 1"),
        ("grpo.samples_per_prompt=1", "grpo.samples_per_prompt: was 1;"),
        ("grpo.updates_per_rollout=7", "grpo.updates_per_rollout: was 7; must divide"),
        ("rollout.max_answer_tokens=128", "rollout.max_context_tokens: was 128; must leave room"),
        ("train.tokens_per_microbatch=100", "train.tokens_per_microbatch: was 100; must hold one sample"),
        ("eval.questions=513", "eval.questions: was 513; data.held_out_questions holds 512"),
        ("handover.probe_samples=1", "handover.probe_samples: was 1; must be at least rollout.replicas = 2"),
        ("precision.dtype=bf16", "precision.dtype: was bf16; on cpu it must be fp32"),
        ("rollout.placement=apart", "rollout.placement: was apart; it is about GPUs"),
        ("rollout.fp8_weights=true", "rollout.fp8_weights: was True; it is about GPUs"),
        ("checkpoint.keep_last=1", "checkpoint.keep_last: was 1; must be at least 2, so that a damaged"),
        ("checkpoint.save_every_rollouts=0", "checkpoint.save_every_rollouts: was 0; must be above 0"),
        ("checkpoint.keep_every=0", "checkpoint.keep_every: was 0; must be above 0"),
        ("guard.spike_ratio=1", "guard.spike_ratio: was 1.0; must be above 1"),
        ("guard.stop_after=0", "guard.stop_after: was 0; must be above 0"),
        ("launch.max_time_s=0", "launch.max_time_s: was 0.0; must be above 0"),
        ("launch.silent_s=0", "launch.silent_s: was 0.0; must be at least 10"),
        ("rollout.engine_restarts=-1", "rollout.engine_restarts: was -1; must be at least 0"),
        ("handover.buffer_bytes=0", "handover.buffer_bytes: was 0; must be above 0"),
        ("+reward.weights.reasoning.accurcy=1.0", "reward.weights.reasoning.accurcy"),
        ("pretrain.mixture.right=2", "pretrain.mixture.right: was 2.0; must be a share"),
        ("data.template=shrt", "data.template: was shrt"),
        ("+model.hf.scoring_func=softmax", "model.hf.scoring_func: was 'softmax'"),
        ("model.hf.hidden_size=big", "model.hf.hidden_size: was 'big'; must be a positive int"),
        ("model.hf.n_group=3", "model.hf.n_group: was 3; it must divide n_routed_experts = 8"),
        ("model.hf.n_group=8", "model.hf.n_group: was 8; 8 experts must make groups of at least two"),
        ("model.hf.topk_group=3", "model.hf.topk_group: was 3; there are n_group = 2 groups"),
        ("model.hf.num_experts_per_tok=3", "model.hf.num_experts_per_tok: was 3; with groups it must be"),
        ("model.hf.first_k_dense_replace=9", "model.hf.first_k_dense_replace: was 9; there are"),
        ("model.hf.qk_rope_head_dim=15", "model.hf.qk_rope_head_dim: was 15; must be even"),
        ("+model.hf.norm_topk_prob=false", "model.hf.norm_topk_prob: was False; with num_experts"),
        ("+model.hf.window=3", "model.hf.window: no field of the DeepSeek-V3 family"),
        ("~model.hf.vocab_size", "model.hf.vocab_size: missing; a int is needed"),
        ("parallel.tp=3", "heads cannot be divided by tp = 3"),
        ("parallel.vpp=2", "parallel.vpp: was 2; virtual stages need"),
        ("parallel.dp=0", "parallel.dp: was 0; must be at least 1"),
    ],
)
def test_a_value_that_cannot_be_is_said_with_its_key(override: str, words: str) -> None:
    assert any(words in fault for fault in faults(override))


def test_a_row_must_hold_the_longest_sample_as_it_is_padded() -> None:
    words = "train.tokens_per_microbatch: was 127; must be at least 128"
    tight = ("rollout.max_context_tokens=127", "train.tokens_per_microbatch=127")
    check(composed(*tight), ranks=None)
    assert any(words in fault for fault in faults(*tight, "parallel.cp=2"))


def test_faults_of_every_part_come_at_once(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "1 + 1?", "answer": "2"}\n{"question": "2 + 2?"}\nnot JSON\n')
    found = "\n".join(
        faults(
            "parallel.tp=3",
            "grpo.rollouts=0",
            "seed=-1",
            f"model.init_from={tmp_path / 'nowhere'}",
            f"data.prompts_file={prompts}",
            "data.template=shrt",
        )
    )
    for words in (
        "grpo.rollouts: was 0",
        "seed: was -1",
        f"model.init_from: was {tmp_path / 'nowhere'}; no such folder",
        f"{prompts}:2: answer is missing",
        f"{prompts}:3: not JSON",
        "data.template: was shrt",
    ):
        assert words in found


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "it has no config.json"),
        ("{", "config.json: not JSON"),
        ("{}", "model_type: was None; must be one of"),
        ('{"architectures": ["MambaForCausalLM"]}', "must be one of deepseek_v3, llama"),
        ('{"architectures": ["DeepseekV3ForCausalLM"]}', "config.json.hidden_size: missing"),
    ],
)
def test_a_model_folder_at_fault_is_said_with_its_file(
    tmp_path: Path, config: str | None, words: str
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    found = faults(f"model.init_from={tmp_path}")
    assert any(words in fault for fault in found)
    assert all(str(tmp_path) in fault for fault in found)


def test_a_model_folder_without_weights_or_tokenizer_is_said_at_once(tmp_path: Path) -> None:
    found = faults(f"model.init_from={tmp_path}")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors"):
        assert f"model.init_from: was {tmp_path}; it has no {name}" in found


def test_started_ranks_decide_the_layout() -> None:
    assert check(composed("parallel=ep2"), ranks=4).dp == 4
    with pytest.raises(BadRun, match="does not divide the run's 3 ranks"):
        check(composed("parallel=tp2"), ranks=3)


def test_two_runs_are_the_same_where_all_that_decides_the_result_is() -> None:
    same = config_hash(composed())
    assert config_hash(composed("name=other", "runs_dir=elsewhere", "fresh=true")) == same
    for override in ("seed=1", "grpo.rollouts=31", "parallel=tp2", "model.hf.q_lora_rank=null"):
        assert config_hash(composed(override)) != same, override


def test_both_sides_of_a_run_are_laid_out_together() -> None:
    both = topology(composed("parallel=tp2", "rollout.tensor_parallel=2"), ranks=None)
    assert (both.training.tp, both.rollout.tp, both.rollout.replicas, both.rollout.workers) == (2, 2, 2, 4)
    found = faults("rollout.tensor_parallel=3")
    assert "rollout.tensor_parallel: was 3; must divide the model's 4 attention heads" in found


def test_engines_that_share_the_trainers_gpus_need_a_rank_beside_every_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(composed("cluster=h100"), ranks=None)
    few_ranks = ("cluster=h100", "rollout.replicas=4")
    assert any(
        "rollout.replicas: was 4; x 1 workers each = 4 workers" in fault for fault in faults(*few_ranks)
    )
    check(composed(*few_ranks, "rollout.placement=apart"), ranks=None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    [fault] = faults("cluster=h100", "rollout.replicas=1", "rollout.tensor_parallel=2")
    assert fault.startswith("rollout.tensor_parallel: was 2; must divide the 1 ranks of a machine")
