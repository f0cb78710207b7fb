"""The process that hosts one vLLM engine: it takes verbs from a pipe until the pipe closes.

vLLM runs inside it without processes of its own (tensor parallelism aside), which starts in half the
time and generates faster than vLLM's own engine process. It dies with the trainer that started it, by
whatever death, and with any of its workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from r1mega.rollout.plugin import IN_ENGINE


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What one engine is started with."""

    folder: str
    """HF folder with a config.json; weights come by hand-over."""
    dtype: str
    seed: int
    max_context_tokens: int
    concurrent_sequences: int
    kv_cache_bytes: int
    tensor_parallel: int
    expert_parallel: bool
    """Experts are dealt out whole over the workers."""
    backend: str
    """The weight-transfer engine that takes its weights: vLLM's name of it, or `plugin.BACKEND`."""
    fp8_weights: bool
    """Its weights come as DeepSeek's FP8 codes and scales."""
    cores: tuple[int, ...]
    """CPU cores that its workers' threads are bound to, each worker's after the other's."""
    gpus: tuple[str, ...]
    """One a worker, as CUDA_VISIBLE_DEVICES calls them; none on a CPU."""
    log: str
    """File that takes what vLLM prints."""


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to sample: the prompt's tokens and the answer's own seed."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    Attributes:
        tokens: the answer's token ids, end token included.
        logps: the sampler's log-prob of each.
        truncated: it met the length limit.
        version: the policy version that sampled it.
    """

    tokens: np.ndarray
    logps: np.ndarray
    truncated: bool
    version: int


def main(pipe: Connection, settings: EngineSettings) -> None:
    """Start the engine, then answer `(verb, arguments)` with `("ok", result)` or `("error", text)`."""
    _die_with_parent()
    _redirect_output(settings.log)
    _set_environment(settings)
    # It ends with the trainer, as daemons do; but unlike theirs, its workers may be processes too.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    try:
        engine = _Engine(settings)
        threading.Thread(target=_die_with_workers, daemon=True).start()
        pipe.send(("ok", None))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            verb, arguments = pipe.recv()
            try:
                pipe.send(("ok", getattr(engine, verb)(**arguments)))
            except Exception:
                pipe.send(("error", traceback.format_exc()))


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        os._exit(1)  # it died before the kernel was told
    # Ctrl-C reaches the whole foreground group, and a cluster's TERM the whole job; the trainer decides when
    # an engine ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _die_with_workers() -> None:
    """Without one of its workers an engine answers with an error at best; dead, it is started anew."""
    workers = multiprocessing.active_children()
    if workers:
        wait([worker.sentinel for worker in workers])
        print("a worker of this engine ended, and so does the engine", file=sys.stderr, flush=True)
        os._exit(1)


def _redirect_output(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _set_environment(settings: EngineSettings) -> None:
    os.environ |= {
        IN_ENGINE: "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "r1mega",
        "HF_HUB_OFFLINE": "1",
    }
    os.environ |= {"CUDA_VISIBLE_DEVICES": ",".join(settings.gpus)} if settings.gpus else _on_cpu(settings)
    # torchrun's or our launcher's variables describe the trainer's ranks, not this engine's.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _on_cpu(settings: EngineSettings) -> dict[str, str]:
    threads = len(settings.cores) // settings.tensor_parallel
    workers = [settings.cores[i : i + threads] for i in range(0, len(settings.cores), threads)]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, cores)) for cores in workers),
        "OMP_NUM_THREADS": str(threads),
        # The CPU's latent-attention kernel is compiled for one size only; the numbers are the same without.
        "VLLM_MLA_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(-(-settings.kv_cache_bytes // 1024**3)),
    }


_GPU_OPTIONS: dict[str, Any] = {
    # vLLM does not start where less than this share is free, which the trainer may well use; how much it
    # takes is said by the cache's size. Not measured on GPU.
    "gpu_memory_utilization": 0.05,
}


def _cpu_options(settings: EngineSettings) -> dict[str, Any]:
    return {
        # A group's samples share the whole blocks of their prompt; small blocks let short prompts share.
        "block_size": 32,
        # vLLM rewinds a seeded request's generator after a partial prefill; CPU generators cannot.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_context_tokens, 8192),
        "enforce_eager": True,
        # The CPU's rotary kernel is wrong for DeepSeek's layout from the second token on.
        "compilation_config": {"custom_ops": ["all", "-rotary_embedding"]},
    }


class _Engine:
    """The verbs. Those about weights are vLLM's own weight-sync protocol."""

    def __init__(self, settings: EngineSettings) -> None:
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        self.version = -1
        self.llm = LLM(
            model=settings.folder,
            # Token ids go in and come out; the trainer has the tokenizer.
            skip_tokenizer_init=True,
            dtype=settings.dtype,
            seed=settings.seed,
            load_format="dummy",
            tensor_parallel_size=settings.tensor_parallel,
            enable_expert_parallel=settings.expert_parallel,
            max_model_len=settings.max_context_tokens,
            max_num_seqs=settings.concurrent_sequences,
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            enable_prefix_caching=True,
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            weight_transfer_config=WeightTransferConfig(backend=settings.backend),
            worker_extension_cls="r1mega.rollout.plugin.WorkerExtension",
            **(_GPU_OPTIONS if settings.gpus else _cpu_options(settings)),
        )

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})

    def weight_layout(self) -> list[dict[str, Any]]:
        """Each worker's; see `SharedMemoryEngine.layout`."""
        return self.llm.collective_rpc("weight_layout")

    def expect_weights(self, of_workers: list[list[Any]]) -> None:
        self.llm.collective_rpc("expect_weights", kwargs={"of_workers": of_workers})

    def start_weight_update(self) -> None:
        self.llm.collective_rpc("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.llm.collective_rpc("update_weights", kwargs={"update_info": update_info})

    def end_weight_update(self, version: int) -> None:
        """vLLM's finish; what the prefix cache holds is of older weights, so it goes."""
        self.llm.collective_rpc("finish_weight_update")
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept a prefix cache that older weights computed")
        self.version = version

    def finish_weight_update(self, update_info: dict[str, Any]) -> list[dict[str, Any]]:
        """Update and end in one message; returns each worker's receipt."""
        self.update_weights(update_info)
        self.end_weight_update(update_info["version"])
        return self.llm.collective_rpc("weight_receipt")

    def held_version(self) -> int:
        """The policy version of the weights; -1 before the first."""
        return self.version

    def generate(
        self,
        requests: list[Request],
        temperature: float,
        top_p: float,
        max_answer_tokens: int,
        stop_token: int,
    ) -> list[Completion]:
        """Sample all requests; they are queued in the order given before the engine moves."""
        from vllm import SamplingParams

        sampling = [
            SamplingParams(
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_answer_tokens,
                seed=request.seed,
                stop_token_ids=[stop_token],
                # Else vLLM also stops at the token that transformers takes for a config's own.
                ignore_eos=True,
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": list(request.prompt)} for request in requests]
        outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        return [self._completion(output.outputs[0]) for output in outputs]

    def _completion(self, output: Any) -> Completion:
        tokens = np.array(output.token_ids, dtype=np.int32)
        sampled = [output.logprobs.start_indices[i] for i in range(len(tokens))]
        return Completion(
            tokens=tokens,
            logps=np.array([output.logprobs.logprobs[i] for i in sampled], dtype=np.float32),
            truncated=output.finish_reason == "length",
            version=self.version,
        )

    def score(self, texts: list[list[int]]) -> list[np.ndarray]:
        """Log-probs of each text's tokens but the first, each given those before it."""
        from vllm import SamplingParams

        sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self.llm.generate([{"prompt_token_ids": text} for text in texts], sampling, use_tqdm=False)
        return [
            np.array(
                [
                    entry[token].logprob
                    for entry, token in zip(output.prompt_logprobs[1:], text[1:], strict=True)
                ]
            )
            for output, text in zip(outputs, texts, strict=True)
        ]
