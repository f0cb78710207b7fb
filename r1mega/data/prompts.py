"""Questions for RL from a file of one's own, JSONL or parquet.

Formats: r1mega's own (`question`, `answer`), verl's (`data_source`, `prompt`, `ability`,
`reward_model`, `extra_info`), TRL's (`prompt` and one of `answer`, `ground_truth`, `solution`, the
first there is) and OpenAI's chat (`messages`, whose last turn, the assistant's, is the reference). To
each may come `id`, `language` ("en" or "zh"), `kind` and `entry`, the tests of a programming question
(`code_tests`); other keys are let be. A system turn stands before the question, parted from it by a
blank line.

A question without `kind` is for reasoning; verl's `ability` says it too. Reasoning needs a reference
answer or tests; general and safety questions are judged by reward models and do without.

Reading guarantees distinct texts and ids and reports every bad row at once, by file and line. It
refuses, besides what `files` and `formats` refuse: missing, empty or non-text values, several turns
of the user, an id used twice, and one question with two different answers. A question that is
repeated with the same answer is kept once, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1mega.data import code_tests
from r1mega.data.chat import LANGUAGES, Conversation, answered, as_text, asked
from r1mega.data.fields import Fields
from r1mega.data.formats import Format, Reading
from r1mega.data.question import Question, Questions, question_id
from r1mega.data.tasks import TooFewQuestionsError, shuffled

TASK = "prompts_file"
"""The `task` of questions that come from a file; those without tests are graded by math-verify."""
KINDS = ("reasoning", "general", "safety")
"""What a question's `kind` may be."""

_CODE = frozenset({"code", "coding", "programming"})
_REASONING = _CODE | {"math", "maths", "mathematics", "logic", "logical", "reasoning", "puzzle"}
_REASONING |= {"science", "stem", "physics", "chemistry", "biology"}
_SAFETY = frozenset({"safety", "harmless", "harmlessness"})
_GSM8K = "\n#### "


def read_prompts(path: str | Path, language_of: Callable[[str], str] = lambda _: "en") -> list[Question]:
    """The file's questions in its order. Raises `DataFileError`.

    `language_of` a question's text is its language where the row names none.
    """
    reading = Reading(path, _FORMATS, "question")
    line_of_id: dict[str, int] = {}
    for number, read in reading:
        question = read if read.language else replace(read, language=language_of(read.text))
        claim = question.answer, repr(question.entry), question.kind
        if reading.keep(number, question, question.text, claim, "answer, tests or kind"):
            first = line_of_id.setdefault(question.id, number)
            if first != number:
                reading.wrong(number, f"id {question.id[:40]!r} is that of line {first}")
    return reading.finish()


def split(questions: Sequence[Question], train: int, held_out: int, seed: int) -> Questions:
    """Set `held_out` questions apart at random, and keep up to `train` of the others.

    The held-out set does not depend on `train`. Raises `TooFewQuestionsError` if nothing is left to
    train on.
    """
    if len(questions) <= held_out:
        raise TooFewQuestionsError(
            f"data.held_out_questions: was {held_out}; must leave at least one of the"
            f" {len(questions)} distinct questions of the prompts file to train on"
        )
    mixed = shuffled(questions, f"split:{seed}")
    return Questions(train=mixed[held_out : held_out + train], held_out=mixed[:held_out])


def _own(fields: Fields, where: str) -> Question:
    kind, entry = _kind(fields), _entry(fields)
    turns = (("user", fields.text("question")),)
    return _question(fields, turns, _reference(fields, "answer", kind, entry), kind, entry)


def _trl(fields: Fields, where: str) -> Question:
    kind, entry = _kind(fields), _entry(fields)
    turns = _one_turn(fields, "prompt", asked(fields, "prompt"))
    key = fields.first("answer", "ground_truth", "solution")
    return _question(fields, turns, _reference(fields, key, kind, entry), kind, entry)


def _verl(fields: Fields, where: str) -> Question:
    reward, extra = fields.inner("reward_model"), fields.inner("extra_info")
    ability = set(re.split("[^a-z]+", (fields.optional_text("ability") or "").lower()))
    turns = _one_turn(fields, "prompt", asked(fields, "prompt"))
    kind, answer = _kind(fields, _kind_of_ability(ability)), ""
    entry = _entry(fields) or _entry(extra)
    if extra.has("tests") and not entry:
        entry = code_tests.read_entry(fields, "extra_info")
    elif ability & _CODE and not entry:
        entry = code_tests.read_verl(reward, "ground_truth")
    if not ability & _CODE:
        answer = _reference(reward, "ground_truth", kind, entry)
    return _question(fields, turns, answer, kind, entry)


def _chat(fields: Fields, where: str) -> Question:
    kind, entry = _kind(fields), _entry(fields)
    if _may_lack_answer(kind, entry) and _ends_with_user(fields.values.get("messages")):
        turns, answer = asked(fields, "messages"), ""
    else:
        turns, answer = answered(fields, "messages")
    return _question(fields, _one_turn(fields, "messages", turns), answer, kind, entry)


def _question(fields: Fields, turns: Conversation, answer: str, kind: str, entry: dict[str, Any]) -> Question:
    text = as_text(turns)
    return Question(
        id=fields.optional_text("id") or question_id(text.encode("utf-8", "replace").decode()),
        text=text,
        answer=answer,
        task=TASK,
        entry=entry,
        language=fields.choice("language", LANGUAGES) or "",
        kind=kind,
    )


def _one_turn(fields: Fields, key: str, turns: Conversation) -> Conversation:
    asking = [role for role, _ in turns if role != "system"]
    if len(asking) > 1:
        fields.wrong(key, f"must ask in one turn of the user, holds {len(asking)} turns before the answer")
    return turns


def _kind(fields: Fields, otherwise: str = "reasoning") -> str:
    return fields.choice("kind", KINDS) or otherwise


def _kind_of_ability(words: set[str]) -> str:
    """What verl's `ability`, as words, makes of a question; reasoning if it says nothing."""
    if words & _REASONING or not any(words):
        return "reasoning"
    return "safety" if words & _SAFETY else "general"


def _entry(fields: Fields) -> dict[str, Any]:
    return code_tests.read_entry(fields, "entry") if fields.has("entry") else {}


def _reference(fields: Fields, key: str, kind: str, entry: dict[str, Any]) -> str:
    """The reference answer, "" where there is none and need be none."""
    if _may_lack_answer(kind, entry) and fields.values.get(key) in (None, ""):
        return ""
    answer = fields.text(key)
    if _GSM8K in answer:
        fields.wrong(key, "holds GSM8K's mark ####: keep only what follows it")
    return answer


def _may_lack_answer(kind: str, entry: dict[str, Any]) -> bool:
    return kind != "reasoning" or bool(entry)


def _ends_with_user(messages: Any) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "user"


_FORMATS = (
    Format("r1mega", (("question",),), _own),
    Format("verl", (("prompt",), ("reward_model",)), _verl),
    Format("TRL", (("prompt",),), _trl),
    Format("OpenAI chat", (("messages",),), _chat),
)
