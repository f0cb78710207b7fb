"""Evaluation on held-out questions: pass@1 over k samples a question, and cons@k.

pass@1 is the mean correctness of k sampled answers; cons@k asks whether the answer given most often is
right (DeepSeek-R1, arXiv 2501.12948, its section on evaluation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r1mega.config import Config
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rewards.format import answer_of
from r1mega.rewards.grader import Grader
from r1mega.rollout.engines import Engines
from r1mega.stages import judging, sampling
from r1mega.stages.handover import Handover, probe_texts
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text
from r1mega.stages.recorder import Recorder
from r1mega.stages.serving import open_engines
from r1mega.track.stats import mean_ci95


@dataclass(frozen=True, slots=True)
class Rates:
    """Of each held-out question, in their order, the share of right answers by each measure."""

    pass_at_1: Sequence[float]
    pass_at_1_any_format: Sequence[float]
    cons_at_k: Sequence[float]


def run(config: Config, plan: Plan) -> None:
    """The stage alone: evaluate the model of `model.init_from`."""
    questions = load_questions(config)
    with Recorder(config) as recorder:
        text = load_text(config, questions)
        policy = Policy(config, load_model_fields(config), plan)
        with (
            open_engines(config, policy) as engines,
            Grader(config.reward.workers, config.reward.time_limit_s) as grader,
        ):
            policy.load(text.folder)
            engines.wait()
            handover = Handover(config, policy, engines, probe_texts(config, text))
            handover.run()
            rates = evaluate(config, text, engines, grader, recorder, rollout=0)
        measures = {
            "pass_at_1": rates.pass_at_1,
            "pass_at_1_any_format": rates.pass_at_1_any_format,
            "cons_at_k": rates.cons_at_k,
        }
        figures = {
            name: {"final": sum(values) / len(values), "final_ci95": mean_ci95(values, low=0)}
            for name, values in measures.items()
        }
        recorder.finish({"eval": figures | size(config), "handover": handover.summary()})


def size(config: Config) -> dict[str, int]:
    """What an evaluation's figures rest on."""
    return {"questions": config.eval.questions, "samples_per_question": config.eval.samples_per_question}


def evaluate(
    config: Config, text: Text, engines: Engines, grader: Grader, recorder: Recorder, *, rollout: int
) -> Rates:
    """Sample and grade answers to the held-out questions; the same seeds whatever the policy.

    Args:
        rollout: how many rollouts the policy has had, for the samples kept.
    """
    plan = config.eval
    questions = text.questions.held_out[: plan.questions]
    ticket, requests = sampling.submit(
        engines,
        text,
        questions,
        plan.samples_per_question,
        seed=(config.seed, sampling.EVALUATION),
        temperature=plan.temperature,
        top_p=plan.top_p,
        max_answer_tokens=config.rollout.max_answer_tokens,
    )
    batch = sampling.collect(engines, text, questions, ticket, requests)
    components = judging.collect(judging.submit(grader, batch), len(batch.texts))
    firsts = range(0, len(batch.texts), plan.samples_per_question)
    recorder.samples(rollout, batch, components, list(firsts)[: config.track.samples_kept])
    # A truncated answer earns nothing, so it has no vote either.
    answers = [
        None if cut else answer_of(text) for text, cut in zip(batch.texts, batch.truncated, strict=True)
    ]
    return Rates(
        pass_at_1=_by_question([parts["accuracy"] for parts in components], plan.samples_per_question),
        pass_at_1_any_format=_by_question(
            [parts["accuracy_any_format"] for parts in components], plan.samples_per_question
        ),
        cons_at_k=[
            _consensus(answers[first : first + plan.samples_per_question], components[first:])
            for first in firsts
        ],
    )


def _by_question(values: Sequence[float], samples: int) -> list[float]:
    return [sum(values[i : i + samples]) / samples for i in range(0, len(values), samples)]


def _consensus(answers: Sequence[str | None], components: judging.Components) -> float:
    """1.0 where the answer given most often is right; the first given wins a tie, None is no vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    winner, _ = votes.most_common(1)[0]
    return components[answers.index(winner)]["accuracy"]
