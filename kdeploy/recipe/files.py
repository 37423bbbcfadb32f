"""What a recipe names on disk: made absolute, and found again where a run was moved."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.errors import FileMissing
from kdeploy.store.artifact import MANIFEST
from kdeploy.store.artifact_schema import ID
from kdeploy.store.moved_paths import went_along
from kdeploy.store.references import names_model
from kdeploy.store.transformers_models import HUGGING_FACE
from kdeploy.untrusted.named_path import named_path

LIBRARIES = ("live", "pytorchcv", "timm", "torchvision")
# A path, also with a function of the file (`/a/build.py:net`), or a module (`/a/nets.build:net`).
_PLACE = re.compile(
    r"(?P<before>(onnx:|transformers:|gguf:)?)(?P<place>/.+?)"
    r"(?P<after>((?<=\.py):\w+|/(?![^/]*\.py:)[A-Za-z_][\w.]*:\w+)?)"
)


def placed(value: Any, folder: Path, where: str) -> Any:
    """Return parameters with all files and folders absolute, relative ones starting at `folder`.

    Raises:
        FileMissing: one of them is not there.
    """
    if isinstance(value, Mapping):
        inner = {k: placed(v, folder, f"{where}.{k}") for k, v in value.items() if k != "args"}
        if names_model(value):
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


def moved_along(value: Any, *, was: Path, now: Path, where: str = "") -> Any:
    """Return a resolved recipe with what is gone from its place taken from where it would be now.

    Args:
        value: The recipe, or a part of it.
        was: The folder that it was written in.
        now: The folder that it is in.
        where: The part, for messages.

    Raises:
        FileMissing: something is in neither place.
    """
    if isinstance(value, Mapping):
        return {
            key: inner
            if key == "args"
            else moved_along(inner, was=was, now=now, where=f"{where}.{key}".lstrip("."))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [
            moved_along(v, was=was, now=now, where=f"{where}[{i}]") for i, v in enumerate(value)
        ]
    found = _PLACE.fullmatch(value) if isinstance(value, str) else None
    if found is None or where == "name" or _exists(found["place"]):
        return value
    moved = went_along(Path(found["place"]), was=was, now=now)
    if _exists(moved):
        return f"{found['before']}{moved}{found['after']}"
    # Data sets fill it by a download, which may have to be done here again.
    if where.endswith(".folder"):
        return value  # one that is filled where it is missing
    raise FileMissing(
        f"{where}: there is no {found['place']}, where it was when this recipe was written in "
        f"{was}, and no {moved}, where it would be now",
        hint=f"write where it is now, or `--set {where}=PATH`",
    )


def _exists(place: str | Path) -> bool:
    return os.path.exists(place)  # noqa: PTH110 - also of what no file can be called


def artifact_place(reference: str, folder: Path) -> str:
    """Return where an artefact is that a recipe in `folder` names, else the reference as it is.

    An id is looked for below the folder, then where the command is called.
    """
    beside = named_path(reference, folder)
    if (beside / MANIFEST).is_file():
        return str(beside.resolve())
    if not ID.fullmatch(reference):
        return reference
    stores = [
        store
        for home in (folder, Path())
        for store in (home / "artifacts", *sorted(home.glob("runs/*/artifacts")))
    ]
    known = [store / reference for store in stores if (store / reference / MANIFEST).is_file()]
    return str(known[0].resolve()) if known else reference


def absolute_build(build: str, folder: Path) -> str:
    """Return a model reference or artefact; of a file, folder or module that is here, the path."""
    place, colon, name = build.partition(":")
    if place in LIBRARIES and name:
        return build  # whatever folder of that name is here
    if place in ("onnx", *HUGGING_FACE):
        return f"{place}:{named_path(name, folder).resolve()}"
    if (path := named_path(place, folder)).exists():
        return f"{path.resolve()}{colon}{name}"
    if named_path(f"{place.replace('.', '/')}.py", folder).exists():
        # A dotted module, not its file: relative imports need the package's name.
        return f"{folder.resolve()}/{build}"  # stays a module: it may import by its package
    return artifact_place(build, folder)
