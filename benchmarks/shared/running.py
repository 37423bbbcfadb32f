"""What suites do around their measuring: arguments, kept rows, tables, results, verdict."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kdeploy.machine import Machine
from kdeploy.runtimes.run import this_machine

RESULTS = Path(__file__).parents[1] / "results"
Row = dict[str, Any]


def parser_of(doc: str, *, work: str = "", only: Iterable[str] = ()) -> argparse.ArgumentParser:
    """Return a parser for a suite's arguments.

    Args:
        doc: Of the suite; its first line says what it asks.
        work: Of which folder under `runs` its `--work` is, where it has one.
        only: What its `--only` chooses from, where it has one.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    if work:
        parser.add_argument("--work", type=Path, default=Path("runs") / work)
    if only:
        parser.add_argument("--only", nargs="*", choices=list(only), help="these networks")
    return parser


def rows_of(path: Path) -> list[Row]:
    """Return the rows that an earlier call of a suite wrote, one a line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_row(path: Path, row: Row) -> None:
    """Append a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows by what they hold under these names."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def table(header: str, rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return the lines of a table in markdown.

    Args:
        header: The columns' names, ` | ` between them.
        rows: The cells.
        right: The columns of numbers, which end at the right.
    """
    to_the_right = set(right)
    marks = [
        "---:" if index in to_the_right else "---" for index in range(len(header.split(" | ")))
    ]
    lines = [f"| {header} |", f"|{'|'.join(marks)}|"]
    return lines + [f"| {' | '.join(cells)} |" for cells in rows]


def here() -> Machine:
    """Return this machine."""
    return this_machine()


def conditions(machine: Machine, threads: int) -> str:
    """Return the line of a table that says on what it was measured."""
    versions = ", ".join(f"{k} {machine.versions[k]}" for k in ("onnxruntime", "torch"))
    return f"{machine.cpu}, {threads} threads; {', '.join(machine.instruction_sets)}; {versions}"


def results_folder(part: str) -> Path:
    """Return the folder of a machine's results, by the name of the part that computes."""
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")


def write_result(
    name: str, result: Row, text: str, machine: Machine, *, folder: Path | None = None
) -> None:
    """Write the numbers and the table, under this machine's results unless a folder is given."""
    folder = folder or results_folder(machine.cpu)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)


def conclude(name: str, result: Row, text: str, *, holds: bool) -> NoReturn:
    """Print and write the result; end with 1 where what was asked does not hold."""
    machine = here()
    print(text)
    write_result(name, {"machine": machine.to_dict(), **result}, text, machine)
    sys.exit(0 if holds else 1)
