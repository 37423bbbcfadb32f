"""Conversations by the model's template: what is an answer is learned, the rest is given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.data.chats import messages_of, read_template
from kdeploy.data.contract import NOT_COUNTED
from kdeploy.data.datasets.text import text
from kdeploy.errors import DataError
from tests.tiny.language import write_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")
CHATML = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And three?"},
    {"role": "assistant", "content": "Seven."},
]


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(CHATML)
    return tmp_path / "tokenizer"


def answers(template, messages):
    made = template.rendered(messages, where="chat.jsonl:1")
    return made.text, [made.text[start:end] for start, end in made.answers]


def test_answers_are_what_the_text_gains_by_them(folder):
    whole, found = answers(read_template(folder), CHAT)
    assert whole.startswith("<|im_start|>system\nBe short.<|im_end|>\n")
    assert found == ["Four.<|im_end|>\n", "Seven.<|im_end|>\n"]


def test_a_text_is_that_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    known = transformers.AutoTokenizer.from_pretrained(folder)
    expected = known.apply_chat_template(CHAT, tokenize=False)
    assert answers(read_template(folder), CHAT)[0] == expected


def test_an_answer_that_is_written_otherwise_later_is_not_learned(folder):
    last_alone = (
        "{% for m in messages %}{{ m['role'] }}: "
        "{% if m['role'] == 'assistant' and loop.last %}(thinks) {% endif %}{{ m['content'] }}\n"
        "{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(last_alone)
    _, found = answers(read_template(folder), CHAT)
    assert found == ["assistant: (thinks) Seven.\n"]


def test_special_tokens_and_a_template_inside_of_the_settings(folder):
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ eos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    whole, found = answers(read_template(folder), CHAT[1:3])
    assert (whole, found) == ("<|end|>Two and two?Four.", ["Four."])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{% for %}", "is no template"),
        ("{{ ''.__class__.__mro__ }}", "refuses it"),  # the sandbox
    ],
)
def test_a_template_that_refuses_is_one_error(folder, template, message):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match=message) as caught:
        answers(read_template(folder), CHAT)
    assert caught.value.hint


def test_without_a_template_or_an_answer_there_is_nothing_to_learn(folder):
    with pytest.raises(DataError, match="no turn of the role `assistant`"):
        answers(read_template(folder), CHAT[:2])
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="no chat template"):
        read_template(folder)


@pytest.mark.parametrize("value", [["words"], [{"role": "user"}], [{"role": 1, "content": "x"}]])
def test_what_is_no_conversation_is_refused(value):
    with pytest.raises(DataError, match="message 0"):
        messages_of(value, where="chat.jsonl:1")


def test_of_packed_conversations_the_answers_alone_are_labelled(folder, tmp_path):
    def conversation(number):
        told = [{**CHAT[1], "content": f"What is {number}?"}, {**CHAT[2], "content": f"={number}"}]
        return json.dumps({"messages": told})

    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(conversation(100 + number) for number in range(40)))
    parts = text(train=file, key="messages", tokens=32, tokenizer=folder)
    known = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    x, y = parts.train.x, parts.train.y
    learned = known.decode(y[y != NOT_COUNTED].tolist())
    assert learned.count("=1") == pytest.approx(len(x) * 32 / 75, rel=0.2)
    assert "What" not in learned
    assert "im_start" not in learned
    # A label is the token that follows.
    rows, places = np.nonzero(y != NOT_COUNTED)
    assert (y[rows, places] == x[rows, places + 1]).all()
    assert "each token of answers counted" in parts.notes[0]
