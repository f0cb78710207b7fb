"""Programs that try to get out of the sandbox, each judged from outside and never by its own word."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from r1mega.rewards import sandbox
from r1mega.rewards.sandbox import CalledOff, Ended, Limits, SandboxError, Status, run
from tests.support.sandbox import descendants, isolates, watch

pytestmark = isolates

SHORT = Limits(cpu_s=1, wall_s=60.0)
LIBC = "import ctypes, os, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
HOLD = "\ntime.sleep(0.15)\n"
SECRET = "a-secret-of-the-trainer"
MIB = 1024**2
GROW = "parts = []\nwhile True:\n  try: parts.append(bytearray(1 << 20))\n  except MemoryError: break"


def tried(*deeds):
    """A program that tries one deed after another, whatever becomes of each."""
    steps = "".join(f"try:\n    {deed}\nexcept BaseException as e:\n    print(repr(e))\n" for deed in deeds)
    return LIBC + steps + HOLD


@pytest.fixture
def victim():
    """A process of the very user that programs run as."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with subprocess.Popen([*drop, "/bin/sleep", "60"]) as process:
        yield process
        process.kill()


# Time


def test_an_endless_loop_is_ended():
    seen = watch("while True: pass", SHORT)
    assert seen.code == 128 + 9
    assert not seen.left_over


def test_ignoring_every_signal_does_not_help():
    ignore = (
        "import signal\nfor s in range(65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except Exception: s\n"
    )
    seen = watch(ignore + "while True: pass", SHORT)
    assert seen.code == 128 + 9
    assert not seen.left_over


def test_sleeping_is_ended_by_the_wall_clock():
    seen = watch("import time; time.sleep(60)", replace(SHORT, wall_s=0.5))
    assert seen.ended is Ended.TIME
    assert not seen.left_over


def test_closing_all_output_and_going_on_is_ended():
    assert (
        run("import os, time\nos.close(1); os.close(2); time.sleep(60)", limits=Limits(wall_s=1)).status
        is Status.TIME
    )


# Processes and memory


def test_no_daemon_survives(tmp_path):
    target = tmp_path / "late"
    tmp_path.chmod(0o777)
    daemon = f"""
import os, time
for _ in range(2):
    try:
        if os.fork(): os._exit(0)
        os.setsid()
    except OSError: pass
time.sleep(0.3); open({str(target)!r}, "w")
"""
    seen = watch(daemon)
    assert not seen.left_over
    assert not target.exists()


def test_a_fork_bomb_does_not_start():
    seen = watch("import os\nfor _ in range(10**5):\n  try: os.fork()\n  except OSError: pass", SHORT)
    assert seen.processes <= 3  # two of bubblewrap's, and the program
    assert not seen.left_over


def test_forks_by_other_system_calls_do_not_start():
    calls = ["libc.syscall(57)", "libc.syscall(58)", "libc.syscall(56, 17, 0, 0, 0, 0)"]
    clone3 = "b = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17); libc.syscall(435, b, 88)"
    seen = watch(tried(*calls, clone3, "import subprocess; subprocess.Popen(['/usr/bin/sleep', '5'])"))
    assert seen.processes <= 3


def test_a_thread_bomb_is_bounded():
    bomb = "import threading, time\nthreading.stack_size(32768)\nwhile True:\n  try: "
    bomb += "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n  except RuntimeError: pass"
    seen = watch(bomb, SHORT)
    assert 10 < seen.threads <= SHORT.threads
    assert not seen.left_over


def test_a_program_s_memory_is_bounded():
    seen = watch(GROW, replace(SHORT, memory_bytes=256 * MIB))
    assert 64 * MIB < seen.resident_bytes <= 256 * MIB


def test_memory_over_eight_processes_is_one_process_s():
    grow = "import os\nfor _ in range(3):\n  try: os.fork()\n  except OSError: pass\n"
    seen = watch(grow + GROW, replace(SHORT, memory_bytes=256 * MIB))
    assert seen.processes * seen.resident_bytes <= 3 * 256 * MIB
    assert seen.processes <= 3


def test_no_memory_is_had_outside_the_address_space():
    before = set(Path("/proc/sysvipc/shm").read_text().splitlines())
    seen = watch(tried("os.memfd_create('x')", "libc.syscall(447, 0)", "libc.shmget(7, 1 << 28, 0o1666)"))
    assert not any("memfd" in name or "secretmem" in name for name in seen.descriptors)
    assert set(Path("/proc/sysvipc/shm").read_text().splitlines()) == before


def test_recursion_ends_the_program_alone():
    deep = "import sys\nsys.setrecursionlimit(10**9)\nf = lambda: [f()].sort(key=lambda _: f())\nf()"
    assert run(deep, limits=SHORT).status is not Status.DONE
    assert run("print(1)").stdout == b"1\n"


def test_the_scratch_folder_is_bounded():
    fill = "import time\nfor i in range(99):\n  try:\n    with open(f'/tmp/{i}', 'wb') as f:\n"
    fill += "      for _ in range(64): f.write(bytes(1 << 18))\n  except OSError: pass"
    seen = watch(fill + HOLD)
    assert 8 * MIB < seen.scratch_bytes <= 32 * MIB


# Files and secrets


def test_nothing_is_written_outside(tmp_path):
    tmp_path.chmod(0o777)
    places = [
        tmp_path,
        Path("/tmp"),
        Path("/var/tmp"),
        Path("/usr"),
        Path("/dev/shm"),
        Path.home(),
        Path("/"),
    ]
    files = [place / f"r1mega-escape-{os.getpid()}" for place in places]
    watch(tried(*(f"open({str(file)!r}, 'w').write('x')" for file in files)))
    assert not any(file.exists() for file in files)


def test_symlinks_lead_nowhere(tmp_path):
    tmp_path.chmod(0o777)
    target = tmp_path / "target"
    target.write_text(SECRET)
    target.chmod(0o666)
    link = f"os.symlink({str(target)!r}, '/tmp/l')"
    up = "/tmp/../../../.." + str(target)
    outcome = run(
        tried(link, "print(open('/tmp/l').read())", "open('/tmp/l', 'w')", f"print(open({up!r}).read())")
    )
    assert SECRET.encode() not in outcome.stdout
    assert target.read_text() == SECRET


def test_the_environment_is_not_handed_on(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    where = ["print(dict(os.environ))", "print(open('/proc/self/environ').read())"]
    outcome = run(tried(*where, "print([open(f'/proc/{p}/environ').read() for p in (1, os.getppid())])"))
    assert SECRET.encode() not in outcome.stdout


def test_files_of_the_machine_cannot_be_read(tmp_path):
    secret = tmp_path / "key"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    tmp_path.chmod(0o755)
    paths = [
        str(secret),
        f"/proc/{os.getpid()}/root{secret}",
        f"/proc/1/root{secret}",
        "/etc/passwd",
        "/etc/shadow",
    ]
    outcome = run(tried(*(f"print(open({path!r}).read())" for path in paths)))
    assert SECRET.encode() not in outcome.stdout
    assert b"root:" not in outcome.stdout


def test_open_descriptors_are_not_handed_on(tmp_path):
    secret = tmp_path / "key"
    secret.write_text(SECRET)
    fd = os.open(secret, os.O_RDONLY)
    os.set_inheritable(fd, True)
    read_all = "for fd in range(3, 64):\n  try: print(os.pread(fd, 99, 0))\n  except OSError: pass"
    seen = watch(LIBC + read_all + HOLD)
    os.close(fd)
    assert SECRET.encode() not in seen.stdout
    # While it starts, Python has libraries and modules of its own open.
    kinds = {name.split(":")[0] for name in seen.descriptors if not name.startswith("/usr/")}
    assert kinds <= {"pipe", "/dev/null", "/box/main.py"}


# Network and other processes


def test_no_tcp_connection_comes_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        watch(tried(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1).send(b'x')"))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_unix_socket_is_reached(tmp_path):
    tmp_path.chmod(0o777)
    for address in (str(tmp_path / "s"), f"\0r1mega-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            if address[0] != "\0":
                os.chmod(address, 0o777)
            server.listen()
            server.setblocking(False)
            watch(tried(f"import socket; socket.socket(socket.AF_UNIX).connect({address!r})"))
            with pytest.raises(BlockingIOError):
                server.accept()


def test_other_processes_cannot_be_killed(victim):
    kill = [f"os.kill({pid}, 9)" for pid in (victim.pid, os.getppid(), -1)]
    watch(tried(*kill, f"libc.syscall(424, libc.syscall(434, {victim.pid}, 0), 9, 0, 0)"))
    assert victim.poll() is None


def test_other_processes_cannot_be_seen(victim):
    show = (
        "for p in os.listdir('/proc'):\n  try: print(open(f'/proc/{p}/cmdline').read())\n  except OSError: 0"
    )
    outcome = run(LIBC + show)
    assert b"/bin/sleep" not in outcome.stdout
    assert b"pytest" not in outcome.stdout


def test_the_keeper_inside_cannot_be_reached():
    show = ["print('found', os.listdir('/proc/1'))", "print('found', open('/proc/1/environ').read())"]
    write = "open('/proc/1/mem', 'r+b', 0); print('found', 'mem')"
    outcome = run(tried(*show, write, "print('found', os.listdir('/proc/1/task/1/fd'))"))
    assert outcome.stdout.count(b"found") == 1
    assert b"found []\n" in outcome.stdout


def test_other_processes_cannot_be_traced_or_written_to(victim):
    attach = [f"libc.ptrace({how}, {victim.pid}, 0, 0)" for how in (16, 0x4206)]
    memory = f"open('/proc/{victim.pid}/mem', 'r+b')"
    seen = watch(
        tried(*attach, "libc.ptrace(0, 0, 0, 0)", memory, f"libc.syscall(311, {victim.pid}, 0, 0, 0, 0, 0)")
    )
    assert "TracerPid:\t0" in Path(f"/proc/{victim.pid}/status").read_text()
    assert seen.status["TracerPid"] == "0"


# The kernel


def test_kernel_entry_points_cannot_be_set():
    points = ["core_pattern", "modprobe", "hotplug", "sysrq", "domainname", "hostname"]
    files = [Path("/proc/sys/kernel", point) for point in points]
    before = [file.read_text() if file.exists() else None for file in files]
    writes = [f"open('/proc/sys/kernel/{point}', 'w').write('|/tmp/x')" for point in points]
    others = [
        "open('/proc/sysrq-trigger', 'w').write('h')",
        "open('/sys/kernel/uevent_helper', 'w').write('/tmp/x')",
    ]
    watch(tried(*writes, *others, "open('/proc/1/oom_score_adj', 'w').write('-1000')"))
    assert [file.read_text() if file.exists() else None for file in files] == before


def test_nothing_is_mounted_and_no_namespace_made():
    mount = "libc.mount(b'none', b'/tmp', b'tmpfs', 0, 0)"
    again = "libc.mount(b'/usr', b'/usr', 0, 32 | 4096, 0)"
    deeds = [
        "libc.unshare(0x10000000 | 0x20000)",
        mount,
        again,
        "libc.chroot(b'/tmp')",
        "libc.umount2(b'/usr', 2)",
    ]
    ordinary, seen = watch(tried("pass")), watch(tried(*deeds, "open('/usr/bin/x', 'w')"))
    assert seen.mounts == ordinary.mounts
    assert not Path("/usr/bin/x").exists()


def test_risky_kernel_interfaces_are_closed():
    numbers = (
        425,
        323,
        321,
        298,
        250,
        248,
        304,
        300,
    )  # io_uring, userfaultfd, bpf, perf, keys, handles, fanotify
    seen = watch(
        tried("o = (ctypes.c_char * 512)()", *(f"libc.syscall({n}, 1, o, 64, 0, 0)" for n in numbers))
    )
    assert not any("anon_inode" in name for name in seen.descriptors)


def test_system_calls_of_other_architectures_are_closed():
    x32_fork = 0x40000000 | 57
    seen = watch(tried(f"libc.syscall({x32_fork})"))
    assert seen.processes <= 3
    assert seen.code == 128 + 31  # SIGSYS


def test_only_harmless_devices_are_there():
    make = [f"os.mknod('/{folder}/d', 0o60666, os.makedev(8, 0))" for folder in ("tmp", "dev")]
    seen = watch(tried(*make, "open('/dev/kmsg', 'w').write('r1mega')", "open('/dev/mem', 'rb')"))
    assert seen.devices <= {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}


def test_no_privilege_is_won():
    ids = ["os.setuid(0)", "os.setresgid(0, 0, 0)", "os.setgroups([0])", "libc.prctl(38, 0, 0, 0, 0)"]
    seen = watch(tried(*ids, "libc.syscall(126, 0, 0)", "os.execv('/usr/bin/su', ['su', '-c', 'sleep 1'])"))
    user = str(os.geteuid() or 65534)
    assert seen.status["Uid"].split() == [user] * 4
    assert (
        int(seen.status["CapEff"], 16)
        == int(seen.status["CapPrm"], 16)
        == int(seen.status["CapBnd"], 16)
        == 0
    )
    assert (seen.status["NoNewPrivs"], seen.status["Seccomp"]) == ("1", "2")


def test_a_shell_is_in_the_same_box(tmp_path):
    tmp_path.chmod(0o777)
    script = f"echo x > {tmp_path}/out; (sleep 9 &); echo $WANDB_API_KEY"
    seen = watch(f"import os; os.execv('/usr/bin/sh', ['sh', '-c', {script!r}])")
    assert list(tmp_path.iterdir()) == []
    assert seen.processes <= 3
    assert not seen.left_over


# Output


@pytest.mark.parametrize("stream", [1, 2])
def test_a_flood_is_cut_and_ended(stream):
    outcome = run(f"import os\nwhile True: os.write({stream}, b'x' * 65536)", limits=SHORT)
    assert outcome.status is Status.FLOOD
    assert max(len(outcome.stdout), len(outcome.stderr)) == SHORT.output_bytes


def test_output_is_bytes_as_they_come():
    outcome = run("import os; os.write(1, bytes(range(256)) * 4)")
    assert outcome == (Status.DONE, bytes(range(256)) * 4, b"")


# Honest programs, and the ones who run them


@pytest.mark.parametrize(
    ("program", "stdin", "stdout"),
    [
        ("print(sum(map(int, input().split())))", b"1 2 3", b"6\n"),
        ("import sys; print(len(sys.stdin.buffer.read()))", b"\x00\xff" * 10**6, b"2000000\n"),
        ("print('x' * 65_535)", b"", b"x" * 65_535 + b"\n"),
        ("open('/tmp/f', 'w').write('Zürich 苏'); print(open('/tmp/f').read())", b"", "Zürich 苏\n".encode()),
        (
            "import threading as t; [t.Thread(target=print, args=(1,)).start() for _ in 'ab']",
            b"",
            b"1\n1\n",
        ),
        (
            "import sys; sys.setrecursionlimit(20000); f=lambda n: n and 1+f(n-1); print(f(15000))",
            b"",
            b"15000\n",
        ),
        (
            "import heapq, bisect, decimal, fractions, statistics, itertools, re, typing; print(__name__)",
            b"",
            b"__main__\n",
        ),
        ("import sys; sys.exit(0)", b"", b""),
    ],
)
def test_honest_programs_run(program, stdin, stdout):
    assert run(program, stdin) == (Status.DONE, stdout, b"")


def test_a_program_that_reads_nothing_or_fails_says_so():
    assert run("print(1)", b"x" * 10**6).status is Status.DONE
    failed = run("1 / 0")
    assert failed.status is Status.FAILED
    assert b"ZeroDivisionError" in failed.stderr


def test_equal_programs_print_equal_output():
    program = "print({*'abcdefgh'}, hash('x'))"
    assert run(program) == run(program)


def test_a_run_that_is_called_off_ends_at_once():
    import threading

    off = threading.Event()
    threading.Timer(0.3, off.set).start()
    began = time.monotonic()
    with pytest.raises(CalledOff):
        run("while True: pass", limits=Limits(cpu_s=60, wall_s=60), called_off=off)
    assert time.monotonic() - began < 30


OWNER = """
import os, sys
from r1mega.rewards.sandbox import Limits, start
sandboxed = start({"main.py": "import time; time.sleep(100)"}, Limits(cpu_s=60, wall_s=60))
print(sandboxed.pid, flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_when_the_trainer_is_killed():
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    outermost = int(owner.stdout.readline())
    end = time.monotonic() + 20
    while len(inside := descendants(outermost)) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    owner.kill()
    owner.communicate()
    while any(Path(f"/proc/{pid}").exists() for pid in inside):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def fresh_isolation():
    sandbox.isolation.cache_clear()
    yield
    sandbox.isolation.cache_clear()


@pytest.mark.usefixtures("fresh_isolation")
def test_a_machine_without_the_tools_refuses_and_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (fault,) = sandbox.isolation()
    assert "apt-get install bubblewrap util-linux" in fault
    with pytest.raises(SandboxError, match="bwrap"):
        run("print(1)")


@pytest.mark.usefixtures("fresh_isolation")
def test_a_fence_with_a_hole_is_found(monkeypatch):
    import r1mega.rewards.sandbox_process as process

    monkeypatch.setattr(
        process,
        "command",
        lambda limits, files, rules, status: [
            word for word in _command(limits, files, rules, status) if word not in ("--seccomp", str(rules))
        ],
    )
    from r1mega.rewards.sandbox_fence import command as _command

    (fault,) = sandbox.isolation()
    assert "does not hold" in fault
    assert "no sockets" in fault


@pytest.mark.usefixtures("fresh_isolation")
def test_a_refused_namespace_is_explained(monkeypatch, tmp_path):
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    bwrap.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (fault,) = sandbox.isolation()
    assert "No permissions to create new namespace" in fault
    assert "user.max_user_namespaces" in fault
