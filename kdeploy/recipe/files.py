"""What a scheme's parameters name on disk, made absolute: whoever builds it knows no recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.errors import FileMissing
from kdeploy.named_path import named_path


def placed(value: Any, folder: Path, where: str) -> Any:
    """Return parameters with all files and folders absolute, relative ones starting at `folder`.

    Raises:
        FileMissing: one of them is not there.
    """
    if isinstance(value, Mapping):
        inner = {k: placed(v, folder, f"{where}.{k}") for k, v in value.items() if k != "args"}
        if "build" in value:
            inner["build"] = absolute_build(value["build"], folder)
        return {**value, **inner}
    if isinstance(value, list | tuple):
        return tuple(placed(inner, folder, f"{where}[{i}]") for i, inner in enumerate(value))
    if not isinstance(value, Path):
        return value
    path = named_path(value, folder, where=where).resolve()
    if not path.exists():
        hint = "relative paths start at the recipe, or where the command is called"
        raise FileMissing(f"{where}: there is no {path}", hint=hint)
    return path


def absolute_build(build: str, folder: Path) -> str:
    """Return a model reference or artefact; of a file, folder or module that is here, the path."""
    place, colon, name = build.partition(":")
    if place in ("onnx", "transformers"):
        return f"{place}:{named_path(name, folder).resolve()}"
    for path in (named_path(place, folder), named_path(f"{place.replace('.', '/')}.py", folder)):
        if path.exists():
            return f"{path.resolve()}{colon}{name}"
    return build
