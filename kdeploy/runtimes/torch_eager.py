"""PyTorch, as the model is written: the reference that every exported file is compared with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.machine import allowed_cores
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Proof, runtime
from kdeploy.runtimes.torch_artifact import arrays_of, count_layers, open_float, wrong_input


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
        self._model, _ = open_float(path, "torch_eager")

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        return self.infer_all(batch)[0]

    def infer_all(self, batch: Inputs) -> list[NDArray[np.float32]]:
        torch = self._torch
        try:
            with torch.inference_mode():
                output = self._model(torch.from_numpy(batch))
        except RuntimeError as error:
            raise wrong_input(self._path, batch, error) from error
        return arrays_of(output)

    def proof_of_use(self) -> Proof:
        return Proof(
            provider="torch eager, CPU",
            eligible=count_layers(self._model),
            settings={"threads": self._threads},
        )

    def close(self) -> None:
        self._model = None
