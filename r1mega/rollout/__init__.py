"""The vLLM engines that generate, behind a few verbs."""
