"""Bundles of models of token ids: packaged, proven, and asked for the next token."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import ArtifactCorrupt, ModelError
from kdeploy.package.manifest import read_manifest
from kdeploy.package.verify import verify
from kdeploy.preprocessing import Preprocessing
from tests.package.runner.cpp import built

TOKENS, VOCABULARY = 4, 7
PREPROCESSING = Preprocessing(
    shape=(TOKENS,), classes=tuple("abcdefg"), dtype="int64", vocabulary=VOCABULARY
)
IDS = np.random.default_rng(0).integers(0, VOCABULARY, (5, TOKENS))


def written(path, length):
    """Write a table of texts of a length: after the token i it expects i + 1."""
    table = 5 * np.roll(np.eye(VOCABULARY, dtype=np.float32), 1, axis=1)
    ports = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", length]),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", length, VOCABULARY]),
    ]
    node = helper.make_node("Gather", ["table", "ids"], ["out"])
    weights = [numpy_helper.from_array(table, "table")]
    graph = helper.make_graph([node], "next", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("onnx") / "next.onnx", TOKENS)


@pytest.fixture(scope="module")
def outputs(file):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": IDS})[0]


@pytest.fixture(scope="module")
def texts(make_bundle, artifact_manifest, file, outputs, tmp_path_factory):
    return make_bundle(
        tmp_path_factory.mktemp("texts") / "bundle",
        file=file,
        manifest=artifact_manifest(PREPROCESSING),
        golden=(IDS, outputs),
    )


def test_the_manifest_says_what_the_ids_are(texts):
    known = read_manifest(texts).preprocessing
    assert (known.layout, known.dtype, known.vocabulary) == ("NT", "int64", VOCABULARY)
    assert "4 token ids, integers from 0 to 6" in (texts / "README.md").read_text()


def test_every_token_that_is_no_tie_is_judged(texts):
    tolerance = json.loads((texts / "golden/tolerance.json").read_text())
    assert tolerance["top1_items"] == list(range(len(IDS) * TOKENS))


def test_the_self_test_passes_and_finds_one_changed_token(texts, runner, golden_checks, capsys):
    assert runner.main(["--self-test", "--json", "--bundle", str(texts)]) == 0
    checks = {c["check"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["golden.top1"]["value"] == len(IDS) * TOKENS
    found = np.load(texts / "golden/outputs.npz")["outputs"]
    found[2, 1] = found[2, 1][::-1]
    near, same = golden_checks(texts, found)
    assert not near["passed"]
    assert same["value"] == len(IDS) * TOKENS - 1


def test_it_names_what_comes_after_the_last_token(texts, run_runner, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([[0, 1, 2, 3], [3, 2, 1, 6]], np.int32))
    done = run_runner(texts, tmp_path / "ids.npy", "--json")
    assert [p["class"] for p in json.loads(done.stdout)["predictions"]] == ["e", "a"]


@pytest.fixture(scope="module")
def of_any_length(make_bundle, artifact_manifest, outputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open")
    return make_bundle(
        folder / "bundle",
        file=written(folder / "next.onnx", "length"),
        manifest=artifact_manifest(PREPROCESSING),
        golden=(IDS, outputs),
    )


@pytest.mark.parametrize("length", [1, 4, 9])
def test_texts_of_any_length_are_read_where_the_file_takes_them(
    of_any_length, run_runner, tmp_path, length
):
    assert read_manifest(of_any_length).inputs[0].shape == ("batch", "length")
    assert "any number of token ids (4 in the data)" in (of_any_length / "README.md").read_text()
    np.save(tmp_path / "ids.npy", np.arange(length)[None] % VOCABULARY)
    programs = [lambda *given: run_runner(of_any_length, *given)]
    if not built.missing():
        command = [built.program(), "--bundle", of_any_length]
        programs.append(
            lambda *given: subprocess.run([*command, *given], capture_output=True, check=True)
        )
    for program in programs:
        assert json.loads(program("--self-test", "--json").stdout)["passed"]
        [first, *_] = json.loads(program(tmp_path / "ids.npy", "--json").stdout)["predictions"]
        assert first["class"] == "abcdefg"[length % VOCABULARY]


def test_numbers_of_other_inputs_have_fixed_sizes(of_any_length, signed_again, tmp_path):
    floats = shutil.copytree(of_any_length, tmp_path / "bundle")
    signed_again(floats, "manifest.json", lambda m: m["inputs"][0].update(type="float32"))
    with pytest.raises(ArtifactCorrupt, match="open size beside the batch"):
        verify(floats)


@pytest.mark.parametrize("wrong", [IDS + 1, IDS - 1, IDS.astype(float)])
def test_ids_outside_of_the_vocabulary_are_refused(texts, runner, tmp_path, wrong, capsys):
    np.save(tmp_path / "ids.npy", wrong)
    with pytest.raises(SystemExit) as caught:
        runner.main(["--bundle", str(texts), str(tmp_path / "ids.npy")])
    assert caught.value.code == 2
    assert "integers below 7" in capsys.readouterr().err


def test_golden_inputs_have_the_type_of_the_file(
    make_bundle, artifact_manifest, file, outputs, tmp_path
):
    with pytest.raises(ModelError, match="int64 items of shape"):
        make_bundle(
            tmp_path / "bundle",
            file=file,
            manifest=artifact_manifest(PREPROCESSING),
            golden=(IDS.astype(np.float32), outputs),
        )


def test_a_manifest_of_floats_does_not_fit_a_file_of_ids(
    make_bundle, artifact_manifest, file, outputs, tmp_path
):
    floats = Preprocessing(shape=(TOKENS,), classes=tuple("abcdefg"))
    with pytest.raises(ModelError, match="the preprocessing makes float32"):
        make_bundle(
            tmp_path / "bundle",
            file=file,
            manifest=artifact_manifest(floats),
            golden=(IDS, outputs),
        )
