"""vLLM as one would use it without r1mega: `LLM.generate` on an HF folder.

It gets the engine arguments that r1mega's engines have, for they are the quicker ones and some of
them are needed for right numbers on CPU. It keeps what r1mega gives up so that weights can be
handed over: oneDNN's packed linears. Only `generate` is timed, in the process that calls it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from r1mega.config import RolloutConfig
from r1mega.rollout.host import Request


@dataclass(frozen=True, slots=True)
class Settings:
    """One raw engine."""

    folder: str
    dtype: str
    own_process: bool
    """vLLM starts its own engine process (VLLM_ENABLE_V1_MULTIPROCESSING=1)."""
    cores: tuple[int, ...]
    rollout: RolloutConfig
    stop_token: int
    log: str


class RawVllm:
    """One or several raw engines that share the requests; a context manager."""

    def __init__(self, name: str, settings: Sequence[Settings]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for one in settings:
            pipe, theirs = multiprocessing.Pipe()
            # Not a daemon: vLLM's own engine process is a child of it.
            process = context.Process(target=_main, args=(theirs, one), name=name)
            process.start()
            theirs.close()
            self._pipes.append(pipe)
            self._processes.append(process)

    def wait(self) -> None:
        """Wait until the engines are up."""
        for pipe in self._pipes:
            pipe.recv()

    def generate(self, requests: Sequence[Request]) -> tuple[float, list[list[int]]]:
        """Seconds that `LLM.generate` took, the slowest engine's, and the answers' tokens."""
        engines = len(self._pipes)
        seconds, shares = self._call("generate", [requests[i::engines] for i in range(engines)])
        answers: list[list[int]] = [[]] * len(requests)
        for i, share in enumerate(shares):
            answers[i::engines] = share
        return seconds, answers

    def score(self, texts: Sequence[Sequence[int]]) -> float:
        """Seconds that one engine takes to score the texts."""
        seconds, _ = self._call("score", [texts])
        return seconds

    def _call(self, verb: str, arguments: Sequence[Any]) -> tuple[float, list[Any]]:
        asked = list(zip(self._pipes, arguments, strict=False))
        for pipe, argument in asked:
            pipe.send((verb, argument))
        for pipe, _ in asked:
            pipe.recv()
        for pipe, _ in asked:
            pipe.send("go")
        replies = [pipe.recv() for pipe, _ in asked]
        return max(seconds for seconds, _ in replies), [result for _, result in replies]

    def __enter__(self) -> RawVllm:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()


def _main(pipe: Connection, settings: Settings) -> None:
    # A process group of its own, so that vLLM's processes can be ended with it, however it ends.
    os.setsid()
    _redirect_output(settings.log)
    _set_environment(settings)
    try:
        llm = _llm(settings)
        pipe.send("up")
        while True:
            verb, argument = _next(pipe)
            prepare = _generation if verb == "generate" else _scoring
            prompts, sampling = prepare(settings, argument)
            pipe.send("ready")
            pipe.recv()
            began = time.perf_counter()
            outputs = llm.generate(prompts, sampling, use_tqdm=False)
            seconds = time.perf_counter() - began
            pipe.send((seconds, [list(output.outputs[0].token_ids) for output in outputs]))
    except (EOFError, BrokenPipeError):
        pass  # the benchmark is over
    finally:
        sys.stdout.flush()
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        os.killpg(0, signal.SIGKILL)


def _next(pipe: Connection) -> Any:
    """The next message. Until it comes vLLM's own processes are stopped: they poll, and would take
    time from the side whose turn it is."""
    others = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _with_us(pid)]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        return pipe.recv()
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


def _with_us(pid: int) -> bool:
    try:
        return pid != os.getpid() and os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return False


def _redirect_output(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _set_environment(settings: Settings) -> None:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(settings.own_process)),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, settings.cores)),
        "OMP_NUM_THREADS": str(len(settings.cores)),
        "VLLM_MLA_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(-(-settings.rollout.kv_cache_bytes // 1024**3)),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # torchrun's variables describe the ranks, not this engine.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)


def _llm(settings: Settings) -> Any:
    from vllm import LLM

    rollout = settings.rollout
    return LLM(
        model=settings.folder,
        skip_tokenizer_init=True,
        dtype=settings.dtype,
        max_model_len=rollout.max_context_tokens,
        max_num_seqs=rollout.concurrent_sequences,
        kv_cache_memory_bytes=rollout.kv_cache_bytes,
        enable_prefix_caching=True,
        block_size=32,
        enable_chunked_prefill=False,
        max_num_batched_tokens=max(rollout.max_context_tokens, 8192),
        enforce_eager=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        compilation_config={"custom_ops": ["all", "-rotary_embedding"]},
    )


def _generation(settings: Settings, requests: Sequence[Request]) -> tuple[list[Any], Any]:
    from vllm import SamplingParams

    sampling = [
        SamplingParams(
            temperature=settings.rollout.temperature,
            top_p=settings.rollout.top_p,
            max_tokens=settings.rollout.max_answer_tokens,
            seed=request.seed,
            stop_token_ids=[settings.stop_token],
            ignore_eos=True,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
        )
        for request in requests
    ]
    return [{"prompt_token_ids": list(request.prompt)} for request in requests], sampling


def _scoring(settings: Settings, texts: Sequence[Sequence[int]]) -> tuple[list[Any], Any]:
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    return [{"prompt_token_ids": list(text)} for text in texts], sampling
