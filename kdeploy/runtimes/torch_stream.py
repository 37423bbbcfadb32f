"""Text token by token in PyTorch, by the cache of keys and values that transformers has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def torch_stream(model: Any) -> TorchStream:
    """Return an empty text of a model that is, or holds, a causal language model of transformers.

    Raises:
        ModelError: it is none, and has no cache that is known.
    """
    from kdeploy.torch_module.decoders import decoder_in

    decoder = decoder_in(model)
    if decoder is None:
        raise ModelError(
            f"a `{type(model).__name__}` has no cache of keys and values that is known",
            hint="the scenario `generate` takes causal language models: `transformers:DIR`",
        )
    return TorchStream(decoder)


class TorchStream:
    """One text; the scores of its last position alone are computed."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._cache: Any = None
        self._scores: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._pending: int | None = None

    def append(self, ids: NDArray[np.int64]) -> None:
        import torch

        if self._pending is not None:
            ids = np.concatenate([[self._pending], ids])
            self._pending = None
        with torch.inference_mode():
            answer = self._decoder(
                torch.from_numpy(np.ascontiguousarray(ids, np.int64))[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = answer.past_key_values
        self._scores = answer.logits[0].float().numpy()

    def next(self) -> int:
        if self._pending is not None:
            self.append(np.zeros(0, np.int64))
        self._pending = int(self._scores[-1].argmax())
        return self._pending

    def logits(self) -> NDArray[np.float32]:
        return self._scores
