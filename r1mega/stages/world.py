"""The small world's files: what the recipe's stages learn from where a user brings nothing.

No model is built; rank 0 writes, and the rows are a function of the seed.
"""

from __future__ import annotations

from r1mega.config import Config
from r1mega.data.world import texts
from r1mega.parallel.plan import Plan
from r1mega.stages.recorder import Recorder


def run(config: Config, plan: Plan) -> None:
    """The whole stage: leaves `NAME.jsonl` of each of `world.rows` in the run's folder."""
    with Recorder(config) as recorder:
        written = texts.write(config.folder, config.world.rows, config.seed) if recorder.writes else {}
        for name, rows in written.items():
            recorder.say(f"{name}.jsonl: {rows:,} rows")
        recorder.finish({"world": written})
