"""What is wrong with the questions, texts and files that a run learns from, before anything is built.

The readers are imported when they are needed: to compose and check a run that reads little is quick.
"""

from __future__ import annotations

from collections.abc import Mapping

from r1mega.config import Config, RewardKind, Stage


def data_faults(config: Config) -> list[str]:
    """Every fault of what the stage reads: questions or tasks, dialogues, preferences, a benchmark."""
    if config.stage in (Stage.grpo, Stage.reject, Stage.evaluate, Stage.pretrain):
        return _question_faults(config)
    if config.stage is Stage.sft:
        return _dialogue_faults(config)
    if config.stage is Stage.world:
        return _world_faults(config.world.rows)
    if config.stage is Stage.reward_model:
        return _preference_faults(config)
    return []


def _preference_faults(config: Config) -> list[str]:
    from r1mega.data.files import DataFileError
    from r1mega.data.preferences import read_preferences
    from r1mega.data.safety import read_safety_labels
    from r1mega.data.templates import check_template

    plan = config.reward_model
    faults = check_template(config.data.template)
    if not 0 < plan.held_out < 1:
        faults.append(f"reward_model.held_out: was {plan.held_out}; must be a share between 0 and 1")
    if plan.least_score_gap < 0:
        faults.append(f"reward_model.least_score_gap: was {plan.least_score_gap}; must be at least 0")
    if plan.data_file is None:
        wanted = "preference pairs" if plan.kind is RewardKind.helpfulness else "safety labels"
        return [*faults, f"reward_model.data_file: was null; must name a file of {wanted}"]
    try:
        (read_preferences if plan.kind is RewardKind.helpfulness else read_safety_labels)(plan.data_file)
    except DataFileError as error:
        faults += error.shown
    return faults


def _world_faults(rows: Mapping[str, int]) -> list[str]:
    from r1mega.data.world.texts import FILES

    faults = [
        f"world.rows.{name}: must be a file of the small world, it may be {', '.join(FILES)}"
        for name in rows
        if name not in FILES
    ]
    faults += [
        f"world.rows.{name}: was {count}; must be above 0" for name, count in rows.items() if count < 1
    ]
    return faults or ([] if rows else [f"world.rows: was empty; must name files, of {', '.join(FILES)}"])


def _dialogue_faults(config: Config) -> list[str]:
    from r1mega.data.dialogues import read_dialogues
    from r1mega.data.files import DataFileError
    from r1mega.data.templates import check_template

    faults = check_template(config.data.template)
    if not config.sft.data_files:
        faults.append("sft.data_files: was empty; must name the files of dialogues to learn")
    for file in config.sft.data_files:
        try:
            read_dialogues(file)
        except DataFileError as error:
            faults += error.shown
    return faults


def _question_faults(config: Config) -> list[str]:
    from r1mega.data.faults import data_faults as task_faults
    from r1mega.data.tokenizer import check_digits
    from r1mega.rewards.registry import check_weights

    data, mixture = config.data, config.pretrain.mixture
    if config.eval.benchmark is not None:
        return _benchmark_faults(config)
    pretrains = config.model.init_from is None
    tasks = [(task.name, task.parameters, task.weight) for task in data.tasks]
    faults = check_weights(config.reward.weights)
    faults += check_digits(data.digits_per_token)
    texts = mixture if pretrains else {}
    faults += task_faults(tasks, data.prompts_file, data.template, texts, config.pretrain.language_use)
    if pretrains and not mixture:
        faults.append("pretrain.mixture: was empty; a base trained from scratch needs texts to learn")
    if data.prompts_file is not None and not faults:
        faults += _split_faults(config, data.prompts_file)
    if config.eval.questions is not None and config.eval.questions > data.held_out_questions:
        faults.append(
            f"eval.questions: was {config.eval.questions};"
            f" data.held_out_questions holds {data.held_out_questions}"
        )
    return faults


def _benchmark_faults(config: Config) -> list[str]:
    from r1mega.data.benchmarks import BENCHMARKS, HUMANEVAL, benchmark_faults
    from r1mega.data.templates import check_template
    from r1mega.rewards.code import code_faults
    from r1mega.track.rating import PopulationError, read_population

    name, people = config.eval.benchmark, config.eval.population_file
    if config.stage is not Stage.evaluate:
        return [f"eval.benchmark: was {name}; must be null but for stage=evaluate"]
    faults = check_template(config.data.template) + benchmark_faults(name, config.eval.benchmark_file)
    if name is not None and not faults:
        faults += code_faults(name == HUMANEVAL or BENCHMARKS[name].graded_by == "program")
    if people is not None:
        try:
            read_population(people)
        except PopulationError as error:
            faults += str(error).splitlines()
    return faults


def _split_faults(config: Config, prompts_file: str) -> list[str]:
    from r1mega.data import prompts, tasks
    from r1mega.rewards.code import code_faults, is_code

    data = config.data
    questions = prompts.read_prompts(prompts_file)
    faults = code_faults(any(is_code(question.entry) for question in questions))
    try:
        prompts.split(questions, data.train_questions, data.held_out_questions, seed=0)
    except tasks.TooFewQuestionsError as error:
        faults.append(str(error))
    return faults
