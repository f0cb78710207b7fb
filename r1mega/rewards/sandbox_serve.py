"""Runs inside the sandbox, beside a generated program, and calls its functions.

A request is a line of typed JSON, (nonce, function, arguments, limit in seconds of processor time); the
reply is the nonce, then ("value", what it returned) or ("raised", what was wrong). The program shares this
process and may forge a reply; all it can forge is what it returns, and that it must get right.
"""

import os
import signal
import sys
import types

from r1mega.rewards.sandbox_values import dumps, loads


def serve():
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)  # what the program reads and prints is no part of the conversation
    os.dup2(silence, 1)
    program = types.ModuleType("program")
    sys.modules["program"] = program
    with open("/box/program.py", encoding="utf-8") as file:
        source = file.read()
    exec(compile(source, "program.py", "exec"), program.__dict__)
    for line in requests:
        nonce, function, arguments, limit_s = loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        reply = f"{nonce} {answer(program, function, arguments)}\n".encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        while reply:
            reply = reply[os.write(replies, reply) :]


def answer(program, function, arguments):
    try:
        return dumps(("value", find(program, function)(*arguments)))
    except Exception as error:
        return dumps(("raised", type(error).__name__))


def find(program, function):
    """A function of the program, or a method of its class Solution, as LeetCode has it."""
    if hasattr(program, function) or not hasattr(program, "Solution"):
        return getattr(program, function)
    return getattr(program.Solution(), function)


serve()
