"""Rule rewards: what an answer earns, as named components kept apart until they are weighed.

The room stands on the ground: it knows a question only by the fields it reads (`Gradable`) and
imports no other room. `registry` names the components, `grader` computes them for many answers at
once in worker processes. Importing it is quick: verifiers are loaded by the workers alone.
"""

from r1mega.rewards.grader import Grader, GraderError, Grading
from r1mega.rewards.registry import METRICS, NAMES, check_weights, combine

__all__ = ["METRICS", "NAMES", "Grader", "GraderError", "Grading", "check_weights", "combine"]
