"""Where files prefer other next tokens than their teacher, as texts that people and reports read.

Ids become text by the tokenizer of the data; without one they are the names of classes, or numbers.
A line of `next_tokens.json` is one file in one runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdeploy.bench.model_under_test import Outcome
from kdeploy.bench.next_tokens import NEAR_TIE, DifferingToken
from kdeploy.data.contract import NOT_COUNTED
from kdeploy.data.data_files import TOKENIZER, files_of
from kdeploy.data.load import DataReference, load

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Of a token that is a part of a character."""
Texts = Callable[[Sequence[int]], str]


def differing_tokens(outcomes: Sequence[Outcome], data: DataReference) -> list[dict[str, Any]]:
    """Return a line for each file that was compared with its teacher, token by token."""
    compared = [outcome for outcome in outcomes if outcome.next_tokens is not None]
    texts = _reader(data) if compared else None
    return [_line(outcome, texts) for outcome in compared if texts is not None]


def _line(outcome: Outcome, texts: Texts) -> dict[str, Any]:
    found, model = outcome.next_tokens, outcome.model
    assert found is not None, "outcomes without a comparison are left out"
    return {
        "label": model.label,
        "profile": model.profile,
        "runtime": outcome.configuration.runtime,
        "tokens": found.num_tokens,
        "differing": found.num_differing,
        "near_ties": found.num_near_ties,
        "near_tie_margin": NEAR_TIE,
        "divergence_nats": outcome.accuracy.get("divergence.next_token"),
        "examples": [_example(example, texts) for example in found.examples],
    }


def _example(example: DifferingToken, texts: Texts) -> dict[str, Any]:
    def after(token: int) -> str:
        return _continuation(example.before, token, texts)

    return {
        "window": example.window,
        "place": example.place,
        "before": texts(example.before),
        "teacher_token": after(example.teacher_token),
        "teacher_probability": example.teacher_probability,
        "teacher_probability_here": example.teacher_probability_here,
        "token": after(example.token),
        "probability": example.probability,
        "text_token": "" if example.label == NOT_COUNTED else after(example.label),
    }


def _continuation(before: Sequence[int], token: int, texts: Texts) -> str:
    """Return the text that a token adds, with its blank: some decoders drop that of the first."""
    known, longer = texts(before), texts([*before, token])
    added = longer.removeprefix(known) if longer.startswith(known) else ""
    return added if added and BROKEN not in added else texts([token])


def _reader(data: DataReference) -> Texts:
    """Return what makes text of ids."""
    file = files_of(data).get(TOKENIZER)
    if file is not None:
        from kdeploy.data.text_tokens import read_tokenizer

        tokenizer = read_tokenizer(file)

        def decoded(ids: Sequence[int]) -> str:
            text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
            if len(ids) == 1 and (not text or BROKEN in text):
                return tokenizer.id_to_token(ids[0]) or str(ids[0])
            return text

        return decoded
    names = load(data).preprocessing.classes
    return lambda ids: " ".join(names[i] if i < len(names) else str(i) for i in ids)
