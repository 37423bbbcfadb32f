from __future__ import annotations

import pytest
from torch import nn

from kdeploy.registry import check
from kdeploy.training.config import BESIDE_A_RATE, TrainingConfig
from kdeploy.training.defaults import (
    MOST_EPOCHS,
    RATES,
    Settled,
    batch_size,
    kind_of,
    num_epochs,
    settle,
)


class LinearAttention(nn.Module):
    """As libraries name attention of their own."""


def settled(model=None, *, items=10_000, **given):
    return settle(
        check(TrainingConfig, given, where="train"), model or nn.Linear(1, 1), items=items
    )


def test_nothing_stays_open():
    found = settled()
    assert found.is_rate_sought
    known = found.settled.training()
    assert (known["optimizer"], known["clip_norm"]) == ("adamw", 1.0)
    assert [name for name, value in known.items() if value is None] == ["ema", "lora"]
    assert found.settled.warmup_epochs == pytest.approx(0.1 * found.settled.epochs)


def test_what_is_given_stays():
    found = settled(batch_size=7, epochs=3, weight_decay=0.0, clip_norm=None, warmup_epochs=0.5)
    known = found.settled
    assert (known.batch_size, known.epochs, known.weight_decay) == (7, 3, 0.0)
    assert (known.clip_norm, known.warmup_epochs) == (None, 0.5)


@pytest.mark.parametrize("given", [{}, {"optimizer": None, "clip_norm": "auto", "epochs": None}])
def test_beside_a_rate_all_else_is_as_it_was_before_anything_was_chosen(given):
    found = settled(nn.LSTM(1, 1), items=100, learning_rate=0.05, **given)
    assert not found.is_rate_sought
    known = found.settled.training()
    assert {name: known[name] for name in BESIDE_A_RATE} == dict(BESIDE_A_RATE)
    assert known["learning_rate"] == 0.05


def test_beside_a_rate_what_is_given_stays():
    known = settled(learning_rate=0.003, optimizer="adamw", clip_norm=0.5, epochs=4).settled
    assert (known.optimizer, known.clip_norm, known.epochs) == ("adamw", 0.5, 4)
    assert (known.weight_decay, known.batch_size) == (5e-4, 128)


def test_a_settled_training_stays_as_it_is():
    first = settled(items=300).settled
    again = settle(first, nn.LSTM(1, 1), items=10**6)
    assert again.settled is first
    assert not again.is_rate_sought


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (nn.Sequential(nn.Conv1d(1, 1, 1), nn.GRU(1, 1)), "recurrent"),
        (nn.LSTMCell(1, 1), "recurrent"),
        (nn.TransformerEncoderLayer(4, 2, batch_first=True), "attention"),
        (nn.Sequential(LinearAttention()), "attention"),
        (nn.Sequential(nn.Conv2d(1, 1, 1)), "other"),
    ],
)
def test_a_network_is_known_by_its_layers(model, kind):
    assert kind_of(model) == kind


def test_attention_without_a_name_is_known_by_what_is_computed():
    plain = nn.Sequential(nn.Conv2d(1, 1, 1))
    assert kind_of(plain, lambda: True) == "attention"
    # A recurrent network, or a telling name, is enough: nothing is run.
    assert kind_of(nn.GRU(1, 1), lambda: 1 / 0) == "recurrent"
    assert kind_of(LinearAttention(), lambda: 1 / 0) == "attention"
    found = settle(TrainingConfig(), plain, items=100, attends=lambda: True).settled
    assert found.learning_rate == RATES["adamw"]["attention"]
    assert settled(plain).settled.learning_rate == RATES["adamw"]["other"]


def test_few_items_make_small_batches_and_more_epochs():
    config = TrainingConfig()
    assert [batch_size(config, n) for n in (500, 8_000, 60_000)] == [32, 64, 128]
    assert [num_epochs(config, n) for n in (500, 8_000, 60_000)] == [19, 10, 10]
    assert num_epochs(config, 2) == MOST_EPOCHS
    assert num_epochs(TrainingConfig(epochs=0), 2) == 0


def test_one_cycle_rises_by_itself():
    assert settled(schedule="one_cycle").settled.warmup_epochs == 0


def test_what_was_left_open_is_told():
    config = check(TrainingConfig, {"epochs": 3, "optimizer": "sgd"}, where="train")
    chosen = settle(config, nn.Linear(1, 1), items=100).settled.chosen(config)
    assert set(chosen) == set(Settled.__annotations__) - {"epochs", "optimizer"}
