"""A runtime for tests: no library, known answers, and faults on demand.

A file is JSON with any of the keys of `FakeFile` (in an artefact folder: `fake.json`); any other
content means the defaults. So a test of a program that uses kdeploy needs no real model.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import Answer, Given, Proof, runtime
from kdeploy.tensor_info import TensorInfo

Fault = Literal["", "refuse", "error", "garbage", "hang", "crash", "out_of_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeFile:
    """What a fake file says.

    Two files of one seed and class count predict the same. `fault` strikes at call `fault_at`
    (`refuse`: on opening); `garbage` writes to standard output, as libraries do, and goes on.
    """

    latency_seconds: float = 0.0005
    classes: int = 10
    seed: int = 0
    fault: Fault = ""
    fault_at: int = 0
    eligible: int = 0
    integer: int = 0
    is_quantized: bool = False


@runtime(formats={"onnx", "torch"}, device="cpu", opens_anything=True)
class Fake:
    """Sleeps for the file's latency and returns a seeded projection of the batch."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Take the thread count, which changes nothing.

        Args:
            threads: Told back in the proof of use.
        """
        self._threads = threads
        self._file = FakeFile()
        self._calls = 0

    @staticmethod
    def unavailable() -> str | None:
        return None

    def open(self, path: Path) -> None:
        self._file = _read(path / "fake.json" if path.is_dir() else path)
        if self._file.fault == "refuse":
            raise ModelError(f"{path} refuses to open", hint="its `fault` says so")

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return (TensorInfo(name="input", shape=("batch", "..."), dtype="float32"),)

    def infer(self, given: Given) -> Answer:
        batch = given if isinstance(given, np.ndarray) else next(iter(given.values()))
        if self._file.fault and self._calls == self._file.fault_at:
            _strike(self._file.fault)
        self._calls += 1
        time.sleep(self._file.latency_seconds)
        flat = batch.reshape(len(batch), -1)
        weights = np.random.default_rng(self._file.seed).normal(
            size=(flat.shape[1], self._file.classes)
        )
        return {"output": (flat @ weights).astype(np.float32)}

    def proof_of_use(self) -> Proof:
        return Proof(
            provider="fake",
            eligible=self._file.eligible,
            integer=self._file.integer,
            is_quantized=self._file.is_quantized,
            settings={"threads": self._threads},
        )

    def close(self) -> None:
        self._calls = 0


def _read(path: Path) -> FakeFile:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return FakeFile()
    try:
        return FakeFile(**content)
    except TypeError as error:
        raise ModelError(
            f"{path} is no fake file: {error}", hint=f"keys: {', '.join(FakeFile.__slots__)}"
        ) from error


def _strike(fault: Fault) -> None:
    if fault == "error":
        raise RuntimeError("the fake's fault")
    if fault == "garbage":
        os.write(1, b"\x00{not the protocol}\n")
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "crash":
        os.abort()
    elif fault == "out_of_memory":
        import signal

        # As the kernel does it.
        os.kill(os.getpid(), signal.SIGKILL)
