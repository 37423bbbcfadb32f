"""Activations that are computed again: the same gradients, less memory, and nothing left behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError, RecipeError
from kdeploy.torch_module.transformers_outputs import TextEmbedding, TextLogits
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, fit
from kdeploy.training.gradient_checkpointing import checkpointed, repeated_blocks
from tests.tiny.language import VOCABULARY, llama_config, text_data

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32", "compile": "off"}


class Residual(nn.Module):
    """Statistics, a random draw, a counter and a buffer that its own answer depends on."""

    def __init__(self, width):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(width, width, 3, 1, 1))
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("drift", torch.zeros(width))

    def forward(self, x, *, scale=1.0):
        out = torch.relu(self.norm(self.conv(x)))
        if self.training:
            self.drift += 0.01 * out.detach().mean((0, 2, 3))
        return x + scale * self.dropout(out) + self.drift[:, None, None]


def residual(width=6, depth=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2),
        nn.Sequential(*(Residual(width) for _ in range(depth))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    ).eval()


class Rows(nn.Module):
    """Rows of an image as tokens of an encoder."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(12, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.squeeze(1))).mean(1))


def rows():
    torch.manual_seed(0)
    return Rows().eval()


def llama():
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return TextLogits(LlamaForCausalLM(llama_config(attention_dropout=0.1))).eval()


def trained(model, data, **options):
    config = TrainingConfig(**{"epochs": 2, **QUICK, **options})
    return fit(Supervised(model), data, FitContext(seed=2), config)


def assert_same(one, other):
    for (name, value), expected in zip(
        one.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("make", [residual, rows, llama])
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2, "clip_norm": 0.5, "optimizer": "adamw", "learning_rate": 1e-3}],
)
def test_comes_to_the_same_weights_to_the_bit(make, options, tiny_data):
    data = text_data(items=32) if make is llama else tiny_data
    whole, recomputed = make(), make()
    expected = trained(whole, data, **options)
    found = trained(recomputed, data, checkpoint_activations=True, **options)
    assert_same(recomputed, whole)
    assert [r.losses for r in found.history] == [r.losses for r in expected.history]
    assert expected.history[-1].loss < expected.history[0].loss


@pytest.mark.parametrize("rate", [{"learning_rate": None}, {"precision": "bf16"}])
def test_comes_to_the_same_weights_with_what_is_chosen(rate, tiny_data):
    whole, recomputed = residual(), residual()
    options = {**rate, "epochs": 4}
    trained(whole, tiny_data, **options)
    trained(recomputed, tiny_data, checkpoint_activations=True, **options)
    assert_same(recomputed, whole)


def test_updates_of_low_rank_are_trained_with_it(tiny_data):
    whole, recomputed = rows(), rows()
    trained(whole, tiny_data, lora={"rank": 2})
    trained(recomputed, tiny_data, lora={"rank": 2}, checkpoint_activations=True)
    assert_same(recomputed, whole)


@pytest.mark.parametrize("layers", [{"1.1": "blocks.1"}, {"1.2.conv": "blocks.1"}])
@pytest.mark.parametrize("weight", [{}, {"weight": 0.5}])
def test_losses_read_layers_in_and_of_blocks(layers, weight, tiny_model, tiny_data):
    """Without weights losses are balanced, by a backward pass of their own for each."""
    students = residual(), residual()
    losses = [{"kd": dict(weight)}, {"attention": {"layers": layers, **weight}}]
    for student, again in zip(students, (False, True), strict=True):
        config = DistillConfig(**QUICK, epochs=2, losses=losses, checkpoint_activations=again)
        distill(student, tiny_model(seed=1), tiny_data, FitContext(), config)
    assert_same(*students)


def test_keeps_less_for_the_backward_pass(tiny_data):
    def kept_bytes(model):
        sizes = []

        def keep(tensor):
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            answer = model.train()(torch.rand(8, 1, 12, 12))
        answer.sum().backward()
        return sum(sizes)

    model = residual(depth=8)
    whole = kept_bytes(model)
    with checkpointed(model, tiny_data):
        assert kept_bytes(model) < 0.25 * whole
    assert kept_bytes(model) == whole


def test_a_decoder_that_gives_vectors_keeps_no_keys(tmp_path):
    from transformers import LlamaModel

    def vectors():
        torch.manual_seed(0)
        return TextEmbedding(LlamaModel(llama_config()), "mean").eval()

    x = np.random.default_rng(0).integers(0, VOCABULARY, (32, 12)).astype(np.int64)
    part = Split(x=x, y=np.arange(32) % 4)
    data = Dataset(
        name="texts",
        train=part,
        validation=part,
        test=part,
        preprocessing=Preprocessing(
            shape=(12,), dtype="int64", vocabulary=VOCABULARY, classes=("a", "b", "c", "d")
        ),
        fingerprint="texts",
    )
    whole, recomputed = (nn.Sequential(vectors(), nn.Linear(64, 4)) for _ in range(2))
    recomputed.load_state_dict(whole.state_dict())
    trained(whole, data)
    trained(recomputed, data, checkpoint_activations=True)
    assert_same(recomputed, whole)
    assert recomputed[0].model.config.use_cache


def test_blocks_are_the_outermost_of_one_class():
    experts = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(3))
    model = nn.ModuleDict({
        "stem": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
        "layers": nn.ModuleList(nn.ModuleDict({"experts": copy.deepcopy(experts)}) for _ in "ab"),
        "one": nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.TransformerEncoderLayer(4, 1)),
    })  # fmt: skip
    assert list(repeated_blocks(model)) == ["layers.0", "layers.1"]
    assert list(repeated_blocks(experts)) == ["0", "1", "2"]


def test_leaves_the_model_as_it_was(tiny_data):
    model = residual()
    trained(model, tiny_data, epochs=1, checkpoint_activations=True)
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_blocks_is_refused(tiny_data):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ModelError, match="`Sequential` calls no two of one class") as error:
        trained(flat, tiny_data, checkpoint_activations=True)
    assert "accumulate: 4" in error.value.hint


def test_blocks_that_are_never_called_are_no_blocks(tiny_data):
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(144, 144)) for _ in range(2))
            self.head = nn.Linear(144, 4)

        def forward(self, x):
            for block in self.blocks:
                x = block[0](x.flatten(1))
            return self.head(x)

    with pytest.raises(ModelError, match="`Reading` calls no two"):
        trained(Reading(), tiny_data, checkpoint_activations=True)


@pytest.mark.parametrize(
    "options", [{"compile": "on"}, {"scheme": "elastic"}, {"scheme": "mutual"}]
)
def test_is_refused_beside_what_it_does_not_fit(options):
    with pytest.raises(RecipeError, match="checkpoint_activations"):
        DistillConfig(checkpoint_activations=True, **options)
