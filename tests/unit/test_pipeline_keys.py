"""What a run is made of: the content of what it reads, not its place; and what of it changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.pipelines import composer

from r1mega.config import Config
from r1mega.pipeline import contents, keys
from r1mega.pipeline.contents import Contents
from r1mega.stages.finished import config_hash, prepare_folder, show_finished
from r1mega.track.summary import write_summary


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model(folder: Path, text: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(text)
    (folder / "config.json").write_text("{}")
    return folder


def hash_of(path: Path) -> str:
    return Contents(Path("runs")).hash_of(path)


def test_a_folders_hash_is_of_what_it_holds(home: Path) -> None:
    one = model(home / "one")
    same = hash_of(one)
    assert hash_of(model(home / "elsewhere" / "two")) == same
    (one / ".cache").mkdir()
    (one / ".cache" / "file").write_text("hidden")
    os.utime(one / "config.json", (1, 1))
    assert hash_of(one) == same
    (one / "config.json").write_text("[]")
    changed = hash_of(one)
    (one / "config.json").rename(one / "renamed.json")
    (one / "inner").mkdir()
    renamed = hash_of(one)
    (one / "renamed.json").rename(one / "inner" / "renamed.json")
    assert len({same, changed, renamed, hash_of(one), hash_of(home / "nowhere")}) == 5


def test_a_large_file_is_read_once_until_it_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "LARGE_BYTES", 8)
    file = home / "large"
    file.write_text("0123456789")
    first = Contents(home / "runs")
    known = first.hash_of(file)
    first.keep()
    read: list[str] = []
    digest = contents.hashlib.file_digest
    monkeypatch.setattr(
        contents.hashlib, "file_digest", lambda *given: (read.append("read"), digest(*given))[1]
    )
    assert (hash_of(file), read) == (known, [])
    stamp = file.stat().st_mtime_ns
    file.write_text("9876543210")
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert hash_of(file) != known
    assert read == ["read"]


def test_what_was_kept_and_is_damaged_is_hashed_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "LARGE_BYTES", 8)
    file = home / "large"
    file.write_text("0123456789")
    known = hash_of(file)
    (home / "runs").mkdir()
    for damage in ("{", "[]", ""):
        (home / "runs" / ".contents.json").write_text(damage)
        assert hash_of(file) == known


def zero(*overrides: str) -> Config:
    return composer(["run=cpu_zero", *overrides])


def test_a_run_is_the_same_wherever_its_model_lies(home: Path) -> None:
    model(home / "one")
    model(home / "two")
    model(home / "other", "other weights")
    first = config_hash(zero("model.init_from=one"))
    assert config_hash(zero("model.init_from=two", "name=x", "runs_dir=y", "track.samples_kept=1")) == first
    assert config_hash(zero("model.init_from=other")) != first
    assert config_hash(zero("model.init_from=one", "seed=1")) != first
    assert config_hash(zero()) != first


def test_what_changed_is_said_by_key(home: Path) -> None:
    model(home / "one")
    model(home / "other", "other weights")
    before = keys.made_from(zero("model.init_from=one"))
    now = keys.made_from(
        zero("model.init_from=other", "grpo.rollouts=40", "+model.hf.more=true", "data.template=r1_zero")
    )
    assert keys.differences(before, before, {}) == []
    assert keys.differences(before, now, {"model.init_from": "base/model"}) == [
        "data.template was short, is now r1_zero",
        "grpo.rollouts was 30, is now 40",
        "model.hf.more is new: true",
        "base/model changed",
    ]
    assert "model.hf.more was true, is gone" in keys.differences(now, before, {})
    assert "what model.init_from names changed" in keys.differences(now, before, {})
    older = before | {keys.VERSION: "0.0.1"}
    [phrase] = keys.differences(older, before, {})
    assert phrase.startswith("r1mega was 0.0.1, is now ")


def test_a_folder_says_what_its_run_is_made_of(home: Path) -> None:
    config = zero("name=x")
    key = keys.key_of(prepare_folder(config))
    kept = json.loads((home / "runs" / "x" / "made_from.json").read_text())
    assert kept == keys.made_from(config)
    assert key == keys.key_of(kept) == config_hash(config)


def finish(config: Config) -> None:
    (config.folder / "final").mkdir()
    write_summary(config.folder / "summary.json", {"config_hash": config_hash(config)})


def test_a_run_is_finished_when_its_summary_and_all_that_it_leaves_are_there(home: Path) -> None:
    config = zero("name=x")
    assert not show_finished(config)
    prepare_folder(config)
    assert not show_finished(config)
    finish(config)
    assert show_finished(config)
    assert not show_finished(zero("name=x", "seed=1"))
    (config.folder / "final").rmdir()
    assert not show_finished(config)


def test_an_unfinished_run_goes_and_a_finished_one_is_kept(home: Path) -> None:
    config = zero("name=x")
    prepare_folder(config)
    (config.folder / "half").write_text("")
    key = keys.key_of(prepare_folder(config))
    assert not (config.folder / "half").exists()
    finish(config)
    prepare_folder(zero("name=x", "seed=1"))
    assert (home / "runs" / f"x-{key}" / "final").exists()
    assert not (home / "runs" / "x" / "final").exists()


WORK = {
    "a state": "checkpoints/rollout-000005/state.json",
    "the base": "base/config.json",
    "answers": "course.json",
}
"""What a run that was cut short may have left to go on from."""


def cut_short(config: Config, work: str) -> Path:
    """The run's folder with this work in it, and a model that was exported and is to come again."""
    prepare_folder(config)
    for name in (WORK[work], "final/config.json"):
        (config.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (config.folder / name).write_text("{}")
    return config.folder


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(
    "given",
    [(), ("parallel=tp2", "rollout.replicas=1"), ("checkpoint.keep_last=9", "launch.max_time_s=60")],
    ids=["the same command", "another layout", "other saving"],
)
def test_an_unfinished_run_is_gone_on_with(home: Path, work: str, given: tuple[str, ...]) -> None:
    folder = cut_short(zero("name=x"), work)
    now = zero("name=x", *given)
    assert prepare_folder(now) == keys.made_from(now)
    assert (folder / WORK[work]).exists()
    assert not (folder / "final").exists()
    assert json.loads((folder / keys.FILE).read_text()) == keys.made_from(now)
    assert [path.name for path in (home / "runs").iterdir()] == ["x"]


@pytest.mark.parametrize("work", WORK)
def test_the_work_of_another_run_is_kept_beside_and_fresh_deletes(home: Path, work: str) -> None:
    config = zero("name=x")
    folder = cut_short(config, work)
    prepare_folder(zero("name=x", "seed=1"))
    assert not (folder / WORK[work]).exists()
    kept = home / "runs" / f"x-{config_hash(config)}-unfinished"
    assert (kept / WORK[work]).exists()
    cut_short(zero("name=x", "seed=1"), work)
    prepare_folder(zero("name=x", "seed=1", "fresh=true"))
    assert not (folder / WORK[work]).exists()
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["x", kept.name]


def test_a_finished_run_of_another_layout_is_another_run(home: Path) -> None:
    config = zero("name=x")
    cut_short(config, "a state")
    write_summary(config.folder / "summary.json", {"config_hash": config_hash(config)})
    prepare_folder(zero("name=x", "parallel=tp2"))
    assert (home / "runs" / f"x-{config_hash(config)}" / WORK["a state"]).exists()
    assert not (config.folder / "checkpoints").exists()


def test_cut_short_while_it_clears_a_folder_it_takes_that_up_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = zero("name=x")
    prepare_folder(config)
    (config.folder / "half").write_text("")

    def cut(path: Path, ignore_errors: bool) -> None:
        if path.exists():
            (path / "config.yaml").unlink()  # the folder's sign of being a run's, gone first
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("r1mega.stages.finished.shutil.rmtree", cut)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(config)
    prepare_folder(config)
    assert sorted(path.name for path in config.folder.iterdir()) == ["config.yaml", "made_from.json"]
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["x"]
