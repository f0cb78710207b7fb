"""What the recipe claims, held against the figures of a whole run and against nothing else.

The claims are those of shape that a run at any size can show (DeepSeek-R1, arXiv 2501.12948): that RL from
the base learns, that it mixes languages and what mends it, that the later stages add general ability
without losing reasoning, and that a small model gains more from distillation than from RL.

A claim whose models or measures are not there is "not measured"; one that the figures contradict, or
leave open, is "not shown", with the numbers that say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import Any

LEAST_GAIN = 0.30
"""How far R1-Zero's pass@1 is to be above the base's."""
LEAST_MIXING = 0.02
"""Below it there is no mixing of languages to be mended."""

Figures = Mapping[str, Any]
Models = Mapping[str, Mapping[str, Figures]]
"""By model, its measures: each has `mean` and `ci95`."""


class Verdict(StrEnum):
    """What became of a claim."""

    shown = "shown"
    not_shown = "not shown"
    not_measured = "not measured"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, its verdict, and the numbers behind it in words."""

    title: str
    verdict: Verdict
    words: str


class _Missing(Exception):
    """A model or measure that a claim needs."""


def claims(summary: Mapping[str, Any]) -> list[Claim]:
    """Every claim, from the summary of a whole run."""
    stages = summary.get("stages", {})
    table = stages.get("table", {}).get("models", {})
    students = stages.get("table_s", {}).get("models", {})
    judged: Sequence[tuple[str, Callable[[Models], tuple[bool, str]], Models]] = (
        ("R1-Zero learns far above its base", _zero_learns, table),
        ("The language reward mends what R1-Zero mixes", _mixing_is_mended, table),
        ("Later stages add general ability and keep reasoning", _stages_add, table),
        ("Distillation beats RL on the small model", _distillation_beats_rl, students),
    )
    return [_judge(title, judge, models) for title, judge, models in judged]


def _judge(title: str, judge: Callable[[Models], tuple[bool, str]], models: Models) -> Claim:
    try:
        shown, words = judge(models)
    except _Missing as error:
        return Claim(title, Verdict.not_measured, f"{error} is not there")
    return Claim(title, Verdict.shown if shown else Verdict.not_shown, words)


def _measure(models: Models, model: str, name: str) -> Figures:
    try:
        return models[model][name]
    except KeyError:
        raise _Missing(f"{name} of {model}") from None


def _mean(models: Models, model: str, name: str) -> float:
    return float(_measure(models, model, name)["mean"])


def _zero_learns(models: Models) -> tuple[bool, str]:
    base, zero = (_mean(models, model, "pass_at_1") for model in ("base", "zero"))
    votes = _mean(models, "zero", "cons_at_k")
    words = (
        f"pass@1 {base:.3f} to {zero:.3f}, {zero - base:+.3f} where at least {LEAST_GAIN:+.2f} is asked;"
        f" R1-Zero's vote {votes:.3f} is {'above' if votes > zero else 'not above'} its pass@1"
    )
    return zero - base >= LEAST_GAIN and votes > zero, words


def _mixing_is_mended(models: Models) -> tuple[bool, str]:
    zero, mended = (_mean(models, model, "mixed_language") for model in ("zero", "dev2"))
    price = _mean(models, "dev2", "pass_at_1") - _mean(models, "zero", "pass_at_1")
    words = f"answers in mixed languages {zero:.3f} to {mended:.3f}; pass@1 {price:+.3f} from R1-Zero to Dev2"
    if zero < LEAST_MIXING:
        return False, f"{words}; R1-Zero mixed too little to tell"
    return mended <= zero / 2, words


def _stages_add(models: Models) -> tuple[bool, str]:
    added, words = True, []
    for name in ("general", "safety"):
        dev2, dev3, r1 = (_mean(models, model, name) for model in ("dev2", "dev3", "r1"))
        added &= dev2 < dev3 and dev2 < r1
        words.append(f"{name} requests {dev2:.3f}, {dev3:.3f}, {r1:.3f} (Dev2, Dev3, R1)")
    before, after = (_measure(models, model, "pass_at_1") for model in ("dev2", "r1"))
    kept = after["ci95"][1] >= before["ci95"][0]
    words.append(f"pass@1 {before['mean']:.3f} to {after['mean']:.3f}, {'kept' if kept else 'lost'}")
    return added and kept, "; ".join(words)


def _distillation_beats_rl(models: Models) -> tuple[bool, str]:
    distilled, trained = (_seeds(models, kind) for kind in ("distilled", "rl"))
    words = f"pass@1 {_spread(distilled)} distilled, {_spread(trained)} by RL"
    return min(distilled) > max(trained), words


def _seeds(models: Models, kind: str) -> list[float]:
    """pass@1 of every seed's model."""
    names = [name for name in models if name.startswith(f"{kind}_")]
    if not names:
        raise _Missing(f"pass_at_1 of {kind}_0")
    return [_mean(models, name, "pass_at_1") for name in names]


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f} over {len(values)} seeds)"
