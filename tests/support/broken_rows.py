"""Broken rows of data files, by name: the reader, a good row, the broken one, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1mega.data.dialogues import read_dialogues
from r1mega.data.preferences import read_preferences
from r1mega.data.prompts import read_prompts
from r1mega.data.safety import read_safety_labels

Values = dict[str, Any]
Read = Callable[[Path], list[Any]]


def user(text: Any) -> Values:
    return {"role": "user", "content": text}


def assistant(text: Any) -> Values:
    return {"role": "assistant", "content": text}


OWN = {"question": "1 + 1?", "answer": "2"}
VERL = {
    "data_source": "gsm8k",
    "prompt": [user("1 + 1?")],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "train", "index": 0},
}
TRL = {"prompt": [user("1 + 1?")], "solution": "2"}
CHAT = {"messages": [user("1 + 1?"), assistant("2")]}
ENTRY = {"kind": "stdin", "tests": [{"input": "1", "output": "2"}]}
SFT = {"prompt": "1 + 1?", "answer": "2"}
TRL_SFT = {"prompt": "1 + 1?", "completion": "2"}
ALPACA = {"instruction": "1 + 1?", "output": "2"}
PAIR = {"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}
LABEL = {"prompt": "1 + 1?", "answer": "2", "label": "safe"}


def verl(**changes: Any) -> Values:
    return VERL | {"prompt": [user("2 + 2?")]} | changes


def coded(entry: Any) -> Values:
    return {"question": "Add.", "entry": entry}


def ground_truth(value: Any) -> Values:
    return verl(ability="code", reward_model={"style": "rule", "ground_truth": value})


def calls(inputs: list[Any], outputs: list[Any], name: str = "add") -> str:
    return json.dumps({"inputs": inputs, "outputs": outputs, "fn_name": name})


def raw(text: str) -> bytes:
    return text.encode()


Q = read_prompts
D = read_dialogues
P = read_preferences
S = read_safety_labels

# A broken row of bytes is a line as it stands.
BROKEN: dict[str, tuple[Read, Values, bytes | Values, str]] = {
    # A line that is no row, whatever the format.
    "cut off": (Q, OWN, raw('{"question": "2 + 2?", "ans'), "not JSON: Unterminated string"),
    "no value": (D, SFT, raw('{"prompt": , "answer": "4"}'), "not JSON: Expecting value (column 12)"),
    "two objects": (Q, OWN, raw('{"question": "a", "answer": "b"} {}'), "not JSON: Extra data"),
    "single quotes": (P, PAIR, raw("{'prompt': 'a'}"), "not JSON: Expecting property name"),
    "bare word": (S, LABEL, raw("hello"), "not JSON: Expecting value"),
    "list": (Q, OWN, raw('["2 + 2?", "4"]'), "must be an object, is a list"),
    "text": (D, SFT, raw('"2 + 2?"'), "must be an object, is a text"),
    "null row": (P, PAIR, raw("null"), "must be an object, is null"),
    "empty object": (Q, OWN, {}, "has no key; must have the keys of r1mega (question), or verl (prompt"),
    "not UTF-8": (D, SFT, b'{"prompt": "gr\xfc\xdfe", "answer": "4"}', "not UTF-8 (byte 15 of the line)"),
    "raw NUL": (Q, OWN, b'{"question": "2\x00?", "answer": "4"}', "not JSON: Invalid control character"),
    "raw tab": (Q, OWN, raw('{"question": "2\t?", "answer": "4"}'), "not JSON: Invalid control character"),
    "NaN": (
        P,
        PAIR,
        raw('{"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": NaN}'),
        "NaN is no JSON",
    ),
    "infinity": (Q, OWN, raw('{"question": "a", "answer": "b", "x": -Infinity}'), "-Infinity is no JSON"),
    "huge float": (
        Q,
        OWN,
        raw('{"question": "a", "answer": "b", "x": 1e999}'),
        "the number 1e999 is too large",
    ),
    "huge integer": (
        Q,
        OWN,
        raw('{"question": "a", "answer": ' + "9" * 5_000 + "}"),
        "not usable JSON: Exceeds",
    ),
    "key twice": (
        D,
        SFT,
        raw('{"prompt": "a", "answer": "b", "answer": "c"}'),
        "the key 'answer' is there twice",
    ),
    "inner key twice": (
        D,
        CHAT,
        raw('{"messages": [{"role": "user", "role": "user", "content": "a"}]}'),
        "the key 'role' is there twice",
    ),
    "nested": (
        Q,
        OWN,
        raw('{"question": "a", "answer": "b", "x": ' + "[" * 99 + "]" * 99 + "}"),
        "deeper than 64",
    ),
    "endless brackets": (S, LABEL, raw("[" * 100_000), "not usable JSON: nested deeper than 64"),
    "endless line": (
        Q,
        OWN,
        b'{"question": "' + b"a" * (16 * 2**20) + b'", "answer": "b"}',
        "longer than 16 MiB",
    ),
    "late mark of byte order": (Q, OWN, b'\xef\xbb\xbf{"question": "a", "answer": "b"}', "not JSON"),
    # Values of any format.
    "missing": (Q, OWN, {"question": "2 + 2?"}, "answer is missing"),
    "null": (Q, OWN, {"question": "2 + 2?", "answer": None}, "answer is null"),
    "number": (Q, OWN, {"question": "2 + 2?", "answer": 4}, "answer must be a text, is a number"),
    "boolean": (D, SFT, {"prompt": True, "answer": "4"}, "prompt must be a text, is true or false"),
    "blank": (D, SFT, {"prompt": "2 + 2?", "answer": " \n"}, "answer is empty"),
    "escaped NUL": (D, TRL_SFT, {"prompt": "a\0b", "completion": "c"}, "prompt holds a NUL character (at 1)"),
    "half a surrogate": (P, PAIR, {**PAIR, "chosen": "\ud83d"}, "chosen holds half of a surrogate pair"),
    "all at once": (
        Q,
        OWN,
        {"question": 1, "answer": "", "id": []},
        "question must be a text, is a number; answer is",
    ),
    "language": (D, SFT, {**SFT, "language": "de"}, "language must be en or zh, was 'de'"),
    "language of another type": (P, PAIR, {**PAIR, "language": 3}, "language must be a text, is a number"),
    "unknown keys": (
        Q,
        OWN,
        {"Question": "a", "Answer": "b"},
        "has 'Answer', 'Question'; must have the keys of",
    ),
    "keys that cannot be printed": (S, LABEL, {"\ud83d\n": "a"}, "has '\\ud83d\\n'; must have the keys of"),
    "two formats in a row": (
        Q,
        OWN,
        {**OWN, **CHAT},
        "fits two formats, r1mega (question) and OpenAI chat (messages)",
    ),
    "another format": (
        Q,
        OWN,
        VERL,
        "is in the format of verl (prompt, reward_model), but line 1 in that of r1mega",
    ),
    "SFT of another format": (
        D,
        SFT,
        CHAT,
        "is in the format of OpenAI chat (messages), but line 1 in that of r1mega",
    ),
    # Prompts.
    "other answer": (Q, OWN, {**OWN, "answer": "3"}, "the question of line 1 again, with another answer"),
    "other kind": (
        Q,
        OWN,
        {**OWN, "kind": "safety"},
        "the question of line 1 again, with another answer, tests or kind",
    ),
    "id of another type": (
        Q,
        OWN,
        {"question": "a", "answer": "b", "id": 7},
        "id must be a text, is a number",
    ),
    "unknown kind": (
        Q,
        OWN,
        {"question": "a", "kind": "maths"},
        "kind must be reasoning or general or safety",
    ),
    "GSM8K's answer": (
        Q,
        OWN,
        {"question": "a", "answer": "2 + 2 = 4\n#### 4"},
        "answer holds GSM8K's mark ####",
    ),
    "verl without truth": (
        Q,
        VERL,
        verl(reward_model={"style": "rule"}),
        "reward_model.ground_truth is missing",
    ),
    "verl with text for object": (
        Q,
        VERL,
        verl(reward_model="4"),
        "reward_model must be an object, is a text",
    ),
    "verl with a number": (
        Q,
        VERL,
        verl(reward_model={"ground_truth": 4}),
        "reward_model.ground_truth must be a text",
    ),
    "verl with a bad ability": (Q, VERL, verl(ability=["math"]), "ability must be a text, is a list"),
    "verl with several turns": (
        Q,
        VERL,
        verl(prompt=[user("a"), assistant("b"), user("c")]),
        "prompt must ask in one turn of the user, holds 3 turns",
    ),
    "TRL without solution": (Q, TRL, {"prompt": "2 + 2?"}, "answer is missing"),
    "chat without answer": (
        Q,
        CHAT,
        {"messages": [user("a")]},
        "messages must end with the assistant's turn",
    ),
    # Programming questions.
    "entry of another type": (Q, OWN, coded([1]), "entry must be an object, is a list"),
    "entry without kind": (Q, OWN, coded({"tests": ENTRY["tests"]}), "entry.kind is missing"),
    "entry of unknown kind": (
        Q,
        OWN,
        coded({**ENTRY, "kind": "argv"}),
        "entry.kind must be stdin or call, was 'argv'",
    ),
    "entry without tests": (Q, OWN, coded({"kind": "stdin", "tests": []}), "entry.tests is empty"),
    "test of another type": (
        Q,
        OWN,
        coded({"kind": "stdin", "tests": ["1"]}),
        "entry.tests[0] must be an object",
    ),
    "test without output": (
        Q,
        OWN,
        coded({"kind": "stdin", "tests": [*ENTRY["tests"], {"input": "1"}]}),
        "entry.tests[1].output is missing",
    ),
    "time limit of nothing": (
        Q,
        OWN,
        coded({**ENTRY, "time_limit_s": 0}),
        "entry.time_limit_s must be above 0 and at most 60, was 0",
    ),
    "call without function": (
        Q,
        OWN,
        coded({"kind": "call", "tests": [{"input": [1], "output": 1}]}),
        "entry.function is missing",
    ),
    "call with bare argument": (
        Q,
        OWN,
        coded({"kind": "call", "function": "f", "tests": [{"input": 1, "output": 1}]}),
        "entry.tests[0].input must be a list of arguments, is a number",
    ),
    "call of what is no name": (
        Q,
        OWN,
        coded({"kind": "call", "function": "os.system('ls')", "tests": [{"input": [], "output": 1}]}),
        "entry.function must be a function's name",
    ),
    "half a surrogate in a test": (
        Q,
        OWN,
        coded({"kind": "stdin", "tests": [{"input": "\ud83d", "output": ""}]}),
        "entry.tests[0].input must be plain JSON",
    ),
    "entry of broken JSON": (Q, OWN, coded("{"), "entry must be the JSON text of tests: not JSON"),
    "verl's code without tests": (
        Q,
        VERL,
        ground_truth("print(1)"),
        "ground_truth must be the JSON text of tests",
    ),
    "verl's code of unequal lists": (
        Q,
        VERL,
        ground_truth('{"inputs": ["1"], "outputs": []}'),
        "reward_model.ground_truth.outputs must be as many as inputs, is 0 for 1",
    ),
    "verl's code of broken arguments": (
        Q,
        VERL,
        ground_truth(calls(["1\n[2"], ["3"])),
        "reward_model.ground_truth.inputs[0] and its output must be JSON",
    ),
    # Messages of a chat.
    "messages as text": (D, CHAT, {"messages": "hello"}, "messages must be a list of messages, is a text"),
    "no messages": (D, CHAT, {"messages": []}, "messages is empty"),
    "message as text": (
        D,
        CHAT,
        {"messages": ["a", "b"]},
        "messages[0] must be an object with role and content",
    ),
    "unknown role": (
        D,
        CHAT,
        {"messages": [user("a"), {"role": "tool", "content": "b"}]},
        "messages[1].role must be system, user, assistant, was 'tool'",
    ),
    "no role": (D, CHAT, {"messages": [{"content": "a"}, assistant("b")]}, "messages[0].role is missing"),
    "no content": (D, CHAT, {"messages": [user("a"), assistant(None)]}, "messages[1].content is null"),
    "content in parts": (
        D,
        CHAT,
        {"messages": [user([{"type": "text"}]), assistant("b")]},
        "must be a text, is a list",
    ),
    "blank content": (D, CHAT, {"messages": [user("a"), assistant(" ")]}, "messages[1].content is empty"),
    "two users": (
        D,
        CHAT,
        {"messages": [user("a"), user("b"), assistant("c")]},
        "messages[1] must be the assistant's turn, is the user's",
    ),
    "late system": (
        D,
        CHAT,
        {"messages": [user("a"), {"role": "system", "content": "b"}, assistant("c")]},
        "messages[1] must be the assistant's turn, is the system's",
    ),
    "no question": (D, CHAT, {"messages": [assistant("a")]}, "messages holds an answer and no question"),
    "system alone": (D, CHAT, {"messages": [{"role": "system", "content": "a"}]}, "messages holds no turn"),
    "empty system alone": (
        D,
        CHAT,
        {"messages": [{"role": "system", "content": ""}]},
        "messages holds no turn",
    ),
    "prompt that ends answered": (
        D,
        TRL_SFT,
        {"prompt": [user("a"), assistant("b")], "completion": "c"},
        "prompt must end with the user's turn, ends with the assistant's",
    ),
    "completion by the user": (
        D,
        TRL_SFT,
        {"prompt": "a", "completion": [user("b")]},
        "completion must be one turn of the assistant",
    ),
    "Alpaca without output": (D, ALPACA, {"instruction": "a", "output": ""}, "output is empty"),
    # Pairs.
    "no choice": (P, PAIR, {**PAIR, "rejected": "2"}, "rejected is the same text as chosen"),
    "half a pair": (P, PAIR, {"prompt": "a", "chosen": "b"}, "rejected is missing"),
    "pair without prompt": (P, PAIR, {"chosen": "b", "rejected": "c"}, "prompt is missing"),
    "pair of two conversations": (
        P,
        PAIR,
        {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]},
        "rejected must answer the same conversation as chosen",
    ),
    "pair of another prompt": (
        P,
        PAIR,
        {"prompt": "z", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("d")]},
        "prompt is another than what chosen and rejected answer",
    ),
    "chosen that ends unanswered": (
        P,
        PAIR,
        {**PAIR, "chosen": [user("a")]},
        "chosen must end with the assistant's",
    ),
    "one score": (
        P,
        PAIR,
        {**PAIR, "score_chosen": 4},
        "score_rejected is missing, and score_chosen is there",
    ),
    "score as text": (
        P,
        PAIR,
        {**PAIR, "score_chosen": "4", "score_rejected": 1},
        "score_chosen must be a number, is a text",
    ),
    "scores against the choice": (
        P,
        PAIR,
        {**PAIR, "score_chosen": 1, "score_rejected": 4.5},
        "score_chosen must be at least score_rejected, was 1 to 4.5",
    ),
    "the other way round": (
        P,
        PAIR,
        {**PAIR, "chosen": "3", "rejected": "2"},
        "the pair of line 1 again, with another choice",
    ),
    # Safety labels.
    "no label": (S, LABEL, {"prompt": "a", "answer": "b"}, "label is missing"),
    "unknown label": (
        S,
        LABEL,
        {**LABEL, "label": "ok"},
        "label must be safe, unsafe, true or false, was 'ok'",
    ),
    "label as number": (
        S,
        LABEL,
        {**LABEL, "label": 1},
        "label must be safe, unsafe, true or false, was a number",
    ),
    "label as object": (S, LABEL, {**LABEL, "label": {"safe": True}}, "true or false, was an object"),
    "other label": (S, LABEL, {**LABEL, "label": False}, "the answer of line 1 again, with another label"),
}


# What parquet can hold of it: a column has one type, so rows are broken by their values.
IN_PARQUET: dict[str, tuple[Read, Values, Values, str]] = {
    "null": (Q, OWN, {"question": "2 + 2?", "answer": None}, "answer is null"),
    "blank": (D, SFT, {"prompt": "", "answer": "4"}, "prompt is empty"),
    "NUL": (D, TRL_SFT, {"prompt": "a\0", "completion": "b"}, "prompt holds a NUL character (at 1)"),
    "null messages": (D, CHAT, {"messages": None}, "messages is null"),
    "null in messages": (D, CHAT, {"messages": [user("a"), None]}, "messages[1] must be an object"),
    "unknown role": (
        D,
        CHAT,
        {"messages": [{"role": "human", "content": "a"}]},
        "messages[0].role must be system",
    ),
    "verl without truth": (
        Q,
        VERL,
        verl(reward_model={"style": "rule", "ground_truth": None}),
        "ground_truth is null",
    ),
    "verl's code without tests": (Q, VERL, ground_truth("4"), "ground_truth must be the JSON text of tests"),
    "score that is no number": (
        P,
        {**PAIR, "score_chosen": 4.0, "score_rejected": 1.0},
        {**PAIR, "score_chosen": float("nan"), "score_rejected": 1.0},
        "score_chosen must be a finite number, was nan",
    ),
    "null label": (S, {**LABEL, "label": True}, {**LABEL, "answer": "4", "label": None}, "label is null"),
    "other answer": (Q, OWN, {**OWN, "answer": "3"}, "the question of line 1 again, with another answer"),
}


def line(row: bytes | Values) -> bytes:
    return row if isinstance(row, bytes) else json.dumps(row).encode()
