"""One model in its process: what is asked of it, and all that was seen of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdeploy.bench import doubts, energy, nvml
from kdeploy.bench.client import Worker, WorkerFailed
from kdeploy.bench.early_stopping import discarded
from kdeploy.bench.inputs import write_pool
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome, Seconds
from kdeploy.bench.next_tokens import NextTokens
from kdeploy.bench.plan import GENERATE, Part, Plan
from kdeploy.bench.scenarios import server
from kdeploy.bench.serialization import restored
from kdeploy.data.load import DataReference
from kdeploy.errors import KdeployError, Unavailable
from kdeploy.runtimes.contract import Proof
from kdeploy.runtimes.run import available, check_format, device_of
from kdeploy.units import format_quantity

FEW_CALLS: Mapping[str, int] = {"offline": 3, "generate": 1}
"""In a round: each may take as long as the round."""


class ModelSession:
    """One model from its inputs to its outcome; after a failure it is asked nothing more."""

    def __init__(
        self, model: ModelUnderTest, configuration: Configuration, plan: Plan, folder: Path
    ) -> None:
        self.model, self._configuration, self._plan, self._folder = (
            model,
            configuration,
            plan,
            folder,
        )
        self.failure: str | None = None
        self._device = device_of(configuration.runtime)
        self._runtime: dict[str, Any] = {}
        self._input_shape: tuple[int, ...] = ()
        self._ends: dict[str, Any] = {}
        self._is_steady = True
        self._flags: list[str] = []
        self._rounds: list[Seconds] = []
        self._device_rounds: list[Seconds] = []
        self._elapsed_seconds: list[float] = []
        self._parts: dict[str, list[Seconds]] = {}
        self._seen: dict[str, Any] = {}
        self._numbers: dict[str, float] = {}
        self._missing: dict[str, str] = {}
        self._not_told: dict[str, str] = {}
        self._judged: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self._worker.pid

    def prepare(self) -> None:
        """Look up the runtime and write the inputs, before the process starts: that is timed."""
        self._pool = self._folder / "pool"
        try:
            technique, options = available(self._configuration.runtime)
            check_format(self._configuration.runtime, self.model.path)
            pool = write_pool(
                self.model,
                self._plan.data,
                batch_size=self._configuration.batch_size,
                size=self._configuration.size,
                file=self._pool,
            )
        except KdeployError as error:
            self.failure = f"{type(error).__name__}: {error.message}"
            return
        self._runtime = {"module": technique.module, "kind": technique.function, "options": options}
        self._input_shape = pool.shape
        self._ends = {"inputs": pool.inputs, "state": pool.state}
        self._flags += [] if pool.is_real else ["random_inputs"]

    def open(self, worker: Worker) -> None:
        """Open the file in a process that has just been started, and warm it up."""
        self._worker, configuration, plan = worker, self._configuration, self._plan
        reply = self._ask(
            {
                "do": "open",
                **self._runtime,
                "threads": configuration.threads,
                "path": str(self.model.path),
                "pool": str(self._pool),
                **self._ends,
                **({"new_tokens": plan.new_tokens} if self._generates else {}),
                "batch_size": configuration.batch_size,
            }
        )
        self._seen.update(reply)
        self._numbers["cold_start"] = worker.age_seconds
        if configuration.scenario == "offline":
            self._fit()
        reply = self._ask(
            {
                "do": "warm_up",
                "window_seconds": plan.window_seconds,
                "limit_seconds": plan.warm_up_limit_seconds,
            }
        )
        self._seen.update(reply)
        self._is_steady = bool(reply.get("is_steady", True))
        self._slowed = self._slowed_nanoseconds()

    def measure(self) -> None:
        """Take one round; where the device has a clock, a shorter one by that as well."""
        plan = self._plan
        count = math.ceil(plan.minimum_count / plan.rounds)
        if self._configuration.scenario in FEW_CALLS:
            count = FEW_CALLS[self._configuration.scenario]
        file = self._folder / "samples.npy"
        request = {"seconds": plan.window_seconds, "count": count, "file": str(file)}
        reply = self._ask({"do": "generate" if self._generates else "measure", **request})
        if reply:
            self._rounds.append(np.load(file) * 1e-9)
            self._elapsed_seconds.append(reply["elapsed_seconds"])
            for name, seconds in reply.get("parts", {}).items():
                self._parts.setdefault(name, []).append(np.array(seconds))
        if self._seen.get("has_device_clock") and self._ask({"do": "device", **request}):
            self._device_rounds.append(np.load(file) * 1e-9)

    def serve(self, watch: Callable[[str], None]) -> None:
        """Look for the highest rate of random arrivals that keeps the p99 within the limit."""
        limit = self._plan.latency_limit_seconds
        assert limit is not None, "the scenario `server` without a limit"
        if self.failure is not None:
            return
        batch_seconds = self._seen["batch_seconds"]
        capacity, seeds, plan = 1 / batch_seconds, itertools.count(), self._plan

        def holds(rate: float, run: server.ServerRun, seconds: float) -> bool:
            watch(f"{self.model.name}, {rate:.3g} requests/s")
            count = server.num_requests(
                rate, run, capacity=capacity, seconds=seconds, limit_seconds=limit
            )
            is_sure = run is server.CONFIRMING
            late_allowed = discarded(count, 0.99) if is_sure else int(0.01 * count)
            return self._holds(rate, count, limit, late_allowed or 0, seed=next(seeds))

        rate = None
        if batch_seconds < limit:
            rate = server.highest_rate(
                lambda rate: holds(rate, server.SEARCHING, plan.window_seconds),
                lambda rate: holds(rate, server.CONFIRMING, plan.seconds),
                capacity=capacity,
            )
        if rate is not None:
            self._numbers["server_rate"] = rate * self._items
        elif self.failure is None:
            self.failure = (
                f"no rate keeps the p99 within {format_quantity(limit, 's')}:"
                f" one request alone takes {format_quantity(batch_seconds, 's')}"
            )

    def finish(self, *, with_accuracy: bool, stays_open: bool = False) -> None:
        """Ask for the rest, memory first: reading the proof and the data would raise it.

        Args:
            with_accuracy: Whether answers are judged now, all at once.
            stays_open: For answers that are judged after this, beside the teacher's.
        """
        self._seen.update(self._ask({"do": "memory"}))
        if self.failure is not None:
            return
        if self._slowed_nanoseconds() > self._slowed:
            self._flags.append("throttled")
        if self._device == "cuda":
            self._look_at_device_memory()
        if self._plan.energy and self._configuration.scenario != "server":
            self._look_at_energy()
        self._seen.update(self._extra("integer_kernels", {"do": "proof"}))
        if with_accuracy and self._plan.data is not None:
            for part in self._plan.parts:
                self._judge(self._plan.data, part)
        if not stays_open:
            self._worker.close()

    def begin_beside(self, data: DataReference, part: Part) -> dict[str, Any]:
        """Return how many items there are, and how many are asked at once; empty: it cannot."""
        size = self._configuration.batch_size
        asked = {"data": data.to_dict(), "part": part, "batch_size": size}
        return self._extra("accuracy.top1", {"do": "begin_beside", **asked})

    def answer_beside(
        self, items: range, file: Path, *, role: Literal["teacher", "beside", "alone"]
    ) -> bool:
        """Let some items be answered; return whether they were.

        Args:
            items: Which ones.
            file: With the teacher's logits: who answers as the teacher writes it.
            role: Beside the teacher, or alone, where it failed.
        """
        asked = {"start": items.start, "stop": items.stop, "file": str(file), "as": role}
        return bool(self._extra("accuracy.top1", {"do": "beside", **asked}))

    def end_beside(self, part: Part) -> None:
        """Ask what the answers were worth."""
        file = self._folder / "predictions.npy"
        found = self._extra("accuracy.top1", {"do": "end_beside", "file": str(file)})
        self._keep(found, part, file)
        if part == "test" and "next_tokens" in found:
            stored = restored(NextTokens, found["next_tokens"], ())
            self._judged["next_tokens"] = NextTokens(**stored)
        if part == "test" and found.get("reason"):
            self._not_told["divergence.next_token"] = found["reason"]

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def outcome(self, flags: Sequence[str]) -> Outcome:
        """Return all that was seen; `flags` are the doubts about all models alike."""
        if self.failure is not None:
            return Outcome(
                model=self.model,
                configuration=self._configuration,
                skipped=self.failure,
                input_shape=self._input_shape,
            )
        seen, peak_bytes = self._seen, self._seen["peak_bytes"]
        own = [*self._flags, *flags, *doubts.of_warm_up(is_steady=self._is_steady)]
        if self._configuration.scenario != "server":  # waiting times vary by nature
            own += doubts.of_samples(self._rounds)
        return Outcome(
            model=self.model,
            configuration=self._configuration,
            largest_batch=seen.get("largest_batch"),
            input_shape=self._input_shape,
            load_seconds=seen["load_seconds"],
            first_seconds=seen["first_seconds"],
            rounds=tuple(self._rounds),
            elapsed_seconds=tuple(self._elapsed_seconds),
            device_rounds=tuple(self._device_rounds),
            parts={name: tuple(rounds) for name, rounds in self._parts.items()},
            peak_memory_bytes=peak_bytes,
            numbers={
                **self._numbers,
                "load_memory": seen["loaded_bytes"] - seen["empty_bytes"],
                "memory_over_runtime": peak_bytes - seen["empty_bytes"],
            },
            proof=Proof(**seen["proof"]) if "proof" in seen else None,
            **self._judged,
            missing={**self._missing, **self._not_told},
            flags=(*own, *doubts.of_memory(swapped_bytes=seen["swapped_bytes"])),
        )

    def _judge(self, data: DataReference, part: Part) -> None:
        """Ask for answers on a part of the data, and what they are worth."""
        file = self._folder / "predictions.npy"
        request = {
            "do": "accuracy",
            "data": data.to_dict(),
            "part": part,
            "batch_size": self._configuration.batch_size,
            "file": str(file),
        }
        found = self._extra("accuracy.top1", request)
        self._keep(found, part, file)
        if part == "test" and "early_items" in found:
            self._numbers["early_items"] = found["early_items"]

    def _keep(self, found: Mapping[str, Any], part: Part, file: Path) -> None:
        """Keep what answers were worth, none where they failed."""
        prefix = "validation_" if part == "validation" else ""
        if found:
            self._judged[f"{prefix}accuracy"] = found["metrics"]
            self._judged[f"{prefix}predictions"] = np.load(file)
        if part == "test" and not found.get("is_labelled", True):
            self._not_told["accuracy.top1"] = "the test items have no labels"

    def _fit(self) -> None:
        limit = self._plan.memory_limit_bytes
        assert limit is not None, "the scenario `offline` without a limit"
        seconds = self._plan.window_seconds
        reply = self._ask({"do": "fit", "seconds": seconds, "memory_bytes": limit})
        if reply and reply["batch_size"] is None:
            self.failure = (
                f"a batch of {self._configuration.batch_size} does not fit: it takes longer than"
                f" {format_quantity(seconds, 's')} or more than {format_quantity(limit, 'B')}"
            )
        elif reply:
            self._seen["largest_batch"] = reply["batch_size"]
            self._numbers["offline_batch_size"] = reply["batch_size"]

    def _holds(
        self, rate: float, count: int, limit: float, late_allowed: int, *, seed: int
    ) -> bool:
        """Return whether no more than so many of the requests are late."""
        longest_seconds = max(self._plan.timeout_seconds, 1.1 * self._plan.seconds)
        if count / rate > longest_seconds and self.failure is None:
            self.failure = (
                f"{count} requests at {rate:.3g} a second take longer than"
                f" {longest_seconds:g} s: raise `timeout_seconds`"
            )
        file = self._folder / "served.npy"
        reply = self._ask(
            {
                "do": "serve",
                "rate": rate,
                "count": count,
                "seed": seed,
                "limit_seconds": limit,
                "late_allowed": late_allowed,
                "file": str(file),
            },
            expected_seconds=count / rate,
        )
        if not reply:
            return False
        samples = np.load(file) * 1e-9
        self._rounds = np.array_split(samples, self._plan.rounds)
        return len(samples) == count and int(np.sum(samples > limit)) <= late_allowed

    def _look_at_device_memory(self) -> None:
        try:
            self._numbers["device_memory"] = nvml.memory_bytes(self.pid)
        except Unavailable as error:
            reason = f"device memory is not told here: {_with_remedy(error)}"
            self._not_told["device_memory"] = reason

    def _look_at_energy(self) -> None:
        try:
            meter = energy.Meter(self._device)
            asked = {"do": "keep_busy", "seconds": energy.WINDOW_SECONDS}
            self._seen.update(self._extra("energy", asked))
            joules = meter.joules()
        except Unavailable as error:
            self._not_told["energy"] = f"energy is not measurable here: {_with_remedy(error)}"
            return
        if "num_batches" in self._seen:
            items = self._seen["num_batches"] * self._items
            self._numbers["energy"] = joules / items

    @property
    def _generates(self) -> bool:
        return self._configuration.scenario == GENERATE

    @property
    def _items(self) -> int:
        """Return the items of a batch that is timed."""
        return int(self._seen.get("largest_batch", self._configuration.batch_size))

    def _slowed_nanoseconds(self) -> int:
        return nvml.slowed_nanoseconds() if self._device == "cuda" else 0

    def _ask(self, request: dict[str, Any], *, expected_seconds: float = 0.0) -> dict[str, Any]:
        """Return the reply, empty after a failure."""
        if self.failure is not None:
            return {}
        try:
            return self._worker.ask(request, expected_seconds=expected_seconds)
        except WorkerFailed as error:
            self.failure = error.message
            self._worker.close()
            return {}

    def _extra(self, metric: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to what may fail without taking the times with it; then it is empty."""
        if self.failure is not None or self._missing:
            return {}
        try:
            return self._worker.ask(request)
        except WorkerFailed as error:
            self._missing[metric] = error.message
            return {}


def _with_remedy(error: KdeployError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
