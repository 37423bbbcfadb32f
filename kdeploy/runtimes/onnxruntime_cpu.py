"""ONNX Runtime on the processor.

All graph optimisations, one thread a core that this process may use, no parallel branches; the
threads spin between calls, as is ONNX Runtime's default. Sources: the ONNX Runtime 1.31 Python
API, https://onnxruntime.ai/docs/performance/tune-performance/threading.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.runtimes.contract import DYNAMIC, Answer, Array, Given, Proof, runtime
from kdeploy.runtimes.onnx_cpu import threads_or_all, without_library
from kdeploy.runtimes.onnx_options import cpu_options
from kdeploy.runtimes.onnx_session import OnnxSession

if TYPE_CHECKING:
    from kdeploy.runtimes.dynamic_session import DynamicSession
    from kdeploy.tensor_info import TensorInfo


@runtime(
    formats={"onnx", "dynamic"},
    device="cpu",
    suffixes={".onnx": "onnx", ".dynamic": "dynamic"},
    libraries=("onnxruntime", "onnxruntime-gpu"),
)
class OnnxruntimeCpu:
    """An ONNX file, or several of a dynamic model, in ONNX Runtime's kernels for processors."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: Threads inside an operator; none: all cores that this process may use.
        """
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._threads = threads_or_all(threads)
        self._session: OnnxSession | DynamicSession | None = None

    @staticmethod
    def unavailable() -> str | None:
        return without_library()

    @staticmethod
    def files_of(path: Path) -> list[Path]:
        if path.suffix == DYNAMIC:
            from kdeploy.runtimes.dynamic_file import dynamic_files

            return dynamic_files(path)
        from kdeploy.onnx_graph.checks import files_beside, read_onnx

        return [path, *(path.parent / name for name in files_beside(read_onnx(path)))]

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        if path.suffix == DYNAMIC:
            from kdeploy.runtimes.dynamic_file import dynamic_inputs

            return dynamic_inputs(path)
        from kdeploy.onnx_graph.facts import inputs_of

        return inputs_of(path)

    @staticmethod
    def outputs_of(path: Path) -> tuple[TensorInfo, ...]:
        if path.suffix == DYNAMIC:
            from kdeploy.runtimes.dynamic_file import dynamic_outputs

            return dynamic_outputs(path)
        from kdeploy.onnx_graph.facts import outputs_of

        return outputs_of(path)

    @staticmethod
    def parameters_of(path: Path) -> int:
        if path.suffix == DYNAMIC:
            from kdeploy.runtimes.dynamic_file import dynamic_parameters

            return dynamic_parameters(path)
        from kdeploy.onnx_graph.facts import count_parameters

        return count_parameters(path)

    def open(self, path: Path) -> None:
        if path.suffix == DYNAMIC:
            from kdeploy.runtimes.dynamic_session import DynamicSession

            self._session = DynamicSession(path, self._options, ["CPUExecutionProvider"])
        else:
            self._session = OnnxSession(path, self._options, ["CPUExecutionProvider"])

    @property
    def _opened(self) -> OnnxSession | DynamicSession:
        assert self._session is not None, "a runtime was asked before open"
        return self._session

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._opened.inputs

    def infer(self, given: Given) -> Answer:
        return self._opened.infer(given)

    @property
    def is_early(self) -> Array | None:
        """Return for each row of the last `infer` whether a dynamic model answered it early."""
        return getattr(self._session, "is_early", None)

    def proof_of_use(self) -> Proof:
        return self._opened.proof_of_use()

    def close(self) -> None:
        self._session = None

    def _options(self) -> Any:
        return cpu_options(self._onnxruntime, threads=self._threads)
