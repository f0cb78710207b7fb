"""How each stage of a pipeline stands: done, to be run, or open until what it reads is made; and why.

A stage is done when its folder holds the summary of this very run, by its key, and all that it writes.
A stage is open when others before it are to be run: where they leave what they left before, it is not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1mega.pipeline import keys
from r1mega.pipeline.artifacts import missing
from r1mega.pipeline.graph import Node
from r1mega.track.summary import read_summary

PHRASES_SHOWN = 3


@dataclass(frozen=True)
class Standing:
    """Whether a stage is to be run; None: not known yet. `why` is for people, empty where it is done."""

    runs: bool | None
    why: str = ""


def standing(node: Node, forced: Collection[str] = (), made_anew: Collection[str] = ()) -> Standing:
    """How the stage stands.

    Args:
        forced: stages that are to be run again, done or not.
        made_anew: stages before it that are to be run, or may be; what they will leave is not known yet.
    """
    if node.name in forced:
        return Standing(True, "asked for")
    before = _made_before(node)
    if before is None:
        return Standing(True, "not run yet")
    open_reads = {key: one for key, one in node.reads.items() if one.partition("/")[0] in made_anew}
    changed = keys.differences(
        _without(before, open_reads), _without(keys.made_from(node.config), open_reads), node.reads
    )
    if changed:
        return Standing(True, _listed(changed))
    if read_summary(node.config.folder / "summary.json").get("config_hash") != keys.key_of(before):
        return Standing(True, "was not finished")
    if gone := missing(node.config):
        return Standing(True, f"{', '.join(gone)} is gone")
    if open_reads:
        return Standing(None, f"if {' or '.join(sorted(set(open_reads.values())))} changes")
    return Standing(False)


def standings(nodes: Sequence[Node], forced: Collection[str] = ()) -> dict[str, Standing]:
    """How all stages stand, none of them run yet."""
    found: dict[str, Standing] = {}
    for node in nodes:
        made_anew = {one for one in node.after if found[one].runs is not False}
        found[node.name] = standing(node, forced, made_anew)
    return found


def _without(made: keys.Made, gone: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if key not in gone}


def _made_before(node: Node) -> dict[str, Any] | None:
    """What the run in the stage's folder was made of; None where there is none."""
    file: Path = node.config.folder / keys.FILE
    return json.loads(file.read_text()) if file.exists() else None


def _listed(phrases: Sequence[str]) -> str:
    more = len(phrases) - PHRASES_SHOWN
    return ", ".join(phrases[:PHRASES_SHOWN]) + (f", and {more} more" if more > 0 else "")
