"""Do transformers, Megatron and vLLM compute the same model? The same texts through all three, compared.

    python tools/parity.py MODEL_FOLDER [parallel=tp2 ...] [rollout.tensor_parallel=2]

Megatron reads the folder under the layout given, vLLM gets its weights from Megatron by a proven
hand-over, and transformers reads the folder by itself. It prints how far their log-probs lie apart, the
first layer at which Megatron and transformers part, and how many tokens are routed to other experts;
docs/parity.md says how to read it. Exit codes are those of diff: 0 alike, 1 different, 2 trouble.
"""

# Whatever is imported here, every engine's process imports again.

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_parts import job

ALIKE, DIFFERENT, TROUBLE = 0, 1, 2


def main() -> int:
    """Compare; or, started again by torchrun, be one of the ranks."""
    if "RANK" in os.environ:
        from parity_parts.ranks import run

        return run(Path(sys.argv[1]))
    from parity_parts.job import Trouble

    from r1mega.config import BadRun

    try:
        return _compare(_arguments())
    except (BadRun, Trouble) as error:
        print(f"error: {error}", file=sys.stderr)
        return TROUBLE
    except KeyboardInterrupt:
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER", help="config.json and *.safetensors")
    parser.add_argument("--text", type=Path, metavar="FILE", help="texts to score, one a line")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="what transformers reads instead")
    parser.add_argument("--layers", action="store_true", help="print every layer, not the first that parts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as r1mega takes them")
    return parser.parse_intermixed_args()


def _compare(arguments: argparse.Namespace) -> int:
    from parity_parts import compare, job, show
    from parity_parts.job import Trouble

    if arguments.json and not arguments.json.absolute().parent.is_dir():
        raise Trouble(f"--json: {arguments.json.parent} is no folder")
    reads = arguments.reference or arguments.folder
    with tempfile.TemporaryDirectory(prefix="r1mega-parity-") as scratch:
        work = job.prepare(arguments.folder, reads, arguments.text, arguments.overrides, Path(scratch))
        topology = work.topology(ranks=None)
        show.header(arguments, work, topology)
        from parity_parts import reference

        began = time.monotonic()
        theirs = reference.score(reads, work)
        show.step(began, "transformers has scored; starting Megatron and vLLM ...")
        _start_ranks(work, topology.training.world_size)
        ours, engine, unproven = job.read_ranks(work, topology.training)
        show.step(began, "Megatron and vLLM have scored.")
    figures = compare.figures(theirs, ours, engine, work.limit, unproven)
    show.figures(figures, arguments.layers)
    if arguments.json:
        show.write(arguments.json, arguments, work, topology, figures)
    return ALIKE if figures["alike"] else DIFFERENT


def _start_ranks(work: job.Job, ranks: int) -> None:
    """Megatron's ranks, each of them this file again, to their end."""
    from parity_parts.job import Trouble

    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(work.config().cluster.threads_per_rank),
        "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
    }
    done = subprocess.run(
        [sys.executable, *torchrun, __file__, str(work.scratch)], env=environment, check=False
    )
    if done.returncode:
        raise Trouble(f"a rank ended with {done.returncode}; what it printed is above")


if __name__ == "__main__":
    sys.exit(main())
