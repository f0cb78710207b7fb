"""The benchmarks of DeepSeek-R1's paper, read from local files in the schema that each was published in.

`BENCHMARKS[name].read(path)` gives the questions, ready to be asked and graded, or every broken row at
once. Nothing is downloaded. docs/benchmarks_models.md says where each file comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from r1mega.data.benchmarks.benchmark import Benchmark
from r1mega.data.benchmarks.choices import GPQA_DIAMOND, MMLU
from r1mega.data.benchmarks.codeforces import CODEFORCES
from r1mega.data.benchmarks.livecodebench import LIVECODEBENCH
from r1mega.data.benchmarks.mathematics import AIME_2024, MATH_500
from r1mega.data.benchmarks.swe_bench import SWE_BENCH_VERIFIED, write_predictions
from r1mega.data.files import DataFileError
from r1mega.data.hints import nearest
from r1mega.data.humaneval import read_humaneval
from r1mega.data.question import Question

_ALL = (AIME_2024, MATH_500, GPQA_DIAMOND, MMLU, LIVECODEBENCH, CODEFORCES, SWE_BENCH_VERIFIED)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
"""Every benchmark by its name."""

HUMANEVAL = "humaneval"
"""The one benchmark that needs no file: its questions are in an installed package."""

__all__ = ["BENCHMARKS", "HUMANEVAL", "Benchmark", "benchmark_faults", "read_benchmark", "write_predictions"]


def read_benchmark(name: str, file: str | None) -> list[Question]:
    """The questions of a benchmark that `benchmark_faults` finds nothing wrong with."""
    return read_humaneval() if name == HUMANEVAL else BENCHMARKS[name].read(str(file))


def benchmark_faults(name: str | None, file: str | None) -> list[str]:
    """Everything wrong with a run's `eval.benchmark` and `eval.benchmark_file`, one line a fault."""
    if name is None:
        return [f"eval.benchmark_file: was {file}; must be null without eval.benchmark"] if file else []
    if name == HUMANEVAL:
        return [f"eval.benchmark_file: was {file}; must be null, {name} is installed"] if file else []
    if name not in BENCHMARKS:
        return [f"eval.benchmark: was {name}; must be a benchmark, {nearest(name, [*BENCHMARKS, HUMANEVAL])}"]
    if not file:
        source = BENCHMARKS[name].source
        return [
            f"eval.benchmark_file: was {file}; must be a file or folder of {name}, as published by {source}"
        ]
    try:
        BENCHMARKS[name].read(file)
    except DataFileError as error:
        return list(error.shown)
    return []
