"""What a grading worker may not do: outlive its parent, take all memory, reach outside itself.

Some verifiers evaluate an answer as an expression, so an answer may say `open(...)`. The audit
hook here stops what such an accident or a model in search of reward is likely to try. It is a
fence, not a sandbox: answers of a model you do not trust belong in a container.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "os.posix_spawn", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.putenv", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
    *("subprocess.Popen", "pty.spawn", "ctypes.dlopen", "signal.pthread_kill"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit if it has.

    Only Linux offers this. Elsewhere a worker goes when its input closes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def limit_memory(memory_bytes: int) -> None:
    """Make allocation fail past so many bytes of address space; write no files and no core
    dumps."""
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def fence() -> None:
    """From here on, starting processes, changing files and opening connections raise
    PermissionError."""
    sys.dont_write_bytecode = True
    sys.addaudithook(_audit)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (soft, hard))


def _audit(event: str, args: tuple[object, ...]) -> None:
    if event in _FORBIDDEN or event.startswith("socket."):
        raise PermissionError(f"a grading worker may not use {event}")
    if event == "open" and len(args) == 3 and isinstance(args[2], int) and args[2] & _WRITING:
        raise PermissionError("a grading worker may not write files")
