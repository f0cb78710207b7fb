"""An engine that dies or hangs is started anew with the right weights, and answers as it would have.

Each scenario starts its engines once; every loss costs one start more.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.handover import engine_config, engine_fields, move_weights
from support.models import new_policy, random_probe
from support.ranks import free_ports, open_layout, run_ranks

ANSWER_TOKENS = 80
REQUESTS = 96
WORKING_S = 0.1
"""How long an engine is let work on a rollout that it will not end; all of it takes several times as long."""
PATIENCE_S = 2.0
"""How long a stopped engine is waited for."""


class Scene:
    """Engines with a hand-over, as a test's rank holds them, and what was said on the terminal."""

    def __init__(self, plan: Any, config: Any, engines: Any) -> None:
        from r1mega.stages.handover import Handover

        fields = engine_fields(random.Random(2), initializer_range=0.1)
        self.engines = engines
        self.policy = new_policy(fields, plan)
        self.vocabulary = fields["vocab_size"]
        draw = random.Random(1)
        self.requests = [
            (tuple(draw.randrange(self.vocabulary) for _ in range(1 + i % 40)), draw.getrandbits(63))
            for i in range(REQUESTS)
        ]
        self.handover = Handover(config, self.policy, engines, random_probe(self.vocabulary))
        self.said = io.StringIO()

    def draw(self, then: Callable[[], None] = lambda: None) -> list[tuple[bytes, bytes, int]]:
        """Answers of the engines as they are; `then` comes right after they were asked."""
        from r1mega.rollout.host import Request

        ticket = self.engines.submit(
            [Request(prompt, seed) for prompt, seed in self.requests],
            temperature=1.0,
            top_p=1.0,
            max_answer_tokens=ANSWER_TOKENS,
            stop_token=3,
        )
        then()
        found = self.engines.collect(ticket)
        return [(one.tokens.tobytes(), one.logps.tobytes(), one.version) for one in found]

    def rollout(self, *faults: Callable[[], None]) -> Any:
        """A rollout as a stage asks for it; each fault strikes one attempt, one after another."""
        striking = iter(faults)
        return self.ask(lambda: self.draw(next(striking, lambda: None)))

    def ask(self, verb: Callable[[], Any]) -> Any:
        with contextlib.redirect_stdout(self.said):
            return self.handover.ask("the rollout", verb)

    def hand_over(self) -> Any:
        with contextlib.redirect_stdout(self.said):
            return self.handover.run()

    def strike(
        self, number: int, how: int, *, working_s: float = 0.0, patience_s: float = PATIENCE_S
    ) -> None:
        """Send the engine a signal, on the rank that owns it; all ranks go on when it has been sent."""
        import torch.distributed as dist

        time.sleep(working_s)
        for engine in self.engines.own:
            if engine.number == number:
                os.kill(engine.process.pid, how)
                engine.answer_timeout_s = patience_s
        dist.barrier()

    def processes(self) -> list[int]:
        """Of this rank's engines, and of their workers."""
        import psutil

        engines = [psutil.Process(engine.process.pid) for engine in self.engines.own]
        return [one.pid for engine in engines for one in (engine, *engine.children()) if is_worker(one)]


def is_worker(process: Any) -> bool:
    """Whether it is no helper of Python's own, which ends when it has swept up."""
    return "resource_tracker" not in " ".join(process.cmdline())


def alive(pids: list[int], within_s: float = 5.0) -> list[int]:
    """Those that have not ended after so long."""
    import psutil

    def runs(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + within_s
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in pids if runs(pid)]


@contextmanager
def scene(folder: Path, plan: Any, **rollout: Any) -> Iterator[Scene]:
    from r1mega.stages.serving import open_engines

    fields = engine_fields(random.Random(2), initializer_range=0.1)
    config = engine_config(folder, **rollout)
    with open_engines(config, new_policy(fields, plan)) as engines:
        yield Scene(plan, config, engines)


def two_engines(port: int, folder: Path) -> dict[str, Any]:
    """Two ranks with an engine each: deaths and a hang, until no more are allowed; then told to stop."""
    found: dict[str, Any] = {}
    with scene(folder, open_layout(port, ep=2), replicas=2, engine_restarts=3) as on:
        on.hand_over()
        found["undisturbed"] = on.draw()
        found["killed"] = on.rollout(lambda: on.strike(1, signal.SIGKILL, working_s=WORKING_S))

        move_weights(on.policy, 1)
        on.strike(0, signal.SIGSTOP)
        on.strike(1, signal.SIGKILL)
        found["figures"] = on.hand_over()
        found["both"] = on.draw()
        on.hand_over()
        found["both undisturbed"] = on.draw()

        own = on.processes()
        on.strike(1, signal.SIGKILL)
        found["spent"] = failure(on.hand_over)
        found["stop"] = told_to_stop(on)
        began = time.monotonic()
        on.engines.close()
        found["close"] = (alive(own), time.monotonic() - began)
        found["said"] = on.said.getvalue().splitlines()
    return found


def told_to_stop(on: Scene) -> tuple[str, float]:
    """What ends a rollout with one engine stopped and one dead, where a rank is told to stop; its seconds."""
    import torch.distributed as dist

    from r1mega import stopping

    on.strike(0, signal.SIGSTOP, patience_s=60.0)
    stopping.listen()
    began = time.monotonic()
    try:
        on.draw(lambda: os.kill(os.getpid(), signal.SIGUSR1) if dist.get_rank() == 0 else None)
    except stopping.Stop as stop:
        return str(stop), time.monotonic() - began
    return "", 0.0


def failure(verb: Callable[[], Any]) -> tuple[str, str]:
    """The kind of error and its words."""
    from r1mega.rollout.engines import EngineError

    try:
        verb()
    except EngineError as error:
        return type(error).__name__, str(error)
    return "", ""


def split_engine(port: int, folder: Path) -> dict[str, Any]:
    """One rank, an engine of two workers: one of them dies at work, then all hang."""
    found: dict[str, Any] = {}
    with scene(folder, open_layout(port), replicas=1, tensor_parallel=2, engine_restarts=1) as on:
        on.hand_over()
        found["undisturbed"] = on.draw()
        old = on.processes()
        found["processes"] = len(old)
        found["killed"] = on.rollout(lambda: kill_after(WORKING_S, old[-1]))
        found["killed: orphans"] = alive(old)
        old = on.processes()
        on.engines.own[0].answer_timeout_s = PATIENCE_S
        for pid in old:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        # Far more than a socket's buffer holds, for an engine that does not read.
        found["long message"] = failure(lambda: on.engines.score([[1] * 100] * 20_000))
        found["long message: seconds"] = time.monotonic() - began
        on.engines.close()
        found["close: orphans"] = alive(old)
        found["said"] = on.said.getvalue().splitlines()
    return found


def kill_after(seconds: float, pid: int) -> None:
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(2, two_engines, free_ports(1)[0], tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    [found] = run_ranks(1, split_engine, free_ports(1)[0], tmp_path_factory.mktemp("run"))
    return found


def test_the_redone_rollout_has_the_same_bits(two: Any, split: Any) -> None:
    for found in (*two, split):
        assert len({tokens for tokens, *_ in found["undisturbed"]}) > REQUESTS // 2
        assert found["killed"] == found["undisturbed"]


def test_an_engine_started_anew_holds_the_weights_of_now(two: Any) -> None:
    for found in two:
        assert found["both"] == found["both undisturbed"]
        assert {version for *_, version in found["both"]} == {1}
        assert found["both"] != found["undisturbed"]
        assert found["figures"]["handover/max_abs_dlogp"] <= 1e-4


def test_every_restart_is_counted_and_said_once(two: Any) -> None:
    one, both = two[0]["said"]
    assert "engine 1 died (exit code -9) in generate" in one
    assert one.endswith("; started anew, weights of version 0 proven; the rollout is redone (restart 1 of 3)")
    assert f"engine 0 did not answer within {PATIENCE_S:.0f} s in start_weight_update" in both
    assert "engine 1 died (exit code -9) in start_weight_update" in both
    assert both.endswith("version 1 proven; the hand-over is redone (restart 3 of 3)")
    assert two[1]["said"] == []
    for found in two:
        assert found["figures"]["reliability/engine_restarts"] == 3.0


def test_an_engine_goes_with_any_of_its_workers(split: Any) -> None:
    [said] = split["said"]
    assert "engine 0 died (exit code 1) in generate" in said
    assert said.endswith("the rollout is redone (restart 1 of 1)")


def test_past_the_last_restart_the_run_ends_with_the_cause(two: Any) -> None:
    for found in two:
        kind, said = found["spent"]
        assert kind == "EngineError"
        assert "engine 1 died (exit code -9)" in said
        assert "rollout.engine_restarts = 3" in said
    assert two[0]["spent"] == two[1]["spent"]


def test_told_to_stop_all_ranks_abandon_the_rollout(two: Any) -> None:
    for found in two:
        reason, seconds = found["stop"]
        assert reason == "SIGUSR1"
        assert seconds < 20


def test_no_process_outlives_its_engine(two: Any, split: Any) -> None:
    assert split["processes"] == 3
    assert split["killed: orphans"] == split["close: orphans"] == []
    for found in two:
        left, seconds = found["close"]
        assert left == []
        assert seconds < 10


def test_what_a_stopped_engine_does_not_take_up_is_not_waited_for(split: Any) -> None:
    kind, said = split["long message"]
    assert kind == "EngineLost"
    assert f"engine 0 did not answer within {PATIENCE_S:.0f} s in score" in said
    assert PATIENCE_S <= split["long message: seconds"] < 4 * PATIENCE_S
