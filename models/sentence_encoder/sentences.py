"""Sentences of WordNet: definitions and examples, grouped by lexicographers' files.

C. Fellbaum (ed.), WordNet: An Electronic Lexical Database, MIT Press 1998; WordNet 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import Unavailable

FOLDER = Path("/usr/share/wordnet")
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
SEED = 1998
LICENCE = "WordNet-3.0, https://wordnet.princeton.edu/license-and-commercial-use"


def glosses(
    *, train: int = 20000, test: int = 2000, tokens: int = 24, tokenizer: str
) -> dict[str, Any]:
    """Return token ids and masks (N, tokens) of different sentences, and their groups (N,).

    Args:
        train: Sentences to learn from.
        test: Others to judge by.
        tokens: Length of an item; longer sentences are cut, shorter ones padded.
        tokenizer: A folder with a tokenizer.json.
    """
    from kdeploy.data.text_tokens import read_tokenizer

    if not (FOLDER / FILES[0]).is_file():
        raise Unavailable(
            f"WordNet is not on this machine: there is no {FOLDER / FILES[0]}",
            hint="apt install wordnet-base",
        )
    groups: dict[str, int] = {}
    for name in FILES:
        for group, sentence in _sentences((FOLDER / name).read_text(encoding="utf-8")):
            groups.setdefault(sentence, group)
    texts = list(groups)
    order = np.argsort(np.random.PCG64(SEED).random_raw(len(texts)), kind="stable")
    made: dict[str, Any] = {"licence": LICENCE, "source": "https://wordnet.princeton.edu"}
    text_of = read_tokenizer(Path(tokenizer))
    text_of.enable_truncation(tokens)
    text_of.enable_padding(length=tokens)
    for part, rows in (("test", order[:test]), ("train", order[test : test + train])):
        chosen = [texts[row] for row in rows]
        found = text_of.encode_batch(chosen)
        made[f"x_{part}"] = {
            "input_ids": _array([one.ids for one in found]),
            "attention_mask": _array([one.attention_mask for one in found]),
        }
        made[f"y_{part}"] = np.array([groups[text] for text in chosen], np.int64)
    return {**made, "vocabulary": {"input_ids": text_of.get_vocab_size()}}


def _array(rows: list[list[int]]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the lexicographer's file, and each sentence of a gloss (wndb(5WN))."""
    for line in text.splitlines():
        if not line.startswith("  "):  # the licence
            head, _, gloss = line.partition(" | ")
            for sentence in gloss.split(";"):
                if len(stripped := sentence.strip(' "')) > 3:
                    yield int(head.split()[1]), stripped
