"""Compare runs with their teacher: read the folders, build the rows, draw them in a format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdeploy.errors import InputError, UnknownName
from kdeploy.registry import find, techniques
from kdeploy.report.comparison import Comparison, Run
from kdeploy.report.rows import headline_of, ordered, rows_of
from kdeploy.report.run_folder import read_run

TEACHER = "teacher"


def comparison(folders: Sequence[Path], *, baseline: str | None = None) -> Comparison:
    """Return the comparison of all runs.

    Args:
        folders: Folders of runs, or `measurements.jsonl` files; also from several machines.
        baseline: Label or artefact id to compare with; left out, the label "teacher", else the
            first label.

    Raises:
        InputError: no folder was named.
        FileMissing: a folder has no measurements.
        UnknownName: nothing has the baseline's name.
    """
    if not folders:
        raise InputError("there is nothing to report", hint="name at least one folder of results")
    unique = dict.fromkeys(Path(f).resolve() for f in folders)
    given = {Path(f).resolve(): Path(f) for f in reversed(folders)}
    runs = tuple(read_run(given[path]) for path in unique)
    name = _baseline(runs, baseline)
    rows = rows_of(runs, name)
    headline = headline_of(rows, runs)
    return Comparison(
        runs=runs, baseline=name, rows=tuple(ordered(rows, headline)), headline=headline
    )


def render(comparison: Comparison, format: str) -> str:
    """Return the comparison as text in a format: a name out of `kdeploy list report_format`.

    Raises:
        UnknownName: there is no such format.
    """
    text: str = find("report_format", format).load()(comparison)
    return text


def format_of(path: Path) -> str:
    """Return the format that a file's name asks for.

    Raises:
        UnknownName: no format has files of that ending.
    """
    endings = {str(t.facts["suffix"]): name for name, t in techniques("report_format").items()}
    if path.suffix.lower() not in endings:
        raise UnknownName.among("report format", path.suffix, endings, where=f"the name {path}")
    return endings[path.suffix.lower()]


def _baseline(runs: Sequence[Run], wanted: str | None) -> str:
    labels = list(dict.fromkeys(r.label for run in runs for r in run.records))
    ids = {r.artifact for run in runs for r in run.records}
    if wanted is None:
        return TEACHER if TEACHER in labels or not labels else labels[0]
    if wanted not in labels and wanted not in ids:
        raise UnknownName.among("label", wanted, labels, where="the measurements")
    return wanted
