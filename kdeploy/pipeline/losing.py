"""What a file lost against the one that it was made of, by the measurements, and why INT8 loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdeploy.bench.narrow import narrow_layers
from kdeploy.gate import times_better
from kdeploy.measurement import METRICS, Measurement, read, select
from kdeploy.pipeline.choose import PRACTICAL_DIFFERENCE, records_of
from kdeploy.pipeline.exported import Exported
from kdeploy.store.artifact import Artifact
from kdeploy.units import format_quantity

Records = Sequence[Measurement]
Cell = Mapping[str, Any]
AXES = ("latency.p50", "accuracy.top1", "perplexity", "size", "peak_memory")
"""What a file may be better in than its base."""
EXACT = {"accuracy.top1", "perplexity"}
"""Of the same items, so that there is no noise."""
FAST = {"latency.p50", *EXACT}
"""What a smaller file has to show beside its size."""
MOST_LAYERS = 6


def notes(
    files: Sequence[Exported], models: Sequence[Artifact], records: Records, configuration: Cell
) -> list[str]:
    """Return a sentence for each INT8 file that is slower than its float base, and why it is."""
    found = []
    for file in files:
        base = base_of(file, files, models)
        if base is None or not file.model.is_quantized:
            continue
        own, other = records_of(records, file), records_of(records, base)
        seconds, before = (
            value_in(own, "latency.p50", configuration),
            value_in(other, "latency.p50", configuration),
        )
        if seconds and before and seconds > before * (1 + PRACTICAL_DIFFERENCE):
            found.append(
                f"{file.name} is slower in INT8 than {base.name} in float on "
                f"{configuration['runtime']} "
                f"(p50 {format_quantity(seconds, 's')} against {format_quantity(before, 's')}): "
                f"{_reason(base, value_in(own, 'integer_kernels', configuration))}"
            )
    return found


def warning(
    file: Exported,
    files: Sequence[Exported],
    models: Sequence[Artifact],
    records: Records,
    configuration: Cell,
) -> str:
    """Return why the chosen file should not be shipped, "" where something speaks for it."""
    base = base_of(file, files, models)
    if base is None:
        return ""
    lost = losses(records_of(records, file), records_of(records, base), configuration)
    return f"{file.name} loses against {base.name} in what was measured: {lost}" if lost else ""


def warning_of_artifact(model: Artifact) -> str:
    """Return the same of a model that is packaged by itself, by what its run has measured."""
    run = model.folder.parent.parent
    if not (run / "measurements.jsonl").is_file():
        return ""
    records = read(run)
    own = [r for r in records if r.artifact == model.id]
    runtimes = [r.runtime for r in own if r.metric == "latency.p50" and r.value is not None]
    history = [str(step["id"]) for step in model.manifest["lineage"][:-1]]
    for before in reversed(history) if runtimes else ():
        base = [r for r in records if r.artifact == before]
        lost = losses(own, base, {"runtime": runtimes[0]})
        # An INT8 step before this one is no float base.
        if base and not any(r.metric == "integer_kernels" for r in base):
            label = base[0].label
            return (
                f"{model.label} loses against {label} in what was measured: {lost}" if lost else ""
            )
    return ""


def base_of(
    file: Exported, files: Sequence[Exported], models: Sequence[Artifact]
) -> Exported | None:
    """Return the float file that a file is to be better than; None where there is none.

    Of an INT8 model that of the last float model before it, of another encoding of a float model
    its plain `onnx` file, of a smaller model that of the model before.
    """
    plain = {f.model.id: f for f in reversed(files) if f.file.manifest["technique"] == "onnx"}
    own = plain.get(file.model.id)
    if own is not None and own is not file and not file.model.is_quantized:
        return own
    ids = [m.id for m in models]
    before = models[: ids.index(file.model.id)] if file.model.id in ids else []
    floats = [m.id for m in before if not m.is_quantized and m.id in plain]
    return plain[floats[-1]] if floats else None


def losses(own: Records, base: Records, configuration: Cell) -> str:
    """Return in what the one is worse than the other; "" where enough speaks for it.

    That is speed or accuracy; a file that is smaller and loses both says so.
    """
    worse: dict[str, str] = {}
    better: dict[str, str] = {}
    for metric in AXES:
        value, other = value_in(own, metric, configuration), value_in(base, metric, configuration)
        if value is None or other is None:
            continue
        ratio, unit = times_better(value, other, metric), METRICS[metric].unit
        # Counted metrics have no noise: any difference is one.
        margin = 1.0 if metric in EXACT else 1 + PRACTICAL_DIFFERENCE
        text = f"{metric} {format_quantity(value, unit)} against {format_quantity(other, unit)}"
        if ratio > margin:
            better[metric] = text
        elif ratio * margin < 1:
            worse[metric] = text
    is_lost = worse.keys() and not better.keys()
    is_only_smaller = "latency.p50" in worse and worse.keys() & EXACT and not better.keys() & FAST
    if not is_lost and not is_only_smaller:
        return ""
    still = f" (better only in {'; '.join(better.values())})" if better else ""
    return "; ".join(worse.values()) + still


def value_in(records: Records, metric: str, configuration: Cell) -> float | None:
    """Return what was measured in a configuration; what a runtime measures once counts in all."""
    found = select(records, metric, **configuration) or select(
        records, metric, runtime=configuration["runtime"]
    )
    return next((r.value for r in found if r.value is not None), None)


def _reason(base: Exported, share: float | None) -> str:
    if share is not None and share < 0.5:
        return f"only {share:.0%} of its eligible operators ran on integers"
    narrow, count = narrow_layers(base.file.file)
    if not narrow:
        return "no layer is narrow, but at this size and batch rounding costs more than it saves"
    more = f" and {len(narrow) - MOST_LAYERS} more" if len(narrow) > MOST_LAYERS else ""
    listed = ", ".join(str(layer) for layer in narrow[:MOST_LAYERS])
    return (
        f"{len(narrow)} of {count} layers are narrow and leave blocks of 16 channels of integer "
        f"kernels partly empty: {listed}{more}; wider ones gain from INT8, here the float file is "
        "the faster one"
    )
