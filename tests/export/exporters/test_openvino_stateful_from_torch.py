from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError, ParityFailed
from kdeploy.export import decoder_cache
from kdeploy.export.openvino_codes import put_codes_in
from kdeploy.export.run import export
from kdeploy.runtimes.files import inputs_of
from kdeploy.runtimes.generation import greedy, step_by_step
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.references import ModelReference, build_model
from tests.tiny.language import VOCABULARY, random_texts, write_llama

pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
openvino = pytest.importorskip("openvino", reason="pip install 'kdeploy[openvino]'")
FILE = "openvino_model.xml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama") / "model")


def built(folder):
    return build_model(ModelReference(build=f"transformers:{folder}"))


def quantized(folder, **parameters):
    context = CompressContext(data=random_texts())
    return compress(built(folder), "int4_weights", parameters, context)


@pytest.fixture(scope="module")
def small(folder):
    return quantized(folder)


@pytest.fixture(scope="module")
def written(folder, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "out" / FILE
    return export(small, "openvino_stateful", {}, random_texts(), path, artifact=folder)


@pytest.fixture(scope="module")
def opened(written):
    runtime = open_runtime("openvino", written.path, threads=1)
    yield runtime
    runtime.close()


def test_every_product_runs_on_codes(opened):
    proof = opened.proof_of_use()
    assert proof.four_bit == proof.four_bit_eligible == 2 * 7 + 1
    assert proof.integer_kernels is None  # it is the weights that are integers
    assert proof.operators["FullyConnected:i4"] == 2 * 7


def test_the_file_holds_codes_and_both_ends_once(written, small):
    inner = sum(m.codes.numel() for n, m in small.named_modules() if n.endswith("_proj"))
    size = written.path.with_suffix(".bin").stat().st_size
    # Codes, float16 scales of blocks of 32, and the table of both ends in 8 bits.
    assert size < 1.2 * (inner * (1 + 2 / 16) + VOCABULARY * 64 * (1 + 2 / 32))


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {"symmetric": False},
        {"bits": 8, "symmetric": False, "block_size": 16},
        {"embedding_bits": 4, "block_size": 64},
        {"embedding_bits": 32},
    ],
)
def test_codes_of_every_format_are_what_they_stand_for(folder, tmp_path, parameters):
    model = built(folder) if parameters is None else quantized(folder, **parameters)
    path = tmp_path / "out" / FILE
    found = export(model, "openvino_stateful", {}, random_texts(), path, artifact=folder)
    assert found.max_abs <= found.bound
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    # Without what rounds the layers' inputs, the file computes what the model does.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    ids = random_texts().test.x[:2, :9].astype(np.int64)
    given = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.tile(np.arange(9), (2, 1)),
        "beam_idx": np.arange(2, dtype=np.int32),
    }
    answer = compiled(given)[0]
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).numpy()
    assert np.abs(answer - expected).max() < 2e-3 * expected.std()


def test_greedy_tokens_are_those_of_the_model_without_a_cache(opened, small):
    prompt = random_texts().test.x[0, :8].tolist()
    found = greedy(opened.stream(16), prompt, 6)
    ids, margins = list(prompt), []
    for token in found:
        with torch.no_grad():
            scores = small(torch.tensor([ids]))[0, -1]
        margins.append(float((scores.max() - scores[token]) / scores.std()))
        ids.append(token)
    # Inputs are rounded to 8 bits: a token may be another one where two are as likely.
    assert max(margins) < 0.2
    assert greedy(opened.stream(16), prompt, 6) == found


def test_texts_do_not_see_each_other(opened):
    texts = random_texts().test.x[:2, :8].astype(np.int64)
    alone = [step_by_step(lambda: opened.stream(9), text) for text in texts]
    streams = [opened.stream(9), opened.stream(9)]
    for place in range(8):
        for stream, text in zip(streams, texts, strict=True):
            stream.append(text[place : place + 1])
    for stream, rows in zip(streams, alone, strict=True):
        np.testing.assert_array_equal(stream.logits()[-1], rows[-1])


def test_a_file_says_what_it_takes(written, opened):
    (told,) = inputs_of(written.path, "openvino")
    assert told.name == opened.inputs[0].name == "input_ids"
    assert len(opened.inputs) == 1


def test_a_graph_without_a_cache_writes_no_text(tmp_path):
    from openvino import opset13 as ops

    place = ops.parameter([1, 2], np.float32, name="x")
    openvino.save_model(openvino.Model([ops.relu(place)], [place]), tmp_path / "net.xml")
    runtime = open_runtime("openvino", tmp_path / "net.xml", threads=1)
    with pytest.raises(ModelError, match="openvino_stateful"):
        runtime.stream(4)
    runtime.close()


def test_what_is_no_decoder_is_refused(tmp_path):
    model = nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)).eval()
    with pytest.raises(ModelError, match="causal language model"):
        export(model, "openvino_stateful", {}, random_texts(), tmp_path / FILE)


def test_codes_without_a_place_are_refused(small):
    from openvino import opset13 as ops

    place = ops.parameter([1, 64], np.float32, name="x")
    other = ops.constant(np.ones((64, 64), np.float32))
    graph = openvino.Model([ops.matmul(place, other, False, True)], [place])
    with pytest.raises(ModelError, match="another form"):
        put_codes_in(graph, small)


def test_a_cache_that_changes_the_answer_keeps_no_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_cache, "FLOAT_BOUND", -1.0)
    path = tmp_path / "out" / FILE
    with pytest.raises(ParityFailed, match="token by token"):
        export(built(folder), "openvino_stateful", {}, random_texts(), path, artifact=folder)
    assert not path.exists()
