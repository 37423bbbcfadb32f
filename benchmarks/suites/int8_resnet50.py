"""INT8 of a ResNet-50 against FP32 and onnxruntime's own best setting, in one run.

    python benchmarks/suites/int8_resnet50.py [--repeats 3] [--seconds 24] [--threads 2]

The network is pytorchcv's `resnet50` with random weights at 224x224, and calibration looks at
noise: only speed and kernels are measured here, never accuracy, and both do not depend on them.
`quantize_static` gets the same FP32 file (pre-processed as its documentation asks), uint8
activations and int8 weights per channel. Each file lives in a process of its own, the three take
turns (A B C C B A), and ratios are of medians of the same round. Prints a markdown table; exits 1
when a convolution of ours is not integer or our file is more than 5 % slower than theirs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from kdeploy.bench.run import Subject, bench
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.int8_ptq import int8_ptq
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.export.run import export
from kdeploy.machine import Machine, allowed_cores, fingerprint
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu

SHAPE = (3, 224, 224)
NUM_IMAGES = 8
BOUND = 1.05
FP32, OURS, THEIRS = "FP32", "kdeploy int8_ptq", "onnxruntime quantize_static"
FILES = {FP32: "fp32.onnx", OURS: "ours.onnx", THEIRS: "theirs.onnx"}
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Make the three files, measure them, write the result and judge it."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.files or Path(temporary)
        files = {label: folder / name for label, name in FILES.items()}
        if not all(path.exists() for path in files.values()):
            folder.mkdir(parents=True, exist_ok=True)
            make_files(folder)
        kernels = {label: _kernels(path, arguments.threads) for label, path in files.items()}
        runs = [_measure(files, arguments, Path(temporary)) for _ in range(arguments.repeats)]
    machine = fingerprint()
    result = {
        "command": f"python benchmarks/suites/int8_resnet50.py --repeats {arguments.repeats} "
        f"--seconds {arguments.seconds:g} --threads {arguments.threads}",
        "machine": machine.to_dict(),
        "threads": arguments.threads,
        "kernels": kernels,
        "runs": runs,
    }
    text = _table(result, machine)
    print(text)
    _write(result, text, machine)
    sys.exit(0 if _holds(result) else 1)


def make_files(folder: Path) -> None:
    """Write the three ONNX files."""
    torch.manual_seed(0)
    # Not through pytorchcv's model_provider: it imports torchvision, which nothing here needs.
    model: nn.Module = importlib.import_module("pytorchcv.models.resnet").resnet50().eval()
    data = _noise()
    files = {label: folder / name for label, name in FILES.items()}
    export(model, "onnx", {}, data, files[FP32])
    small = int8_ptq(model, CompressContext(data=data), batch_size=NUM_IMAGES)
    export(small, "onnx", {"profile": "cpu"}, data, files[OURS])
    prepared = folder / "prepared.onnx"
    quant_pre_process(files[FP32], prepared)
    quantize_static(
        prepared,
        files[THEIRS],
        _Reader(data),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The same images, one at a time, as onnxruntime asks for them."""

    def __init__(self, data: Dataset) -> None:
        self._images = iter(data.train.x)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


def _noise() -> Dataset:
    x = np.random.default_rng(0).standard_normal((NUM_IMAGES, *SHAPE), dtype=np.float32)
    part = Split(x=x, y=np.zeros(NUM_IMAGES, np.int64))
    return Dataset(
        name="noise",
        train=part,
        validation=part,
        test=part,
        preprocessing=Preprocessing(shape=SHAPE),
        fingerprint="noise",
    )


def _kernels(path: Path, threads: int) -> dict[str, Any]:
    session = OnnxruntimeCpu(threads=threads)
    session.open(path)
    proof = session.proof_of_use()
    return {
        "integer_kernels": proof.integer_kernels,
        "operators": dict(sorted(proof.operators.items())),
        "size_bytes": path.stat().st_size,
    }


def _measure(files: dict[str, Path], arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    result = bench(
        [Subject(artifact=k, label=k, path=path, format="onnx") for k, path in files.items()],
        runtimes=["onnxruntime_cpu"],
        threads=[arguments.threads],
        data=None,
        accuracy=False,
        baseline=THEIRS,
        minimum_seconds=arguments.seconds,
        out=out,
    )
    p50 = [m for m in result.measurements if m.metric == "latency.p50"]
    ratios = [c for c in result.comparisons if c["metric"] == "latency.p50"]
    return {
        "p50_seconds": {m.label: m.value for m in p50},
        "flags": {m.label: list(m.flags) for m in p50},
        "load": fingerprint().load,
        # How many times faster than quantize_static, with its 95 % interval over rounds.
        "speed_up": {c["label"]: [c["ratio"], c["low"], c["high"]] for c in ratios},
    }


def _holds(result: dict[str, Any]) -> bool:
    """Return whether all of ours is integer and the median run is within the bound."""
    operators = result["kernels"][OURS]["operators"]
    is_integer = result["kernels"][OURS]["integer_kernels"] == 1.0 and "Conv" not in operators
    median = float(np.median([run["speed_up"][OURS][0] for run in result["runs"]]))
    return is_integer and 1 / median <= BOUND


def _table(result: dict[str, Any], machine: Machine) -> str:
    lines = [
        f"# INT8 of a ResNet-50: {machine.cpu}, {result['threads']} threads, batch 1",
        "",
        f"`{result['command']}`; {', '.join(machine.instruction_sets)}; onnxruntime "
        f"{machine.versions['onnxruntime']}, torch {machine.versions['torch']}. Random weights and "
        "noise: speed and kernels only. Ratios are of medians of the same round, with their 95 % "
        "interval.",
        "",
        "| run | load | FP32 p50 | ours p50 | quantize_static p50 | ours / theirs | ours / FP32 |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, run in enumerate(result["runs"], 1):
        p50 = [f"{run['p50_seconds'][label] * 1e3:.2f} ms" for label in (FP32, OURS, THEIRS)]
        ratio, low, high = (1 / value for value in run["speed_up"][OURS])
        share = run["p50_seconds"][OURS] / run["p50_seconds"][FP32]
        cells = [str(number), f"{run['load']:.1f}", *p50]
        lines.append(
            f"| {' | '.join(cells)} | {ratio:.3f} ({high:.3f} to {low:.3f}) | {share:.3f} |"
        )
    lines += ["", "| file | size | integer kernels | executed operators |", "|---|---|---|---|"]
    for label, kernels in result["kernels"].items():
        listed = ", ".join(f"{count} {name}" for name, count in kernels["operators"].items())
        size = f"{kernels['size_bytes'] / 2**20:.1f} MiB"
        lines.append(f"| {label} | {size} | {kernels['integer_kernels']:.2f} | {listed} |")
    return "\n".join(lines) + "\n"


def _write(result: dict[str, Any], text: str, machine: Machine) -> None:
    folder = RESULTS / re.sub(r"[^a-z0-9]+", "-", machine.cpu.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "int8_resnet50.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "int8_resnet50.md").write_text(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="how often the comparison is run")
    parser.add_argument("--seconds", type=float, default=24.0, help="of timing a file, in rounds")
    parser.add_argument("--files", type=Path, help="folder where the files are kept, made once")
    parser.add_argument("--threads", type=int, default=min(2, allowed_cores()))
    return parser.parse_args()


if __name__ == "__main__":
    main()
