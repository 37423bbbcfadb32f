"""INT8 and 2:4 beside FP16 and BF16 on an NVIDIA GPU: ResNet-50 and ViT-B/16, whole and per layer.

    python benchmarks/suites/gpu_shapes.py [--batch-sizes 1 8 64] [--limit-seconds 270]
    python benchmarks/suites/gpu_shapes.py --dry-run

Random weights and noise: speed only. All variants of one network and batch size are open in one
process and take turns, in changing order; each call gives two times, from end to end with its
copies, and on the device between CUDA events. All are CUDA graphs. "fp16 folded" has its batch
norms folded into the convolutions, as every INT8 graph has; the other float rows run as written.
A row a network and batch size is one line of JSON; what is there already is skipped, and what
does not begin within the limit is left for another run. `--dry-run` tries the code on the processor
with small networks and exact kernels; its times mean nothing and are not written. Without a GPU it
says so and ends.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.shared.gpu_models import settled, write_artefacts
from benchmarks.shared.gpu_suite import folder_of, gpu_or_dry_run, gpu_parser_of, said
from benchmarks.shared.gpu_turns import in_turns, milliseconds, open_variants, ran
from benchmarks.shared.running import Row, add_row, here, rows_of, table
from kdeploy.data.contract import Dataset
from kdeploy.kernels import cuda_calls
from kdeploy.kernels.int8_graph import integer_layers
from kdeploy.kernels.sparse_layers import sparse_layers
from kdeploy.machine import Machine
from kdeploy.quantization.capture import capture

FULL = {
    "resnet50": ("pytorchcv:resnet50", 224),
    "vit_b16": ("benchmarks.shared.gpu_models:vit_b16", 224),
}
SMALL = {
    "resnet20": ("pytorchcv:resnet20_cifar10", 32),
    "vit_tiny": ("benchmarks.shared.gpu_models:vit_tiny", 32),
}
FOLDED = "fp16 folded"


def main() -> None:
    """Measure what is not there yet, write it, print the tables."""
    arguments = _arguments()
    with gpu_or_dry_run(arguments):
        machine = here()
        folder = folder_of(arguments, machine)
        rows = rows_of(folder / "gpu_shapes.jsonl")
        known = {(row["network"], row["batch_size"]) for row in rows}
        deadline = time.monotonic() + arguments.limit_seconds
        for row in _cells(arguments, known, deadline):
            rows.append({**row, "machine": machine.to_dict()})
            if not arguments.dry_run:
                add_row(folder / "gpu_shapes.jsonl", rows[-1])
        text = _tables(rows, machine)
        print(text)
        if rows and not arguments.dry_run:
            (folder / "gpu_shapes.md").write_text(text)


def _cells(
    arguments: argparse.Namespace, known: set[tuple[str, int]], deadline: float
) -> Iterator[Row]:
    for network, (build, side) in (SMALL if arguments.dry_run else FULL).items():
        wanted = [size for size in arguments.batch_sizes if (network, size) not in known]
        if not wanted or time.monotonic() > deadline:
            continue
        model, data = settled(build, side)
        with tempfile.TemporaryDirectory() as temporary:
            folders = write_artefacts(build, model, data, Path(temporary))
            opened = open_variants(folders, is_graph=not arguments.dry_run)
        opened[FOLDED] = _folded(model, data, is_graph=not arguments.dry_run)
        for size in wanted:
            if time.monotonic() > deadline:
                print(f"{network} at batch {size}: left for another run, the time is up")
                continue
            shape = (size, 3, side, side)
            batch = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
            yield {
                "network": network,
                "batch_size": size,
                "variants": in_turns(opened, batch, is_dry=arguments.dry_run),
                "layers": _layers(opened),
            }


class _Folded:
    """The captured float graph with its batch norms folded, as a runtime."""

    def __init__(self, graph: nn.Module, *, is_graph: bool) -> None:
        forward = cuda_calls.converting(graph, torch.float16, channels_last=True)
        self._calls = cuda_calls.CudaCalls(forward, name=FOLDED, cuda_graph=is_graph)
        self.infer, self.device_seconds = self._calls.__call__, self._calls.device_seconds


def _folded(model: nn.Module, data: Dataset, *, is_graph: bool) -> Any:
    graph = capture(model, torch.from_numpy(data.train.x[:2])).half().to(cuda_calls.DEVICE)
    cuda_calls.move_to_channels_last(graph)
    return _Folded(graph, is_graph=is_graph)


def _layers(opened: dict[str, Any]) -> list[Row]:
    """Return for each layer the seconds of each kernel that was tried at this batch size."""
    # The proof says them as text; here they are wanted as numbers.
    times: dict[str, dict[str, Any]] = {}
    for name, layer in sparse_layers(opened["2:4 fp16"]._gpu.model).items():
        for kernel, seconds in layer.fastest.times.items():
            times.setdefault(name, {})[f"fp16 {kernel}"] = seconds
    for label in ("int8", "2:4 int8"):
        for integer in integer_layers(opened[label]._gpu.model):
            product: Any = integer.product
            for kernel, seconds in getattr(product, "times", {}).items():
                times.setdefault(integer.name, {})[f"{label} {kernel}"] = seconds
    return [{"layer": name, "seconds": seconds} for name, seconds in times.items()]


def _tables(rows: list[Row], machine: Machine) -> str:
    if not rows:
        return "nothing was measured\n"
    header = "network | batch | variant | on the device | end to end | device, of fp16 folded | ran"
    lines = [
        f"# INT8 and 2:4 beside FP16: {machine.gpu or machine.cpu}",
        "",
        f"{said('gpu_shapes', machine)} Random weights and noise: speed only. Layers that are "
        "alike are measured once.",
        "",
        *table(header, (cells for row in rows for cells in _whole(row)), right=(1, 5)),
    ]
    header = "layer | fp16 dense | fp16 2:4 | int8, fastest | 2:4 int8, cuSPARSELt"
    for row in rows:
        lines += ["", f"## {row['network']}, batch {row['batch_size']}, microseconds a layer", ""]
        lines += table(header, map(_layer_cells, row["layers"]), right=(1, 2, 4))
    return "\n".join(lines) + "\n"


def _whole(row: Row) -> Iterator[list[str]]:
    base = row["variants"][FOLDED]["device_seconds"]["p50"]
    for label, facts in row["variants"].items():
        device, whole = facts["device_seconds"], facts["end_to_end_seconds"]
        yield [
            *(row["network"], str(row["batch_size"]), label),
            *(milliseconds(device), milliseconds(whole)),
            *(f"{base / device['p50']:.2f}x", ran(facts["proof"])),
        ]


def _layer_cells(layer: Row) -> list[str]:
    seconds = layer["seconds"]
    integer = {k: v for k, v in seconds.items() if k.startswith("int8 ") and _is_time(v)}
    fastest = min(integer, key=integer.__getitem__) if integer else ""
    return [
        layer["layer"],
        _microseconds(seconds.get("fp16 dense")),
        _microseconds(seconds.get("fp16 sparse")),
        f"{_microseconds(seconds.get(fastest))} {fastest.removeprefix('int8 ')}".strip(),
        _microseconds(seconds.get("2:4 int8 cuSPARSELt")),
    ]


def _is_time(value: Any) -> bool:
    return isinstance(value, float)


def _microseconds(seconds: Any) -> str:
    """Return a time, why there is none, or "" where the kernel was not tried."""
    return f"{seconds * 1e6:.1f}" if _is_time(seconds) else str(seconds or "")


def _arguments() -> argparse.Namespace:
    parser = gpu_parser_of(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--limit-seconds", type=float, default=270.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
