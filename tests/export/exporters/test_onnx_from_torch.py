from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.onnxruntime_cpu import OnnxruntimeCpu

NAMES = (
    *("concatenating", "shuffling", "squeezing", "pre_activated"),
    *("signal", "perceptron", "attending"),
)


def written(model, items, path, **parameters):
    example = torch.from_numpy(items.validation.x[:2])
    onnx_from_torch(model, example, path, **parameters)
    return onnx.load(path)


def executed(path):
    session = OnnxruntimeCpu(threads=1)
    session.open(path)
    return session


@pytest.mark.parametrize("name", NAMES)
def test_every_weighted_operator_of_an_int8_file_runs_on_integers(int8, exported, name):
    model, items = int8(name)
    session = executed(exported(name))
    proof = session.proof_of_use()
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    assert proof.integer_kernels == 1.0
    assert proof.eligible >= sum(isinstance(module, kinds) for module in model.base.modules())
    x = items.test.x
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    # A sum between two codes may round to either side: a step, seldom more, at few items.
    assert np.abs(first(session.infer(x)) - expected).mean() < 0.01 * expected.std()


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("squeezing", {"QLinearGlobalAveragePool", "QLinearMul", "QLinearSigmoid"}),
        ("concatenating", {"QLinearConcat", "QLinearGlobalAveragePool"}),
    ],
)
def test_pools_gates_and_concatenations_run_on_integers_too(exported, name, operators):
    assert operators <= set(executed(exported(name)).proof_of_use().operators)


def initializers(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def quantizers(path, *kinds):
    return [node for node in onnx.load(path).graph.node if node.op_type in kinds]


def test_weights_are_stored_once_as_int8(exported):
    large = [t for t in initializers(exported("concatenating")).values() if t.size >= 40]
    assert len(large) == 5
    assert {t.dtype for t in large} == {np.dtype(np.int8)}


@pytest.mark.parametrize(
    ("profile", "dtype"), [("cpu", np.uint8), ("tensorrt", np.int8), ("arm", np.int8)]
)
def test_a_profile_writes_the_ranges_in_its_own_codes(exported, profile, dtype):
    path = exported("squeezing", profile=profile)
    stored = initializers(path)
    activations = quantizers(path, "QuantizeLinear")
    assert activations
    assert {stored[n.input[2]].dtype for n in activations} == {np.dtype(dtype)}
    assert all(stored[n.input[1]].shape == () for n in activations)


@pytest.mark.parametrize("name", ["concatenating", "perceptron"])
def test_a_file_for_arm_runs_on_integers_where_int8_times_int8_is_allowed(
    int8, exported, tmp_path, name
):
    # An x86 build of ONNX Runtime leaves int8 activations to its ARM kernels unless it is asked.
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    path = exported(name, profile="arm")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    model, items = int8(name)
    layers = [m for m in model.base.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert kinds["QLinearConv"] + kinds["QGemm"] == len(layers)
    assert not {"Conv", "Gemm"} & set(kinds)
    [found] = session.run(None, {"input": items.test.x})
    with torch.no_grad():
        expected = model.with_profile("arm")(torch.from_numpy(items.test.x)).numpy()
    assert np.abs(found - expected).mean() < 0.01 * expected.std()


def test_a_file_for_tensorrt_has_no_zero_points_but_zero_and_no_integer_biases(exported):
    path = exported("squeezing", profile="tensorrt")
    stored = initializers(path)
    assert all(
        not stored[n.input[2]].any() for n in quantizers(path, "QuantizeLinear", "DequantizeLinear")
    )
    assert not any(t.dtype == np.int32 for t in stored.values())


def test_a_float_file_has_no_batch_norm_and_pools_globally(network, tmp_path):
    model, items = network("concatenating")
    file = written(model, items, tmp_path / "m.onnx")
    operators = {node.op_type for node in file.graph.node}
    assert "GlobalAveragePool" in operators
    assert not {"BatchNormalization", "ReduceMean", "QuantizeLinear"} & operators


@pytest.mark.parametrize(
    ("kind", "options"),
    [(nn.GRU, {}), (nn.LSTM, {"num_layers": 2, "bidirectional": True})],
)
def test_a_recurrent_layer_is_one_operator_a_layer_at_any_batch_size(kind, options, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = kind(4, 6, batch_first=True, **options)

        def forward(self, x):
            return self.recurrent(x.transpose(1, 2))[0][:, -1]

    model = Net().eval()
    onnx_from_torch(model, torch.randn(2, 4, 9), tmp_path / "m.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert operators.count(kind.__name__) == options.get("num_layers", 1)
    assert not {"Loop", "Scan", "MatMul", "Sigmoid"} & set(operators)
    session = executed(tmp_path / "m.onnx")
    for batch in (1, 8):
        x = torch.randn(batch, 4, 9)
        with torch.no_grad():
            np.testing.assert_allclose(first(session.infer(x.numpy())), model(x), atol=1e-5)


def test_the_opset_is_the_one_asked_for(exported):
    for parameters, opset in (({}, 18), ({"opset": 21}, 21)):
        path = exported("signal", **parameters)
        file = onnx.load(path)
        assert [o.version for o in file.opset_import if not o.domain] == [opset]
        onnx.checker.check_model(file, full_check=True)
        assert executed(path).proof_of_use().integer_kernels == 1.0


def test_the_file_names_its_ends_and_leaves_the_batch_open(network, tmp_path):
    model, items = network("signal")
    file = written(model, items, tmp_path / "m.onnx")
    properties = {p.key: p.value for p in file.metadata_props}
    assert [i.name for i in file.graph.input] == [properties["kdeploy.input"]] == ["input"]
    assert [o.name for o in file.graph.output] == [properties["kdeploy.output"]] == ["output"]
    for value in (*file.graph.input, *file.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert properties["kdeploy.profile"] == "float"


def test_nothing_of_this_machine_is_in_the_file(exported):
    assert b".py" not in exported("shuffling").read_bytes()


def test_the_same_model_is_written_as_the_same_bytes_and_in_silence(
    int8, exported, tmp_path, capfd
):
    model, items = int8("signal")
    written(model, items, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == exported("signal").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_what_onnx_cannot_say_is_an_error_that_names_it(network, tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x).flatten(1)

    _, items = network("signal")
    with pytest.raises(ModelError, match="bessel_j0"):
        written(Net(), items, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_with_open_sizes_runs_at_any(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return x.relu().mean((2, 3))

    example = torch.randn(2, 3, 8, 8)
    onnx_from_torch(Net(), example, tmp_path / "m.onnx", dynamic=("height", "width"))
    x = torch.randn(1, 3, 5, 9)
    np.testing.assert_allclose(
        first(executed(tmp_path / "m.onnx").infer(x.numpy())), Net()(x), atol=1e-6
    )


def test_a_size_that_the_model_fixes_is_an_error_that_names_it(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(ModelError, match=r"open axes \[3\]: .*size\(\)\[3\].*constant \(4\)"):
        onnx_from_torch(model, torch.randn(2, 3, 4, 4), tmp_path / "m.onnx", dynamic=("width",))


def test_weights_beside_the_file_are_named_after_it(tmp_path, monkeypatch):
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 32)).eval(), torch.randn(2, 64)
    onnx_from_torch(model, x, tmp_path / "asked.onnx", external_data=True)
    monkeypatch.setattr("kdeploy.export.exporters.onnx_from_torch.LARGEST_FILE_BYTES", 5000)
    onnx_from_torch(model, x, tmp_path / "large.onnx")
    for name in ("asked", "large"):
        assert (tmp_path / f"{name}.onnx.data").stat().st_size >= 4 * 64 * 32
        with torch.no_grad():
            expected = model(x)
        found = first(executed(tmp_path / f"{name}.onnx").infer(x.numpy()))
        np.testing.assert_allclose(found, expected, atol=1e-5)


class Branching(nn.Module):
    """What torch.export refuses: a branch on values, which the example decides."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x) if (x * x).sum() >= 0 else self.head(-x)


@pytest.mark.parametrize("opset", [17, 18, 21])
def test_what_torch_export_refuses_is_traced_and_the_file_says_so(tmp_path, caplog, opset):
    model = Branching().eval()
    onnx_from_torch(model, torch.randn(2, 4), tmp_path / "m.onnx", opset=opset)
    assert "older exporter is used instead" in caplog.text
    assert "data-dependent" in caplog.text
    file = onnx.load(tmp_path / "m.onnx")
    properties = {p.key: p.value for p in file.metadata_props}
    assert properties["kdeploy.exporter"] == "torch.onnx torchscript"
    assert [o.version for o in file.opset_import if not o.domain] == [opset]
    x = torch.randn(5, 4)
    with torch.no_grad():
        np.testing.assert_allclose(
            first(executed(tmp_path / "m.onnx").infer(x.numpy())), model(x), atol=1e-6
        )


def test_a_quantized_model_is_never_traced(int8, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ModelError("no", hint="no")

    model, items = int8("signal")
    monkeypatch.setattr("kdeploy.export.exporters.onnx_from_torch.export_program", refuse)
    with pytest.raises(ModelError, match="no"):
        written(model, items, tmp_path / "m.onnx")


def test_a_file_is_written_in_another_opset_and_keeps_what_it_says(network, tmp_path):
    model, items = network("signal")
    written(model, items, tmp_path / "m.onnx", opset=17)
    file = written(OnnxModel(tmp_path / "m.onnx"), items, tmp_path / "n.onnx", opset=20)
    assert [o.version for o in file.opset_import if not o.domain] == [20]
    properties = {p.key: p.value for p in file.metadata_props}
    assert properties["kdeploy.profile"] == "float"
    assert properties["kdeploy.exporter"] == "torch.onnx dynamo"
    with pytest.raises(ModelError, match="is a file"):
        written(OnnxModel(tmp_path / "m.onnx"), items, tmp_path / "o.onnx", dynamic=("length",))


def test_a_vision_transformer_of_a_library(tmp_path):
    try:
        import vit_pytorch as library
    except (ImportError, RuntimeError) as error:  # it wants a torchvision that fits torch
        pytest.skip(f"vit_pytorch cannot be imported: {error}")
    sizes = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
    model, x = library.ViT(num_classes=5, **sizes).eval(), torch.randn(2, 3, 8, 8)
    onnx_from_torch(model, x, tmp_path / "m.onnx", opset=17)
    with torch.no_grad():
        np.testing.assert_allclose(
            first(executed(tmp_path / "m.onnx").infer(x.numpy())), model(x), atol=1e-5
        )
