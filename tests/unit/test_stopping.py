"""Being told to stop leaves a mark in the process that is told, and spares what it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, subprocess, sys, time
from r1mega import stopping
stopping.listen({limit})
stopping.spare_children()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
assert stopping.asked() is None
print("ready", child.pid, flush=True)
deadline = time.monotonic() + 20
while stopping.asked() is None and time.monotonic() < deadline:
    time.sleep(0.01)
print(stopping.asked(), child.poll(), flush=True)
child.kill()
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_process_is_told_and_its_children_live(number: signal.Signals) -> None:
    program = PROGRAM.format(limit=None)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline().split()[1])
        if number is signal.SIGUSR1:
            os.kill(child, number)  # as Slurm does, to every process of a step
        process.send_signal(number)
        assert process.stdout.readline().split() == [number.name, "None"]


def test_the_clock_tells_too_and_looks_ahead() -> None:
    program = (
        "from r1mega import stopping\nstopping.listen(1000.0)\n"
        "print(stopping.asked(), stopping.asked(900.0), stopping.asked(1001.0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "None", "launch.max_time_s"]
