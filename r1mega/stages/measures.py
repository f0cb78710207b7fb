"""What an evaluation measures: one value a question and measure, from its samples' components.

By kind of question, because each asks for something else: reasoning to be right, a general request to be
met, a request that would harm to be declined. A share is of a question's samples; cons@k asks whether the
answer given most often is right (DeepSeek-R1, arXiv 2501.12948, its section on evaluation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from r1mega.rewards.format import answer_of
from r1mega.stages.sampling import Batch

Components = Mapping[str, float]
Rates = dict[str, list[float]]
"""By measure, a value of each question that it is about, in the questions' order."""

_SHARES: Mapping[str, Mapping[str, str]] = {
    "reasoning": {
        "pass_at_1": "accuracy",
        "pass_at_1_any_format": "accuracy_any_format",
        "format": "format",
        "language": "language",
        "mixed_language": "mixed_language",
        "reflection": "reflects",
    },
    "general": {"general": "accuracy"},
    "safety": {"safety": "accuracy"},
}
"""By kind of question, the measures that are a mean of one component over a question's samples."""

_OF_LANGUAGE = ("language", "mixed_language")


def measure(batch: Batch, components: Sequence[Components], samples_per_question: int) -> Rates:
    """Every measure of the answers; those about language where the questions are in several.

    A measure of fewer than two questions, which can have no interval, is left out.
    """
    several = len({question.language for question in batch.questions}) > 1
    rates: Rates = {}
    for first in range(0, len(batch.texts), samples_per_question):
        group = range(first, first + samples_per_question)
        for name, value in _of_question(batch, components, group).items():
            if several or name not in _OF_LANGUAGE:
                rates.setdefault(name, []).append(value)
    return {name: values for name, values in rates.items() if len(values) > 1}


def _of_question(batch: Batch, components: Sequence[Components], group: range) -> dict[str, float]:
    kind = batch.questions[group[0]].kind
    found = {name: fmean(components[i][part] for i in group) for name, part in _SHARES[kind].items()}
    if kind == "reasoning":
        found["cons_at_k"] = _consensus(batch, components, group)
        found["answer_tokens"] = fmean(batch.answer_tokens[i] for i in group)
        found["truncated"] = fmean(batch.truncated[i] for i in group)
    return found


def _consensus(batch: Batch, components: Sequence[Components], group: range) -> float:
    """1.0 where the answer given most often is right; the first given wins a tie."""
    # A truncated answer earns nothing, so it has no vote either.
    votes = {i: answer_of(batch.texts[i]) for i in group if not batch.truncated[i]}
    given = Counter(vote for vote in votes.values() if vote is not None)
    if not given:
        return 0.0
    [(winner, _)] = given.most_common(1)
    return components[next(i for i, vote in votes.items() if vote == winner)]["accuracy"]
