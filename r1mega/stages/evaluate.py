"""Evaluation on held-out questions or a benchmark: pass@1 over k samples a question, cons@k, and more.

Several models of one architecture are evaluated by the same engines, one after another, on the same
questions with the same seeds, so that their figures compare question by question.
"""

from __future__ import annotations

from pathlib import Path

from r1mega.config import Config
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rewards.grader import Grader
from r1mega.rollout.engines import Engines
from r1mega.stages import judging, sampling
from r1mega.stages.handover import Handover, probe_texts
from r1mega.stages.measures import Rates, measure
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text
from r1mega.stages.recorder import Recorder
from r1mega.stages.serving import open_engines
from r1mega.track.stats import mean_of


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
            engines.wait()
            handover = Handover(config, policy, engines, probe_texts(config, text))
            rates = {}
            for name, folder in models.items():
                policy.load(Path(folder))
                handover.run()
                rates[name] = evaluate(config, text, engines, grader, recorder, of=name)
                recorder.say(line(name, rates[name]))
        figures = {name: {key: mean_of(values) for key, values in of.items()} for name, of in rates.items()}
        recorder.finish({"models": figures, "eval": size(config), "handover": handover.summary()})


def line(name: str, rates: Rates) -> str:
    """A model's main figures in one line."""
    shown = ("pass_at_1", "cons_at_k", "mixed_language", "general", "safety")
    figures = [f"{key} {sum(rates[key]) / len(rates[key]):.3f}" for key in shown if key in rates]
    return f"{name}: {', '.join(figures)}"


def size(config: Config) -> dict[str, int]:
    """What an evaluation's figures rest on."""
    return {"questions": config.eval.questions, "samples_per_question": config.eval.samples_per_question}


def evaluate(
    config: Config, text: Text, engines: Engines, grader: Grader, recorder: Recorder, **label: str | int
) -> Rates:
    """Sample and grade answers to the held-out questions; the same seeds whatever the policy.

    Args:
        label: what the samples that are kept are of: `rollout`, or the model's name as `of`.
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
    recorder.samples(batch, components, list(firsts)[: config.track.samples_kept], **label)
    return measure(batch, components, plan.samples_per_question)
