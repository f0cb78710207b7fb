"""Every engine has GPUs of its own on its owner's machine: the trainer's, or none of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.config import BadRun
from r1mega.rollout.placement import Host, apart, shared


def hosts(machines: int, ranks: int, gpus: int) -> list[Host]:
    """`ranks` on each machine, on the first of its GPUs."""
    names = tuple(map(str, range(gpus)))
    return [Host(f"node{m}", names[rank], names) for m in range(machines) for rank in range(ranks)]


@given(machines=st.integers(1, 4), engines=st.integers(1, 4), workers=st.sampled_from([1, 2, 4, 8]))
def test_shared_engines_tile_the_ranks_gpus(machines: int, engines: int, workers: int) -> None:
    there = hosts(machines, engines * workers, engines * workers)
    seats = shared(there, machines * engines, workers)
    taken = [(there[seat.owner].name, gpu) for seat in seats for gpu in seat.gpus]
    assert taken == [(host.name, host.gpu) for host in there]
    # Handles of a GPU's memory come from the rank on it: the owner's is among them.
    assert all(there[seat.owner].gpu == seat.gpus[0] for seat in seats)
    assert len({seat.owner for seat in seats}) == len(seats)


@given(
    machines=st.integers(1, 4),
    ranks=st.integers(1, 8),
    gpus=st.integers(1, 8),
    workers=st.sampled_from([1, 2, 4]),
    replicas=st.integers(1, 16),
)
def test_engines_apart_touch_no_gpu_of_a_rank(
    machines: int, ranks: int, gpus: int, workers: int, replicas: int
) -> None:
    there = hosts(machines, min(ranks, gpus), gpus)
    room = machines * min((gpus - min(ranks, gpus)) // workers, min(ranks, gpus))
    if replicas > room:
        with pytest.raises(BadRun, match=rf"apart; .* room for {room} engines of {workers} workers"):
            apart(there, replicas, workers)
        return
    seats = apart(there, replicas, workers)
    taken = [(there[seat.owner].name, gpu) for seat in seats for gpu in seat.gpus]
    assert len(taken) == len(set(taken)) == replicas * workers
    assert not {(host.name, host.gpu) for host in there} & set(taken)
    assert len({seat.owner for seat in seats}) == replicas


def test_engines_that_have_no_place_are_refused() -> None:
    with pytest.raises(BadRun, match="engine 1 has no 2 ranks of one machine"):
        shared(hosts(1, 3, 8), 2, 2)
    with pytest.raises(BadRun, match="engine 1 has no 2 ranks of one machine"):
        shared(hosts(2, 3, 8), 3, 2)
    isolated = [Host("node0", "0", ("0",)), Host("node0", "0", ("0",))]
    with pytest.raises(BadRun, match="by the same name"):
        shared(isolated, 1, 1)
