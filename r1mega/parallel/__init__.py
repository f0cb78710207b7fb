"""Layouts: degrees to ranks (`plan`), ranks to process groups (`groups`), Megatron on CPU (`cpu`)."""
