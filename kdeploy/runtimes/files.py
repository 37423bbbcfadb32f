"""What kind of file a runtime is given, told from its name."""

from __future__ import annotations

from pathlib import Path

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
    """Return the file and, of an OpenVINO model, the weights that always stand beside it."""
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix == ".xml" and weights.is_file() else [path]
