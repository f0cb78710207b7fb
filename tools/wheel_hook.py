"""Puts `conf/` and `slurm/` into wheels as `r1mega/conf` and `r1mega/slurm`, where an installed r1mega looks.

An editable install reads the repository's own, and gets no copy that could grow old.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfIntoWheel(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"] |= {"conf": "r1mega/conf", "slurm": "r1mega/slurm"}
