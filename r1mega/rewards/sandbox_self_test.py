"""Runs inside the sandbox, and says "fenced" only if it can do nothing of what it must not.

Its word is good: it is ours. What a hostile program makes of the fence is the tests' matter.
"""

import bisect  # noqa: F401  modules that programs use, and a minimal Python has not
import ctypes
import decimal  # noqa: F401
import heapq  # noqa: F401
import json  # noqa: F401
import os
import socket
import sys
import threading

NOBODY = 65534


def refused(deed):
    """Whether the kernel refuses it."""
    try:
        deed()
    except OSError:
        return True
    return False


def status(key):
    with open("/proc/self/status") as lines:
        return next(line.split()[1] for line in lines if line.startswith(key + ":"))


def open_shared_memory():
    if ctypes.CDLL(None, use_errno=True).shmget(0, 4096, 0o1600) < 0:
        raise OSError(ctypes.get_errno(), "shmget")


holds = {
    "another user": os.getuid() == os.getgid() == NOBODY and os.getgroups() in ([], [NOBODY]),
    "no capabilities": int(status("CapEff"), 16) == int(status("CapPrm"), 16) == 0,
    "no new privileges": status("NoNewPrivs") == "1",
    "a system call filter": status("Seccomp") == "2",
    "no sockets": refused(socket.socket),
    "no processes": refused(os.fork),
    "no memory outside the address space": refused(lambda: os.memfd_create("x"))
    and refused(open_shared_memory),
    "no namespaces": ctypes.CDLL(None).unshare(0x10000000) == -1,
    "no other processes in view": {n for n in os.listdir("/proc") if n.isdigit()} <= {"1", str(os.getpid())},
    "nothing of its keeper in view": not os.listdir("/proc/1"),
    "nothing of the machine in view": set(os.listdir("/"))
    <= {"box", "dev", "lib", "lib64", "proc", "tmp", "usr"},
    "nothing to write to": all(
        refused(lambda f=f: os.open(f + "/x", 0o101)) for f in ("/", "/usr", "/dev", "/box")
    ),
    "scratch": not refused(lambda: os.close(os.open("/tmp/x", 0o101))),
    "kernel's settings": refused(lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)),
    "no environment": set(os.environ) <= {"LC_ALL", "PWD", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE"},
}
thread = threading.Thread(target=holds.setdefault, args=("threads", True))
thread.start()
thread.join()
broken = [name for name, held in holds.items() if not held]
print("does not hold: " + ", ".join(broken) if broken else "fenced")
sys.exit(bool(broken))
