"""A run's folder before and after: whether it holds this very run, finished, and making it ready.

Imports no torch: the launcher asks before it starts any rank.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from r1mega.config import BadRun, Config, to_yaml
from r1mega.pipeline import keys
from r1mega.pipeline.artifacts import missing
from r1mega.track.files import write_atomic
from r1mega.track.summary import format_result, read_summary


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


def prepare_folder(config: Config) -> str:
    """Clear the run's folder of an earlier run and leave in it the resolved config and what it is made of.

    What another run finished there is moved aside; what it left unfinished is deleted. Killed at any
    moment, it leaves a folder that it takes for a run's the next time.

    Returns:
        The run's `config_hash`, of what it is about to read.

    Raises:
        BadRun: the folder holds something that no run left there.
    """
    made, folder = keys.made_from(config), config.folder
    shutil.rmtree(_going(folder), ignore_errors=True)  # of a run that was cut short in here
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "config.yaml").exists():
            raise BadRun([f"name: {folder} exists and is no run's folder; choose another name"])
        finished = read_summary(folder / "summary.json").get("config_hash")
        if finished and not config.fresh:
            kept = folder.with_name(f"{folder.name}-{finished}")
            _delete(kept)
            print(f"{folder} holds another run, finished; it is kept as {kept}.")
            folder.rename(kept)
        else:
            print(f"Starting over in {folder}: what an earlier run left there goes.")
            _delete(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    write_atomic(folder / keys.FILE, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return keys.key_of(made)


def _delete(folder: Path) -> None:
    """Delete the folder; cut short, nothing is left under its name."""
    if folder.exists():
        shutil.rmtree(_going(folder), ignore_errors=True)
        folder.rename(_going(folder))
        shutil.rmtree(_going(folder), ignore_errors=True)


def _going(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.deleted")
