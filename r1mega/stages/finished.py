"""A run's folder before and after: whether it holds this very run, finished, and making it ready.

Imports no torch: the launcher asks before it starts any rank.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from r1mega.config import BadRun, Config, to_yaml
from r1mega.track.summary import format_result, read_summary

_NOT_HASHED = ("name", "runs_dir", "fresh")


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits of all that decides a run's result."""
    lines = [line for line in to_yaml(config).splitlines() if line.split(":")[0] not in _NOT_HASHED]
    for path in _files_read(config):
        status = path.stat()
        lines.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _files_read(config: Config) -> list[Path]:
    """The files whose content the run depends on; another size or time of change makes another run."""
    folder, prompts = config.model.init_from, config.data.prompts_file
    found = sorted(path for path in Path(folder).iterdir() if path.is_file()) if folder else []
    return [*found, *([Path(prompts)] if prompts else [])]


def show_finished(config: Config) -> bool:
    """Print the result of the run, if the folder holds it finished; says whether it did."""
    summary = read_summary(config.folder / "summary.json")
    if config.fresh or summary.get("config_hash") != config_hash(config):
        return False
    if os.environ.get("RANK", "0") == "0":
        print(format_result(summary, config.folder / "report.html"))
        print("This run was finished before; fresh=true repeats it.")
    return True


def prepare_folder(config: Config) -> None:
    """Clear the run's folder of an earlier run and leave the resolved config in it.

    What another run finished there is moved aside; what it left unfinished is deleted.

    Raises:
        BadRun: the folder holds something that no run left there.
    """
    folder = config.folder
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "config.yaml").exists():
            raise BadRun([f"name: {folder} exists and is no run's folder; choose another name"])
        finished = read_summary(folder / "summary.json").get("config_hash")
        if finished and not config.fresh:
            kept = folder.with_name(f"{folder.name}-{finished}")
            shutil.rmtree(kept, ignore_errors=True)
            print(f"{folder} holds another run, finished; it is kept as {kept}.")
            folder.rename(kept)
        else:
            print(f"Starting over in {folder}: what an earlier run left there goes.")
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
