"""Data as a command line writes them: NAME, `NAME:key=value,...`, or a recipe's section in YAML."""

from __future__ import annotations

import re
from typing import Any

from kdeploy.errors import RecipeError
from kdeploy.recipe.read import read_value

_HAS_OPTIONS = re.compile(r"(?P<name>.*?):(?P<options>\s*[A-Za-z_]\w*\s*=.*)", re.DOTALL)
_NEXT_OPTION = re.compile(r",(?=\s*[A-Za-z_]\w*\s*=)")
_SECTION = re.compile(r"\{|name\s*:\s")
FORMS = (
    "write `digits`, `arrays:train=x.npz,test=y.npz`, `path.py:function` or, as in a recipe, "
    "`{name: arrays, train: x.npz, test: y.npz}`"
)


def data_section(text: str, *, where: str = "--data") -> dict[str, Any]:
    """Return the keys of a recipe's `data:` section.

    Raises:
        RecipeError: it has none of the three forms.
    """
    text = text.strip()
    if _SECTION.match(text):
        given = read_value(text if text.startswith("{") else f"{{{text}}}")
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise RecipeError(f"{where}: `{text}` has no `name`", hint=FORMS)
        return {str(key): value for key, value in given.items()}
    found = _HAS_OPTIONS.fullmatch(text)
    name = found["name"] if found else text
    if not name or (":" in name and ".py:" not in name):
        raise RecipeError(f"{where}: `{text}` names no data that can be read", hint=FORMS)
    options = _NEXT_OPTION.split(found["options"]) if found else []
    pairs = [option.partition("=") for option in options]
    return {"name": name, **{key.strip(): read_value(value) for key, _, value in pairs}}
