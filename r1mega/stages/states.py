"""A run's states as its stages see them: one is taken up at the start, and others are saved on the way.

Every rank calls the same verbs in the same order. A save copies what it saves and is written in the
background; it appears under its name, whole, at a later call. A state holds the policy's tensors and the
reference's, the optimizer's, how far the stage's course had come, and how long its files of rows were, so
that a run that goes on from it writes every row once.

A disk that is full costs a state, not the run: it is said, counted, and training goes on. A run that is told
to stop saves what it has and ends with `stopping.Stop`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from r1mega import stopping, watch
from r1mega.checkpoint import sharded
from r1mega.checkpoint.store import Saved, Store
from r1mega.config import Config
from r1mega.policy import Policy
from r1mega.stages.recorder import PRETRAIN_ROWS, Recorder
from r1mega.weights.megatron_write import Writing, local_bytes
from r1mega.weights.whole import from_first_rank

AHEAD = 1.5
"""The clock stops a run where so many times the longest unit of work so far would not fit any more."""

RESERVE_BYTES = 64 * 1024**2
"""What must stay free on the disk, for rows and the state's own lists."""


@dataclass(slots=True)
class Moment:
    """What a save is of: where the run stands, tensors aside."""

    saved: Saved
    course: Mapping[str, Any]
    policy: Mapping[str, Any]
    reference: Sequence[Tensor] | None
    rows: Mapping[str, int]


class States:
    """The states of one run; a context manager, which leaves no save half done unless the run failed."""

    def __init__(self, config: Config, policy: Policy, recorder: Recorder) -> None:
        self.config = config.checkpoint
        self.policy = policy
        self.recorder = recorder
        self.store = Store(config.folder / "checkpoints")
        self.failed = 0
        self.stall_s = 0.0
        self._writing: tuple[Writing, Moment, dict[str, Any]] | None = None
        self._moment: Moment | None = None
        self._newest: Saved | None = None
        self._since = time.monotonic()
        self._longest_s = 0.0

    def __enter__(self) -> States:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, stopping.Stop):
            self._settle(wait=True)
        if isinstance(error, stopping.Stop) and self._is_unsaved(self._moment):
            self._save(self._moment)
            self._settle(wait=True)

    def _is_unsaved(self, moment: Moment | None) -> TypeGuard[Moment]:
        """Whether the run, told to stop, stands at a moment that no state is of.

        Stopped after an update that the moment is not of, the policy is no longer what the moment names.
        """
        at_it = moment is not None and self.policy.training_state() == moment.policy
        return moment is not None and at_it and self._newest != moment.saved

    def take_up(self, unit: str) -> tuple[dict[str, Any], list[Tensor] | None] | None:
        """Put the newest whole state of this unit into the policy, whose course must have begun alike.

        Returns:
            The stage's course as it was saved, and the reference; None where there is no state.
        """
        saved = self._newest_whole(unit)
        if saved is None:
            # What an earlier start wrote comes again; the rows of a base that was finished do not.
            rows = self.recorder.position() if unit == "rollout" else {}
            self.recorder.rewind({name: rows[name] for name in rows if name == PRETRAIN_ROWS})
            return None
        kept: dict[str, Any] = from_first_rank(self.store.state(saved) if dist.get_rank() == 0 else {})
        steps, with_reference = kept["policy"]["steps"], kept["reference"]
        reference = sharded.restore(self.policy, self.store.path(saved), steps, with_reference=with_reference)
        self.policy.take_training_state(kept["policy"])
        self.recorder.rewind(kept["rows"])
        self.recorder.say(f"Going on from {saved} of an earlier start.")
        self._newest = saved
        return kept["course"], reference

    def after(
        self,
        saved: Saved,
        course: Mapping[str, Any],
        *,
        last: bool,
        reference: Sequence[Tensor] | None = None,
    ) -> None:
        """A unit of work is done: save where it is time to, and stop where the run is told to.

        Args:
            saved: the unit, and how many are done.
            course: what the stage goes on from, as JSON; the same on every rank.
            last: there is no further one.
            reference: the reference's weights, where the run has one.

        Raises:
            Stop: on every rank; the state is saved.
        """
        self._longest_s = max(self._longest_s, time.monotonic() - self._since)
        self._moment = Moment(
            saved, course, self.policy.training_state(), reference, self.recorder.position()
        )
        reason = self._settle()
        every = self.config.save_every_rollouts if saved.unit == "rollout" else self.config.save_every_updates
        if last or saved.number % every == 0:
            self._save(self._moment)
        if last:
            self._settle(wait=True)  # what comes after may take long, and nobody would give it its name
        self._since = time.monotonic()
        if reason:
            raise stopping.Stop(reason)

    def start_clock(self) -> None:
        """The first unit of work begins: what came before does not say how long one takes."""
        self._since = time.monotonic()

    def poll(self) -> None:
        """Give a save that all ranks have written its name, if there is one."""
        self._settle()

    def figures(self) -> dict[str, float]:
        """How long training stood still for saving since the last call, and how many saves failed."""
        stall_s, self.stall_s = self.stall_s, 0.0
        return {"timing_s/save": stall_s, "reliability/failed_saves": float(self.failed)}

    def forget(self, unit: str) -> None:
        """Remove the states of this unit; another artifact has taken their place."""
        self._settle(wait=True)
        if dist.get_rank() == 0:
            for one in self.store.saved(unit):
                self.store.remove(one)
        self._moment = self._newest = None

    def _newest_whole(self, unit: str) -> Saved | None:
        """The newest state whose files are those that were written; damaged ones are named and set aside."""
        for saved in from_first_rank(self.store.saved(unit) if dist.get_rank() == 0 else []):
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self.store.faults(saved, dist.get_rank(), dist.get_world_size()))
            faults = [fault for part in parts for fault in part]
            if not faults:
                return saved
            if dist.get_rank() == 0:
                aside = self.store.set_aside(saved)
                print(
                    f"warning: {self.store.path(saved)} is damaged, and is now {aside.name}:"
                    f" {'; '.join(faults[:3])}",
                    flush=True,
                )
            dist.barrier()
        return None

    def _save(self, moment: Moment) -> None:
        """Begin to save; what was being written before is finished first."""
        watch.phase("saving")
        began = time.monotonic()
        self._settle(wait=True)
        # Where every update so far was skipped, the run's beginning is its state.
        if moment.policy["steps"]:
            self._begin(moment)
        self.stall_s += time.monotonic() - began

    def _begin(self, moment: Moment) -> None:
        described = sharded.describe(self.policy, moment.reference, loading=False)
        folder, fault = None, self._no_room(described)
        if fault is None and dist.get_rank() == 0:
            try:
                folder = self.store.begin(moment.saved)
            except OSError as error:
                fault = error.strerror or str(error)
        folder, fault = from_first_rank((folder, fault))
        if folder is None:
            self._fail(moment.saved, str(fault))
            return
        kept = {
            "course": moment.course,
            "policy": moment.policy,
            "rows": moment.rows,
            "reference": moment.reference is not None,
        }
        self._writing = Writing(described, folder), moment, kept

    def _settle(self, *, wait: bool = False) -> str | None:
        """Give a save that all ranks have written its name; with `wait`, when they have.

        Returns:
            Who asks the run to stop, if anyone asks any rank.
        """
        reason = stopping.asked(AHEAD * self._longest_s)
        busy = self._writing is not None and not wait and not self._writing[0].done
        flags = torch.tensor([reason is not None, busy], dtype=torch.int, device=self.policy.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        asked, busy_anywhere = (bool(flag) for flag in flags.tolist())
        if self._writing is not None and not busy_anywhere:
            self._close(*self._writing)
            self._writing = None
        return (reason or "another rank was told to") if asked else None

    def _close(self, writing: Writing, moment: Moment, kept: dict[str, Any]) -> None:
        fault = None
        try:
            digests = writing.close()
            if dist.get_rank() == 0:
                self.store.publish(moment.saved, kept, digests)
        except OSError as error:
            fault = error.strerror or str(error)
        if fault := from_first_rank(fault):
            self._fail(moment.saved, fault)
            return
        self._newest = moment.saved
        self._prune(moment.saved.unit)

    def _prune(self, unit: str) -> None:
        if dist.get_rank() == 0:
            try:
                self.store.prune(unit, self.config.keep_last, self.config.keep_every)
            except OSError as error:
                print(f"warning: an old state could not be removed: {error}", flush=True)

    def _no_room(self, described: dict[str, Any]) -> str | None:
        needed = torch.tensor(local_bytes(described), dtype=torch.int64, device=self.policy.device)
        dist.all_reduce(needed)
        fault = None
        if dist.get_rank() == 0:
            free = shutil.disk_usage(self.store.folder.parent).free
            if free < needed.item() + RESERVE_BYTES:
                fault = f"it takes {needed.item() / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB free"
        return from_first_rank(fault)

    def _fail(self, saved: Saved, fault: str) -> None:
        self.failed += 1
        if dist.get_rank() == 0:
            self.store.discard(saved)
        newest = f"the last state is {self._newest}" if self._newest else "there is none before it"
        self.recorder.say(f"warning: {saved} was not saved: {fault}; {newest}. Training goes on.")
