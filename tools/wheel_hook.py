"""Puts `conf/` into wheels as `r1mega/conf`, where an installed r1mega looks for it.

An editable install reads the repository's `conf/`, and gets no copy that could grow old.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfIntoWheel(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["conf"] = "r1mega/conf"
