"""Scenario `generate`: a prompt, then so many new tokens, each the likeliest; one text at a time.

Each text begins with an empty cache: nothing of an earlier prompt is used. The first token counts
from the prompt's arrival as ids, so it has the making of the cache and the prompt in it; every
later one is a step of its own. End tokens do not end a text. The same clocks are in
onnxruntime-genai's benchmark_e2e.py and in llama.cpp's llama-bench.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import Runtime
from kdeploy.runtimes.generation import Generates

CLOCKS = ("first_token", "prefill", "inter_token")


def prompt_of(given: Any) -> NDArray[np.int64]:
    """Return the ids (tokens,) of a batch of one item, however it is given.

    Raises:
        ModelError: it holds no token ids, or several items.
    """
    ids = np.asarray(next(iter(given.values())) if isinstance(given, Mapping) else given)
    if ids.ndim != 2 or len(ids) != 1 or ids.dtype.kind not in "iu":
        raise ModelError(
            f"the scenario `generate` continues one text of token ids, and was given {ids.dtype} "
            f"{list(ids.shape)}",
            hint="name data of token ids, e.g. `--data python_topics`, and a batch size of 1",
        )
    prompt: NDArray[np.int64] = ids[0].astype(np.int64)
    return prompt


class Generation:
    """Continues prompts in an opened runtime, and remembers how long each part took."""

    def __init__(self, runtime: Runtime, new_tokens: int) -> None:
        """Check that the runtime can.

        Raises:
            ModelError: it has no cache to write text with.
        """
        if not isinstance(runtime, Generates):
            raise ModelError(
                f"`{type(runtime).__name__}` writes no text token by token",
                hint="`onnxruntime_genai`, `torch_eager`, and `openvino` with a file of "
                "`openvino_stateful` do, of a causal language model",
            )
        self._runtime, self._new_tokens = runtime, new_tokens
        self._seconds: dict[str, list[float]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget the times of earlier texts."""
        self._seconds = {name: [] for name in CLOCKS}

    @property
    def seconds(self) -> dict[str, list[float]]:
        """Return the times of all texts since `clear`: of prompts, first and later tokens."""
        return self._seconds

    def __call__(self, ids: NDArray[np.int64]) -> list[int]:
        """Return the tokens behind a prompt (tokens,)."""
        clock, keep = time.perf_counter, self._seconds
        begin = clock()
        stream = self._runtime.stream(len(ids) + self._new_tokens)
        ready = clock()
        stream.append(ids)
        filled = clock()
        found = [stream.next()]
        before = clock()
        keep["prefill"].append(filled - ready)
        keep["first_token"].append(before - begin)
        for _ in range(self._new_tokens - 1):
            found.append(stream.next())
            after = clock()
            keep["inter_token"].append(after - before)
            before = after
        return found
