"""INT8 without training, ours beside three other tools: test accuracy and latency, two runtimes.

    python benchmarks/suites/int8_peers.py --student ARTEFACT [--seconds 8] [--work DIR]

Networks: the shipped Fashion-MNIST teacher (width 32, depth 3), and the float model of an artefact,
e.g. the student that `kdeploy run models/fashion_mnist/recipe.yaml` packaged. Every tool calibrates
on the same 512 training images; `quantize_static` is tried with each of its three methods, and the
table shows the one of the best test accuracy. Accuracy is of all 10 000 test images, of the very
file in the very runtime. Needs `pip install --no-deps nncf pydot tabulate ninja` for NNCF. One line
a network and runtime goes to `rows.jsonl` in the work folder; what is there is not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.shared.int8_files import (
    images_of,
    kept,
    kernels,
    measure,
    write_nncf,
    write_ours,
    write_pt2e,
    write_static,
)
from benchmarks.shared.running import add_row, conditions, here, rows_of, write_result
from kdeploy.data.contract import Dataset, Split
from kdeploy.data.load import DataReference, load
from kdeploy.export.run import export
from kdeploy.machine import allowed_cores
from kdeploy.pipeline.building import load_weights
from kdeploy.store.model_io import load_model
from kdeploy.store.references import ModelReference, build_model

FOLDER = Path(__file__).parents[2] / "models" / "fashion_mnist"
NUM_IMAGES = 512
FLOAT, OURS, STATIC, NNCF, PT2E = "float", "kdeploy", "quantize_static", "nncf", "torchao pt2e"
METHODS = ("MinMax", "Entropy", "Percentile")
RUNTIMES = ("onnxruntime_cpu", "openvino")


def main() -> None:
    """Make the files that are missing, measure the cells that are missing, write the table."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    reference = DataReference(name="fashion_mnist", folder=arguments.data_dir)
    data = load(reference)
    few = replace(data, train=Split(x=data.train.x[:NUM_IMAGES], y=data.train.y[:NUM_IMAGES]))
    done = {(row["network"], row["runtime"]) for row in rows_of(arguments.work / "rows.jsonl")}
    for name, model in _networks(arguments).items():
        files = make_files(model, few, arguments.work / name)
        for runtime in arguments.runtimes:
            if (name, runtime) in done:
                continue
            rows = measure(
                files,
                runtime=runtime,
                baseline=FLOAT,
                threads=arguments.threads,
                seconds=arguments.seconds,
                out=arguments.work,
                data=reference,
            )
            used = {label: kernels(path, arguments.threads) for label, path in files.items()}
            row = {"network": name, "runtime": runtime, "files": rows, "kernels": used}
            add_row(arguments.work / "rows.jsonl", row)
    machine, rows = here(), rows_of(arguments.work / "rows.jsonl")
    text = _table(rows, conditions(machine, arguments.threads), arguments)
    print(text)
    write_result("int8_peers", {"machine": machine.to_dict(), "rows": rows}, text, machine)


def make_files(model: nn.Module, data: Dataset, folder: Path) -> dict[str, Path]:
    """Return all files of a network by label; those that are there are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    images, start = images_of(data), folder / "float.onnx"
    makers: Mapping[str, Callable[[Path], Any]] = {
        FLOAT: lambda path: export(model, "onnx", {}, data, path),
        OURS: lambda path: write_ours(model, data, path),
        **{f"{STATIC} {m}": _static(start, images, m) for m in METHODS},
        NNCF: lambda path: write_nncf(start, path, images),
        PT2E: lambda path: write_pt2e(model, path, images),
    }
    files = {label: folder / f"{label.replace(' ', '_')}.onnx" for label in makers}
    for label, make in makers.items():
        if not files[label].exists():
            with kept(files[label]) as path:
                make(path)
    return files


def _static(start: Path, images: Any, method: str) -> Callable[[Path], None]:
    return lambda path: write_static(start, path, images, method=method)


def _networks(arguments: argparse.Namespace) -> dict[str, nn.Module]:
    teacher = build_model(
        ModelReference(build=f"{FOLDER / 'build.py'}:resnet", args={"width": 32, "depth": 3})
    )
    networks = {"teacher": load_weights(teacher, FOLDER / "teacher.safetensors")}
    if arguments.student is not None:
        networks["student"] = load_model(arguments.student)
    return {name: networks[name] for name in arguments.only or networks}


def _table(rows: list[dict[str, Any]], where: str, arguments: argparse.Namespace) -> str:
    lines = [
        "# INT8 without training: ours and three others",
        "",
        f"`python benchmarks/suites/int8_peers.py --seconds {arguments.seconds:g} --threads "
        f"{arguments.threads}`; {where}. Fashion-MNIST, {NUM_IMAGES} calibration images, 10 000 "
        "test images, batch 1. Speed-ups are over the float file in the same rounds, with their "
        "95 % interval; integer kernels are those of ONNX Runtime.",
        "",
        "| network | runtime | tool | top-1 | p50 | speed-up | integer kernels | size |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        static = [label for label in row["files"] if label.startswith(STATIC)]
        best = max(static, key=lambda label: row["files"][label].get("accuracy") or 0.0)
        for label, found in row["files"].items():
            if label not in static or label == best:
                lines.append(_line(row, label, found))
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any], label: str, found: dict[str, Any]) -> str:
    used = row["kernels"][label]
    share = used["integer_kernels"]
    ratio = found.get("speed_up")
    accuracy, p50 = found.get("accuracy"), found.get("p50_seconds")
    cells = [
        *(row["network"], row["runtime"], label),
        "-" if accuracy is None else f"{accuracy:.2%}",
        str(found.get("reason")) if p50 is None else f"{p50 * 1e3:.3f} ms",
        "-" if not ratio else f"{ratio[0]:.2f}x ({ratio[1]:.2f} to {ratio[2]:.2f})",
        "-" if share is None else f"{share:.0%}",
        f"{used['size_bytes'] / 2**10:.0f} KiB",
    ]
    return f"| {' | '.join(cells)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", type=Path, help="folder of a float torch artefact")
    parser.add_argument("--only", nargs="*", help="of the networks: teacher, student")
    parser.add_argument("--runtimes", nargs="*", default=list(RUNTIMES))
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing a file, in rounds")
    parser.add_argument("--threads", type=int, default=min(2, allowed_cores()))
    parser.add_argument("--work", type=Path, default=Path("runs/int8_peers"))
    parser.add_argument("--data-dir", type=Path, default=Path(), help="where relative paths start")
    return parser.parse_args()


if __name__ == "__main__":
    main()
