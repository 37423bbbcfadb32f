"""PyTorch, as the model is written: the reference that every exported file is compared with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime
from kdeploy.runtimes.torch_artifact import (
    answer_of,
    called,
    count_layers,
    inputs_of,
    open_float,
    wrong_input,
)
from kdeploy.runtimes.torch_stream import TorchStream, torch_stream
from kdeploy.tensor_info import TensorInfo


@runtime(formats={"torch"}, device="cpu")
class TorchEager:
    """A torch artefact's model in eval mode, called without recording gradients."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import torch and set its threads for this process.

        Args:
            threads: Threads inside an operator; none: all cores that this process may use.
        """
        import torch

        self._torch = torch
        self._threads = threads or allowed_cores()
        self._model: Any = None
        torch.set_num_threads(self._threads)

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "the library `torch` is not installed: pip install torch"
        return None

    def open(self, path: Path) -> None:
        self._path = path
        self._model, artifact = open_float(path, "torch_eager")
        self._inputs = inputs_of(self._model, artifact)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._inputs

    def infer(self, given: Given) -> Answer:
        try:
            with self._torch.inference_mode():
                return answer_of(called(self._model, given))
        except (RuntimeError, TypeError) as error:
            raise wrong_input(self._path, given, error) from error

    def stream(self, longest: int) -> TorchStream:
        """Return an empty text; the cache grows with it, up to any length."""
        del longest
        return torch_stream(self._model)

    def proof_of_use(self) -> Proof:
        return Proof(
            provider="torch eager, CPU",
            eligible=count_layers(self._model),
            settings={"threads": self._threads},
        )

    def close(self) -> None:
        self._model = None
