"""Which figures the report draws, under which words, from the rows of `metrics.jsonl`.

Guarantees: every numeric figure of the rows is drawn somewhere, known or not; a panel without a
single figure in the rows is left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]

COUNTERS = ("rollout", "update", "policy_version")
TIME = "timing_s/"
WHOLE = "timing_s/step"


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One small chart: its title, what one reads off it, and its lines as (metric, label)."""

    title: str
    note: str
    lines: tuple[tuple[str, str], ...]
    log: bool = False
    share: bool = False
    """The figures are shares: the axis runs from 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def _one(title: str, note: str, metric: str, *, log: bool = False, share: bool = False) -> Panel:
    return Panel(title=title, note=note, lines=((metric, ""),), log=log, share=share)


LEARNT = (
    _one("Loss", "Mean next-token loss, nats", "loss"),
    _one("Accuracy", "Share of sampled answers that are right", "reward/accuracy", share=True),
    Panel(
        title="Answer length",
        note="Tokens of an answer",
        lines=(("response_length/mean", "mean"), ("response_length/max", "longest")),
    ),
    _one(
        "Answers cut off",
        "Share that reached the length limit and earned nothing",
        "response_length/clip_ratio",
        share=True,
    ),
    _one(
        "Reflection",
        "Rate of words such as wait, mistake, verify",
        "emergence/reflection_rate",
    ),
    _one(
        "Groups without variance",
        "Prompts whose answers all earned the same: nothing to learn from",
        "critic/groups_without_variance",
    ),
)

TRAINING = (
    _one("KL to the reference", "k3 estimate, nats a token", "actor/kl_loss"),
    _one("Movement within a rollout", "Mean of old - new log-prob, nats", "actor/ppo_kl"),
    _one("Entropy", "Of the policy's next token, nats", "actor/entropy"),
    _one("Clipped tokens", "Share whose policy gradient the clip removed", "actor/pg_clipfrac"),
    _one("Gradient norm", "Before clipping", "actor/grad_norm"),
    _one("Gradient norm", "Before clipping", "grad_norm"),
    _one("Policy loss", "Clipped objective, negative", "actor/pg_loss"),
    _one("Learning rate", "At the last update of the row", "actor/lr"),
    _one("Learning rate", "At the update", "lr"),
    _one("Expert load", "Busiest expert over the mean", "moe/max_load_over_mean"),
)

FIDELITY = (
    _one(
        "Hand-over",
        "Largest |log-prob difference| on the probe, nats; 0 on the lowest line",
        "handover/max_abs_dlogp",
        log=True,
    ),
    Panel(
        title="Trainer against sampler",
        note="|log-prob difference| on sampled tokens, nats; 0 on the lowest line",
        lines=(("mismatch/mean_abs_dlogp", "mean"), ("mismatch/max_abs_dlogp", "largest")),
        log=True,
    ),
)

SPEED = (
    _one("Generation", "New tokens a second", "perf/throughput"),
    _one("Training", "Tokens a second", "tokens_per_s"),
)


def sections(rows: Rows) -> list[Section]:
    """The report's sections for these rows, without what they hold nothing for."""
    known = (
        ("What it learnt", (_reward(rows), *LEARNT)),
        ("Does the engine hold the trainer's weights", FIDELITY),
        ("How the training went", TRAINING),
        ("How fast it was", SPEED),
    )
    drawn = {metric for _, panels in known for panel in panels for metric, _ in panel.lines}
    rest = tuple(
        _one(metric, "", metric)
        for metric in metrics_in(rows)
        if metric not in drawn and metric not in COUNTERS and not metric.startswith(TIME)
    )
    found = [
        Section(title=title, panels=tuple(p for p in panels if _is_in(p, rows)))
        for title, panels in (*known, ("Other figures", rest))
    ]
    return [section for section in found if section.panels]


def metrics_in(rows: Rows) -> list[str]:
    """Names of the numeric figures, in the order in which they first appear."""
    seen: dict[str, None] = {}
    for row in rows:
        seen.update((key, None) for key, value in row.items() if _is_number(value))
    return list(seen)


def series(rows: Rows, metric: str) -> list[float]:
    """The metric in every row; NaN where a row has none, or none that is finite."""
    return [float(row[metric]) if _is_number(row.get(metric)) else math.nan for row in rows]


def counter_of(rows: Rows) -> str:
    """What the rows count: `rollout` where they have it, else `update`."""
    return "rollout" if "rollout" in rows[0] else "update"


def phases(rows: Rows) -> dict[str, list[float]]:
    """Seconds of each row by phase, and as `other` what the whole took beyond its phases."""
    names = [m for m in metrics_in(rows) if m.startswith(TIME) and m != WHOLE]
    table = {name.removeprefix(TIME): _zeroed(series(rows, name)) for name in names}
    whole = _zeroed(series(rows, WHOLE))
    spent = [sum(column) for column in zip(*table.values(), strict=True)] or [0.0] * len(rows)
    other = [max(0.0, all_s - some_s) for all_s, some_s in zip(whole, spent, strict=True)]
    return {**table, "other": other} if any(other) else table


def _reward(rows: Rows) -> Panel:
    parts = [m for m in metrics_in(rows) if m.startswith("reward/")]
    return Panel(
        title="Reward",
        note="Mean over answers: the sum, and its components",
        lines=(("critic/score/mean", "sum"), *((m, m.removeprefix("reward/")) for m in parts)),
    )


def _is_in(panel: Panel, rows: Rows) -> bool:
    return any(_any_number(row.get(metric) for row in rows) for metric, _ in panel.lines)


def _any_number(values: Iterable[Any]) -> bool:
    return any(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _zeroed(values: Iterable[float]) -> list[float]:
    return [0.0 if math.isnan(value) else value for value in values]
