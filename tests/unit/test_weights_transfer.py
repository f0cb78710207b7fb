"""Every byte that is needed is sent once, by the least loaded of who holds it; what lacks is named."""

from __future__ import annotations

import resource
import time
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r1mega.model import deepseek_v3
from r1mega.parallel.plan import RolloutPlan, make_plan
from r1mega.weights.paper import held_on_paper, needed_on_paper
from r1mega.weights.transfer import Box, make_transfer_plan, not_served

ROWS, COLUMNS = 12, 6


def tiles(name: str, rows: int, columns: int) -> list[Box]:
    """A tensor of ROWS x COLUMNS in so many parts along each dimension."""
    height, width = ROWS // rows, COLUMNS // columns
    return [Box(name, (r * height, c * width), (height, width)) for r in range(rows) for c in range(columns)]


@st.composite
def hand_overs(draw):
    """Tensors cut one way among ranks and another way among workers."""
    ranks = draw(st.integers(1, 5))
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    cuts = st.tuples(st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 2, 3]))
    held = {
        box: sorted(draw(st.sets(st.integers(0, ranks - 1), min_size=1)))
        for name in names
        for box in tiles(name, *draw(cuts))
    }
    needed = [
        draw(st.lists(st.sampled_from(tiles(name, *draw(cuts))), unique=True))
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    ]
    return ranks, held, needed


@given(hand_overs())
def test_each_byte_a_worker_needs_is_sent_to_it_once_by_a_rank_that_holds_it(hand_over):
    ranks, held, needed = hand_over
    plan = make_transfer_plan(held, needed, dict.fromkeys("abcd", 2), ranks)
    for worker, boxes in enumerate(needed):
        wanted, got = ({name: torch.zeros(ROWS, COLUMNS) for name in "abcd"} for _ in range(2))
        for box in boxes:
            part(wanted[box.name], box).add_(1)
        for copy in plan.sent_to(worker):
            part(got[copy.box.name], copy.box).add_(1)
            assert copy.bytes == 2 * prod(copy.box.size)
        assert all(torch.equal(wanted[name], got[name]) for name in "abcd")
    for copy in plan.copies:
        holders = [of for box, of in held.items() if contains(box, copy.box)]
        assert len(holders) == 1
        assert copy.sender in holders[0]
    assert sum(plan.sent_bytes()) == sum(plan.received_bytes()) == sum(c.bytes for c in plan.copies)
    assert sorted(map(id, plan.copies)) == sorted(id(c) for r in range(ranks) for c in plan.sent_by(r))


def part(whole, box):
    for dim, (start, size) in enumerate(zip(box.start, box.size, strict=True)):
        whole = whole.narrow(dim, start, size)
    return whole


def contains(outer, inner):
    return outer.name == inner.name and all(
        a <= b and b + n <= a + m
        for a, m, b, n in zip(outer.start, outer.size, inner.start, inner.size, strict=True)
    )


def test_copies_of_a_weight_share_the_work():
    held = {Box(str(i), (0,), (8,)): [0, 1, 2, 3] for i in range(64)}
    plan = make_transfer_plan(held, [list(held)] * 2, {box.name: 4 for box in held}, 4)
    assert plan.sent_bytes() == [2 * 64 * 8 * 4 // 4] * 4


def test_what_nobody_holds_is_named():
    held = {Box("a", (0, 0), (6, 6)): [0]}
    with pytest.raises(ValueError, match=r"do not hold a\[0:12, 0:6\] whole") as raised:
        make_transfer_plan(held, [[Box("a", (0, 0), (12, 6)), Box("b", (0,), (3,))]], {"a": 4, "b": 4}, 1)
    assert "b[0:3]" in str(raised.value)


def test_what_an_engine_leaves_is_named():
    held = [*tiles("a", 2, 1), *tiles("b", 1, 1)]
    assert not_served(held, [tiles("a", 4, 1)[:2], tiles("a", 4, 1)[2:], tiles("b", 1, 3)]) == []
    assert not_served(held, [tiles("a", 4, 1)[:3], tiles("b", 1, 3)]) == ["a[6:12, 0:6]"]


V3 = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
}


@pytest.mark.parametrize(
    ("training", "rollout"),
    [
        ({"tp": 8, "pp": 16, "ep": 64, "dp": 16}, {"replicas": 8, "tp": 32, "ep": 32}),
        ({"tp": 8, "pp": 16, "ep": 64, "dp": 16}, {"replicas": 4, "tp": 64, "ep": 64}),
        ({"tp": 4, "pp": 16, "ep": 32, "dp": 32}, {"replicas": 16, "tp": 16, "ep": 16}),
    ],
)
def test_the_671b_on_2048_ranks_to_256_workers(training, rollout):
    """Ten seconds of one processor and 2 GB are the bar; senders and receivers within 1.1 of the mean."""
    plan, faults = make_plan(**training, vpp=1, etp=1, cp=1, ranks=2048)
    assert plan is not None, faults
    began = time.process_time()
    table = deepseek_v3.weight_table(V3)
    held = held_on_paper(table, plan, 61)
    needed = needed_on_paper(table, RolloutPlan(**rollout, pp=1), None)
    transfer = make_transfer_plan(held, needed, dict.fromkeys((box.name for box in held), 2), 2048)
    seconds = time.process_time() - began
    sent, received = transfer.sent_bytes(), transfer.received_bytes()
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    balance = max(sent) * 2048 / sum(sent), max(received) * 256 / sum(received)
    print(f"{len(transfer.copies)} copies in {seconds:.1f} s, {peak_gb:.2f} GB; busiest over mean {balance}")
    assert seconds < 10
    assert peak_gb < 2
    assert max(balance) <= 1.1
    assert sum(received) >= rollout["replicas"] * 2 * 670e9


@pytest.mark.parametrize(("words", "shares"), [(256, [128, 128]), (228, [128, 100]), (32, [32])])
def test_the_vocabulary_is_split_with_its_padding(words, shares):
    """vLLM pads it to a multiple of 64; what is left to the last worker is less, or nothing."""
    needed = needed_on_paper(
        deepseek_v3.weight_table(V3 | {"vocab_size": words}), RolloutPlan(replicas=1, tp=2, pp=1, ep=1), None
    )
    boxes = [box for worker in needed for box in worker if box.name == "lm_head.weight"]
    assert [box.size[0] for box in boxes] == shares
    assert [box.start[0] for box in boxes] == [0, 128, 256][: len(shares)]
