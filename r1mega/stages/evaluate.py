"""Evaluation on held-out questions or a benchmark: pass@1 over k samples a question, cons@k, and more.

Several models of one architecture are evaluated by the same engines, one after another, on the same
questions with the same seeds, so that their figures compare question by question.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from r1mega import watch
from r1mega.config import Config
from r1mega.data.benchmarks.swe_bench import SWE_BENCH_VERIFIED, write_predictions
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rewards.format import answer_of
from r1mega.rewards.grader import Grader
from r1mega.stages import judging, sampling
from r1mega.stages.handover import Handover, probe_texts
from r1mega.stages.measures import Rates, measure
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text
from r1mega.stages.recorder import Recorder
from r1mega.stages.serving import open_engines
from r1mega.track import rating
from r1mega.track.stats import mean_of

Figures = dict[str, dict[str, float | list[float]]]
"""By measure, its `mean` and `ci95`."""


def run(config: Config, plan: Plan) -> None:
    """The stage alone: evaluate the model of `model.init_from`, or each of `eval.models`."""
    questions = load_questions(config)
    models = config.eval.models or {"model": str(config.model.init_from)}
    with Recorder(config) as recorder:
        text = load_text(config, questions)
        policy = Policy(config, load_model_fields(config), plan)
        with (
            open_engines(config, policy) as engines,
            Grader(config.reward.workers, config.reward.time_limit_s) as grader,
        ):
            handover = Handover(config, policy, engines, probe_texts(config, text))
            figures: dict[str, Figures] = {}
            for name, folder in models.items():
                policy.load(Path(folder))
                handover.run()
                batch, components = sample_and_grade(config, text, handover, grader)
                keep(config, recorder, batch, components, of=name)
                rates = measure(batch, components, config.eval.samples_per_question)
                recorder.say(line(name, rates))
                figures[name] = {key: mean_of(values) for key, values in rates.items()}
                figures[name] |= rated(config, batch, components)
                if recorder.writes:
                    write_harness_files(config, name, batch)
        recorder.finish({"models": figures, "eval": size(config, text), "handover": handover.summary()})


def line(name: str, rates: Rates) -> str:
    """A model's main figures in one line."""
    shown = ("pass_at_1", "cons_at_k", "mixed_language", "general", "safety")
    figures = [f"{key} {sum(rates[key]) / len(rates[key]):.3f}" for key in shown if key in rates]
    return f"{name}: {', '.join(figures)}"


def size(config: Config, text: Text) -> dict[str, int]:
    """What an evaluation's figures rest on."""
    questions = len(text.questions.held_out[: config.eval.questions])
    return {"questions": questions, "samples_per_question": config.eval.samples_per_question}


def evaluate(
    config: Config, text: Text, handover: Handover, grader: Grader, recorder: Recorder, *, rollout: int
) -> Rates:
    """The measures of the policy in the engines, on the held-out questions.

    Args:
        rollout: how many rollouts the policy has had, for the samples kept.
    """
    batch, components = sample_and_grade(config, text, handover, grader)
    keep(config, recorder, batch, components, rollout=rollout)
    return measure(batch, components, config.eval.samples_per_question)


def sample_and_grade(
    config: Config, text: Text, handover: Handover, grader: Grader
) -> tuple[sampling.Batch, judging.Components]:
    """Answers to the held-out questions, with their components; the same seeds whatever the policy."""
    watch.phase("evaluation")
    plan = config.eval
    questions = text.questions.held_out[: plan.questions]
    batch = sampling.sample(
        handover,
        "the evaluation",
        text,
        questions,
        plan.samples_per_question,
        seed=(config.seed, sampling.EVALUATION),
        temperature=plan.temperature,
        top_p=plan.top_p,
        max_answer_tokens=config.rollout.max_answer_tokens,
    )
    return batch, judging.collect(judging.submit(grader, batch), len(batch.texts))


def keep(
    config: Config,
    recorder: Recorder,
    batch: sampling.Batch,
    components: judging.Components,
    **label: str | int,
) -> None:
    """Keep the first answer to each of some questions, under what they are of."""
    firsts = range(0, len(batch.texts), config.eval.samples_per_question)
    recorder.samples(batch, components, list(firsts)[: config.track.samples_kept], **label)


def rated(config: Config, batch: sampling.Batch, components: judging.Components) -> Figures:
    """Rating and percentile on problems that have ratings; nothing on others."""
    samples = config.eval.samples_per_question
    firsts = range(0, len(batch.texts), samples)
    difficulties = [batch.questions[at].parameters["rating"] for at in firsts if _has_rating(batch, at)]
    if len(difficulties) < len(firsts):
        return {}
    solved = [fmean(parts["accuracy"] for parts in components[at : at + samples]) for at in firsts]
    found = rating.fit(difficulties, solved)
    figures: Figures = {"rating": {"mean": found.rating, "ci95": list(found.ci95)}}
    if config.eval.population_file is not None:
        people = rating.read_population(config.eval.population_file)
        low, high = (people.percentile(end) for end in found.ci95)
        figures["percentile"] = {"mean": people.percentile(found.rating), "ci95": [low, high]}
    return figures


def _has_rating(batch: sampling.Batch, answer: int) -> bool:
    return batch.questions[answer].parameters.get("rating") is not None


def write_harness_files(config: Config, model: str, batch: sampling.Batch) -> None:
    """Predictions for a benchmark that only an outside harness can judge: each instance's first answer."""
    if config.eval.benchmark != SWE_BENCH_VERIFIED.name:
        return
    firsts = range(0, len(batch.texts), config.eval.samples_per_question)
    answers = [(batch.questions[i], answer_of(batch.texts[i])) for i in firsts]
    write_predictions(config.folder / f"predictions.{model}.jsonl", model, answers)
