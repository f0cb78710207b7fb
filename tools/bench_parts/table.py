"""The ratios beside their bars, what they are made of, and the same as JSON."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench_parts.cycle import PHASE, PROBE, RAW
from bench_parts.measure import NAMED_BY_THE_BAR, REPLICAS
from bench_parts.timing import Turn
from r1mega.track.environment import versions

Side = Callable[[Turn], float]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One row: each side's median over the turns; of the turns' ratios, median and quartiles."""

    name: str
    unit: str
    ours: float
    raw: float
    measured: float
    quartiles: tuple[float, float]
    bar: str


def ratios(figures: Mapping[str, Any]) -> list[Ratio]:
    """All rows; those with a bar are the three that the project holds itself to."""
    rollout, training, cycle = figures["rollout"], figures["training"], figures["cycle"]
    ways = sorted(NAMED_BY_THE_BAR, key=lambda way: -_median(rollout, _of(way)))
    ours = _of("r1mega")
    return [
        _ratio(f"rollout, over {ways[0]}", "tok/s", rollout, ours, _of(ways[0]), ">= 0.90"),
        _ratio(f"  over {ways[1]}", "tok/s", rollout, ours, _of(ways[1])),
        _ratio(f"  over {REPLICAS}", "tok/s", rollout, ours, _of(REPLICAS)),
        _ratio("training, one update", "s", training, ours, _of("raw Megatron"), "<= 1.15"),
        _ratio("cycle, over its raw parts", "s", cycle, ours, _raw, "<= 1.15"),
        _ratio("  with the probe as raw parts", "s", cycle, ours, _raw_with_probe),
        _ratio("  without the proof", "s", cycle, _without_proof, _raw),
    ]


def _of(side: str) -> Side:
    return lambda turn: turn[side]


def _raw(turn: Turn) -> float:
    return sum(seconds for name, seconds in turn.items() if name.startswith(RAW))


def _raw_with_probe(turn: Turn) -> float:
    return _raw(turn) + sum(seconds for name, seconds in turn.items() if name.startswith(PROBE))


def _without_proof(turn: Turn) -> float:
    return turn["r1mega"] - turn[f"{PHASE}proof"]


def _median(turns: Sequence[Turn], side: Side) -> float:
    return statistics.median(map(side, turns))


def _ratio(name: str, unit: str, turns: Sequence[Turn], ours: Side, raw: Side, bar: str = "") -> Ratio:
    each = [ours(turn) / raw(turn) for turn in turns]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return Ratio(name, unit, _median(turns, ours), _median(turns, raw), middle, (low, high), bar)


def show(figures: Mapping[str, Any]) -> None:
    """Print the table, then where a cycle's time goes."""
    form = "{:40} {:>12} {:>12} {:>7} {:>12} {:>8}"
    print("\n" + form.format("", "r1mega", "raw", "ratio", "quartiles", "bar"))
    for row in ratios(figures):
        number = "{:,.0f} tok/s" if row.unit == "tok/s" else "{:.3f} s"
        sides = [number.format(side) for side in (row.ours, row.raw)]
        spread = "{:.2f}-{:.2f}".format(*row.quartiles)
        print(form.format(row.name, *sides, f"{row.measured:.2f}", spread, row.bar))
    for title, prefix in {"r1mega's phases": PHASE, "raw parts": RAW, "raw probe": PROBE}.items():
        print(f"\nOf a cycle, {title}")
        _show_phases(figures["cycle"], prefix)
    same = ", ".join(f"{way} {share:.1%}" for way, share in figures["same_answers"].items())
    print(f"\nThe same answers as r1mega's, token for token: {same}.")
    print(f"{os.cpu_count()} cores; load before: {figures['load_before']:.1f}.", flush=True)


def _show_phases(turns: Sequence[Turn], prefix: str) -> None:
    for name in (name for name in turns[0] if name.startswith(prefix)):
        print(f"  {name.removeprefix(prefix):24}{_median(turns, _of(name)):8.3f} s")


def write(figures: Mapping[str, Any], path: Path, overrides: Sequence[str]) -> None:
    """Everything measured, each turn of it, and what it was measured on."""
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "overrides": list(overrides),
        "cores": os.cpu_count(),
        "environment": versions(),
        **({"ratios": [asdict(row) for row in ratios(figures)]} if "cycle" in figures else {}),
        **figures,
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def _commit() -> str:
    described = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    asked = subprocess.run(described, cwd=here, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
