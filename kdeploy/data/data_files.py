"""The files and folders that a data reference names: where they are, also after a move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.data.load import DataReference
from kdeploy.data.own_function import is_own_function, named_files
from kdeploy.store.moved_paths import went_along
from kdeploy.untrusted.named_path import named_path

TOKENIZER = "tokenizer"
"""The parameter of data of text that names what cuts it into tokens."""


def files_of(reference: DataReference) -> dict[str, Path]:
    """Return what is read from disk, by the key that names it; `name` is an own function's file."""
    if is_own_function(reference.name):
        own = named_path(reference.name.rpartition(":")[0], reference.folder)
        return {"name": own, **named_files(reference.parameters, reference.folder)}
    known = registry.find("dataset", reference.name, where="data").parameters
    resolved = registry.validate(known, dict(reference.parameters), where="data")
    return {
        key: named_path(value, reference.folder)
        for key, value in resolved.items()
        if isinstance(value, Path)
    }


def absolute(reference: DataReference) -> dict[str, Any]:
    """Return name and parameters with all files absolute, for whoever starts elsewhere."""
    return _with_files(reference, {k: f.resolve() for k, f in files_of(reference).items()})


def with_tokenizer(reference: DataReference, source: Path | None) -> DataReference:
    """Return data of text with a model's own tokenizer, where they take one and name none."""
    if source is None or is_own_function(reference.name):
        return reference
    known = {p.name for p in registry.find("dataset", reference.name, where="data").parameters}
    if TOKENIZER not in known or reference.parameters.get(TOKENIZER) is not None:
        return reference
    return replace(reference, parameters={**reference.parameters, TOKENIZER: source.resolve()})


def found_again(reference: DataReference, folder: Path) -> tuple[DataReference, list[Path]]:
    """Return the data with what is gone from its place taken from where it would have moved to.

    Args:
        reference: As it was when something was made of it.
        folder: What its own folder would be now.

    Returns:
        The reference, and the files that it cannot do without and that are in neither place.
    """
    files = files_of(reference)
    gone = {key: file for key, file in files.items() if not file.exists()}
    moved = {k: went_along(f, was=reference.folder, now=folder) for k, f in gone.items()}
    again = {key: file for key, file in moved.items() if file.exists()}
    needed = _needed(reference)
    missing = [file for key, file in gone.items() if key not in again and key in needed]
    if not again:
        return reference, missing
    if not missing and len(gone) == len(files):
        # All of it went along: names that are relative stay as people wrote them.
        whole = replace(reference, folder=folder)
        if all(file.exists() for file in files_of(whole).values()):
            return whole, []
    own = _with_files(reference, again)
    return replace(reference, name=own.pop("name"), parameters=own), missing


def _needed(reference: DataReference) -> set[str]:
    """Return the keys of the files that are not looked for, or made, where they are missing."""
    if is_own_function(reference.name):
        return {"name"}
    known = registry.find("dataset", reference.name, where="data").parameters
    return {parameter.name for parameter in known if parameter.is_required}


def _with_files(reference: DataReference, files: Mapping[str, Path]) -> dict[str, Any]:
    named = {key: str(file) for key, file in files.items() if key != "name"}
    name = reference.name
    if is_own_function(name) and "name" in files:
        name = f"{files['name']}:{name.rpartition(':')[2]}"
    return {"name": name, **reference.parameters, **named}
