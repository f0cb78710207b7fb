"""The list of panels: every figure that a run logs, with its unit, its healthy range and who logs it.

The one list of its kind: the run's report (`panels.py`), the W&B dashboard and docs/dashboard.md
(`dashboard.py`) are made from it. Guarantees, by tests: each metric is in one panel, and every stage logs
the metrics that the list promises of it, and no others but its counters.

The ranges are rules of thumb from small runs in fp32; those that are limits of the code say so. They are
not measured on GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log

TIME = "timing_s/"
WHOLE = "timing_s/step"


@dataclass(frozen=True, kw_only=True, slots=True)
class Healthy:
    """Where figures lie while all is well: from `low` to `high`, and what numbers do not say."""

    low: float | None = None
    high: float | None = None
    """None: open at this end."""
    words: str = ""

    def __str__(self) -> str:
        """As text, such as `at most 0.1; falls`; empty where nothing is known."""
        return "; ".join(part for part in (self._numbers(), self.words) if part)

    def _numbers(self) -> str:
        if self.low is None:
            return "" if self.high is None else f"at most {self.high:.3g}"
        return f"at least {self.low:.3g}" if self.high is None else f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One small chart: its title, what one reads off it, and its lines as (metric, label)."""

    title: str
    meaning: str
    unit: str = ""
    healthy: Healthy = field(default_factory=Healthy)
    stages: tuple[str, ...] = ()
    """The stages that log all of its lines."""
    lines: tuple[tuple[str, str], ...]
    log: bool = False
    share: bool = False
    """The figures are shares: the axis runs from 0 to 1."""
    stacked: bool = False
    """The lines are parts of a whole."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of its metrics."""
        return tuple(metric for metric, _ in self.lines)

    @property
    def note(self) -> str:
        """What the figures are, and where they should lie."""
        what = ", ".join(part for part in (self.meaning, self.unit) if part)
        healthy = str(self.healthy)
        return f"{what}; healthy: {healthy}" if healthy else what


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


GRPO = ("grpo",)
ANSWERERS = ("grpo", "reject")
LEARNERS = ("pretrain", "sft", "reward_model")
REWARD_MODEL = ("reward_model",)

LEARNT = Section(
    title="What it learnt",
    panels=(
        Panel(
            title="Reward",
            meaning="Mean over answers of the components' weighed sum",
            unit="reward",
            healthy=Healthy(words="rises"),
            stages=GRPO,
            lines=(("critic/score/mean", ""),),
        ),
        Panel(
            title="Accuracy",
            meaning="Share of sampled answers that are right; also without asking for the form",
            unit="share",
            healthy=Healthy(words="rises; the two meet as the form is learnt"),
            stages=ANSWERERS,
            lines=(("reward/accuracy", "in form"), ("reward/accuracy_any_format", "any form")),
            share=True,
        ),
        Panel(
            title="Form",
            meaning="Share of answers with thought and answer in their tags",
            unit="share",
            healthy=Healthy(low=0.9, words="after the first rollouts"),
            stages=ANSWERERS,
            lines=(("reward/format", ""),),
            share=True,
        ),
        Panel(
            title="Language",
            meaning="Share of an answer's words in the question's language",
            unit="share",
            healthy=Healthy(words="rises where it is rewarded"),
            stages=ANSWERERS,
            lines=(("reward/language", ""),),
            share=True,
        ),
        Panel(
            title="Mixed language",
            meaning="Share of answers in more than one language",
            unit="share",
            healthy=Healthy(words="falls where the language is rewarded"),
            stages=ANSWERERS,
            lines=(("reward/mixed_language", ""),),
            share=True,
        ),
        Panel(
            title="Preference",
            meaning="What the reward models say of the answers they judge, in runs that have them",
            unit="sigmoid of the score",
            healthy=Healthy(words="rises slowly; a leap while accuracy falls is a hole in the model"),
            stages=GRPO,
            lines=(("reward/helpful", "helpful"), ("reward/harmless", "harmless")),
            share=True,
        ),
        Panel(
            title="Answer length",
            meaning="Of sampled answers",
            unit="tokens",
            healthy=Healthy(words="grows as thought does, clear of the limit"),
            stages=ANSWERERS,
            lines=(("response_length/mean", "mean"), ("response_length/max", "longest")),
        ),
        Panel(
            title="Answers cut off",
            meaning="Reached the length limit and earned nothing",
            unit="share",
            healthy=Healthy(high=0.1),
            stages=ANSWERERS,
            lines=(("response_length/clip_ratio", ""),),
            share=True,
        ),
        Panel(
            title="Reflection",
            meaning="Answers with words such as wait, mistake, verify",
            unit="share",
            healthy=Healthy(words="rises where reflecting helps"),
            stages=ANSWERERS,
            lines=(("emergence/reflection_rate", ""),),
        ),
        Panel(
            title="Groups without variance",
            meaning="Prompts whose answers all earned the same: nothing to learn from",
            unit="prompts a rollout",
            healthy=Healthy(words="below half of the rollout's prompts"),
            stages=GRPO,
            lines=(("critic/groups_without_variance", ""),),
        ),
        Panel(
            title="Loss",
            meaning="Mean over tokens; of a reward model, over rows",
            unit="nats",
            healthy=Healthy(words=f"falls; a reward model's ends below {log(2):.3f}, which is chance"),
            stages=LEARNERS,
            lines=(("loss", ""),),
        ),
    ),
)

PREFERENCES = Section(
    title="What the reward model can tell",
    panels=(
        Panel(
            title="Told rightly",
            meaning="Rows of the mini-batch whose better answer, or label, the scores tell",
            unit="share",
            healthy=Healthy(low=0.5, words="0.5 is chance"),
            stages=REWARD_MODEL,
            lines=(("accuracy", ""),),
            share=True,
        ),
        Panel(
            title="Margin",
            meaning="Mean score of the right side over the wrong",
            unit="nats",
            healthy=Healthy(low=0.0, words="grows"),
            stages=REWARD_MODEL,
            lines=(("margin", ""),),
        ),
        Panel(
            title="The two passes",
            meaning="By how much the loss's linear form differs between an update's two passes",
            unit="nats",
            healthy=Healthy(high=1e-5, words="in fp32"),
            stages=REWARD_MODEL,
            lines=(("passes_differ", ""),),
            log=True,
        ),
    ),
)

REJECTION = Section(
    title="What rejection sampling kept",
    panels=(
        Panel(
            title="Right answers",
            meaning="Different right answers over all sampled ones",
            unit="share",
            healthy=Healthy(low=0.05),
            stages=("reject",),
            lines=(("reject/right", ""),),
            share=True,
        ),
        Panel(
            title="Kept",
            meaning="Right and readable, a question",
            unit="answers",
            healthy=Healthy(low=0.1, words="at most reject.kept_per_question"),
            stages=("reject",),
            lines=(("reject/kept", ""),),
        ),
    ),
)

FIDELITY = Section(
    title="Does the engine hold the trainer's weights",
    panels=(
        Panel(
            title="Hand-over",
            meaning="Largest |log-prob difference| on the probe; 0 on the lowest line",
            unit="nats",
            healthy=Healthy(high=1e-4, words="beyond handover.max_abs_dlogp the run stops"),
            stages=GRPO,
            lines=(("handover/max_abs_dlogp", ""),),
            log=True,
        ),
        Panel(
            title="Trainer against sampler",
            meaning="|log-prob difference| on sampled tokens; 0 on the lowest line",
            unit="nats",
            healthy=Healthy(high=1e-4, words="the mean at most 1e-05; in fp32"),
            stages=GRPO,
            lines=(("mismatch/mean_abs_dlogp", "mean"), ("mismatch/max_abs_dlogp", "largest")),
            log=True,
        ),
        Panel(
            title="KL of sampler to trainer",
            meaning="Mean of sampler - trainer log-prob on sampled tokens",
            unit="nats",
            healthy=Healthy(low=-1e-5, high=1e-5, words="in fp32"),
            stages=GRPO,
            lines=(("mismatch/k1", ""),),
        ),
    ),
)

TRAINING = Section(
    title="How the training went",
    panels=(
        Panel(
            title="KL to the reference",
            meaning="k3 estimate",
            unit="nats a token",
            healthy=Healthy(low=0.0, high=1.0, words="falls where the reference is refreshed"),
            stages=GRPO,
            lines=(("actor/kl_loss", ""),),
        ),
        Panel(
            title="Movement within a rollout",
            meaning="Mean of old - new log-prob",
            unit="nats",
            healthy=Healthy(low=-0.05, high=0.05),
            stages=GRPO,
            lines=(("actor/ppo_kl", ""),),
        ),
        Panel(
            title="Entropy",
            meaning="Of the policy's next token, from its samples",
            unit="nats",
            healthy=Healthy(low=0.02, words="falls slowly"),
            stages=GRPO,
            lines=(("actor/entropy", ""),),
        ),
        Panel(
            title="Clipped tokens",
            meaning="Those whose policy gradient the clip removed",
            unit="share",
            healthy=Healthy(high=0.2),
            stages=GRPO,
            lines=(("actor/pg_clipfrac", ""),),
        ),
        Panel(
            title="Policy loss",
            meaning="Clipped objective, negative",
            unit="advantages",
            healthy=Healthy(low=-0.05, high=0.05),
            stages=GRPO,
            lines=(("actor/pg_loss", ""),),
        ),
        Panel(
            title="Gradient norm",
            meaning="Before clipping, mean of a rollout's updates",
            unit="L2 norm",
            healthy=Healthy(high=1.0, words="which is where it is clipped"),
            stages=GRPO,
            lines=(("actor/grad_norm", ""),),
        ),
        Panel(
            title="Gradient norm",
            meaning="Before clipping",
            unit="L2 norm",
            healthy=Healthy(words="falls, without spikes"),
            stages=LEARNERS,
            lines=(("grad_norm", ""),),
        ),
        Panel(
            title="Learning rate",
            meaning="Mean of a rollout's updates",
            unit="an update",
            healthy=Healthy(words="follows the schedule"),
            stages=GRPO,
            lines=(("actor/lr", ""),),
        ),
        Panel(
            title="Learning rate",
            meaning="At the update",
            unit="an update",
            healthy=Healthy(words="follows the schedule"),
            stages=LEARNERS,
            lines=(("lr", ""),),
        ),
    ),
)

SPEED = Section(
    title="How fast it was",
    panels=(
        Panel(
            title="Generation",
            meaning="New tokens",
            unit="tokens a second",
            healthy=Healthy(words="level"),
            stages=ANSWERERS,
            lines=(("perf/throughput", ""),),
        ),
        Panel(
            title="Training",
            meaning="Tokens learnt from, prompts included",
            unit="tokens a second",
            healthy=Healthy(words="level"),
            stages=LEARNERS,
            lines=(("tokens_per_s", ""),),
        ),
        Panel(
            title="Tokens of a rollout",
            meaning="Prompts and answers",
            unit="tokens",
            healthy=Healthy(words="grows with the answers"),
            stages=ANSWERERS,
            lines=(("perf/total_num_tokens", ""),),
        ),
        Panel(
            title="Tokens so far",
            meaning="Learnt from, prompts included",
            unit="tokens",
            healthy=Healthy(words="grows evenly"),
            stages=("sft",),
            lines=(("tokens", ""),),
        ),
        Panel(
            title="Handed over",
            meaning="Weights sent to the engines, a hand-over",
            unit="bytes",
            healthy=Healthy(words="constant"),
            stages=GRPO,
            lines=(("handover/bytes", ""),),
        ),
    ),
)

TIMES = Section(
    title="Where the time went",
    panels=(
        Panel(
            title="Phases of a rollout",
            meaning="One after another",
            unit="seconds",
            healthy=Healthy(words="generation and update take the most"),
            stages=GRPO,
            lines=(
                (f"{TIME}gen", "generate"),
                (f"{TIME}reward", "reward"),
                (f"{TIME}handover", "hand over"),
                (f"{TIME}proof", "prove"),
                (f"{TIME}old_log_prob", "score, old"),
                (f"{TIME}ref", "score, reference"),
                (f"{TIME}update_actor", "update"),
                (f"{TIME}save", "save"),
            ),
            stacked=True,
        ),
        Panel(
            title="A rollout",
            meaning="From its questions to the hand-over",
            unit="seconds",
            healthy=Healthy(words="grows with the answers only"),
            stages=GRPO,
            lines=((WHOLE, ""),),
        ),
    ),
)

MISHAPS = Section(
    title="What went wrong",
    panels=(
        Panel(
            title="Skipped updates",
            meaning="So far, for their gradients",
            unit="updates",
            healthy=Healthy(words="none, or few"),
            stages=GRPO,
            lines=(("reliability/skipped_updates", ""),),
        ),
        Panel(
            title="Skipped updates",
            meaning="Whether the update was, for its gradient",
            unit="share",
            healthy=Healthy(words="hardly ever"),
            stages=LEARNERS,
            lines=(("skipped", ""),),
            share=True,
        ),
        Panel(
            title="Engines started anew",
            meaning="Since the run's start, or its last",
            unit="engines",
            healthy=Healthy(high=0.0),
            stages=GRPO,
            lines=(("reliability/engine_restarts", ""),),
        ),
        Panel(
            title="States not saved",
            meaning="Since the run's start, or its last",
            unit="states",
            healthy=Healthy(high=0.0),
            stages=GRPO,
            lines=(("reliability/failed_saves", ""),),
        ),
    ),
)

SECTIONS = (LEARNT, PREFERENCES, REJECTION, FIDELITY, TRAINING, SPEED, TIMES, MISHAPS)
PANELS = tuple(panel for section in SECTIONS for panel in section.panels)
STAGES = tuple(dict.fromkeys(stage for panel in PANELS for stage in panel.stages))
"""Those that log anything by rollout or update."""


def metrics_of(stage: str) -> set[str]:
    """Every metric that a run of the stage logs; `Preference` only where it has reward models."""
    return {metric for panel in PANELS if stage in panel.stages for metric in panel.metrics}
