from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.int4_weights import holds_codes, int4_weights
from kdeploy.compress.compressors.int8_ptq import int8_ptq
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import (
    GateFailed,
    ModelError,
    NotCalibrated,
    OrderError,
    RecipeError,
    UnknownName,
)
from kdeploy.export.run import export
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.structure import difference, replay
from kdeploy.torch_module.block_quantized import BlockQuantizedLinear, block_quantized
from kdeploy.torch_module.complexity import count_macs, count_parameters
from tests.tiny.text import Tied, sequences


def _tied() -> nn.Module:
    torch.manual_seed(0)
    return Tied().eval()


@pytest.fixture(scope="module")
def texts():
    return sequences()


def test_both_ends_share_one_table_of_8_bits(texts):
    context = CompressContext(data=texts)
    small = compress(_tied(), "int4_weights", {}, context)
    assert small.words.bits == small.head.bits == 8
    assert small.words.codes is small.head.codes
    assert small.words.scales is small.head.scales
    assert small.up.bits == small.down.bits == 4
    rows = {row["layer"]: row for row in context.report["int4_weights"]}
    assert {name: row["bits"] for name, row in rows.items()} == {
        "words": 8,
        "head": 8,
        "up": 4,
        "down": 4,
    }
    assert 0 < float(rows["up"]["output_error"]) < 0.05


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("embedding_bits", [4, 8])
def test_a_model_is_rebuilt_from_plain_edits_with_its_ties(texts, symmetric, embedding_bits):
    parameters = {"symmetric": symmetric, "embedding_bits": embedding_bits}
    small = compress(_tied(), "int4_weights", parameters, CompressContext(data=texts))
    again = replay(_tied(), difference(_tied(), small))
    again.load_state_dict(small.state_dict())
    ids = torch.from_numpy(texts.preprocessing.apply(texts.test.x[:3]))
    assert torch.equal(again(ids), small(ids))
    assert again.words.codes is again.head.codes


def test_the_file_holds_what_a_formula_says(texts):
    small = compress(_tied(), "int4_weights", {"block_size": 16}, CompressContext(data=texts))
    for layer in (small.up, small.down):
        weights = layer.out_features * layer.in_features
        stored = layer.codes.numel() + 2 * layer.scales.numel()
        assert stored == weights / 2 + 2 * weights / 16


def test_counts_stay_those_of_the_float_model(texts):
    model, context = _tied(), CompressContext(data=texts)
    small = compress(model, "int4_weights", {}, context)
    assert count_parameters(small) == count_parameters(model)
    assert count_macs(small, context.example) == count_macs(model, context.example)


@pytest.mark.parametrize(("symmetric", "bits", "embedding_bits"), [(True, 4, 8), (False, 8, 4)])
def test_the_standard_file_computes_the_same(texts, tmp_path, symmetric, bits, embedding_bits):
    parameters = {"bits": bits, "embedding_bits": embedding_bits, "symmetric": symmetric}
    small = compress(_tied(), "int4_weights", parameters, CompressContext(data=texts))
    result = export(small, "onnx", {}, texts, tmp_path / "m.onnx")
    assert result.opset == 21
    program = onnx.load(result.path)
    assert {o.domain for o in program.opset_import} <= {""}
    runtime = open_runtime("onnxruntime_cpu", result.path, threads=1)
    operators = runtime.proof_of_use().operators
    runtime.close()
    assert operators["MatMulNBits"] >= 2
    pytest.importorskip("openvino", reason="pip install openvino")
    other = open_runtime("openvino", result.path, threads=1)
    ids = texts.preprocessing.apply(texts.test.x[:3])
    found = torch.from_numpy(next(iter(other.infer(ids).values())))
    other.close()
    expected = small(torch.from_numpy(ids)).detach()
    assert (found - expected).abs().max() < 0.05 * expected.std()


def test_an_opset_without_blocks_is_refused(texts, tmp_path):
    small = compress(_tied(), "int4_weights", {}, CompressContext(data=texts))
    with pytest.raises(ModelError, match="opset 18"):
        export(small, "onnx", {"opset": 18}, texts, tmp_path / "m.onnx")


def test_gptq_loses_less_than_rounding_to_nearest(texts):
    ids = torch.from_numpy(texts.preprocessing.apply(texts.test.x))
    expected = _tied()(ids)
    errors = {}
    for method in ("gptq", "rtn"):
        given = {"method": method, "embedding_bits": 32, "scale_search": False}
        small = compress(_tied(), "int4_weights", given, CompressContext(data=texts))
        errors[method] = float((small(ids) - expected).detach().square().mean())
    assert errors["gptq"] < 0.8 * errors["rtn"]


def test_layers_that_are_ignored_stay_float_and_are_listed(texts):
    context = CompressContext(data=texts)
    small = compress(_tied(), "int4_weights", {"ignore": ["up"], "embedding_bits": 32}, context)
    assert list(block_quantized(small)) == ["down"]
    whys = {row["layer"]: row["why"] for row in context.report["int4_weights"]}
    assert whys == {
        "down": "",
        "up": "`ignore`",
        "words": "`embedding_bits: 32`",
        "head": "`embedding_bits: 32`",
    }
    with pytest.raises(UnknownName, match="upp"):
        compress(_tied(), "int4_weights", {"ignore": ["upp"]}, context)


def test_blocks_that_do_not_divide_the_inputs_are_halved(texts):
    small = compress(_tied(), "int4_weights", {"block_size": 128}, CompressContext(data=texts))
    assert (small.up.block_size, small.down.block_size) == (32, 64)


def test_quantizing_twice_is_refused(texts):
    context = CompressContext(data=texts)
    small = compress(_tied(), "int4_weights", {}, context)
    for technique in (int4_weights, int8_ptq):
        with pytest.raises(OrderError, match="quantized already"):
            technique(small, context)


def test_a_model_without_products_is_refused(tiny_data):
    model = nn.Sequential(nn.Conv2d(1, 4, 12), nn.Flatten()).eval()
    with pytest.raises(ModelError, match="no linear layer"):
        int4_weights(model, CompressContext(data=tiny_data))
    with pytest.raises(AssertionError):
        holds_codes(model)


def test_without_data_rounding_to_nearest_is_left(texts):
    import dataclasses

    none = dataclasses.replace(texts.train, x=texts.train.x[:0], y=texts.train.y[:0])
    context = CompressContext(data=dataclasses.replace(texts, train=none))
    with pytest.raises(NotCalibrated, match="no training items"):
        int4_weights(_tied(), context)
    assert block_quantized(int4_weights(_tied(), context, method="rtn"))


def test_weights_of_a_four_bit_file_are_told(texts, caplog):
    model = _tied()
    for layer in (model.up, model.down):
        coarse = (layer.weight * 20).round().clamp(-8, 7) / 20
        layer.weight = nn.Parameter(coarse)
    context = CompressContext(data=texts)
    compress(model, "int4_weights", {}, context)
    assert context.report["source_grid"] == [{"layers": 2, "of": 2, "first": "up"}]
    assert "rounded a second time" in caplog.text


def test_a_layer_computes_with_its_real_weights():
    layer = BlockQuantizedLinear(20, 3, bits=4, block_size=16)
    torch.manual_seed(0)
    layer.codes.random_(0, 256)
    layer.scales.uniform_(-1, 1)
    x = torch.randn(2, 5, 20)
    assert layer.weight.shape == (3, 20)
    assert torch.allclose(layer(x), x @ layer.weight.T + layer.bias)


def test_layers_get_8_bits_until_the_drop_is_allowed(texts, monkeypatch):
    seen = []

    def accuracy(model, part, preprocessing, *, device, task):
        eight = [n for n, m in block_quantized(model).items() if m.bits == 8]
        seen.append(sorted(set(eight) - {"words", "head"}))
        return 0.5 + 0.01 * len(seen[-1]) if len(seen) > 1 else 0.52

    monkeypatch.setattr("kdeploy.compress.mixed_precision.accuracy", accuracy)
    context = CompressContext(data=texts)
    small = compress(_tied(), "int4_weights", {"max_drop": "1pp"}, context)
    bits = {row["layer"]: row["bits"] for row in context.report["int4_weights"]}
    assert sorted(bits.values()) == [4, 8, 8, 8]
    (eight,) = {"up", "down"} - {n for n, m in block_quantized(small).items() if m.bits == 4}
    assert bits[eight] == 8
    assert [row["8-bit_layers"] for row in context.report["weight_bits"]] == [0, 1]
    rows = {row["layer"]: row for row in context.report["int4_weights"]}
    (four,) = {"up", "down"} - {eight}
    assert rows[eight]["why"] == "`max_drop`"
    assert float(rows[eight]["error_at_4_bits"]) > 0
    assert "error_at_4_bits" not in rows[four]


def test_a_drop_that_nothing_holds_is_told_with_what_was_tried(texts, monkeypatch):
    found = iter([0.9, 0.1, 0.2])
    monkeypatch.setattr(
        "kdeploy.compress.mixed_precision.accuracy", lambda *given, **more: next(found)
    )
    with pytest.raises(GateFailed, match="4-bit weights costs more"):
        compress(_tied(), "int4_weights", {"max_drop": "1pp"}, CompressContext(data=texts))


def test_a_drop_without_gptq_is_refused(texts):
    given = {"max_drop": "1pp", "method": "rtn"}
    with pytest.raises(RecipeError, match="GPTQ at 4 bits"):
        compress(_tied(), "int4_weights", given, CompressContext(data=texts))


def _learning(model, teacher, training):
    """Train as a recipe's `recover` does: outputs of the teacher on random ids."""
    ids = torch.randint(0, 11, (256, 6), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):
        loss = (model.train()(ids) - teacher(ids).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.parametrize("learned", ["scales", "weights"])
def test_learning_on_codes_brings_the_answers_nearer_and_stays_codes(texts, learned):
    ids = torch.from_numpy(texts.preprocessing.apply(texts.test.x))
    given = {"method": "rtn", "scale_search": False, "learned": learned}
    told: list[object] = []

    def train(model, teacher, training):
        told.append(training)
        _learning(model, teacher, training)

    plain = compress(_tied(), "int4_weights", given, CompressContext(data=texts))
    context = CompressContext(data=texts, is_recovered=True, train=train)
    taught = compress(_tied(), "int4_weights", given, context)
    assert told[0].is_last
    assert block_quantized(taught).keys() == block_quantized(plain).keys()
    assert taught.head.codes is taught.words.codes
    expected = _tied()(ids).detach()
    with torch.no_grad():
        error = [float((model(ids) - expected).square().mean()) for model in (plain, taught)]
    assert error[1] < 0.9 * error[0]
    moved = (taught.up.codes != plain.up.codes).float().mean()
    assert (moved > 0) == (learned == "weights")


def test_learned_without_recovery_is_told(texts, caplog):
    compress(_tied(), "int4_weights", {"learned": "weights"}, CompressContext(data=texts))
    assert "no effect" in caplog.text


def test_activation_scaling_is_reported_and_told_where_it_finds_nothing(texts, caplog):
    context = CompressContext(data=texts)
    compress(_tied(), "int4_weights", {"activation_scaling": True, "method": "rtn"}, context)
    assert context.report["activation_scaling"] == []
    assert "no effect" in caplog.text
