"""A text as a cell of comma-separated values: text for a spreadsheet too, never a formula."""

from __future__ import annotations

from typing import Any

from kdeploy.errors import spelt_out

FORMULAS = ("=", "+", "-", "@", "\t", "\n")
"""What spreadsheets run when a cell begins with it (OWASP, "CSV injection")."""


def csv_cell(value: Any) -> Any:
    """Return the value; a text that begins like a formula has an apostrophe before it.

    Control characters are spelt out.
    """
    if not isinstance(value, str):
        return value
    text = spelt_out(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULAS) else text
