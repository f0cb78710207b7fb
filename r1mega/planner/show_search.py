"""A search for the fastest layout, as JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1mega.planner.fastest import Candidate, Found
from r1mega.planner.table import columns, gib


def search_as_json(found: Found) -> dict[str, Any]:
    """What was found, what is faster and does not fit, and what cannot be; seconds are those of a step."""
    return {
        "gpus": found.gpus,
        "layouts": found.tried,
        "given_seconds": found.given_seconds,
        "best": None if found.best is None else _candidate(found.best),
        "faster_but_over": [
            _candidate(one) | {"what": lacks.what, "bytes_over": lacks.bytes} for one, lacks in found.refused
        ],
        "over_by_phase": dict(found.over.most_common()),
        "cannot_be": dict(found.cannot_be.most_common()),
    }


def _candidate(one: Candidate) -> dict[str, Any]:
    return {"overrides": list(one.overrides), "seconds": one.seconds}


def words_of_search(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    best = found["best"]
    lines = [f"{found['layouts']:,} layouts on {found['gpus']:,} GPUs were looked at."]
    if best is None:
        lines.append("None was found that fits.")
    else:
        lines += [
            f"The fastest that fits takes {best['seconds']:,.1f} s a step;"
            f" as given it is {found['given_seconds']:,.1f} s:",
            f"  {' '.join(best['overrides'])}",
        ]
    if found["faster_but_over"]:
        lines += ["", "Faster, and too large; the fastest of them:"]
        rows = [
            [" ".join(one["overrides"]), f"{one['seconds']:,.1f} s", f"{gib(one['bytes_over'])} GiB over"]
            for one in found["faster_but_over"]
        ]
        whats = [one["what"] for one in found["faster_but_over"]]
        lines += [f"  {line}  {what}" for line, what in zip(columns(rows), whats, strict=True)]
    for title, counted in (("Too large in", "over_by_phase"), ("Cannot be", "cannot_be")):
        if found[counted]:
            lines += ["", f"{title}:"]
            lines += [f"  {number:>7,}  {what}" for what, number in found[counted].items()]
    return lines
