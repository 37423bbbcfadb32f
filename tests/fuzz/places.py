"""Every place of a document that a mutator may change."""

from __future__ import annotations

from typing import Any


def places_of(document: Any) -> list[tuple[Any, Any]]:
    """Return each place as a container, a mapping or a list, and a key of it."""
    places: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        holder = todo.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                todo.append(holder[key])
    return places
