"""The search for the fastest layout: what it finds fits, and nothing it passed over is as fast and fits."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import BadRun
from r1mega.planner.command import main
from r1mega.planner.fastest import _engines, _training, elements_of, fastest, least_bytes
from r1mega.planner.fits import shortages
from r1mega.planner.run import Run, read_run
from r1mega.planner.times import run_time

COMPOSED = partial(compose, configurations())
SMALL = ("run=zero_qwen2_5_1_5b", "cluster=h100_8")
SFT = ("run=r1_distill_qwen2_5_7b", "cluster=h100_8")


def a_run(*overrides: str) -> Run:
    return read_run(COMPOSED([*overrides]), COMPOSED)


def seconds(run: Run) -> float:
    return sum(part.seconds for part in run_time(run.config, run.hf, run.topology).parts)


def changed(run: Run, *options: dict[str, Any]) -> Run | None:
    """The run under these options; None where it cannot be."""
    from dataclasses import replace

    config = run.config
    for option in options:
        for section, values in option.items():
            config = replace(config, **{section: replace(getattr(config, section), **values)})
    try:
        return run.changed(config)
    except BadRun:
        return None


@pytest.mark.parametrize("gib", [79.1, 40.0, 24.0])
@pytest.mark.parametrize("overrides", [SMALL, SFT])
def test_none_is_faster_and_fits(overrides: tuple[str, ...], gib: float) -> None:
    """Against all layouts, each counted."""
    run = a_run(*overrides, f"cluster.gpu_memory_gib={gib}")
    found = fastest(run, seconds)
    engines = list(_engines(run)) if overrides is SMALL else [{}]
    fitting = []
    for training in _training(run):
        for engine in engines:
            other = changed(run, training, engine)
            if other is not None and not shortages(other.config, other.memory()):
                fitting.append(seconds(other))
    if found.best is None:
        assert not fitting
    else:
        assert not shortages(found.best.run.config, found.best.run.memory())
        assert found.best.seconds == pytest.approx(min(fitting), rel=0.01)
        assert found.best.seconds <= found.given_seconds or shortages(run.config, run.memory())


def test_what_is_found_is_what_its_overrides_say(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "search=true", "--json"], configurations())
    found = json.loads(capsys.readouterr().out)["search"]
    again = a_run(*SMALL, *found["best"]["overrides"])
    assert not shortages(again.config, again.memory())
    assert seconds(again) == pytest.approx(found["best"]["seconds"])
    assert found["layouts"] > sum(found["cannot_be"].values())


def test_no_rank_holds_less_than_the_bound_says() -> None:
    run = a_run(*SFT)
    elements = elements_of(run.hf)
    for number, training in enumerate(_training(run)):
        other = changed(run, training) if number % 7 == 0 else None
        if other is not None:
            least = least_bytes(elements, other.topology.training, other.config)
            assert least <= max(phase.bytes for phase in other.memory().phases)


def test_a_search_needs_to_know_the_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run=cpu_zero", "search=true"], configurations()) == 2
    assert "cluster.gpu: was null" in capsys.readouterr().err
