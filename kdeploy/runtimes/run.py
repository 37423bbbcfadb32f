"""Open a file in a runtime by name, and say which runtimes this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from kdeploy import registry
from kdeploy.errors import FileMissing, ModelError, Unavailable
from kdeploy.runtimes.contract import Runtime

ENGINE_SUFFIXES = (".engine", ".plan")


def states() -> dict[str, str | None]:
    """Return for each runtime why it cannot run here, with the remedy; None when it can."""
    return {
        name: technique.load().unavailable()
        for name, technique in registry.techniques("runtime").items()
    }


def open_runtime(name: str, path: Path, *, threads: int | None = None) -> Runtime:
    """Return the runtime with the file opened.

    Raises:
        UnknownName: there is no such runtime.
        FileMissing: there is no such file.
        Unavailable: the runtime cannot run on this machine, or not as it was asked to.
        ModelError: the runtime does not open files of this format, or this file is broken.
    """
    opened = create_runtime(name, threads=threads)
    check_format(name, path)
    opened.open(path)
    return opened


def create_runtime(name: str, *, threads: int | None = None) -> Runtime:
    """Return the runtime without a file: its library is imported, nothing else has happened."""
    kind = registry.find("runtime", name).load()
    reason = kind.unavailable()
    if reason is not None:
        raise Unavailable(f"runtime `{name}` cannot run here: {reason}", hint="kdeploy doctor")
    return cast("Runtime", kind(threads=threads))


def check_format(name: str, path: Path) -> None:
    """Raise when the file is missing or of a format that the runtime does not open."""
    if not path.exists():
        raise FileMissing(f"there is no {path} to open", hint="name an artefact or an ONNX file")
    formats = registry.find("runtime", name).facts["formats"]
    if format_of(path) not in formats:
        able = [n for n, t in registry.techniques("runtime").items() if _opens(t, path)]
        raise ModelError(
            f"runtime `{name}` opens {_listed(formats)}, and {path} is of format "
            f"`{format_of(path)}`",
            hint=f"runtimes that open it: {_listed(able)}",
        )


def format_of(path: Path) -> str:
    """Return "torch" for an artefact folder, "engine" by suffix, "onnx" for any other file."""
    if path.is_dir():
        return "torch"
    return "engine" if path.suffix in ENGINE_SUFFIXES else "onnx"


def _opens(technique: registry.Technique, path: Path) -> bool:
    return format_of(path) in technique.facts["formats"]


def _listed(names: object) -> str:
    return ", ".join(f"`{name}`" for name in sorted(cast("list[str]", names)))
