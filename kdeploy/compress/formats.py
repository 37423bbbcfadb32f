"""Which compressors take an ONNX file, by the facts in their decorators."""

from __future__ import annotations

from collections.abc import Set

from kdeploy.errors import RecipeError
from kdeploy.registry import find, techniques


def formats(technique: str) -> Set[str]:
    """Return the kinds of model that a compressor takes: "torch", "onnx"."""
    stated: Set[str] = find("compressor", technique).facts.get("formats") or {"torch"}
    return stated


def check_takes_files(technique: str, *, where: str = "compress") -> None:
    """Refuse a technique that cannot work on an ONNX file.

    Raises:
        RecipeError: it needs a torch model; the hint names those that do not.
    """
    if "onnx" in formats(technique):
        return
    able = ", ".join(f"`{name}`" for name in techniques("compressor") if "onnx" in formats(name))
    raise RecipeError(
        f"{where}: `{technique}` needs a torch model, and here is an ONNX file",
        hint=f"name the `build.py` that it was exported from; files are taken by {able}",
    )
