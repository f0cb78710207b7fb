"""Every run's model is built at its full size: Megatron's own modules, without memory, on up to 2,048 ranks.

Weights lie on torch's meta device and torch.distributed's fake process group stands for the other ranks, so
Megatron opens its groups and builds its stages as it would on the cluster, with torch's layers. Of every
pipeline stage the first rank is built, and of the first, a middle and the last stage the last rank too, which
has the last shard of experts; ranks of a stage differ in nothing that is counted here but their shard.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from support.published import DEEPSEEK_V3, PARAMETERS
from support.ranks import run_ranks

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import Backend, Config, Stage
from r1mega.pipeline import graph
from r1mega.planner.phases import OPTIMIZING, PLANNED
from r1mega.planner.run import Run, read_run
from r1mega.planner.training import Trainer
from r1mega.planner.weights import ROUTER_BIAS, model_biases, model_parameters

RUNS = configurations() / "run"
COMPOSED = partial(compose, configurations())
PIPELINE = "cpu_r1"
"""Its stages are runs too, which read what others of them make."""
NAMES = sorted(
    name
    for path in RUNS.rglob("*.yaml")
    if not (name := str(path.relative_to(RUNS).with_suffix(""))).startswith((f"{PIPELINE}/", "common/"))
)


@cache
def composed(name: str) -> Config:
    return COMPOSED([f"run={name}"])


@cache
def planned(name: str) -> Run:
    """The run with its layouts, after every check of it."""
    return read_run(composed(name), COMPOSED)


TRAINING = [name for name in NAMES if composed(name).stage in OPTIMIZING]
ON_GPUS = [
    name
    for name in NAMES
    if composed(name).cluster.backend is Backend.cuda and composed(name).stage in PLANNED
]


def models() -> dict[str, tuple[dict[str, Any], Any, Config]]:
    """By name of the first run that has it, each model in each layout: its fields, the plan, the run."""
    found: dict[Any, tuple[str, Any]] = {}
    for name in TRAINING:
        run = planned(name)
        one = run.hf, run.topology.training, run.config
        found.setdefault((repr(sorted(run.hf.items())), one[1], one[2].precision.dtype), (name, one))
    return dict(found.values())


def build(models: dict[str, tuple[dict[str, Any], Any, Config]]) -> dict[str, dict[int, list[Any]]]:
    """In a fresh process, by run and rank: what each chunk is made of."""
    from r1mega.parallel import cpu

    cpu.enable()
    return {
        name: {rank: build_rank(rank, *model) for rank in ranks_to_build(model[1])}
        for name, model in models.items()
    }


def ranks_to_build(plan: Any) -> list[int]:
    each = plan.world_size // plan.pp
    firsts = [stage * each for stage in range(plan.pp)]
    return sorted({*firsts, *(firsts[stage] + each - 1 for stage in (0, plan.pp // 2, plan.pp - 1))})


def build_rank(rank: int, fields: dict[str, Any], plan: Any, config: Config) -> list[Any]:
    """Of each chunk: name, elements, and how many shards there are, of every weight and router's bias."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from r1mega.model.build import build_models, megatron_config
    from r1mega.parallel.groups import close_groups, open_model_groups

    dist.init_process_group("fake", rank=rank, world_size=plan.world_size, store=FakeStore())
    open_model_groups(plan, gloo_too=False, timeout_s=60)
    with torch.device("meta"):
        chunks = build_models(megatron_config(config, fields, plan), fields, plan)
    assert all(weight.is_meta for chunk in chunks for weight in chunk.parameters())
    made = [
        {
            "weights": [(name, w.numel(), shards(name, w, plan)) for name, w in chunk.named_parameters()],
            "biases": sum(b.numel() for name, b in chunk.named_buffers() if name.endswith(ROUTER_BIAS)),
        }
        for chunk in chunks
    ]
    close_groups()
    return made


def shards(name: str, weight: Any, plan: Any) -> int:
    """How many different parts of a weight the ranks of its stage have."""
    split = getattr(weight, "tensor_model_parallel", False)
    if ".experts." in name:
        return plan.ep * (plan.etp if split else 1)
    return plan.tp if split else 1


@pytest.fixture(scope="module")
def built() -> dict[str, dict[int, list[Any]]]:
    [found] = run_ranks(1, build, models())
    return found


@pytest.mark.parametrize("name", ON_GPUS)
def test_a_run_on_gpus_takes_as_many_ranks_as_its_cluster_has(name: str) -> None:
    run, cluster = planned(name), composed(name).cluster
    assert cluster.machines is not None
    assert cluster.gpus_per_machine is not None
    assert run.topology.training.world_size == cluster.machines * cluster.gpus_per_machine
    if run.memory().generates:
        assert run.topology.rollout.workers == run.topology.training.world_size


def test_the_stages_of_the_pipeline_pass_their_checks(tmp_path: Path) -> None:
    config = composed(PIPELINE)
    nodes = graph.build(config.pipeline.stages, tmp_path, config.pipeline.overrides, COMPOSED)
    described = {str(path.relative_to(RUNS).with_suffix("")) for path in (RUNS / PIPELINE).glob("*.yaml")}
    assert described - {f"{PIPELINE}/common"} == {stage.run for stage in config.pipeline.stages.values()}
    for node in nodes:
        assert node.ranks == 1 or node.config.stage is not Stage.world


@pytest.mark.parametrize("name", models())
def test_every_rank_is_built_of_what_the_planner_says(built: Any, name: str) -> None:
    """To the weight, in the order in which they lie in Megatron's buffers."""
    fields, plan, config = models()[name]
    trainer = Trainer(fields, plan, config.precision.dtype)
    for rank, chunks in built[name].items():
        stage = trainer.stage_of(rank)
        for real, paper in zip(chunks, stage.chunks, strict=True):
            assert [size for _, size, _ in real["weights"]] == [weight.elements for weight in paper.weights]
            assert real["biases"] == paper.biases
        assert sum(size for chunk in chunks for _, size, _ in chunk["weights"]) == stage.parameters


@pytest.mark.parametrize("name", models())
def test_all_ranks_together_have_the_published_number_of_parameters(built: Any, name: str) -> None:
    fields, plan, config = models()[name]
    each = plan.world_size // plan.pp
    whole = biases = copies = 0
    for stage in range(plan.pp):
        for chunk in built[name][stage * each]:
            biases += chunk["biases"]
            whole += sum(size * count for _, size, count in chunk["weights"])
            copies += sum(
                size * count for one, size, count in chunk["weights"] if is_copy(one, stage, fields)
            )
    assert biases == model_biases(fields)
    assert whole + biases - copies == sum(model_parameters(fields))
    published = PARAMETERS.get(Path(config.model.init_from or "").name)
    if published is not None and "head" not in str(fields.get("architectures")):
        assert whole + biases - copies - model_parameters(fields)[1] == published


def is_copy(name: str, stage: int, fields: dict[str, Any]) -> bool:
    """Whether a weight on a later stage is the first stage's embedding again."""
    tied = bool(fields.get("tie_word_embeddings"))
    return stage > 0 and (name.startswith("embedding.") or (tied and name.startswith("output_layer.")))


def test_the_largest_is_built_on_2048_ranks_and_on_512(built: Any) -> None:
    sizes = {models()[name][1].world_size for name in built}
    assert {2048, 512, 256, 128, 64, 32, 16, 8, 2} <= sizes
    assert sum(DEEPSEEK_V3.values()) == 684_531_386_000
