"""Smaller decoders: the right parts go, what stays computes as before, and artefacts are whole."""

from __future__ import annotations

import copy

import pytest
import torch

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError
from kdeploy.pruning.decoders import KeptParts, decoder_in, narrowed, scored
from kdeploy.store.model_io import rebuild, save_model
from kdeploy.store.references import ModelReference, build_model

pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")

from tests.tiny.language import VOCABULARY, text_data, write_llama

IDS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama") / "tiny", num_hidden_layers=4)


@pytest.fixture
def model(folder):
    return build_model(ModelReference(build=f"transformers:{folder}")).eval()


@pytest.fixture(scope="module")
def context():
    return CompressContext(data=text_data())


def test_everything_kept_is_the_same_model(model, context):
    same = compress(model, "prune_decoder", {"layers": 1.0}, context)
    with torch.no_grad():
        torch.testing.assert_close(same(IDS), model(IDS))


def test_a_layer_that_does_nothing_goes_first(model, context):
    idle = decoder_in(model).model.layers[2]
    for projection in (idle.self_attn.o_proj, idle.mlp.down_proj):
        projection.weight.data.zero_()
    context.report.clear()
    smaller = compress(model, "prune_decoder", {"layers": 0.75}, context)
    assert [row["kept"] for row in context.report["layers"]] == [True, True, False, True]
    assert context.report["layers"][2]["influence"] == 0
    with torch.no_grad():
        torch.testing.assert_close(smaller(IDS), model(IDS))


def test_channels_and_heads_that_do_nothing_go_first(model, context):
    for layer in decoder_in(model).model.layers:
        layer.mlp.down_proj.weight.data[:, 10:42] = 0
        layer.self_attn.o_proj.weight.data[:, :32] = 0  # the query heads 0 and 1 read key head 0
    given = {"layers": 1.0, "feed_forward": 2 / 3, "heads": 0.5}
    smaller = compress(model, "prune_decoder", given, context)
    config = decoder_in(smaller).config
    assert (config.intermediate_size, config.num_key_value_heads) == (64, 1)
    assert (config.num_attention_heads, config.head_dim) == (2, 16)
    with torch.no_grad():
        torch.testing.assert_close(smaller(IDS), model(IDS))


def test_influence_is_one_minus_the_cosine(model):
    seen = {}
    layers = decoder_in(model).model.layers
    handles = [
        layer.register_forward_hook(
            lambda m, args, kwargs, out, i=i: seen.update({i: (args[0], out)}), with_kwargs=True
        )
        for i, layer in enumerate(layers)
    ]
    scores = scored(model, [IDS])
    for handle in handles:
        handle.remove()
    for index, (given, out) in seen.items():
        own = (given * out).sum(-1) / (given.norm(dim=-1) * out.norm(dim=-1))
        assert float(scores.influence[index]) == pytest.approx(1 - float(own.mean()), abs=1e-5)


def test_the_artefact_has_its_own_configuration_and_generates(model, folder, context, tmp_path):
    smaller = compress(model, "prune_decoder", {"feed_forward": 0.67, "heads": 0.5}, context)
    facts = save_model(tmp_path, smaller, ModelReference(build=f"transformers:{folder}"))
    assert facts["edits"] == []
    loaded = rebuild(tmp_path, facts, None)
    again = build_model(ModelReference(build=f"transformers:{tmp_path}")).eval()
    with torch.no_grad():
        assert torch.equal(loaded(IDS), smaller(IDS))
        assert torch.equal(again(IDS), smaller(IDS))
        written = loaded.model.generate(IDS[:1, :4], max_new_tokens=3, do_sample=False)
    assert written.shape == (1, 7)


def test_the_given_model_is_left_and_other_models_are_refused(model, context):
    before = copy.deepcopy(model.state_dict())
    narrowed(
        model,
        KeptParts(layers=[0], channels={0: torch.arange(32)}, groups={0: torch.arange(1)}),
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ModelError, match="no decoder"):
        compress(torch.nn.Embedding(VOCABULARY, 4), "prune_decoder", {}, context)
