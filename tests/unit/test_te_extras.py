"""Packages that no run needs: named, there or not, and used where they are."""

from __future__ import annotations

import pytest
from megatron.core.transformer import TransformerConfig
from support.ranks import plan_of

from r1mega import doctor
from r1mega.model import extras


def test_the_banner_names_each_there_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.banner() == (
        "Extras: Transformer Engine not there, Apex not there, grouped_gemm not there, DeepEP not there"
    )
    monkeypatch.setitem(extras.EXTRAS, "Apex", ("json", "a module that is there, and has no version"))
    monkeypatch.setitem(extras.EXTRAS, "DeepEP", ("torch", "a package"))
    assert "Apex unknown, grouped_gemm not there, DeepEP 2." in extras.banner()


def test_deepep_takes_the_tokens_on_gpus_alone_and_to_other_ranks_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = {"moe_token_dispatcher_type": "alltoall"}
    assert extras.dispatch_fields(plan_of(ep=2), on_gpu=True) == plain
    monkeypatch.setitem(extras.EXTRAS, "DeepEP", ("torch", ""))
    flex = extras.dispatch_fields(plan_of(ep=2), on_gpu=True)
    assert flex["moe_token_dispatcher_type"] == "flex"
    assert flex.keys() <= TransformerConfig.__dataclass_fields__.keys()
    assert extras.dispatch_fields(plan_of(ep=2), on_gpu=False) == plain
    assert extras.dispatch_fields(plan_of(tp=2), on_gpu=True) == plain


def test_the_doctor_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.examine()["extras"] == extras.installed()
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in extras.EXTRAS)
