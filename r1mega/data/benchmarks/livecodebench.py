"""LiveCodeBench's code generation: a program for a problem, tried on public and private tests.

The private tests were published as base64 of zlib of a pickled text of JSON. Nothing is unpickled: the
pickle is read one operation after the other, and refused unless all it does is spell one text.
"""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from typing import Any

from r1mega.data.benchmarks.benchmark import Benchmark
from r1mega.data.benchmarks.values import identity, metadata, raw_text
from r1mega.data.fields import Fields
from r1mega.data.question import Question
from r1mega.data.strict_json import kind

_TIME_LIMIT_S = 6  # the official runner's, a test
_UNPACKED_BYTES = 1024**3
_SPELLS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}

_FROM_INPUT = "Write a Python program that reads the input from standard input and prints the output."
_FROM_STARTER = "Complete this Python program; keep its names.\n\n```python\n{starter}\n```"
_ASK = "{problem}\n\n{task}\n\nGive the whole program in one block fenced by ```python."


class NotTests(ValueError):
    """Why a field does not hold tests."""


def _livecodebench(fields: Fields, seed: int) -> Question:
    problem, starter = fields.text("question_content"), raw_text(fields, "starter_code")
    task = _FROM_STARTER.format(starter=starter.strip("\n")) if starter.strip() else _FROM_INPUT
    return Question(
        id=identity(fields, "question_id"),
        text=_ASK.format(problem=problem.strip(), task=task),
        answer="",
        task="livecodebench",
        entry=_entry(fields),
        parameters=metadata(fields, "contest_date", "difficulty", "platform", "question_title"),
    )


def unpacked(text: str) -> str:
    """The JSON text of packed tests. Raises `NotTests`; runs nothing of what the text holds."""
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        pickled = unpacker.decompress(packed, _UNPACKED_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise NotTests(f"is cut short, or unpacks to more than {_UNPACKED_BYTES} bytes")
        return _spelt(pickled)
    except (ValueError, zlib.error) as error:
        raise error if isinstance(error, NotTests) else NotTests(f"is no packed text ({error})") from error


def _spelt(pickled: bytes) -> str:
    """The one text that a pickle spells."""
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in _SPELLS:
            texts.append(str(argument))
        elif operation.name not in _AROUND:
            raise NotTests(f"is a pickle that does more than spell a text ({operation.name})")
    if len(texts) != 1:
        raise NotTests(f"is a pickle of {len(texts)} texts, must be of one")
    return texts[0]


def _entry(fields: Fields) -> dict[str, Any]:
    """All tests, as the code reward takes them."""
    tests = [*_tests(fields, "public_test_cases"), *_tests(fields, "private_test_cases")]
    kinds = {test["testtype"] for test in tests}
    if not fields.faults and len(kinds) != 1:
        fields.wrong(
            "private_test_cases", f"and the public ones must be of one testtype, are {sorted(kinds)}"
        )
    if kinds == {"functional"}:
        calls = [_call(fields, test) for test in tests]
        return {"kind": "call", "function": _function(fields), "tests": calls, "time_limit_s": _TIME_LIMIT_S}
    runs = [{"input": test["input"], "output": test["output"]} for test in tests]
    return {"kind": "stdin", "tests": runs, "time_limit_s": _TIME_LIMIT_S}


def _tests(fields: Fields, key: str) -> list[dict[str, str]]:
    """The tests under a key, of JSON text that may be packed."""
    text = raw_text(fields, key)
    try:
        tests = _json(text if not text or text.lstrip().startswith("[") else unpacked(text))
    except NotTests as error:
        fields.wrong(key, str(error))
        return []
    if not isinstance(tests, list) or not tests:
        fields.wrong(key, f"must hold a list of tests, holds {'none' if tests == [] else kind(tests)}")
        return []
    wrong = next((number for number, test in enumerate(tests) if not _is_test(test)), None)
    if wrong is not None:
        fields.wrong(f"{key}[{wrong}]", "must have texts input and output, and testtype stdin or functional")
        return []
    return tests


def _is_test(test: Any) -> bool:
    return (
        isinstance(test, dict)
        and all(isinstance(test.get(key), str) for key in ("input", "output"))
        and test.get("testtype") in ("stdin", "functional")
    )


def _function(fields: Fields) -> str:
    """`func_name` of the JSON text under `metadata`."""
    try:
        about = _json(raw_text(fields, "metadata"))
    except NotTests as error:
        fields.wrong("metadata", str(error))
        return ""
    name = about.get("func_name") if isinstance(about, dict) else None
    if not (isinstance(name, str) and name.isidentifier()):
        fields.wrong("metadata", "must name the function that the tests call, under func_name")
        return ""
    return name


def _call(fields: Fields, test: dict[str, str]) -> dict[str, Any]:
    """A functional test has an argument a line and the result, each as JSON."""
    try:
        arguments = [_json(line) for line in test["input"].split("\n") if line.strip()]
        return {"input": arguments, "output": _json(test["output"])}
    except NotTests as error:
        fields.wrong("private_test_cases", f"or public ones: a functional test {error}")
        return {"input": [], "output": None}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotTests(f"is not JSON ({str(error)[:60]})") from error


LIVECODEBENCH = Benchmark("livecodebench", "livecodebench/code_generation_lite", "program", _livecodebench)
