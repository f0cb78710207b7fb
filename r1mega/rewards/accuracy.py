"""Whether a given answer is right: its program's tests, a task's own verifier, or math-verify.

A question with a reasoning-gym `entry` is verified by the task that asked it, and is right only at
full score: partial credit for prose around a number never counts. A multiple-choice question's entry
is {"kind": "choice", "letter": "B"}, that of one whose answer is a whole number has the kind "number",
and requests have entries that `request` reads. A programming question is right if the program passes
every test in the sandbox (`code` has its entries). Any other is right if it reads like the reference
answer or is mathematically equal to it.

`verify` may compute for ever on a hostile answer, take all memory, or evaluate what the answer
says (some verifiers parse expressions with eval): it belongs into a worker of `grader`, and sets
no limit of its own. What a verifier trips over is wrong; it raises only `SandboxError`, for a program
on a machine that cannot run it safely.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol

from r1mega import gym
from r1mega.rewards import code
from r1mega.rewards.choice import choice_of
from r1mega.rewards.request import satisfies

_WHOLE = re.compile(r"\s*[-+]?[0-9]{1,20}\s*")
_MAX_CHARACTERS = 1_000  # a longer text is no answer, and costs no worker's time
_tasks: dict[tuple[str, str], Any] = {}  # verifiers made so far, by task and parameters


class Gradable(Protocol):
    """The fields of a question that grading reads."""

    @property
    def id(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def entry(self) -> dict[str, Any]: ...
    @property
    def parameters(self) -> dict[str, Any]: ...
    @property
    def language(self) -> str: ...


def worth_verifying(question: Gradable, given: str | None) -> bool:
    """Whether there is an answer at all, and of a length that one may have."""
    longest = code.MAX_CHARACTERS if code.is_code(question.entry) else _MAX_CHARACTERS
    return given is not None and 0 < len(given) <= longest


def verify(question: Gradable, given: str | None) -> bool:
    """Whether `given`, the bare answer without tags or prose, is right."""
    if given is None or not worth_verifying(question, given):
        return False
    if code.is_code(question.entry):
        return code.passes(question.entry, given)  # a machine that cannot run it is not a wrong answer
    try:
        match question.entry.get("kind"):
            case "choice":
                return choice_of(given) == question.entry["letter"]
            case "number":
                return _WHOLE.fullmatch(given) is not None and int(given) == int(question.answer)
            case "request" | "safety":
                return satisfies(question.entry, given)
        if question.entry:
            return _by_task(question, given)
        return _same_text(question.answer, given) or _equal(question.answer, given)
    except Exception:  # verifiers fail in every way on answers they did not expect
        return False


def warm_up() -> None:
    """Import and run once what grading needs, so that the first answer is not charged for it."""
    gym.load()
    _equal("1", "2")


def _by_task(question: Gradable, given: str) -> bool:
    """The task's verifier reads its parameters, so each set of them has its own."""
    key = (question.task, repr(sorted(question.parameters.items())))
    if key not in _tasks:
        _tasks[key] = gym.load().create_dataset(question.task, **question.parameters, seed=0, size=1)
    return bool(_tasks[key].score_answer(given, question.entry) >= 1.0)


def _same_text(reference: str, given: str) -> bool:
    return " ".join(reference.split()).casefold() == " ".join(given.split()).casefold()


def _equal(reference: str, given: str) -> bool:
    """Mathematical equality, LaTeX or plain; the order of arguments matters to math-verify."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that no limit is set
    gold, target = (parse(_as_math(text), parsing_timeout=None) for text in (reference, given))
    return bool(verify(gold, target, timeout_seconds=None))


def _as_math(text: str) -> str:
    """LaTeX without its delimiters is read as LaTeX only inside them."""
    return text if any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed")) else f"${text}$"
