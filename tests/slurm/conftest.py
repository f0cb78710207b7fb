"""A cluster for each file of tests: they run beside each other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support import slurm


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[slurm.Cluster]:
    """As many nodes as the module's NODES says; one where it says nothing."""
    nodes = getattr(request.module, "NODES", 1)
    with slurm.cluster(
        tmp_path_factory.mktemp("slurm"), nodes, getattr(request.module, "LOST_S", 60)
    ) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("R1MEGA_SLOW"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: make test-slurm runs it"))
