"""The gallery: subjects of `models/` from a teacher to INT8 files in two runtimes, by one command.

    python benchmarks/suites/gallery.py imagenet_mobilenet

Runs the subject's recipes (what is there already is not made again) and writes a table: the task's
metric, agreement with the teacher, p50 against that of the first file in the same runtime, size,
parameters and peak memory of each file. A subject whose packages are not installed is skipped, with
the command that installs them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shared.running import conditions, here, parser_of, results_folder, table
from kdeploy.errors import Unavailable
from kdeploy.machine import Machine
from kdeploy.measurement import METRICS, Measurement, read
from kdeploy.units import format_quantity

MODELS = Path("models")
SHOWN = ("latency.p50", "size", "parameters", "peak_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What makes the runs of a subject: recipes, or a program that writes a folder for each."""

    recipes: tuple[str, ...]
    program: str = ""

    def commands(self, name: str, out: Path) -> list[list[str]]:
        """Return what is to be run, in order."""
        if self.program:
            return [[str(MODELS / name / self.program), "--out", str(out)]]
        return [
            ["-m", "kdeploy", "run", str(MODELS / name / f"{r}.yaml"), "--out", str(out / r)]
            for r in self.recipes
        ]


SUBJECTS = {
    "detect_objects": Subject(recipes=("recipe",)),
    "imagenet_mobilenet": Subject(recipes=("recipe",)),
    "rapidocr": Subject(recipes=("detector", "reader"), program="make.py"),
    "read_text": Subject(recipes=("recipe",)),
    "segment_objects": Subject(recipes=("recipe",)),
    "sentence_encoder": Subject(recipes=("three_layers", "two_layers"), program="make.py"),
    "text_regions": Subject(recipes=("recipe",)),
    "voice_activity": Subject(recipes=("recipe",)),
}


def main() -> None:
    """Run the subject and write its table; 1 where a gate failed."""
    parser = parser_of(__doc__ or "", work="gallery")
    parser.add_argument("subject", choices=list(SUBJECTS))
    arguments = parser.parse_args()
    name, out = arguments.subject, arguments.work / arguments.subject
    codes = [
        subprocess.run([sys.executable, *command], check=False).returncode
        for command in SUBJECTS[name].commands(name, out)
    ]
    if Unavailable.exit_code in codes:
        print(f"skipped: {name}, for the reason above")
        return
    machine = here()
    text = page(name, [out / recipe for recipe in SUBJECTS[name].recipes], machine)
    print(text)
    folder = results_folder(machine.cpu)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"gallery_{name}.md").write_text(text)
    sys.exit(max(codes))


def page(name: str, runs: Sequence[Path], machine: Machine) -> str:
    """Return the page of a subject: a table a run.

    Args:
        name: The subject's.
        runs: Folders of runs, of which those with measurements are shown.
        machine: What it was measured on.
    """
    lines = [f"# Gallery: {name}", "", conditions(machine, 1), ""]
    for run in runs:
        records = read(run) if run.is_dir() else []
        if records:
            lines += [f"## {run.name}", "", *_table(records), ""]
    lines += [
        "p50 of batch 1 is that of the first file in the same runtime times so much, files side by "
        "side in turns; the range is that of the 95 % intervals. Peak memory is "
        "that of a process that runs the file alone. Doubts about the times, by the tool itself: "
        f"{_doubts(runs)}.",
        "",
        f"Command: `python benchmarks/suites/gallery.py {name}`",
        "",
    ]
    return "\n".join(lines)


def _table(records: Sequence[Measurement]) -> list[str]:
    known = {record.metric for record in records if record.value is not None}
    judged = sorted(name for name in known if METRICS[name].is_judged)
    names = (*judged, *SHOWN)
    cells: dict[tuple[str, str], dict[str, Measurement]] = {}
    for record in records:
        if record.metric in names and record.value is not None:
            cells.setdefault((record.label, record.runtime), {})[record.metric] = record
    measured = {key: found for key, found in cells.items() if "latency.p50" in found}
    first: dict[str, Measurement] = {}
    for (_, runtime), found in measured.items():
        first.setdefault(runtime, found["latency.p50"])
    rows = [
        (label, runtime, *(_cell(found.get(metric), first[runtime]) for metric in names))
        for (label, runtime), found in measured.items()
    ]
    header = " | ".join(("file", "runtime", *(n.removeprefix("latency.") for n in names)))
    return table(header, rows, right=range(2, 2 + len(names)))


def _cell(record: Measurement | None, first: Measurement) -> str:
    if record is None:
        return "-"
    if record.metric == "latency.p50":
        return _times(record, first)
    value = format_quantity(record.value, record.unit)
    return f"{value} (n {record.n})" if METRICS[record.metric].is_judged else value


def _times(record: Measurement, first: Measurement) -> str:
    """Return a time as a multiple of another: on a machine that is shared, that alone holds."""
    value = f"{record.value / first.value:.3g}"
    bounds = (record.low, record.high, first.low, first.high)
    if record is first or None in bounds:
        return value
    low, high, first_low, first_high = bounds
    return f"{value} ({low / first_high:.3g} to {high / first_low:.3g})"


def _doubts(runs: Sequence[Path]) -> str:
    found = {
        flag
        for run in runs
        if run.is_dir()
        for record in read(run)
        if record.metric == "latency.p50"
        for flag in record.flags
    }
    return ", ".join(f"`{flag}`" for flag in sorted(found)) or "none"


if __name__ == "__main__":
    main()
