"""What r1mega calls of vLLM's weight transfer is there, with these names and in this form.

An upgrade that moves any of it fails here, where no engine needs to be started and no GPU to be there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from vllm import LLM
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer import (
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCTrainerInitInfo,
    IPCTrainerWeightTransferEngine,
    IPCWeightTransferEngine,
    IPCWeightTransferInitInfo,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.worker.gpu_worker import Worker

from r1mega.rollout.host import _GPU_OPTIONS
from r1mega.rollout.vllm_transport import _Client
from r1mega.weights.quantised import QuantisedSource
from r1mega.weights.source import MegatronSource


def names(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("backend", "worker", "trainer"),
    [
        ("ipc", IPCWeightTransferEngine, IPCTrainerWeightTransferEngine),
        ("nccl", NCCLWeightTransferEngine, NCCLTrainerWeightTransferEngine),
    ],
)
def test_both_ends_are_registered_under_one_name(backend: str, worker: type, trainer: type) -> None:
    assert WeightTransferEngineFactory._registry[backend]() is worker
    assert WeightTransferTrainerFactory._registry[backend]() is trainer
    assert WeightTransferConfig(backend=backend).backend == backend
    assert names(trainer.send_weights) == []


def test_the_trainers_side_takes_what_we_give_it() -> None:
    assert names(WeightTransferTrainerFactory.trainer_init) == ["init_info", "client", "source"]
    both = {"packed", "packed_buffer_size_bytes", "rank"}
    assert {item.name for item in fields(IPCTrainerInitInfo)} == both
    rendezvous = {"master_address", "master_port", "world_size", "packed_num_buffers"}
    assert {item.name for item in fields(NCCLTrainerInitInfo)} == both | rendezvous
    # By this an owner sends, whatever its rank among the trainer's, and the others gather alone.
    assert IPCTrainerInitInfo(rank=0).is_sender
    assert not IPCTrainerInitInfo(rank=1).is_sender


def test_what_the_trainer_tells_the_worker_is_settled_at_the_start() -> None:
    """So that nothing of ours says it twice: vLLM 0.26 still had it in every update."""
    assert {item.name for item in fields(IPCWeightTransferInitInfo)} == {"packed"}
    assert {"packed", "packed_buffer_size_bytes", "rank_offset", "world_size"} <= {
        item.name for item in fields(NCCLWeightTransferInitInfo)
    }


def test_the_client_has_the_verbs_that_vllm_calls() -> None:
    verbs = [name for name in vars(VLLMWeightSyncClient) if not name.startswith("_")]
    assert sorted(verbs) == [
        "finish_weight_update",
        "init_weight_transfer_engine",
        "start_weight_update",
        "update_weights",
    ]
    for verb in verbs:
        assert names(getattr(_Client, verb)) == names(getattr(VLLMWeightSyncClient, verb)), verb


@pytest.mark.parametrize("source", [MegatronSource, QuantisedSource])
def test_a_source_has_what_vllms_senders_read(source: type) -> None:
    # `groups` is read by the sharded engines alone, which take no quantised source of ours.
    for verb in ("metadata", "__iter__", "held_names", "iter_groups"):
        assert names(getattr(source, verb)) == names(getattr(WeightSource, verb)), verb


def test_a_worker_has_the_verbs_that_the_host_calls() -> None:
    assert names(Worker.init_weight_transfer_engine) == ["init_info"]
    assert names(Worker.start_weight_update) == []
    assert names(Worker.update_weights) == ["update_info"]
    assert names(Worker.finish_weight_update) == []
    assert "worker_extension_cls" in {item.name for item in fields(EngineArgs)}
    assert _GPU_OPTIONS.keys() <= {item.name for item in fields(EngineArgs)}
    assert {"kwargs", "method"} <= set(names(LLM.collective_rpc))
