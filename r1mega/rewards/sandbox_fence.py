"""What a generated program is fenced in with: limits, a system call filter, a command that puts up both.

setpriv drops root to a user who owns nothing; bubblewrap gives a view of the machine that holds a read-only
/usr, a scratch folder in memory and private /proc and /dev, without network, environment or capabilities;
the filter denies what the kernel would still offer; prlimit bounds processor time, memory and files. The
number of threads is set last, inside the program's own user namespace, where it is counted for each program
alone. bubblewrap's own process inside, number 1, is of the same user as the program, which could read and
write its memory, so its folder in /proc is covered. Since a program cannot start a second process, its
address space is all the memory it can have: whatever holds pages outside of it (memfd, System V memory,
message queues) is denied too.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import final

NOBODY = 65534
PYTHON = "/usr/bin/python3"
"""The system's: one in a private home cannot be read by another user."""
BOX = "/box"
"""Where the files of a run lie inside, read-only."""
TOOLS = ("setpriv", "bwrap", "prlimit")

_CLONE_THREAD = 0x00010000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_DENIED = (
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    *("fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "process_madvise"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal"),
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount"),
    *("fspick", "mount_setattr", "unshare", "setns", "name_to_handle_at", "open_by_handle_at"),
    *("bpf", "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "perf_event_open"),
    *("keyctl", "add_key", "request_key", "fanotify_init"),
    *("memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "semget", "msgget", "mq_open"),
    *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"),
    *("setgroups", "capset", "mknod", "mknodat"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot"),
    *("swapon", "swapoff", "acct", "quotactl", "syslog", "vhangup", "sethostname", "setdomainname"),
    *("settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "iopl", "ioperm", "modify_ldt"),
)


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use; `wall_s` also ends a program that only sleeps."""

    cpu_s: int = 3
    wall_s: float = 12.0
    memory_bytes: int = 1024**3
    scratch_bytes: int = 32 * 1024**2
    file_bytes: int = 16 * 1024**2
    output_bytes: int = 64 * 1024
    open_files: int = 64
    threads: int = 64


def command(limits: Limits, files: Mapping[str, int], filter_fd: int, status_fd: int) -> list[str]:
    """The command line of a run of `files["main.py"]`; `files` are descriptors to read, by name in /box."""
    return [
        *_limited(limits),
        *_drop_root(),
        *(_tool("bwrap"), "--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"),
        *("--uid", str(NOBODY), "--gid", str(NOBODY), "--cap-drop", "ALL", "--hostname", "box"),
        *("--clearenv", "--setenv", "LC_ALL", "C.UTF-8"),
        # Equal programs must earn equal rewards: an order of sets that changes by the run would break that.
        *("--setenv", "PYTHONHASHSEED", "0", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"),
        *_system_folders(),
        *(
            "--proc",
            "/proc",
            "--tmpfs",
            "/proc/1",
            "--remount-ro",
            "/proc/1",
            "--dev",
            "/dev",
            "--remount-ro",
            "/dev",
        ),
        *("--size", str(limits.scratch_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *(
            word
            for name, fd in files.items()
            for word in ("--perms", "0444", "--file", str(fd), f"{BOX}/{name}")
        ),
        *("--remount-ro", "/", "--seccomp", str(filter_fd), "--json-status-fd", str(status_fd), "--"),
        *("/usr/bin/prlimit", f"--nproc={limits.threads}"),
        # The environment is empty but for our words, so -s -S isolates as -I does, and heeds the hash seed.
        *(PYTHON, "-s", "-S", f"{BOX}/main.py"),
    ]


@cache
def seccomp_filter() -> bytes:
    """The filter, as the kernel takes it. Raises OSError or RuntimeError where libseccomp cannot make it."""
    import pyseccomp as seccomp

    refuse = seccomp.ERRNO(1)  # EPERM
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in _DENIED:
        rules.add_rule(refuse, name)
    rules.add_rule(seccomp.ERRNO(38), "clone3")  # ENOSYS: its flags lie in memory, so threads come by clone
    rules.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0))
    for request in (_TIOCSTI, _TIOCLINUX):
        rules.add_rule(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def missing_tools() -> list[str]:
    """What a sandbox is made of and this machine has not: programs, a library, the system's Python."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if ctypes.util.find_library("seccomp") is None:
        missing.append("libseccomp")
    return missing if os.access(PYTHON, os.X_OK) else [*missing, PYTHON]


def _tool(name: str) -> str:
    """Its whole path: what is started has an empty environment, and so no PATH."""
    return shutil.which(name) or name


def _drop_root() -> list[str]:
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
    return [_tool("setpriv"), "--no-new-privs", "--pdeathsig", "KILL", *ids]


def _system_folders() -> list[str]:
    """/usr read-only, and what stands for a part of it at the root: links on a merged system."""
    words = ["--ro-bind", "/usr", "/usr"]
    for folder in ("/lib", "/lib64"):
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    return words


def _limited(limits: Limits) -> list[str]:
    bounds = {
        "as": limits.memory_bytes,
        "cpu": limits.cpu_s,
        "fsize": limits.file_bytes,
        "nofile": limits.open_files,
        "stack": 8 * 1024**2,
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
    }
    return [_tool("prlimit"), *(f"--{name}={most}" for name, most in bounds.items())]
