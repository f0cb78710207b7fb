"""Both layouts as plain integers: degrees in, one checked value out.

The trainer's is a `Plan`: which rank stands where, which ranks form each group, which layer lies on
which stage. The engines' is a `RolloutPlan`: replicas, each split in vLLM's own way. `Topology` is the
two together, and who owns which engine.

    plan = Plan(tp=2, cp=1, dp=4, pp=1, etp=1, ep=2, vpp=1)
    plan.coordinates(5)      {"tp": 1, "cp": 0, "dp": 2, "pp": 0, "etp": 0, "ep": 1, "edp": 2}
    plan.groups("cp", "dp")  [[0, 2, 4, 6], [1, 3, 5, 7]]
    plan.groups("ep")        [[0, 1], [2, 3], [4, 5], [6, 7]]

What holds: coordinates, groups and stages are those that Megatron-Core itself makes of the same degrees,
at any size. Importing this costs nothing and needs no GPU, so a plan for 2,048 ranks is checked on a
laptop. All faults of a layout are found at once, each in words that name the degrees.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import lcm

VOCABULARY_MULTIPLE = 64
"""vLLM pads a vocabulary to a multiple of so many words before it splits it."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Ranks as the points of a box, numbered along the first axis first."""

    axes: tuple[tuple[str, int], ...]
    """Each axis's name and size."""

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where the rank stands on each axis."""
        found = {}
        for name, size in self.axes:
            rank, found[name] = divmod(rank, size)
        return found

    def groups(self, *along: str) -> list[list[int]]:
        """The ranks that differ along these axes alone, a list each; all of them, in order.

        Raises:
            ValueError: an axis is not one of the grid's.
        """
        names = [name for name, _ in self.axes]
        if not {*along} <= {*names}:
            raise ValueError(f"groups along {', '.join(along)}: this grid has {', '.join(names)}")
        offsets = self._offsets([name in along for name, _ in self.axes])
        firsts = self._offsets([name not in along for name, _ in self.axes])
        return [[first + offset for offset in offsets] for first in firsts]

    def _offsets(self, chosen: list[bool]) -> list[int]:
        """The ranks of the box that the chosen axes span from the origin."""
        found, stride = [0], 1
        for (_, size), is_chosen in zip(self.axes, chosen, strict=True):
            if is_chosen:
                found = [offset + step * stride for step in range(size) for offset in found]
            stride *= size
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """The degrees of a training layout; Megatron lays ranks out in the order tp, cp, ep, dp, pp."""

    tp: int
    pp: int
    vpp: int
    ep: int
    etp: int
    cp: int
    dp: int
    linear_multiple: int = 1
    """What the tokens that a linear layer sees are a multiple of; FP8 kernels take whole tiles."""
    layers_by_stage: tuple[int, ...] | None = None
    """Decoder layers of each (virtual) pipeline stage, in the model's order; None: spread evenly."""

    @property
    def world_size(self) -> int:
        """Ranks of the whole layout."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def expert_dp(self) -> int:
        """Replicas of one expert's weights."""
        return self.tp * self.cp * self.dp // (self.etp * self.ep)

    @property
    def grid(self) -> Grid:
        """The ranks as all but the experts see them."""
        return Grid((("tp", self.tp), ("cp", self.cp), ("dp", self.dp), ("pp", self.pp)))

    @property
    def expert_grid(self) -> Grid:
        """The same ranks as the experts see them."""
        return Grid((("etp", self.etp), ("ep", self.ep), ("edp", self.expert_dp), ("pp", self.pp)))

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where the rank stands on both grids: tp, cp, dp, pp, etp, ep, edp."""
        return self.grid.coordinates(rank) | self.expert_grid.coordinates(rank)

    def groups(self, *along: str) -> list[list[int]]:
        """The rank lists of a process group, in Megatron's order.

        Args:
            along: the axes it spans, of one grid: `tp`, `cp`, `dp`, `pp`, or `etp`, `ep`, `edp`, `pp`.

        Raises:
            ValueError: axes of both.
        """
        grid = self.grid if {*along} <= dict(self.grid.axes).keys() else self.expert_grid
        return grid.groups(*along)

    @property
    def sample_multiple(self) -> int:
        """What a sample's tokens are padded to a multiple of: two chunks for each context-parallel rank."""
        return 2 * self.cp if self.cp > 1 else 1

    def padded(self, tokens: int) -> int:
        """What a sample of so many tokens takes in a row, with the padding that it ends in."""
        return tokens + -tokens % self.sample_multiple

    @property
    def row_multiple(self) -> int:
        """What a row's tokens are padded to a multiple of: sequence parallelism splits each of cp parts."""
        return lcm(self.sample_multiple, self.cp * lcm(self.tp, self.linear_multiple))

    @property
    def rows_multiple(self) -> int:
        """What the number of a rank's rows is a multiple of: an interleaved pipeline takes pp in turn."""
        return self.pp if self.vpp > 1 else 1

    def __str__(self) -> str:
        return (
            f"tp {self.tp} x cp {self.cp} x dp {self.dp} x pp {self.pp} = {self.world_size} ranks"
            f" (experts: etp {self.etp} x ep {self.ep} x dp {self.expert_dp}; vpp {self.vpp})"
            + (f", layers {' '.join(map(str, self.layers_by_stage))}" if self.layers_by_stage else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """The degrees of the rollout side: engines with the whole model each, split over their workers."""

    replicas: int
    """Engines."""
    tp: int
    pp: int
    ep: int
    """1: every expert is split as the rest is. As tp: experts are dealt out whole over those workers."""

    @property
    def workers_per_replica(self) -> int:
        """Processes that compute for one engine."""
        return self.tp * self.pp

    def layers_of(self, stage: int, layers: int) -> range:
        """The decoder layers that a pipeline stage holds, as vLLM splits them (its `get_pp_indices`).

        Layers that do not divide go to the stages before the last, from its neighbour backwards.
        """
        each, more = divmod(layers, self.pp)
        held = [each + (self.pp - 1 - more <= index < self.pp - 1) for index in range(self.pp)]
        first = sum(held[:stage])
        return range(first, first + held[stage])

    @property
    def workers(self) -> int:
        """Those of all engines."""
        return self.replicas * self.workers_per_replica

    def __str__(self) -> str:
        return (
            f"{self.replicas} replicas x tp {self.tp} x pp {self.pp} = {self.workers} workers"
            f" (experts: etp {self.tp // self.ep} x ep {self.ep})"
        )


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole run: the ranks that train and the engines that generate (rollout/placement says where)."""

    training: Plan
    rollout: RolloutPlan

    def __str__(self) -> str:
        return f"training: {self.training}\nrollout:  {self.rollout}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a layout must divide, in the model's own numbers."""

    layers: int
    draft_layers: int
    """Multi-token-prediction layers, which follow the last layer."""
    attention_heads: int
    key_value_heads: int | None = None
    """Heads of keys and values that queries share; None where latent attention has none."""
    head_size: int
    """Of a query and its key."""
    vocabulary: int
    experts: int
    feed_forward_sizes: tuple[int, ...]
    """Width of each kind of feed-forward block that tensor parallelism splits."""
    expert_size: int
    """Width of one expert; 0 in a dense model."""


def make_plan(
    *,
    tp: int,
    pp: int,
    vpp: int,
    ep: int,
    etp: int | None,
    cp: int,
    dp: int | None,
    ranks: int | None,
    layers_by_stage: Sequence[int] | None = None,
) -> tuple[Plan | None, list[str]]:
    """The layout of these degrees, and every fault in it.

    Args:
        etp: tensor parallelism inside an expert; None: tp where ep is 1, else 1.
        dp: data parallelism; None: what `ranks` leaves, else the smallest that the experts divide.
        ranks: processes that torchrun or srun started, or will; None where the run starts its own.
        layers_by_stage: decoder layers of each (virtual) pipeline stage; None: spread evenly.

    Returns:
        The plan (None where a fault forbids one) and the faults, in words.
    """
    degrees = {"tp": tp, "pp": pp, "vpp": vpp, "ep": ep, "cp": cp}
    degrees |= {name: value for name, value in {"etp": etp, "dp": dp}.items() if value is not None}
    faults = [
        f"parallel.{name}: was {value}; must be at least 1" for name, value in degrees.items() if value < 1
    ]
    faults += [] if faults or layers_by_stage is None else _stage_faults(layers_by_stage, pp, vpp)
    if faults:
        return None, faults
    etp = etp if etp is not None else (tp if ep == 1 else 1)
    rest = tp * pp * cp
    if ranks is not None and ranks % rest:
        return None, [
            f"parallel: tp {tp} x pp {pp} x cp {cp} = {rest} does not divide the run's {ranks} ranks"
        ]
    if dp is None:
        dp = ranks // rest if ranks is not None else lcm(tp * cp, etp * ep) // (tp * cp)
    if ranks is not None and dp * rest != ranks:
        return None, [
            f"parallel.dp: was {dp}; tp {tp} x pp {pp} x cp {cp} x dp {dp} = {rest * dp},"
            f" but the run has {ranks} ranks"
        ]
    if (tp * cp * dp) % (etp * ep):
        return None, [
            f"parallel: etp {etp} x ep {ep} = {etp * ep} must divide"
            f" tp {tp} x cp {cp} x dp {dp} = {tp * cp * dp};"
            f" raise parallel.dp or lower parallel.ep"
        ]
    by_stage = None if layers_by_stage is None else tuple(layers_by_stage)
    return Plan(tp=tp, pp=pp, vpp=vpp, ep=ep, etp=etp, cp=cp, dp=dp, layers_by_stage=by_stage), []


def _stage_faults(layers: Sequence[int], pp: int, vpp: int) -> list[str]:
    """What is wrong with layers given stage by stage, whatever the model."""
    was = f"parallel.layers_by_stage: was {', '.join(map(str, layers))};"
    if len(layers) != pp * vpp:
        return [f"{was} must be {pp * vpp} numbers, one for each of pp {pp} x vpp {vpp} stages"]
    if min(layers) < 0 or 0 in layers[1:-1]:
        return [f"{was} must be at least 1; 0 where the embedding or the loss is, in the first or the last"]
    return []


def make_rollout_plan(*, replicas: int, tp: int, pp: int, ep: int) -> tuple[RolloutPlan | None, list[str]]:
    """The rollout side of these degrees (None where a fault forbids one), and the faults, in words."""
    degrees = {
        "rollout.replicas": replicas,
        "rollout.tensor_parallel": tp,
        "rollout.pipeline_parallel": pp,
        "rollout.expert_parallel": ep,
    }
    faults = [f"{key}: was {value}; must be at least 1" for key, value in degrees.items() if value < 1]
    return (None if faults else RolloutPlan(replicas=replicas, tp=tp, pp=pp, ep=ep)), faults


def stages(plan: Plan, layers: int, draft_layers: int) -> list[list[str]]:
    """What each (virtual) pipeline stage holds, in the words of Megatron's `pipeline_model_parallel_layout`.

    Layers that do not divide go to the first stages: the last has the output layer and the loss already.
    `plan.layers_by_stage` says otherwise, where it is given.
    """
    held = [["decoder"] * count for count in _layers_by_stage(plan, layers)]
    held[0].insert(0, "embedding")
    held[-1] += ["mtp"] * draft_layers + ["loss"]
    return held


def stage_of_layer(plan: Plan, layers: int, layer: int) -> tuple[int, int]:
    """The pipeline rank that holds a decoder layer, and which of that rank's virtual stages it is in.

    Args:
        layers: of the model.
        layer: counted from 0 over the whole model.
    """
    stage = bisect_right(list(accumulate(_layers_by_stage(plan, layers))), layer)
    virtual, rank = divmod(stage, plan.pp)
    return rank, virtual


def stage_of_last_norm(plan: Plan, layers: int, draft_layers: int) -> tuple[int, int]:
    """The pipeline rank, and its virtual stage, of the norm after the last decoder layer.

    It stands before the head; but before draft layers, which come between, with the last decoder layer.
    """
    return stage_of_layer(plan, layers, layers - 1) if draft_layers else (plan.pp - 1, plan.vpp - 1)


def _layers_by_stage(plan: Plan, layers: int) -> Sequence[int]:
    if plan.layers_by_stage is not None:
        return plan.layers_by_stage
    count = plan.pp * plan.vpp
    return [layers // count + (stage < layers % count) for stage in range(count)]


def faults_for(plan: Plan, shape: ModelShape) -> list[str]:
    """Why the model cannot be laid out so; empty where it can."""
    divisions = [
        ("attention heads", shape.attention_heads, "tp", plan.tp),
        *(
            [("key-value heads", shape.key_value_heads, "tp", plan.tp)]
            if shape.key_value_heads is not None
            else []
        ),
        ("words of the vocabulary", shape.vocabulary, "tp", plan.tp),
        *(("feed-forward units", size, "tp", plan.tp) for size in shape.feed_forward_sizes),
    ]
    if shape.experts:
        divisions += [
            ("experts", shape.experts, "ep", plan.ep),
            ("units of an expert", shape.expert_size, "etp", plan.etp),
        ]
    faults = [
        f"parallel: the model's {value} {what} cannot be divided by {name} = {degree}"
        for what, value, name, degree in divisions
        if value % degree
    ]
    if plan.layers_by_stage is not None and sum(plan.layers_by_stage) != shape.layers:
        faults.append(
            f"parallel.layers_by_stage: was {', '.join(map(str, plan.layers_by_stage))},"
            f" {sum(plan.layers_by_stage)} together; must be the model's {shape.layers} layers"
        )
    elif plan.layers_by_stage is None and shape.layers < plan.pp * plan.vpp:
        faults.append(
            f"parallel: the model's {shape.layers} layers cannot fill pp x vpp = {plan.pp * plan.vpp} stages"
        )
    if not shape.experts and plan.ep > 1:
        faults.append(f"parallel.ep: was {plan.ep}; a dense model has no experts, so it must be 1")
    if plan.vpp > 1 and plan.pp == 1:
        faults.append(f"parallel.vpp: was {plan.vpp}; virtual stages need parallel.pp of at least 2")
    return faults


def rollout_faults_for(plan: RolloutPlan, shape: ModelShape, on_cpu: bool) -> list[str]:
    """Why the engines cannot be laid out so; empty where they can. The first four rules are vLLM's:

    1. tp divides the attention heads, the widths of feed-forward blocks and the padded vocabulary.
    2. tp divides the key-value heads, or is a multiple of them: vLLM then gives several workers the same.
    3. An expert's width is divided by tp, or its ep, which must be tp, divides the experts.
    4. Layers need not divide by pp; every stage has at least one.
    5. On a CPU pp is 1: r1mega starts an engine's workers there as one tensor-parallel group.
    6. On a CPU ep is 1: vLLM's CPU build waits for ever with expert parallelism.
    """
    return [
        *_split_faults(plan, shape),
        *_expert_faults(plan, shape, on_cpu),
        *_pipeline_faults(plan, shape, on_cpu),
    ]


def _split_faults(plan: RolloutPlan, shape: ModelShape) -> list[str]:
    padded = -(-shape.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    divisions = [
        (shape.attention_heads, "attention heads"),
        *((size, "feed-forward units") for size in shape.feed_forward_sizes),
        (padded, f"words of the vocabulary, to which vLLM pads its {shape.vocabulary}"),
        *([(shape.expert_size, "units of an expert")] if shape.experts and plan.ep == 1 else []),
    ]
    faults = [
        f"rollout.tensor_parallel: was {plan.tp}; must divide the model's {value} {what}"
        for value, what in divisions
        if value % plan.tp
    ]
    heads = shape.key_value_heads
    if heads is not None and heads % plan.tp and plan.tp % heads:
        faults.append(
            f"rollout.tensor_parallel: was {plan.tp};"
            f" must divide the model's {heads} key-value heads, or be a multiple of them"
        )
    return faults


def _expert_faults(plan: RolloutPlan, shape: ModelShape, on_cpu: bool) -> list[str]:
    key = f"rollout.expert_parallel: was {plan.ep};"
    if plan.ep == 1:
        return []
    if not shape.experts:
        return [f"{key} a dense model has no experts, so it must be 1"]
    if on_cpu:
        return [f"{key} must be 1 on a CPU, where vLLM waits for ever with it"]
    faults = []
    if plan.ep != plan.tp:
        faults.append(f"{key} vLLM deals experts out over its tensor-parallel workers: 1 or {plan.tp}")
    if shape.experts % plan.ep:
        faults.append(f"{key} must divide the model's {shape.experts} experts")
    return faults


def _pipeline_faults(plan: RolloutPlan, shape: ModelShape, on_cpu: bool) -> list[str]:
    key = f"rollout.pipeline_parallel: was {plan.pp};"
    if plan.pp > 1 and on_cpu:
        return [f"{key} must be 1 on a CPU"]
    return [f"{key} must be at most the model's {shape.layers} layers"] if plan.pp > shape.layers else []
