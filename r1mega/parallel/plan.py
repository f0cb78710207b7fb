"""The training layout as plain integers: degrees in, one checked value out.

Importing it costs nothing and needs no GPU, so a plan for 2,048 ranks is checked on a laptop. All faults
of a layout are found at once, each in words that name the degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm


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

    @property
    def world_size(self) -> int:
        """Ranks of the whole layout."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def expert_dp(self) -> int:
        """Replicas of one expert's weights."""
        return self.tp * self.cp * self.dp // (self.etp * self.ep)

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
        return lcm(self.sample_multiple, self.cp * self.tp)

    @property
    def rows_multiple(self) -> int:
        """What the number of a rank's rows is a multiple of: an interleaved pipeline takes pp in turn."""
        return self.pp if self.vpp > 1 else 1

    def __str__(self) -> str:
        return (
            f"tp {self.tp} x cp {self.cp} x dp {self.dp} x pp {self.pp} = {self.world_size} ranks"
            f" (experts: etp {self.etp} x ep {self.ep} x dp {self.expert_dp}; vpp {self.vpp})"
        )


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
) -> tuple[Plan | None, list[str]]:
    """The layout of these degrees, and every fault in it.

    Args:
        etp: tensor parallelism inside an expert; None: tp where ep is 1, else 1.
        dp: data parallelism; None: what `ranks` leaves, else the smallest that the experts divide.
        ranks: processes that torchrun or srun started; None where the run starts its own.

    Returns:
        The plan (None where a fault forbids one) and the faults, in words.
    """
    degrees = {"tp": tp, "pp": pp, "vpp": vpp, "ep": ep, "cp": cp}
    degrees |= {name: value for name, value in {"etp": etp, "dp": dp}.items() if value is not None}
    faults = [
        f"parallel.{name}: was {value}; must be at least 1" for name, value in degrees.items() if value < 1
    ]
    if faults:
        return None, faults
    etp = etp if etp is not None else (tp if ep == 1 else 1)
    rest = tp * pp * cp
    if ranks is not None and ranks % rest:
        return None, [
            f"parallel: tp {tp} x pp {pp} x cp {cp} = {rest} does not divide the {ranks} ranks started"
        ]
    if dp is None:
        dp = ranks // rest if ranks is not None else lcm(tp * cp, etp * ep) // (tp * cp)
    if ranks is not None and dp * rest != ranks:
        return None, [
            f"parallel.dp: was {dp}; tp {tp} x pp {pp} x cp {cp} x dp {dp} = {rest * dp},"
            f" but {ranks} ranks were started"
        ]
    if (tp * cp * dp) % (etp * ep):
        return None, [
            f"parallel: etp {etp} x ep {ep} = {etp * ep} must divide"
            f" tp {tp} x cp {cp} x dp {dp} = {tp * cp * dp};"
            f" raise parallel.dp or lower parallel.ep"
        ]
    return Plan(tp=tp, pp=pp, vpp=vpp, ep=ep, etp=etp, cp=cp, dp=dp), []


def stages(plan: Plan, layers: int, draft_layers: int) -> list[list[str]]:
    """What each (virtual) pipeline stage holds, in the words of Megatron's `pipeline_model_parallel_layout`.

    Layers that do not divide go to the first stages: the last has the output layer and the loss already.
    """
    count = plan.pp * plan.vpp
    held = [["decoder"] * (layers // count + (stage < layers % count)) for stage in range(count)]
    held[0].insert(0, "embedding")
    held[-1] += ["mtp"] * draft_layers + ["loss"]
    return held


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
    if shape.layers < plan.pp * plan.vpp:
        faults.append(
            f"parallel: the model's {shape.layers} layers cannot fill pp x vpp = {plan.pp * plan.vpp} stages"
        )
    if not shape.experts and plan.ep > 1:
        faults.append(f"parallel.ep: was {plan.ep}; a dense model has no experts, so it must be 1")
    if plan.vpp > 1 and plan.pp == 1:
        faults.append(f"parallel.vpp: was {plan.vpp}; virtual stages need parallel.pp of at least 2")
    return faults
