"""Everything wrong with what a run says of its data, found before a question is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1mega.data.corpus import SAME_LANGUAGE, check_corpus_tasks, check_language_use, check_mixture
from r1mega.data.files import DataFileError
from r1mega.data.prompts import read_prompts
from r1mega.data.task_checks import check_tasks
from r1mega.data.templates import check_template


def data_faults(
    tasks: Sequence[tuple[Any, ...]],
    prompts_file: str | None,
    template: str,
    mixture: Mapping[str, float],
    language_use: Mapping[str, float] = SAME_LANGUAGE,
) -> list[str]:
    """One line a fault, each led by its key or by file and line; an empty list if there is none.

    `tasks` are (name, parameters, weight); a prompts file takes their place. An empty `mixture`
    means that nothing is pre-trained here.
    """
    faults = _file_faults(prompts_file) if prompts_file else check_tasks(tasks)
    faults += check_template(template)
    if mixture:
        names = [name for name, *_ in tasks]
        faults += check_mixture(mixture, names) + check_language_use(language_use, names)
        faults += _no_corpus(prompts_file) if prompts_file else check_corpus_tasks(tasks)
    return faults


def _file_faults(path: str) -> list[str]:
    try:
        read_prompts(path)
    except DataFileError as error:
        return list(error.shown)
    return []


def _no_corpus(path: str) -> list[str]:
    return [f"data.prompts_file: was {path}; must be null to pre-train a base, on data.tasks"]
