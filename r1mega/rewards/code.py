"""Whether a generated program does what its question asks: every test passed, or nothing earned.

An entry says how a program is tested:

    {"kind": "stdin", "tests": [{"input": text, "output": text}, ...]}      reads input, prints output
    {"kind": "call", "function": name, "tests": [{"input": [argument, ...], "output": value}, ...]}
    {"kind": "humaneval", "function": name, "prompt": text, "test": text}   its own check(candidate)

with "time_limit_s" a test, 3 by default. A program is what the answer's last block fenced by ```python
holds, or else the whole answer. It runs in `sandbox` and is given inputs alone: outputs are compared on
this side, where it never is. Of text, blanks at the ends of lines and blank lines at the end do not count;
of values, types must be the same throughout: True is not 1, 1 is not 1.0, and a tuple is no list.

With stdin each test is a run of its own. Calls are made in one run, one after the other; what a program
remembers between them are inputs, from which it can forge nothing. Raises `SandboxError` where the machine
does not isolate: that is never a wrong answer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

from r1mega.rewards.sandbox import Limits, Status, isolation, run
from r1mega.rewards.sandbox_calls import CallFailed, Functions, examine
from r1mega.rewards.sandbox_values import dumps, same

KINDS = ("stdin", "call", "humaneval")
MAX_CHARACTERS = 64 * 1024
"""A longer answer is no program."""

_FENCE = "```"
_SLACK_S = 120.0  # on a busy machine, beside the limits of all tests; one that sleeps in each gets no more
_SLACK_BYTES = 64 * 1024  # a wrong answer may be longer than the right one
_HUMANEVAL_CPU_S = 10  # all of a question's calls together


class Report(NamedTuple):
    """How many of an entry's tests passed, of how many that were run."""

    passed: int
    tests: int
    out_of_time: bool

    @property
    def all_passed(self) -> bool:
        """Without a test nothing is proven."""
        return self.passed == self.tests > 0


def is_code(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is answered by a program."""
    return entry.get("kind") in KINDS


def code_faults(questions_need_code: bool) -> list[str]:
    """What keeps a run whose questions need code from starting here; nothing where none do."""
    if not questions_need_code:
        return []
    why = "data: holds questions that are answered by programs, which this machine cannot run safely"
    return [f"{why}: {fault}" for fault in isolation()]


def passes(entry: Mapping[str, Any], answer: str) -> bool:
    """Whether the answer's program passes every test."""
    return examine_answer(entry, answer, to_the_end=False).all_passed


def share(entry: Mapping[str, Any], answer: str) -> float:
    """The share of tests passed; a HumanEval question is a single one."""
    report = examine_answer(entry, answer)
    return report.passed / max(1, report.tests)


def examine_answer(
    entry: Mapping[str, Any],
    answer: str,
    called_off: threading.Event | None = None,
    to_the_end: bool = True,
) -> Report:
    """Run the answer's program on the tests, or up to the first that fails. Raises `CalledOff`."""
    passed, tests, late = 0, 0, False
    with closing(_verdicts(entry, program_in(answer), called_off or threading.Event())) as verdicts:
        for verdict in verdicts:
            tests += 1
            passed += verdict is Status.DONE
            late |= verdict is Status.TIME
            if verdict is not Status.DONE and not to_the_end:
                break
    return Report(passed, tests, late)


def program_in(answer: str) -> str:
    """The last block fenced by ```python, up to the answer's end if nothing closes it; or all of it."""
    _, opened, rest = f"\n{answer}".rpartition(f"\n{_FENCE}python")
    if not opened:
        return answer
    return rest.partition("\n")[2].partition(f"\n{_FENCE}")[0] + "\n"


def answer_in(text: str) -> str | None:
    """The one answer block, its indentation kept; None if there is none, or more than one."""
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return None
    answer, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return answer.strip("\n") if closed and answer.strip() else None


def answer_in_any_format(text: str) -> str | None:
    """What follows the last <answer>, or else the thought; None if that is blank."""
    _, opened, rest = text.rpartition("<answer>")
    given = rest.partition("</answer>")[0] if opened else text.rpartition("</think>")[2]
    return given.strip("\n") if given.strip() else None


def _verdicts(entry: Mapping[str, Any], program: str, called_off: threading.Event) -> Generator[Status]:
    """How each test ended, in order: DONE if it passed."""
    yield from {"stdin": _by_runs, "call": _by_calls, "humaneval": _by_exam}[entry["kind"]](
        entry, program, called_off
    )


def _by_runs(entry: Mapping[str, Any], program: str, called_off: threading.Event) -> Generator[Status]:
    until, limits = _until(entry), _limits(entry)
    for test in entry["tests"]:
        left_s = max(0.0, until - time.monotonic())
        room = _SLACK_BYTES + len(test["output"].encode())
        here = replace(limits, wall_s=min(limits.wall_s, left_s), output_bytes=room)
        outcome = run(program, test["input"].encode(), here, called_off)
        right = outcome.status is Status.DONE and _same_text(outcome.stdout, test["output"])
        yield outcome.status if right or outcome.status is not Status.DONE else Status.FAILED


def _by_calls(entry: Mapping[str, Any], program: str, called_off: threading.Event) -> Generator[Status]:
    """A program that does not survive a call is started again for the next."""
    until, tests = _until(entry), list(entry["tests"])
    room = _SLACK_BYTES + max((len(dumps(test["output"])) for test in tests), default=0)
    limits = replace(_limits(entry), output_bytes=room)
    while tests:
        with Functions(program, len(tests), limits, until, called_off) as functions:
            while tests:
                test = tests.pop(0)
                try:
                    value = functions.call(entry["function"], test["input"])
                except CallFailed as error:
                    yield error.status
                    if error.over:
                        break
                    continue
                yield Status.DONE if same(value, test["output"]) else Status.FAILED


def _by_exam(entry: Mapping[str, Any], program: str, called_off: threading.Event) -> Generator[Status]:
    """The program goes on from the prompt: with the body that it leaves open, or by defining it anew."""
    prompt, limits = entry["prompt"], _limits(entry, _HUMANEVAL_CPU_S)
    yield examine(
        prompt + program, entry["function"], prompt, entry["test"], limits, _until(entry), called_off
    )


def _until(entry: Mapping[str, Any]) -> float:
    """When the last test must have ended, by the monotonic clock."""
    return time.monotonic() + _SLACK_S + _limits(entry).cpu_s * len(entry.get("tests", ()))


def _limits(entry: Mapping[str, Any], otherwise_s: float = Limits().cpu_s) -> Limits:
    """The wall clock is generous, so that a busy machine makes no program wrong."""
    cpu_s = math.ceil(entry.get("time_limit_s", otherwise_s))
    return Limits(cpu_s=cpu_s, wall_s=4.0 * cpu_s)


def _same_text(printed: bytes, wanted: str) -> bool:
    try:
        return _lines(printed.decode()) == _lines(wanted)
    except UnicodeDecodeError:
        return False


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
