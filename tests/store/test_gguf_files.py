"""GGUF files: read once, kept as a Hugging Face folder, and refused where they are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy.errors import FileMissing, ModelError, Unavailable
from kdeploy.store import gguf_files
from kdeploy.store.model_io import rebuild, save_model
from kdeploy.store.references import ModelReference, build_model

transformers = pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")
gguf = pytest.importorskip("gguf", reason="pip install 'kdeploy[language]'")

from tests.tiny.language import llama_config  # noqa: E402 - needs transformers

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(weight, heads):
    """Return rows of a query or key projection in the order that GGUF has them."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def model():
    torch.manual_seed(3)
    return transformers.LlamaForCausalLM(llama_config(num_hidden_layers=1)).eval()


@pytest.fixture
def file(model, tmp_path):
    """Return a GGUF file of the model, as float32, with a tokenizer of bytes."""
    from tokenizers import pre_tokenizers

    config, path = model.config, tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*letters, "ab", *(f"<|{n}|>" for n in range(3))])
    writer.add_token_types([1] * 257 + [3] * 3)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    for name, tensor in model.state_dict().items():
        weight = tensor.numpy().astype(np.float32)
        if name.startswith("model.layers."):
            _, _, index, rest = name.removesuffix(".weight").split(".", 3)
            if "q_proj" in rest or "k_proj" in rest:
                is_query = "q_proj" in rest
                heads = config.num_attention_heads if is_query else config.num_key_value_heads
                weight = interleaved(weight, heads)
            writer.add_tensor(f"blk.{index}.{NAMES[rest]}.weight", weight)
        elif name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", weight)
        elif name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_file_is_the_model_it_was_written_of_and_is_read_once(file, model, tmp_path, monkeypatch):
    reference = ModelReference(build=f"gguf:{file}")
    ids = torch.arange(20).reshape(2, 10)
    read = build_model(reference).eval()
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        torch.testing.assert_close(read(ids), expected, atol=1e-5, rtol=1e-5)
    kept = gguf_files.kept_folder(file)
    names = {path.name for path in kept.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert str(tmp_path) not in (kept / "config.json").read_text()
    assert not list(kept.parent.glob("*.partial"))

    def never(*args):
        raise AssertionError("read a second time")

    monkeypatch.setattr(gguf_files, "_convert", never)
    artefact = tmp_path / "artefact"
    artefact.mkdir()
    facts = save_model(artefact, build_model(reference), reference)
    assert facts["edits"] == []
    file.unlink()
    with torch.no_grad():
        assert torch.equal(rebuild(artefact, facts, None)(ids), read(ids))


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(FileMissing, match="gone"):
        build_model(ModelReference(build="gguf:gone.gguf", folder=tmp_path))
    (tmp_path / "other.gguf").write_bytes(b"PK" + bytes(64))
    with pytest.raises(ModelError, match="no GGUF file"):
        build_model(ModelReference(build="gguf:other.gguf", folder=tmp_path))


def test_a_cut_off_file_leaves_nothing_in_the_cache(file, tmp_path):
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read as a model"):
        build_model(ModelReference(build=f"gguf:{file}"))
    assert not list((tmp_path / "cache").rglob("config.json"))
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_a_cache_that_cannot_be_written_is_told(file, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    with pytest.raises(Unavailable, match="cannot write"):
        build_model(ModelReference(build=f"gguf:{file}"))
