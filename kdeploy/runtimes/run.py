"""Open a file in a runtime by name, and say which runtimes this machine has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from kdeploy import registry
from kdeploy.errors import FileMissing, ModelError, Unavailable
from kdeploy.machine import Machine, fingerprint
from kdeploy.runtimes.contract import Runtime
from kdeploy.runtimes.files import format_of


def libraries() -> tuple[str, ...]:
    """Return the distributions that the runtimes are, as package indexes name them."""
    known = registry.techniques("runtime").values()
    return tuple(dict.fromkeys(n for t in known for n in t.facts.get("libraries", ())))


def this_machine() -> Machine:
    """Return what this machine is now, with the versions of all that can run a file on it."""
    return fingerprint(libraries=libraries())


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
    technique, options = available(name)
    return cast("Runtime", technique.load()(threads=threads, **options))


def available(text: str) -> tuple[registry.Technique, dict[str, Any]]:
    """Return what `named` does, of a runtime that can run on this machine.

    Raises:
        Unavailable: it cannot.
    """
    technique, options = named(text)
    reason = technique.load().unavailable()
    if reason is not None:
        raise Unavailable(f"runtime `{text}` cannot run here: {reason}", hint="kdeploy doctor")
    return technique, options


def named(text: str, *, where: str = "") -> tuple[registry.Technique, dict[str, Any]]:
    """Return the runtime that `NAME` or `NAME:key=value,...` names, and its options resolved.

    Raises:
        UnknownName: there is no such runtime, or it has no such option.
        RecipeError: an option without a value, or with one that it cannot have.
    """
    technique = registry.find("runtime", text.partition(":")[0], where=where)
    _, given = registry.parse_text(text, "runtime")
    own = tuple(p for p in technique.parameters if p.name != "threads")
    if not given and not any(parameter.is_required for parameter in own):
        # Checking imports pydantic: 14 MB that a process whose memory is measured need not hold.
        return technique, {parameter.name: parameter.default for parameter in own}
    return technique, registry.validate(own, given, where=f"runtime `{text}`")


def formats_of(text: str) -> frozenset[str]:
    """Return the formats that the runtime named so opens."""
    return frozenset(named(text)[0].facts["formats"])


def device_of(text: str) -> str:
    """Return where the runtime named so computes: an option `device` may say so."""
    technique, options = named(text)
    return str(options.get("device") or technique.facts["device"])


def check_format(name: str, path: Path) -> None:
    """Raise when the file is missing or of a format that the runtime does not open."""
    if not path.exists():
        raise FileMissing(f"there is no {path} to open", hint="name an artefact or an ONNX file")
    if format_of(path) not in formats_of(name):
        able = [n for n in registry.techniques("runtime") if format_of(path) in formats_of(n)]
        raise ModelError(
            f"runtime `{name}` opens {_listed(formats_of(name))}, and {path} is of format "
            f"`{format_of(path)}`",
            hint=f"runtimes that open it: {_listed(able)}",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
