"""The folder of states: one is there whole or not at all, and a file that is not the one written is told."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from r1mega.checkpoint.store import Saved, Store
from r1mega.track.files import digest

COURSE = {"course": {"rollouts": 3}}


def save(store: Store, saved: Saved, content: bytes = b"weights" * 100) -> None:
    partial = store.begin(saved)
    (partial / "__0_0.distcp").write_bytes(content)
    (partial / "metadata.json").write_text("{}")
    store.publish(saved, COURSE, {"__0_0.distcp": digest(partial / "__0_0.distcp")})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "checkpoints")


def test_a_state_is_found_with_what_it_holds(store: Store) -> None:
    assert store.saved("rollout") == []
    for number in (5, 10, 1_000_000):
        save(store, Saved("rollout", number))
    save(store, Saved("pretrain", 7))
    assert [one.number for one in store.saved("rollout")] == [1_000_000, 10, 5]
    assert store.saved("pretrain") == [Saved("pretrain", 7)]
    assert store.state(Saved("rollout", 10)) == COURSE
    assert store.faults(Saved("rollout", 10)) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["__0_0.distcp", "metadata.json", "state.json", "manifest.json"])
def test_any_damage_to_any_file_is_told(store: Store, name: str, damage: Callable[[Path], None]) -> None:
    saved = Saved("rollout", 5)
    save(store, saved)
    damage(store.path(saved) / name)
    faults = store.faults(saved)
    assert faults
    # A flipped bit of the manifest may lie in any file's digest.
    assert name == "manifest.json" or all(fault.startswith(name) for fault in faults)
    aside = store.set_aside(saved)
    assert store.saved("rollout") == []
    assert aside.is_dir()


def test_ranks_share_the_check_and_miss_nothing(store: Store) -> None:
    saved = Saved("rollout", 5)
    save(store, saved)
    for name in ("__0_0.distcp", "metadata.json", "state.json"):
        flip(store.path(saved) / name)
    for ranks in (1, 2, 3, 5):
        shared = [fault for rank in range(ranks) for fault in store.faults(saved, rank, ranks)]
        assert sorted(shared) == sorted(store.faults(saved))
        assert len(shared) == 3


def test_what_is_kept(store: Store) -> None:
    for number in range(1, 13):
        save(store, Saved("rollout", number))
        store.prune("rollout", keep_last=2, keep_every=5)
    assert [one.number for one in store.saved("rollout")] == [12, 11, 10, 5]
    store.prune("rollout", keep_last=2, keep_every=None)
    assert [one.number for one in store.saved("rollout")] == [12, 11]


def test_a_save_cut_short_anywhere_is_never_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes the disk may be the last; what is found after it is whole."""
    save(store, Saved("rollout", 1), b"before")
    calls = [0]

    class Killed(BaseException):
        pass

    def counted(name: str, at: int) -> None:
        real = getattr(os, name)

        def call(*given: object, **named: object) -> object:
            calls[0] += 1
            if calls[0] == at:
                raise Killed
            return real(*given, **named)

        monkeypatch.setattr(os, name, call)

    ended = False
    for at in range(1, 200):
        calls[0] = 0
        with monkeypatch.context():
            for name in ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink"):
                counted(name, at)
            try:
                save(store, Saved("rollout", 2), random.Random(at).randbytes(1000))
                ended = True
            except Killed:
                pass
            monkeypatch.undo()
        found = store.saved("rollout")
        assert found[-1].number == 1
        for one in found:
            assert store.faults(one) == [], f"after call {at}"
            assert store.state(one) == COURSE
        if ended:
            assert found[0].number == 2
            break
    assert ended
    assert at > 8  # it was cut short at that many places


def test_names_of_others_are_left_alone(store: Store) -> None:
    save(store, Saved("rollout", 5))
    for name in ("rollout-5", "rollout-000005.bak", ".rollout-000006.partial", "damaged-rollout-000004"):
        (store.folder / name).mkdir()
    (store.folder / "rollout-000009").write_text("a file")
    assert store.saved("rollout") == [Saved("rollout", 5)]
    store.begin(Saved("rollout", 10))
    assert not (store.folder / ".rollout-000006.partial").exists()


def test_the_manifest_names_every_file(store: Store) -> None:
    saved = Saved("rollout", 5)
    save(store, saved)
    named = set(json.loads((store.path(saved) / "manifest.json").read_text()))
    assert named == {path.name for path in store.path(saved).iterdir()} - {"manifest.json"}
