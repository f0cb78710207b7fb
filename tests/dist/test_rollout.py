"""A rollout repeats, says what the trainer would say of it, and no engine outlives its trainer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.handover import engine_config, engine_fields
from support.models import new_policy, random_probe, samples_of
from support.ranks import free_ports, open_layout, run_ranks

MISMATCH_LIMIT = 1e-5
ANSWER_TOKENS = 40
STOP = 3
GROUPS, GROUP = 12, 4
"""Prompts, and samples of each."""
BLOCK = 32
"""Tokens of a block of vLLM's cache; what prompts share, they share by whole blocks."""


def rollouts(port: int, folder: Path) -> dict[str, Any]:
    """Two ranks with an engine each: rollouts, then an engine's death, then an owner's."""
    plan = open_layout(port, ep=2)
    import torch.distributed as dist

    from r1mega.stages.handover import Handover
    from r1mega.stages.serving import open_engines

    fields = engine_fields(random.Random(2), initializer_range=0.1)
    # Fewer places than requests, so that some wait until others have ended.
    config = engine_config(folder, replicas=2, concurrent_sequences=8)
    policy = new_policy(fields, plan)
    found: dict[str, Any] = {"late": late_start(config, policy)}
    opened = open_engines(config, policy)
    engines = opened.__enter__()  # and never closed, as one rank is killed in the end
    engines.wait()
    handover = Handover(config, policy, engines, random_probe(fields["vocab_size"]))
    handover.run()
    asked = requests(fields["vocab_size"])
    found["asked"] = asked
    found["first"] = sample(engines, asked)
    found["warm"] = sample(engines, asked)
    policy.version = 7
    handover.run()  # which empties the engines' caches, as before each rollout
    found["again"] = sample(engines, asked)
    handover.run()
    found["subset"] = sample(engines, asked[1::3])
    handover.run()
    found["backwards"] = sample(engines, asked[::-1])
    # Each engine takes every other request: both get the same list here.
    found["twice"] = sample(engines, [one for one in asked for _ in range(2)])
    found["cooler"] = sample(engines, asked, temperature=0.7)
    for name, temperature in (("first", 1.0), ("cooler", 0.7)):
        texts = [
            (list(prompt) + tokens.tolist(), len(prompt))
            for (prompt, _), (tokens, *_) in zip(asked, found[name], strict=True)
        ]
        found[f"{name} trainer"] = [x.numpy() for x in policy.score(samples_of(texts), temperature)]
    found["death"] = death_of_an_engine(engines)
    pids = [None, None]
    dist.all_gather_object(pids, engines.own[0].process.pid)
    found["alive"] = seconds_until_gone(pids[0], at_most=1)
    dist.barrier()
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    found["orphan"] = seconds_until_gone(pids[0], at_most=20)
    return found


def requests(vocabulary: int) -> list[tuple[tuple[int, ...], int]]:
    """Prompts of one token up to some blocks, each with seeds of its own."""
    draw = random.Random(0)
    lengths = [
        1,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK + 5,
        *(draw.randint(2, 80) for _ in range(GROUPS - 5)),
    ]
    prompts = [tuple(draw.randrange(vocabulary) for _ in range(length)) for length in lengths]
    return [(prompt, draw.getrandbits(63)) for prompt in prompts for _ in range(GROUP)]


def sample(engines: Any, asked: Sequence[Any], temperature: float = 1.0) -> list[tuple[Any, Any, bool, int]]:
    from r1mega.rollout.host import Request

    ticket = engines.submit(
        [Request(prompt, seed) for prompt, seed in asked],
        temperature=temperature,
        top_p=1.0,
        max_answer_tokens=ANSWER_TOKENS,
        stop_token=STOP,
    )
    return [(one.tokens, one.logps, one.truncated, one.version) for one in engines.collect(ticket)]


def late_start(config: Any, policy: Any) -> tuple[str, float]:
    """What is said of engines that are given no time to start, and how long it takes to end them."""
    from dataclasses import replace

    from r1mega.rollout.engines import EngineError
    from r1mega.stages.serving import open_engines

    began = time.monotonic()
    hurried = replace(config, rollout=replace(config.rollout, start_timeout_s=0.1))
    try:
        with open_engines(hurried, policy) as engines:
            engines.wait()
    except EngineError as error:
        return str(error), time.monotonic() - began
    return "", 0.0


def death_of_an_engine(engines: Any) -> tuple[str, float]:
    """What is said where one engine dies in the middle of a rollout, and after how long."""
    from r1mega.rollout.engines import EngineError

    began = time.monotonic()
    for engine in engines.own:
        if engine.number == 1:
            os.kill(engine.process.pid, signal.SIGKILL)
    try:
        sample(engines, [((1, 2), seed) for seed in range(64)])
    except EngineError as error:
        return str(error), time.monotonic() - began
    return "", 0.0


def seconds_until_gone(pid: int, at_most: float) -> float:
    import psutil

    began = time.monotonic()
    while time.monotonic() - began < at_most:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return time.monotonic() - began
        time.sleep(0.05)
    return float("inf")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As the rank saw it that lives to tell."""
    return run_ranks(2, rollouts, free_ports(1)[0], tmp_path_factory.mktemp("run"), dying={0})[1]


def same_tokens(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(x[0], y[0]) for x, y in zip(a, b, strict=True))


def largest_difference(a: list[Any], b: list[Any]) -> float:
    return max(float(np.abs(x[1] - y[1]).max()) for x, y in zip(a, b, strict=True))


def test_the_same_requests_give_the_same_bits(found: Any) -> None:
    for tokens, logps, *_ in found["first"]:
        assert len(tokens) == len(logps) > 0
    assert len({tuple(tokens) for tokens, *_ in found["first"]}) > GROUPS, "samples of a prompt must differ"
    assert same_tokens(found["first"], found["again"])
    assert largest_difference(found["first"], found["again"]) == 0.0


def test_two_engines_give_the_same_bits(found: Any) -> None:
    """Which engine a request falls to changes nothing where both have the same others beside it."""
    one, other = found["twice"][::2], found["twice"][1::2]
    assert same_tokens(one, other)
    assert largest_difference(one, other) == 0.0


@pytest.mark.parametrize("way", ["warm", "subset", "backwards", "twice"])
def test_tokens_do_not_depend_on_the_company(found: Any, way: str) -> None:
    """Only the last bits of log-probs do: other requests make other batches."""
    whole = found["first"]
    same = {
        "warm": whole,
        "subset": whole[1::3],
        "backwards": whole[::-1],
        "twice": [x for x in whole for _ in "12"],
    }
    assert same_tokens(same[way], found[way])
    difference = largest_difference(same[way], found[way])
    print(f"{way}: log-probs differ by {difference:.1e}")
    assert difference <= MISMATCH_LIMIT


def test_an_answer_ends_with_the_stop_token_or_at_the_limit(found: Any) -> None:
    ends = set()
    for tokens, _, truncated, _ in found["first"]:
        ends.add(truncated)
        assert STOP not in tokens[:-1]
        assert truncated == (tokens[-1] != STOP)
        assert len(tokens) == ANSWER_TOKENS if truncated else len(tokens) <= ANSWER_TOKENS
    assert ends == {True, False}


def test_an_answer_carries_the_version_that_sampled_it(found: Any) -> None:
    assert {version for *_, version in found["first"]} == {0}
    assert {version for *_, version in found["again"]} == {7}


@pytest.mark.parametrize("name", ["first", "cooler"])
def test_trainer_and_sampler_agree(found: Any, name: str) -> None:
    """At a temperature too, which both sides take their log-probs at."""
    trainer = np.concatenate(found[f"{name} trainer"])
    sampler = np.concatenate([logps for _, logps, *_ in found[name]])
    off = np.abs(trainer - sampler)
    print(f"{name}: mean |dlogp| {off.mean():.1e}, largest {off.max():.1e}")
    assert off.mean() <= MISMATCH_LIMIT
    assert sampler.std() > 0.1, "log-probs that hardly vary would prove nothing"


def test_an_engine_that_dies_is_named_on_the_rank_that_does_not_own_it_too(found: Any) -> None:
    said, seconds = found["death"]
    assert "engine 1 died (exit code -9)" in said
    assert "engine.1.log" in said
    assert seconds < 30


def test_an_engine_that_is_late_is_named_and_ended(found: Any) -> None:
    said, seconds = found["late"]
    assert "engine 0 did not come up within 0 s" in said
    assert "engine.0.log" in said
    assert seconds < 30


def test_an_engine_does_not_outlive_its_owner(found: Any) -> None:
    print(f"gone after {found['orphan']:.2f} s")
    assert found["alive"] == float("inf")
    assert found["orphan"] < 10


def cached_tokens(folder: Path) -> dict[int, list[int]]:
    """By length of prompt, how many of its tokens each sample of a group found computed."""
    import json

    from r1mega.model.deepseek_v3 import checkpoint_config
    from r1mega.rollout import host
    from r1mega.rollout.plugin import BACKEND

    fields = checkpoint_config(engine_fields(random.Random(3)), "float32")
    (folder / "config.json").write_text(json.dumps(fields))
    settings = host.EngineSettings(
        folder=str(folder),
        dtype="float32",
        seed=0,
        max_context_tokens=128,
        concurrent_sequences=64,
        kv_cache_bytes=64 * 1024**2,
        tensor_parallel=1,
        expert_parallel=False,
        backend=BACKEND,
        fp8_weights=False,
        cores=(min(os.sched_getaffinity(0)),),
        gpus=(),
        log=str(folder / "engine.log"),
    )
    host._set_environment(settings)
    engine = host._Engine(settings)
    outputs: list[Any] = []
    real = engine.llm.generate
    engine.llm.generate = lambda *a, **named: outputs.extend(real(*a, **named)) or outputs
    found = {}
    for length in (BLOCK - 2, BLOCK + 3, 2 * BLOCK + 5):
        outputs.clear()
        group = [host.Request(tuple(range(length)), seed) for seed in range(GROUP)]
        engine.generate(group, temperature=1.0, top_p=1.0, max_answer_tokens=4, stop_token=STOP)
        engine.llm.reset_prefix_cache()
        found[length] = [output.num_cached_tokens for output in outputs]
    return found


def test_a_group_computes_the_whole_blocks_of_its_prompt_once(tmp_path: Path) -> None:
    [found] = run_ranks(1, cached_tokens, tmp_path)
    for length, cached in found.items():
        assert cached == [0, *[length // BLOCK * BLOCK] * (GROUP - 1)]
