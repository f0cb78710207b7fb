"""The run's record in Weights & Biases, offline unless it is told otherwise.

Guarantees: with mode `offline` or `disabled` nothing leaves the machine, and in any mode W&B writes
below the run's folder only, prints nothing and collects neither code, git state, console output nor
figures of the machine. W&B's own error reports are off. `metrics.jsonl` remains the record that
counts: this one repeats it.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class WandbRun:
    """One W&B run, made once a process; the same id carries on the same run."""

    def __init__(
        self, folder: Path, *, mode: str, project: str, run_id: str, config: Mapping[str, Any]
    ) -> None:
        """Open the run `run_id` of `project`, with its files below `folder`/wandb.

        `mode` is `online`, `offline` or `disabled`. `config` is the resolved configuration as plain
        nested values. An offline run that is opened again gets a file of its own under the same id;
        `wandb sync` joins them.

        Raises wandb's own errors: an id it cannot use, or no login in mode `online`.
        """
        wandb = _import_quietly(folder)
        self._run: Any = wandb.init(
            dir=folder,
            mode=mode,
            project=project,
            id=run_id,
            name=run_id,
            resume="allow",
            config=dict(config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_code=True,
                disable_git=True,
                disable_job_creation=True,
                host="local",
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def log(self, row: Mapping[str, Any], *, counter: str = "rollout") -> None:
        """Record a row of metrics at the step that its `counter` says.

        Rows past the checkpoint that a resumed run repeats are told apart by their step: W&B keeps
        the first.
        """
        self._tell(lambda run: run.log(dict(row), step=row[counter]))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Record the final figures and close the run."""
        self._tell(lambda run: run.summary.update(dict(summary)))
        self._tell(lambda run: run.finish())

    def _tell(self, verb: Callable[[Any], object]) -> None:
        """The verb on W&B's run, unless its service is gone: that is said once, and no fault of training."""
        if self._run is None:
            return
        try:
            verb(self._run)
        except Exception as error:  # it raises its own errors, the connection's, and those of asyncio
            self._run = None
            print(
                f"W&B's service is gone ({error or type(error).__name__}); the run goes on, and metrics.jsonl"
                " has every row. Started again, it records there again.",
                file=sys.stderr,
                flush=True,
            )


def _import_quietly(folder: Path) -> Any:
    """Import wandb with its error reports off and its logs in the run's folder, not in the home."""
    # Both are read from the environment alone, when wandb is imported or starts its service.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ["WANDB_SILENT"] = "true"
    os.environ["WANDB_CACHE_DIR"] = str((folder / "wandb" / "cache").absolute())
    os.environ["WANDB_DATA_DIR"] = str((folder / "wandb").absolute())
    import wandb

    return wandb
