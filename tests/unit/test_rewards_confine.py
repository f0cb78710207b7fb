"""What a worker may not do is refused by the kernel or by the fence."""

import subprocess
import sys

import pytest

FENCED = """
import os, signal, socket, subprocess, sys
from r1mega.rewards import confine
{setup}
try:
    {act}
except (MemoryError, OSError) as error:
    print(type(error).__name__)
"""


def outcome(setup, act):
    script = FENCED.format(setup=setup, act=act)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout


def test_memory_past_the_limit_is_not_given():
    setup = f"confine.limit_memory({512 * 1024**2})"
    assert outcome(setup, "bytearray(1 << 30)") == "MemoryError\n"
    assert outcome(setup, "print(len(bytearray(1 << 20)))") == "1048576\n"


@pytest.mark.parametrize(
    "act",
    [
        "open('{path}', 'w')",
        "open('{path}', 'ab')",
        "os.open('{path}', os.O_CREAT | os.O_WRONLY)",
        "os.mkdir('{path}')",
        "os.system('touch {path}')",
        "subprocess.run(['touch', '{path}'])",
        "os.fork()",
        "os.kill(os.getppid(), signal.SIGCONT)",
        "socket.socket().connect(('127.0.0.1', 9))",
    ],
)
def test_nothing_outside_is_reached_past_the_fence(act, tmp_path):
    path = tmp_path / "out"
    assert outcome("confine.fence()", act.format(path=path)) == "PermissionError\n"
    assert not path.exists()


def test_reading_is_let_be():
    assert outcome("confine.fence()", "print(bool(open(os.__file__).read()))") == "True\n"


def test_a_worker_without_its_parent_goes():
    assert outcome("confine.die_with(-1)", "print('still here')") == ""
