"""ONNX Runtime's own format, `.ort`: a graph that was optimised before, which loads faster.

Nothing is optimised when it is opened: what the file holds is what runs. The same kernels as of
`onnxruntime_cpu`. https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.errors import FileMissing, ModelError
from kdeploy.runtimes.contract import Answer, Given, Proof, opened, runtime
from kdeploy.runtimes.onnx_cpu import threads_or_all, without_library
from kdeploy.runtimes.onnx_options import cpu_options
from kdeploy.runtimes.onnx_session import OnnxSession

if TYPE_CHECKING:
    from kdeploy.tensor_info import TensorInfo

IDENTIFIER = b"ORTM"
"""Of the flatbuffer, in its bytes 4 to 7."""


@runtime(
    formats={"ort_format"},
    device="cpu",
    suffixes={".ort": "ort_format"},
    libraries=("onnxruntime", "onnxruntime-gpu"),
)
class OrtFormat:
    """An optimised graph in ONNX Runtime's own kernels for processors."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library.

        Args:
            threads: Threads inside an operator; none: all cores that this process may use.
        """
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._threads = threads_or_all(threads)
        self._session: OnnxSession | None = None

    @staticmethod
    def unavailable() -> str | None:
        return without_library()

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return _session_of(path).inputs

    @staticmethod
    def outputs_of(path: Path) -> tuple[TensorInfo, ...]:
        return _session_of(path).outputs

    def open(self, path: Path) -> None:
        _check_beginning(path)
        providers = ["CPUExecutionProvider"]
        self._session = OnnxSession(path, self._options, providers, refusal=_refused)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return opened(self._session).inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What the opened file gives."""
        return opened(self._session).outputs

    def infer(self, given: Given) -> Answer:
        return opened(self._session).infer(given)

    def proof_of_use(self) -> Proof:
        return opened(self._session).proof_by()

    def close(self) -> None:
        self._session = None

    def _options(self) -> Any:
        return cpu_options(self._onnxruntime, threads=self._threads)


def _session_of(path: Path) -> OrtFormat:
    """Return the file opened: nothing else reads the format."""
    opened = OrtFormat(threads=1)
    opened.open(path)
    return opened


def _check_beginning(path: Path) -> None:
    if not path.is_file():
        raise FileMissing(f"there is no file {path}", hint="`kdeploy export ort_format` writes one")
    with path.open("rb") as file:
        found = file.read(8)[4:]
    if found != IDENTIFIER:
        raise ModelError(
            f"{path} is no file of ONNX Runtime's own format: it begins otherwise",
            hint="export it again: `kdeploy export ort_format`",
        )


def _refused(library: str, path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{library} cannot open {path}: {str(error).strip()[:300]}",
        hint="such a file fits the processor and the ONNX Runtime that wrote it: export it here",
    )
