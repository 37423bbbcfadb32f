"""What kind of file a runtime is given, told from its name, and what the file says of itself.

Each format is some runtime's own: that one's decorator names its suffixes, and its class knows its
files. Nothing here lists formats.
"""

from __future__ import annotations

from pathlib import Path

from kdeploy import registry
from kdeploy.errors import ModelError
from kdeploy.registry import Technique
from kdeploy.tensor_info import TensorInfo

FOLDER = "torch"
"""The format of an artefact's folder: a torch model."""
UNKNOWN = "onnx"
"""What a file without a known suffix is tried as: people name ONNX files as they like."""


def suffixes() -> dict[str, str]:
    """Return the format of each suffix that some runtime calls its own."""
    known = registry.techniques("runtime").values()
    return {suffix: form for t in known for suffix, form in t.facts.get("suffixes", {}).items()}


def formats() -> frozenset[str]:
    """Return all formats that a runtime may open."""
    return frozenset({FOLDER, *suffixes().values()})


def format_of(path: Path) -> str:
    """Return "torch" for an artefact folder, else by suffix; what has no known one is "onnx"."""
    return FOLDER if path.is_dir() else suffixes().get(path.suffix, UNKNOWN)


def files_of(path: Path) -> list[Path]:
    """Return the file, and those beside it that hold its weights."""
    owner = owner_of(format_of(path))
    if owner is None:
        return [path]
    reader = getattr(owner.load(), "files_of", None)
    if reader is not None:
        try:
            found: list[Path] = reader(path)
        except ModelError:  # a fake
            return [path]
        return found
    beside = (path.with_suffix(suffix) for suffix in owner.facts.get("beside", ()))
    return [path, *(file for file in beside if file.is_file())]


def inputs_of(path: Path, form: str) -> tuple[TensorInfo, ...] | None:
    """Return what a file of this format takes; None where nothing can tell without opening it.

    Raises:
        ModelError: it cannot be read.
    """
    owner = owner_of(form)
    reader = getattr(owner.load(), "inputs_of", None) if owner is not None else None
    return None if reader is None else tuple(reader(path))


def outputs_of(path: Path, form: str) -> tuple[TensorInfo, ...] | None:
    """Return what a file of this format gives; None where nothing can tell without opening it.

    Raises:
        ModelError: it cannot be read.
    """
    owner = owner_of(form)
    reader = getattr(owner.load(), "outputs_of", None) if owner is not None else None
    return None if reader is None else tuple(reader(path))


def parameters_of(path: Path, form: str) -> int | None:
    """Return how many numbers a file of this format has learned, None where nothing tells."""
    owner = owner_of(form)
    reader = getattr(owner.load(), "parameters_of", None) if owner is not None else None
    try:
        return None if reader is None else int(reader(path))
    except ModelError:  # a fake
        return None


def owner_of(form: str) -> Technique | None:
    """Return the runtime whose own format this is; None for an artefact's folder."""
    known = registry.techniques("runtime").values()
    return next((t for t in known if form in t.facts.get("suffixes", {}).values()), None)
