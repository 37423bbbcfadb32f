"""Python's own language reference as characters: which one comes next?

The topics that `help()` shows, from the standard library of the Python that runs: no download. Each
version of Python has a text of its own, about half a million characters.
https://docs.python.org/3/reference/, PSF-2.0.
"""

from __future__ import annotations

import platform
import unicodedata
from collections.abc import Iterable
from typing import Annotated
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdeploy.data.contract import NOT_COUNTED, Parts, Preprocessing, Split, dataset

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""By id: the end of a line, then printable ASCII."""
# Quotation marks and dashes, which have no decomposition in Unicode.
PLAIN = str.maketrans(dict(zip("\u201c\u201d\u2018\u2019\u2013\u2014", "\"\"''--", strict=True)))
TEST_SHARE = 8
"""One topic of so many is for testing, drawn by its name: the same in every version."""


@dataset()
def python_topics(*, tokens: Annotated[int, Field(ge=8, le=1024)] = 64) -> Parts:
    """Return pieces of text, each character labelled with the one after it; whole topics are test.

    Args:
        tokens: Characters in an item; after the end of a topic nothing is learned or judged.
    """
    from pydoc_data.topics import topics

    test = {name for name in topics if crc32(name.encode()) % TEST_SHARE == 5}
    return Parts(
        train=_split((topics[name] for name in sorted(topics.keys() - test)), tokens),
        test=_split((topics[name] for name in sorted(test)), tokens),
        preprocessing=Preprocessing(
            shape=(tokens,),
            classes=("newline", "space", *CHARACTERS[2:]),
            dtype="int64",
            vocabulary=len(CHARACTERS),
        ),
        licence="PSF-2.0",
        source=f"https://docs.python.org/{'.'.join(platform.python_version_tuple()[:2])}/reference/",
    )


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
