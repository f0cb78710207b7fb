"""A hostile answer costs its own limit; dying workers cost nothing; no worker is left behind."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from r1mega.data.corpus import write
from r1mega.data.question import Question
from r1mega.data.sums import KINDS
from r1mega.data.tasks import generate
from r1mega.rewards import Grader, GraderError
from r1mega.rewards.registry import score

SUMS = ("chain_sum", {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1}, 1.0)
HALF = Question("h", "?", r"\frac{1}{2}", "prompts_file")
BOMB = "9^{9^{9^9}}"


def formatted(answer):
    return f"<think> a </think> <answer> {answer} </answer>"


def accuracies(rows):
    return [row["accuracy"] for row in rows]


def pids(grader):
    grader.wait_ready()
    return [worker._process.pid for worker in grader._workers]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, within_s=20.0):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=2, time_limit_s=1.0) as grader:
        yield grader


@pytest.fixture(scope="module")
def rollout():
    """512 answers, 16 a question, of all kinds."""
    questions = generate([SUMS], 32, 0, 0).train
    rng = random.Random(0)
    asked = [question for question in questions for _ in range(16)]
    return asked, [write(rng.choice(list(KINDS)), q, rng.choice(questions), rng) for q in asked]


def test_a_rollout_is_graded_as_one_by_one_and_in_order(grader, rollout):
    expected = [score(question, text) for question, text in zip(*rollout, strict=True)]
    assert grader.grade(*rollout) == expected
    assert 0 < sum(accuracies(expected)) < len(expected)


def test_batches_in_flight_do_not_mix(grader, rollout):
    asked, texts = rollout
    forth, back = grader.submit(asked, texts), grader.submit(asked[::-1], texts[::-1])
    assert back.result() == forth.result()[::-1]


def test_an_empty_batch_has_no_rows(grader):
    assert grader.grade([], []) == []


def test_truncated_answers_earn_nothing(grader):
    rows = grader.grade([HALF, HALF], [formatted("0.5")] * 2, truncated=[True, False])
    assert set(rows[0].values()) == {0.0}
    assert (rows[1]["accuracy"], rows[1]["format"]) == (1.0, 1.0)


def test_unequal_lengths_are_refused(grader):
    with pytest.raises(ValueError, match="zip"):
        grader.grade([HALF], [])


@pytest.mark.timeout(60)
def test_hostile_answers_cost_their_limit_and_harm_no_other(grader):
    answers = ["0.5", BOMB, "1/2", "1" * 10**6, "<think>" * 9, "\\frac{1}{2}", "\x00", "٠.٥"]
    before = grader.timeouts
    rows = grader.grade([HALF] * len(answers), [formatted(answer) for answer in answers])
    assert accuracies(rows)[:7] == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert grader.timeouts == before + 1
    assert accuracies(grader.grade([HALF], [formatted("0.5")])) == [1.0]


@pytest.mark.timeout(60)
def test_a_worker_killed_while_idle_is_replaced_without_a_loss(grader, rollout):
    expected = grader.grade(*rollout)
    before = grader.timeouts
    os.kill(pids(grader)[0], signal.SIGKILL)
    assert grader.grade(*rollout) == expected
    assert grader.timeouts == before


@pytest.mark.timeout(60)
def test_an_answer_is_graded_again_after_its_worker_was_killed():
    with Grader(workers=1, time_limit_s=2.0) as grader:
        (first,) = pids(grader)
        grading = grader.submit([HALF] * 2, [formatted(BOMB), formatted("0.5")])
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        assert accuracies(grading.result()) == [0.0, 1.0]
        assert grader.timeouts == 1  # the second worker's, in which the answer had its whole limit


@pytest.mark.timeout(60)
def test_a_worker_that_does_nothing_at_all_is_given_up():
    with Grader(workers=1, time_limit_s=0.1) as grader:
        os.kill(pids(grader)[0], signal.SIGSTOP)
        texts = [formatted("2/4"), formatted("0.5")]
        assert accuracies(grader.grade([HALF] * 2, texts)) == [0.0, 1.0]
        assert grader.timeouts == 1


def test_an_answer_that_is_evaluated_reaches_nothing_outside(grader, tmp_path):
    game = generate([("puzzle24", {}, 1.0)], 1, 0, 0).train[0]
    target = tmp_path / "out"
    hostile = [
        f"open('{target}', 'w').write('x')",
        f"__import__('os').system('touch {target}')",
        f"__import__('subprocess').run(['touch', '{target}'])",
    ]
    rows = grader.grade([game] * 4, [formatted(text) for text in [*hostile, game.answer]])
    assert accuracies(rows) == [0.0, 0.0, 0.0, 1.0]
    assert not target.exists()


def test_workers_are_in_a_session_of_their_own(grader):
    assert all(os.getsid(pid) != os.getsid(0) for pid in pids(grader))


@pytest.mark.timeout(60)
def test_closing_does_not_wait_for_a_hostile_answer_and_leaves_no_worker():
    with Grader(workers=1, time_limit_s=100.0) as grader:
        (worker,) = pids(grader)
        grading = grader.submit([HALF], [formatted(BOMB)])
        time.sleep(0.2)
    assert not alive(worker)
    with pytest.raises(GraderError, match="closed"):
        grading.result()
    with pytest.raises(GraderError, match="closed"):
        grader.grade([HALF], [formatted("0.5")])
    grader.close()


def test_workers_that_cannot_start_are_an_error_and_no_zeros(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Grader(workers=1, time_limit_s=1.0) as grader:
        with pytest.raises(GraderError, match="did not start"):
            grader.wait_ready()
        with pytest.raises(GraderError, match="did not start"):
            grader.grade([HALF], [formatted("0.5")])


OWNER = f"""
import time
from r1mega.data.question import Question
from r1mega.rewards import Grader
grader = Grader(workers=1, time_limit_s=100.0)
grader.wait_ready()
print(grader._workers[0]._process.pid, flush=True)
half = Question("h", "?", "1/2", "prompts_file")
grader.submit([half], ["<answer> {BOMB} </answer>"])
time.sleep(100)
"""


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a busy child of its parent")
def test_a_busy_worker_goes_with_its_parent_even_if_that_is_killed():
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        worker = int(owner.stdout.readline())
        time.sleep(0.3)
        assert alive(worker)
        owner.kill()
    wait_until(lambda: not alive(worker))
