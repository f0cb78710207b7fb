"""What a run's own offline W&B file holds, read by W&B's own reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of metrics that a run's one .wandb file holds."""
    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    output = subprocess.run(inspect, env=environment, capture_output=True, text=True, check=True, timeout=60)
    records = [json.loads(line) for line in output.stdout.splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]
