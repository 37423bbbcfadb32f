"""A GGUF file: read back by transformers, an independent reader, and run by llama.cpp itself."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError
from kdeploy.export.exporters import gguf_from_torch as exporter
from kdeploy.export.run import export
from kdeploy.runtimes.generation import greedy, step_by_step
from kdeploy.runtimes.run import open_runtime
from kdeploy.store.references import ModelReference, build_model
from tests.tiny.language import (
    VOCABULARY,
    llama_config,
    random_texts,
    write_llama,
    write_tokenizer,
)

pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
pytest.importorskip("gguf", reason="pip install 'kdeploy[language]'")
RUNS = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="pip install 'kdeploy[llama-cpp]'"
)
TEXT, TH = "A déjà vu: the 12 times that.", 256
IDS = torch.from_numpy(random_texts().test.x[:2].astype(np.int64))
FORMS = {
    "float": None,
    "4 bits": {},
    "4 bits, blocks of 64": {"block_size": 64},
    "4 bits with zero points": {"symmetric": False, "embedding_bits": 4},
    "8 bits": {"bits": 8},
    "table of 8 bits": {"embedding_bits": 8},
}


def decoder(folder, kind):
    """Return a random decoder; mistral's and qwen3's heads are wider than their share is."""
    import transformers

    if kind == "llama":
        return build_model(ModelReference(build=f"transformers:{write_llama(folder)}"))
    own = llama_config().to_diff_dict()
    own = {k: v for k, v in own.items() if k not in ("model_type", "architectures", "head_dim")}
    # transformers takes qwen3's heads for 128 wide, whatever the file says.
    own |= {"qwen2": {}, "qwen3": {"head_dim": 128}, "mistral": {"head_dim": 32}}[kind]
    names = {"qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}
    config = getattr(transformers, f"{names[kind]}Config")(**own)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{names[kind]}ForCausalLM")(config)
        for tensor in model.parameters():
            if tensor.ndim == 2:
                tensor.data.mul_(4)
            elif kind == "qwen2" and tensor.ndim == 1:
                tensor.data.add_(0.3 * torch.randn_like(tensor))  # biases, else of zero
    model.save_pretrained(write_tokenizer(folder))
    return build_model(ModelReference(build=f"transformers:{folder}"))


def on_codes(model, parameters):
    if parameters is None:
        return model
    return compress(model, "int4_weights", parameters, CompressContext(data=random_texts()))


def read_back(path):
    """Return what transformers makes of the file, which turns the heads back by itself."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )
    with torch.no_grad():
        return model.eval()(IDS).logits


def with_a_merge(folder):
    """Let the tokenizer of a folder join two letters: without any pairs it is none for GGUF."""
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"]["th"] = TH
    told["model"]["merges"] = [["t", "h"]]
    told["added_tokens"][0]["id"] = TH + 1
    path.write_text(json.dumps(told))
    return folder


@pytest.fixture
def unproven(monkeypatch):
    """Let a file be written where nothing can run it."""
    monkeypatch.setattr(exporter, "check_cache", lambda *_, **__: None)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_an_independent_reader_computes_the_same(tmp_path, unproven, kind):
    model = decoder(tmp_path / "model", kind)
    path = with_a_merge(write_tokenizer(tmp_path / "out")) / "model.gguf"
    exporter.gguf_from_torch(model, IDS, path)
    with torch.no_grad():
        expected = model(IDS)
    assert [f.name for f in path.parent.iterdir()] == ["model.gguf"]
    torch.testing.assert_close(read_back(path), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_codes_stand_for_the_same_weights(tmp_path, unproven, form):
    model = on_codes(decoder(tmp_path / "model", "llama"), FORMS[form])
    path = with_a_merge(write_tokenizer(tmp_path / "out")) / "model.gguf"
    exporter.gguf_from_torch(model, IDS, path)
    with torch.no_grad():
        expected = model(IDS)
    allowed = 1e-2 if "zero points" in form else 1e-4
    torch.testing.assert_close(
        read_back(path), expected, rtol=0, atol=allowed * float(expected.std())
    )


def test_the_file_holds_the_tokenizer(tmp_path, unproven):
    from transformers import AutoTokenizer

    model = decoder(tmp_path / "model", "llama")
    path = with_a_merge(write_tokenizer(tmp_path / "out")) / "model.gguf"
    own = AutoTokenizer.from_pretrained(path.parent, local_files_only=True)
    exporter.gguf_from_torch(model, IDS, path)
    read = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    assert TH in own(TEXT)["input_ids"]
    assert read(TEXT)["input_ids"] == own(TEXT)["input_ids"]
    assert read.chat_template == own.chat_template


def test_what_has_no_place_in_such_a_file_is_refused(tmp_path):
    plain = nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)).eval()
    with pytest.raises(ModelError, match="causal language model"):
        exporter.gguf_from_torch(plain, IDS, tmp_path / "model.gguf")
    model = decoder(tmp_path / "model", "llama")
    with pytest.raises(ModelError, match="joins no pairs"):
        exporter.gguf_from_torch(model, IDS, write_tokenizer(tmp_path / "out") / "model.gguf")
    with pytest.raises(ModelError, match="no tokenizer"):
        exporter.gguf_from_torch(model, IDS, tmp_path / "model.gguf")
    model.model.config.model_type = "phi"
    with pytest.raises(ModelError, match="llama, mistral, qwen2, qwen3"):
        exporter.gguf_from_torch(model, IDS, tmp_path / "model.gguf")


@RUNS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_llama_cpp_computes_what_the_model_does(tmp_path, kind, form):
    model = on_codes(decoder(tmp_path / "model", kind), FORMS[form])
    path = with_a_merge(tmp_path / "model").with_name("model.gguf")
    result = export(model, "gguf", {}, random_texts(), path, artifact=tmp_path / "model")
    assert result.max_abs <= result.bound
    runtime = open_runtime("llama_cpp", path, threads=1)
    try:
        proof = runtime.proof_of_use()
        assert proof.four_bit == (0 if form == "float" else proof.four_bit_eligible)
        prompt = IDS[0, :8].numpy()
        single = step_by_step(lambda: runtime.stream(16), prompt)
        whole = runtime.infer(prompt[None])["output"][0]
        np.testing.assert_allclose(single, whole, atol=2e-2 * whole.std())
        texts = [greedy(runtime.stream(20), prompt.tolist(), 6) for _ in range(2)]
        assert texts[0] == texts[1]
        with pytest.raises(ModelError, match="knows 260 tokens"):
            runtime.infer(np.array([[0, 999]]))
    finally:
        runtime.close()


@RUNS
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(tmp_path):
    import llama_cpp
    from transformers import AutoTokenizer

    model = decoder(tmp_path / "model", "llama")
    folder, path = with_a_merge(tmp_path / "model"), tmp_path / "model.gguf"
    export(model, "gguf", {}, random_texts(), path, artifact=folder)
    read = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = read.tokenize(f"{TEXT}<|end|>".encode(), add_bos=False, special=True)
    assert found == own(f"{TEXT}<|end|>")["input_ids"]


@RUNS
def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="cannot open"):
        open_runtime("llama_cpp", tmp_path / "model.gguf", threads=1)
