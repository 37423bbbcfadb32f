"""Configurations follow what is left of a model, and the library reads the artefact again."""

from __future__ import annotations

import copy

import pytest
import torch

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError
from kdeploy.store.model_io import rebuild, save_model
from kdeploy.store.references import ModelReference, build_model
from kdeploy.torch_module.decoding import has_cache
from kdeploy.torch_module.transformers_configuration import fit_configuration

transformers = pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")

from tests.tiny.language import VOCABULARY, text_data, write_llama  # noqa: E402 - needs it

IDS = torch.arange(24).reshape(2, 12)
HALF = {"target": {"layers": 0.5}}
NARROW = {"target": {"macs": 0.6}, "importance": "l2"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_llama(folder / "llama", num_hidden_layers=4, tie_word_embeddings=False)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder / "bert")
    return folder


def refer(folder):
    return ModelReference(build=f"transformers:{folder}")


@pytest.mark.parametrize(
    ("name", "technique", "parameters", "entries"),
    [
        ("llama", "drop_layers", HALF, {"num_hidden_layers": 2}),
        ("bert", "drop_layers", HALF, {"num_hidden_layers": 2}),
        ("llama", "prune_channels", NARROW, {"head_dim": 16, "num_hidden_layers": 4}),
    ],
)
def test_the_artefact_is_an_ordinary_folder(
    folders, tmp_path, name, technique, parameters, entries
):
    model = build_model(refer(folders / name)).eval()
    before = copy.deepcopy(model.model.config.to_dict())
    smaller = compress(model, technique, parameters, CompressContext(data=text_data()))
    assert model.model.config.to_dict() == before
    found = smaller.model.config.to_dict()
    assert found | entries == found
    assert found != before
    facts = save_model(tmp_path, smaller, refer(folders / name))
    again = build_model(refer(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(again(IDS), smaller(IDS))
        assert torch.equal(rebuild(tmp_path, facts, None)(IDS), smaller(IDS))


def test_the_cache_of_a_decoder_without_its_middle_layers_is_right(folders):
    model = build_model(refer(folders / "llama")).eval()
    del model.model.model.layers[1:3]
    assert not has_cache(model)
    assert fit_configuration(model)
    assert has_cache(model)
    with torch.no_grad():
        whole = model.model.generate(IDS[:1], max_new_tokens=4, do_sample=False, use_cache=False)
        cached = model.model.generate(IDS[:1], max_new_tokens=4, do_sample=False)
    assert torch.equal(whole, cached)


def test_what_no_configuration_says_keeps_its_own_and_is_told(folders, tmp_path):
    model = build_model(refer(folders / "bert")).eval()
    layer = model.model.encoder.layer[1]
    layer.intermediate.dense = torch.nn.Linear(64, 32)
    layer.output.dense = torch.nn.Linear(32, 64)
    assert not fit_configuration(model)
    assert model.model.config.intermediate_size == 96
    facts = save_model(tmp_path, model, refer(folders / "bert"))
    with torch.no_grad():
        assert torch.equal(rebuild(tmp_path, facts, None)(IDS), model(IDS))
    with pytest.raises(ModelError, match="other shapes") as raised:
        build_model(refer(tmp_path))
    assert "without `transformers:`" in raised.value.hint


def test_layer_types_go_with_their_layers(folders):
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
    )
    from kdeploy.torch_module.transformers_outputs import TextLogits

    model = TextLogits(transformers.Qwen2ForCausalLM(config)).eval()
    assert config.layer_types[1:3] == ["full_attention", "sliding_attention"]
    del model.model.model.layers[1]
    assert fit_configuration(model)
    kept = model.model.config.layer_types
    assert kept == ["full_attention", "sliding_attention", "sliding_attention"]


def test_other_models_have_no_configuration():
    assert not fit_configuration(torch.nn.Linear(2, 2))
