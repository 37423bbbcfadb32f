"""The interpreter of microcontrollers: answers of LiteRT's own, the operators, the smallest arena.

`tests/tiny/digits_int8.tflite` was exported by `litert: {max_batch: 1}` from a network of three
convolutions (8, 16 and 16 channels) and a linear layer after `int8_ptq`, trained on `digits`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdeploy.errors import FileMissing, ModelError
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime

REASON = "pip install tflite-micro"
pytest.importorskip("tflite_micro", reason=REASON)
PATH = Path(__file__).parents[1] / "tiny" / "digits_int8.tflite"
SCALE, ZERO_POINT = 0.10283931, 28
# Codes that LiteRT 2.3.0 answers in XNNPACK's kernels.
EXPECTED = np.array(
    [
        [78, -128, -128, -30, 10, -59, 10, -86, 121, 93],
        [69, -128, -77, -1, 4, -67, 6, -108, 107, 70],
        [127, -128, -56, -25, 27, -52, 22, -128, 78, 76],
    ]
)


@pytest.fixture(scope="module")
def opened():
    found = open_runtime("litert_micro", PATH, threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def items():
    return np.random.default_rng(0).uniform(0, 1, (3, 1, 16, 16)).astype(np.float32)


def test_answers_as_litert_does_to_one_code(opened, items):
    codes = np.rint(first(opened.infer(items)) / SCALE + ZERO_POINT)
    assert np.abs(codes - EXPECTED).max() <= 1


def test_a_row_is_answered_the_same_alone_and_among_others(opened, items):
    among = first(opened.infer(items))
    np.testing.assert_array_equal(first(opened.infer({"input": items[1:2]})), among[1:2])


def test_names_what_it_takes_and_gives(opened, items):
    (info,) = opened.inputs
    assert (info.name, info.shape, info.dtype) == ("input", ("batch", 1, 16, 16), "float32")
    assert list(opened.infer(items)) == ["output"]


def test_proves_integers_and_says_that_its_times_are_no_devices(opened):
    proof = opened.proof_of_use()
    assert (proof.eligible, proof.integer, proof.is_quantized) == (4, 4, True)
    assert proof.operators["CONV_2D:int8"] == 2
    assert proof.is_emulated


def test_the_arena_is_the_smallest_in_which_it_opens(opened):
    """Held against the library itself, in a process that it may end."""
    arena = opened.proof_of_use().arena_bytes
    assert arena == 7440
    code = (
        "import sys; from tflite_micro.python.tflite_micro.runtime import Interpreter; "
        "Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])).invoke()"
    )
    for size, opens in ((arena, True), (arena - 16, False)):
        done = subprocess.run(
            [sys.executable, "-c", code, PATH, str(size)], check=False, capture_output=True
        )
        assert (done.returncode == 0) is opens


def changed(folder, change):
    """Return a copy of the file of which `change` has changed the model."""
    import flatbuffers
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(PATH.read_bytes()))
    change(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "changed.tflite").write_bytes(bytes(builder.Output()))
    return folder / "changed.tflite"


def test_an_operator_that_it_has_not_is_named(tmp_path):
    def as_hash_table(model, schema):
        code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
        code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.HASHTABLE, 127

    with pytest.raises(ModelError, match="it has no operator HASHTABLE") as caught:
        open_runtime("litert_micro", changed(tmp_path, as_hash_table), threads=1)
    assert "convolutions" in caught.value.hint


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileMissing):
        open_runtime("litert_micro", tmp_path / "none.tflite", threads=1)
    (tmp_path / "cut.tflite").write_bytes(PATH.read_bytes()[:3000])
    with pytest.raises(ModelError, match="no whole file") as caught:
        open_runtime("litert_micro", tmp_path / "cut.tflite", threads=1)
    assert "export it again" in caught.value.hint


def test_a_file_of_several_rows_is_refused(tmp_path):
    def traced_with_two(model, schema):
        graph = model.subgraphs[0]
        graph.tensors[graph.outputs[0]].shape = [2, 10]

    with pytest.raises(ModelError, match=r"of several rows: `output` is \[2, 10\]") as caught:
        open_runtime("litert_micro", changed(tmp_path, traced_with_two), threads=1)
    assert "max_batch: 1" in caught.value.hint


def test_other_sizes_are_refused(opened):
    with pytest.raises(ModelError, match="cannot run") as caught:
        opened.infer(np.zeros((1, 1, 8, 8), np.float32))
    assert caught.value.hint
