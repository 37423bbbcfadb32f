from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.errors import ModelError
from kdeploy.export.run import export
from kdeploy.runtimes.generation import greedy
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.references import ModelReference, build_model
from tests.tiny.language import VOCABULARY, write_llama

pytest.importorskip("transformers", reason="pip install 'kdeploy[genai]'")
pytest.importorskip("onnxruntime_genai", reason="pip install 'kdeploy[genai]'")
TOKENS = 24


def texts() -> Dataset:
    ids = np.random.default_rng(0).integers(0, 256, (20, TOKENS), dtype=np.int32)
    split = Split(x=ids, y=np.roll(ids, -1, 1).astype(np.int64))
    known = Preprocessing(
        shape=(TOKENS,),
        classes=tuple(map(str, range(VOCABULARY))),
        dtype="int64",
        vocabulary=VOCABULARY,
    )
    return Dataset(
        name="text",
        train=split,
        validation=split,
        test=split,
        preprocessing=known,
        fingerprint="0",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def small(folder):
    model = build_model(ModelReference(build=f"transformers:{folder}"))
    return compress(model, "int4_weights", {}, CompressContext(data=texts()))


@pytest.fixture(scope="module")
def written(folder, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("genai") / "out" / "genai_config.json"
    return export(small, "onnxruntime_genai", {"max_length": 64}, texts(), path, artifact=folder)


@pytest.fixture(scope="module")
def opened(written):
    runtime = open_runtime("onnxruntime_genai", written.path, threads=1)
    yield runtime
    runtime.close()


def test_the_folder_is_whole_and_says_how_long_texts_get(written):
    names = {f.name for f in written.path.parent.iterdir()}
    assert names >= {"genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"}
    assert "chat_template.jinja" in names
    assert json.loads(written.path.read_text())["search"]["max_length"] == 64


def test_every_product_runs_on_codes_at_level_4(opened):
    proof = opened.proof_of_use()
    assert proof.four_bit == proof.four_bit_eligible == 2 * 5 + 1
    assert proof.operators["GatherBlockQuantized"] == 1


def test_counts_the_weights_that_its_codes_stand_for(opened, written, small):
    from transformers import LlamaForCausalLM

    learned = sum(p.numel() for p in LlamaForCausalLM(small.model.config).parameters())
    # The file has tables of cosines and sines too: 128 positions, 8 numbers each.
    found = type(opened).parameters_of(written.path)
    assert learned <= found <= learned + 2 * 128 * 8 + 16


def test_greedy_tokens_are_those_of_the_model_without_a_cache(opened, small):
    prompt = texts().test.x[0, :8].tolist()
    found = greedy(opened.stream(16), prompt, 6)
    ids = list(prompt)
    margins = []
    for token in found:
        with torch.no_grad():
            scores = small(torch.tensor([ids]))[0, -1]
        best = scores.topk(2).values
        margins.append(float((best[0] - scores[token]) / scores.std()))
        ids.append(token)
    # Inputs are rounded to 8 bits in the file: a token may be another one where two are as likely.
    assert max(margins) < 0.2
    assert greedy(opened.stream(16), prompt, 6) == found


def test_what_is_no_decoder_is_refused(tmp_path):
    model = nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)).eval()
    with pytest.raises(ModelError, match="causal language model"):
        export(model, "onnxruntime_genai", {}, texts(), tmp_path / "genai_config.json")


def test_a_model_without_a_tokenizer_is_refused(small, tmp_path):
    with pytest.raises(ModelError, match="no tokenizer"):
        export(small, "onnxruntime_genai", {}, texts(), tmp_path / "genai_config.json")


def test_ids_that_are_no_ids_are_refused(opened):
    with pytest.raises(ModelError, match="token ids"):
        opened.infer(np.zeros((1, 4), np.float32))
