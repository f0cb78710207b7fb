"""Published times of steps and training, with their settings: what `times.FITTED` is fitted to.

`ROWS` are fitted to: of Hopper GPUs, with a published layout. So are `PHASES`, those of the rows whose source
gives them. `CHECKS` are never fitted to: of other GPUs, or with settings that their source does not give.
docs/planning_times.md lists all of them with their errors.

What no source gives, and is taken to be so in all of NeMo-RL's rows: the spread of lengths
(`lengths.SPREAD`); an engine takes 1,024 sequences, vLLM's default on these GPUs, and its cache has what the
weights leave of its share of memory; the optimizer's state and the engines' weights are set aside where both
share GPUs; the questions' length is what published tokens a second, step time and mean answer leave (100 to
130 tokens), and 120 in v0.3, which publishes no tokens a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from r1mega.parallel.plan import Plan, RolloutPlan, make_plan
from r1mega.planner.chips import CHIPS
from r1mega.planner.decoding import Asked, Engines
from r1mega.planner.learning import Samples, Trainer
from r1mega.planner.lengths import Lengths
from r1mega.planner.links import Constants, Machine
from r1mega.planner.published import PUBLISHED
from r1mega.planner.times import Work, step_seconds, step_time
from r1mega.planner.token_costs import TokenCosts, token_costs

NEMO = "NeMo-RL v{}: docs/about/performance-summary.md and examples/configs/recipes/llm/performance"
BLOG = "NVIDIA's blog of 2025-08-20 on NeMo-RL v0.3 and its examples/configs/grpo_math_*_megatron.yaml"
BRIDGE = "Megatron-Bridge, docs/performance-summary.md, NeMo {} container, and scripts/performance/configs"
VERL = (
    "verl, docs/perf/dpsk.md of 2025-08-20, and examples/grpo_trainer/run_deepseek671b_math_megatron_96gb.sh"
)
PAPER = "DeepSeek-R1, arXiv 2501.12948 v2, supplement B"

V3, R235, R30, D8, D32, D70, D405 = (
    "DeepSeek-V3",
    "Qwen3-235B-A22B",
    "Qwen3-30B-A3B",
    "Llama-3.1-8B",
    "Qwen3-32B",
    "Llama-3.3-70B-Instruct",
    "Llama-3.1-405B",
)
_OTHERS = {
    D32: {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    D405: PUBLISHED[D70]
    | {
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
    },
}


@dataclass(frozen=True, slots=True)
class PublishedTime:
    """One published number, as seconds."""

    name: str
    source: str
    measured_s: float
    work: Work
    of: str = "step"
    """A step, or one phase of it."""
    run: str = ""
    """Numbers of the same run are left out together."""
    assumed: str = ""
    """What the source does not give, besides what the module says of all."""

    def seconds(self, constants: Constants) -> float:
        """What the model gives for it."""
        phases = step_time(self.work, constants)
        if self.of == "step":
            return step_seconds(self.work, phases)
        return next(phase.seconds for phase in phases if phase.name == self.of)


@lru_cache
def costs_of(model: str) -> TokenCosts:
    """The numbers of a published model."""
    return token_costs(PUBLISHED[model] if model in PUBLISHED else _OTHERS[model])


def _plan(gpus: int, tp: int = 1, cp: int = 1, ep: int = 1, pp: int = 1, vpp: int = 1) -> Plan:
    plan, faults = make_plan(tp=tp, pp=pp, vpp=vpp, ep=ep, etp=None, cp=cp, dp=None, ranks=gpus)
    if plan is None:
        raise ValueError("; ".join(faults))
    return plan


def _training(
    version: str,
    model: str,
    gpus: int,
    batch: int,
    row_tokens: int,
    tokens_per_s_per_gpu: float,
    plan: dict[str, int],
    **trainer: bool,
) -> PublishedTime:
    """A row of Megatron-Bridge's on DGX H100: full sequences in FP8, experts evenly loaded by force."""
    samples = Samples(batch, 0, Lengths(row_tokens, row_tokens))
    work = Work(
        Trainer(
            costs_of(model),
            _plan(gpus, **plan),
            Machine(CHIPS["H100"], 8),
            row_tokens,
            fp8=True,
            even=True,
            **trainer,
        ),
        samples,
        1,
    )
    measured = batch * row_tokens / gpus / tokens_per_s_per_gpu
    name = f"{model}, training, {gpus} H100, FP8"
    return PublishedTime(name, BRIDGE.format(version), measured, work, run=name)


@dataclass(frozen=True, slots=True)
class _Nemo:
    """A line of NeMo-RL's tables."""

    version: str
    model: str
    longest: int
    answer: float
    gpus: int
    samples: int
    engine_tp: int
    plan: dict[str, int]
    tokens_per_s_per_gpu: float | None
    step_s: float
    updates: int = 4
    recomputes: bool = False
    engine_gpus: int = 0
    """Of the GPUs, those that only generate; 0: all do both."""
    ahead: int = 1
    fp8: bool = False
    chip: str = "H100"
    memory_share: float = 0.6
    assumed: str = ""

    def row(self) -> PublishedTime:
        costs, machine = costs_of(self.model), Machine(CHIPS[self.chip], 72 if self.chip == "GB200" else 8)
        prompt = 120.0
        if self.tokens_per_s_per_gpu is not None:
            prompt = self.tokens_per_s_per_gpu * self.step_s * self.gpus / self.samples - self.answer
        answers = Lengths(self.answer, int(self.longest - prompt))
        generating = self.engine_gpus or self.gpus
        engines = Engines(
            costs,
            RolloutPlan(replicas=generating // self.engine_tp, tp=self.engine_tp, pp=1, ep=1),
            machine,
            self.fp8,
        )
        memory = CHIPS[self.chip].memory_gb * 1e9 * (0.8 if self.engine_gpus else self.memory_share)
        cache = memory - costs.parameters * engines.weight_bytes / self.engine_tp
        each = 16 if self.samples == 512 else 32
        training = _plan(self.gpus - self.engine_gpus, **self.plan)
        work = Work(
            Trainer(costs, training, machine, self.longest, fp8=self.fp8, recomputes=self.recomputes),
            Samples(self.samples, prompt, answers),
            self.updates,
            engines,
            Asked(self.samples, each, prompt, answers, 1024, cache),
            scored=2,
            sets_aside=not self.engine_gpus,
            rollouts_ahead=self.ahead if self.engine_gpus else 0,
        )
        mode = f"{self.ahead} off" if self.engine_gpus else "on-policy"
        name = f"{self.model}, GRPO {mode}, {self.gpus} {self.chip}{', FP8' if self.fp8 else ''}"
        source = BLOG if self.version == "0.3" else NEMO.format(self.version)
        return PublishedTime(name, source, self.step_s, work, run=name, assumed=self.assumed)


_V3 = {"pp": 16, "ep": 16}
_R235 = {"tp": 2, "cp": 2, "pp": 8, "ep": 16}
_R235_OFF = {"tp": 4, "pp": 8, "ep": 16}

_NEMO = (
    _Nemo("0.6", V3, 1536, 701, 256, 512, 32, _V3, 12.1, 134, 1, True),
    _Nemo("0.6", V3, 1536, 697, 512, 512, 32, _V3, 7.24, 111, 1, True),
    _Nemo("0.6", V3, 1536, 710, 512, 512, 32, _V3, 12.8, 64.1, 1, True, 256),
    _Nemo("0.6", V3, 1536, 721, 512, 512, 16, _V3, 14.1, 59.2, 1, True, 256, fp8=True),
    _Nemo("0.6", R235, 8192, 5698, 128, 512, 16, _R235, 58.9, 395, 1, True),
    _Nemo("0.6", R235, 8192, 5713, 256, 512, 16, _R235, 37.4, 312, 1, True),
    _Nemo("0.6", R235, 8192, 5721, 256, 512, 8, _R235_OFF, 58.7, 231, 1, True, 128),
    _Nemo("0.6", R30, 4096, 3203, 32, 2048, 2, {"ep": 8}, 1102, 192),
    _Nemo("0.6", R30, 4096, 3201, 32, 2048, 2, {"pp": 2, "ep": 8}, 1414, 152, engine_gpus=16),
    _Nemo("0.6", R30, 4096, 3206, 192, 2048, 2, {"ep": 8}, 1025, 34.5, engine_gpus=64, ahead=8),
    _Nemo("0.5", D8, 4096, 1019, 16, 2048, 1, {"pp": 2}, 1581, 92.8, 4, True),
    _Nemo("0.5", D8, 4096, 1123, 16, 2048, 1, {}, 2478, 64.8, 4, True, 8, assumed="8 of 16 GPUs generate"),
    _Nemo(
        "0.5",
        D8,
        4096,
        1128,
        16,
        2048,
        1,
        {},
        3052,
        53.0,
        4,
        True,
        8,
        fp8=True,
        assumed="8 of 16 GPUs generate",
    ),
    _Nemo("0.5", D32, 4096, 3251, 32, 2048, 4, {"tp": 4, "pp": 4}, 571, 376),
    _Nemo("0.5", D32, 4096, 3252, 64, 2048, 4, {"tp": 4, "pp": 4}, 538, 200, engine_gpus=32),
    _Nemo("0.3", D8, 4096, 795, 8, 2048, 1, {}, None, 112),
    _Nemo("0.3", D70, 4096, 398, 64, 2048, 4, {"tp": 4, "pp": 4}, None, 147),
    _Nemo(
        "0.3",
        D32,
        4096,
        3283,
        64,
        2048,
        4,
        {"tp": 4, "pp": 2},
        None,
        213,
        assumed="engines of tp 4, as in v0.5",
    ),
    _Nemo("0.3", R30, 4096, 3251, 64, 2048, 4, {"tp": 2, "ep": 8}, None, 167, memory_share=0.7),
)

_NEMO_CHECKS = (
    _Nemo(
        "0.3",
        D70,
        16384,
        749,
        128,
        2048,
        4,
        {"tp": 4, "pp": 4, "cp": 4},
        None,
        445,
        assumed="tp, pp and the engines' tp, of which the source gives none for this run",
    ),
    _Nemo("0.6", V3, 1536, 711, 128, 512, 32, {"pp": 8, "ep": 16}, 30.2, 108, 1, True, chip="GB200"),
    _Nemo("0.6", V3, 1536, 700, 256, 512, 32, {"pp": 8, "ep": 16}, 16.4, 98.7, 1, True, chip="GB200"),
    _Nemo("0.6", V3, 1536, 708, 256, 512, 16, {"pp": 8, "ep": 16}, 26.7, 61.7, 1, True, 128, chip="GB200"),
    _Nemo(
        "0.6",
        R235,
        8192,
        5709,
        64,
        512,
        8,
        {"tp": 2, "cp": 2, "pp": 4, "ep": 16},
        163,
        286,
        1,
        True,
        chip="GB200",
    ),
    _Nemo(
        "0.6",
        R235,
        8192,
        5705,
        128,
        512,
        8,
        {"tp": 4, "pp": 4, "ep": 16},
        85.5,
        278,
        1,
        True,
        64,
        chip="GB200",
    ),
    _Nemo("0.6", R30, 4096, 3199, 16, 2048, 1, {"ep": 16}, 1910, 221, chip="GB200"),
)


def _verl() -> Work:
    """96 H20: engines without CUDA graphs, weights in bf16, whole layers recomputed, DeepEP."""
    costs, machine = costs_of(V3), Machine(CHIPS["H20"], 8)
    answers = Lengths(1960, 9632)
    cache = 0.6 * 96e9 - 2 * costs.parameters / 32
    return Work(
        Trainer(costs, _plan(96, tp=8, pp=12, ep=8), machine, 11680, recomputes=True, once_a_machine=True),
        Samples(768, 150, answers),
        3,
        Engines(costs, RolloutPlan(replicas=3, tp=32, pp=1, ep=1), machine, graphs=False),
        Asked(768, 8, 150, answers, 1024, cache),
        scored=2,
        sets_aside=True,
    )


def _r1_zero() -> Work:
    costs, machine = costs_of(V3), Machine(CHIPS["H800"], 8)
    answers = Lengths(6000, 32768)
    return Work(
        Trainer(costs, _plan(512, tp=4, cp=4, pp=16, ep=8), machine, 34816, once_a_machine=True),
        Samples(8192, 200, answers),
        16,
        Engines(costs, RolloutPlan(replicas=32, tp=16, pp=1, ep=16), machine, True, tokens_a_step=1.8),
        Asked(8192, 16, 200, answers, 1024, 0.85 * 80e9 - costs.parameters / 16),
        scored=2,
        sets_aside=True,
    )


_VERL_ASSUMED = (
    "questions of 150 tokens; of updates and copies on the CPU (offload fraction 1) only the copies"
)

ROWS: tuple[PublishedTime, ...] = (
    _training("25.11", D8, 8, 128, 8192, 14451, {}),
    _training("26.04", D70, 64, 256, 8192, 1633, {"tp": 4, "pp": 8, "vpp": 5}, hides_tp=True),
    _training("26.02", D405, 1024, 1536, 8192, 311, {"tp": 8, "cp": 2, "pp": 8, "vpp": 8}, hides_tp=True),
    _training(
        "25.09",
        V3,
        1024,
        8192,
        4096,
        1297,
        {"tp": 2, "pp": 8, "vpp": 4, "ep": 64},
        drafts=True,
        once_a_machine=True,
    ),
    _training(
        "26.04", R235, 256, 8192, 4096, 1686, {"tp": 2, "pp": 8, "vpp": 4, "ep": 32}, once_a_machine=True
    ),
    _training("26.04", R30, 16, 1024, 4096, 8901, {"ep": 16}, once_a_machine=True),
    *(line.row() for line in _NEMO),
    PublishedTime("DeepSeek-V3, rollout, 96 H20", VERL, 1050, _verl(), "rollout", "verl", _VERL_ASSUMED),
    PublishedTime("DeepSeek-V3, GRPO step, 96 H20", VERL, 1700, _verl(), "step", "verl", _VERL_ASSUMED),
)

_BLOG_PHASES = {
    f"{D8}, GRPO on-policy, 8 H100": (58, 18, 28),
    f"{D70}, GRPO on-policy, 64 H100": (84, 18, 28),
    f"{D32}, GRPO on-policy, 64 H100": (96, 40, 68),
    f"{R30}, GRPO on-policy, 64 H100": (78, 23, 50),
}

PHASES: tuple[PublishedTime, ...] = tuple(  # of the blog's runs, with which they are left out
    replace(row, name=f"{row.name}: {phase}", measured_s=seconds, of=phase)
    for row in ROWS
    if row.name in _BLOG_PHASES
    for phase, seconds in zip(("rollout", "log-probs", "updates"), _BLOG_PHASES[row.name], strict=True)
)

CHECKS: tuple[PublishedTime, ...] = (
    PublishedTime(
        "DeepSeek-V3, R1-Zero's rollouts, 512 H800",
        PAPER,
        198 * 3600 / 650,
        _r1_zero(),
        assumed="nearly all: answers of 6,000 tokens in the mean (the paper has a figure, no number),"
        " questions of 200, both layouts (the fastest in this model that fit), FP8 engines, 1.8 tokens a step"
        " by its draft layer; the time is 198 hours over 650 rollouts",
    ),
    *(line.row() for line in _NEMO_CHECKS),
)
