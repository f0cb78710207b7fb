"""The reward components by name, and how they add up to one reward.

A component judges the form of a text, how it suits the question, or an answer read out of it that is
then verified. Some of those are rewards, which a run may weigh; the others are metrics only. A
truncated answer earns 0 in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

from r1mega.rewards import code
from r1mega.rewards import format as form
from r1mega.rewards.accuracy import Gradable, verify
from r1mega.rewards.language import consistency, is_mixed
from r1mega.rewards.reflection import reflects

BY_FORM: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {"format": form.score, "mixed_language": is_mixed, "reflects": reflects}
)
"""Components that look at the text alone: name -> its score."""

BY_QUESTION: Mapping[str, Callable[[Gradable, str], float]] = MappingProxyType(
    {"language": lambda question, text: consistency(text, question.language)}
)
"""Components that hold the text against what the question asks for: name -> its score."""

BY_ANSWER: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {"accuracy": form.answer_of, "accuracy_any_format": form.answer_any_format}
)
"""Components that verify an answer: name -> how it is read out of the text."""

PROGRAM_BY_ANSWER: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {"accuracy": code.answer_in, "accuracy_any_format": code.answer_in_any_format}
)
"""The same where the answer is a program."""

BY_MODEL = ("helpful", "harmless")
"""Components that a reward model judges; the stage that holds the models adds them."""

KINDS = ("reasoning", "general", "safety")
"""The kinds of question, each rewarded by weights of its own."""

METRICS = frozenset({"accuracy_any_format", "mixed_language", "reflects"})
"""Components that are watched and never rewarded: weighing them would pay for broken form or empty words."""

NAMES = (*BY_ANSWER, *BY_FORM, *BY_QUESTION)
"""Every component that is computed here."""


def score(
    question: Gradable,
    text: str,
    truncated: bool = False,
    verified: Callable[[Gradable, str | None], bool] = verify,
) -> dict[str, float]:
    """Every component of one answer text, by name.

    `verified` says whether an answer is right; the default computes it here and now, without
    limits.
    """
    if truncated:
        return dict.fromkeys(NAMES, 0.0)
    answers = {name: float(verified(question, read(text))) for name, read in _readers(question).items()}
    forms = {name: float(judge(text)) for name, judge in BY_FORM.items()}
    return answers | forms | {name: judge(question, text) for name, judge in BY_QUESTION.items()}


def answers_in(question: Gradable, text: str, truncated: bool = False) -> set[str | None]:
    """The answers that `score` will ask to have verified."""
    return set() if truncated else {read(text) for read in _readers(question).values()}


def combine(components: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The reward: the weighed components' sum. Components without a weight do not count, and one that an
    answer was not judged by, as before the reward models have a say, adds nothing."""
    return sum(weight * components.get(name, 0.0) for name, weight in weights.items())


def check_weights(by_kind: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Every fault of `reward.weights`: by kind of question, the weight of each component."""
    faults = [
        f"reward.weights.{kind}: must be a kind of question, it may be {', '.join(KINDS)}"
        for kind in by_kind
        if kind not in KINDS
    ]
    for kind, weights in by_kind.items():
        key = f"reward.weights.{kind}"
        faults += [fault for name, weight in weights.items() for fault in _faults(key, name, weight)]
        if not any(weights.values()):
            faults.append(f"{key}: was all zero; must weigh a reward, or no answer could earn any")
    return faults


def _readers(question: Gradable) -> Mapping[str, Callable[[str], str | None]]:
    return PROGRAM_BY_ANSWER if code.is_code(question.entry) else BY_ANSWER


def _faults(key: str, name: str, weight: float) -> list[str]:
    rewards = sorted({*NAMES, *BY_MODEL} - METRICS)
    if name in METRICS:
        return [f"{key}.{name}: was {weight}; must be left out, it is a metric and no reward"]
    if name not in rewards:
        close = get_close_matches(name, rewards, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it may be {', '.join(rewards)}"
        return [f"{key}.{name}: was {weight}; must be a reward, {hint}"]
    if not (math.isfinite(weight) and weight >= 0):
        return [f"{key}.{name}: was {weight}; must be a number of at least 0"]
    return []
