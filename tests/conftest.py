"""Settings of all tests. Standing here, it also puts this folder on the path: tests import `support`."""

from __future__ import annotations

from hypothesis import settings

# The machine may be busy with the tests of other processes, so no example has a time limit of its own.
settings.register_profile("r1mega", deadline=None)
settings.load_profile("r1mega")
