"""The parts of `tools/parity.py`: what is scored, by whom, and how it is compared and shown."""
