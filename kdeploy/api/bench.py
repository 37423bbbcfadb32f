"""`kdeploy.bench`: latency, memory, accuracy and size, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.api import session
from kdeploy.api.comparison import Comparison
from kdeploy.api.data import reference_of
from kdeploy.api.models import File, Model, build_of, source_of
from kdeploy.bench.plan import BenchPlan
from kdeploy.data.load import DataReference
from kdeploy.gate import parse_gates
from kdeploy.pipeline.artifact_data import data_of
from kdeploy.pipeline.side_by_side import bench_side_by_side
from kdeploy.pipeline.single import import_one
from kdeploy.store import live_models
from kdeploy.store.artifact import find_artifact


def bench(
    models: Any,
    *,
    baseline: Any = None,
    gates: Sequence[str] = (),
    data: Any = None,
    out: str | Path | None = None,
    use_cache: bool = True,
    **options: Any,
) -> Comparison:
    """Return what was measured, each file in a process of its own.

    Args:
        models: One or several: nn.Modules, what steps returned, artefacts, files, bundles.
        baseline: What all are compared with, one of them or another.
        gates: What each but the baseline must hold, e.g. "latency.p50: <= 2ms".
        data: What is fed and judged; left out, what the models were made with.
        out: The folder for measurements and report; left out, one that goes with the process.
        use_cache: Whether what was measured before counts.
        options: `runtimes`, `batch_sizes`, `threads`, `effort` and all others of `bench:` in a
            recipe.
    """
    plan = registry.check(BenchPlan, options, where="bench")
    judged = parse_gates(list(gates))
    listed = list(models) if isinstance(models, list | tuple) else [models]
    folder = session.place(out)
    reference = reference_of(data) or _known_data([*listed, baseline])
    names = _Names(folder, reference)
    measured = bench_side_by_side(
        list(dict.fromkeys(names.of(model) for model in listed)),
        plan,
        folder,
        baseline=None if baseline is None else names.of(baseline),
        gates=judged,
        data=reference,
        listener=session.listener(),
        use_cache=use_cache,
    )
    return Comparison(
        drawn=measured.comparison,
        records=measured.records,
        ratios=measured.comparisons,
        verdicts=measured.verdicts,
    )


class _Names:
    """Names models for the pipeline; a module of this process is stored first."""

    def __init__(self, folder: Path, data: DataReference | None) -> None:
        self._folder, self._data = folder, data
        self._stored: dict[str, str] = {}

    def of(self, model: Any) -> str:
        build = build_of(model)
        if not live_models.is_live(build):
            return build
        if build not in self._stored:
            source = source_of(model, data=self._data)
            made = import_one(source, self._folder, session.listener())
            self._stored[build] = str(made.folder)
        return self._stored[build]


def _known_data(models: Sequence[Any]) -> DataReference | None:
    """Return the data that the first of them was made with that knows any."""
    for model in models:
        if isinstance(model, Model | File):
            return data_of(model.artifact)
        if isinstance(model, str | Path):
            known = find_artifact(str(model)) if not str(model).startswith("onnx:") else None
            if known is not None:
                return data_of(known)
    return None
