"""What a bundle brings for the place that it goes to: files that emitters write below `deploy/`.

`@emitter(formats={"onnx"}, needs={"http_server"})` marks `(bundle, folder, *, ...) -> None`, in a
file of its name in `emitters/`: it writes into `deploy/NAME` of a bundle what follows from the rest
of it, the same bytes each time. `formats` are those of the models that it is for; without them all.
`needs` names emitters without which it is of no use.

Which emitters a bundle has, and with which parameters, stands in `deploy/emitted.json`: whoever
verifies it has them write again, and compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kdeploy import registry
from kdeploy.errors import KdeployError, ModelError, RecipeError
from kdeploy.package.manifest import Manifest
from kdeploy.package.runner.python.reading import DEPLOY, MOST_TEXT_BYTES, Refused, json_object
from kdeploy.registration import register
from kdeploy.system.temporary import temporary_folder

EMITTED = f"{DEPLOY}emitted.json"
Emitter = TypeVar("Emitter", bound=Callable[..., None])


def emitter(
    *, formats: Iterable[str] = (), needs: Iterable[str] = ()
) -> Callable[[Emitter], Emitter]:
    """Return the decorator of an emitter for files of these formats; without them of all."""

    def mark(write: Emitter) -> Emitter:
        facts = {"formats": formats, "needs": needs}
        return register("emitter", **{name: fact for name, fact in facts.items() if fact})(write)

    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What an emitter reads: an unpacked bundle, and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        return self.folder / self.manifest.model.file

    @property
    def slug(self) -> str:
        """Its name as hosts, images and services may have it: a letter, then `a-z`, `0-9`, `-`."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.manifest.name.lower()).strip("-")[:50]
        return plain if plain[:1].isalpha() else f"model-{plain}".strip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """One emitter with its resolved parameters."""

    name: str
    parameters: Mapping[str, Any]

    @property
    def entry(self) -> dict[str, dict[str, Any]]:
        """Return it as a recipe writes it."""
        return {self.name: dict(self.parameters)}


def emissions(entries: Iterable[Mapping[str, Any]], where: str) -> tuple[Emission, ...]:
    """Return the emitters of `{name: {its parameters}}`, each once, and those that they need.

    Raises:
        UnknownName: there is no such emitter, or it has no such parameter.
        RecipeError: a value that it cannot have, or a name twice.
    """
    found: dict[str, Emission] = {}
    for index, entry in enumerate(entries):
        name, given = registry.parse_one_key(entry, f"{where}[{index}]")
        if name in found:
            raise RecipeError(f"{where}: `{name}` is there twice", hint="name each emitter once")
        found[name] = _emission(name, given, f"{where}[{index}]")
    facts = [registry.find("emitter", name).facts for name in found]
    for name in sorted({name for of_one in facts for name in of_one.get("needs", ())}):
        found.setdefault(name, _emission(name, {}, where))
    return tuple(found.values())


def emissions_of_texts(texts: Sequence[str], where: str = "--emit") -> tuple[Emission, ...]:
    """Return the emitters that `NAME` or `NAME:key=value,...` name; raises as `emissions`."""
    pairs = [registry.parse_text(text, where) for text in texts]
    return emissions([{name: given} for name, given in pairs], where)


def _emission(name: str, given: Mapping[str, Any], where: str) -> Emission:
    technique = registry.find("emitter", name, where=where)
    resolved = registry.validate(technique.parameters, given, where=f"{where}.{name}")
    return Emission(name=name, parameters=resolved)


def check_emissions(emitted: Sequence[Emission], form: str) -> None:
    """Refuse emitters that are not for files of a format, before any work.

    Raises:
        ModelError: one is not.
    """
    for one in emitted:
        known = registry.find("emitter", one.name).facts.get("formats", ())
        if known and form not in known:
            raise ModelError(
                f"`{one.name}` is for a file of {_listed(known)}, and this one is of `{form}`",
                hint=f"leave `--emit {one.name}` out, or export to {sorted(known)[0]}",
            )


def emit(emitted: Sequence[Emission], bundle: Bundle, out: Path) -> None:
    """Write `deploy/` of a bundle into a folder; nothing where nothing is asked for.

    Raises:
        ModelError: the bundle's model is not what an emitter is for.
    """
    if not emitted:
        return
    for one in emitted:
        folder = out / DEPLOY / one.name
        folder.mkdir(parents=True)
        registry.find("emitter", one.name).load()(bundle, folder, **one.parameters)
    told = [one.entry for one in emitted]
    (out / EMITTED).write_text(json.dumps({"emitted": told}, indent=2) + "\n")


def differing(bundle: Bundle, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files below `deploy/` that are not what the emitters named there write.

    Args:
        bundle: Its checksums hold, and it is not trusted.
        names: Of all its files.

    Raises:
        Refused: it does not say which emitters wrote them.
    """
    found = {name for name in names if name.startswith(DEPLOY)}
    if not found:
        return ()
    with temporary_folder("emitted") as again:
        try:
            told = _told(bundle.folder) if EMITTED in found else []
            check_emissions(told, bundle.manifest.model.format)
            emit(told, bundle, again)
        except KdeployError as error:
            raise Refused(f"{EMITTED}: {error.message}") from None
        written = {p.relative_to(again).as_posix() for p in again.rglob("*") if p.is_file()}
        return tuple(
            name
            for name in sorted(found | written)
            if not _are_equal(bundle.folder / name, again / name)
        )


def _told(folder: Path) -> tuple[Emission, ...]:
    told = json_object(folder, EMITTED).get("emitted")
    if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
        raise Refused(f"{EMITTED} is no list of emitters")
    return emissions(told, EMITTED)


def _are_equal(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()) or one.stat().st_size != other.stat().st_size:
        return False
    return all(a == b for a, b in zip(_pieces(one), _pieces(other), strict=True))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(partial(file.read, MOST_TEXT_BYTES), b"")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
