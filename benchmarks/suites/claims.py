"""Run a recipe and hold its packaged file against what we claim of it.

    python benchmarks/suites/claims.py models/digits/recipe.yaml [--run DIR] [--out FILE]

The claims, on onnxruntime_cpu at batch 1 and against the FP32 teacher in the same run: at least
99 % of the teacher's test accuracy, at least 95 % fewer parameters, at least 10x lower p50; every
eligible operator of the INT8 file runs on integers. With `--run` an existing run is read instead.
Exits 1 when a claim fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdeploy.measurement import Measurement, read, select
from kdeploy.runtimes.run import this_machine

CELL = {"runtime": "onnxruntime_cpu", "batch_size": 1}


def main() -> None:
    """Run, judge, print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or Path(folder) / "run"
        started = time.perf_counter()
        if arguments.run is None:
            command = [sys.executable, "-m", "kdeploy", "run", str(arguments.recipe)]
            subprocess.run([*command, "--out", str(run)], check=True)
        seconds = _work_seconds(run) if arguments.run else time.perf_counter() - started
        claims = _claims(run)
        text = _table(arguments.recipe, run, claims, seconds)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)
    sys.exit(0 if all(holds for *_, holds in claims) else 1)


def _claims(run: Path) -> list[tuple[str, str, str, bool]]:
    """Return each claim: what, the bound, what was measured, whether it holds."""
    summary = json.loads((run / "summary.json").read_text())
    records = read(run)
    teacher = [r for r in records if r.artifact == summary["teacher"]]
    packaged = [r for r in records if r.artifact == summary["packaged"]]
    kept = _value(packaged, "accuracy.top1") / _value(teacher, "accuracy.top1")
    fewer = 1 - _value(packaged, "parameters") / _value(teacher, "parameters")
    faster = _value(teacher, "latency.p50") / _value(packaged, "latency.p50")
    kernels = [r.value or 0.0 for r in records if r.metric == "integer_kernels"]
    label = packaged[0].label
    return [
        (f"accuracy of `{label}` / teacher's", ">= 99 %", f"{kept:.2%}", kept >= 0.99),
        (f"fewer parameters in `{label}`", ">= 95 %", f"{fewer:.2%}", fewer >= 0.95),
        (f"teacher's p50 / p50 of `{label}`", ">= 10", f"{faster:.1f}", faster >= 10),
        ("integer_kernels of INT8 files", "= 1.0", f"{min(kernels):.2f}", min(kernels) == 1.0),
        ("bundle verified, all gates", "yes", str(_passed(summary)), _passed(summary)),
    ]


def _value(records: list[Measurement], metric: str) -> float:
    found = select(records, metric, **CELL) or select(records, metric, runtime=CELL["runtime"])
    if not found or found[0].value is None:
        sys.exit(f"{metric} was not measured")
    return found[0].value


def _passed(summary: dict[str, object]) -> bool:
    gates = summary["gates"]
    return isinstance(gates, list) and all(g["passed"] for g in gates)


def _work_seconds(run: Path) -> float:
    summary = json.loads((run / "summary.json").read_text())
    return float(sum(s["wall_time_s"] for s in summary["stages"]))


def _table(
    recipe: Path, run: Path, claims: list[tuple[str, str, str, bool]], seconds: float
) -> str:
    machine = this_machine()
    lines = [
        f"# Claims of {recipe}",
        "",
        f"{machine.cpu}, {machine.cores} cores; the run took {seconds:.0f} s.",
        "",
        "| claim | bound | measured | holds |",
        "|---|---|---|---|",
        *(f"| {c} | {b} | {m} | {'yes' if holds else 'NO'} |" for c, b, m, holds in claims),
        "",
        f"Command: `python benchmarks/suites/claims.py {recipe}`; the report of the run:",
        "",
        (run / "report.md").read_text().replace("\n# ", "\n## ").replace("# ", "## ", 1),
    ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path("models/digits/recipe.yaml")
    parser.add_argument("recipe", type=Path, nargs="?", default=default)
    parser.add_argument("--run", type=Path, help="read this run instead of making one")
    parser.add_argument("--out", type=Path, help="also write the table there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
