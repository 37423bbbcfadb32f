"""What kind of file a runtime is given, told from its name."""

from __future__ import annotations

from pathlib import Path

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.checks import files_beside, read_onnx

SUFFIXES = {
    ".onnx": "onnx",
    ".engine": "engine",
    ".plan": "engine",
    ".xml": "openvino",
    ".pt2": "torch_export",
}
FORMATS = frozenset({"torch", *SUFFIXES.values()})


def format_of(path: Path) -> str:
    """Return "torch" for an artefact folder, else by suffix; what has no known one is "onnx"."""
    return "torch" if path.is_dir() else SUFFIXES.get(path.suffix, "onnx")


def files_of(path: Path) -> list[Path]:
    """Return the file, and those beside it that hold its weights."""
    if format_of(path) == "onnx":
        try:
            return [path, *(path.parent / name for name in files_beside(read_onnx(path)))]
        except ModelError:  # a fake
            return [path]
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix == ".xml" and weights.is_file() else [path]
