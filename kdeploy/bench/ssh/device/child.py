"""The child process on a device: opens one file in ONNX Runtime and answers one request at a time.

`python -m kdeploy.bench.ssh.device.child FD`, with the requests of `kdeploy.bench.worker`; the
loop that times is the same code. What runs afterwards (proof, predictions) is told as it is seen,
and judged at home.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench import measure, memory
from kdeploy.bench.ssh.device.graph import operators_of
from kdeploy.classes import classes_of
from kdeploy.preprocessing import Preprocessing
from kdeploy.runtimes.onnx_options import cpu_options

CHUNK = 64  # items at once, as in `kdeploy.bench.accuracy`
LOGITS = "logits"
PR_SET_PDEATHSIG = 1  # end with the parent, however that ends
PROVIDER = "CPUExecutionProvider"
Request = Mapping[str, Any]
Reply = dict[str, Any]


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    session = ChildSession()
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as replies:
        for line in sys.stdin:
            replies.write(json.dumps(session.answer(json.loads(line))) + "\n")


class ChildSession:
    """One opened file and the batches that it is timed on."""

    def __init__(self) -> None:
        self._session: Any = None
        self._batches: list[NDArray[Any]] = []
        self._requests: dict[str, Callable[[Request], Reply]] = {
            "open": self._open,
            "warm_up": self._warm_up,
            "measure": self._measure,
            "memory": self._memory,
            "proof": self._proof,
            "predict": self._predict,
        }

    def answer(self, request: Request) -> Reply:
        """Return the reply to one request: what it asks for, or the error it met."""
        try:
            return {"reply": self._requests[request["do"]](request)}
        except Exception as error:  # whatever a runtime raises is the configuration's reason
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}

    def infer(self, batch: NDArray[Any]) -> Any:
        """Return the first output; the path that is timed, so it does nothing else."""
        return self._session.run(self._outputs, {self._input: batch})[0]

    def _open(self, request: Request) -> Reply:
        import onnxruntime

        self._path, self._threads = request["path"], request["threads"]
        pool, size = np.load(request["pool"]), request["batch_size"]
        self._batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        options = cpu_options(onnxruntime, threads=self._threads)

        def load() -> None:
            session = onnxruntime.InferenceSession(self._path, options, providers=[PROVIDER])
            names = [i.name for i in session.get_inputs()]
            if len(names) != 1:
                raise ValueError(
                    f"the file takes {len(names)} inputs ({', '.join(names)}), not one"
                )
            self._session, (self._input,) = session, names
            self._outputs = [session.get_outputs()[0].name]
            self._names = [o.name for o in session.get_outputs()]

        empty_bytes = memory.peak_bytes()
        load_seconds = measure.seconds_of(load)
        loaded_bytes = memory.peak_bytes()
        first_seconds = measure.seconds_of(lambda: self.infer(self._batches[0]))
        return {
            "load_seconds": load_seconds,
            "first_seconds": first_seconds,
            "empty_bytes": empty_bytes,
            "loaded_bytes": loaded_bytes,
        }

    def _warm_up(self, request: Request) -> Reply:
        measure.rest()  # of the first batch
        is_steady, _ = measure.warm_up(
            self.infer,
            self._batches,
            window_seconds=request["window_seconds"],
            limit_seconds=request["limit_seconds"],
        )
        return {"is_steady": is_steady, "is_resting": measure.rest()}

    def _measure(self, request: Request) -> Reply:
        samples, elapsed_seconds = measure.round_of(
            self.infer, self._batches, seconds=request["seconds"], count=request["count"]
        )
        np.save(request["file"], samples)
        return {"elapsed_seconds": elapsed_seconds, "is_resting": measure.rest()}

    def _memory(self, request: Request) -> Reply:
        return {"peak_bytes": memory.peak_bytes(), "swapped_bytes": memory.swapped_bytes()}

    def _proof(self, request: Request) -> Reply:
        """Tell the operators of the file, and of the graph that a session of it executes."""
        import onnxruntime

        executed = Path(request["folder"]) / "executed.onnx"
        options = cpu_options(onnxruntime, threads=self._threads)
        options.log_severity_level = 3  # it warns that the saved graph fits this CPU only
        options.optimized_model_filepath = str(executed)
        try:
            onnxruntime.InferenceSession(self._path, options, providers=[PROVIDER])
            return {
                "provider": self._session.get_providers()[0],
                "operators": operators_of(executed),
                "stored_operators": operators_of(Path(self._path)),
            }
        finally:
            if executed.exists():
                executed.unlink()

    def _predict(self, request: Request) -> Reply:
        if len(self._names) > 1:
            # As at home: of several outputs, classes are read of the one that is called so.
            if LOGITS not in self._names:
                raise ValueError(f"of the outputs {', '.join(self._names)} none is `{LOGITS}`")
            self._outputs = [LOGITS]
        items = np.load(request["items"], mmap_mode="r")
        apply = Preprocessing.from_dict(request["preprocessing"]).apply
        size = self._chunk(apply(np.resize(items[:CHUNK], (CHUNK, *items.shape[1:]))))
        classes = []
        for start in range(0, len(items), size):
            # Repeated items fill the batch: some files take one batch size only.
            stored = np.resize(items[start : start + size], (size, *items.shape[1:]))
            classes.append(classes_of(self.infer(apply(stored))[: len(items) - start]))
        np.save(request["file"], np.concatenate(classes))
        return {}

    def _chunk(self, batch: NDArray[Any]) -> int:
        """Return how many items the file takes at once."""
        try:
            self.infer(batch)
        except Exception:  # onnxruntime's errors have no common base; a fixed batch size
            return len(self._batches[0])
        return CHUNK


if __name__ == "__main__":
    main()
