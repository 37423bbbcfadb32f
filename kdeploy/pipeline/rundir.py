"""The files of a run that people and scripts read, each replaced in one step."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdeploy import registry
from kdeploy.bench.run import BenchResult
from kdeploy.measurement import write
from kdeploy.onnx_graph.checks import copy_file
from kdeploy.pipeline.exported import Exported
from kdeploy.pipeline.measuring import COMPARISONS, NEXT_TOKENS, PROOFS, VALIDATION
from kdeploy.pipeline.packaging import BUNDLE
from kdeploy.report.comparison import Comparison
from kdeploy.report.run import comparison, render
from kdeploy.report.run_folder import COMMAND
from kdeploy.runtimes.run import this_machine
from kdeploy.system.temporary import locked_folder, sweep

EXPORTS = "exports"
REPORTS = {"report.md": "markdown", "report.html": "html", "measurements.csv": "csv"}


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: a kill leaves the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_command(out: Path, words: Sequence[str]) -> None:
    """Keep what was typed, so that the report can say how to repeat it."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / COMMAND, shlex.join(["kdeploy", *words]) + "\n")


def write_measurements(out: Path, result: BenchResult) -> None:
    """Write what was measured, compared and proven, and the machine that it holds for."""
    write(result.measurements, out / "measurements.jsonl")
    if result.validation:
        write(result.validation, out / VALIDATION)
    write_json(out / COMPARISONS, result.comparisons)
    write_json(out / PROOFS, result.proofs)
    if result.next_tokens:
        write_json(out / NEXT_TOKENS, result.next_tokens)
    else:  # of an earlier run into this folder
        (out / NEXT_TOKENS).unlink(missing_ok=True)
    write_json(out / "machine.json", this_machine().to_dict())


def place_of(item: Exported, out: Path) -> Path:
    """Return where an exported file stands for people, in the folder of a run."""
    own = Path(item.name, item.file.file.name) if is_named_by_others(item) else item.file_name
    return out / EXPORTS / own


def write_exports(out: Path, exported: Sequence[Exported]) -> None:
    """Copy each exported file to `exports/`, under its name for people; with what is beside it."""
    folder = out / EXPORTS
    folder.mkdir(exist_ok=True)
    for item in exported:
        file = item.file.file
        if is_named_by_others(item):
            _write_folder(item, place_of(item, out).parent)
            continue
        if file.suffix == ".onnx":
            _write_onnx(file, folder / item.file_name)
            continue
        for name in item.file.manifest["files"]:
            # Files may name one another: only what is named after the first one is renamed.
            is_own = name == file.name or name == file.with_suffix(Path(name).suffix).name
            is_own |= name.startswith(f"{file.stem}.part-")
            stem = Path(item.file_name).stem
            target = f"{stem}{name.removeprefix(file.stem)}" if is_own else name
            partial = folder / f".{target}.partial"
            shutil.copyfile(item.file.folder / name, partial)
            partial.replace(folder / target)


def is_named_by_others(item: Exported) -> bool:
    """Return whether a file must keep its name, and so has a folder of its own for people."""
    known = registry.techniques("exporter").get(str(item.file.manifest["technique"]))
    return known is not None and known.facts.get("file") == item.file.file.name


def _write_folder(item: Exported, target: Path) -> None:
    sweep(".partial-", target.parent)
    with locked_folder(".partial-", target.parent) as partial:
        whole = partial / target.name
        whole.mkdir()
        for name in item.file.manifest["files"]:
            shutil.copyfile(item.file.folder / name, whole / name)
        shutil.rmtree(target, ignore_errors=True)
        whole.replace(target)


def _write_onnx(file: Path, target: Path) -> None:
    """Copy an ONNX file with its weights, which are named after it, so that two can lie here."""
    sweep(".partial-", target.parent)
    with locked_folder(".partial-", target.parent) as partial:
        copy_file(file, partial / target.name)
        for written in sorted(partial.iterdir(), reverse=True):  # the weights first
            written.replace(target.parent / written.name)


def write_bundle(out: Path, stored: Path) -> None:
    """Unpack the stored bundle to `bundle/`, replacing an older one."""
    partial = out / ".bundle.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(stored / BUNDLE, partial)
    shutil.rmtree(out / BUNDLE, ignore_errors=True)
    partial.rename(out / BUNDLE)


def write_reports(
    out: Path, *, runs: Sequence[Path] = (), baseline: str | None = None
) -> Comparison:
    """Draw the report in every format from the files of the run; return what it says.

    Args:
        out: Where the report goes.
        runs: Folders to compare, each with the measurements of one machine; none: `out` itself.
        baseline: What the rest is compared with.
    """
    drawn = comparison(runs or [out], baseline=baseline)
    for name, form in REPORTS.items():
        write_text(out / name, render(drawn, form))
    return drawn
