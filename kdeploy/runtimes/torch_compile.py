"""PyTorch's compiler: the model as `torch.compile` makes it, on the processor or an NVIDIA GPU.

Compiled is for one batch size at a time: for one item while the artefact is opened, so that the
load time holds it, for any other size at its first batch. Weights are frozen into the code. What
the compiler cannot take runs eagerly between two graphs, which the proof of use counts. Source:
https://docs.pytorch.org/docs/stable/generated/torch.compile.html.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from kdeploy.errors import ModelError, Unavailable
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime
from kdeploy.runtimes.torch_artifact import (
    answer_of,
    called,
    count_layers,
    inputs_of,
    open_float,
    preprocessing_of,
    wrong_input,
)
from kdeploy.tensor_info import TensorInfo


@runtime(formats={"torch"}, device="cpu")
class TorchCompile:
    """A torch artefact's model, compiled by inductor."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        mode: Literal["default", "reduce-overhead", "max-autotune"] = "default",
    ) -> None:
        """Import torch and set its threads for this process.

        Args:
            threads: Threads inside an operator; none: all cores that this process may use.
            device: Where it computes: `cpu`, or `cuda` for an NVIDIA GPU.
            mode: What to spend compile time on: `reduce-overhead` records CUDA graphs,
                `max-autotune` times several kernels for each layer.
        """
        import torch

        self._torch: Any = torch
        self._threads = threads or allowed_cores()
        self._device, self._mode = device, mode
        self._model: Any = None
        self._compiled: Any = None
        torch.set_num_threads(self._threads)
        if device == "cuda":
            if not torch.cuda.is_available():
                raise Unavailable(
                    "torch_compile:device=cuda cannot run here: this torch sees no GPU",
                    hint="install its CUDA build, see https://pytorch.org, or leave `device` out",
                )
            self._events = [self._torch.cuda.Event(enable_timing=True) for _ in range(2)]
            # Only here, so that on the processor nobody takes this for a second clock.
            self.device_seconds = self._seconds_between_events

    @staticmethod
    def unavailable() -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "the library `torch` is not installed: pip install torch"
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return f"there is no C++ compiler `{compiler}`: install g++, or name one in CXX"
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            return "Python's own headers (Python.h) are missing: install python3-dev"
        return None

    def open(self, path: Path) -> None:
        self._path = path
        self._model, artifact = open_float(path, "torch_compile")
        self._inputs = inputs_of(self._model, artifact)
        self._model.to(self._device)
        if self._device == "cuda":
            from kdeploy.kernels.cuda_calls import set_tf32

            set_tf32(False)  # by itself cuDNN rounds the factors of convolutions
        with _without_torch_noise():
            from torch import _inductor
            from torch._dynamo.utils import counters

            counters.clear()
            options = {**_inductor.list_mode_options(self._mode), "freezing": True}
            # dynamic=False: with open sizes inductor's kernels are slower, and a measurement has
            # one size.
            self._compiled = self._torch.compile(self._model, dynamic=False, options=options)
            self.infer(preprocessing_of(artifact).example(1))
        self._counters = counters
        if not counters["stats"]["unique_graphs"]:
            raise Unavailable(
                f"torch.compile takes no part of {path}; all of it would run as in torch_eager",
                hint="recurrent layers are left out by torch; export the model as `onnx` instead",
            )

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._inputs

    def infer(self, given: Given) -> Answer:
        torch = self._torch
        run = self._compiled if self._device == "cpu" else self._on_gpu
        try:
            with torch.no_grad():  # under inference_mode weights are not frozen
                return answer_of(called(run, given))
        except torch._dynamo.exc.TorchRuntimeError as error:  # of the model, met while tracing it
            raise wrong_input(self._path, given, error.__cause__ or error) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ModelError(
                f"torch.compile cannot take {self._path}: {str(error).splitlines()[0]}",
                hint="measure it in `torch_eager`",
            ) from error
        except RuntimeError as error:
            raise wrong_input(self._path, given, error) from error

    def proof_of_use(self) -> Proof:
        breaks = dict(self._counters["graph_break"])
        return Proof(
            provider=f"torch inductor, {self._device.upper()}",
            eligible=count_layers(self._model),
            settings={
                "threads": self._threads,
                "mode": self._mode,
                "graphs": self._counters["stats"]["unique_graphs"],
                "graph_breaks": sum(breaks.values()),
            },
            layers=[
                {"name": "graph break", "kernel": "eager", "why": reason.splitlines()[0]}
                for reason in breaks
            ],
        )

    def close(self) -> None:
        self._model = self._compiled = None
        # Compiled code outlives the model: torch keeps it for the process.
        self._torch._dynamo.reset()

    def _on_gpu(self, *given: Any, **named: Any) -> Any:
        """Return the answer on the host; the events stand around the computation alone."""
        start, end = self._events
        placed = [x.to(self._device) for x in given]
        others = {name: x.to(self._device) for name, x in named.items()}
        start.record()
        output = self._compiled(*placed, **others)
        end.record()
        from kdeploy.torch_module.named_outputs import named_outputs

        return {n: x.float().cpu() for n, x in named_outputs(output).items()}

    def _seconds_between_events(self) -> float:
        start, end = self._events
        end.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / 1e3


@contextmanager
def _without_torch_noise() -> Iterator[None]:
    """Silence torch about its own code: importing inductor meets its old script methods.

    On a GPU it recommends TF32 too, which is not what FP32 means.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        yield
