"""What a reward model reads, and the losses it learns by: pure functions, one idea a file.

The room imports neither Megatron nor vLLM nor Hydra.
"""
