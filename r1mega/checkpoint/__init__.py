"""Saved states of a run: written in the background, whole or not at all, and found again."""
