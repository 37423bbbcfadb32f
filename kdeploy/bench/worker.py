"""The child process: opens one file in one runtime and answers one request after the other.

`python -m kdeploy.bench.worker FD`: requests come as JSON lines on standard input, replies go as
JSON lines to the descriptor FD. Standard output and error belong to whatever a library prints.
Imports nothing that the runtime does not need, so that its peak memory is the runtime's own: what
is known of the runtime is looked up, and what was asked is checked, by the parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdeploy.bench import measure, memory
from kdeploy.bench.batches import Batches, Stream
from kdeploy.errors import KdeployError
from kdeploy.runtimes.contract import DeviceTimed, Given, Runtime

if TYPE_CHECKING:
    from kdeploy.bench.batches import Infer

PR_SET_PDEATHSIG = 1  # prctl(2): a signal when the parent ends
Request = Mapping[str, Any]
Reply = dict[str, Any]


def main() -> None:
    """Answer requests until standard input ends."""
    # Ctrl-C reaches the whole group; the parent decides, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    session = WorkerSession()
    with os.fdopen(descriptor, "w", buffering=1) as replies:
        for line in sys.stdin:
            replies.write(json.dumps(session.answer(json.loads(line))) + "\n")


class WorkerSession:
    """One opened file and the batches that it is timed on."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._infer: Infer = _before_open
        self._pool: Batches | None = None
        self._batches: list[Any] = []
        self._generation: Any = None
        self._beside_teacher: Any = None
        self._requests: dict[str, Callable[[Request], Reply]] = {
            "open": self._open,
            "fit": self._fit,
            "warm_up": self._warm_up,
            "measure": self._measure,
            "generate": self._generate,
            "device": self._device,
            "serve": self._serve,
            "keep_busy": self._keep_busy,
            "memory": self._memory,
            "proof": self._proof,
            "accuracy": self._accuracy,
            "begin_beside": self._begin_beside,
            "beside": self._beside,
            "end_beside": self._end_beside,
        }

    def answer(self, request: Request) -> Reply:
        """Return the reply to one request: what it asks for, or the error it met."""
        try:
            return {"reply": self._requests[request["do"]](request)}
        except KdeployError as error:
            return {"error": f"{type(error).__name__}: {error.message}"}
        except Exception as error:  # whatever a runtime raises is the configuration's reason
            import traceback

            from kdeploy.untrusted.user_code import described

            traceback.print_exc()
            return {"error": described(error)}

    def _open(self, request: Request) -> Reply:
        path = Path(request["path"])
        kind = getattr(importlib.import_module(request["module"]), request["kind"])
        runtime: Runtime = kind(threads=request["threads"], **request["options"])
        self._pool = Batches(Path(request["pool"]), request.get("inputs", ()))
        self._batches = self._pool.cut(request["batch_size"])
        # After the pool and the libraries, before the file: what the runtime alone takes.
        empty_bytes = memory.peak_bytes()
        load_seconds = measure.seconds_of(lambda: runtime.open(path))
        loaded_bytes = memory.peak_bytes()
        state = request.get("state", ())
        self._infer = Stream(runtime.infer, state) if state else runtime.infer
        if request.get("new_tokens"):
            self._begin_generation(runtime, request["new_tokens"])
        first_seconds = measure.seconds_of(lambda: self._infer(self._batches[0]))
        self._runtime = runtime
        return {
            "load_seconds": load_seconds,
            "first_seconds": first_seconds,
            "empty_bytes": empty_bytes,
            "loaded_bytes": loaded_bytes,
            "has_device_clock": isinstance(runtime, DeviceTimed),
        }

    def _begin_generation(self, runtime: Runtime, new_tokens: int) -> None:
        from kdeploy.bench.scenarios.generate import Generation, prompt_of

        self._generation = Generation(runtime, new_tokens)
        self._infer = self._generation
        self._batches = [prompt_of(batch) for batch in self._batches]

    def _fit(self, request: Request) -> Reply:
        """Look for the largest batch that fits, and go on with it."""
        from kdeploy.bench.scenarios.offline import MemoryBudget, largest_batch

        def run(size: int) -> float:
            batch = self._repeated(size)
            self._infer(batch)  # memory that it keeps is taken once
            return measure.seconds_of(lambda: self._infer(batch))

        room = MemoryBudget(
            run=run,
            peak_bytes=memory.peak_bytes,
            seconds=request["seconds"],
            memory_bytes=request["memory_bytes"],
        )
        found = largest_batch(room.fits, start=len(self._batches[0]))
        if found is not None:
            self._batches = [self._repeated(found)]
        return {"batch_size": found}

    def _warm_up(self, request: Request) -> Reply:
        measure.rest()  # of the first batch
        is_steady, batch_seconds = measure.warm_up(
            self._infer,
            self._batches,
            window_seconds=request["window_seconds"],
            limit_seconds=request["limit_seconds"],
            count=1 if self._generation is not None else 3,
        )
        return {
            "is_steady": is_steady,
            "batch_seconds": batch_seconds,
            "is_resting": measure.rest(),
        }

    def _generate(self, request: Request) -> Reply:
        """Time a round of texts, and the parts of each."""
        assert self._generation is not None, "a text before open"
        self._generation.clear()
        samples, elapsed_seconds = measure.timed(
            self._generation, self._batches, seconds=request["seconds"], count=request["count"]
        )
        np.save(request["file"], samples)
        told = {"elapsed_seconds": elapsed_seconds, "is_resting": measure.rest()}
        return {**told, "parts": self._generation.seconds}

    def _measure(self, request: Request) -> Reply:
        samples, elapsed_seconds = measure.round_of(
            self._infer, self._batches, seconds=request["seconds"], count=request["count"]
        )
        np.save(request["file"], samples)
        # The next round goes on with other items: of a dynamic model their times differ.
        place = len(samples) % len(self._batches)
        self._batches = [*self._batches[place:], *self._batches[:place]]
        return {"elapsed_seconds": elapsed_seconds, "is_resting": measure.rest()}

    def _device(self, request: Request) -> Reply:
        """Time a round by the device's own clock."""
        runtime = self._opened
        assert isinstance(runtime, DeviceTimed), "asked a device without a clock"
        samples = measure.device_round_of(
            self._infer,
            runtime.device_seconds,
            self._batches,
            seconds=request["seconds"],
            count=request["count"],
        )
        np.save(request["file"], samples)
        return {"is_resting": measure.rest()}

    def _serve(self, request: Request) -> Reply:
        from kdeploy.bench.scenarios import server

        measure.timed(self._infer, self._batches, seconds=0, count=measure.AWAKENING_CALLS)
        samples = server.serve(
            self._infer,
            self._batches,
            server.arrivals(request["rate"], request["count"], seed=request["seed"]),
            limit_seconds=request["limit_seconds"],
            late_allowed=request["late_allowed"],
        )
        np.save(request["file"], samples)
        return {"is_resting": measure.rest()}

    def _keep_busy(self, request: Request) -> Reply:
        """Run, so that what it costs can be read from counters of the machine."""
        samples, _ = measure.timed(self._infer, self._batches, seconds=request["seconds"], count=1)
        return {"num_batches": len(samples)}

    def _memory(self, request: Request) -> Reply:
        return {"peak_bytes": memory.peak_bytes(), "swapped_bytes": memory.swapped_bytes()}

    def _proof(self, request: Request) -> Reply:
        from dataclasses import asdict

        return {"proof": asdict(self._opened.proof_of_use())}

    def _accuracy(self, request: Request) -> Reply:
        from kdeploy.bench.accuracy import evaluate, one_or_all
        from kdeploy.data.load import DataReference, load

        data = load(DataReference.from_dict(request["data"]))
        part = data.validation if request["part"] == "validation" else data.test
        early: list[Any] = []

        def infer(x: Any) -> Any:
            answer = one_or_all(self._opened.infer(x))
            early.append(getattr(self._opened, "is_early", None))
            return answer

        metrics, predicted = evaluate(infer, data, batch_size=request["batch_size"], part=part)
        np.save(request["file"], predicted)
        return {
            "metrics": metrics,
            "is_labelled": part.is_labelled,
            **_early_items(early, len(part)),
        }

    def _begin_beside(self, request: Request) -> Reply:
        """Make ready to be judged window by window, beside the teacher."""
        from kdeploy.bench.accuracy import one_or_all
        from kdeploy.bench.beside_teacher import BesideTeacher
        from kdeploy.data.load import DataReference, load

        data = load(DataReference.from_dict(request["data"]))
        part = data.validation if request["part"] == "validation" else data.test
        self._beside_teacher = BesideTeacher(
            lambda x: one_or_all(self._opened.infer(x)),
            data,
            part,
            batch_size=request["batch_size"],
        )
        return {"num_items": len(part), "num_at_once": self._beside_teacher.num_at_once}

    def _beside(self, request: Request) -> Reply:
        """Answer some items: as the teacher, beside it, or alone where it failed."""
        judge, items = self._beside_teacher, (request["start"], request["stop"])
        if request["as"] == "alone":
            judge.answer(*items)
        else:
            answer = judge.write if request["as"] == "teacher" else judge.compare
            answer(*items, Path(request["file"]))
        return {"num_items": request["stop"] - request["start"]}

    def _end_beside(self, request: Request) -> Reply:
        from dataclasses import asdict

        judge, self._beside_teacher = self._beside_teacher, None
        np.save(request["file"], judge.predictions)
        told = {"metrics": judge.metrics, "is_labelled": judge.is_labelled, "reason": judge.reason}
        found = judge.next_tokens
        return {**told, **({} if found is None else {"next_tokens": asdict(found)})}

    def _repeated(self, size: int) -> Given:
        assert self._pool is not None, "a request before open"
        return self._pool.repeated(size)

    @property
    def _opened(self) -> Runtime:
        assert self._runtime is not None, "a request before open"
        return self._runtime


def _early_items(early: list[Any], count: int) -> Reply:
    """Return how many of `count` items left before the last part; nothing of a static file.

    The first calls may be trials, and the last batch is filled up with items of its beginning.
    """
    known = [rows for rows in early if rows is not None]
    if not known:
        return {}
    num_batches = math.ceil(count / len(known[-1]))
    own = np.concatenate(known[-num_batches:])[:count]
    return {"early_items": int(own.sum())}


def _before_open(given: Given) -> Any:
    raise AssertionError("a request before open")


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
