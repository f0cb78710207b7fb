"""Runs that feed each other: who reads what of whom, what a run's result is made of, what is to be done."""
