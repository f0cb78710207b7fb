"""A disk that fails costs a state and not the run: it is said, counted, and the next save is whole again."""

from __future__ import annotations

import random
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.models import new_policy, random_texts, samples_of, small_moe
from support.ranks import free_ports, layout, run_ranks

from r1mega.checkpoint.store import Saved, Store

LIMIT_BYTES = 100_000
"""Of a file, smaller than a rank's tensors and larger than the lists beside them."""


class Recorder:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def position(self) -> dict[str, int]:
        return {}

    def rewind(self, position: dict[str, int]) -> None:
        assert position == {}


def save_on_bad_disks(port: int, folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Saves 1 to 4; the second meets a file limit, as a disk that is full, the third a disk without room."""
    with layout(port, ep=2) as plan:
        from r1mega.config import CheckpointConfig, Config, OptimizerConfig, Stage
        from r1mega.stages.pretrain import cross_entropy, token_weights
        from r1mega.stages.states import States

        policy = new_policy(fields, plan)
        policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
        samples = samples_of(random_texts(random.Random(0), fields["vocab_size"], 8))
        policy.update(samples, {"weights": token_weights(samples)}, cross_entropy, 0.0)
        checkpoint = CheckpointConfig(save_every_rollouts=1, keep_last=10)
        config = Config(stage=Stage.grpo, name="run", runs_dir=str(folder), checkpoint=checkpoint)
        recorder, failed = Recorder(), []
        with States(config, policy, recorder) as states:  # type: ignore[arg-type]
            for number in range(1, 5):
                limit = LIMIT_BYTES if number == 2 else resource.RLIM_INFINITY
                free = 1000 if number == 3 else 10**12
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(
                        shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(0, 0, free)
                    )
                    states.after(Saved("rollout", number), {"rollouts": number}, last=False)
                    states._settle(wait=True)
                failed.append(states.failed)
        taken = States(config, policy, recorder).take_up("rollout")  # type: ignore[arg-type]
        return {"said": recorder.said, "failed": failed, "taken": taken and taken[0]}


def stop_at_odd_moments(port: int, folder: Path, fields: dict[str, Any]) -> list[Any]:
    """Told to stop, once where a rollout has ended that is not saved, once after an update of the next."""
    with layout(port, ep=2) as plan:
        from r1mega.config import CheckpointConfig, Config, OptimizerConfig, Stage
        from r1mega.stages.pretrain import cross_entropy, token_weights
        from r1mega.stages.states import States
        from r1mega.stopping import Stop

        checkpoint = CheckpointConfig(save_every_rollouts=100)
        samples = samples_of(random_texts(random.Random(0), fields["vocab_size"], 8))
        taken = []
        for name, updates_after in (("between", 0), ("within", 1)):
            (folder / name).mkdir(exist_ok=True)
            config = Config(stage=Stage.grpo, name=name, runs_dir=str(folder), checkpoint=checkpoint)
            policy, recorder = new_policy(fields, plan), Recorder()
            policy.start_training(OptimizerConfig(lr=1e-3), updates=10)
            with suppress(Stop), States(config, policy, recorder) as states:  # type: ignore[arg-type]
                policy.update(samples, {"weights": token_weights(samples)}, cross_entropy, 0.0)
                states.after(Saved("rollout", 1), {"rollouts": 1}, last=False)
                for _ in range(updates_after):
                    policy.update(samples, {"weights": token_weights(samples)}, cross_entropy, 0.0)
                raise Stop("SIGUSR1")
            again = new_policy(fields, plan)
            again.start_training(OptimizerConfig(lr=1e-3), updates=10)
            kept = States(config, again, recorder).take_up("rollout")  # type: ignore[arg-type]
            taken.append(kept and (kept[0], again.version))
        return taken


@pytest.fixture(scope="module")
def fields() -> dict[str, Any]:
    return small_moe(random.Random(5), hidden_size=128, num_nextn_predict_layers=0)


def test_training_goes_on_and_the_other_states_are_whole(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    found = run_ranks(2, save_on_bad_disks, free_ports(1)[0], tmp_path, fields)
    for rank in found:
        assert rank["failed"] == [0, 1, 2, 2]
        assert rank["taken"] == {"rollouts": 4}
        full, room, going_on = rank["said"]
        assert full == (
            "warning: rollout-000002 was not saved: File too large; the last state is rollout-000001."
            " Training goes on."
        )
        assert room.startswith("warning: rollout-000003 was not saved: it takes 0.0")
        assert "GB, and the disk has 0.00 GB free; the last state is rollout-000001." in room
        assert going_on == "Going on from rollout-000004 of an earlier start."
    store = Store(tmp_path / "run/checkpoints")
    assert [one.number for one in store.saved("rollout")] == [4, 1]
    assert [store.faults(one) for one in store.saved("rollout")] == [[], []]
    assert {path.name for path in store.folder.iterdir()} == {"rollout-000001", "rollout-000004"}


def test_no_state_names_a_moment_that_the_policy_has_left(tmp_path: Path, fields: dict[str, Any]) -> None:
    for found in run_ranks(2, stop_at_odd_moments, free_ports(1)[0], tmp_path, fields):
        assert found == [({"rollouts": 1}, 1), None]
