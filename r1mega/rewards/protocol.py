"""What a grading worker says, a byte at a time.

The parent sends pickled batches, `[(question, answer), ...]`, down the worker's standard input; the
worker sends these bytes up its standard output, and nothing it says is ever unpickled.
"""

READY = b"R"
"""Once, when it has imported what grading needs."""
RIGHT = b"1"
"""After an answer that is right."""
WRONG = b"0"
"""After an answer that is wrong, or that its verifier tripped over."""
