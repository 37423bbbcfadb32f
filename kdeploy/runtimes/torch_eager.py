"""PyTorch, as the model is written: the reference that every exported file is compared with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.artifact import open_artifact
from kdeploy.errors import ModelError, Unavailable
from kdeploy.machine import allowed_cores
from kdeploy.preprocessing import Inputs
from kdeploy.runtimes.contract import Proof, runtime


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
        from kdeploy.payload import load_model

        artifact = open_artifact(path)
        if artifact.is_quantized:
            raise Unavailable(
                f"torch_eager would emulate INT8 in float; measure the exported file of {path}",
                hint="`kdeploy export onnx`, then measure the file in onnxruntime_cpu or openvino",
            )
        self._path = path
        self._model = load_model(artifact).eval()

    def infer(self, batch: Inputs) -> NDArray[np.float32]:
        torch = self._torch
        try:
            with torch.inference_mode():
                output = self._model(torch.from_numpy(batch))
        except RuntimeError as error:
            raise ModelError(
                f"{self._path} cannot run an input of shape {list(batch.shape)}: {error}",
                hint="check the data's shape against the model's",
            ) from error
        result: NDArray[np.float32] = output.numpy()
        return result

    def proof_of_use(self) -> Proof:
        layers = (self._torch.nn.Conv1d, self._torch.nn.Conv2d, self._torch.nn.Linear)
        eligible = sum(isinstance(module, layers) for module in self._model.modules())
        settings = {"threads": self._threads}
        return Proof(provider="torch eager, CPU", eligible=eligible, settings=settings)

    def close(self) -> None:
        self._model = None
