"""The child process on a device: opens one file in one runtime and answers one request at a time.

`python -m kdeploy.bench.ssh.device.child FD`, with the requests of `kdeploy.bench.worker`; the
loop that times is the same code. What runs afterwards (proof, answers) is told as it is seen,
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

from kdeploy.bench import measure, memory
from kdeploy.bench.batches import Batches, Stream
from kdeploy.bench.ssh.device.files import file_of
from kdeploy.classes import classes_of
from kdeploy.named_arrays import NamedArrays, given, repeated
from kdeploy.preprocessing import Preprocessing

CHUNK = 64  # items at once, as in `kdeploy.bench.accuracy`
LOGITS = "logits"
MOST_ANSWER_BYTES = 256 * 2**20  # of answers that are brought home as they are
PR_SET_PDEATHSIG = 1  # end with the parent, however that ends
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
        self._file: Any = None
        self._infer: Any = None
        self._batches: list[Any] = []
        self._requests: dict[str, Callable[[Request], Reply]] = {
            "open": self._open,
            "warm_up": self._warm_up,
            "measure": self._measure,
            "keep_busy": self._keep_busy,
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

    def _open(self, request: Request) -> Reply:
        pool = Batches(Path(request["pool"]), request.get("inputs", ()))
        self._batches = pool.cut(request["batch_size"])
        self._file = file_of(request["runtime"], request["threads"])
        empty_bytes = memory.peak_bytes()
        load_seconds = measure.seconds_of(lambda: self._file.open(request["path"]))
        loaded_bytes = memory.peak_bytes()
        state = request.get("state", ())
        self._infer = Stream(self._file.infer, state) if state else self._file.infer
        first_seconds = measure.seconds_of(lambda: self._infer(self._batches[0]))
        return {
            "load_seconds": load_seconds,
            "first_seconds": first_seconds,
            "empty_bytes": empty_bytes,
            "loaded_bytes": loaded_bytes,
        }

    def _warm_up(self, request: Request) -> Reply:
        measure.rest()  # of the first batch
        is_steady, _ = measure.warm_up(
            self._infer,
            self._batches,
            window_seconds=request["window_seconds"],
            limit_seconds=request["limit_seconds"],
        )
        return {"is_steady": is_steady, "is_resting": measure.rest()}

    def _measure(self, request: Request) -> Reply:
        samples, elapsed_seconds = measure.round_of(
            self._infer, self._batches, seconds=request["seconds"], count=request["count"]
        )
        np.save(request["file"], samples)
        return {"elapsed_seconds": elapsed_seconds, "is_resting": measure.rest()}

    def _keep_busy(self, request: Request) -> Reply:
        """Run, so that what it costs can be read from counters of the device."""
        samples, _ = measure.timed(self._infer, self._batches, seconds=request["seconds"], count=1)
        return {"num_batches": len(samples)}

    def _memory(self, request: Request) -> Reply:
        return {"peak_bytes": memory.peak_bytes(), "swapped_bytes": memory.swapped_bytes()}

    def _proof(self, request: Request) -> Reply:
        found: Reply = self._file.proof(Path(request["folder"]))
        return found

    def _predict(self, request: Request) -> Reply:
        """Write the class of each item, or its answers as they are."""
        items = _read(Path(request["items"]))
        apply = Preprocessing.from_dict(request["preprocessing"]).apply
        size = self._chunk(given(apply(repeated(items[:CHUNK], CHUNK))))
        kept: dict[str, list[Any]] = {}
        total = 0
        for start in range(0, len(items), size):
            # Repeated items fill the batch: some files take one batch size only.
            stored = repeated(items[start : start + size], size)
            answer = self._infer(given(apply(stored)))
            if request["answers"] == "classes":
                answer = {"predictions": classes_of(_logits(answer))}
            for name, values in answer.items():
                kept.setdefault(name, []).append(np.array(values[: len(items) - start]))
                total += kept[name][-1].nbytes
            if total > MOST_ANSWER_BYTES:
                raise ValueError(
                    f"the answers to {start + size} of {len(items)} items take {total} bytes, more "
                    "than are brought home"
                )
        # No output is called as a parameter of `savez`.
        told: Reply = {f"answer.{name}": np.concatenate(parts) for name, parts in kept.items()}
        np.savez(request["file"], **told)
        return {}

    def _chunk(self, batch: Any) -> int:
        """Return how many items the file takes at once."""
        try:
            self._infer(batch)
        except Exception:  # the runtimes' errors have no common base; a fixed batch size
            first = self._batches[0]
            return len(next(iter(first.values())) if isinstance(first, dict) else first)
        return CHUNK


def _read(path: Path) -> Any:
    """Return the items that were sent: an array, or several by name."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    with np.load(path) as stored:
        return NamedArrays({name[len("item.") :]: stored[name] for name in stored.files})


def _logits(answer: Mapping[str, Any]) -> Any:
    """Return the output that classes are read of: of several the one that is called so."""
    if len(answer) == 1:
        return next(iter(answer.values()))
    if LOGITS not in answer:
        raise ValueError(f"of the outputs {', '.join(answer)} none is `{LOGITS}`")
    return answer[LOGITS]


if __name__ == "__main__":
    main()
