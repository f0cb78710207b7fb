"""Running a pipeline: what is run, in which order and why; killed between stages and inside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.pipelines import (
    BASE,
    CHAIN,
    EVALUATION,
    TUNED,
    WORLD,
    ZERO,
    Ranks,
    changed,
    composer,
    folder_of,
    go,
    nodes_of,
    whole,
    why,
)

from r1mega.config import BadRun, Config
from r1mega.pipeline import show
from r1mega.pipeline.standing import standings
from r1mega.stages import pipeline

ALL = ["base", "zero", "evaluation"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary(config: Config) -> dict:
    return json.loads((config.folder / "summary.json").read_text())


def test_stages_run_once_in_order_and_then_not_again(capsys: pytest.CaptureFixture[str]) -> None:
    config = whole(CHAIN)
    assert {runs for runs, _ in why(config).values()} == {True}
    assert go(config) == (0, ALL)
    said = capsys.readouterr().out
    assert "[1/3] base (pretrain): not run yet; 0:00 so far\n" in said
    assert why(config) == dict.fromkeys(ALL, (False, ""))
    assert go(config) == (0, [])
    assert "[3/3] evaluation (evaluate): done before" in capsys.readouterr().out


def test_the_summary_holds_every_stages_own(home: Path) -> None:
    config = whole(CHAIN)
    go(config)
    found = summary(config)
    assert (found["name"], found["stage"], found["finished"]) == ("r", "pipeline", True)
    assert list(found["stages"]) == ALL
    for name, stage in found["stages"].items():
        own = json.loads((folder_of(config, name) / "summary.json").read_text())
        assert stage == own | {"key": own["config_hash"], "seconds": stage["seconds"]}
    assert found["wall_s"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"].values()))


def test_a_changed_config_reruns_what_depends_on_it_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    go(whole(CHAIN))
    other = whole(CHAIN | {"zero": changed(ZERO, "grpo.rollouts=40", "seed=5")})
    stands = why(other)
    assert stands["base"] == (False, "")
    assert stands["zero"] == (True, "grpo.rollouts was 30, is now 40, seed was 0, is now 5")
    assert stands["evaluation"] == (None, "if zero/model changes")
    capsys.readouterr()
    assert go(other) == (0, ["zero", "evaluation"])
    assert "[3/3] evaluation (evaluate): zero/model changed;" in capsys.readouterr().out


def test_a_stage_that_leaves_what_it_left_before_reruns_nothing_else() -> None:
    go(whole(CHAIN))
    # The stand-in's artifacts do not depend on the number of updates.
    assert go(whole(CHAIN | {"base": changed(BASE, "pretrain.updates=7")})) == (0, ["base"])


def test_a_file_that_a_person_edits_reruns_those_that_read_it() -> None:
    config = whole({"base": BASE, "world": WORLD, "tuned": TUNED})
    assert go(config)[1] == ["base", "world", "tuned"]
    with (folder_of(config, "world") / "general.jsonl").open("a") as file:
        file.write("one more\n")
    assert why(config)["tuned"] == (True, "world/general changed")
    assert go(config) == (0, ["tuned"])


def test_artifacts_that_are_gone_are_made_again() -> None:
    config = whole(CHAIN)
    go(config)
    shutil.rmtree(folder_of(config, "base") / "base")
    assert why(config)["base"] == (True, f"{nodes_of(config)['base'].writes['model']} is gone")
    assert go(config) == (0, ["base"])


def test_a_start_reruns_the_stage_and_all_that_depend_on_it(home: Path) -> None:
    stages = CHAIN | {"world": WORLD, "tuned": TUNED}
    go(whole(stages))
    again = whole(stages, **{"from": "zero"})
    assert {name for name, (runs, _) in why(again).items() if runs} == {"zero", "evaluation"}
    assert go(again) == (0, ["zero", "evaluation"])
    assert go(whole(stages)) == (0, [])
    assert go(whole(stages, fresh=True)) == (0, ["base", "zero", "evaluation", "world", "tuned"])


def test_a_start_that_was_cut_short_goes_on_without_it() -> None:
    config = whole(CHAIN)
    go(config)

    def killed(stage: Config) -> int:
        return 137 if stage.name == "zero" else 0

    assert go(whole(CHAIN, **{"from": "base"}), Ranks(killed)) == (137, ["base", "zero"])
    assert go(config) == (0, ["zero", "evaluation"])


@pytest.mark.parametrize("victim", ALL[:2])
@pytest.mark.parametrize("how", ["fails", "is killed with the launcher"])
def test_cut_short_inside_a_stage_it_goes_on_with_that_stage(victim: str, how: str) -> None:
    config = whole(CHAIN)
    go(whole(CHAIN, overrides=["seed=1"]))
    expected_runs = ALL[: ALL.index(victim) + 1]

    def cut(stage: Config) -> int:
        if stage.name != victim:
            return 0
        if how == "fails":
            return 7
        raise KeyboardInterrupt

    ranks = Ranks(cut)
    if how == "fails":
        assert go(config, ranks)[0] == 7
    else:
        with pytest.raises(KeyboardInterrupt):
            go(config, ranks)
    assert ranks.ran == expected_runs
    assert why(config)[victim] == (True, "was not finished")
    assert go(config) == (0, ALL[ALL.index(victim) :])
    # As if it had never been cut.
    undisturbed = {name: stage["key"] for name, stage in summary(config)["stages"].items()}
    shutil.rmtree("runs")
    go(config)
    assert {name: stage["key"] for name, stage in summary(config)["stages"].items()} == undisturbed


def test_cut_short_between_stages_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    config = whole(CHAIN)

    def cut(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("r1mega.pipeline.record.write_seconds", cut)
        with pytest.raises(KeyboardInterrupt):
            go(config)
    assert not (config.folder / "summary.json").exists()
    assert go(config) == (0, ["zero", "evaluation"])
    assert summary(config)["stages"]["base"]["seconds"] == 2.0  # the stage's own time, for want of a better


def test_the_first_failure_stops_it_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    config = whole(CHAIN)
    code, ran = go(config, Ranks(lambda stage: 3 if stage.name == "zero" else 0))
    assert (code, ran) == (3, ["base", "zero"])
    said = capsys.readouterr().err
    assert said == "r stopped in zero, exit code 3; the same command goes on there.\n"
    found = summary(config)
    assert (list(found["stages"]), found["finished"]) == (["base"], False)
    assert "1, more to come" in (config.folder / "report.html").read_text()
    code, _ = go(whole(CHAIN, **{"from": "zero"}), Ranks(lambda stage: 3))
    assert "the same command without pipeline.from goes on" in capsys.readouterr().err


def test_a_stage_that_ends_well_but_left_nothing_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    config = whole(CHAIN)
    nodes, _ = pipeline.plan(config, [], composer)
    config.folder.mkdir(parents=True)
    assert pipeline.run(config, nodes, standings(nodes), lambda arguments, ranks: 0) == 1
    assert "error: base ended, but is not done: not run yet" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(home: Path) -> None:
    config = whole(CHAIN)
    config.folder.mkdir(parents=True)
    (config.folder / "thesis.txt").write_text("")
    with pytest.raises(BadRun, match="is no pipeline's folder"):
        go(config)
    (config.folder / "config.yaml").write_text("stage: grpo\n")
    with pytest.raises(BadRun, match="is no pipeline's folder"):
        go(config)
    assert (config.folder / "thesis.txt").exists()


def test_a_plan_shows_the_graph_and_changes_nothing(home: Path) -> None:
    config = whole(CHAIN)
    go(config)
    other = whole(CHAIN | {"zero": changed(ZERO, "grpo.rollouts=40")}, **{"from": "zero"})
    nodes = nodes_of(other)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    said = show.plan("r", config.folder, list(nodes.values()), standings(list(nodes.values())), {"base": 61})
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before
    assert said.splitlines() == [
        "r: 3 stages in runs/r",
        "  1  base (pretrain): done (took 1:01)",
        "       nothing -> base/model",
        "  2  zero (grpo): would run: grpo.rollouts was 30, is now 40",
        "       base/model -> zero/model",
        "  3  evaluation (evaluate): would run if zero/model changes",
        "       zero/model -> figures",
    ]


def test_time_left_is_of_the_stages_whose_time_is_known() -> None:
    nodes = list(nodes_of(whole(CHAIN)).values())
    known = {"zero": 60.0, "evaluation": 30.0}

    def left(to_run: list[str]) -> str:
        return show.head(2, nodes, "not run yet", 5.0, to_run, known).split("; ")[1]

    assert left(["zero", "evaluation"]) == "0:05 so far, about 1:30 left"
    assert left(["base", "zero"]) == "0:05 so far, at least 1:00 left"
    assert left(["base"]) == "0:05 so far"


def test_the_evaluations_of_two_models_are_two_results() -> None:
    """What is read decides, though the configs are the same but for where it lies."""
    stages = CHAIN | {"of_base": changed(EVALUATION, **{"model.init_from": "base/model"})}
    config = whole({**stages, "zero": changed(ZERO, "seed=1")})
    go(config)
    keys = {name: stage["key"] for name, stage in summary(config)["stages"].items()}
    assert keys["of_base"] != keys["evaluation"]
