"""Conversations as text: a model's own chat template around messages, and which of it is answers.

The template is Jinja, run in the sandbox that transformers runs it in.
https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from kdeploy.errors import DataError
from kdeploy.untrusted.json_document import json_file

ANSWERS = "assistant"
"""The role whose words are learned; all others are given."""
TEMPLATE, SETTINGS, KEY = "chat_template.jinja", "tokenizer_config.json", "chat_template"
KEYS = ("role", "content")
Message = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A conversation as text."""

    text: str
    answers: tuple[tuple[int, int], ...]
    """Where answers stand in it, first and behind the last character, ends of turns included."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A template, and the special tokens that it may name."""

    source: str
    tokens: Mapping[str, str]
    origin: Path

    def rendered(self, messages: Sequence[Message], *, where: str) -> Rendered:
        """Return a conversation as the model reads it.

        An answer is what the text gains by it, behind what the template writes to ask for it.

        Args:
            messages: Each with `role` and `content`.
            where: Begins the messages of errors.

        Raises:
            DataError: the template refuses them, or there is no answer to learn.
        """
        whole, spans = self._text(messages, where), []
        for place, message in enumerate(messages):
            if message["role"] != ANSWERS:
                continue
            until = self._text(messages[: place + 1], where)
            asked = self._text(messages[:place], where, asks=True) if place else ""
            if not until.startswith(asked):
                asked = self._text(messages[:place], where)
            # Some templates write an answer otherwise once another turn follows: that is not it.
            if until.startswith(asked) and whole.startswith(until):
                spans.append((len(asked), len(until)))
        if not spans:
            roles = ", ".join(f"`{message['role']}`" for message in messages)
            raise DataError(
                f"{where} has no turn of the role `{ANSWERS}` that {self.origin} writes as it "
                f"stands, found {roles}",
                hint=f"what is learned are answers: give them the role `{ANSWERS}`",
            )
        return Rendered(text=whole, answers=tuple(spans))

    def _text(self, messages: Sequence[Message], where: str, *, asks: bool = False) -> str:
        try:
            text: str = self._compiled.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=asks,
                **self.tokens,
            )
        except Exception as error:  # of the template, which is anybody's program
            raise DataError(
                f"{where}: the chat template {self.origin} refuses it: {str(error)[:300]}",
                hint="look at the roles and their order, which the template may prescribe",
            ) from error
        return text

    @cached_property
    def _compiled(self) -> Any:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> NoReturn:
            raise jinja2.TemplateError(message)

        room = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        room.globals["raise_exception"] = refuse
        room.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        try:
            return room.from_string(self.source)
        except jinja2.TemplateError as error:
            raise DataError(
                f"{self.origin} is no template: {error}", hint="take that of the model's maker"
            ) from error


def read_template(folder: Path) -> ChatTemplate:
    """Return the chat template of a tokenizer.

    Args:
        folder: Has its files: chat_template.jinja, or a tokenizer_config.json that holds it.

    Raises:
        DataError: there is none.
    """
    settings = json_file(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    held = settings.get(KEY) if isinstance(settings, dict) else None
    file = folder / TEMPLATE
    source = file.read_text(encoding="utf-8") if file.is_file() else held
    if not isinstance(source, str):
        raise DataError(
            f"the tokenizer of {folder} has no chat template, and the text is conversations",
            hint=f"put the maker's {TEMPLATE} there, or give plain text",
        )
    return ChatTemplate(
        source=source,
        tokens=_special_tokens(settings),
        origin=file if file.is_file() else folder / SETTINGS,
    )


def messages_of(value: Any, *, where: str) -> tuple[Message, ...]:
    """Return a list of JSON as messages.

    Raises:
        DataError: it is none of objects with a role and its words.
    """
    found: list[Message] = []
    for place, one in enumerate(value):
        known = {key: one.get(key) for key in KEYS} if isinstance(one, dict) else {}
        if not known or not all(isinstance(text, str) for text in known.values()):
            raise DataError(
                f"{where}: message {place} is no object with texts under `role` and `content`",
                hint='a conversation is `[{"role": "user", "content": "..."}, {"role": '
                f'"{ANSWERS}", "content": "..."}}]`',
            )
        found.append({key: str(text) for key, text in known.items()})
    return tuple(found)


def _special_tokens(settings: Any) -> dict[str, str]:
    """Return the tokens that templates name, such as `bos_token`."""
    found = {}
    for name, value in settings.items() if isinstance(settings, dict) else ():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
