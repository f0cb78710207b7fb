"""A run's folder before and after: whether it holds this very run, finished, and making it ready.

Imports no torch: the launcher asks before it starts any rank.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from r1mega.compose import to_yaml
from r1mega.config import BadRun, Config
from r1mega.pipeline import keys
from r1mega.pipeline.artifacts import missing
from r1mega.track.files import write_atomic
from r1mega.track.summary import format_result, read_summary

COURSE = "course.json"
"""How far rejection sampling has come; stages that train keep states instead."""


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits of all that decides a run's result; what it reads must be there."""
    return keys.key_of(keys.made_from(config))


def show_finished(config: Config) -> bool:
    """Print the result of the run, if the folder holds it finished and whole; says whether it did."""
    summary = read_summary(config.folder / "summary.json")
    # Without a summary nothing is hashed: every rank asks, and what the run reads may be large.
    if config.fresh or not summary or missing(config) or summary["config_hash"] != config_hash(config):
        return False
    if os.environ.get("RANK", "0") == "0":
        print(format_result(summary, config.folder / "report.html"))
        print("This run was finished before; fresh=true repeats it.")
    return True


def prepare_folder(config: Config) -> keys.Made:
    """Make the run's folder ready, and leave in it the resolved config and what the run is made of.

    What this very run left unfinished there stays, to go on from. What another run left is moved aside
    where it was finished or has saved states, and deleted otherwise. Killed at any moment, it leaves a
    folder that it takes for a run's the next time.

    Returns:
        What the run is made of, of what it is about to read.

    Raises:
        BadRun: the folder holds something that no run left there.
    """
    made, folder = keys.made_from(config), config.folder
    shutil.rmtree(_going(folder), ignore_errors=True)  # of a run that was cut short in here
    if folder.exists() and any(folder.iterdir()):
        if _goes_on(config, made):
            shutil.rmtree(folder / "final", ignore_errors=True)  # exported, and then cut short
        else:
            _clear(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.yaml", to_yaml(config))
    write_atomic(folder / keys.FILE, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return made


def _goes_on(config: Config, made: keys.Made) -> bool:
    """Whether the folder holds this very run, unfinished and with something to go on from."""
    folder = config.folder
    if config.fresh or not (folder / keys.FILE).exists() or read_summary(folder / "summary.json"):
        return False
    before = json.loads((folder / keys.FILE).read_text())
    return keys.course_of(before) == keys.course_of(made) and _holds_work(folder)


def _holds_work(folder: Path) -> bool:
    """Whether there is something to go on from: a state, the base that comes first, answers that came."""
    states = (folder / "checkpoints").glob("*-[0-9]*")
    return any(states) or (folder / "base" / "config.json").exists() or (folder / COURSE).exists()


def _clear(config: Config) -> None:
    """Take away what another run left in the folder."""
    folder = config.folder
    if not (folder / "config.yaml").exists():
        raise BadRun([f"name: {folder} exists and is no run's folder; choose another name"])
    finished = read_summary(folder / "summary.json").get("config_hash")
    if config.fresh or not (finished or _holds_work(folder)):
        print(f"Starting over in {folder}: what an earlier run left there goes.")
        _delete(folder)
        return
    kept = folder.with_name(f"{folder.name}-{finished or _key_before(folder) + '-unfinished'}")
    _delete(kept)
    print(f"{folder} holds another run{', finished' if finished else ''}; it is kept as {kept}.")
    folder.rename(kept)


def _key_before(folder: Path) -> str:
    made = folder / keys.FILE
    return keys.key_of(json.loads(made.read_text())) if made.exists() else "unknown"


def _delete(folder: Path) -> None:
    """Delete the folder; cut short, nothing is left under its name."""
    if folder.exists():
        shutil.rmtree(_going(folder), ignore_errors=True)
        folder.rename(_going(folder))
        shutil.rmtree(_going(folder), ignore_errors=True)


def _going(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.deleted")
