"""ONNX Runtime, OpenVINO, ExecuTorch and LiteRT on the same networks, float and INT8, one thread.

    python -m benchmarks.suites.edge_runtimes [--only digits resnet18] [--rounds 12]

Needs `pip install 'kdeploy[executorch,litert,openvino]' pytorchcv vit-pytorch`. Networks: a student
on digits that is trained here in seconds, one of 77 754 parameters on Fashion-MNIST in two minutes;
and with random weights, of which only speed, kernels and parity are asked, pytorchcv's MobileNetV2
and ResNet-18 at 224x224 and vit-pytorch's vision Transformer at 64x64. All INT8 files have the same
ranges. Files for ExecuTorch and LiteRT hold one row; all are open in one process and take turns,
and what is compared is the time of the processor (`time.process_time`), which another program's
load changes less. Accuracy is of the very file in the very runtime. Parity is the largest error in
standard deviations of the output, and what the gate allows. Memory is the peak of a process that
opens a file and runs it. One line a network, runtime and precision goes to
`rows.jsonl` in the work folder; a network that is there is not measured again. Exits 1 when INT8 in
its best runtime takes more than 0.45 of the best float time on a narrow network.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.shared.architectures import ARCHITECTURES, make
from benchmarks.shared.noise import noise
from benchmarks.shared.plain_loop import trained_by_hand
from benchmarks.shared.running import add_row, conclude, conditions, here, parser_of, rows_of, table
from kdeploy.classes import classes_of
from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference, load
from kdeploy.export.run import export
from kdeploy.runtimes.contract import Runtime, first
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.references import ModelReference, build_model

MODELS = Path(__file__).parents[2] / "models"
NETWORKS = ("digits", "fashion_mnist", "mobilenetv2_w1", "resnet18", "simple_vit")
NARROW, BOUND = ("digits", "fashion_mnist"), 0.45
# Parameters of the data, arguments of the network, epochs.
TRAINED: Mapping[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "digits": ({"size": 16}, {"width": 12, "depth": 1}, 15),
    "fashion_mnist": ({}, {"width": 16, "depth": 1}, 2),
}
# Of the two runtimes that open ONNX files, which export wrote them.
TARGETS = {"onnxruntime_cpu": "onnx", "ort_format": "ort_format", "openvino": "onnx"}
RUNTIMES = (*TARGETS, "executorch", "litert")
SUFFIXES = {"onnx": ".onnx", "ort_format": ".ort", "executorch": ".pte", "litert": ".tflite"}
MOST_ITEMS = 1000
PEAK = """
import re, sys
from pathlib import Path
import numpy as np
from kdeploy.runtimes.run import open_runtime
opened = open_runtime(sys.argv[1], Path(sys.argv[2]), threads=1)
shape = [n if isinstance(n, int) else 1 for n in opened.inputs[0].shape]
for _ in range(5):
    opened.infer(np.zeros(shape, np.float32))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def main() -> None:
    """Measure the networks that are missing, write the table, and judge the narrow ones."""
    parser = parser_of(__doc__ or "", work="edge_runtimes", only=NETWORKS)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    store = arguments.work / "rows.jsonl"
    done = {row["network"] for row in rows_of(store)}
    torch.set_num_threads(1)
    for name in arguments.only or NETWORKS:
        if name not in done:
            for row in measured(name, arguments.work / name, arguments.rounds):
                add_row(store, row)
    rows = rows_of(store)
    ratios = {name: ratio_of(rows, name) for name in NARROW if name in {r["network"] for r in rows}}
    text = described(rows, ratios, arguments.rounds)
    holds = all(ratio <= BOUND for ratio in ratios.values())
    conclude("edge_runtimes", {"rows": rows, "ratios": ratios}, text, holds=holds)


def measured(name: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each runtime and precision of a network."""
    model, data, is_trained = network(name)
    context = CompressContext(data=data)
    models = {"float": model, "INT8": int8_ptq(model, context)}
    rows, opened = [], {}
    for precision, one in models.items():
        for runtime in RUNTIMES:
            target = TARGETS.get(runtime, runtime)
            row, path = written(one, target, data, folder / f"{precision}{SUFFIXES[target]}")
            file = open_runtime(runtime, path, threads=1)
            opened[runtime, precision] = file
            proof = file.proof_of_use()
            accuracy = accuracy_of(file, data) if is_trained else None
            rows.append(
                {
                    **{"network": name, "runtime": runtime, "precision": precision},
                    **{**row, "accuracy": accuracy, "peak_bytes": peak_bytes(runtime, path)},
                    **{"integer": proof.integer, "eligible": proof.eligible},
                }
            )
    times = interleaved(opened, data, rounds)
    load = os.getloadavg()[0]
    keys = [(row["runtime"], row["precision"]) for row in rows]
    return [
        {
            **row,
            "cpu_p50_seconds": statistics.median(times[key]),
            "n": len(times[key]),
            "load": load,
        }
        for row, key in zip(rows, keys, strict=True)
    ]


def network(name: str) -> tuple[nn.Module, Dataset, bool]:
    """Return a network in evaluation mode, its data, and whether it has learned them."""
    if name in TRAINED:
        parameters, args, epochs = TRAINED[name]
        data = load(DataReference(name=name, parameters=parameters))
        build = f"{MODELS / name / 'build.py'}:resnet"
        torch.manual_seed(0)
        model = build_model(ModelReference(build=build, args=args))
        x, y = (
            torch.from_numpy(data.preprocessing.apply(data.train.x)),
            torch.from_numpy(data.train.y),
        )
        return trained_by_hand(model, x, y, epochs=epochs, seed=0), data, True
    size = ARCHITECTURES[name].size
    data = noise((3, size, size), 8)
    return make(name), data, False


def written(
    model: nn.Module, target: str, data: Dataset, path: Path
) -> tuple[dict[str, Any], Path]:
    """Return what the parity gate found of a file, and the file; it is written once."""
    fixed = {"max_batch": 1} if target in ("executorch", "litert") else {}
    path.unlink(missing_ok=True)
    started = time.process_time()
    result = export(model, target, fixed, data, path)
    return {
        "parity": result.max_abs,
        "parity_bound": result.bound,
        "size_bytes": result.size_bytes,
        "export_cpu_seconds": time.process_time() - started,
    }, path


def accuracy_of(file: Runtime, data: Dataset) -> float:
    """Return the share of test items that a file classifies right, one item a call."""
    x = data.preprocessing.apply(data.test.x[:MOST_ITEMS])
    answers = np.concatenate([classes_of(first(file.infer(x[i : i + 1]))) for i in range(len(x))])
    return float((answers == data.test.y[:MOST_ITEMS]).mean())


def peak_bytes(runtime: str, path: Path) -> int:
    """Return the peak resident memory of a process that opens a file and runs it."""
    command = [sys.executable, "-W", "ignore", "-c", PEAK, runtime, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) * 1024


def interleaved(
    opened: Mapping[tuple[str, str], Runtime], data: Dataset, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Return the processor's seconds of each call: in every round each file runs for a while."""
    x = data.preprocessing.apply(data.validation.x[:1])
    times: dict[tuple[str, str], list[float]] = {key: [] for key in opened}
    for number in range(rounds + 1):
        for key, file in opened.items():
            file.infer(x)
            spent = 0.0
            while spent < 0.05:
                started = time.process_time()
                file.infer(x)
                seconds = time.process_time() - started
                spent += seconds
                if number:  # the first round warms up
                    times[key].append(seconds)
    return times


def ratio_of(rows: list[dict[str, Any]], name: str) -> float:
    """Return the best INT8 time of a network over its best float time, in any runtimes."""
    best = {
        precision: min(
            r["cpu_p50_seconds"]
            for r in rows
            if (r["network"], r["precision"]) == (name, precision)
        )
        for precision in ("float", "INT8")
    }
    return best["INT8"] / best["float"]


def described(rows: list[dict[str, Any]], ratios: Mapping[str, float], rounds: int) -> str:
    """Return the page."""
    base = {
        r["network"]: r["cpu_p50_seconds"]
        for r in rows
        if (r["runtime"], r["precision"]) == ("onnxruntime_cpu", "float")
    }
    cells = [
        [
            *(r["network"], r["runtime"], r["precision"]),
            f"{1e3 * r['cpu_p50_seconds']:.3f}",
            f"{r['cpu_p50_seconds'] / base[r['network']]:.2f}",
            "" if r["accuracy"] is None else f"{r['accuracy']:.2%}",
            f"{r['parity']:.2g} of {r['parity_bound']:.2g}",
            f"{r['size_bytes'] / 1e3:.0f}",
            f"{r['peak_bytes'] / 2**20:.0f}",
            f"{r['integer']}/{r['eligible']}",
        ]
        for r in rows
    ]
    header = (
        "network | runtime | precision | CPU p50, ms | of ORT float | top-1 | parity, std | "
        "size, kB | peak, MiB | integer kernels"
    )
    loads = sorted(r["load"] for r in rows)
    narrow = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return "\n".join(
        [
            "# Edge runtimes: float and INT8 of the same ranges",
            "",
            f"`python -m benchmarks.suites.edge_runtimes --rounds {rounds}`; "
            f"{conditions(here(), 1)}. Batch 1, one thread, processor time, files in turns; load "
            f"average {loads[0]:.1f} to {loads[-1]:.1f}. Peak memory is of a process with kdeploy",
            "in it; that of ExecuTorch holds torch. Top-1 is of at most 1000 test items.",
            "",
            *table(header, cells, right=range(3, 10)),
            "",
            f"Best INT8 over best float, in any runtime, on narrow networks: {narrow or 'not run'} "
            f"(at most {BOUND}).",
            "",
        ]
    )


if __name__ == "__main__":
    main()
