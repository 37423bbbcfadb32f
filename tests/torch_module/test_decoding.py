"""Writing with a cache of keys and values gives what reading everything again gives."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.losses.jsd import continued
from kdeploy.store.references import ModelReference, build_model
from kdeploy.torch_module.decoding import has_cache, next_logits

pytest.importorskip("transformers", reason="pip install 'kdeploy[language]'")

from tests.tiny.language import VOCABULARY, write_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_llama(tmp_path_factory.mktemp("llama") / "tiny")
    return build_model(ModelReference(build=f"transformers:{folder}")).eval()


class Counted(torch.nn.Module):
    """Reads everything again, and counts how much that is."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.read = model, 0

    def forward(self, ids):
        self.read += ids.shape[1]
        return self.inner(ids)


@torch.no_grad()
def test_each_step_has_the_logits_of_the_whole_text(model):
    ids = torch.arange(60).reshape(2, 30) % VOCABULARY
    following = next_logits(model)
    for length in (7, 8, 12, 30):
        torch.testing.assert_close(
            following(ids[:, :length]), model(ids[:, :length])[:, -1], atol=1e-4, rtol=1e-4
        )


def test_a_student_writes_the_same_with_and_without_its_cache(model):
    x, again = torch.arange(40).reshape(2, 20), Counted(model)
    torch.manual_seed(5)
    cached = continued(model, x, 4, temperature=0.9)
    torch.manual_seed(5)
    plain = continued(again, x, 4, temperature=0.9)
    assert torch.equal(cached, plain)
    assert torch.equal(cached[:, :4], x[:, :4])
    assert again.read == sum(range(4, 20))
    read = []
    handle = model.model.register_forward_pre_hook(lambda m, args: read.append(args[0].shape[1]))
    continued(model, x, 4, temperature=0.9)
    handle.remove()
    assert sum(read) == 19


def test_a_decoder_with_a_layer_cut_out_is_not_trusted_with_a_cache(model):
    assert has_cache(model)
    assert not has_cache(torch.nn.Embedding(3, 3))
    first = model.model.model.layers[0]
    del model.model.model.layers[0]
    try:
        assert not has_cache(model)
    finally:
        model.model.model.layers.insert(0, first)
