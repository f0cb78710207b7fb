"""What the recipe claims, held against the figures of a whole run and against nothing else.

The claims are those of shape that a run at any size can show (DeepSeek-R1, arXiv 2501.12948): that RL from
the base learns, that it mixes languages and what mends it, that the later stages add general ability
without losing reasoning, and that a small model gains more from distillation than from RL.

A claim whose models or measures are not there is "not measured", and says which; one that the figures
contradict, or leave open, is "not shown", with the numbers that say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

LEAST_GAIN = 0.30
"""How far R1-Zero's pass@1 is to be above the base's."""
LEAST_MIXING = 0.02
"""Below it there is no mixing of languages to be mended."""
LEAST_SEEDS = 2
"""With fewer, what the seed does cannot be told from what the method does."""
MOST_TOKENS = 1.1
"""How many tokens distillation may have learnt from, as a multiple of RL's: budgets end between batches."""

PAPERS_ORDER = ("base", "dev1", "dev2", "zero", "dev3", "r1")
"""pass@1 on AIME 2024 from low to high: 15.6 (where R1-Zero starts), 59.0, 74.0, 77.9, 78.1, 79.8."""

Figures = Mapping[str, Any]
Models = Mapping[str, Mapping[str, Figures]]
"""By model, its measures: each has `mean` and `ci95`."""
Judged = tuple[bool, str]
"""Whether the figures show a claim, and the numbers in words."""


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


def claims(summary: Mapping[str, Any]) -> list[Claim]:
    """Every claim, from the summary of a whole run: `table`, `table_s` and the students' tokens in it."""
    stages = summary.get("stages", {})
    table, students = (stages.get(name, {}).get("models", {}) for name in ("table", "table_s"))
    return [
        _judge(
            "R1-Zero learns far above its base, and its vote is surer still",
            _missing(table, base=["pass_at_1"], zero=["pass_at_1", "cons_at_k"]),
            lambda: _zero_learns(table),
        ),
        _judge(
            "Cold start and the language reward mend the languages that R1-Zero mixes",
            _missing(table, zero=["mixed_language", "pass_at_1"], dev2=["mixed_language", "pass_at_1"]),
            lambda: _mixing_is_mended(table),
        ),
        _judge(
            "Rejection SFT and all-scenario RL add general ability and keep reasoning",
            _missing(table, **dict.fromkeys(("dev2", "dev3", "r1"), ("pass_at_1", "general", "safety"))),
            lambda: _stages_add(table),
        ),
        _judge(
            "A small model distilled beats the same model trained by RL",
            [fault for kind in ("distilled", "rl") for fault in _missing_seeds(students, kind)],
            lambda: _distillation_beats_rl(
                students, *(_tokens(stages, kind) for kind in ("distilled", "rl"))
            ),
        ),
    ]


def _judge(title: str, missing: Sequence[str], judge: Callable[[], Judged]) -> Claim:
    if missing:
        return Claim(title, Verdict.not_measured, f"not there: {', '.join(missing)}")
    shown, words = judge()
    return Claim(title, Verdict.shown if shown else Verdict.not_shown, words)


def _missing(models: Models, **wanted: Sequence[str]) -> list[str]:
    """Every measure of a model that is wanted and not there."""
    return [
        f"{name} of {model}"
        for model, names in wanted.items()
        for name in names
        if name not in models.get(model, {})
    ]


def _mean(models: Models, model: str, name: str) -> float:
    return float(models[model][name]["mean"])


def _zero_learns(models: Models) -> Judged:
    base, zero = (_mean(models, model, "pass_at_1") for model in ("base", "zero"))
    votes = _mean(models, "zero", "cons_at_k")
    words = (
        f"pass@1 {base:.3f} to {zero:.3f}, {zero - base:+.3f} where at least {LEAST_GAIN:+.2f} is asked;"
        f" R1-Zero's vote {votes:.3f} is {'above' if votes > zero else 'not above'} its pass@1"
    )
    # 0.7 - 0.4 is a gain of 0.3, whatever floats make of it.
    return round(zero - base, 9) >= LEAST_GAIN and votes > zero, words


def _mixing_is_mended(models: Models) -> Judged:
    zero, mended = (_mean(models, model, "mixed_language") for model in ("zero", "dev2"))
    price = _mean(models, "dev2", "pass_at_1") - _mean(models, "zero", "pass_at_1")
    words = (
        f"answers in mixed languages {zero:.3f} after R1-Zero to {mended:.3f} after Dev2, where half is"
        f" asked; the price: pass@1 {price:+.3f} from R1-Zero to Dev2"
    )
    if zero < LEAST_MIXING:
        return False, f"{words}; R1-Zero mixes in less than {LEAST_MIXING:.0%}, too little to tell"
    return mended <= zero / 2, words


def _stages_add(models: Models) -> Judged:
    chain = ("dev2", "dev3", "r1")
    rise, words = True, []
    for name in ("general", "safety"):
        means = [_mean(models, model, name) for model in chain]
        rise &= all(before < after for before, after in pairwise(means))
        words.append(f"{name} requests {_joined(means)} (Dev2, Dev3, R1)")
    scores = [models[model]["pass_at_1"] for model in chain]
    kept = all(after["ci95"][1] >= before["ci95"][0] for before, after in combinations(scores, 2))
    fate = "no fall beyond the intervals" if kept else "a fall beyond the intervals"
    words += [f"pass@1 {_joined(float(score['mean']) for score in scores)}, {fate}", _order(models)]
    return rise and kept, "; ".join(words)


def _joined(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _order(models: Models) -> str:
    """The models by pass@1 here and in the paper, of those that were measured here."""
    theirs = [model for model in PAPERS_ORDER if "pass_at_1" in models.get(model, {})]
    ours = sorted(theirs, key=lambda model: _mean(models, model, "pass_at_1"))
    words = f"by pass@1 from low to high {' < '.join(ours)}"
    return f"{words}, as in the paper" if ours == theirs else f"{words}; in the paper {' < '.join(theirs)}"


def _distillation_beats_rl(
    models: Models, distilled_tokens: float | None, trained_tokens: float | None
) -> Judged:
    distilled, trained = (_seeds(models, kind) for kind in ("distilled", "rl"))
    words = f"pass@1 {_spread(distilled)} distilled, {_spread(trained)} by RL"
    if "pass_at_1" in models.get("base", {}):
        words += f", {_mean(models, 'base', 'pass_at_1'):.3f} before either"
    if distilled_tokens is None or trained_tokens is None:
        return min(distilled) > max(trained), f"{words}; how many tokens each learnt from is not there"
    words += f"; on {distilled_tokens:,.0f} and {trained_tokens:,.0f} tokens a seed"
    if distilled_tokens > MOST_TOKENS * trained_tokens:
        return False, f"{words}, more than RL had: no fair comparison"
    return min(distilled) > max(trained), words


def _tokens(stages: Mapping[str, Any], kind: str) -> float | None:
    """Tokens that the small student's stages of this kind learnt from, mean over seeds; prompts included."""
    found = [
        stage["train"]["tokens"]
        for name, stage in stages.items()
        if name.startswith(f"student_s_{kind}_") and "tokens" in stage.get("train", {})
    ]
    return fmean(found) if found else None


def _missing_seeds(models: Models, kind: str) -> list[str]:
    count = len(_seeds(models, kind))
    return (
        [] if count >= LEAST_SEEDS else [f"pass_at_1 of {kind}_N ({count} of {LEAST_SEEDS} seeds at least)"]
    )


def _seeds(models: Models, kind: str) -> list[float]:
    """pass@1 of every seed's model."""
    return [
        float(measures["pass_at_1"]["mean"])
        for name, measures in models.items()
        if name.startswith(f"{kind}_") and "pass_at_1" in measures
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f} over {len(values)} seeds)"
