"""How a question becomes a prompt: named templates, as Jinja chat templates.

A template is saved in the tokenizer, so that whoever loads the trained model asks it as it was
trained: `render` gives exactly what transformers' `apply_chat_template` gives for one user
message. A prompt ends where the assistant's words begin; the question is put in as it is, never
read as Jinja.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from r1mega.data.hints import nearest

# The paper's prompt, DeepSeek-R1 (arXiv 2501.12948), table 1, word for word.
_R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves"
    " it. The assistant first thinks about the reasoning process in the mind and then provides the"
    " user with the answer. The reasoning process and answer are enclosed within <think> </think>"
    " and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think>"
    " <answer> answer here </answer>. "
)


def _chat(preamble: str, after_question: str) -> str:
    """A chat template: the preamble, then turns; an answer is closed by the end-of-sequence
    token."""
    return (
        preamble + "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        "{{ 'User: ' + message['content'] + '" + after_question + "' }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ 'Assistant: ' + message['content'] + eos_token }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )


def _chat_ml(*examples: tuple[str, str]) -> str:
    """The turns of models trained on ChatML (SmolLM2, Qwen), after examples of the form asked for.

    A model too small to follow an instruction still copies two examples; one is not enough.
    """
    opening = "".join(
        f"<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n"
        for question, answer in examples
    )
    return (
        (f"{{{{ '{opening}' }}}}" if opening else "") + "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "r1_zero": _chat(_R1_ZERO, ". "),  # R1-Zero's own
        "short": _chat("", "\\n"),  # a few tokens, for models too small to read instructions
        "chat_ml": _chat_ml(),  # the turns alone
        "chat_sum": _chat_ml(
            ("Calculate 8 + 5 + 1.", "8 + 5 = 13, 13 + 1 = 14 <answer>14</answer>"),
            ("Calculate 2 + 4 + 3.", "2 + 4 = 6, 6 + 3 = 9 <answer>9</answer>"),
        ),
    }
)
"""Chat template by name."""


def render(name: str, question: str) -> str:
    """The prompt that asks `question` under the named template."""
    return str(
        _compiled(name).render(messages=[{"role": "user", "content": question}], add_generation_prompt=True)
    )


def render_dialogue(name: str, messages: Sequence[tuple[str, str]], answer: str, end: str) -> tuple[str, str]:
    """The prompt that `messages` of (role, text) make, and what follows it when `answer` is given.

    `end` is the text of the end token, which the second part may end in.
    """
    turns = [{"role": role, "content": text} for role, text in messages]
    template = _compiled(name)
    prompt = str(template.render(messages=turns, add_generation_prompt=True, eos_token=end))
    said = [*turns, {"role": "assistant", "content": answer.strip()}]
    whole = str(template.render(messages=said, add_generation_prompt=False, eos_token=end))
    if not whole.startswith(prompt):
        raise ValueError(f"template {name} writes a prompt otherwise where it is answered")
    return prompt, whole[len(prompt) :]


def check_template(name: str) -> list[str]:
    """The fault of a template's name, if any."""
    if name in TEMPLATES:
        return []
    return [f"data.template: was {name}; must be a template, {nearest(name, list(TEMPLATES))}"]


@cache
def _compiled(name: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # The switches are those of transformers' apply_chat_template.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATES[name])
