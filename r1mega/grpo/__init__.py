"""GRPO's arithmetic: pure functions on tensors and plain numbers, one idea a file.

Nothing here opens a process group, holds state or knows where a tensor came from: sums over
micro-batches and ranks are the caller's, and every function says what has to be summed.
"""
