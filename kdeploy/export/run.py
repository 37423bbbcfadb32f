"""Export a model as a file that another program runs, and let no file out that differs from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import DataError
from kdeploy.export.parity import check_parity, measure_parity
from kdeploy.quantization.contract import Wrapped
from kdeploy.registry import find, validate
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An exported file and how far it is from the model; the worst over all inputs tried."""

    path: Path
    max_abs: float
    """Largest error in standard deviations of the output."""
    cosine: float
    agreement: float
    """Fraction of items with the same first class."""
    required_tolerance: float
    """Largest absolute error, in the output's own unit."""
    size_bytes: int
    opset: int


def export(
    model: nn.Module,
    target: str,
    parameters: Mapping[str, Any],
    data: Dataset,
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
) -> ExportResult:
    """Write `model` to `path`, run the file against the model, and keep it only if they agree.

    Args:
        model: A torch model in evaluation mode; quantized ones are re-encoded for the profile.
        target: The name of an exporter, e.g. `onnx`.
        parameters: Its parameters.
        data: Whose validation part the parity gate runs on; nothing is trained or chosen by it.
        path: The file; its folder is made.
        metadata: Properties to write into the file.

    Raises:
        UnknownName, RecipeError: no such exporter, or a parameter that it does not have.
        ParityFailed: the file computes something else; nothing was left at `path`.
        ModelError: the model cannot be exported or the file cannot be run.
    """
    technique = find("exporter", target)
    resolved = validate(technique.parameters, parameters, where=f"export.{target}")
    if not len(data.validation):
        raise DataError(
            "the parity gate needs validation items", hint="set `data.validation_fraction`"
        )
    rows = data.validation.x[[0, len(data.validation) - 1]]
    example = torch.from_numpy(data.preprocessing.apply(rows))
    model = _for_profile(model.eval(), resolved)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _kept_if_it_passes(path) as unproven:
        technique.load()(model, example, unproven, **resolved)
        opset = _write_metadata(unproven, metadata or {})
        return _proven(model, data, unproven, path, opset)


def _proven(
    model: nn.Module, data: Dataset, unproven: Path, path: Path, opset: int
) -> ExportResult:
    """Return the result of the file, which has stood the parity gate."""
    session = OnnxruntimeCpu()
    session.open(unproven)
    try:
        base = model.base if isinstance(model, Wrapped) else None
        parity = measure_parity(model, session.infer, data, base=base)
    finally:
        session.close()
    check_parity(parity, name=path.name)
    return ExportResult(
        path=path,
        max_abs=parity.max_abs,
        cosine=parity.cosine,
        agreement=parity.agreement,
        required_tolerance=parity.required_tolerance,
        size_bytes=unproven.stat().st_size,
        opset=opset,
    )


def _for_profile(model: nn.Module, resolved: Mapping[str, Any]) -> nn.Module:
    """Return a quantized model in the profile asked for: the reference rounds as the file does."""
    from kdeploy.quantization.pt2e import QuantizedModel

    profile = resolved.get("profile")
    if isinstance(model, QuantizedModel) and profile and profile != model.profile:
        return model.with_profile(profile)
    return model


def _write_metadata(path: Path, metadata: Mapping[str, str]) -> int:
    """Add properties to an ONNX file and return its opset."""
    import onnx

    written = onnx.load(path)
    known = {p.key: p.value for p in written.metadata_props}
    onnx.helper.set_model_props(written, dict(sorted({**known, **metadata}.items())))
    onnx.save(written, path)
    return max(int(o.version) for o in written.opset_import if not o.domain)


@contextlib.contextmanager
def _kept_if_it_passes(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` that becomes it when the block succeeds, and vanishes if not."""
    unproven = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield unproven
        unproven.replace(path)
    finally:
        unproven.unlink(missing_ok=True)
