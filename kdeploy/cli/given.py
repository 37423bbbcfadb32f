"""Whether what was typed is there: told at once, before anything that is slow to import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdeploy.errors import FileMissing, InputError
from kdeploy.store.artifact import MANIFEST, is_id, no_file
from kdeploy.store.transformers_models import HUGGING_FACE

FILE = "onnx:"


def check_arguments(given: Sequence[str]) -> None:
    """Refuse an argument without a letter: as a path it would be the folder one is in.

    Raises:
        InputError: an argument is empty.
    """
    if "" in given:
        place = list(given).index("")
        before = f" after `{given[place - 1]}`" if place else ""
        raise InputError(
            f"the argument{before} is empty", hint="a variable of the shell may not be set"
        )


def check_files(references: Iterable[str]) -> None:
    """Refuse what is neither an artefact, a bundle nor a file.

    Raises:
        FileMissing: there is none of that name.
    """
    for reference in references:
        if not is_id(reference) and not _path(reference).exists():
            raise no_file(reference)


def check_model(reference: str) -> None:
    """Refuse what is neither an artefact nor a model reference; of one with a file, see it there.

    Raises:
        FileMissing: there is no such artefact or file.
    """
    place, colon, name = reference.partition(":")
    if reference.startswith(FILE) or place.endswith(".py"):
        file = _path(reference) if reference.startswith(FILE) else Path(place).expanduser()
        if not file.is_file():
            raise FileMissing(
                f"`{reference}`: there is no file {file}",
                hint="relative paths start where the command is called",
            )
        return
    path = Path(reference).expanduser()
    if is_id(reference) or (path / MANIFEST).is_file() or (colon and name):
        return
    found = ""
    if reference and path.exists():
        found = f"a folder without {MANIFEST}, " if path.is_dir() else "a file, "
    if path.suffix == ".onnx" and path.is_file():
        raise FileMissing(
            f"`{reference}` is a file, and no artefact", hint=f"write `{FILE}{reference}`"
        )
    raise FileMissing(
        f"`{reference}` is {found}neither an artefact nor a model reference",
        hint="name a folder DIR/artifacts/<id>, its id, `build.py:function` or `onnx:FILE`",
    )


def _path(reference: str) -> Path:
    place, _, name = reference.partition(":")
    is_named = name and f"{place}:" in (FILE, *(f"{form}:" for form in HUGGING_FACE))
    return Path(name if is_named else reference).expanduser()
