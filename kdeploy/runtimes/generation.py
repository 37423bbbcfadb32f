"""What a runtime that writes text one token at a time can do: a cache, prompts, the next token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import Given, by_name

TEXT_AXES = 2


class TokenStream(Protocol):
    """One text: a cache of keys and values that nothing has been put into yet."""

    def append(self, ids: NDArray[np.int64]) -> None:
        """Put token ids (tokens,) behind what is there, and compute what comes next."""
        ...

    def next(self) -> int:
        """Return the token of the highest score, and put it behind the others."""
        ...

    def logits(self) -> NDArray[np.float32]:
        """Return the scores (tokens, vocabulary) that the last `append` computed."""
        ...


@runtime_checkable
class Generates(Protocol):
    """A runtime whose opened file keeps keys and values from token to token."""

    def stream(self, longest: int) -> TokenStream:
        """Return an empty text of at most so many tokens; nothing of an earlier one is used."""
        ...


def token_ids(given: Given, name: str, path: Path) -> NDArray[np.int64]:
    """Return the ids (batch, tokens) of texts of one length, as a file is given them.

    Args:
        given: One array, or that of the input.
        name: Of the input.
        path: The file, for messages.

    Raises:
        ModelError: they are no such ids.
    """
    ids = np.asarray(by_name(given, [name], path)[name])
    if ids.ndim != TEXT_AXES or ids.dtype.kind not in "iu":
        raise ModelError(
            f"{path} takes token ids (batch, tokens), and was given {ids.dtype} {list(ids.shape)}",
            hint="name data of token ids, e.g. `--data python_topics`",
        )
    return ids.astype(np.int64)


def greedy(stream: TokenStream, prompt: Sequence[int], count: int) -> list[int]:
    """Return so many tokens behind a prompt, each the one of the highest score."""
    stream.append(np.asarray(prompt, np.int64))
    return [stream.next() for _ in range(count)]


def step_by_step(
    open_stream: Callable[[], TokenStream], ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the scores (tokens, vocabulary) of a text that is fed one token after the other."""
    stream = open_stream()
    rows = []
    for token in ids:
        stream.append(np.array([token]))
        rows.append(stream.logits()[-1])
    return np.stack(rows)
