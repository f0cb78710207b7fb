"""The recipe's claims, on figures made by hand: each shown, each contradicted, each without its figures."""

from __future__ import annotations

from typing import Any

import pytest

from r1mega.track.claims import Claim, Verdict, claims


def figures(**means: float) -> dict[str, Any]:
    return {name: {"mean": mean, "ci95": [mean - 0.03, mean + 0.03]} for name, mean in means.items()}


TABLE = {
    "base": figures(pass_at_1=0.4, cons_at_k=0.6, mixed_language=0.2),
    "zero": figures(pass_at_1=0.8, cons_at_k=0.9, mixed_language=0.3),
    "dev2": figures(pass_at_1=0.78, mixed_language=0.02, general=0.2, safety=0.1),
    "dev3": figures(pass_at_1=0.77, general=0.8, safety=0.7),
    "r1": figures(pass_at_1=0.79, general=0.9, safety=0.9),
}
STUDENTS = {
    "base": figures(pass_at_1=0.2),
    **{f"distilled_{seed}": figures(pass_at_1=0.6 + seed / 100) for seed in range(3)},
    **{f"rl_{seed}": figures(pass_at_1=0.5 + seed / 100) for seed in range(3)},
}


def of(table: dict[str, Any] = TABLE, students: dict[str, Any] = STUDENTS) -> list[Claim]:
    return claims({"stages": {"table": {"models": table}, "table_s": {"models": students}}})


def with_(model: str, **means: float) -> dict[str, Any]:
    return TABLE | {model: TABLE[model] | figures(**means)}


def test_all_are_shown_with_their_numbers() -> None:
    found = of()
    assert [claim.verdict for claim in found] == [Verdict.shown] * 4
    assert "0.400 to 0.800, +0.400" in found[0].words
    assert "0.300 after R1-Zero to 0.020 after Dev2" in found[1].words
    assert "the price: pass@1 -0.020" in found[1].words
    assert "general requests 0.200, 0.800, 0.900" in found[2].words
    assert (
        "0.610 (0.600 to 0.620 over 3 seeds) distilled, 0.510 (0.500 to 0.520 over 3 seeds)" in found[3].words
    )


@pytest.mark.parametrize(
    ("number", "table"),
    [
        (0, with_("zero", pass_at_1=0.69)),
        (0, with_("zero", cons_at_k=0.8)),
        (1, with_("dev2", mixed_language=0.16)),
        (1, with_("zero", mixed_language=0.019)),
        (2, with_("dev3", general=0.2)),
        (2, with_("r1", safety=0.1)),
        (2, with_("r1", general=0.8)),
        (2, with_("dev3", safety=0.95)),
        (2, with_("r1", pass_at_1=0.71)),
        (2, with_("dev3", pass_at_1=0.71)),
    ],
)
def test_what_the_figures_contradict_is_not_shown(number: int, table: dict[str, Any]) -> None:
    verdicts = [claim.verdict for claim in of(table)]
    assert verdicts[number] is Verdict.not_shown
    assert verdicts.count(Verdict.not_shown) == 1


def test_thresholds_are_met_from_either_side() -> None:
    """0.4 + 0.3 (a hair less in floats) and the half of 0.5 are met; a fall inside the intervals is none."""
    table = TABLE | {
        "base": figures(pass_at_1=0.4),
        "zero": figures(pass_at_1=0.7, cons_at_k=0.875, mixed_language=0.5),
        "dev2": figures(pass_at_1=0.8, mixed_language=0.25, general=0.2, safety=0.1),
        "r1": figures(pass_at_1=0.75, general=0.9, safety=0.9),
    }
    assert [claim.verdict for claim in of(table)] == [Verdict.shown] * 4


def test_three_small_falls_that_make_a_great_one_are_seen() -> None:
    """Dev2 and Dev3 overlap, Dev3 and R1 overlap, Dev2 and R1 do not."""
    table = with_("dev3", pass_at_1=0.73) | {"r1": figures(pass_at_1=0.68, general=0.9, safety=0.9)}
    claim = of(table)[2]
    assert claim.verdict is Verdict.not_shown
    assert "0.780, 0.730, 0.680, a fall beyond the intervals" in claim.words


def test_the_order_is_held_against_the_papers() -> None:
    """Dev3 falls below Dev2 here; Dev1 was not measured, so it is in neither order."""
    words = of()[2].words
    assert "low to high base < dev3 < dev2 < r1 < zero; in the paper base < dev2 < zero < dev3 < r1" in words
    papers = {"base": 0.156, "dev1": 0.59, "dev2": 0.74, "zero": 0.779, "dev3": 0.781, "r1": 0.798}
    table = {name: TABLE.get(name, {}) | figures(pass_at_1=mean) for name, mean in papers.items()}
    assert "base < dev1 < dev2 < zero < dev3 < r1, as in the paper" in of(table)[2].words


def test_mixing_that_is_hardly_there_says_so() -> None:
    assert "less than 2%, too little to tell" in of(with_("zero", mixed_language=0.019))[1].words


@pytest.mark.parametrize("rl", [0.6, 0.7])
def test_seeds_that_overlap_show_nothing(rl: float) -> None:
    claim = of(students=STUDENTS | {"rl_2": figures(pass_at_1=rl)})[3]
    assert claim.verdict is Verdict.not_shown
    assert f"(0.500 to {rl:.3f} over 3 seeds) by RL, 0.200 before either" in claim.words


@pytest.mark.parametrize(
    ("distilled", "verdict", "words"),
    [
        (820_000, Verdict.shown, "; on 820,000 and 800,000 tokens a seed"),
        (880_001, Verdict.not_shown, "more than RL had: no fair comparison"),
        (None, Verdict.shown, "how many tokens each learnt from is not there"),
    ],
)
def test_distillation_may_not_win_by_more_tokens(distilled: int | None, verdict: Verdict, words: str) -> None:
    stages: dict[str, Any] = {"table_s": {"models": STUDENTS}}
    for seed, tokens in enumerate((790_000, 800_000, 810_000)):
        stages[f"student_s_rl_{seed}"] = {"train": {"tokens": tokens}}
        stages[f"student_s_distilled_{seed}"] = {"train": {"tokens": distilled}} if distilled else {}
    found = claims({"stages": stages})[3]
    assert found.verdict is verdict
    assert words in found.words


def test_one_seed_of_either_is_no_measurement() -> None:
    students = {name: STUDENTS[name] for name in ("distilled_0", "distilled_1", "rl_0")}
    claim = of(students=students)[3]
    assert claim.verdict is Verdict.not_measured
    assert "rl_N (1 of 2 seeds" in claim.words
    assert "distilled" not in claim.words


@pytest.mark.parametrize("summary", [{}, {"stages": {}}, {"stages": {"table": {"stage": "evaluate"}}}])
def test_without_a_table_nothing_is_measured(summary: dict[str, Any]) -> None:
    assert [claim.verdict for claim in claims(summary)] == [Verdict.not_measured] * 4


def test_all_that_is_not_there_is_named() -> None:
    del (table := dict(TABLE))["dev2"]
    found = of(table | {"r1": figures(pass_at_1=0.8, general=0.9)}, {"base": figures(pass_at_1=0.1)})
    assert [claim.verdict for claim in found] == [Verdict.shown] + [Verdict.not_measured] * 3
    assert found[1].words == "not there: mixed_language of dev2, pass_at_1 of dev2"
    for missing in ("pass_at_1 of dev2", "general of dev2", "safety of dev2", "safety of r1"):
        assert missing in found[2].words
    assert "distilled_N (0 of 2" in found[3].words
    assert "rl_N (0 of 2" in found[3].words
