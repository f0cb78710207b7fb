"""The report's charts as SVG text, drawn by matplotlib without a display or any state of its own.

Guarantees: the same rows give the same text; nothing in it points outside itself. Values that are
not finite leave a gap in their line.
"""

import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from r1mega.track.palette import LIGHT, SERIES
from r1mega.track.panels import Panel, Rows, counter_of, phases, series
from r1mega.track.summary import Measure

LETTER_PT, KEY_PT, LINE_IN = 5.2, 26.0, 0.2
"""A legend's measures: a letter's width at most, mark and gaps of a label, the height of a line."""

MARKED_ROWS = 60
"""With more rows than this a line has no mark on every row."""

PHASES = {
    "gen": "generate",
    "reward": "reward",
    "handover": "hand over",
    "proof": "prove",
    "old_log_prob": "score, old",
    "ref": "score, reference",
    "update_actor": "update",
}
"""Phases of a rollout in the order in which they are stacked; others follow by their own names."""

STANDS = {"base": "c7", "final": "c0"}
"""When a measure is taken, and its colour; a model that is evaluated alone has no base."""


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for every chart, for the time of drawing it."""
    import matplotlib

    settings: dict[Any, Any] = {
        "font.size": 9,
        "font.family": "sans-serif",
        "text.color": LIGHT["ink"],
        "axes.edgecolor": LIGHT["grid"],
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.labelcolor": LIGHT["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": LIGHT["grid"],
        "grid.linewidth": 0.8,
        "xtick.color": LIGHT["grid"],
        "ytick.color": LIGHT["grid"],
        "xtick.labelcolor": LIGHT["muted"],
        "ytick.labelcolor": LIGHT["muted"],
        "ytick.left": False,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "r1mega",
    }
    with matplotlib.rc_context(settings):
        yield


def panel_svg(panel: Panel, rows: Rows, limit: float | None = None) -> str:
    """One panel as SVG; `limit`, if given, is the line that its figures must stay under."""
    with style():
        figure, axes = _canvas(3.5, 1.9)
        xs = series(rows, counter_of(rows))
        lines = [(series(rows, metric), label) for metric, label in panel.lines]
        draw_lines(axes, xs, lines, log=panel.log, limit=limit)
        if panel.share:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(counter_of(rows))
        return svg_text(figure)


def time_svg(rows: Rows) -> str:
    """Where each row's seconds went, by phase, stacked; empty text if the rows hold no times."""
    table = phases(rows)
    if not table:
        return ""
    order = [*(p for p in PHASES if p in table), *(p for p in table if p not in PHASES)]
    with style():
        figure, axes = _canvas(9.0, 2.6)
        edges, stacked = _steps(series(rows, counter_of(rows)), [table[name] for name in order])
        axes.stackplot(
            edges,
            *stacked,
            labels=[_literal(PHASES.get(name, name)) for name in order],
            colors=[LIGHT[SERIES[i % len(SERIES)]] for i in range(len(order))],
            step="post",
            linewidth=0,
        )
        axes.margins(x=0.01)
        axes.set_xlabel(counter_of(rows))
        axes.set_ylabel("seconds")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True, handlelength=1)
        return svg_text(figure)


def measures_svg(measures: Sequence[Measure]) -> str:
    """Shares before and after, one line each with its 95 % intervals; lengths have no place in it."""
    with style():
        figure, axes = _canvas(9.0, 0.7 + 0.45 * len(measures))
        for y, figures in enumerate(measure.figures for measure in measures):
            found = {at: colour for at, colour in STANDS.items() if at in figures}
            axes.plot([figures[at] for at in found], [y] * len(found), color=LIGHT["grid"], lw=3)
            for at, colour in found.items():
                draw_estimate(axes, figures, at, y, colour)
        axes.set_yticks(range(len(measures)), [measure.name for measure in measures])
        axes.set_ylim(len(measures) - 0.5, -0.5)
        axes.set_xlim(-0.01, 1.01)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        _legend(axes, *axes.get_legend_handles_labels())
        return svg_text(figure)


def curves_svg(lines: Mapping[str, Sequence[float | None]]) -> str:
    """One figure of several runs by rollout, a line a run; None leaves a gap."""
    longest = max(len(values) for values in lines.values())
    gaps = {
        name: [math.nan if value is None else float(value) for value in values]
        + [math.nan] * (longest - len(values))
        for name, values in lines.items()
    }
    with style():
        figure, axes = _canvas(4.4, 2.5)
        draw_lines(axes, list(range(1, longest + 1)), [(values, name) for name, values in gaps.items()])
        axes.set_xlabel("rollout")
        return svg_text(figure)


def bars_svg(values: Mapping[str, float], unit: str) -> str:
    """A bar for each name, from top to bottom."""
    with style():
        figure, axes = _canvas(9.0, 0.7 + 0.24 * len(values))
        axes.barh(range(len(values)), list(values.values()), height=0.6, color=LIGHT["c0"])
        axes.set_yticks(range(len(values)), [_literal(name) for name in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(unit)
        return svg_text(figure)


def stacked_bars_svg(bars: Mapping[str, Mapping[str, float]], unit: str, limit: float | None = None) -> str:
    """A bar for each name, from top to bottom, of its parts; `limit` is the line they should stay within.

    Each part that is among the largest has a colour of its own; what else there is, is `others`.
    """
    largest: dict[str, float] = {}
    for parts in bars.values():
        for name, value in parts.items():
            largest[name] = max(value, largest.get(name, 0.0))
    *colours, last = SERIES
    named = sorted(largest, key=largest.__getitem__, reverse=True)
    drawn = [(name, [name], colour) for name, colour in zip(named, colours, strict=False)]
    if rest := named[len(colours) :]:
        drawn.append(("others", rest, last))
    with style():
        figure, axes = _canvas(9.0, 1.0 + 0.34 * len(bars))
        left = [0.0] * len(bars)
        for name, parts_of, colour in drawn:
            widths = [sum(parts.get(part, 0.0) for part in parts_of) for parts in bars.values()]
            axes.barh(range(len(bars)), widths, 0.62, left, color=LIGHT[colour], label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        if limit is not None:
            axes.axvline(limit, color=LIGHT["ink"], lw=1.2, ls=(0, (4, 3)))
        axes.set_yticks(range(len(bars)), [_literal(name) for name in bars])
        axes.set_ylim(len(bars) - 0.5, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(unit)
        _legend(axes, *axes.get_legend_handles_labels())
        return svg_text(figure)


def draw_estimate(axes: Any, figures: Mapping[str, Any], which: str, y: float, colour: str) -> None:
    """A measure's `base` or `final` as a dot at height `y`, with its interval if it has one."""
    value = figures[which]
    low, high = figures.get(f"{which}_ci95", (value, value))
    axes.plot([low, high], [y, y], color=LIGHT[colour], lw=1.5)
    axes.plot([value], [y], "o", color=LIGHT[colour], ms=6, label=which)


def draw_lines(
    axes: Any,
    xs: Sequence[float],
    lines: Sequence[tuple[Sequence[float], str]],
    *,
    log: bool = False,
    limit: float | None = None,
) -> None:
    """Draw (values, label) lines over `xs`; on a logarithmic axis zeros lie on its lowest line.

    A line without values is left out, and its colour with it: the same place has the same colour.
    """
    marker = "o" if len(xs) <= MARKED_ROWS else ""
    coloured = zip(lines, itertools.cycle(SERIES), strict=False)
    drawn = [(*line, colour) for line, colour in coloured if not all(map(math.isnan, line[0]))]
    low, high = _decades([y for values, *_ in drawn for y in values], limit)
    for values, label, colour in drawn:
        ys = [low if log and y == 0 else y for y in values]
        axes.plot(xs, ys, marker=marker, ms=2.5, lw=1.5, color=LIGHT[colour], label=label)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_minor_formatter("")
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    if limit is not None:
        _draw_limit(axes, limit)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes, *axes.get_legend_handles_labels())


def svg_text(figure: Any) -> str:
    """The figure as an <svg> element, without the file header and date that matplotlib adds."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _canvas(width_in: float, height_in: float) -> tuple[Any, Any]:
    # Not pyplot: it keeps figures alive and chooses a backend for the whole process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Labels above the axes, one for each name; none for lines that have no name.

    As many columns as fit the figure, which grows by every further line of labels: labels wider or
    higher than what is left of it would leave the axes no room.
    """
    named = {_literal(text): handle for handle, text in zip(handles, labels, strict=True) if text}
    if not named:
        return
    width_in, height_in = axes.figure.get_size_inches()
    columns = max(1, int(width_in * 72 / (KEY_PT + LETTER_PT * max(map(len, named)))))
    columns = min(columns, len(named))
    axes.figure.set_size_inches(width_in, height_in + LINE_IN * (math.ceil(len(named) / columns) - 1))
    place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.98), "borderpad": 0.2}
    axes.legend(named.values(), named, ncols=columns, handlelength=1.2, columnspacing=1.2, **place)


def _literal(text: str) -> str:
    """Text that matplotlib shows as it is: a metric's name may look like maths to it."""
    return text.replace("$", r"\$")


def _draw_limit(axes: Any, limit: float) -> None:
    axes.axhline(limit, color=LIGHT["c1"], lw=1.2, ls=(0, (4, 3)))
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("limit", (1, limit), (0, -3), ha="right", va="top", color=LIGHT["c1"], **place)


def _decades(values: Sequence[float], limit: float | None) -> tuple[float, float]:
    """Powers of ten around the positive values and the limit; one more below if there are zeros."""
    positive = [value for value in (*values, limit or 0.0) if value > 0] or [1e-9]
    low = math.floor(math.log10(min(positive))) - (0.0 in values)
    high = math.floor(math.log10(max(positive))) + 1
    return 10.0**low, 10.0**high


def _steps(xs: Sequence[float], table: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    """Edges of the bars around `xs`, and each bar's values with the last repeated to close it."""
    edges = [*(x - 0.5 for x in xs), xs[-1] + 0.5]
    return edges, [[*values, values[-1]] for values in table]
