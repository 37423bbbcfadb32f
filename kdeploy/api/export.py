"""`kdeploy.export`: a file that another program runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.api import session
from kdeploy.api.models import File, source_of
from kdeploy.pipeline.rundir import place_of
from kdeploy.pipeline.single import export_one
from kdeploy.recipe.resolve import Step
from kdeploy.runtimes.files import files_of


def export(
    model: Any,
    target: str = "onnx",
    *,
    data: Any = None,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> File:
    """Return the file, which was run against the model and computes the same.

    Args:
        model: An nn.Module, what another step returned, a reference, an artefact, an ONNX file.
        target: An exporter of `kdeploy list exporter`.
        data: What both are compared on; left out, what the model was made with.
        out: The file, or a folder for it; left out, it goes with the process.
        weights: Of a reference: safetensors, or a state dict (`.pt`, `.pth`).
        args: Of a reference: keyword arguments of its function.
        parameters: The exporter's own, e.g. `profile="cpu"`.

    Raises:
        ParityFailed: the file computes something else; none was written.
    """
    technique = registry.find("exporter", target, where="export")
    resolved = registry.validate(technique.parameters, parameters, where=f"export.{target}")
    is_file = out is not None and Path(out).suffix != ""
    source = source_of(model, data=data, weights=weights, args=args)
    folder = session.place(None if is_file else out)
    made = export_one(
        source, Step(technique=target, parameters=resolved), folder, session.listener()
    )
    if out is None:
        return File(artifact=made.file, path=made.file.file)
    if not is_file:
        return File(artifact=made.file, path=place_of(made, folder))
    return File(artifact=made.file, path=_copied(made.file.file, Path(out)))


def _copied(file: Path, target: Path) -> Path:
    """Copy a file and what stands beside it, by whose names it is found."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for part in files_of(file):
        shutil.copyfile(part, target if part == file else target.parent / part.name)
    return target
