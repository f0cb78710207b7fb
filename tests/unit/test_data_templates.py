"""A template asks as the model was trained to be asked, and its examples are answers that count."""

import re

import jinja2

from r1mega.data.templates import TEMPLATES, render
from r1mega.rewards.format import answer_of

# SmolLM2's own chat template, without the system turn that it opens a conversation with by default.
SMOLLM2 = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.DOTALL)


def test_chat_sum_is_what_the_models_own_template_makes_of_its_turns() -> None:
    asked = render("chat_sum", "Calculate 2 + 3 + 4.")
    turns = [{"role": role, "content": content} for role, content in TURN.findall(asked)]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert turns[-1]["content"] == "Calculate 2 + 3 + 4."
    own = jinja2.Template(SMOLLM2, keep_trailing_newline=True)
    assert asked == own.render(messages=turns, add_generation_prompt=True)


def test_chat_sum_shows_right_answers_that_are_read_as_such() -> None:
    turns = [content for _, content in TURN.findall(render("chat_sum", "?"))]
    for question, answer in zip(turns[::2], turns[1::2], strict=False):
        assert answer_of(answer) == str(sum(map(int, re.findall(r"\d+", question))))


def test_a_question_is_put_in_as_it_is() -> None:
    for name in TEMPLATES:
        assert "{{ 1 + 1 }} 'x'" in render(name, "{{ 1 + 1 }} 'x'")
