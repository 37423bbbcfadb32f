"""Latencies for compressors: models are exported, and measured side by side as `bench` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from kdeploy import registry
from kdeploy.bench.model_under_test import Configuration, ModelUnderTest, Outcome
from kdeploy.bench.plan import Plan
from kdeploy.bench.rounds import measure_group
from kdeploy.compress.contract import Timing
from kdeploy.data.load import DataReference, load
from kdeploy.errors import ModelError, Unavailable
from kdeploy.machine import allowed_cores
from kdeploy.runtimes.run import formats_of, named
from kdeploy.system.temporary import temporary_folder
from kdeploy.torch_module.named_inputs import each_of

TIMEOUT_SECONDS = 600.0
MINIMUM_COUNT = 16  # calls: two a round of eight


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Measures what it is given; a `kdeploy.compress.contract.Stopwatch`."""

    data: DataReference | None = None
    """Whose items are fed to models that take them; others get seeded noise."""
    watch: Callable[[str], None] = lambda text: None
    """Called with a line for people at every step."""

    def __call__(self, models: Sequence[nn.Module], example: Tensor, timing: Timing) -> list[float]:
        """Return the median latency of one batch of each model, in seconds.

        Raises:
            UnknownName: no such runtime.
            Unavailable: it cannot run here, or opens no ONNX files.
            ModelError: a model cannot be exported or run.
        """
        _check(timing.runtime)
        plan = Plan(
            data=self._fitting(example),
            accuracy=False,
            minimum_seconds=timing.seconds,
            minimum_count=MINIMUM_COUNT,
            timeout_seconds=TIMEOUT_SECONDS,
            energy=False,
        )
        configuration = Configuration(
            runtime=timing.runtime,
            batch_size=timing.batch_size,
            threads=timing.threads or allowed_cores(),
        )
        with temporary_folder("stopwatch") as folder:
            under_test = [_exported(m, example, folder, i) for i, m in enumerate(models)]
            outcomes = measure_group(
                under_test, configuration, plan, with_accuracy=False, watch=self.watch
            )
        return [_median(outcome) for outcome in outcomes]

    def _fitting(self, example: Tensor) -> DataReference | None:
        """Return the data if it has such items: a single layer takes something else."""
        if self.data is None:
            return None
        known = load(self.data).preprocessing
        given = {name: tuple(tensor.shape[1:]) for name, tensor in each_of(example)}
        wanted = {name: one.shape for name, one in known.inputs.items()} or {"": known.shape}
        return self.data if given == wanted else None


def _check(runtime: str) -> None:
    technique, _ = named(runtime, where="what latency is measured on")
    reason = technique.load().unavailable()
    if reason is None and "onnx" not in formats_of(runtime):
        reason = f"it opens {', '.join(sorted(formats_of(runtime)))}, not ONNX files"
    if reason is not None:
        raise Unavailable(
            f"latency cannot be measured on `{runtime}`: {reason}",
            hint="name another runtime; `kdeploy doctor` lists those that run here",
        )


def _exported(model: nn.Module, example: Tensor, folder: Path, index: int) -> ModelUnderTest:
    file = folder / f"{index}.onnx"
    exporter = registry.find("exporter", "onnx")
    defaults = registry.validate(exporter.parameters, {}, where="export.onnx")
    exporter.load()(model, example, file, **defaults)
    return ModelUnderTest(artifact=str(index), label=str(index), path=file, format="onnx")


def _median(outcome: Outcome) -> float:
    if outcome.skipped is not None:
        raise ModelError(
            f"a candidate cannot run on {outcome.configuration.runtime}: {outcome.skipped}",
            hint="leave the latency target out, or name another runtime",
        )
    return float(np.median(np.concatenate(outcome.rounds)))
