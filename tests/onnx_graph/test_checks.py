"""Bad files: one message and a hint each, the same from whoever is asked to open them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdeploy.errors import FileMissing, KdeployError, ModelError
from kdeploy.onnx_graph.checks import content_sha256, file_bytes, read_onnx
from kdeploy.onnx_graph.facts import count_parameters
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.package.bundles.onnx import Onnx
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime

READERS = {
    "teacher": OnnxModel,
    "onnxruntime_cpu": lambda path: open_runtime("onnxruntime_cpu", path, threads=1),
    "openvino": lambda path: open_runtime("openvino", path, threads=1),
    "bench": count_parameters,
    "package": Onnx.facts_of,
}


def model(operator="Mul", *, domain="", opset=18, ir_version=8, inputs=1, kind=TensorProto.FLOAT):
    """Return y = 2 x, or something else that is wrong."""
    names = [f"x{n}" for n in range(inputs)]
    values = [helper.make_tensor_value_info(n, kind, ("batch", 3)) for n in (*names, "y")]
    two = numpy_helper.from_array(np.full(3, 2, helper.tensor_dtype_to_np_dtype(kind)), "two")
    last = "two" if inputs == 1 else names[1]
    node = helper.make_node(operator, [names[0], last], ["y"], domain=domain)
    graph = helper.make_graph([node], "double", values[:-1], values[-1:], [two])
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def kept_in(location, path):
    """Write the model with its tensor at `location`."""
    written = model()
    [two] = written.graph.initializer
    raw = two.raw_data
    onnx.external_data_helper.set_external_data(two, location, offset=0, length=len(raw))
    two.ClearField("raw_data")
    path.write_bytes(written.SerializeToString())
    return raw


@pytest.fixture(params=list(READERS))
def read(request):
    return READERS[request.param]


def refusal(read, path):
    with pytest.raises(KdeployError) as caught:
        read(path)
    assert caught.value.hint
    assert path.name in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("content", [b"", b"this is text", None], ids=["empty", "text", "cut off"])
def test_what_is_no_onnx_file_is_said_to_be_none(read, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString()[:60] if content is None else content)
    assert "is not an ONNX file" in refusal(read, path).message


def test_a_file_that_is_not_there(tmp_path, read):
    error = refusal(read, tmp_path / "m.onnx")
    assert isinstance(error, FileMissing)


def test_an_operator_that_onnx_does_not_have_is_named(read, tmp_path):
    onnx.save(model("Frobnicate"), tmp_path / "m.onnx")
    assert (
        "operators that ONNX does not have: Frobnicate"
        in refusal(read, tmp_path / "m.onnx").message
    )


@pytest.mark.parametrize("runtime", ["teacher", "onnxruntime_cpu", "openvino"])
def test_an_operator_of_a_library_that_a_runtime_does_not_know_is_named(runtime, tmp_path):
    onnx.save(model("Frobnicate", domain="com.acme"), tmp_path / "m.onnx")
    message = refusal(READERS[runtime], tmp_path / "m.onnx").message
    assert "cannot open" in message
    assert "does not know the operator com.acme" in message


@pytest.mark.parametrize("reader", ["teacher", "onnxruntime_cpu", "bench", "package"])
def test_an_opset_that_nobody_knows_is_refused_with_the_newest_known(reader, tmp_path):
    # OpenVINO runs such a file, by the newest rules that it has.
    onnx.save(model(opset=99), tmp_path / "m.onnx")
    message = refusal(READERS[reader], tmp_path / "m.onnx").message
    assert "of opset 99" in message
    assert f"up to {onnx.defs.onnx_opset_version()}" in message


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"opset": onnx.defs.onnx_opset_version()}, f"opset {onnx.defs.onnx_opset_version()} yet"),
        ({"ir_version": 99}, "and the file is of 99"),
    ],
)
def test_what_onnx_knows_and_onnx_runtime_does_not_yet_says_so(tmp_path, settings, reason):
    onnx.save(model(**settings), tmp_path / "m.onnx")
    for read in (READERS["teacher"], READERS["onnxruntime_cpu"]):
        assert reason in refusal(read, tmp_path / "m.onnx").message


@pytest.mark.parametrize("location", ["../secret.bin", "ABSOLUTE", "link.bin", ""])
def test_a_file_that_reads_outside_its_folder_is_refused_before_it_is_run(read, tmp_path, location):
    folder, secret = tmp_path / "folder", tmp_path / "secret.bin"
    folder.mkdir()
    location = str(secret) if location == "ABSOLUTE" else location
    secret.write_bytes(kept_in(location, folder / "m.onnx"))
    (folder / "link.bin").symlink_to(secret)
    if location:
        assert "outside its own folder" in refusal(read, folder / "m.onnx").message
    else:
        refusal(read, folder / "m.onnx")


def test_a_tensor_that_is_not_beside_the_file_is_named(read, tmp_path):
    kept_in("weights.bin", tmp_path / "m.onnx")
    error = refusal(read, tmp_path / "m.onnx")
    assert isinstance(error, FileMissing)
    assert "`two` in the file `weights.bin`" in error.message


def test_tensors_that_are_cut_off_are_told_by_their_end(read, tmp_path):
    (tmp_path / "weights.bin").write_bytes(kept_in("weights.bin", tmp_path / "m.onnx")[:5])
    message = refusal(read, tmp_path / "m.onnx").message
    assert "has 5 bytes, and the tensor `two` ends at 12" in message


def test_inputs_that_no_data_can_be_are_listed(tmp_path):
    onnx.save(model(kind=TensorProto.DOUBLE), tmp_path / "m.onnx")
    message = refusal(READERS["teacher"], tmp_path / "m.onnx").message
    assert "takes 1 inputs (`x0`: tensor(double))" in message
    assert "tensor(float), tensor(int64)" in message


@pytest.mark.parametrize(
    ("runtime", "batch"),
    [
        ("onnxruntime_cpu", np.zeros((2, 5), np.float32)),
        ("onnxruntime_cpu", np.zeros((2, 3), np.float16)),  # OpenVINO converts it
        ("openvino", np.zeros((2, 5), np.float32)),
    ],
)
def test_an_input_that_does_not_fit_is_said_with_what_the_file_takes(runtime, tmp_path, batch):
    onnx.save(model(), tmp_path / "m.onnx")
    opened = READERS[runtime](tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"cannot run an input of shape \[2, .\]; it takes .*3"):
        first(opened.infer(batch))


def test_the_bytes_and_the_digest_of_a_file_are_of_all_that_belongs_to_it(tmp_path):
    raw = kept_in("weights.bin", tmp_path / "m.onnx")
    (tmp_path / "weights.bin").write_bytes(raw)
    before = content_sha256(tmp_path / "m.onnx")
    assert file_bytes(tmp_path / "m.onnx") == (tmp_path / "m.onnx").stat().st_size + len(raw)
    (tmp_path / "weights.bin").write_bytes(bytes(reversed(raw)))
    assert content_sha256(tmp_path / "m.onnx") != before


def test_a_function_that_the_file_brings_along_is_no_unknown_operator(tmp_path):
    written = model("Frobnicate")
    double = helper.make_node("Mul", ["a", "b"], ["c"])
    opsets = [helper.make_opsetid("", 18)]
    written.functions.append(
        helper.make_function("", "Frobnicate", ["a", "b"], ["c"], [double], opsets)
    )
    onnx.save(written, tmp_path / "m.onnx")
    assert read_onnx(tmp_path / "m.onnx").functions
