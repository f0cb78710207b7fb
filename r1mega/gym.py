"""reasoning-gym, also where one of its dependencies could not be built.

pycosat is C without a wheel, so a machine without a compiler goes without it. reasoning-gym imports it
at once but calls it for one task only, its logic puzzles; all others work without.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import ModuleType


@cache
def load() -> ModuleType:
    """The module `reasoning_gym`."""
    if importlib.util.find_spec("pycosat") is None:
        sys.modules["pycosat"] = _Missing("pycosat")
    import reasoning_gym

    return reasoning_gym


class _Missing(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(
            "this task of reasoning-gym needs pycosat, which needs a C compiler: install one (Debian:"
            " apt install gcc python3-dev), then rm -rf .venv && make setup"
        )
