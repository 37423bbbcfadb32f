"""Updates of low rank: what is trained, what it comes to, and the model that is left."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdeploy.compress.contract import CompressContext
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError, RecipeError, UnknownName
from kdeploy.quantization.trained_codes import train_codes
from kdeploy.registry import find
from kdeploy.sparsity.zeros import HeldZeros
from kdeploy.torch_module.transformers_outputs import TextLogits
from kdeploy.training.average import WeightAverage
from kdeploy.training.checkpoint import LAST
from kdeploy.training.config import LoraConfig, TrainingConfig
from kdeploy.training.fit import FitContext, NullCallback, Supervised, accuracy, fit
from kdeploy.training.lora import adapted, target_layers
from kdeploy.training.predict import two_items
from tests.tiny.language import llama_config, text_data

QUICK = {"batch_size": 32, "learning_rate": 0.1, "precision": "fp32", "epochs": 2}
LORA = {"rank": 2, "alpha": 4.0}


class Attending(nn.Module):
    """Rows of an image as tokens: attention that reads a weight without calling its layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.squeeze(1))).mean(1))


def perceptron(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(144, 24),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(24, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    ).eval()


def llama(seed=0, **entries):
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    return TextLogits(LlamaForCausalLM(llama_config(**entries))).eval()


def trained(model, data, *, context=None, lora=LORA, **options):
    config = TrainingConfig(**{**QUICK, **options, "lora": lora})
    return fit(Supervised(model), data, context or FitContext(), config)


def changed(before, after):
    own = after.state_dict()
    return {
        name for name, value in before.state_dict().items() if not torch.equal(value, own[name])
    }


def test_a_step_is_that_of_the_paper(tiny_data):
    """From B = 0 the first step of SGD is B = -rate s G A', and W + s B A = W - rate s**2 G A'A."""
    data = replace(
        tiny_data,
        train=replace(tiny_data.train, x=tiny_data.train.x[:32], y=tiny_data.train.y[:32]),
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))
    before = copy.deepcopy(model)
    options = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    context = FitContext(seed=7)
    trained(model, data, context=context, compile="off", optimizer="sgd", keep="last", **options)

    random = torch.Generator().manual_seed(7)
    bound = 1 / math.sqrt(144)  # as nn.Linear draws
    a = torch.empty(2, 144).uniform_(-bound, bound, generator=random)
    x = torch.from_numpy(data.preprocessing.apply(data.train.x))
    F.cross_entropy(before(x), torch.from_numpy(data.train.y)).backward()
    gradient, scale = before[1].weight.grad, 4.0 / 2
    expected = before[1].weight - 0.1 * scale**2 * gradient @ a.T @ a
    torch.testing.assert_close(model[1].weight, expected, atol=1e-6, rtol=1e-5)
    assert changed(before, model) == {"1.weight"}


def test_learns_and_leaves_an_ordinary_model(tiny_data):
    model = perceptron()
    before = copy.deepcopy(model)
    result = trained(model, tiny_data, epochs=20)
    assert (
        result.best_accuracy
        >= 0.9
        > accuracy(before, tiny_data.validation, tiny_data.preprocessing)
    )
    # What was measured with updates beside the weights is what the weights alone say now.
    assert accuracy(model, tiny_data.validation, tiny_data.preprocessing) == result.best_accuracy
    assert list(model.state_dict()) == list(before.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in before.named_parameters()]
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    statistics = {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert changed(before, model) == {"1.weight", "5.weight"} | statistics
    difference = model[1].weight - before[1].weight
    assert torch.linalg.matrix_rank(difference, rtol=1e-4) == LORA["rank"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9, "optimizer": "adamw", "keep": "last"},
        {"ema": 0.9, "keep": "best"},
        {"learning_rate": None, "epochs": 6},
    ],
)
def test_an_interrupted_training_ends_in_the_same_weights(options, tiny_data, tmp_path):
    settings = {"epochs": 3, **options}
    straight, resumed = perceptron(), perceptron()
    expected = trained(straight, tiny_data, context=FitContext(seed=3), **settings)

    class Stopping(NullCallback):
        def epoch_ended(self, record):
            if record.epoch == 2:
                raise KeyboardInterrupt

    stopped = perceptron()
    context = FitContext(seed=3, work=tmp_path, callback=Stopping())
    with pytest.raises(KeyboardInterrupt):
        trained(stopped, tiny_data, context=context, **settings)
    # Only statistics have moved: updates that were not finished are gone.
    assert {name for name in changed(perceptron(), stopped) if "weight" in name} == set()
    assert list(stopped.state_dict()) == list(straight.state_dict())
    result = trained(resumed, tiny_data, context=FitContext(seed=3, work=tmp_path), **settings)
    assert changed(straight, resumed) == set()
    assert result.best_accuracy == expected.best_accuracy


def test_checkpoints_hold_what_is_trained(tiny_data, tmp_path):
    trained(perceptron(), tiny_data, context=FitContext(work=tmp_path), ema=0.9, optimizer="adamw")
    state = torch.load(tmp_path / LAST, weights_only=True)
    statistics = ["running_mean", "running_var", "num_batches_tracked"]
    own = [f"{n}.{m}" for n in ("1", "5") for m in ("lora_a", "lora_b")]
    own += [f"2.{name}" for name in statistics]
    assert sorted(state["objective"]) == sorted(f"student.{name}" for name in own)
    assert sorted(state["best"]["state"]) == sorted(own)
    assert sorted(state["average"]["tensors"]) == sorted(own)
    assert len(state["optimizer"]["state"]) == 4


def test_a_checkpoint_of_other_frozen_weights_is_not_resumed(tiny_data, tmp_path, caplog):
    context = FitContext(work=tmp_path)
    trained(perceptron(), tiny_data, context=context)
    other = perceptron()
    other[7].bias.data += 1  # frozen, so that no checkpoint has it
    trained(other, tiny_data, context=context)
    assert "other settings" in caplog.text


def test_of_a_language_model_all_linear_layers_but_the_tied_head_are_trained():
    model, data = llama(), text_data(items=16)
    before = copy.deepcopy(model)
    result = trained(model, data, batch_size=8, keep="last", optimizer="adamw", learning_rate=0.01)
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.rsplit(".", 2)[-2] for name in changed(before, model)} == set(linear)
    assert len(changed(before, model)) == 2 * len(linear)
    assert result.history[-1].loss < result.history[0].loss


def test_the_head_is_the_layer_that_gives_the_answer():
    model, data = llama(tie_word_embeddings=False), text_data(items=4)
    assert "model.lm_head" not in target_layers(model, (), data)
    assert set(target_layers(model, ("*.q_proj", "model.lm_head"), data)) == {
        "model.model.layers.0.self_attn.q_proj",
        "model.model.layers.1.self_attn.q_proj",
        "model.lm_head",
    }


def test_a_layer_whose_weight_is_read_without_a_call_has_no_update(tiny_data):
    model = Attending().eval()
    found = target_layers(model, (), tiny_data)
    assert set(found) == {"embed", "encoder.linear1", "encoder.linear2"}
    result = trained(model, tiny_data, epochs=6)
    # In eval mode its fused kernel would read the weights without their updates.
    assert accuracy(model, tiny_data.validation, tiny_data.preprocessing) == result.best_accuracy


def test_a_weight_of_two_layers_has_no_update(tiny_data):
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(144, 144) for _ in range(3)), nn.Linear(144, 4))
    model[2].weight = model[1].weight
    assert list(target_layers(model, (), tiny_data)) == ["3"]


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_weight_that_is_computed_has_no_update(wrap, tiny_data):
    model = perceptron()
    model[1] = wrap(model[1])
    assert list(target_layers(model, (), tiny_data)) == ["5"]


def test_what_losses_train_beside_the_student_is_trained(tiny_model, tiny_data):
    student, teacher = perceptron(), tiny_model(seed=1)
    losses = [{"kd": {}}, {"hints": {"layers": {"1": "head"}}}]
    config = DistillConfig(**QUICK, lora=LORA, losses=losses)
    before = copy.deepcopy(student)
    distill(student, teacher, tiny_data, FitContext(), config)
    assert {n for n in changed(before, student) if n.endswith("weight")} == {"1.weight", "5.weight"}


def test_is_trained_in_bf16(tiny_data):
    model = perceptron()
    result = trained(model, tiny_data, precision="bf16", epochs=20)
    assert result.best_accuracy >= 0.9
    assert model[1].weight.dtype == torch.float32


def test_is_trained_in_compiled_form(tiny_data, monkeypatch):
    compiler, graphs = torch.compile, []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    # Traced as for any backend; what inductor would make of it takes half a minute.
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiler(model, backend=backend))
    plain, compiled = perceptron(), perceptron()
    trained(plain, tiny_data, compile="off")
    trained(compiled, tiny_data, compile="on")
    assert graphs
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_model_of_which_nothing_is_trained_stays_as_it_is(tiny_data):
    model = perceptron()
    before = copy.deepcopy(model)
    trained(model, tiny_data, epochs=0)
    assert changed(before, model) == set()


def test_what_was_frozen_before_has_no_update_and_stays_frozen(tiny_data):
    model = perceptron()
    model[1].requires_grad_(False)
    before = copy.deepcopy(model)
    trained(model, tiny_data, epochs=1)
    frozen = ["1.weight", "1.bias"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == frozen
    assert "1.weight" not in changed(before, model)
    assert "5.weight" in changed(before, model)


def test_averages_and_states_pass_over_what_is_frozen(tiny_data):
    model = perceptron()
    with adapted(model, LoraConfig(), tiny_data, FitContext()):
        assert not [name for name in WeightAverage(model, decay=0.9).tensors if "weight" in name]
        own = {name: value + 1 for name, value in model.state_dict().items()}
        nn.Sequential(model).load_state_dict({f"0.{name}": value for name, value in own.items()})
        assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert "1.weight" in model.state_dict()


def test_a_model_without_linear_layers_is_refused(tiny_model, tiny_data):
    net = nn.Sequential(nn.Conv2d(1, 4, 12), nn.Flatten())
    with pytest.raises(ModelError, match="calls none") as error:
        trained(net, tiny_data)
    assert "leave `lora` out" in error.value.hint
    with pytest.raises(ModelError, match="no other linear layer than `head`") as error:
        trained(tiny_model(), tiny_data)
    assert "targets: [head]" in error.value.hint
    trained(tiny_model(), tiny_data, lora={"targets": ["head"]})


def test_a_target_that_means_nothing_is_refused(tiny_data):
    with pytest.raises(UnknownName, match=r"`\*.q_proj` in lora.targets"):
        trained(perceptron(), tiny_data, lora={"targets": ["*.q_proj"]})


def test_held_zeros_are_refused(tiny_data):
    context = FitContext(constraints=(HeldZeros(["1.weight"]),))
    with pytest.raises(ModelError, match=r"held zeros: 1\.weight"):
        trained(perceptron(), tiny_data, context=context)


def test_codes_are_refused(tiny_data):
    codes = find("compressor", "int4_weights").load()
    model = codes(perceptron(), CompressContext(data=tiny_data), embedding_bits=32)
    with pytest.raises(ModelError, match="int4_weights"):
        trained(model, tiny_data)
    train_codes(model, "scales")
    with pytest.raises(ModelError, match="int4_weights"):
        trained(model, tiny_data)


def test_two_items_are_the_first_of_the_training_part(tiny_data):
    expected = tiny_data.preprocessing.apply(tiny_data.train.x[:2])
    assert (two_items(perceptron(), tiny_data).numpy() == expected).all()


@pytest.mark.parametrize("scheme", ["mutual", "generations", "assistants", "self_exits", "elastic"])
def test_schemes_that_train_networks_from_their_beginning_are_refused(scheme):
    own = {"exits": ["blocks.0"]} if scheme == "self_exits" else {}
    with pytest.raises(RecipeError, match=f"lora.*`{scheme}`"):
        DistillConfig(scheme={scheme: own}, lora={})
