"""The parts of `tools/bench.py`: the raw sides, what is timed, and how it is shown."""
