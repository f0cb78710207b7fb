"""Rule rewards: what an answer earns, as named components that are kept apart until they are
weighed.

The room stands on the ground: it knows a question only by the fields it reads (`Gradable`) and
imports no other room. `registry` names the components, `grader` computes them for many answers in
worker processes.
"""
