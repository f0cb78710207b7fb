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
    assert "0.300 to 0.020; pass@1 -0.020" in found[1].words
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
        (2, with_("r1", pass_at_1=0.71)),
    ],
)
def test_what_the_figures_contradict_is_not_shown(number: int, table: dict[str, Any]) -> None:
    verdicts = [claim.verdict for claim in of(table)]
    assert verdicts[number] is Verdict.not_shown
    assert verdicts.count(Verdict.not_shown) == 1


def test_seeds_that_overlap_show_nothing() -> None:
    students = STUDENTS | {"rl_2": figures(pass_at_1=0.6)}
    assert of(students=students)[3].verdict is Verdict.not_shown


def test_what_is_not_there_is_not_measured_and_named() -> None:
    assert [claim.verdict for claim in claims({})] == [Verdict.not_measured] * 4
    del (table := dict(TABLE))["dev2"]
    found = of(table, {"base": figures(pass_at_1=0.1)})
    assert [claim.verdict for claim in found] == [
        Verdict.shown,
        Verdict.not_measured,
        Verdict.not_measured,
        Verdict.not_measured,
    ]
    assert "mixed_language of dev2" in found[1].words
    assert "distilled_0" in found[3].words
