"""A `.pt2` archive of `torch.export`: a graph of torch's operators without the model's code.

An archive that holds anything but a graph and tensors is refused. Source:
https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/export/pt2_archive.html.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name, runtime
from kdeploy.runtimes.torch_archive import check_archive, inputs_of
from kdeploy.runtimes.torch_artifact import answer_of, wrong_input
from kdeploy.tensor_info import TensorInfo

# Operators with weights, by the first part of their name.
ELIGIBLE = frozenset({"conv1d", "conv2d", "conv3d", "linear", "matmul", "lstm", "gru"})


@runtime(formats={"torch_export"}, device="cpu", suffixes={".pt2": "torch_export"})
class TorchExport:
    """An exported graph, its operators called one after the other."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import torch and set its threads for this process.

        Args:
            threads: Threads inside an operator; none: all cores that this process may use.
        """
        import torch

        self._torch: Any = torch
        self._threads = threads or allowed_cores()
        self._module: Any = None
        torch.set_num_threads(self._threads)

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "the library `torch` is not installed: pip install torch"
        return None

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return inputs_of(path)

    def open(self, path: Path) -> None:
        self._path = path
        check_archive(path)
        self._inputs = inputs_of(path)
        try:
            with warnings.catch_warnings():
                # torch 2.11 reads tensors out of bytes; nothing here writes to them.
                warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
                self._module = self._torch.export.load(path).module()
        except Exception as error:  # torch raises what its parts raise, all meaning the same
            raise ModelError(
                f"torch {self._torch.__version__} cannot load {path}: {_first_line(error)}",
                hint="export it again with this version of torch: `kdeploy export torch_export`",
            ) from error

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._inputs

    def infer(self, given: Given) -> Answer:
        feeds = by_name(given, [info.name for info in self._inputs], self._path)
        tensors = [self._torch.from_numpy(feeds[info.name]) for info in self._inputs]
        try:
            with self._torch.inference_mode():
                return answer_of(self._module(*tensors))
        except (AssertionError, RuntimeError) as error:  # guards of the graph are assertions
            raise wrong_input(self._path, feeds, error) from error

    def proof_of_use(self) -> Proof:
        calls = (n.target for n in self._module.graph.nodes if n.op == "call_function")
        operators = Counter(str(getattr(target, "overloadpacket", target)) for target in calls)
        names = {name: name.rpartition(".")[2] for name in operators}
        return Proof(
            provider="torch export, CPU",
            eligible=sum(n for name, n in operators.items() if names[name] in ELIGIBLE),
            operators=dict(sorted(operators.items())),
            settings={"threads": self._threads},
        )

    def close(self) -> None:
        self._module = None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:300]
