"""Files on a device, opened by the runtime that is asked for; each says why it cannot.

ONNX Runtime is driven by code of its own, which needs no later Python; the other runtimes are those
of `kdeploy.runtimes`.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

from kdeploy.bench.ssh.device.graph import operators_of
from kdeploy.runtimes.onnx_options import cpu_options

PROVIDER = "CPUExecutionProvider"
OWN = ("onnxruntime_cpu", "ort_format")
RUNTIMES = (*OWN, "openvino", "litert", "executorch")
OLDEST = (3, 10)  # for the others
Json = dict[str, Any]


def lacks(runtime: str) -> str:
    """Return why a runtime cannot be had here; "" where it can."""
    if runtime in OWN:
        try:
            import onnxruntime  # noqa: F401 - whether it can be imported is the question
        except Exception as error:  # a broken build raises whatever it likes
            return f"onnxruntime {sys.executable} {error}"
        return ""
    if runtime not in RUNTIMES:
        return f"{runtime} is not measured over ssh"
    if sys.version_info[:2] < OLDEST:
        return f"{runtime} needs Python 3.10 there, and it is {sys.version.split()[0]}"
    return _kind(runtime).unavailable() or ""


def file_of(runtime: str, threads: int) -> Any:
    """Return what opens a file: its library is imported, and nothing is loaded yet."""
    return OnnxFile(threads) if runtime in OWN else OtherFile(_kind(runtime)(threads=threads))


def _kind(runtime: str) -> Any:
    """Return the class of a runtime: the one in the file of its name that is marked as one."""
    module = importlib.import_module(f"kdeploy.runtimes.{runtime}")
    return next(f for f in vars(module).values() if getattr(f, "kind", "") == "runtime")


class OnnxFile:
    """An ONNX file, or one of ONNX Runtime's own format, in ONNX Runtime."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        self._library, self._threads = onnxruntime, threads

    def open(self, path: str) -> None:
        """Load the file."""
        options = cpu_options(self._library, threads=self._threads)
        session = self._library.InferenceSession(path, options, providers=[PROVIDER])
        self._path, self._session = path, session
        self._inputs = [i.name for i in session.get_inputs()]
        self._outputs = [o.name for o in session.get_outputs()]

    def infer(self, given: Any) -> Json:
        """Return all outputs by name; the path that is timed, so it does nothing else."""
        if not isinstance(given, dict):
            if len(self._inputs) != 1:
                names = ", ".join(self._inputs)
                raise ValueError(f"the file takes {len(self._inputs)} inputs ({names}), not one")
            given = {self._inputs[0]: given}
        return dict(zip(self._outputs, self._session.run(self._outputs, given)))  # noqa: B905

    def proof(self, folder: Path) -> Json:
        """Tell the operators of the file, and of the graph that a session of it executes."""
        executed = folder / "executed.onnx"
        options = cpu_options(self._library, threads=self._threads)
        options.log_severity_level = 3  # it warns that the saved graph fits this CPU only
        options.optimized_model_filepath = str(executed)
        try:
            self._library.InferenceSession(self._path, options, providers=[PROVIDER])
            operators = operators_of(executed)
            is_onnx = self._path.endswith(".onnx")
            return {
                "provider": self._session.get_providers()[0],
                "operators": operators,
                "stored_operators": operators_of(Path(self._path)) if is_onnx else operators,
            }
        finally:
            if executed.exists():
                executed.unlink()


class OtherFile:
    """A file in a runtime as it runs at home, which proves itself what it ran."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.infer = runtime.infer

    def open(self, path: str) -> None:
        """Load the file."""
        self._runtime.open(Path(path))

    def proof(self, folder: Path) -> Json:
        """Tell what the runtime says of itself."""
        return {"proof": dataclasses.asdict(self._runtime.proof_of_use())}
