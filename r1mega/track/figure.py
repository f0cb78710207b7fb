"""One small picture of a run's result, for a README.

Left, the accuracy of the sampled answers by rollout, between the base's and the final pass@1 on
held-out questions; right, how far the engine's log-probs were from the trainer's after each
hand-over.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1mega.track.charts import draw_lines, style
from r1mega.track.palette import LIGHT
from r1mega.track.panels import Rows, counter_of, series
from r1mega.track.summary import figure as look_up


def result_figure(metrics: Rows, summary: Mapping[str, Any], path: Path) -> None:
    """Draw the picture into `path`, as what its suffix says (.svg or .png).

    `metrics` are the rows of `metrics.jsonl`. What the summary does not hold is not drawn.

    Raises ValueError if there are no rows, or for a suffix that matplotlib does not know.
    """
    if not metrics:
        raise ValueError("no rows of metrics to draw")
    with style():
        from matplotlib.figure import Figure

        canvas = Figure(figsize=(8.4, 2.7), layout="constrained", facecolor=LIGHT["ground"])
        left, right = canvas.subplots(1, 2)
        xs = series(metrics, counter_of(metrics))
        _accuracy(left, xs, metrics, look_up(summary, "eval.pass_at_1") or {})
        _handover(right, xs, metrics, look_up(summary, "handover.limit"))
        canvas.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _accuracy(axes: Any, xs: Sequence[float], rows: Rows, pass_at_1: Mapping[str, Any]) -> None:
    draw_lines(axes, xs, [(series(rows, "reward/accuracy"), "")])
    margin = 0.06 * (xs[-1] - xs[0] + 1)
    for which, x, colour in (("base", xs[0] - margin, "c7"), ("final", xs[-1] + margin, "c1")):
        if which in pass_at_1:
            _estimate(axes, x, pass_at_1[which], pass_at_1.get(f"{which}_ci95"), colour)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel(counter_of(rows))
    axes.set_title("Accuracy while training; dots: held-out pass@1", loc="left", fontsize=9)


def _estimate(axes: Any, x: float, value: float, ci95: Sequence[float] | None, colour: str) -> None:
    if ci95:
        axes.plot([x, x], list(ci95), color=LIGHT[colour], lw=1.5)
    axes.plot([x], [value], "o", color=LIGHT[colour], ms=6)
    axes.annotate(f"{value:.2f}", (x, value), (0, 7), textcoords="offset points", ha="center")


def _handover(axes: Any, xs: Sequence[float], rows: Rows, limit: float | None) -> None:
    draw_lines(axes, xs, [(series(rows, "handover/max_abs_dlogp"), "")], log=True, limit=limit)
    axes.set_xlabel(counter_of(rows))
    axes.set_title("Hand-over: largest |log-prob difference|, nats", loc="left", fontsize=9)
