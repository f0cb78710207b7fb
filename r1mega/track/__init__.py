"""What a run leaves behind: rows of figures, samples, W&B's record, a summary and a report.

Everything here takes plain values (dicts of numbers and text) and writes into the run's folder.
Slow packages (wandb, matplotlib, jinja2) are imported where they are used.
"""
