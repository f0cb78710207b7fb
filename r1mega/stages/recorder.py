"""What a run leaves in its folder, written by rank 0; on the other ranks the same calls do nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch.distributed as dist

from r1mega.config import BadRun, Config, Stage
from r1mega.pipeline import keys
from r1mega.stages.finished import prepare_folder
from r1mega.stages.judging import Components
from r1mega.stages.sampling import Batch
from r1mega.track import jsonl
from r1mega.track.environment import versions
from r1mega.track.figure import result_figure
from r1mega.track.progress import Progress
from r1mega.track.report import write_report
from r1mega.track.summary import format_result, write_summary
from r1mega.track.wandb_run import WandbRun

PRETRAIN_ROWS = "pretrain.jsonl"
REVIEWED_ROWS = "reviewed.jsonl"
ROWS = ("metrics.jsonl", "samples.jsonl", PRETRAIN_ROWS, REVIEWED_ROWS)
"""The files that grow while a run goes on."""


class Recorder:
    """Rows, samples, W&B's record, and at the end summary and report; a context manager."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = config.folder
        self.writes = dist.get_rank() == 0
        self.began = time.monotonic()
        self.wandb: WandbRun | None = None
        self.key = ""

    def __enter__(self) -> Recorder:
        if self.writes:
            made = prepare_folder(self.config)
            self.key = keys.key_of(made)
            track = self.config.track
            self.wandb = WandbRun(
                self.folder,
                # The same under every layout that the run goes on in.
                run_id=f"{self.config.name}-{keys.key_of(keys.course_of(made))}",
                project=track.project,
                mode=track.wandb.value,
                config=dataclasses.asdict(self.config),
            )
        dist.barrier()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.wandb is not None and error is not None:
            self.wandb.finish({})

    def say(self, line: str) -> None:
        """One line on the terminal."""
        if self.writes:
            print(line, flush=True)

    def progress(self, noun: str, total: int, done: int = 0) -> Progress:
        """A progress line counting `noun`s up to `total`, of which so many are done."""
        return Progress(noun, total, done=done)

    def position(self) -> dict[str, int]:
        """How many bytes each file of rows has."""
        files = (self.folder / name for name in ROWS)
        return {file.name: file.stat().st_size for file in files if file.exists()}

    def rewind(self, position: Mapping[str, int]) -> None:
        """Cut the files of rows to a `position`: what came after it is about to come again.

        Raises:
            BadRun: on rank 0; a file is shorter than that, or gone.
        """
        if not self.writes:
            return
        try:
            for name in ROWS:
                if (self.folder / name).exists() or position.get(name):
                    jsonl.cut(self.folder / name, position.get(name, 0))
        except ValueError as error:
            raise BadRun([f"{error}; fresh=true starts over"]) from None

    def rollout(self, row: Mapping[str, Any], progress: Progress) -> None:
        """Record the figures of a rollout, and show them."""
        if self.writes:
            jsonl.append(self.folder / "metrics.jsonl", row)
            assert self.wandb is not None
            self.wandb.log(row)
            progress.show(row["rollout"], row)

    def update(self, row: Mapping[str, Any], progress: Progress, every: int) -> None:
        """Record the figures of an update outside rollouts, and show those of every so many.

        A run that goes on to rollouts keeps them beside its metrics: both are counted from 1.
        """
        if self.writes:
            alone = self.config.stage is not Stage.grpo
            jsonl.append(self.folder / ("metrics.jsonl" if alone else PRETRAIN_ROWS), row)
            if alone and self.wandb is not None:
                self.wandb.log(row, counter="update")
            if row["update"] % every == 0:
                progress.show(row["update"], row)

    def samples(
        self, batch: Batch, components: Components, numbers: Sequence[int], **label: str | int
    ) -> None:
        """Keep the answers of these numbers, under what they are of: a `rollout`, or a model's name."""
        if not self.writes:
            return
        jsonl.append(
            self.folder / "samples.jsonl",
            *(
                {
                    **label,
                    "policy_version": batch.completions[i].version,
                    "prompt": batch.questions[i].text,
                    "answer": batch.texts[i],
                    "rewards": components[i],
                    "truncated": batch.completions[i].truncated,
                    "reference": batch.questions[i].answer,
                }
                for i in numbers
            ),
        )

    def reviewed(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep what rejection sampling found of some questions, until all are asked."""
        if self.writes:
            jsonl.append(self.folder / REVIEWED_ROWS, *rows)

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Write summary and report, close W&B's record and print the result."""
        if not self.writes:
            return
        summary = {
            "name": self.config.name,
            "stage": self.config.stage.value,
            "seed": self.config.seed,
            "config_hash": self.key,
            "wall_s": time.monotonic() - self.began,
            "environment": versions(),
            **figures,
        }
        write_summary(self.folder / "summary.json", summary)
        assert self.wandb is not None
        self.wandb.finish(summary)
        if self.config.stage is Stage.grpo:
            result_figure(jsonl.read(self.folder / "metrics.jsonl"), summary, self.folder / "result.svg")
        print(format_result(summary, write_report(self.folder)), flush=True)
