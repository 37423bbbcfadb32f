"""INT8 files of one float model and the same images, by us and by others: what the suites share.

Every other tool gets what its documentation asks for: `quantize_static` the pre-processed file,
uint8 activations and int8 weights per channel; NNCF's ONNX backend and torchao's PT2E with
X86InductorQuantizer their defaults.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdeploy.bench.plan import Plan
from kdeploy.bench.run import ModelUnderTest, bench
from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.data.contract import Dataset
from kdeploy.data.load import DataReference
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.export.run import export
from kdeploy.quantization.suppress_warnings import without_torch_noise
from kdeploy.runtimes.run import open_runtime

Images = NDArray[np.float32]


def write_ours(model: nn.Module, data: Dataset, path: Path, *, batch_size: int = 32) -> None:
    """Write our INT8 file, calibrated on all training items of `data` by the defaults."""
    export(_quantized(model, data, batch_size), "onnx", {"profile": "cpu"}, data, path)


def write_ours_unproven(
    model: nn.Module, data: Dataset, path: Path, *, batch_size: int = 32
) -> None:
    """Write it without running it against the model, as every other tool does."""
    small = _quantized(model, data, batch_size)
    example = torch.from_numpy(data.preprocessing.apply(data.validation.x[:2]))
    onnx_from_torch(small, example, path, profile="cpu")


def _quantized(model: nn.Module, data: Dataset, batch_size: int) -> nn.Module:
    batches = -(-len(data.train) // batch_size)
    context = CompressContext(data=data)
    return int8_ptq(model, context, batch_size=batch_size, calibration_batches=batches)


def write_static(float_file: Path, path: Path, images: Images, *, method: str = "MinMax") -> None:
    """Write onnxruntime's file, calibrated by "MinMax", "Entropy" or "Percentile"."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(float_file, prepared)
    quantize_static(
        prepared,
        path,
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibrate_method=CalibrationMethod[method],
    )


def write_nncf(float_file: Path, path: Path, images: Images) -> None:
    """Write NNCF's file with its defaults."""
    import nncf
    import onnx

    items = nncf.Dataset([{"input": image[None]} for image in images])
    onnx.save(nncf.quantize(onnx.load(float_file), items, subset_size=len(images)), path)


def write_pt2e(model: nn.Module, path: Path, images: Images) -> None:
    """Write torchao's file: X86InductorQuantizer's defaults, exported by torch."""
    with without_torch_noise():
        pt2e = importlib.import_module("torchao.quantization.pt2e")
        steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
        x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
        example = torch.from_numpy(images[:2])
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        graph = torch.export.export(model.eval(), (example,), dynamic_shapes=shapes).module()
        settings = x86.get_default_x86_inductor_quantization_config()
        prepared = steps.prepare_pt2e(graph, x86.X86InductorQuantizer().set_global(settings))
        for batch in torch.from_numpy(images).split(32):
            prepared(batch)
        converted = steps.convert_pt2e(prepared)
        pt2e.move_exported_model_to_eval(converted)
        torch.onnx.export(
            converted,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: "batch"},),
        )


def images_of(data: Dataset) -> Images:
    """Return the training items as every tool gets them."""
    return np.asarray(data.preprocessing.apply(data.train.x), np.float32)


def kernels(path: Path, threads: int, runtime: str = "onnxruntime_cpu") -> dict[str, Any]:
    """Return what a runtime executes of a file."""
    session = open_runtime(runtime, path, threads=threads)
    proof = session.proof_of_use()
    session.close()
    return {
        "integer_kernels": proof.integer_kernels,
        "operators": dict(sorted(proof.operators.items())),
        "size_bytes": path.stat().st_size,
    }


def measure(
    files: dict[str, Path],
    *,
    runtime: str,
    baseline: str,
    threads: int,
    seconds: float,
    out: Path,
    data: DataReference | None = None,
) -> dict[str, dict[str, Any]]:
    """Return p50, speed-up over the baseline with its interval, and accuracy of each file.

    Every file lives in a process of its own, and they take turns.
    """
    result = bench(
        [
            ModelUnderTest(artifact=k, label=k, path=path, format="onnx")
            for k, path in files.items()
        ],
        Plan(
            runtimes=[runtime],
            threads=[threads],
            data=data,
            accuracy=data is not None,
            minimum_seconds=seconds,
        ),
        baseline=baseline,
        out=out,
    )
    rows: dict[str, dict[str, Any]] = {label: {} for label in files}
    wanted = {"latency.p50": "p50_seconds", "accuracy.top1": "accuracy"}
    for record in result.measurements:
        if record.metric in wanted:
            rows[record.label][wanted[record.metric]] = record.value
            if record.metric == "latency.p50":
                rows[record.label] |= {"flags": list(record.flags), "reason": record.skipped}
    for pair in result.comparisons:
        if pair["metric"] == "latency.p50":
            rows[pair["label"]]["speed_up"] = [pair["ratio"], pair["low"], pair["high"]]
    return rows


@contextlib.contextmanager
def kept(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` that becomes it at the end: a file is whole, or not there."""
    partial = path.with_name(f"partial.{path.name}")
    yield partial
    partial.replace(path)


class _Reader:
    """Images one at a time, as onnxruntime asks for them."""

    def __init__(self, images: Images) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, Any]:
        image = self.get_next()
        if image is None:
            raise StopIteration
        return image
