"""Push r1mega's dashboard to Weights & Biases, or print the list that it is made of.

    python tools/dashboard.py --entity ENTITY --project PROJECT
    python tools/dashboard.py --print

The first makes a saved view in the project and says its address: the layout is all that leaves the
machine. It needs `wandb login` or WANDB_API_KEY. The second needs no network. docs/dashboard.md has more.

Exit codes: 0 done, 1 W&B refused or could not be reached, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys

from r1mega.track.dashboard import as_table, build_workspace


def main() -> int:
    """Print or push."""
    arguments = _arguments()
    if arguments.print:
        print(as_table(), end="")
        return 0
    return push(arguments.entity, arguments.project)


def push(entity: str, project: str) -> int:
    """Save the dashboard in W&B; what is in the way is said in one line."""
    # Read when wandb is imported: its own error reports would leave the machine too.
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    try:
        build_workspace(entity, project).save()
    except wandb.errors.Error as error:
        print(f"error: the dashboard was not pushed to {entity}/{project}: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Push r1mega's W&B dashboard, or print its panels.")
    parser.add_argument("--print", action="store_true", help="print the panels as Markdown; no network")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--project", help="W&B project, as in track.project")
    arguments = parser.parse_args()
    if not arguments.print and not (arguments.entity and arguments.project):
        parser.error("give --entity and --project to push, or --print")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
