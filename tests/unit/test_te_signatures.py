"""Every name and keyword of Transformer Engine that Megatron-Core and we use is in the pinned releases.

What a release takes, and what Megatron-Core 0.19.2 gives it, is kept in tests/data, written by
tools/te_signatures.py from the releases' sources; what the Megatron-Core at hand gives it is read here.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import megatron.core
import pytest
from packaging.version import Version

from r1mega.model.precision import RECIPES
from tools.te_signatures import uses

DATA = Path(__file__).resolve().parents[1] / "data"
LOCKS = DATA.parents[1] / "locks"
RELEASES = {"cu12": "2.17.1", "cu13": "2.19.0"}
PINNED_MEGATRON = "0.19.2"
MEGATRON = version("megatron-core")

# Megatron looks for these where they may not be, and does without: `except ImportError`.
TRIED = {
    "transformer_engine.pytorch.attention._SplitAlongDim",
    "transformer_engine.pytorch.attention._SplitAlongDim.apply",
    "transformer_engine.pytorch.module.base.get_workspace",
}
# Of Megatron's fused MLP and its dispatch by NCCL, neither of which our models take.
NOT_IN_OUR_SPECS = {
    "transformer_engine.pytorch.ep.ep_combine",
    "transformer_engine.pytorch.ep.ep_dispatch",
    "transformer_engine.pytorch.ep.is_symm_backed",
    "transformer_engine.pytorch.ops.basic.grouped_linear.GRAD_INPUT_BUFFER_KEY",
    "transformer_engine.pytorch.ops.basic.grouped_linear.OUTPUT_BUFFER_KEY",
}
# Passed only where `get_workspace` was found.
WITH_WHAT_WAS_TRIED = {"transformer_engine.pytorch.cpp_extensions.general_gemm": {"workspace"}}
# Passed, and dropped by pydantic: Megatron's fp8_wgrad=False would do nothing, and it says not so.
DROPPED = {"device", "override_linear_precision", "params_dtype"}

OURS = {
    "transformer_engine.pytorch.Linear",
    "transformer_engine.pytorch.LayerNormLinear",
    "transformer_engine.pytorch.GroupedLinear",
    "transformer_engine.pytorch.RMSNorm",
    "transformer_engine.pytorch.DotProductAttention",
    "transformer_engine.pytorch.DotProductAttention()",
    "transformer_engine.pytorch.Linear()",
    "transformer_engine.pytorch.LayerNormLinear()",
    "transformer_engine.pytorch.GroupedLinear()",
    "transformer_engine.pytorch.Fp8Padding",
    "transformer_engine.pytorch.Fp8Unpadding",
    "transformer_engine.pytorch.fp8_autocast",
    "transformer_engine.common.recipe.DelayedScaling",
    "transformer_engine.common.recipe.Float8CurrentScaling",
    "transformer_engine.common.recipe.Float8BlockScaling",
    "transformer_engine.common.recipe.MXFP8BlockScaling",
    "transformer_engine.common.recipe.Format.E4M3",
    "transformer_engine.common.recipe.Format.HYBRID",
}
"""What a model of our specs is made of, on its way through Megatron."""


def read(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"te_{name}.json").read_text())


@cache
def given(megatron_core: str) -> dict[str, list[str]]:
    """What this Megatron-Core uses of Transformer Engine."""
    if megatron_core == MEGATRON:
        return uses(Path(megatron.core.__file__).parent, Version(RELEASES["cu13"]))
    return read(f"used_by_megatron_{megatron_core.replace('.', '_')}")


@pytest.mark.parametrize("runtime", RELEASES)
def test_the_releases_are_those_of_the_locks(runtime: str) -> None:
    lock = (LOCKS / f"{runtime}.txt").read_text()
    assert re.search(rf"^transformer-engine=={re.escape(RELEASES[runtime])}$", lock, re.M)
    assert re.search(rf"^megatron-core=={re.escape(PINNED_MEGATRON)}$", lock, re.M)


@pytest.mark.parametrize("release", RELEASES.values())
@pytest.mark.parametrize("megatron_core", sorted({MEGATRON, PINNED_MEGATRON}))
def test_every_name_and_keyword_is_in_the_release(megatron_core: str, release: str) -> None:
    taken = read(f"{release.replace('.', '_')}_signatures")
    unknown = {}
    for name, keywords in given(megatron_core).items():
        if name in NOT_IN_OUR_SPECS:
            continue
        if taken[name] is None:
            unknown[name] = {"no such name"}
        elif not taken[name]["ignores_unknown"] and not any(
            kind == "other keywords" for _, kind, _ in taken[name]["parameters"]
        ):
            unknown[name] = set(keywords) - {parameter for parameter, _, _ in taken[name]["parameters"]}
    absent = {name for name, what in unknown.items() if what == {"no such name"}}
    assert absent <= TRIED
    assert {name: what for name, what in unknown.items() if what and name not in absent} == {
        name: words for name, words in WITH_WHAT_WAS_TRIED.items() if words <= set(given(megatron_core)[name])
    }


@pytest.mark.parametrize("release", RELEASES.values())
@pytest.mark.parametrize("megatron_core", sorted({MEGATRON, PINNED_MEGATRON}))
def test_a_recipe_drops_what_it_does_not_know_and_that_is_no_more_than_was_seen(
    megatron_core: str, release: str
) -> None:
    taken = read(f"{release.replace('.', '_')}_signatures")
    dropped = {
        word
        for name, keywords in given(megatron_core).items()
        if (taken[name] or {}).get("ignores_unknown")
        for word in set(keywords) - {parameter for parameter, _, _ in taken[name]["parameters"]}
    }
    assert dropped == DROPPED


@pytest.mark.parametrize("megatron_core", sorted({MEGATRON, PINNED_MEGATRON}))
def test_what_our_models_are_made_of_was_found(megatron_core: str) -> None:
    assert given(megatron_core).keys() >= OURS
    packed = given(megatron_core)["transformer_engine.pytorch.DotProductAttention()"]
    assert {"cu_seqlens_q", "cu_seqlens_kv_padded", "qkv_format"} <= set(packed)


@pytest.mark.parametrize("release", RELEASES.values())
def test_what_we_call_ourselves_is_in_the_release(release: str) -> None:
    ours = read("used_by_r1mega")
    assert {f"transformer_engine.pytorch.{recipe.available}" for recipe in RECIPES.values()} == set(ours)
    taken = read(f"{release.replace('.', '_')}_signatures")
    for name, keywords in ours.items():
        assert set(keywords) <= {parameter for parameter, _, _ in taken[name]["parameters"]}


def test_a_branch_for_another_version_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "extensions").mkdir()
    (tmp_path / "packed_seq_params.py").write_text("class PackedSeqParams:\n    qkv_format: str = None\n")
    (tmp_path / "extensions/transformer_engine.py").write_text(
        "class Ours(te.pytorch.Linear):\n"
        "    def __init__(self):\n"
        "        extra_kwargs = _get_extra_te_kwargs(config)\n"
        "        if is_te_min_version('2.3.0'):\n"
        "            extra_kwargs['new'] = 1\n"
        "        elif get_te_version() < PkgVersion('1.0'):\n"
        "            extra_kwargs['old'] = 1\n"
        "        super().__init__(in_features=1, **extra_kwargs)\n"
    )
    linear = "transformer_engine.pytorch.Linear"
    assert uses(tmp_path, Version("2.19.0"))[linear] == ["device", "in_features", "new", "params_dtype"]
    assert uses(tmp_path, Version("0.9"))[linear] == ["device", "in_features", "old", "params_dtype"]
