"""The dashboard: the one list, what W&B is given of it, its table in the docs, and the command."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from r1mega.config import Stage
from r1mega.track.dashboard import as_table, build_workspace, title_of
from r1mega.track.panel_list import PANELS, SECTIONS, STAGES, Healthy, Panel, metrics_of

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "dashboard.py"


def tool(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command as run by somebody whose home is empty."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "XDG", "NETRC"))
    }
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments],
        cwd=home,
        env=kept | {"HOME": str(home), "PYTHONPATH": path} | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch) -> Any:
    def refuse(*_: Any) -> None:
        raise AssertionError("the dashboard is made without network")

    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return build_workspace("team", "r1mega")


def test_the_workspace_is_the_list(workspace: Any) -> None:
    assert (workspace.entity, workspace.project) == ("team", "r1mega")
    assert [section.name for section in workspace.sections] == [section.title for section in SECTIONS]
    for section, listed in zip(workspace.sections, SECTIONS, strict=True):
        assert [plot.y for plot in section.panels] == [list(panel.metrics) for panel in listed.panels]
        for plot, panel in zip(section.panels, listed.panels, strict=True):
            for said in (panel.title, panel.unit, str(panel.healthy), *panel.stages):
                assert said in plot.title


def test_what_would_be_sent_names_every_metric_once(workspace: Any) -> None:
    spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    [bank] = [value for key, value in spec["section"].items() if key == "panelBankConfig"]
    sent = [panel["config"] for section in bank["sections"] for panel in section["panels"]]
    assert Counter(metric for config in sent for metric in config["metrics"]) == Counter(
        metric for panel in PANELS for metric in panel.metrics
    )
    titles = [config["chartTitle"] for config in sent]
    assert len(set(titles)) == len(titles) == len(PANELS)


def test_no_metric_is_in_two_panels() -> None:
    counted = Counter(metric for panel in PANELS for metric in panel.metrics)
    assert [metric for metric, times in counted.items() if times > 1] == []


def test_every_panel_says_what_it_must() -> None:
    for panel in PANELS:
        assert panel.title
        assert panel.meaning
        assert panel.unit
        assert str(panel.healthy)
        assert panel.lines
        assert set(panel.stages) <= set(Stage)
        assert panel.stages
        low, high = panel.healthy.low, panel.healthy.high
        assert (-math.inf if low is None else low) < (math.inf if high is None else high)
        if panel.share:
            assert 0 <= (low or 0) <= (high or 1) <= 1


def test_a_stages_metrics_are_its_panels() -> None:
    assert set(STAGES) == {"grpo", "reject", "pretrain", "sft", "reward_model"}
    assert metrics_of("sft") == {"loss", "grad_norm", "lr", "skipped", "tokens", "tokens_per_s"}
    assert metrics_of("evaluate") == set()
    assert set().union(*map(metrics_of, STAGES)) == {metric for panel in PANELS for metric in panel.metrics}


@pytest.mark.parametrize(
    ("healthy", "said"),
    [
        (Healthy(), ""),
        (Healthy(high=1e-4), "at most 0.0001"),
        (Healthy(low=0.0), "at least 0"),
        (Healthy(low=-0.05, high=0.05), "-0.05 to 0.05"),
        (Healthy(words="falls"), "falls"),
        (Healthy(low=0.9, words="later"), "at least 0.9; later"),
    ],
)
def test_a_range_in_words(healthy: Healthy, said: str) -> None:
    assert str(healthy) == said


def test_titles_and_notes() -> None:
    panel = Panel(
        title="Cut",
        meaning="At the limit",
        unit="share",
        healthy=Healthy(high=0.1),
        stages=("grpo", "reject"),
        lines=(("a/b", ""),),
    )
    assert title_of(panel) == "Cut, share: at most 0.1 (grpo, reject)"
    assert panel.note == "At the limit, share; healthy: at most 0.1"
    everywhere = Panel(title="Loss", meaning="", unit="nats", stages=STAGES, lines=(("loss", ""),))
    assert "(" not in title_of(everywhere)
    assert Panel(title="x", meaning="", lines=(("x", ""),)).note == ""


def test_the_table_is_whole_and_the_docs_hold_it() -> None:
    table = as_table()
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| panel |")]
    assert len(rows) == len(PANELS)
    for row, panel in zip(rows, PANELS, strict=True):
        assert row.replace(r"\|", "").count("|") == 6
        assert all(f"`{metric}`" in row for metric in panel.metrics)
    # Mended by: python tools/dashboard.py --print
    assert table in (ROOT / "docs" / "dashboard.md").read_text()


def test_printing_needs_neither_wandb_nor_a_login(tmp_path: Path) -> None:
    done = tool(tmp_path, "--print")
    assert (done.returncode, done.stdout, done.stderr) == (0, as_table(), "")


def test_without_a_login_one_line_says_so(tmp_path: Path) -> None:
    done = tool(tmp_path, "--entity", "team", "--project", "r1mega")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: the dashboard was not pushed to team/r1mega: ")
    assert "wandb login" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_half_a_destination_is_refused(tmp_path: Path) -> None:
    done = tool(tmp_path, "--entity", "team")
    assert done.returncode == 2
    assert "give --entity and --project to push, or --print" in done.stderr
