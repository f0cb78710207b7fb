"""A program earns its reward by its outputs alone: forged rewards are refused, honest programs are paid."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.humaneval import read_humaneval
from r1mega.data.question import Question
from r1mega.rewards import Grader, GraderError, code
from r1mega.rewards.code import code_faults, examine_answer, passes, program_in, share
from r1mega.rewards.registry import score
from r1mega.rewards.sandbox_values import NotPlain, dumps, loads, same
from tests.support.sandbox import isolates

pytestmark = isolates

DOUBLE = {"kind": "stdin", "tests": [{"input": f"{n}\n", "output": f"{2 * n}\n"} for n in (1, 21)]}
ADD = {
    "kind": "call",
    "function": "add",
    "tests": [{"input": [1, 2], "output": 3}, {"input": [40, 2], "output": 42}],
}
HUMANEVAL = {question.id: question for question in read_humaneval()}
LONG = {"kind": "stdin", "tests": [{"input": "", "output": "x" * 10**6}] * 2}
RIGHT = {
    "stdin": "print(2 * int(input()))",
    "call": "def add(a, b):\n    return a + b",
}


def wrong(value):
    """A program whose every entry point gives `value`, an expression."""
    return "".join(f"def {name}(a, b):\n    return {value}\n" for name in ("add", "has_close_elements"))


OBJECT = """
class Any{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __str__(self): return "7"
    __repr__ = __str__
"""
PEEK = """
import sys
def look(*_):
    frame = sys._getframe()
    while frame:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            if name in ("output", "expected", "wanted", "reference", "tests", "entry"): return value
        frame = frame.f_back
add = has_close_elements = look
print(look())
"""
COLLECT = """
import gc
def look(*_):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and ("output" in thing or "expected" in thing):
            return thing.get("output", thing.get("expected"))
add = has_close_elements = look
print(look())
"""
PRINTED = """
import os
def add(a, b):
    for fd in range(1, 20):
        for line in (b'["value", 42]\\n', b'0 {"tuple": ["value", 3]}\\n', b"passed\\nok\\nTrue\\n1.0\\n"):
            try: os.write(fd, line)
            except OSError: pass
    print('["value", 42]', "passed", True, flush=True)
has_close_elements = add
add(0, 0)
"""
PATCHED = """
import builtins, json
class Right(str):
    def __eq__(self, other): return True
json.dumps = lambda *_, **__: '{"tuple": ["value", true]}'
json.loads = lambda *_, **__: Right("0")
builtins.print = lambda *_: None
import r1mega.rewards.sandbox_values as values
values.dumps = values._encode = lambda *_: '{"tuple": ["value", true]}'
"""
FORGED = {
    "exit with 0": "import sys; sys.exit(0)",
    "exit in the call": wrong("__import__('sys').exit(0)"),
    "os._exit": "import os; os._exit(0)",
    "os._exit in the call": wrong("__import__('os')._exit(0)"),
    "equal to everything": OBJECT.format(base="") + wrong("Any()") + "print(Any())",
    "subclass of int": OBJECT.format(base="(int)") + wrong("Any(7)") + "print(Any(7))",
    "frame peeking": PEEK,
    "printed markers": PRINTED,
    "patched json": PATCHED + wrong("True"),
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\n" + wrong("1 / 0"),
    "gc search": COLLECT,
    "excepthook": "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\n" + wrong("1 / 0") + "1 / 0",
}


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize(
    "entry", [DOUBLE, ADD, HUMANEVAL["HumanEval/0"].entry], ids=lambda entry: entry["kind"]
)
def test_no_forged_reward_is_accepted(entry, name):
    program = FORGED[name]
    report = examine_answer(entry, program)
    assert report.passed == 0
    assert not passes(entry, f"```python\n{program}\n```")


def test_what_one_test_leaves_the_next_does_not_find():
    keep = "import os\nprint(1 if os.path.exists('/tmp/x') else 2)\nopen('/tmp/x', 'w')"
    entry = {"kind": "stdin", "tests": [{"input": "", "output": "2"}] * 3}
    assert examine_answer(entry, keep).passed == 3


@pytest.mark.parametrize("entry", [DOUBLE, ADD], ids=lambda entry: entry["kind"])
def test_honest_programs_are_paid(entry):
    program = RIGHT[entry["kind"]]
    for answer in (program, f"So:\n```python\n1/0\n```\nNo, rather\n```python\n{program}\n```\nDone."):
        assert passes(entry, answer)
        assert share(entry, answer) == 1.0


@pytest.mark.parametrize(
    ("program", "entry", "passed"),
    [
        ("print(2)", DOUBLE, 1),
        ("print(2 * int(input()), end='  \\n\\n')", DOUBLE, 2),
        ("print(2 * int(input())); raise SystemExit(1)", DOUBLE, 0),
        ("print(2 * int(input())); import os; os.write(1, b'\\xff')", DOUBLE, 0),
        ("def add(a, b): return 3 if a == 1 else None", ADD, 1),
        ("def add(a, b): return float(a + b)", ADD, 0),
        ("def add(a, b): return (a + b,)", ADD, 0),
        ("def add(a, b):\n  if a == 1: import os; os._exit(1)\n  return a + b", ADD, 1),
        ("def add(a, b):\n  if a == 1: raise ValueError\n  return a + b", ADD, 1),
        ("def add(a, b): print('noise', a); return input() if 0 else a + b", ADD, 2),
        ("class Solution:\n  def add(self, a, b): return a + b", ADD, 2),
        ("def add(a, b): return [0] * 10**5 if a == 1 else a + b", ADD, 1),
        ("print('x' * 10**6)", LONG, 2),
        ("print('x' * 10**7)", LONG, 0),
        ("def add(a):", ADD, 0),
        ("", ADD, 0),
        ("\ud800", ADD, 0),
        ("\x00", ADD, 0),
    ],
)
def test_tests_passed_are_counted_one_by_one(program, entry, passed):
    report = examine_answer(entry, program)
    assert (report.passed, report.tests) == (passed, 2)
    assert passes(entry, program) is (passed == 2)


@pytest.mark.parametrize(
    ("entry", "program"),
    [
        (DOUBLE, "while True: pass"),
        (ADD, "def add(a, b):\n  while True: pass"),
        (ADD | {"tests": ADD["tests"][:1]}, "while True: pass"),
    ],
)
def test_a_program_out_of_time_fails_and_says_so(entry, program):
    report = examine_answer(entry | {"time_limit_s": 1}, program, to_the_end=False)
    assert report == (0, 1, True)


@pytest.mark.parametrize("kind", ["stdin", "call"])
def test_an_entry_without_tests_pays_nothing(kind):
    entry = {"kind": kind, "function": "f", "tests": []}
    assert not passes(entry, "")
    assert share(entry, "") == 0.0


def test_types_are_strict_where_python_is_lenient():
    def entry(output):
        return {"kind": "call", "function": "f", "tests": [{"input": [], "output": output}]}

    assert passes(entry([1, [2.5, None], {"a": True}]), "def f(): return [1, [2.5, None], {'a': True}]")
    for output, expression in [
        (1, "True"),
        (True, "1"),
        ([1], "(1,)"),
        ((1,), "[1]"),
        ({"a": 1}, "__import__('collections').OrderedDict(a=1)"),
        ("ab", "b'ab'"),
    ]:
        assert not passes(entry(output), f"def f(): return {expression}")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.booleans()), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.binary())
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=100)
@given(plain)
def test_values_come_back_as_they_were(value):
    back = loads(dumps(value))
    assert same(back, value)
    assert dumps(back) == dumps(value) or "set" in dumps(value)


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        (0.0, -0.0, True),
        (float("nan"), float("nan"), True),
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}, True),
        ({1: "a"}, {True: "a"}, False),
        ({1}, {1.0}, False),
        ([1, (2,)], [1, [2]], False),
        ([1], [1, 1], False),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        (None, False, False),
        ({1}, frozenset({1}), False),
    ],
)
def test_only_equals_of_one_type_are_the_same(one, other, are):
    assert same(one, other) is are
    assert same(other, one) is are


@pytest.mark.parametrize("value", [object(), len, 1j, range(3), type("I", (int,), {})(1), [[{1: object()}]]])
def test_what_is_not_plain_is_not_told(value):
    with pytest.raises(NotPlain):
        dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{}",
        '{"dict": 1}',
        '{"exec": [1]}',
        '{"tuple": [], "list": []}',
        "[" * 10**5,
        '{"set": [[1]]}',
    ],
)
def test_what_is_no_value_is_refused(text):
    with pytest.raises(NotPlain):
        loads(text)


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx\n```", "x\n"),
        ("a\n```python\nx\n```\nb\n```python\n  y\n\nz\n```\nc", "  y\n\nz\n"),
        ("```\nx\n```", "```\nx\n```"),
        ("```python\nx", "x\n"),
        ("```python", "\n"),
    ],
)
def test_the_last_fenced_block_is_the_program(answer, program):
    assert program_in(answer) == program


SAMPLE = sorted(HUMANEVAL)[::8]


def test_humaneval_has_all_its_questions():
    assert len(HUMANEVAL) == 164
    assert {question.task for question in HUMANEVAL.values()} == {"code"}


@pytest.mark.parametrize("name", [*SAMPLE, "HumanEval/33", "HumanEval/38"])
def test_humaneval_passes_its_own_solution_and_no_empty_one(name):
    question = HUMANEVAL[name]
    whole = f"```python\n{question.entry['prompt']}{question.answer}```"
    assert passes(question.entry, question.answer)
    assert passes(question.entry, whole)
    assert not passes(question.entry, "    return None\n")


def test_expected_values_never_enter():
    secret = "kept-out-9137"
    look = (
        "import os, gc\nfound = [open(f'/box/{f}').read() for f in os.listdir('/box') if f.endswith('.py')]\n"
    )
    look += "def f(x): return repr(found) + repr(gc.get_objects())[:20000]"
    entry = {"kind": "humaneval", "function": "f", "prompt": "", "test": ""}
    entry["test"] = f"def check(c):\n  assert c('input-4711').count('input-') and '{secret}' not in c(1)"
    probe = look.replace("repr(found)", "repr(found) + 'input-'")
    assert passes(entry, probe)
    entry["test"] = f"def check(c):\n  assert '{secret}' in c(1)"
    assert not passes(entry, probe)


def question(entry, name="q"):
    return Question(name, "?", "", "code", entry)


def told(program):
    return f"<think> a </think> <answer>\n```python\n{program}\n```\n</answer>"


def test_the_grader_pays_programs_beside_other_answers():
    half = Question("h", "?", r"\frac{1}{2}", "prompts_file")
    asked = [
        question(DOUBLE),
        half,
        question(DOUBLE),
        question(ADD, "a"),
        question(ADD, "a"),
        question(ADD, "b"),
    ]
    texts = [
        told(RIGHT["stdin"]),
        told("0"),
        told("print(2)"),
        told(RIGHT["call"]),
        "none",
        told("while 1: 0"),
    ]
    texts[1] = "<think> a </think> <answer> 0.5 </answer>"
    asked[5] = question(ADD | {"time_limit_s": 1}, "b")
    with Grader(workers=2, time_limit_s=1.0) as grader:
        rows = grader.grade(asked, texts)
        assert grader.timeouts == 1
        assert grader.grade(asked[:1], texts[:1], truncated=[True])[0]["accuracy"] == 0.0
    assert [row["accuracy"] for row in rows] == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    assert rows[0] == score(asked[0], texts[0])


def test_closing_the_grader_ends_a_running_program():
    endless = {"kind": "stdin", "tests": [{"input": "", "output": ""}], "time_limit_s": 100}
    with Grader(workers=1, time_limit_s=1.0) as grader:
        grading = grader.submit([question(endless)], [told("while True: pass")])
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 30
    with pytest.raises(GraderError, match="closed"):
        grading.result()


def test_a_machine_that_cannot_isolate_refuses_and_pays_nobody(monkeypatch):
    from r1mega.rewards import sandbox

    fault = "bwrap not found: make sandbox"
    for module in (code, sandbox):
        monkeypatch.setattr(module, "isolation", lambda: (fault,))
    assert code_faults(False) == []
    (said,) = code_faults(True)
    assert said.endswith(fault)
    with Grader(workers=1, time_limit_s=1.0) as grader, pytest.raises(GraderError, match="bwrap not found"):
        grader.grade([question(DOUBLE)], [told(RIGHT["stdin"])])
