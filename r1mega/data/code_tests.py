"""Tests of a programming question, as the code reward takes them, checked for shape.

An entry is {"kind": "stdin", "tests": [{"input": text, "output": text}, ...]}, where the program reads
the input and prints the output, or {"kind": "call", "function": name, "tests": [{"input": [argument,
...], "output": value}, ...]}; `time_limit_s`, seconds a test, may stand in either. It may be written as
JSON text, as a column of parquet must where arguments differ in type. verl's tests, JSON text of
`inputs`, `outputs` and perhaps `fn_name`, are brought to the same form.
"""

from __future__ import annotations

import json
from typing import Any

from r1mega.data.fields import Fields
from r1mega.data.strict_json import NotUsable, kind, parse

_KINDS = ("stdin", "call")
_LONGEST_S = 60


def read_entry(fields: Fields, key: str) -> dict[str, Any]:
    """The entry under a key, without other keys; faults are added to the row's."""
    value = fields.values.get(key)
    before = len(fields.faults)
    entry = _parsed(fields, key) if isinstance(value, str) else fields.inner(key)
    if len(fields.faults) > before:
        return {}
    form = entry.text("kind")
    if form and form not in _KINDS:
        entry.wrong("kind", f"must be stdin or call, was {form[:40]!r}")
    named = {"function": _function(entry, "function")} if form == "call" else {}
    return {"kind": form, **named, "tests": _tests(entry, form), **_time_limit(entry)}


def read_verl(fields: Fields, key: str) -> dict[str, Any]:
    """The entry that verl's tests make; faults are added to the row's."""
    before = len(fields.faults)
    tests = _parsed(fields, key)
    if len(fields.faults) > before:
        return {}
    called = tests.has("fn_name")
    inputs, outputs = _list(tests, "inputs"), _list(tests, "outputs")
    if len(inputs) != len(outputs):
        tests.wrong("outputs", f"must be as many as inputs, is {len(outputs)} for {len(inputs)}")
    pairs = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=False)]
    if called:
        pairs = [_called(tests, i, pair) for i, pair in enumerate(pairs)]
    form = "call" if called else "stdin"
    named = {"function": _function(tests, "fn_name")} if called else {}
    return {"kind": form, **named, "tests": _tests(fields.within(key, {"tests": pairs}), form)}


def _parsed(fields: Fields, key: str) -> Fields:
    """The object that a key's JSON text holds."""
    text = fields.text(key)
    try:
        values = parse(text.encode("utf-8", "surrogatepass")) if text.strip() else {}
    except NotUsable as error:
        fields.wrong(key, f"must be the JSON text of tests: {error}")
        values = {}
    return fields.within(key, values)


def _list(fields: Fields, key: str) -> list[Any]:
    value = fields.values.get(key)
    if isinstance(value, list):
        return value
    fields.wrong(key, f"must be a list, is {kind(value)}" if key in fields.values else "is missing")
    return []


def _function(fields: Fields, key: str) -> str:
    name = fields.text(key)
    if name and not name.isidentifier():
        fields.wrong(key, f"must be a function's name, was {name[:40]!r}")
    return name


def _time_limit(entry: Fields) -> dict[str, float]:
    limit_s = entry.number("time_limit_s")
    if limit_s is not None and not 0 < limit_s <= _LONGEST_S:
        entry.wrong("time_limit_s", f"must be above 0 and at most {_LONGEST_S}, was {limit_s:g}")
    return {} if limit_s is None else {"time_limit_s": limit_s}


def _tests(fields: Fields, form: str) -> list[dict[str, Any]]:
    """The tests of an entry, of the shape its kind asks for."""
    before = len(fields.faults)
    tests = _list(fields, "tests")
    if not tests and len(fields.faults) == before:
        fields.wrong("tests", "is empty")
    return [_test(fields, f"tests[{i}]", test, form) for i, test in enumerate(tests)]


def _test(fields: Fields, key: str, test: Any, form: str) -> dict[str, Any]:
    if not isinstance(test, dict):
        fields.wrong(key, f"must be an object with input and output, is {kind(test)}")
        return {}
    for name, shape in (("input", list if form == "call" else str), ("output", str)):
        if name not in test:
            fields.wrong(f"{key}.{name}", "is missing")
        elif not (isinstance(test[name], shape) or (form == "call" and name == "output")):
            what = "a list of arguments" if shape is list else "a text"
            fields.wrong(f"{key}.{name}", f"must be {what}, is {kind(test[name])}")
        elif not _is_json(test[name]):
            fields.wrong(f"{key}.{name}", "must be plain JSON, with finite numbers and whole characters")
    return {"input": test.get("input"), "output": test.get("output")}


def _is_json(value: Any) -> bool:
    """Whether a program can be handed the value: no half of a surrogate pair, NaN, date or bytes."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):
        return False
    return True


def _called(fields: Fields, at: int, pair: dict[str, Any]) -> dict[str, Any]:
    """verl writes an argument a line and the result, each as JSON, unless they are values already."""
    given, wanted = pair["input"], pair["output"]
    if not isinstance(given, str):
        return pair
    try:
        arguments = [_value(line) for line in given.split("\n")]
        return {"input": arguments, "output": _value(wanted) if isinstance(wanted, str) else wanted}
    except NotUsable as error:
        fields.wrong(f"inputs[{at}]", f"and its output must be JSON: {error}")
        return {"input": [], "output": None}


def _value(text: str) -> Any:
    """Any JSON value. Raises `NotUsable`."""
    return parse(b'{"value": ' + text.encode("utf-8", "surrogatepass") + b"}")["value"]
