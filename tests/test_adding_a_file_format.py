"""A runtime with a file format of its own is one runtime, one exporter and one bundle file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
RUNTIME = '''"""A toy: it runs ONNX files that were packed."""

from __future__ import annotations

import zlib
from pathlib import Path

from kdeploy.errors import ModelError
from kdeploy.tensor_info import TensorInfo
from kdeploy.runtimes.contract import Answer, Given, Proof, by_name, runtime


@runtime(formats={"toy"}, device="cpu", suffixes={".toy": "toy"}, libraries=("pluggy",))
class Toy:
    """A packed file, unpacked into ONNX Runtime."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Take the threads.

        Args:
            threads: Without effect.
        """

    @staticmethod
    def unavailable() -> str | None:
        return None

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        import onnx

        value = onnx.load_from_string(zlib.decompress(path.read_bytes())).graph.input[0]
        sizes = tuple(d.dim_value or "batch" for d in value.type.tensor_type.shape.dim)
        return (TensorInfo(name=value.name, shape=sizes, dtype="float32"),)

    def open(self, path: Path) -> None:
        import onnxruntime

        try:
            content = zlib.decompress(path.read_bytes())
        except zlib.error as error:
            raise ModelError(f"{path} is no toy", hint="export it again") from error
        self._session = onnxruntime.InferenceSession(content)
        self.inputs = self.inputs_of(path)

    def infer(self, given: Given) -> Answer:
        feeds = by_name(given, [info.name for info in self.inputs], Path())
        return {"output": self._session.run(None, dict(feeds))[0]}

    def proof_of_use(self) -> Proof:
        return Proof(provider="toy")

    def close(self) -> None:
        del self._session
'''
EXPORTER = '''"""A toy: an ONNX file, packed."""

from __future__ import annotations

import zlib
from pathlib import Path

from torch import Tensor

from kdeploy.export.contract import exporter
from kdeploy.onnx_graph.model import OnnxModel


@exporter(source={"onnx"}, suffix=".toy", runtime="toy")
def toy_from_onnx(model: OnnxModel, example: Tensor, path: Path) -> None:
    """Write `path`."""
    path.write_bytes(zlib.compress(model.path.read_bytes()))
'''
BUNDLE = '''"""A toy, unpacked on the device."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

from kdeploy.package.contract import FileFacts, bundle
from kdeploy.package.ports import ports_of
from kdeploy.tensor_info import TensorInfo
from kdeploy.runtimes.files import inputs_of


@bundle(formats={"toy"}, runtime="toy", libraries={"onnxruntime": "MIT, (c) Microsoft"})
class Toy:
    """`model.toy`."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        outputs = (TensorInfo(name="output", shape=("batch", 10), dtype="float32"),)
        inputs, outputs = ports_of(path, inputs_of(path, "toy") or (), outputs)
        return FileFacts(inputs=inputs, outputs=outputs, is_quantized=False)

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        return Path(shutil.copyfile(path, folder / "model.toy"))

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        import zlib

        import onnxruntime

        with open(path, "rb") as file:
            session = onnxruntime.InferenceSession(zlib.decompress(file.read()))
        return lambda feeds: {"output": session.run(None, feeds)[0]}
'''
RECIPE = """
name: packed
data: {name: digits}
teacher: {build: build.py:net, args: {classes: 10}, train: {epochs: 1}}
export: [{toy: {}}]
bench: {runtimes: [toy], minimum_seconds: 0.05, minimum_count: 10}
gates: ["accuracy.top1: >= 0.05", "size: <= 1MB"]
package: {budgets: ["size: <= 1MB"]}
"""
FILES = {
    "runtimes/toy.py": RUNTIME,
    "export/exporters/toy_from_onnx.py": EXPORTER,
    "package/bundles/toy.py": BUNDLE,
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Return a copy of the package with three files more."""
    root = tmp_path_factory.mktemp("extended")
    unneeded = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "kdeploy", root / "kdeploy", ignore=unneeded)
    for name, source in FILES.items():
        (root / "kdeploy" / name).write_text(source)
    shutil.copy(REPOSITORY / "tests" / "tiny" / "build.py", root)
    (root / "recipe.yaml").write_text(RECIPE)
    return root


def kdeploy(root, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "NO_COLOR": "1"}
    environment.pop("KDEPLOY_HINTS", None)  # the copy has not all of the tests
    done = subprocess.run(
        [sys.executable, "-m", "kdeploy", *map(str, arguments)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_recipe_exports_measures_packages_and_verifies_it(extended):
    kdeploy(extended, "run", "recipe.yaml", "--out", "out")
    assert [p.name for p in (extended / "out/exports").glob("*.toy")] == ["teacher.toy"]
    lines = (extended / "out/measurements.jsonl").read_text().splitlines()
    measured = {r["metric"]: r for r in map(json.loads, lines) if r["runtime"] == "toy"}
    assert {"latency.p50", "accuracy.top1", "parity.max_abs"} <= set(measured)
    summary = json.loads((extended / "out/summary.json").read_text())
    assert summary["packaged"]
    assert all(gate["passed"] for gate in summary["gates"])
    manifest = json.loads((extended / "out/bundle/manifest.json").read_text())
    assert (manifest["model"]["file"], manifest["model"]["format"]) == ("model.toy", "toy")
    verified = json.loads(kdeploy(extended, "verify", "out/bundle", "--json"))
    assert verified["passed"]
    alone = [sys.executable, "out/bundle/runner/python/run.py", "--self-test"]
    subprocess.run(alone, cwd=extended, check=True, capture_output=True)


def test_it_is_measured_by_itself_and_known_to_the_doctor(extended):
    out = json.loads(
        kdeploy(
            extended,
            "bench",
            "out/exports/teacher.toy",
            "--runtime",
            "toy",
            "--seconds",
            0.05,
            "--out",
            "measured",
            "--json",
        )
    )
    assert any(m["metric"] == "latency.p50" and m["value"] for m in out["measurements"])
    doctor = json.loads(kdeploy(extended, "doctor", "--json"))
    assert doctor["runtimes"]["toy"] is None
    assert "pluggy" in doctor["machine"]["versions"]
    assert "A toy, unpacked on the device" in kdeploy(extended, "list", "bundle")
