"""The child process: opens one file in one runtime and answers one request after the other.

`python -m kdeploy.bench.worker FD`: requests come as JSON lines on standard input, replies go as
JSON lines to the descriptor FD. Standard output and error belong to whatever a library prints.
Imports nothing that the runtime does not need, so that its peak memory is the runtime's own.
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
from kdeploy.errors import KdeployError
from kdeploy.runtimes.contract import Runtime

PR_SET_PDEATHSIG = 1
Request = Mapping[str, Any]
Reply = dict[str, Any]


def main() -> None:
    """Answer requests until standard input ends."""
    # Ctrl-C reaches the whole group; the parent decides, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    session = Session()
    with os.fdopen(descriptor, "w", buffering=1) as replies:
        for line in sys.stdin:
            replies.write(json.dumps(session.answer(json.loads(line))) + "\n")


class Session:
    """One opened file and the batches that it is timed on."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._batches: list[NDArray[np.float32]] = []
        self._requests: dict[str, Callable[[Request], Reply]] = {
            "open": self._open,
            "warm_up": self._warm_up,
            "measure": self._measure,
            "memory": self._memory,
            "proof": self._proof,
            "accuracy": self._accuracy,
        }

    def answer(self, request: Request) -> Reply:
        """Return the reply to one request: what it asks for, or the error it met."""
        try:
            return {"reply": self._requests[request["do"]](request)}
        except KdeployError as error:
            return {"error": f"{type(error).__name__}: {error.message}"}
        except Exception as error:  # whatever a runtime raises is the cell's reason
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def _open(self, request: Request) -> Reply:
        from kdeploy.runtimes.run import check_format, create_runtime

        path = Path(request["path"])
        check_format(request["runtime"], path)
        runtime = create_runtime(request["runtime"], threads=request["threads"])
        pool = np.load(request["pool"])
        size = request["batch_size"]
        self._batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        load_seconds = measure.seconds_of(lambda: runtime.open(path))
        first_seconds = measure.seconds_of(lambda: runtime.infer(self._batches[0]))
        self._runtime = runtime
        measure.rest()
        return {"load_seconds": load_seconds, "first_seconds": first_seconds}

    def _warm_up(self, request: Request) -> Reply:
        is_steady = measure.warm_up(
            self._opened.infer,
            self._batches,
            window_seconds=request["window_seconds"],
            limit_seconds=request["limit_seconds"],
        )
        return {"is_steady": is_steady, "is_resting": measure.rest()}

    def _measure(self, request: Request) -> Reply:
        samples, elapsed_seconds = measure.round_of(
            self._opened.infer, self._batches, seconds=request["seconds"], count=request["count"]
        )
        np.save(request["file"], samples)
        return {"elapsed_seconds": elapsed_seconds, "is_resting": measure.rest()}

    def _memory(self, request: Request) -> Reply:
        return {"peak_bytes": memory.peak_bytes(), "swapped_bytes": memory.swapped_bytes()}

    def _proof(self, request: Request) -> Reply:
        from dataclasses import asdict

        return {"proof": asdict(self._opened.proof_of_use())}

    def _accuracy(self, request: Request) -> Reply:
        from kdeploy.bench.accuracy import evaluate
        from kdeploy.data.load import DataReference, load

        data = load(DataReference.from_dict(request["data"]))
        metrics, predicted = evaluate(self._opened.infer, data, batch_size=len(self._batches[0]))
        np.save(request["file"], predicted)
        return {"metrics": metrics}

    @property
    def _opened(self) -> Runtime:
        assert self._runtime is not None, "a request before open"
        return self._runtime


def _die_with_parent() -> None:
    """Ask the kernel to end this process with its parent, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
