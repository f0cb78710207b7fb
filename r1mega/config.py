"""What a run may be told: one dataclass a section.

The dataclasses are the Hydra schema and, once composed (`r1mega.compose`), the plain typed value that every
stage receives (`Config`). A key that is not here, or of another type, fails when the run is composed. What
only several keys together can show is found by `r1mega.checks`, all of it at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

MISSING = "???"  # OmegaConf's mark for a value that a run must give


class Stage(StrEnum):
    """What a run does; each is a file in `r1mega/stages`."""

    pretrain = "pretrain"
    sft = "sft"
    grpo = "grpo"
    reject = "reject"
    reward_model = "reward_model"
    evaluate = "evaluate"
    world = "world"
    pipeline = "pipeline"


GENERATING = (Stage.grpo, Stage.reject, Stage.evaluate)
"""The stages that have engines."""


FULL_RECOMPUTE = "full"
"""In `train.recompute`: every layer is computed again from its input."""
RECOMPUTE_MODULES = ("core_attn", "layernorm", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts")
"""The parts of layers that may stand there instead, by Megatron-Core's names."""


class RewardKind(StrEnum):
    """What a reward model judges; the paper reads the summary for the one, the whole answer for the other."""

    helpfulness = "helpfulness"
    harmlessness = "harmlessness"


class Dtype(StrEnum):
    """The dtype in which weights live and matrices multiply."""

    fp32 = "fp32"
    bf16 = "bf16"


class Fp8(StrEnum):
    """How matrix products in 8 bits are scaled; `r1mega/model/precision.py` says what each is and needs."""

    none = "none"
    tensorwise = "tensorwise"
    """One scale a tensor, of the tensor at hand."""
    delayed = "delayed"
    """One scale a tensor, of the tensors before it."""
    blockwise = "blockwise"
    """DeepSeek-V3's: one scale for 1 x 128 activations, and for 128 x 128 weights."""
    mxfp8 = "mxfp8"
    """One scale for 32 numbers, in the hardware; Blackwell's."""


class WandbMode(StrEnum):
    """Where Weights & Biases records go; only `online` leaves the machine."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


class Backend(StrEnum):
    """Where a run computes: `cpu` is Megatron on gloo, `cuda` is Megatron on NCCL."""

    cpu = "cpu"
    cuda = "cuda"


class Placement(StrEnum):
    """Where engines live when a run computes on GPUs; by it goes how weights reach them."""

    shared = "shared"
    """On the trainer's own GPUs; weights go by vLLM's `ipc`."""
    apart = "apart"
    """On other GPUs of the trainer's machines; weights go by vLLM's `nccl`."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The model: an HF folder to start from, or the HF fields of one that is trained from scratch."""

    init_from: str | None = None
    """HF folder (config.json, tokenizer, safetensors); None: a new model of the fields in `hf`."""
    made_by: str | None = None
    """The command that makes the folder of `init_from`, to be said where the folder is not there."""
    hf: dict[str, Any] = field(default_factory=dict)
    """HF config fields, named as in the checkpoint's own config.json; unused with `init_from`."""
    max_position_embeddings: int | None = None
    """With `init_from`: so many positions instead of the config.json's, for texts longer than the model has
    seen, which it then has to learn. Nothing else changes: rotary frequencies stay. None: as it says."""
    expert_bias_update_rate: float = 1e-3
    """How far the router's aux-loss-free bias moves after each update (DeepSeek-V3: 0.001)."""
    mtp_loss_weight: float = 0.1
    """Weight of the multi-token-prediction loss in pre-training (DeepSeek-V3: 0.3, later 0.1)."""


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    """Degrees of the training layout; `r1mega.parallel.plan` turns them into ranks."""

    tp: int = 1
    """Tensor-parallel size."""
    pp: int = 1
    """Pipeline-parallel size."""
    vpp: int = 1
    """Virtual pipeline stages a rank."""
    ep: int = 1
    """Expert-parallel size."""
    etp: int | None = None
    """Tensor-parallel size inside an expert; None: as `tp` where ep is 1, else 1."""
    cp: int = 1
    """Context-parallel size."""
    dp: int | None = None
    """Data-parallel size; None: what torchrun's or srun's ranks leave, else what the cluster's GPUs leave
    (`cluster.machines`), else the smallest that fits."""
    layers_by_stage: list[int] | None = None
    """Decoder layers of each of pp x vpp pipeline stages, in the model's order: an uneven pipeline, for the
    embedding, the loss and the draft layers beside them. None: spread evenly."""


@dataclass(kw_only=True, slots=True)
class PrecisionConfig:
    """The numbers' width, on both sides of the hand-over."""

    dtype: Dtype = Dtype.fp32
    fp8: Fp8 = Fp8.none
    """Layers' matrices multiply in 8 bits, by Transformer Engine on GPUs; weights stay in `dtype`."""
    bf16_first_layers: int = 0
    """So many first layers take no part in it."""
    bf16_last_layers: int = 0
    """So many last layers take no part in it."""


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW on Megatron's distributed optimizer, and its learning-rate schedule, counted in updates."""

    lr: float = MISSING  # type: ignore[assignment]
    min_lr_ratio: float = 1.0
    """Learning rate at the end of the schedule over its peak; 1.0 keeps it constant after warm-up."""
    warmup_updates: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_grad_norm: float = 1.0


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """One procedurally generated task of reasoning-gym and its parameters."""

    name: str = MISSING
    parameters: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    """Share of this task among the training questions, relative to the other tasks' weights."""


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """The questions: reasoning-gym tasks, or a file of prompts of one's own."""

    tasks: list[TaskConfig] = field(default_factory=list)
    prompts_file: str | None = None
    """JSONL with `question` and `answer` in each row; replaces `tasks`."""
    template: str = "r1_zero"
    """How a question becomes a prompt: a name in `r1mega/data/templates.py`."""
    digits_per_token: int = 1
    """Numbers of up to so many digits are one token, where a tokenizer is made for the questions."""
    train_questions: int = 20_000
    """Distinct questions kept for training; none of them is among the held-out ones."""
    held_out_questions: int = 512
    """Distinct questions set apart, before training ones are drawn, for evaluation."""


@dataclass(kw_only=True, slots=True)
class WorldConfig:
    """The files that stage `world` writes, of r1mega's small world (`r1mega/data/world/texts.py`)."""

    rows: dict[str, int] = field(default_factory=dict)
    """File name without its ending -> rows wanted; of a file that has fewer different ones, all."""


@dataclass(kw_only=True, slots=True)
class PretrainConfig:
    """Training of a base from scratch on synthetic chains of thought, good ones and bad ones."""

    updates: int = 300
    samples_per_update: int = 256
    mixture: dict[str, float] = field(default_factory=dict)
    """Share of each kind of text (`r1mega/data/corpus.py` describes the kinds)."""
    language_use: dict[str, float] = field(default_factory=lambda: {"same": 1.0})
    """Share of thoughts in the question's language (`same`), in the `other`, or `mixed`."""
    # Given, so that a run that starts from a model need not name it.
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-3))


@dataclass(kw_only=True, slots=True)
class SftConfig:
    """Supervised fine-tuning on dialogues: cold start, rejection-sampled data, distillation."""

    data_files: list[str] = field(default_factory=list)
    """Dialogues, JSONL or parquet (docs/data.md); of several files, all rows together."""
    epochs: int = 2
    samples_per_update: int = 64
    token_budget: int | None = None
    """Training ends with the update that reaches so many tokens; None: with the last epoch."""
    # Given, so that a run of another stage need not name it; the paper's (5e-6 to a tenth, by cosine).
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-6, min_lr_ratio=0.1))


@dataclass(kw_only=True, slots=True)
class RejectConfig:
    """Rejection sampling: what a policy answers well becomes data to fine-tune on."""

    questions: int = 1000
    """Training questions asked."""
    samples_per_question: int = 16
    kept_per_question: int = 1
    """At most so many of a question's good answers are kept, chosen at random."""
    paragraph_words: int = 300
    """A thought with a longer paragraph is not readable, and is left out."""
    review_file: str | None = None
    """A `review.jsonl` that a person has edited: its rows are taken instead of sampling anew."""


@dataclass(kw_only=True, slots=True)
class RewardModelConfig:
    """A scalar head over the layers of `model.init_from`, taught by pairs or by safety labels."""

    kind: RewardKind = RewardKind.helpfulness
    """`helpfulness` learns from pairs, by a pairwise loss; `harmlessness` from labels, point-wise."""
    data_file: str | None = None
    """Preference pairs or safety labels, JSONL or parquet (docs/data.md)."""
    least_score_gap: float = 1.0
    """Pairs whose scores differ by no more are left out; those that come without scores are kept."""
    held_out: float = 0.1
    """Share of the rows that is set apart to measure on, with all rows of the same prompts."""
    epochs: int = 1
    samples_per_update: int = 256
    """Pairs, or labelled answers."""
    # Given, so that a run of another stage need not name it; the paper's.
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=6e-6))


@dataclass(kw_only=True, slots=True)
class RolloutConfig:
    """The vLLM engines that generate."""

    replicas: int = 1
    """Engines, each with the whole model; prompts are dealt out among them."""
    tensor_parallel: int = 1
    """Workers that one engine's layers are split over; r1mega.parallel.plan says what it must divide."""
    pipeline_parallel: int = 1
    """Stages that one engine's layers are dealt out to, each of `tensor_parallel` workers."""
    expert_parallel: int = 1
    """As `tensor_parallel`: experts are dealt out whole over those workers; 1: each is split over them."""
    placement: Placement = Placement.shared
    """On GPUs: whether engines live on the trainer's, or on others of its machines."""
    fp8_weights: bool = False
    """Engines get DeepSeek's block-quantised FP8 weights, quantised by the trainer; on GPUs only."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_answer_tokens: int = 64
    """Longer answers are cut and earn nothing."""
    max_context_tokens: int = 256
    """Prompt and answer together."""
    expected_answer_tokens: int | None = None
    """Mean length that `r1mega plan` reckons times with; None: half of the longest. No run obeys it."""
    concurrent_sequences: int = 256
    """Sequences an engine decodes at once."""
    kv_cache_bytes: int = 256 * 1024**2
    threads_per_worker: int = 1
    """CPU threads of each worker of an engine."""
    start_timeout_s: float = 180.0
    """How long an engine may take to come up before the run stops."""
    answer_timeout_s: float = 1800.0
    """How long an engine may take over any one thing asked of it, a whole rollout included."""
    engine_restarts: int = 3
    """How often in one start of a run an engine that died or hung is started anew; past it the run stops."""


@dataclass(kw_only=True, slots=True)
class GrpoConfig:
    """Group relative policy optimisation, as in DeepSeek-R1."""

    rollouts: int = MISSING  # type: ignore[assignment]
    prompts_per_rollout: int = 512
    samples_per_prompt: int = 16
    updates_per_rollout: int = 16
    clip_eps: float = 0.2
    """The ratio of new to old probability is clipped to [1 - eps, 1 + eps]."""
    kl_coefficient: float = 1e-3
    reference_refresh_updates: int = 400
    """The reference becomes the policy every so many updates."""
    token_budget: int | None = None
    """Training ends with the rollout that reaches so many trained tokens; None: with the last rollout."""
    longer_after_update: int | None = None
    """From this update on answers may be `longer_answer_tokens` long; None: never."""
    longer_answer_tokens: int | None = None
    model_rewards_after_update: int = 0
    """Until so many updates are done the reward models' components earn nothing: long optimisation against
    them finds their holes (arXiv 2501.12948: only the last 400 of 1,700 updates have them)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """How samples are laid out for the trainer, whatever the stage."""

    tokens_per_microbatch: int = 8192
    """Samples are packed, unpadded, into rows of at most so many tokens."""
    recompute: list[str] = field(default_factory=list)
    """What is not kept for the backward pass and computed again in it: `full`, every layer from its input;
    or some of Megatron's modules (core_attn, layernorm, mla_up_proj, mlp, moe, moe_act, shared_experts)."""


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """Named components, each with its weight in the sum, by the kind of question that is asked."""

    weights: dict[str, dict[str, float]] = field(
        default_factory=lambda: {"reasoning": {"accuracy": 1.0, "format": 1.0}}
    )
    """By kind of question (reasoning, general, safety), the weight of each component."""
    helpful_model: str | None = None
    """Folder of the reward model behind the component `helpful`, which reads the final summary."""
    harmless_model: str | None = None
    """Folder of the reward model behind the component `harmless`, which reads the whole answer."""
    workers: int = 1
    """Processes of each rank that grade answers."""
    time_limit_s: float = 2.0
    """One answer's grading may take so much processor time; past it the answer scores zero."""


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """Pass@1, cons@k and the other measures on the held-out questions, or on a benchmark's."""

    models: dict[str, str] = field(default_factory=dict)
    """Folders of models to evaluate one after another, by name; empty: the one of model.init_from."""
    benchmark: str | None = None
    """A benchmark of r1mega/data/benchmarks.py; None: the run's own held-out questions."""
    benchmark_file: str | None = None
    """Its questions, in the published schema (docs/benchmarks_models.md); HumanEval's are installed."""
    population_file: str | None = None
    """Ratings of people, a line each: a rated benchmark's percentile is among them."""
    questions: int | None = 256
    """None: all."""
    samples_per_question: int = 16
    temperature: float = 0.6
    top_p: float = 0.95


@dataclass(kw_only=True, slots=True)
class HandoverConfig:
    """The weights' way from trainer to engine, and what proves it."""

    max_abs_dlogp: float = 1e-4
    """The largest difference between the two sides' log-prob of a probe token that is let pass."""
    probe_samples: int = 16
    """Texts scored on both sides after every hand-over."""
    buffer_bytes: int = 1024**3
    """On GPUs: what is sent at a time, and what every rank needs in memory besides, or its largest tensor."""


@dataclass(kw_only=True, slots=True)
class TrackConfig:
    """Where figures go besides the run folder."""

    wandb: WandbMode = WandbMode.offline
    project: str = "r1mega"
    samples_kept: int = 8
    """Answers a rollout that `samples.jsonl` keeps."""


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """The states that a run goes on from; docs/resuming.md describes them."""

    save_every_rollouts: int = 5
    """A state is saved after every so many rollouts, and after the last."""
    save_every_updates: int = 100
    """The same where a stage has no rollouts: pre-training, SFT, reward models."""
    keep_last: int = 2
    """States kept; at least 2, so that one that is found damaged has one before it."""
    keep_every: int | None = None
    """States of every so many rollouts (or updates) are kept besides; None: no others."""


@dataclass(kw_only=True, slots=True)
class GuardConfig:
    """Updates that would do harm: skipped and counted, until there are too many."""

    spike_ratio: float = 20.0
    """An update is skipped where its gradient's norm is above so many times the larger of
    `clip_grad_norm` and the median of the latest norms; where it is not finite, always."""
    stop_after: int = 5
    """So many updates skipped in a row stop the run."""


@dataclass(kw_only=True, slots=True)
class LaunchConfig:
    """What a start is held to: how long it may take, how long its ranks may be silent, whether it fits."""

    max_time_s: float | None = None
    """The run saves and ends, with exit code 75, before so many seconds are over; None: never."""
    silent_s: float = 120.0
    """A rank that gives no sign of life for so long, a stopped process or a lost node, ends the run."""
    must_fit: bool = True
    """A run on GPUs that by its plan (`r1mega plan`) cannot fit them is refused."""


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    """The machine: what computes and how processes find each other."""

    backend: Backend = Backend.cpu
    threads_per_rank: int = 1
    """Threads of one CPU trainer rank."""
    timeout_s: float = 2400.0
    """A collective that takes longer ends the run; ranks wait in one while another's engine answers."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU, as CUDA reports it to a program; None: not known. `r1mega plan` holds runs to it."""
    gpus_per_machine: int | None = None
    """GPUs of one machine, which an engine's workers share; None: not known. `r1mega plan` keeps to it."""
    machines: int | None = None
    """Machines of the run: with `gpus_per_machine` they say how many ranks there will be, where none are
    started yet, so that data parallelism follows. None: not known."""
    gpu: str | None = None
    """Its name in `r1mega/planner/chips.py`, by which `r1mega plan` reckons times; None: it reckons none."""
    gpu_hour_usd: float | None = None
    """Price of one GPU for an hour; None: `r1mega plan` gives no costs."""


@dataclass(kw_only=True, slots=True)
class PipelineStageConfig:
    """One stage of a pipeline: a run of its own, and which earlier stages' work it reads."""

    run: str = MISSING
    """A file of `conf/run`, as in run=..."""
    reads: dict[str, Any] = field(default_factory=dict)
    """Key of the run that names a file or folder -> `stage/artifact`, or a list of them."""
    overrides: list[str] = field(default_factory=list)
    """Further overrides of the run, as on the command line."""


@dataclass(init=False, repr=False, eq=False)
class PipelineConfig:
    """Runs that feed each other, by name; `r1mega/stages/pipeline.py` runs them.

    One key is named `from`, as one would say it. Python keeps that word for itself, so the field is put
    in by hand, what `dataclass` writes from names is written here, and code reads the key as `start`.
    """

    stages: dict[str, PipelineStageConfig] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    """Overrides of every stage's run. Those of the command line are given to every stage as well."""
    plan_only: bool = False
    """Print what is done and what would run, and stop."""
    submit: bool = False
    """Hand the stages to Slurm, a job each, instead of running them here."""
    __annotations__["from"] = "str | None"  # the stage to run again, with all that depends on it
    vars()["from"] = None

    def __init__(self, **given: Any) -> None:
        for item in fields(self):
            default = item.default_factory() if callable(item.default_factory) else item.default
            setattr(self, item.name, given.pop(item.name, default))
        if given:
            raise TypeError(f"no such keys: {', '.join(given)}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineConfig) and vars(self) == vars(other)

    @property
    def start(self) -> str | None:
        """The value of `from`."""
        value: str | None = vars(self)["from"]
        return value


@dataclass(kw_only=True, slots=True)
class Config:
    """A whole run."""

    stage: Stage = MISSING  # type: ignore[assignment]
    name: str = MISSING
    """The run's folder is runs/<name>."""
    runs_dir: str = "runs"
    seed: int = 0
    fresh: bool = False
    """Throw away what an earlier run left in the folder."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    handover: HandoverConfig = field(default_factory=HandoverConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    reject: RejectConfig = field(default_factory=RejectConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)

    def __post_init__(self) -> None:
        # Models that are compared are of one architecture and speak one tokenizer's tokens: the first's.
        if self.model.init_from is None and self.eval.models:
            self.model.init_from = next(iter(self.eval.models.values()))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.runs_dir) / self.name


class BadRun(ValueError):
    """A run that cannot be; the message lists why, ready to print."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__(faults[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults:", *faults]))
