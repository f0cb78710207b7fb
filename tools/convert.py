"""Convert a model between HF's and Megatron's formats, or from one dtype or layout to another.

    python tools/convert.py SOURCE TARGET [--to hf|megatron] [--dtype fp32|bf16|fp8] [key=value ...]

SOURCE says by itself what it is: an HF folder (config.json and *.safetensors, FP8 blocks included) or a
Megatron checkpoint that r1mega wrote. Without --to it becomes the other of the two. Overrides are those of
r1mega's `parallel` and `cluster`: `parallel=tp2` converts on two ranks of this machine, each holding half of
the model. Tokenizer files go along. docs/checkpoints.md has the formats and what they need of memory.

Exit codes: 0 done, 2 bad input (said in one message, before or after the weights' names were read).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1mega.config import BadRun, Config, Dtype

if TYPE_CHECKING:
    from r1mega.parallel.plan import Plan
    from r1mega.policy import Policy
    from r1mega.weights.folder import Progress

TOKENIZER = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""Files that are taken along where the source has them."""

FORMATS = ("hf", "megatron")
SECTIONS = ("parallel", "cluster")
"""Of r1mega's configuration, those that mean something here."""


@dataclass(frozen=True)
class Job:
    """A conversion that can be begun."""

    source: Path
    target: Path
    source_format: str
    target_format: str
    fp8_blocks: bool
    hf: dict[str, Any]
    config: Config
    plan: Plan


def main() -> int:
    """Check the job; start its ranks, or be one."""
    arguments = _arguments()
    try:
        job = make_job(arguments)
    except BadRun as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    if "RANK" in os.environ:
        return _rank(job)
    from r1mega.launch import start_ranks

    return start_ranks(sys.argv[1:], job.plan.world_size, program=[__file__])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the folder to convert")
    parser.add_argument("target", type=Path, metavar="TARGET", help="a folder that is not there yet")
    parser.add_argument("--to", choices=FORMATS, help="default: what SOURCE is not")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp8"), help="default: SOURCE's; of fp8, bf16")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as r1mega takes them")
    return parser.parse_intermixed_args()


def make_job(arguments: argparse.Namespace) -> Job:
    """The conversion that the command line asks for.

    Raises:
        BadRun: with every fault found before the weights are looked at.
    """
    source, target = arguments.source, arguments.target
    source_format, hf, faults = _read_source(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        faults.append(f"TARGET: was {target}; it exists, and nothing is overwritten")
    if faults:
        raise BadRun(faults)
    to = arguments.to or next(other for other in FORMATS if other != source_format)
    if arguments.dtype == "fp8" and to != "hf":
        raise BadRun(["--dtype: was fp8; only an HF folder holds FP8 blocks, so --to must be hf"])
    own = hf.get("torch_dtype", hf.get("dtype"))
    computed = arguments.dtype if arguments.dtype in ("fp32", "bf16") else _named(own)
    config, plan = _layout(arguments.overrides, hf)
    config.precision.dtype = Dtype(computed)
    return Job(source, target, source_format, to, arguments.dtype == "fp8", hf, config, plan)


def _named(torch_dtype: object) -> str:
    """The nearest dtype of ours; bf16 holds what published checkpoints are in."""
    return "fp32" if torch_dtype == "float32" else "bf16"


def _read_source(source: Path) -> tuple[str, dict[str, Any], list[str]]:
    """The source's format and HF fields, and what is wrong with it."""
    from r1mega.model.family import family_faults, family_of

    if not source.is_dir():
        return "", {}, [f"SOURCE: was {source}; no such folder"]
    if (source / "metadata.json").is_file():
        found = "megatron"
    elif any(source.glob("*.safetensors")):
        found = "hf"
    else:
        return "", {}, [f"SOURCE: was {source}; it has neither *.safetensors nor metadata.json"]
    path = source / "config.json"
    try:
        hf = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return found, {}, [f"{path}: cannot be read ({error})"]
    return found, hf, family_faults(hf, str(path)) or family_of(hf).faults(hf, str(path))


def _layout(overrides: list[str], hf: dict[str, Any]) -> tuple[Config, Plan]:
    """The run's configuration and the layout of its ranks.

    Raises:
        BadRun: overrides that mean nothing here, or a layout that the model does not fit.
    """
    from r1mega.__main__ import configurations
    from r1mega.compose import compose
    from r1mega.model.family import family_of
    from r1mega.parallel.plan import faults_for, make_plan

    strange = [one for one in overrides if one.split("=")[0].split(".")[0] not in SECTIONS]
    if strange:
        raise BadRun([f"{one}: only keys of {' and '.join(SECTIONS)} are of use here" for one in strange])
    groups = {one.split("=")[0] for one in overrides}
    defaults = ["run=cpu_zero", "name=convert", *(["parallel=single"] if "parallel" not in groups else [])]
    config = compose(configurations(), [*defaults, *overrides])
    ranks = int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None
    degrees = {name: getattr(config.parallel, name) for name in ("tp", "pp", "vpp", "ep", "etp", "cp", "dp")}
    plan, faults = make_plan(**degrees, ranks=ranks)
    if plan is not None:
        faults += faults_for(plan, family_of(hf).shape(hf))
    if faults or plan is None:
        raise BadRun(faults)
    return config, plan


def _rank(job: Job) -> int:
    from r1mega.rank import prepare_process

    prepare_process(job.config)
    import torch

    from r1mega.config import Backend
    from r1mega.parallel.groups import close_groups, open_groups

    cluster = job.config.cluster
    torch.set_num_threads(cluster.threads_per_rank)
    open_groups(job.plan, gpu=cluster.backend is Backend.cuda, seed=0, timeout_s=cluster.timeout_s)
    from r1mega.policy import Policy
    from r1mega.weights.whole import FolderError

    try:
        began = time.monotonic()
        policy = Policy(job.config, job.hf, job.plan, fresh=False)
        _take(job, policy)
        _write(job, policy)
        _say(f"{job.target}: {job.target_format}, written in {time.monotonic() - began:.0f} s")
    except FolderError as error:
        _say(f"error: {error}")
        return 2
    close_groups()
    return 0


def _take(job: Job, policy: Policy) -> None:
    if job.source_format == "hf":
        policy.load(job.source, _bar("reading"))
    else:
        _say("reading (Megatron's reader does not say how far it is)")
        policy.restore(job.source)


def _write(job: Job, policy: Policy) -> None:
    beside = [job.source / name for name in TOKENIZER if (job.source / name).is_file()]
    if job.target_format == "hf":
        policy.export(job.target, beside=beside, fp8_blocks=job.fp8_blocks, progress=_bar("writing"))
    else:
        _say("writing (Megatron's writer does not say how far it is)")
        policy.save(job.target, beside)


def _bar(what: str) -> Progress | None:
    """Shows, on rank 0, the bytes that are done and the time that is left."""
    if os.environ["RANK"] != "0":
        return None
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def show(done: int, total: int) -> None:
        if not bars:  # nothing is shown of what is refused before it begins
            bars.append(tqdm(desc=what, total=total, unit="B", unit_scale=True, unit_divisor=1024))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return show


def _say(text: str) -> None:
    if os.environ["RANK"] == "0":
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
