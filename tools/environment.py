"""Sets up `.venv` from `locks/cpu.txt`, and resolves the locks anew.

    python3.11 tools/environment.py setup [VENV]      `make setup`; a second run changes nothing
    python3.11 tools/environment.py lock [OPTION...]  `make lock`; options go to `uv pip compile`

Standard library only, for it runs before anything is installed. Packages come from where the user's
pip looks (its configuration is handed to uv, which is several times faster than pip and does not
read it), and where uv fails pip is asked. Only torch has a second source: where those indexes hold
no CPU build of it, PyTorch's own index for CPU builds is used. A CUDA build is never installed.
"""

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
PYPI = "https://pypi.org/simple"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON_OF_RUNTIME = {"cpu": "3.11", "cu12": "3.12", "cu13": "3.12"}
PLATFORM = "x86_64-manylinux_2_31"  # vLLM's wheels ask for glibc 2.31: Debian 11, Ubuntu 20.04

# Reading these is the proof that the environment works. It also leaves their bytecode behind, which
# would else be compiled by the first run; the environment's other files are never compiled.
FIRST_IMPORT = """
import torch
assert torch.version.cuda is None, f"torch {torch.__version__} is a CUDA build"
import math_verify, matplotlib.pyplot, transformers, wandb
import r1mega.gym
r1mega.gym.load()
import megatron.core.dist_checkpointing, megatron.core.models.gpt, megatron.core.optimizer
import vllm.v1.engine.llm_engine, vllm.v1.worker.cpu_worker, vllm.v1.worker.cpu_model_runner
"""


class SetupError(Exception):
    """What went wrong and how to mend it, for the user to read."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pip_configuration() -> dict[str, str]:
    """The user's pip settings by name: environment before `install` section before `global`."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise SetupError(
            f"{sys.executable} has no working pip. Install it (Debian: apt install python3-pip), "
            "or name another Python: make setup PYTHON=/path/to/python3.11"
        )
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed.stdout, re.MULTILINE):
            found[name] = str(ast.literal_eval(value))
    return found


def installer_environment() -> dict[str, str]:
    """This process's environment, with pip's settings under uv's names; uv's own settings stand."""
    settings = pip_configuration()
    words = {name: value.split() for name, value in settings.items()}
    # uv asks its default index last, pip asks its main one first.
    *indexes, last = [settings.get("index-url", PYPI), *words.get("extra-index-url", [])]
    proxy = settings.get("proxy")
    translated = {
        "UV_INDEX": " ".join(indexes),
        "UV_DEFAULT_INDEX": last,
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # as pip does: each version from where it is
        "UV_FIND_LINKS": ",".join(words.get("find-links", [])),
        "UV_NO_INDEX": "1" if settings.get("no-index") in ("1", "true", "yes", "on") else None,
        "UV_INSECURE_HOST": " ".join(words.get("trusted-host", [])),
        "UV_HTTP_TIMEOUT": settings.get("timeout") or settings.get("default-timeout"),
        "SSL_CERT_FILE": settings.get("cert"),
        "HTTPS_PROXY": proxy,
        "HTTP_PROXY": proxy,
    }
    env = {name: value for name, value in translated.items() if value} | os.environ
    env["UV_PYTHON_DOWNLOADS"] = "never"
    env["PIP_USER"] = "0"  # a user-wide `user = true` would make pip refuse the environment
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env


def pinned(package: str) -> str:
    """The CPU lock's line for a package: `torch==2.13.0+cpu`."""
    match = re.search(rf"^{package}==\S+", (LOCKS / "cpu.txt").read_text(), re.MULTILINE)
    if match is None:
        raise SetupError(f"locks/cpu.txt does not pin {package}; restore it: git checkout locks")
    return match.group()


class Environment:
    """A virtual environment and the two programs that can fill it."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        self.uv = folder / "bin" / "uv"
        self.folder = folder
        self.env = installer_environment()

    def create(self) -> None:
        """Makes the folder where there is none, with uv in it; refuses one of another Python."""
        if not self.folder.exists():
            # Without pip of its own: Debian's venv has none to give, and the outer pip can fill it.
            self.run([sys.executable, "-m", "venv", "--without-pip", self.folder], show=False)
        version = "import sys; print('%d.%d' % sys.version_info[:2])"
        failed, answer = self.run([self.python, "-c", version], show=False)
        if failed or answer.strip() != PYTHON_OF_RUNTIME["cpu"]:
            raise SetupError(
                f"{self.folder} is not a Python {PYTHON_OF_RUNTIME['cpu']} environment. "
                f"Remove it and set up again: rm -rf {self.folder} && make setup"
            )
        self.run([*self._pip(), "--quiet", pinned("uv")], show=False)

    def install(self, *arguments: str | Path, show: bool = False) -> str:
        """Installs without dependencies, by uv or else by pip; '' when done, else what was said."""
        complaints = []
        for installer in self._installers():
            failed, said = self.run([*installer, *arguments], show=show)
            if not failed:
                return ""
            complaints.append(said.strip() or "installation failed")
        return complaints[0]

    def torch_index(self, *options: str) -> list[str]:
        """Options that find the CPU build of torch: none where the user's own indexes have it.

        An installed one counts as found, unless `options` hold `--force-reinstall`.
        """
        wanted = pinned("torch")
        for installer in self._installers():
            failed, _ = self.run([*installer, "--dry-run", *options, wanted], show=False)
            if not failed:
                return []
        say(f"      your package indexes have no {wanted}: taking it from {PYTORCH_CPU_INDEX}")
        return ["--extra-index-url", PYTORCH_CPU_INDEX]

    def first_import(self) -> None:
        failed, said = self.run([self.python, "-W", "ignore", "-c", FIRST_IMPORT], show=False)
        if failed:
            raise SetupError(
                f"{said}\nThe installed packages do not import (see above). "
                f"Start afresh: rm -rf {self.folder} && make setup"
            )

    def _installers(self) -> list[list[str | Path]]:
        """Commands to which requirements are appended, the faster first."""
        uv: list[str | Path] = [self.uv, "pip", "install", "--python", self.python, "--no-deps"]
        return [uv, [*self._pip(), "--no-compile"]] if self.uv.exists() else [self._pip()]

    def _pip(self) -> list[str | Path]:
        return [sys.executable, "-m", "pip", "--python", self.python, "install", "--no-deps"]

    def run(self, command: Sequence[str | Path], *, show: bool) -> tuple[int, str]:
        """Exit status and output; with `show`, output goes to the terminal, if there is one."""
        show = show and sys.stderr.isatty()
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout or ""


def check_machine() -> None:
    machine = os.uname()
    if (machine.sysname, machine.machine) != ("Linux", "x86_64"):
        raise SetupError(
            f"The CPU lock is for Linux on x86_64; this is {machine.sysname} on {machine.machine}. "
            "A Linux container or virtual machine of that kind does."
        )
    running = ".".join(map(str, sys.version_info[:2]))
    if running != PYTHON_OF_RUNTIME["cpu"]:
        raise SetupError(
            f"The CPU lock is for Python {PYTHON_OF_RUNTIME['cpu']}; this is {running}. "
            "Name one: make setup PYTHON=/path/to/python3.11"
        )


def setup(folder: Path) -> None:
    started = time.monotonic()
    check_machine()
    lock = LOCKS / "cpu.txt"

    say(f"[1/4] {folder.name}: an environment of {sys.executable}, and uv to fill it")
    venv = Environment(folder)
    venv.create()

    say(f"[2/4] {pinned('torch')} (190 MB)")
    said = venv.install(*venv.torch_index(), pinned("torch"), show=True)
    if said:
        raise SetupError(
            f"{said}\n{pinned('torch')} could not be installed (see above). Check that your "
            f"package index or {PYTORCH_CPU_INDEX} can be reached, then: make setup"
        )

    packages = len(re.findall(r"^\S+==", lock.read_text(), re.MULTILINE))
    say(f"[3/4] the other {packages - 1} packages of locks/cpu.txt and r1mega itself (800 MB)")
    wanted = [lock]
    if venv.install(pinned("pycosat")):
        # The one package in C without a wheel. reasoning-gym's logic puzzles alone call it.
        say("      pycosat needs a C compiler (Debian: apt install gcc python3-dev): left out")
        wanted = [folder / "cpu-without-pycosat.txt"]
        wanted[0].write_text(lock.read_text().replace(pinned("pycosat"), ""))
    said = venv.install("-r", wanted[0], "-e", ".", show=True)
    if said:
        raise SetupError(f"{said}\nSome packages could not be installed (see above); then: make setup")

    say("[4/4] first import of torch, Megatron-Core and vLLM")
    venv.first_import()
    say(f"Set up in {time.monotonic() - started:.0f} s.")


def header(runtime: str, options: list[str]) -> str:
    """What stands above a lock: how it was made, and how it is installed."""
    lines = [
        "Made by `make lock`, which runs, in the repository:",
        f"    uv pip compile {' '.join(options)}",
        "It is complete: install it with --no-deps. It has no hashes, for one version may come",
        "from several indexes in several builds, torch's CPU build above all.",
    ]
    if runtime != "cpu":
        lines += [
            "Resolved, not run on a GPU. For a Python 3.12 environment with nvcc at hand, in two",
            "steps, as transformer-engine-torch is compiled against the torch it finds:",
            f"    grep -v '^transformer-engine-torch' locks/{runtime}.txt |",
            "        uv pip install --no-deps -r - -e .",
            f"    uv pip install --no-deps --no-build-isolation -r locks/{runtime}.txt",
        ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def lock(options: list[str]) -> None:
    venv = Environment(ROOT / ".venv")
    venv.create()
    for runtime, python in PYTHON_OF_RUNTIME.items():
        target = LOCKS / f"{runtime}.txt"
        asked = ["pyproject.toml", "--extra", runtime, "--extra", "dev"]
        asked += ["--python-version", python, "--python-platform", PLATFORM]
        overrides = LOCKS / f"{runtime}.overrides"
        if overrides.exists():
            asked += ["--overrides", str(overrides.relative_to(ROOT))]
        say(f"resolving locks/{runtime}.txt")
        index = venv.torch_index("--force-reinstall") if runtime == "cpu" else []
        # uv keeps the versions that the output file already holds, unless an option says otherwise.
        compile_ = ["pip", "compile", "--quiet", "--no-header", *asked, *options, *index]
        failed, said = venv.run([venv.uv, *compile_, "-o", str(target.relative_to(ROOT))], show=False)
        if failed:
            raise SetupError(f"{said}\nlocks/{runtime}.txt was left as it was (see above)")
        target.write_text(header(runtime, asked) + target.read_text())


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["setup"]:
                setup(ROOT / ".venv")
            case ["setup", folder]:
                setup(Path(folder).resolve())
            case ["lock", *options]:
                lock(options)
            case _:
                say(__doc__ or "")
                return 2
    except SetupError as error:
        say(f"\n{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
