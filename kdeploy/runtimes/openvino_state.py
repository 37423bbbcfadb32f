"""A decoder in OpenVINO that keeps keys and values inside: what it is fed, and one text in it.

https://docs.openvino.ai, "Stateful models"
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

IDS, MASK, PLACES, BEAM = "input_ids", "attention_mask", "position_ids", "beam_idx"
KEPT_EXACT = {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
"""OpenVINO may keep keys and values in bytes, and round what meets codes to 8 bits: then a row
called float would not be, and a decoder with large activations ends elsewhere."""


def has_state(graph: Any) -> bool:
    """Return whether a graph (`openvino.Model`) keeps keys and values of tokens."""
    return bool(graph.get_variables()) and any(IDS in port.names for port in graph.inputs)


class OpenvinoStream:
    """One text; a request of its own holds its cache."""

    def __init__(self, openvino: Any, compiled: Any) -> None:
        """Make an empty text.

        Args:
            openvino: The library.
            compiled: A model with `has_state`.
        """
        self._openvino = openvino
        self._names = [str(port.any_name) for port in compiled.inputs]
        self._request = compiled.create_infer_request()
        self._length, self._pending = 0, -1

    def append(self, ids: NDArray[np.int64]) -> None:
        """Put token ids (tokens,) behind what is there."""
        self.feed(np.asarray(ids, np.int64)[None])

    def next(self) -> int:
        """Return the token of the highest score, and put it behind the others."""
        if self._pending >= 0:
            self.append(np.array([self._pending]))
        self._pending = int(self._scores[0, -1].argmax())
        return self._pending

    def logits(self) -> NDArray[np.float32]:
        """Return the scores (tokens, vocabulary) that the last `append` computed."""
        scores: NDArray[np.float32] = self._scores[0].copy()
        return scores

    def clear(self) -> None:
        """Begin another text."""
        self._request.reset_state()
        self._length, self._pending = 0, -1

    def feed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores (batch, tokens, vocabulary) of tokens (batch, tokens) behind the rest.

        They lie in memory that the next call writes into.
        """
        batch, count = ids.shape
        end = self._length + count
        places = np.broadcast_to(np.arange(self._length, end), ids.shape)
        fed = {
            IDS: ids.astype(np.int64),
            MASK: np.ones((batch, end), np.int64),
            PLACES: np.ascontiguousarray(places),
            BEAM: np.arange(batch, dtype=np.int32),
        }
        for place, name in enumerate(self._names):
            self._request.set_input_tensor(place, self._openvino.Tensor(fed[name]))
        self._request.infer()
        self._length, self._pending = end, -1
        return self._scores

    @property
    def _scores(self) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return scores
