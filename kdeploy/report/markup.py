"""Pieces of markdown: tables, escaped text, and the part of a report that is acted on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kdeploy.errors import shown
from kdeploy.report.comparison import Comparison
from kdeploy.report.decisions import (
    BEST_HEADERS,
    BEST_TITLE,
    CHANGE_HEADERS,
    GATE_HEADERS,
    MOST_GATES,
    best_rows,
    change_rows,
    change_sentence,
    gate_rows,
)
from kdeploy.report.kernels import alarms


def decisions(comparison: Comparison) -> list[str]:
    """Return what must be acted on: kernels that did not run, broken gates, what to ship where."""
    broken = [
        ["**FAILED**", code(gate), *map(escaped, texts)]
        for passed, gate, *texts in gate_rows(comparison)
        if not passed
    ]
    more = f"{len(broken) - MOST_GATES} more are in the JSON." if len(broken) > MOST_GATES else ""
    found = [f"**{escaped(alarm)}**" for alarm in alarms(comparison)]
    found.append(section("Broken gates", GATE_HEADERS, broken[:MOST_GATES], escape=False))
    found.append(more)
    found.append(section(BEST_TITLE, BEST_HEADERS, best_rows(comparison)))
    if comparison.against:
        rows = change_rows(comparison.against, comparison.machines)
        found.append(f"## What changed\n\n{escaped(change_sentence(comparison.against))}")
        found.append(table(CHANGE_HEADERS, rows) if rows else "")
    return found


def left_out(shown: Comparison) -> str:
    """Return how many rows are not shown, "" when all are."""
    count = shown.num_left_out
    return f"{count} more rows are in the csv: `--format csv`." if count else ""


def section(
    heading: str, headers: Sequence[str], rows: Sequence[Sequence[str]], *, escape: bool = True
) -> str:
    """Return a table under its title, "" without rows."""
    return f"## {heading}\n\n{table(headers, rows, escape=escape)}" if rows else ""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, escape: bool = True) -> str:
    """Return a table; `escape` is False where the cells are markdown already."""
    lines = [list(headers), ["---"] * len(headers)]
    lines += [[escaped(text) if escape else text for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Return text in which nothing is markup: markdown viewers run HTML and split at bars."""
    text = re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|(?<=\])[(\[:])", r"\\\1", shown(text))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.split())


def code(text: str) -> str:
    """Return text as code, in a table too."""
    return f"`{' '.join(shown(text).replace('`', '').split())}`".replace("|", "\\|")
