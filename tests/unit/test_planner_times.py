"""Times on paper: what they are fitted to, how they scale, and what is counted out by hand or simulated."""

from __future__ import annotations

import bisect
import itertools
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import BadRun, Config
from r1mega.parallel.plan import RolloutPlan, make_plan
from r1mega.planner.chips import CHIPS
from r1mega.planner.decoding import Asked, Engines, rollout_causes, stretches
from r1mega.planner.learning import Samples, Trainer, rows, score_causes, update_causes
from r1mega.planner.lengths import Lengths, groups
from r1mega.planner.links import Machine, all_reduce_s
from r1mega.planner.published import PUBLISHED
from r1mega.planner.published_times import CHECKS, PHASES, ROWS, PublishedTime
from r1mega.planner.run import Run, read_run
from r1mega.planner.times import FITTED, Times, run_time, step_seconds, step_time
from r1mega.planner.token_costs import token_costs
from r1mega.planner.weights import model_parameters

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import calibrate  # noqa: E402

DOCS = (ROOT / "docs/planning_times.md").read_text().split("## How far off it is")[1]
H100 = Machine(CHIPS["H100"], 8)
V3 = token_costs(PUBLISHED["DeepSeek-V3"])
LLAMA = token_costs(PUBLISHED["Llama-3.1-8B"])


# ------------------------------------------------------------------------------------- the published times


def test_the_fit_gives_the_constants() -> None:
    found = calibrate.fit([*ROWS, *PHASES], [FITTED])
    for name, value in asdict(found).items():
        assert value == pytest.approx(getattr(FITTED, name), rel=0.01), name


def test_the_constants_are_few_and_within_their_physical_bounds() -> None:
    assert len(asdict(FITTED)) <= 4
    assert all(0 < value <= most for value, most in zip(asdict(FITTED).values(), (1, 1, 1, 1), strict=True))


def _documented(row: PublishedTime) -> list[str]:
    line = next(line for line in DOCS.splitlines() if line.startswith(f"| {row.name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("row", [*ROWS, *PHASES, *CHECKS], ids=lambda row: row.name)
def test_every_published_time_stands_in_the_docs_with_its_error(row: PublishedTime) -> None:
    cells = _documented(row)
    assert cells[1] == f"{row.measured_s:,.1f}"
    assert float(cells[2].replace(",", "")) == pytest.approx(row.seconds(FITTED), rel=0.01)
    assert float(cells[3].strip("%")) == pytest.approx(100 * calibrate.error(row, FITTED), abs=1.5)


def test_left_out_errors_are_what_the_docs_say_and_so_is_the_bar_that_is_missed() -> None:
    said = {row.name: float(_documented(row)[4].strip("%")) for row in ROWS}
    sizes = sorted(map(abs, said.values()))
    assert median(sizes) <= 15
    # The bar is 30 % for all rows.
    assert [name for name, size in said.items() if abs(size) > 30] == [
        "Qwen3-30B-A3B, GRPO 1 off, 32 H100",
        "Qwen3-30B-A3B, GRPO on-policy, 64 H100",
    ]
    assert f"median {median(sizes):.0f} %, worst {sizes[-1]:.0f} %" in DOCS
    for row in sorted(ROWS, key=lambda row: -abs(said[row.name]))[:2]:
        assert 100 * calibrate.left_out(row, FITTED) == pytest.approx(said[row.name], abs=2)


# --------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_of_a_model_count_each_weight_once(name: str) -> None:
    costs = token_costs(PUBLISHED[name])
    assert costs.parameters == model_parameters(PUBLISHED[name])[0]
    matrices = costs.dense + costs.expert * costs.experts * costs.expert_layers + costs.head
    assert 0.8 * costs.parameters < matrices <= costs.parameters


def test_deepseek_v3_multiplies_a_token_with_37_billion_weights_as_its_makers_say() -> None:
    assert V3.active + 2 * V3.head == pytest.approx(37e9, rel=0.02)  # with the embedding, which is as large
    assert V3.cache_bytes == 2 * 61 * 576


def test_a_token_touches_its_own_experts_and_many_touch_all() -> None:
    assert V3.touched(1) == pytest.approx(8)
    assert V3.touched(1000) == pytest.approx(256, rel=1e-3)


# ------------------------------------------------------------------------------------------------ lengths


@pytest.mark.parametrize("mean", [1, 100, 700, 3300, 3990, 4000])
def test_groups_of_answers_have_the_mean_asked_for_and_none_is_too_long(mean: float) -> None:
    found = groups(Lengths(mean, 4000), 2048)
    assert sum(share for _, share in found) == pytest.approx(1)
    assert sum(length * share for length, share in found) == pytest.approx(mean, rel=0.01)
    assert max(length for length, _ in found) <= 4000
    lengths = [length for length, _ in found]
    assert lengths == sorted(lengths)


# ----------------------------------------------------------------------------------------------- decoding


def _asked(answers: int, sequences: int, mean: float, longest: int) -> Asked:
    return Asked(answers, 4, 20, Lengths(mean, longest), sequences, 0)


def _one_by_one(asked: Asked, answers: int, capacity: float, seed: int) -> tuple[float, float, float]:
    """Continuous batching token by token, as vLLM does it: those that came last make room where it lacks.

    Returns:
        Steps; sequences, summed over steps; and cached tokens, summed over steps.
    """
    ends = list(itertools.accumulate(share for _, share in groups(asked.answers, asked.samples)))
    lengths = [
        max(1, round(groups(asked.answers, asked.samples)[bisect.bisect(ends, (i + 0.5) / answers)][0]))
        for i in range(answers)
    ]
    random.Random(seed).shuffle(lengths)
    waiting, live = [[length, 0] for length in lengths], list[list[int]]()
    steps = sequence_steps = 0
    cached_steps = 0.0
    ended = True

    def cached(sequences: list[list[int]]) -> float:
        return sum(asked.prompt_tokens + done for _, done in sequences)

    while live or waiting:
        while ended and waiting and len(live) < asked.sequences:
            if live and cached([*live, waiting[-1]]) + len(live) + 1 > capacity:
                break
            live.append(waiting.pop())
        while len(live) > 1 and cached(live) + len(live) > capacity:
            waiting.append(live.pop())
        steps += 1
        sequence_steps += len(live)
        cached_steps += cached(live)
        for one in live:
            one[1] += 1
        left = [one for one in live if one[1] < one[0]]
        ended, live = len(left) < len(live), left
    return steps, sequence_steps, cached_steps


@pytest.mark.parametrize("seed", range(12))
def test_the_course_of_an_engine_is_that_of_continuous_batching_token_by_token(seed: int) -> None:
    draw = random.Random(seed)
    answers, longest = draw.randint(60, 300), draw.randint(100, 400)
    asked = _asked(answers, draw.choice([16, 40, 80, 400]), draw.uniform(0.15, 0.9) * longest, longest)
    tight = seed % 3 == 0  # the cache then holds fewer sequences than an engine takes
    capacity = 0.5 * min(asked.sequences, answers) * (20 + asked.answers.mean) if tight else 1e9
    found = stretches(answers, asked, capacity)
    steps = sum(steps for steps, _, _ in found)
    written = sum(steps * sequences for steps, sequences, _ in found)
    cached = sum(steps * tokens for steps, _, tokens in found)
    orders = [_one_by_one(asked, answers, capacity, order) for order in range(4)]
    expected = [fmean(values) for values in zip(*orders, strict=True)]
    assert steps == pytest.approx(expected[0], rel=0.2 if tight else 0.15)
    assert written == pytest.approx(expected[1], rel=0.02)
    assert cached == pytest.approx(expected[2], rel=0.1 if tight else 0.05)


def _engines(**others: Any) -> Engines:
    return Engines(LLAMA, RolloutPlan(replicas=8, tp=1, pp=1, ep=1), H100, **others)


def _spent(engines: Engines, asked: Asked) -> float:
    return sum(rollout_causes(engines, asked, FITTED).values())


def test_more_engines_longer_answers_and_less_room_change_a_rollout_as_they_must() -> None:
    asked = Asked(2048, 16, 100, Lengths(800, 4000), 256, 40e9)
    engines = _engines()
    assert _spent(replace(engines, plan=replace(engines.plan, replicas=16)), asked) < _spent(engines, asked)
    assert _spent(engines, replace(asked, answers=Lengths(1600, 4000))) > _spent(engines, asked)
    assert _spent(engines, replace(asked, cache_bytes=4e9)) > _spent(engines, asked)
    assert _spent(_engines(graphs=False), asked) > _spent(engines, asked)
    assert _spent(_engines(fp8=True), asked) < _spent(engines, asked)


def test_the_tail_costs_about_as_many_steps_as_the_longest_answer_has_tokens() -> None:
    asked = _asked(2048, 256, 300, 4000)
    found = stretches(256, asked, 1e9)
    assert sum(steps for steps, _, _ in found) == pytest.approx(groups(asked.answers, 2048)[-1][0])
    assert sum(steps for steps, sequences, _ in found if sequences < 26) > 0.5 * sum(f[0] for f in found)


def test_beyond_what_is_followed_answers_take_a_steady_time() -> None:
    asked = _asked(100_000, 64, 200, 1000)
    many, more = (sum(steps for steps, _, _ in stretches(n, asked, 1e9)) for n in (20_000, 40_000))
    assert more - many == pytest.approx(20_000 * 200 / 64)


# ----------------------------------------------------------------------------------------------- learning


def _trainer(ranks: int, **degrees: int) -> Trainer:
    given = {"tp": 1, "pp": 1, "vpp": 1, "ep": 1, "cp": 1} | degrees
    plan, faults = make_plan(**given, etp=None, dp=None, ranks=ranks)
    assert plan is not None, faults
    return Trainer(V3 if given["ep"] > 1 else LLAMA, plan, H100, 8192)


FULL = Lengths(8192, 8192)


def test_twice_the_samples_take_twice_as_long() -> None:
    trainer = _trainer(8, tp=2)
    one, two = (score_causes(trainer, Samples(number, 0, FULL), FITTED) for number in (64, 128))
    assert sum(two.values()) == pytest.approx(2 * sum(one.values()))
    once = {"optimizer", "gradients and weights"}
    one, two = (update_causes(trainer, Samples(number, 0, FULL), FITTED) for number in (64, 128))
    for cause, seconds in two.items():
        assert seconds == pytest.approx(one[cause] * (1 if cause in once else 2)), cause


@pytest.mark.parametrize("degrees", [{}, {"tp": 2}, {"pp": 4}, {"tp": 4, "pp": 2}, {"ep": 64, "pp": 16}])
def test_more_gpus_in_the_same_layout_are_never_slower(degrees: dict[str, int]) -> None:
    samples = Samples(8192, 100, Lengths(2000, 8000))
    base = math.prod(degrees.values())
    spent = [
        sum(update_causes(_trainer(base * more, **degrees), samples, FITTED).values())
        for more in (1, 2, 4, 8)
    ]
    assert spent == sorted(spent, reverse=True)


def test_rows_hold_whole_samples_and_an_interleaved_pipeline_gets_its_multiple() -> None:
    assert rows(_trainer(8), Samples(64, 0, FULL)) == (8, 8192)
    assert rows(_trainer(8), Samples(64, 0, Lengths(5000, 5000))) == (8, 5000)  # two do not fit one row
    assert rows(_trainer(4, pp=4, vpp=2), Samples(5, 0, FULL))[0] == 8


def _scheduled(pp: int, vpp: int, number: int, forward: float, backward: float) -> float:
    """Interleaved 1F1B as Megatron orders it, every chunk of every row run once all it needs is there."""
    ended: dict[tuple[str, int, int], float] = {}
    queues = []
    for stage in range(pp):
        units = [(unit // pp % vpp, unit // (pp * vpp) * pp + unit % pp) for unit in range(number * vpp)]
        ahead = (pp - stage - 1) * 2 + (vpp - 1) * pp if vpp > 1 else pp - stage - 1
        ahead = min(ahead, len(units))
        ahead_units = [("F", chunk * pp + stage, row) for chunk, row in units]
        back_units = [("B", (vpp - 1 - chunk) * pp + stage, row) for chunk, row in units]
        order = ahead_units[:ahead]
        for index in range(len(units)):
            order += [*ahead_units[ahead + index : ahead + index + 1], back_units[index]]
        queues.append(order)
    clocks = [0.0] * pp
    while any(queues):
        moved = False
        for stage, queue in enumerate(queues):
            while queue:
                kind, depth, row = queue[0]
                last = pp * vpp - 1
                if kind == "F":
                    needs = [("F", depth - 1, row)] if depth else []
                else:
                    needs = [("F", depth, row)] + ([("B", depth + 1, row)] if depth < last else [])
                if any(need not in ended for need in needs):
                    break
                start = max([clocks[stage], *(ended[need] for need in needs)])
                clocks[stage] = ended[queue.pop(0)] = start + (forward if kind == "F" else backward) / vpp
                moved = True
        assert moved, "the schedule is stuck"
    return max(clocks)


@pytest.mark.parametrize(
    ("pp", "vpp", "number"), [(2, 1, 5), (4, 1, 9), (8, 1, 8), (2, 2, 4), (4, 2, 8), (4, 3, 12)]
)
def test_the_bubble_is_that_of_a_counted_schedule(pp: int, vpp: int, number: int) -> None:
    busy = number * (1.0 + 2.0)
    assert _scheduled(pp, vpp, number, 1.0, 2.0) - busy == pytest.approx((pp - 1) / vpp * 3.0)
    trainer = replace(_trainer(pp, pp=pp, vpp=vpp), costs=replace(LLAMA, layers=pp * vpp * 2))
    causes = update_causes(trainer, Samples(number, 0, FULL), FITTED)
    outside = ("bubble", "optimizer", "gradients and weights")
    row = sum(seconds for cause, seconds in causes.items() if cause not in outside) / number
    assert causes["bubble"] == pytest.approx((pp - 1) / vpp * row)


def test_an_exchange_within_a_machine_is_faster_than_across() -> None:
    assert all_reduce_s(1e6, 1, H100, FITTED) == 0
    assert all_reduce_s(1e6, 8, H100, FITTED) < all_reduce_s(1e6, 16, H100, FITTED)
    assert all_reduce_s(1e6, 16, H100, FITTED) < all_reduce_s(1e6, 32, H100, FITTED)


def test_uneven_experts_cost_more_and_sending_once_to_a_machine_less() -> None:
    trainer, samples = _trainer(64, ep=64), Samples(512, 0, FULL)
    plain = update_causes(trainer, samples, FITTED)
    even = update_causes(replace(trainer, even=True), samples, FITTED)
    once = update_causes(replace(trainer, once_a_machine=True), samples, FITTED)
    assert even["all-to-all"] == pytest.approx(plain["all-to-all"] * FITTED.balance)
    assert once["all-to-all"] < plain["all-to-all"]


# --------------------------------------------------------------------------------------------------- runs


COMPOSE: Callable[[list[str]], Config] = partial(compose, configurations())


def _planned(*overrides: str) -> Run:
    return read_run(COMPOSE(list(overrides)), COMPOSE)


def _times(*overrides: str) -> Times:
    run = _planned(*overrides)
    return run_time(run.config, run.hf, run.topology)


ZERO = (
    "run=r1_zero",
    "rollout.tensor_parallel=8",
    "rollout.replicas=64",
    "handover.probe_samples=64",
    "rollout.fp8_weights=true",
)


def test_a_run_of_rollouts_has_two_parts_where_answers_get_longer() -> None:
    times = _times(*ZERO)
    assert times.unit == "rollout"
    assert [part.steps for part in times.parts] == [513, 137]  # 8,200 of 10,400 updates, 16 a rollout
    assert times.parts[1].seconds > times.parts[0].seconds
    names = [phase.name for phase in times.parts[0].phases]
    assert names == ["rollout", "log-probs", "updates", "hand-over", "save"]
    assert times.gpus == 2048
    hours = sum((part.steps or 0) * part.seconds for part in times.parts) * 2048 / 3600
    assert times.gpu_hours == pytest.approx(hours)
    assert times.cost_usd == pytest.approx(hours * 3.2)


def test_the_expected_length_is_half_of_the_longest_or_what_is_given() -> None:
    half = _times(*ZERO, "rollout.expected_answer_tokens=16384").parts[0].seconds
    assert half == pytest.approx(_times(*ZERO, "rollout.expected_answer_tokens=null").parts[0].seconds)
    assert _times(*ZERO, "rollout.expected_answer_tokens=4000").parts[0].seconds < half


def test_engines_on_gpus_of_their_own_are_paid_too() -> None:
    apart = ("rollout.placement=apart", "cluster.machines=null", "parallel.dp=16")
    assert _times(*ZERO, *apart, "rollout.pipeline_parallel=1").gpus == 2048 + 512
    assert _times(*ZERO, *apart).gpus == 2048 + 4 * 512


@pytest.mark.parametrize(
    ("overrides", "unit", "phases", "steps"),
    [
        (["run=r1_distill_llama_70b"], "update", ["updates", "save"], None),
        (["run=r1_distill_llama_70b", "sft.token_budget=1000000000"], "update", ["updates", "save"], 954),
        (["run=r1_helpful_model"], "update", ["updates", "save"], None),
        (["run=r1_reject", *ZERO[1:]], "sampling", ["rollout"], 1),
    ],
)
def test_runs_of_other_stages(overrides: list[str], unit: str, phases: list[str], steps: int | None) -> None:
    times = _times(*overrides)
    assert times.unit == unit
    [part] = times.parts
    assert [phase.name for phase in part.phases] == phases
    assert part.steps == steps
    assert (times.seconds is None) == (steps is None)
    assert part.seconds > 0


def test_a_run_without_a_known_gpu_is_refused() -> None:
    for gpu in ("null", "A100"):
        with pytest.raises(BadRun, match=r"cluster\.gpu: was"):
            _times(*ZERO, f"cluster.gpu={gpu}")


def test_a_layout_takes_less_than_a_millisecond_once_the_model_is_counted() -> None:
    run = _planned(*ZERO)
    costs = token_costs(run.hf)
    run_time(run.config, run.hf, run.topology, costs)
    began = time.process_time()
    for _ in range(50):
        run_time(run.config, run.hf, run.topology, costs)
    assert (time.process_time() - began) / 50 < 0.005  # about 1 ms here; room for a slower machine


def test_a_step_of_which_nothing_runs_beside_is_the_sum_of_its_phases() -> None:
    for row in ROWS:
        if row.of == "step" and not row.work.rollouts_ahead:
            phases = step_time(row.work)
            assert step_seconds(row.work, phases) == pytest.approx(sum(phase.seconds for phase in phases))


def test_times_need_no_framework() -> None:
    code = "import sys, r1mega.planner.times; print({'torch', 'numpy', 'megatron'} & sys.modules.keys())"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )
