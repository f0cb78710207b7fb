"""Weights reach real engines through vLLM's own `ipc` and `nccl`, both ends of it; only CUDA is stood in for.

What travels is held against an export, bit for bit; whether it arrives is for the hand-over's own proof to
say, of models whose weights vLLM's reload gets right on a CPU, which are the dense ones.
"""

from __future__ import annotations

import os
import queue
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from support import vllm_on_cpu
from support.handover import engine_config, move_weights
from support.models import new_policy, random_dense_fields, random_fields, random_probe, read_folder
from support.ranks import free_ports, layout, run_ranks

LIMIT = 1e-4
COURSES = 3
BUFFER_BYTES = 40_000
"""Far less than a model, so that there are several chunks; a tensor that is larger must fit all the same."""
LAYOUTS: dict[str, dict[str, int]] = {"tp2": {"tp": 2}, "pp2": {"pp": 2}, "ep2": {"ep": 2}}


def engines_on(config: Any, policy: Any, backend: str) -> Any:
    """The run's engines, an own GPU each, if there were any."""
    import torch.distributed as dist

    from r1mega.rollout import engines, placement
    from r1mega.stages import serving

    gpus = ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
    hosts = [placement.Host("here", gpu, gpus) for gpu in gpus[: dist.get_world_size()]]
    place = {"ipc": placement.shared, "nccl": placement.apart}[backend]
    serving.seats = lambda config: place(hosts, config.rollout.replicas, config.rollout.tensor_parallel)
    serving.backend_for = lambda config: backend
    engines.main = vllm_on_cpu.main
    os.environ[vllm_on_cpu.DIES_AT] = str(config.folder / "dies")
    vllm_on_cpu.install((hosts[dist.get_rank()].gpu,))
    return serving.open_engines(config, policy)


def hand_over(port: int, folder: Path, backend: str) -> dict[str, Any]:
    """Two ranks with an engine each: ever new weights, then an engine's death, then weights of before."""
    with layout(port, tp=2) as plan:
        import torch.distributed as dist

        fields = random_dense_fields(
            random.Random(5), "qwen2", divisible_by=2, head_dim=32, tie_word_embeddings=False
        )
        config = engine_config(folder, replicas=2)
        config.handover.buffer_bytes = BUFFER_BYTES
        policy = new_policy(fields, plan)
        with engines_on(config, policy, backend) as engines:
            from r1mega.stages.handover import Handover, HandoverError

            handover = Handover(config, policy, engines, random_probe(fields["vocab_size"]))
            found: dict[str, Any] = {"differences": []}
            for course in range(COURSES):
                move_weights(policy, course)
                found["differences"].append(handover.run()["handover/max_abs_dlogp"])
            if dist.get_rank() == 1:
                os.kill(engines.own[0].process.pid, signal.SIGKILL)
            dist.barrier()
            move_weights(policy, COURSES)
            found["after a death"] = handover.run()["handover/max_abs_dlogp"]
            found["summary"] = handover.summary()
            # The trainer goes on, and what is sent is of before.
            kept = policy.snapshot()
            move_weights(policy, COURSES + 1)
            ahead = policy.snapshot()
            send = handover.way.send

            def stale(version: int) -> Any:
                policy._put(kept)
                faults = send(version)
                policy._put(ahead)
                return faults

            handover.way.send = stale
            with pytest.raises(HandoverError) as error:
                handover.run()
            return found | {"stale": str(error.value)}


@pytest.mark.parametrize("backend", ["ipc", "nccl"])
def test_engines_score_as_the_trainer(tmp_path: Path, backend: str) -> None:
    for found in run_ranks(2, hand_over, free_ports(1)[0], tmp_path, backend):
        print(backend, [f"{difference:.1e}" for difference in found["differences"]])
        assert len(found["differences"]) == COURSES
        assert max(found["differences"]) <= LIMIT
        assert found["after a death"] <= LIMIT
        assert found["summary"]["engine_restarts"] == 1
        assert all(f"engine {number} scores the probe otherwise" in found["stale"] for number in (0, 1))


def die_receiving(port: int, folder: Path) -> None:
    """One rank with one engine, which dies in the middle of the second hand-over."""
    with layout(port) as plan:
        fields = random_dense_fields(random.Random(5), "qwen2", head_dim=32, tie_word_embeddings=False)
        config = engine_config(folder, replicas=1)
        policy = new_policy(fields, plan)
        with engines_on(config, policy, "nccl") as engines:
            from r1mega.stages.handover import Handover

            handover = Handover(config, policy, engines, random_probe(fields["vocab_size"]))
            handover.run()
            (config.folder / "dies").touch()
            handover.run()


def test_an_engine_that_dies_in_a_broadcast_ends_the_run_to_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as error:
        run_ranks(1, die_receiving, free_ports(1)[0], tmp_path)
    assert "rank 0 ended with 75" in str(error.value)
    assert "error: engine 0 died (exit code -9) in update_weights" in str(error.value)


class Pair:
    """The two ends of a broadcast between threads of one process."""

    def __init__(self) -> None:
        self.way: queue.Queue[Any] = queue.Queue()
        self.trainer = Pair.End(lambda tensor: self.way.put(tensor.clone()))
        self.worker = Pair.End(lambda tensor: tensor.copy_(self.way.get(timeout=60)))

    class End:
        def __init__(self, broadcast: Any) -> None:
            self._broadcast = broadcast

        def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
            assert src == 0
            self._broadcast(tensor)


class OneEngine:
    """This rank's engines, where rank 1 owns the only one: vLLM's receiver, and what it would load."""

    def __init__(self, worker: Any) -> None:
        self.replicas, self.number, self.version = 1, 0, -1
        self.settings = type("Settings", (), {"tensor_parallel": 1})
        self.worker = worker
        self.loaded: dict[str, Any] = {}

    def together(self, verb: Any, of: Any = None) -> dict[int, Any]:
        import torch.distributed as dist

        return {0: verb(self) if dist.get_rank() == 1 else self.version}

    def call(self, verb: str, **arguments: Any) -> Any:
        if verb == "held_version":
            return self.version
        if verb == "end_weight_update":
            self.version = arguments["version"]
        if verb == "init_weight_transfer_engine":
            info = self.worker.parse_init_info(arguments["init_info"])
            self.worker.packed, self.worker.packed_buffer_size_bytes = (
                info.packed,
                info.packed_buffer_size_bytes,
            )
        if verb == "update_weights":
            self.worker.update_weights(arguments["update_info"])
        return None

    def load_weights(self, weights: Any) -> None:
        for name, tensor in weights:
            assert name not in self.loaded
            self.loaded[name] = tensor.clone()


def record(ports: list[int], folder: Path) -> dict[str, Any]:
    """What vLLM's receiver gets from every layout, and the export of the same weights, plain and in FP8."""
    found = {}
    fields = random_fields(
        random.Random(6),
        divisible_by=2,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_nextn_predict_layers=1,
    )
    for port, (name, degrees) in zip(ports, LAYOUTS.items(), strict=True):
        with layout(port, **degrees) as plan:
            policy = new_policy(fields, plan)
            for fp8 in (False, True):
                move_weights(policy, 1)
                target = folder / f"{name} {fp8}"
                policy.export(target, fp8_blocks=fp8)
                found[f"{name} {fp8}"] = received(policy, fp8, target)
    return found


def received(policy: Any, fp8: bool, exported: Path) -> dict[str, Any] | None:
    import torch.distributed as dist
    from vllm.distributed.weight_transfer import nccl_engine

    from r1mega.rollout.transport import VllmTransport
    from r1mega.weights.quantised import QuantisedSource
    from r1mega.weights.source import MegatronSource
    from r1mega.weights.table import Served

    vllm_on_cpu.install(("GPU-0",))
    pair = Pair()
    nccl_engine.open_trainer_endpoint = lambda info: pair.trainer
    worker = object.__new__(nccl_engine.NCCLWeightTransferEngine)
    worker.model_update_group, worker.packed_num_buffers, worker.device = pair.worker, 2, "cpu"
    engine = worker.model = OneEngine(worker)
    needed = MegatronSource([piece for piece in policy.pieces if piece.place.served is Served.engine])
    source = QuantisedSource(needed) if fp8 else needed
    way = VllmTransport(engine, source, backend="nccl", buffer_bytes=BUFFER_BYTES)
    way.connect([0])
    faults = way.send(policy.version)
    if dist.get_rank() == 0:
        return None
    assert faults == []
    kept = {piece.place.name for piece in policy.pieces if piece.place.served is not Served.engine}
    return {
        "sent": {name: stamp(tensor) for name, tensor in engine.loaded.items()},
        "exported": {name: stamp(tensor) for name, tensor in read_folder(exported).items()},
        "kept": kept,
        "chunks": way.bytes / way._buffer_bytes,
    }


def stamp(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    import torch

    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_what_vllm_receives_is_what_an_export_has_bit_for_bit(tmp_path: Path) -> None:
    first, found = run_ranks(2, record, free_ports(len(LAYOUTS)), tmp_path)
    assert set(first.values()) == {None}
    assert len(found) == 2 * len(LAYOUTS)
    for name, one in found.items():
        assert one["chunks"] > 2, name
        drafts = one["exported"].keys() - one["sent"].keys()
        assert all(".layers." in draft for draft in drafts)
        assert {tensor: one["exported"][tensor] for tensor in one["sent"]} == one["sent"], name
        assert not one["kept"] & one["sent"].keys(), name
        quantised = {dtype for dtype, _, _ in one["sent"].values()}
        assert ("torch.float8_e4m3fn" in quantised) is name.endswith("True")
