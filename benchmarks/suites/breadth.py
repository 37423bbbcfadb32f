"""Compress architectures of other people: half the MACs pruned, INT8, exported, run.

    python benchmarks/suites/breadth.py [NAME ...] [--out FILE] [--until STEP] [--timeout 1800]

Each architecture goes, in a process of its own, through prune_channels (`target: {macs: 0.5}`),
int8_ptq, the ONNX export with its parity gate, and ONNX Runtime on the CPU: the float original and
the pruned INT8 file take turns at batch 1. The images are noise; nothing here says anything of
accuracy. One line of JSON an architecture is appended to the file, and those that have a line are
skipped: delete a line to run it again. What fails carries the step and its error. Ends with the
table of all lines as markdown, beside the file.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.shared.architectures import ARCHITECTURES, make
from benchmarks.shared.noise import noise
from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import KdeployError
from kdeploy.export.run import export
from kdeploy.runtimes.run import this_machine
from kdeploy.torch_module.complexity import count_macs, count_parameters

STEPS = ("build", "prune_channels", "int8_ptq", "export", "measure")
NUM_IMAGES = 8
ORIGINAL, SMALL = "original", "pruned INT8"


def main() -> None:
    """Run what has no line yet, and write the table."""
    arguments = _arguments()
    if arguments.child:
        _child(arguments)
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {row["name"] for row in _rows(arguments.out)}
    for name in arguments.names or ARCHITECTURES:
        if name not in done:
            row = _in_process(name, arguments)
            print(json.dumps(row), flush=True)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    arguments.out.with_suffix(".md").write_text(_table(_rows(arguments.out), arguments))


def _in_process(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the row of an architecture, whatever becomes of its process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, name, "--child", folder]
        command += ["--until", arguments.until, "--seconds", f"{arguments.seconds:g}"]
        state = Path(folder) / "row.json"
        try:
            ended = subprocess.run(
                command, timeout=arguments.timeout, capture_output=True, text=True, check=False
            )
            reason = (ended.stderr.strip().splitlines() or ["killed"])[-1]
        except subprocess.TimeoutExpired:
            reason = f"took more than {arguments.timeout} s"
        row = json.loads(state.read_text()) if state.exists() else {"name": name, "step": "build"}
        if row["step"] != "done":
            row.setdefault("error", reason)
    return row


def _child(arguments: argparse.Namespace) -> None:
    """Take one architecture through the steps; the row is on disk before each of them."""
    [name], folder = arguments.names, Path(arguments.child)
    trial = Trial(name, folder, arguments.seconds)
    handler = _Kept()
    logging.getLogger("kdeploy").addHandler(handler)
    for step in STEPS[: STEPS.index(arguments.until) + 1]:
        trial.row["step"] = step
        _write(folder, trial.row)
        started = time.perf_counter()
        try:
            getattr(trial, step)()
        except Exception as error:  # any fault of any step is this row's result
            text = str(error) if isinstance(error, KdeployError) else repr(error)
            trial.row["error"] = text.strip().splitlines()[0][:300]
            break
        trial.row["seconds"][step] = round(time.perf_counter() - started, 1)
    else:
        trial.row["step"] = "done"
    trial.row["warnings"] = handler.lines
    _write(folder, trial.row)


class Trial:
    """One architecture and what was seen of it."""

    def __init__(self, name: str, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._size = ARCHITECTURES[name].size
        self.row: dict[str, Any] = {"name": name, "kind": ARCHITECTURES[name].kind}
        self.row |= {"size": self._size, "seconds": {}}

    def build(self) -> None:
        self.original = make(self.row["name"])
        self.data = noise((3, self._size, self._size), NUM_IMAGES)
        self.context = CompressContext(data=self.data)
        self._count(self.original)

    def prune_channels(self) -> None:
        self.model = compress(
            self.original, "prune_channels", {"target": {"macs": 0.5}}, self.context
        )
        self._count(self.model)

    def int8_ptq(self) -> None:
        parameters = {"batch_size": NUM_IMAGES}
        self.model = compress(self.model, "int8_ptq", parameters, self.context)

    def export(self) -> None:
        self.files = {ORIGINAL: self._folder / "original.onnx", SMALL: self._folder / "small.onnx"}
        for label, model in ((ORIGINAL, self.original), (SMALL, self.model)):
            result = export(model, "onnx", {}, self.data, self.files[label])
            self.row.setdefault("bytes", []).append(result.size_bytes)
            self.row.setdefault("parity", []).append(
                {"max_abs": result.max_abs, "cosine": result.cosine}
            )

    def measure(self) -> None:
        result = bench(
            [
                ModelUnderTest(artifact=k, label=k, path=p, format="onnx")
                for k, p in self.files.items()
            ],
            Plan(
                runtimes=["onnxruntime_cpu"],
                data=None,
                accuracy=False,
                minimum_seconds=self._seconds,
                minimum_count=20,
            ),
            baseline=ORIGINAL,
            out=self._folder,
        )
        found = {(m.label, m.metric): m for m in result.measurements}
        skipped = {m.skipped for m in result.measurements if m.skipped}
        if skipped:
            raise RuntimeError("; ".join(sorted(skipped)))
        p50 = [found[label, "latency.p50"] for label in (ORIGINAL, SMALL)]
        self.row["latency_seconds"] = [m.value for m in p50]
        self.row["flags"] = sorted({flag for m in p50 for flag in m.flags})
        self.row["integer_kernels"] = found[SMALL, "integer_kernels"].value
        [ratio] = [c for c in result.comparisons if c["metric"] == "latency.p50"]
        self.row["speed_up"] = [ratio["ratio"], ratio["low"], ratio["high"]]

    def _count(self, model: nn.Module) -> None:
        self.row.setdefault("parameters", []).append(count_parameters(model))
        self.row.setdefault("macs", []).append(count_macs(model, self.context.example))


class _Kept(logging.Handler):
    """Keep the warnings of the steps."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _write(folder: Path, row: dict[str, Any]) -> None:
    (folder / "row.json").write_text(json.dumps(row))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _table(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    machine = this_machine()
    passed = sum(row["step"] == "done" for row in rows)
    lines = [
        f"# Breadth: {passed} of {len(rows)} architectures went through",
        "",
        f"{machine.cpu}, {machine.cores} cores; onnxruntime {machine.versions['onnxruntime']}, "
        f"torch {machine.versions['torch']}. prune_channels to half the MACs, int8_ptq, export, "
        "ONNX Runtime at batch 1 against the float original, taking turns. Noise as data.",
        "",
        "| architecture | kind | input | MACs kept | parameters kept | p50 before | p50 after "
        "| speed-up (95 %) | integer kernels | failed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *(_line(row) for row in rows),
        "",
        f"Command: `python benchmarks/suites/breadth.py --seconds {arguments.seconds:g}`",
    ]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    cells = [row["name"], row.get("kind", ""), str(row.get("size", ""))]
    for what in ("macs", "parameters"):
        before, *after = row.get(what) or [None]
        cells.append(f"{after[0] / before:.1%}" if after else "-")
    if "latency_seconds" in row:
        cells += [f"{value * 1e3:.2f} ms" for value in row["latency_seconds"]]
        cells.append("{:.2f} ({:.2f} to {:.2f})".format(*row["speed_up"]))
        cells.append(f"{row['integer_kernels']:.2f}")
    else:
        cells += ["-"] * 4
    failed = "" if row["step"] == "done" else f"{row['step']}: {row['error']}"
    return f"| {' | '.join([*cells, failed.replace('|', '/')])} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *ARCHITECTURES])
    parser.add_argument("--out", type=Path, default=Path("breadth.jsonl"))
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="the last step to run")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing a file, in rounds")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds an architecture")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
