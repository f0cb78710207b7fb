"""One rank that `run_ranks` started: `python -m support.rank FOLDER`."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[1])
    function, arguments = pickle.loads((folder / "call").read_bytes())
    result = folder / f"result.{os.environ['RANK']}"  # before an engine in here forgets the rank
    result.write_bytes(pickle.dumps(function(*arguments)))


if __name__ == "__main__":
    main()
