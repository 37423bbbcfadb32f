"""A file that prepares its pictures itself: its bundle, its proofs, and what they catch."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from kdeploy.errors import ModelError, ParityFailed, RecipeError
from kdeploy.onnx_graph import folded_input, folded_output
from kdeploy.package.folding import Folding, Surroundings, check_folds, folded, folding_of
from kdeploy.package.verify import verify


def answers(run_runner, bundle, *files):
    done = run_runner(bundle, "--json", "--top", 3, *files)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["predictions"]


def test_the_manifest_says_that_the_file_takes_pixels(folded_bundle, tiny):
    manifest = json.loads((folded_bundle.bundle / "manifest.json").read_text())
    assert manifest["schema_version"] == 2
    assert manifest["inputs"][0]["name"] == "pixels"
    assert manifest["inputs"][0]["shape"] == ["batch", "height", "width", 1]
    assert manifest["inputs"][0]["type"] == "uint8"
    told = {"layout": "NHWC", "folded": True, **tiny.preprocessing.to_dict()}
    assert manifest["preprocessing"] == told
    assert manifest["outputs"][0]["values"] == "probabilities"
    golden = np.load(folded_bundle.bundle / "golden/inputs.npz")["inputs"]
    assert golden.dtype == np.uint8
    assert golden.shape[1:3] != tiny.stored.shape[2:]  # resized by the file, in each self-test


def test_its_bundle_is_proven_and_answers_as_the_one_before(folded_bundle, run_runner, tmp_path):
    result = verify(folded_bundle.bundle)
    assert result.passed, result.checks
    files = []
    for number, size in enumerate([(8, 8), (31, 12), (5, 6), (100, 90)]):
        files.append(tmp_path / f"{number}.png")
        drawn = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(drawn).save(files[-1])
    one, other = (
        answers(run_runner, bundle, *files)
        for bundle in (folded_bundle.plain, folded_bundle.bundle)
    )
    for before, after in zip(one, other, strict=True):
        assert abs(before["score"] - after["score"]) < 0.02
    assert [x["class"] for x in one[::3]] == [x["class"] for x in other[::3]]


def test_nothing_that_was_added_is_quantized(folded_bundle):
    graphs = [onnx.load(path).graph for path in (folded_bundle.file, folded_bundle.made.path)]
    quantizers = [
        sorted(n.name for n in g.node if n.op_type in ("QuantizeLinear", "DequantizeLinear"))
        for g in graphs
    ]
    assert quantizers[0] == quantizers[1]
    kept = {n.name for n in graphs[0].node}
    added = [n.op_type for n in graphs[1].node if n.name not in kept]
    assert added == ["Resize", "Cast", "Mul", "Sub", "Div", "Transpose", "Softmax"]


def test_pixels_that_are_resized_another_way_fail_the_proof(tiny, tmp_path, monkeypatch):
    def coarse(steps, pixels, size):
        return steps.add("Resize", pixels, None, None, size, axes=[1, 2], mode="linear")

    monkeypatch.setattr(folded_input, "_resize", coarse)
    around = Surroundings(form=tiny.preprocessing, task={}, items=tiny.stored)
    with pytest.raises(ParityFailed, match="of 255 away from Python's; allowed are 1"):
        folded(tiny.path, tmp_path / "f.onnx", around, Folding())


def test_answers_that_are_decoded_another_way_fail_the_proof(tiny, tmp_path, monkeypatch):
    change = (folded_output.PROBABILITIES, lambda steps, output, task: steps.add("Sigmoid", output))
    monkeypatch.setattr(folded_output, "_CLASSES", change)
    around = Surroundings(form=tiny.preprocessing, task={}, items=tiny.stored)
    with pytest.raises(ParityFailed, match="item 0 it tells another answer: it differs by up to"):
        folded(tiny.path, tmp_path / "f.onnx", around, Folding())


def test_what_cannot_be_folded_is_refused(tiny):
    with pytest.raises(ModelError, match="takes bytes, and the data hold float32"):
        check_folds("onnx", tiny.preprocessing, np.dtype(np.float32))
    with pytest.raises(ModelError, match="the one to package is `litert`"):
        check_folds("litert", tiny.preprocessing, np.dtype(np.uint8))
    with pytest.raises(RecipeError, match="`fold_suppression` adds to `fold_preprocessing`"):
        folding_of(False, True)
    assert folding_of(False, False) is None
