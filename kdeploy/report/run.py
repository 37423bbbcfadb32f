"""Compare runs with their teacher: read the folders, build the rows, draw them in a format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdeploy.errors import InputError, UnknownName
from kdeploy.gate import Gate
from kdeploy.registry import find, techniques
from kdeploy.report.best import best_rows
from kdeploy.report.comparison import Comparison, ResultsFolder, Row, VersionComparison
from kdeploy.report.regression import against as changes
from kdeploy.report.rows import headline_of, ordered, rows_of
from kdeploy.report.run_folder import read_run

TEACHER = "teacher"
MEASUREMENTS = "measurements.jsonl"


def comparison(
    folders: Sequence[Path],
    *,
    baseline: str | None = None,
    gates: Sequence[Gate] = (),
    against: Path | None = None,
) -> Comparison:
    """Return the comparison of all runs.

    Args:
        folders: Folders of runs, folders of such folders, or `measurements.jsonl` files; also
            from several machines.
        baseline: Label or artefact id to compare with; left out, the label "teacher", else the
            first label.
        gates: What the best configuration of each device must hold. With `against`, the gates
            that compare bound the change of each row instead.
        against: Results of an older version.

    Raises:
        InputError: no folder was named.
        FileMissing: a folder has no measurements.
        UnknownName: nothing has the baseline's name.
    """
    if not folders:
        raise InputError("there is nothing to report", hint="name at least one folder of results")
    runs = _runs(folders)
    name = _baseline(runs, baseline)
    rows = rows_of(runs, name)
    headline = headline_of(rows, runs)
    of_change = [gate for gate in gates if against and gate.needs_baseline]
    return Comparison(
        runs=runs,
        baseline=name,
        rows=tuple(ordered(rows, headline)),
        headline=headline,
        best=best_rows(rows, [gate for gate in gates if gate not in of_change]),
        has_gates=bool(gates),
        against=_against(rows, against, of_change) if against else None,
    )


def _runs(folders: Sequence[Path]) -> tuple[ResultsFolder, ...]:
    found = [path for folder in folders for path in _inside(Path(folder))]
    unique = {path.resolve(): path for path in reversed(found)}
    return tuple(read_run(unique[path]) for path in dict.fromkeys(p.resolve() for p in found))


def _inside(path: Path) -> list[Path]:
    """Return the folder itself, or the runs below a folder that has no measurements of its own."""
    if not path.is_dir() or (path / MEASUREMENTS).is_file():
        return [path]
    found = {file.parent for file in path.rglob(MEASUREMENTS)}
    # What lies inside a run, its store, is that run's own.
    return sorted(f for f in found if not found & set(f.parents)) or [path]


def _against(rows: Sequence[Row], before: Path, gates: Sequence[Gate]) -> VersionComparison:
    runs = _runs([before])
    return changes(
        rows, rows_of(runs, _baseline(runs, None)), name=before.resolve().name, gates=gates
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


def _baseline(runs: Sequence[ResultsFolder], wanted: str | None) -> str:
    labels = list(dict.fromkeys(r.label for run in runs for r in run.records))
    ids = {r.artifact for run in runs for r in run.records}
    if wanted is None:
        return TEACHER if TEACHER in labels or not labels else labels[0]
    if wanted not in labels and wanted not in ids:
        raise UnknownName.among("label", wanted, labels, where="the measurements")
    return wanted
