"""The process that verifies answers: `python -m r1mega.rewards.worker PARENT LIMIT_S MEMORY_BYTES`.

It reads pickled batches of (question, answer) from its standard input, which only its parent
writes, and replies with single bytes: READY once, then RIGHT or WRONG after each answer. Nothing
it says is ever unpickled. Each answer may use LIMIT_S seconds of processor time; then the kernel
ends the process with SIGPROF, whatever code it is in, so a busy machine makes no answer wrong.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

from r1mega.rewards import accuracy, confine
from r1mega.rewards.protocol import READY, RIGHT, WRONG


def main(parent: int, limit_s: float, memory_bytes: int) -> None:
    """Serve until the input closes."""
    confine.die_with(parent)
    replies = os.dup(sys.stdout.fileno())
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())  # verifiers print; replies go their own way
    accuracy.warm_up()
    os.dup2(silence, sys.stderr.fileno())  # only what stops a start is worth showing
    confine.limit_memory(memory_bytes)
    confine.fence()
    os.write(replies, READY)
    while True:
        try:
            batch = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        for question, given in batch:
            os.write(replies, RIGHT if _verify(question, given, limit_s) else WRONG)


def _verify(question: accuracy.Gradable, given: str, limit_s: float) -> bool:
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        return accuracy.verify(question, given)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
