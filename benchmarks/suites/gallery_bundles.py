"""The bundle of every recipe in `models/`: its self-test in Python, in C++, and on an emulated ARM.

    python -m benchmarks.suites.gallery_bundles [--only digits/recipe] [--whole] [--arm .venv/arm]

Each recipe is run to its bundle; without `--whole` for 0 epochs, so that networks without weights
of their own are as initialised: what a runner must read, run and decode is the same. Budgets are
left out, for they are of the whole run. Both runners prove the bundle here, the one in C++ where
its task has a decoder there; `make test-arm` fetches what `--arm` names, and what runs there says
nothing of speed. A recipe whose packages are missing is a row with the reason. Finished rows are in
`rows.jsonl` in the work folder. Exits 1 where a runner fails.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.shared.running import add_row, conclude, conditions, here, parser_of, rows_of, table
from kdeploy.errors import KdeployError
from kdeploy.package.kinds import RUNNERS
from kdeploy.package.runner.python.golden import ERRORS
from tests.arm import emulated
from tests.package.runner.cpp import built

MODELS = Path(__file__).parents[2] / "models"
PROGRAM = "make"  # of a folder: knows by `changes(recipe)` what its recipes cannot
TIMEOUT_SECONDS = "900"  # of a model under emulation, on a busy machine
BENCH = "{runtimes: [onnxruntime_cpu], batch_sizes: [1], threads: [1], minimum_seconds: 0.1}"
RUNNERS_TRIED = ("Python", "C++", "aarch64")


def main() -> None:
    """Make the bundles that are missing, prove them, and write the table."""
    recipes = {f"{p.parent.name}/{p.stem}": p for p in sorted(MODELS.glob("*/*.yaml"))}
    recipes = {name: p for name, p in recipes.items() if "train_teacher" not in name}
    parser = parser_of(__doc__ or "", work="gallery_bundles", only=recipes)
    parser.add_argument("--whole", action="store_true", help="train as the recipes say")
    parser.add_argument("--arm", type=Path, default=Path(".venv/arm"))
    given = parser.parse_args()
    store = given.work / "rows.jsonl"
    done = {row["recipe"] for row in rows_of(store)}
    for name in given.only or recipes:
        if name not in done:
            add_row(store, row_of(name, recipes[name], given))
    rows = sorted(rows_of(store), key=lambda row: str(row["recipe"]))
    failed = [r for r in rows if any(r[runner].startswith("fails") for runner in RUNNERS_TRIED)]
    text = page(rows, is_whole=given.whole)
    conclude("gallery_bundles", {"rows": rows}, text, holds=not failed)


def row_of(name: str, recipe: Path, given: Any) -> dict[str, Any]:
    """Return what the runners say of the bundle of a recipe."""
    bundle, reason = bundle_of(recipe, given.work / name, is_whole=given.whole)
    row: dict[str, Any] = {"recipe": name, "task": "", "format": "", "size_bytes": None}
    if bundle is None:
        return row | dict.fromkeys(RUNNERS_TRIED, f"no bundle: {reason}")
    manifest = json.loads((bundle / "manifest.json").read_text())
    task = str(manifest.get("task", {}).get("name", ""))
    return row | {
        "task": task or "classification",
        "format": manifest["model"]["format"],
        "is_quantized": manifest["model"]["is_quantized"],
        "size_bytes": manifest["model"]["size"],
        "Python": self_test([sys.executable, "-B", str(bundle / "runner/python/run.py")], bundle),
        "C++": in_cpp(bundle, task),
        "aarch64": on_arm(bundle, given.arm),
    }


def bundle_of(recipe: Path, out: Path, *, is_whole: bool) -> tuple[Path | None, str]:
    """Return the bundle of a recipe, or why there is none."""
    changes = ["gates=[]", "package={budgets: []}", f"bench={BENCH}"]
    changes += [] if is_whole else [f"{k}=0" for k in epochs_of(yaml.safe_load(recipe.open()))]
    if (recipe.parent / f"{PROGRAM}.py").is_file():
        program = importlib.import_module(f"models.{recipe.parent.name}.{PROGRAM}")
        try:
            known = program.changes(recipe.stem)
        except KdeployError as error:
            return None, str(error).partition("\n")[0]
        changes += [f"{key}={json.dumps(value)}" for key, value in known.items()]
    command = ["-m", "kdeploy", "run", str(recipe), "--out", str(out)]
    command += [part for change in changes for part in ("--set", change)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if (out / "bundle").is_dir():
        return out / "bundle", ""
    told = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
    reasons = [line for line in told if re.match(r"[A-Z]\w+: ", line)] or told[-1:]
    return None, reasons[0][:200]


def epochs_of(section: Any, place: str = "") -> Iterator[str]:
    """Yield the place of every `epochs` in a recipe, and of the teacher's where it says none."""
    if isinstance(section, dict):
        teacher = {} if place else section["teacher"]
        brings = "weights" in teacher or str(teacher.get("build", "")).startswith("onnx:")
        if not place and not brings:
            section = {**section, "teacher": {"train": {"epochs": 1}, **section["teacher"]}}
        for key, inner in section.items():
            if key == "epochs":
                yield f"{place}{key}"
            yield from epochs_of(inner, f"{place}{key}.")
    elif isinstance(section, list):
        for number, inner in enumerate(section):
            yield from epochs_of(inner, f"{place}{number}.")


def in_cpp(bundle: Path, task: str) -> str:
    """Return what the runner in C++ says, where it knows the task."""
    if not (bundle / "runner/cpp").is_dir():
        return "none: the bundle holds no runner in C++"
    if task and f'"{task}"' not in (RUNNERS / "cpp/decode.hpp").read_text():
        return f"none: no decoder of `{task}`"
    if built.missing():
        return f"skipped: {built.missing()}"
    return self_test([str(built.program(("-DCMAKE_BUILD_TYPE=Release",)))], bundle)


def on_arm(bundle: Path, folder: Path) -> str:
    """Return what the runner in Python says on an emulated ARM."""
    python = emulated.python_of(folder)
    if not python.is_file():
        return "skipped: make test-arm"
    program = [str(python.resolve()), "-B", str(bundle / "runner/python/run.py")]
    return self_test([*program, "--timeout", TIMEOUT_SECONDS], bundle)


def self_test(command: list[str], bundle: Path) -> str:
    """Return `passes` with the largest error as a share of what is allowed, or what fails."""
    asked = [*command, "--bundle", str(bundle.resolve()), "--self-test", "--json"]
    done = subprocess.run(
        [*asked, "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **built.ENVIRONMENT},
    )
    try:
        checks = json.loads(done.stdout)["checks"]
    except ValueError:
        return f"fails: {' '.join(done.stderr.split())[:200] or f'code {done.returncode}'}"
    failed = [f"{c['check']} ({c['reason']})" for c in checks if not c["passed"]]
    if failed or done.returncode:
        return f"fails: {'; '.join(failed)[:300]}"
    shares = [c["value"] / c["bound"] for c in checks if c["check"] in ERRORS]
    return f"passes ({max(shares):.1%})" if shares else "passes"


def page(rows: list[dict[str, Any]], *, is_whole: bool) -> str:
    """Return the page: a row a recipe."""
    cells = [
        [
            *(str(row[key]) for key in ("recipe", "task", "format")),
            "" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e3:.0f}",
            *(str(row[runner]).replace("|", "/") for runner in RUNNERS_TRIED),
        ]
        for row in rows
    ]
    counts = ", ".join(
        f"{sum(r[name].startswith('passes') for r in rows)} in {name}" for name in RUNNERS_TRIED
    )
    trained = (
        "trained as their recipes say" if is_whole else "of 0 epochs, as initialised or brought"
    )
    return "\n".join(
        [
            f"# Bundles of the gallery: of {len(rows)} recipes pass {counts}",
            "",
            f"`python -m benchmarks.suites.gallery_bundles{' --whole' if is_whole else ''}`; "
            f"networks {trained};",
            f"{conditions(here(), 1)}.",
            "In brackets the largest error of the golden outputs, as a share of what is allowed.",
            "aarch64: the runner in Python under qemu-user of Debian 13; emulated, so no speed.",
            "",
            *table(
                " | ".join(("recipe", "task", "format", "size, kB", *RUNNERS_TRIED)),
                cells,
                right=(3,),
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
