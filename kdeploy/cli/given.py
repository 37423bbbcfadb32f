"""Whether what was typed is there: told at once, before anything that is slow to import."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdeploy.errors import FileMissing
from kdeploy.store.artifact import is_id, no_file
from kdeploy.store.transformers_models import HUGGING_FACE

FILE = "onnx:"


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
    if is_id(reference) or Path(reference).exists() or (colon and name):
        return
    raise FileMissing(
        f"`{reference}` is neither an artefact nor a model reference",
        hint="name a folder DIR/artifacts/<id>, its id, `build.py:function` or `onnx:FILE`",
    )


def _path(reference: str) -> Path:
    place, _, name = reference.partition(":")
    is_named = name and f"{place}:" in (FILE, *(f"{form}:" for form in HUGGING_FACE))
    return Path(name if is_named else reference).expanduser()
