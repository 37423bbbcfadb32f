"""Python's own language reference, as characters or as tokens: which one comes next?

The topics that `help()` shows, from the standard library of the Python that runs: no download. Each
version of Python has a text of its own, about half a million characters.
https://docs.python.org/3/reference/, PSF-2.0.
"""

from __future__ import annotations

import platform
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdeploy.data.contract import NOT_COUNTED, Parts, Preprocessing, Split, dataset
from kdeploy.data.shared_passages import groups
from kdeploy.data.text_tokens import (
    VALIDATION_SHARE,
    Document,
    Windows,
    divided,
    parts_of_documents,
)

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""By id: the end of a line, then printable ASCII."""
# Quotation marks and dashes, which have no decomposition in Unicode.
PLAIN = str.maketrans(dict(zip("\u201c\u201d\u2018\u2019\u2013\u2014", "\"\"''--", strict=True)))
TEST_SHARE, TEST_PART = 8, 5
"""One topic of so many is for testing, drawn by its name, with those that repeat its passages."""
LICENCE = "PSF-2.0"


@dataset()
def python_topics(
    *,
    tokens: Annotated[int, Field(ge=8, le=8192)] = 64,
    tokenizer: Path | None = None,
    test_windows: Annotated[int, Field(ge=1)] | None = None,
) -> Parts:
    """Return pieces of text, each character labelled with the one after it; whole topics are test.

    With a tokenizer they are its tokens, topic after topic, packed into windows.

    Args:
        tokens: Characters in an item; after the end of a topic nothing is learned or judged. Or,
            with a tokenizer, the tokens in a window.
        tokenizer: A tokenizer.json, a folder with one, or a GGUF file; left out, that of the
            teacher where it has one, else an id is a character.
        test_windows: With a tokenizer, at most so many windows are tested on; left out, all.
    """
    from pydoc_data.topics import topics

    if tokenizer is not None:
        windows = Windows(tokens=tokens, tokenizer=tokenizer, test_windows=test_windows)
        return _packed(topics, windows)
    test = test_topics(topics)
    return Parts(
        train=_split((topics[name] for name in sorted(topics.keys() - test)), tokens),
        test=_split((topics[name] for name in sorted(test)), tokens),
        preprocessing=Preprocessing(
            shape=(tokens,),
            classes=("newline", "space", *CHARACTERS[2:]),
            dtype="int64",
            vocabulary=len(CHARACTERS),
        ),
        licence=LICENCE,
        source=_source(),
    )


def _packed(topics: Mapping[str, str], windows: Windows) -> Parts:
    """Return whole topics as parts, those to test on drawn as they are of characters."""
    documents = [Document(name=name, text=topics[name]) for name in sorted(topics)]
    held_out = test_topics(topics)
    test = [d for d in documents if d.name in held_out]
    train, validation = divided([d for d in documents if d.name not in held_out], VALIDATION_SHARE)
    documents_of = {"train": train, "validation": validation, "test": test}
    parts = parts_of_documents(documents_of, windows, origin="pydoc_data.topics")
    return replace(parts, licence=LICENCE, source=_source())


def test_topics(topics: Mapping[str, str]) -> set[str]:
    """Return the names of the topics for testing; topics that share passages are in one part."""
    names = sorted(topics)
    firsts = groups([topics[name] for name in names])
    return {
        name
        for name, first in zip(names, firsts, strict=True)
        if crc32(names[first].encode()) % TEST_SHARE == TEST_PART
    }


def _source() -> str:
    version = ".".join(platform.python_version_tuple()[:2])
    return f"https://docs.python.org/{version}/reference/"


def _split(texts: Iterable[str], tokens: int) -> Split:
    pieces = [_pieces(_ids(text), tokens) for text in texts]
    x, y = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return Split(x=x, y=y, origin="pydoc_data.topics")


def _ids(text: str) -> NDArray[np.int32]:
    """Return the id of each character; what ASCII has no likeness of is left out."""
    plain = unicodedata.normalize("NFKD", text.translate(PLAIN))
    known = [CHARACTERS.find(character) for character in plain]
    return np.array([number for number in known if number >= 0], np.int32)


def _pieces(ids: NDArray[np.int32], tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the text in pieces (N, tokens), and the same moved by one, (N, tokens)."""
    count = -(-(len(ids) - 1) // tokens)
    size = (count, tokens)
    x, y = np.zeros(size, np.int32), np.full(size, NOT_COUNTED, np.int64)
    x.flat[: len(ids) - 1] = ids[:-1]
    y.flat[: len(ids) - 1] = ids[1:]
    return x, y
