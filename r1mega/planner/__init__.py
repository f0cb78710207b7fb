"""`r1mega plan`: what a run would hold where, before any GPU is asked for. Plain integers, no framework."""
