"""What is mutated: bundles, ONNX files and stored artefacts, written by a process of their own.

No session of a runtime may have run in the process that forks a child for every mutant.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path


@lru_cache
def bases() -> Path:
    """Return the folder with all bases, written once a process."""
    folder = Path(tempfile.mkdtemp(prefix="kdeploy-fuzz-base-"))
    subprocess.run([sys.executable, "-m", "tests.fuzz.bases", str(folder)], check=True)
    return folder


def write(folder: Path) -> None:
    """Write `bundle/`, `dynamic/` (of a dynamic model), `onnx/*.onnx` and `store/*`."""
    import numpy as np
    import onnx

    from kdeploy.gate import parse_gates
    from kdeploy.package.run import package
    from tests.package import conftest as tiny

    models = folder / "onnx"
    models.mkdir()
    onnx.save(tiny._onnx_model(), models / "tiny.onnx")
    stored = np.random.default_rng(1).integers(0, 256, (6, *tiny.SHAPE), dtype=np.uint8)
    inputs = tiny.PREPROCESSING.apply(stored)
    package(
        models / "tiny.onnx",
        folder / "bundle",
        manifest=tiny._artifact_manifest(),
        golden=(inputs, tiny._run_onnx(models / "tiny.onnx", inputs)),
        accuracy={"accuracy.top1": 0.9},
        budgets=parse_gates(["peak_memory: <= 16GB", "accuracy.top1: >= 0.5"]),
    )
    _write_dynamic(folder)
    _write_models(models, inputs)
    _write_store(folder / "store")


def _write_dynamic(folder: Path) -> None:
    import numpy as np

    from kdeploy.package.run import golden_of, package
    from kdeploy.preprocessing import Preprocessing
    from kdeploy.runtimes.dynamic_session import clear_rows
    from tests.package import conftest as tiny
    from tests.tiny.dynamic import FEATURES, write_cascade

    path = folder / "m.dynamic"
    write_cascade(path)
    items = np.random.default_rng(0).normal(size=(150, FEATURES)).astype(np.float32)
    form = Preprocessing(shape=(FEATURES,), mean=(0.0,), std=(1.0,), classes=tiny.CLASSES)
    package(
        path,
        folder / "dynamic",
        manifest=tiny._artifact_manifest(form),
        golden=golden_of(path, items[clear_rows(path, items, 8)]),
        accuracy={"accuracy.top1": 0.9},
        budgets=[],
    )


def _write_models(folder: Path, inputs: object) -> None:
    import onnx
    from onnx import TensorProto, helper
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Items(CalibrationDataReader):
        def __init__(self) -> None:
            self._items = iter([{"image": inputs}])

        def get_next(self) -> dict[str, object] | None:
            return next(self._items, None)

    quantize_static(folder / "tiny.onnx", folder / "quantized.onnx", Items())
    model = onnx.load(folder / "tiny.onnx")
    onnx.save(
        model,
        folder / "outside.onnx",
        save_as_external_data=True,
        location="outside.data",
        size_threshold=0,
    )
    branches = [
        helper.make_graph(
            [helper.make_node(operator, ["flat"], [f"{operator}_out"])],
            operator,
            [],
            [helper.make_tensor_value_info(f"{operator}_out", TensorProto.FLOAT, None)],
        )
        for operator in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("ReduceSum", ["flat"], ["sum"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("", 1, [], [0.0])),
        helper.make_node("Greater", ["sum", "zero"], ["chosen"]),
        helper.make_node(
            "If", ["chosen"], ["logits"], then_branch=branches[0], else_branch=branches[1]
        ),
    ]
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 64]),
    ]
    graph = helper.make_graph(nodes, "branches", ports[:1], ports[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "if.onnx")


def _write_store(folder: Path) -> None:
    from kdeploy.preprocessing import Preprocessing
    from kdeploy.store.artifact import artifact_id, write_manifest
    from kdeploy.store.model_io import save_model
    from kdeploy.store.references import ModelReference, build_model

    build = Path(__file__).parents[1] / "tiny" / "build.py"
    known = Preprocessing(shape=(1, 12, 12), scale=1 / 255, classes=("up", "down", "left", "right"))
    reference = ModelReference(build=f"{build}:net", args={"width": 4})
    model = build_model(ModelReference(build=f"{build}:net", args={"width": 3}))
    identity = artifact_id({"name": "fuzzed"})
    target = folder / identity
    target.mkdir(parents=True)
    facts = {"parameters": 100, "macs": 1000, "size": 400, "report": {"pruned": {"a": 1}}}
    step = {
        "id": identity, "label": "student", "stage": "compress", "technique": "prune_channels",
        "parameters": {"ratio": 0.5}, "facts": facts, "scores": {"validation_accuracy": 0.9},
    }  # fmt: skip
    write_manifest(
        target,
        {
            **step,
            "kind": "torch",
            "parents": ["0123456789ab"],
            "seed": 0,
            "machine": "0123456789ab",
            "model": save_model(target, model, reference),
            "lineage": [{**step, "id": "0123456789ab", "label": "teacher"}, step],
            "data": {
                "name": "digits",
                "fingerprint": "f" * 12,
                "preprocessing": known.to_dict(),
                "reference": {
                    "name": "digits", "parameters": {}, "validation_fraction": 0.1, "augment": [],
                    "seed": 0, "folder": ".",
                },
                "licence": "", "source": "",
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    write(Path(sys.argv[1]))
