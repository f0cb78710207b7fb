"""The W&B dashboard, and the same list as a table: both made of `panel_list.py`, without network.

A panel's title says all that W&B has no other place for: unit, healthy range, and which stages log it.
"""

from __future__ import annotations

from typing import Any

from r1mega.track.panel_list import SECTIONS, STAGES, Panel

NAME = "r1mega"
HEADER = "| panel | metrics | unit | healthy | stages |\n|---|---|---|---|---|"


def build_workspace(entity: str, project: str) -> Any:
    """The dashboard as a `wandb_workspaces.workspaces.Workspace`; its `save()` would push it."""
    from wandb_workspaces import workspaces

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            workspaces.Section(name=section.title, panels=[_plot(p) for p in section.panels], is_open=True)
            for section in SECTIONS
        ],
    )


def title_of(panel: Panel) -> str:
    """Such as `Answers cut off, share: at most 0.1 (grpo, reject)`."""
    stages = "" if set(panel.stages) == set(STAGES) else f" ({', '.join(panel.stages)})"
    return f"{panel.title}, {panel.unit}: {panel.healthy}{stages}"


def as_table() -> str:
    """The whole list in Markdown, a table a section."""
    parts = (
        "\n".join([f"### {section.title}", HEADER, *(_row(panel) for panel in section.panels)])
        for section in SECTIONS
    )
    return "\n\n".join(parts) + "\n"


def _plot(panel: Panel) -> Any:
    from wandb_workspaces.reports.v2.interface import LinePlot

    return LinePlot(
        title=title_of(panel),
        x="Step",  # the rollout or update that a row is of
        y=list(panel.metrics),
        title_y=panel.unit,
        range_y=(0.0, 1.0) if panel.share else (None, None),
        log_y=panel.log or None,
        plot_type="stacked-area" if panel.stacked else "line",
    )


def _row(panel: Panel) -> str:
    metrics = ", ".join(f"`{metric}`" for metric in panel.metrics)
    # A bar parts the cells of a table.
    cells = (
        f"{panel.title}: {panel.meaning}",
        metrics,
        panel.unit,
        str(panel.healthy),
        ", ".join(panel.stages),
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
