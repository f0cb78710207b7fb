"""What a row of `samples.jsonl` holds, and which answers the report sets side by side.

Rows come from rollouts, from the evaluations before and after, or from an evaluation of several
models. They are taken in the order of the file: nothing is picked for looking good.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NotRequired, TypedDict


class SampleRow(TypedDict):
    """One answer. Extra keys are kept in the file and left alone by the report."""

    rollout: int
    """The rollout it was sampled in; the base's evaluation is rollout 0."""
    policy_version: int
    """The policy version that sampled it."""
    prompt: str
    answer: str
    rewards: dict[str, float]
    """Reward components by name."""
    truncated: bool
    """Cut at `max_answer_tokens`."""
    reference: NotRequired[str]
    """The right answer, where there is one."""
    of: NotRequired[str]
    """The model that gave it, where several were asked the same."""


Pair = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]


def pairs(rows: Iterable[Mapping[str, Any]], limit: int) -> list[Pair]:
    """Up to `limit` (before, after) pairs: the first and the last policy version of the file.

    Answers to the same prompt are paired if both versions answered any prompt in common; otherwise
    the first answers of either are put side by side. A side that has run out is None. Where the
    file knows one version only, all stands on the side of "after".
    """
    rows = list(rows)
    versions = {row["policy_version"] for row in rows}
    if len(versions) < 2:
        return [(None, row) for row in rows[:limit]]
    before = _first_by_prompt(row for row in rows if row["policy_version"] == min(versions))
    after = _first_by_prompt(row for row in rows if row["policy_version"] == max(versions))
    common = [prompt for prompt in before if prompt in after]
    if common:
        return [(before[prompt], after[prompt]) for prompt in common[:limit]]
    left, right = list(before.values())[:limit], list(after.values())[:limit]
    count = max(len(left), len(right))
    return list(zip(_padded(left, count), _padded(right, count), strict=True))


def side_by_side(rows: Iterable[Mapping[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The first `limit` questions: `prompt`, `reference`, and the first answer to it of each model."""
    asked: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        asked.setdefault(row["prompt"], {}).setdefault(row.get("of", ""), row)
    return [
        {"prompt": prompt, "answers": list(by_model.values()), "reference": _reference(by_model)}
        for prompt, by_model in list(asked.items())[:limit]
    ]


def _reference(by_model: Mapping[str, Mapping[str, Any]]) -> str:
    return str(next(iter(by_model.values())).get("reference") or "")


def _first_by_prompt(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["prompt"], row)
    return first


def _padded(rows: list[Mapping[str, Any]], count: int) -> list[Mapping[str, Any] | None]:
    return rows + [None] * (count - len(rows))
