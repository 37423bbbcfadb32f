"""The loop: what it keeps, what it records, and when it stops with an error."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kdeploy.data.contract import Split
from kdeploy.errors import TrainingDiverged
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, NullCallback, Supervised, accuracy, fit

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}


class Components(nn.Module):
    """An objective that returns components made by a function of the cross-entropy."""

    def __init__(self, student, make):
        super().__init__()
        self.student, self.make = student, make

    def forward(self, batch):
        return self.make(nn.functional.cross_entropy(self.student(batch.x), batch.labels))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_keeps_the_epoch_it_says(keep, tiny_model, tiny_data):
    model = tiny_model()
    options = {**QUICK, "learning_rate": 1.0, "schedule": "constant", "epochs": 5, "keep": keep}
    result = fit(Supervised(model), tiny_data, FitContext(seed=1), TrainingConfig(**options))
    accuracies = [r.validation_accuracy for r in result.history]
    assert result.best_accuracy == max(accuracies) != accuracies[-1] == result.last_accuracy
    assert result.best_epoch == 5 - accuracies[::-1].index(max(accuracies)), "the later of equals"
    kept = accuracy(model, tiny_data.validation, tiny_data.preprocessing)
    assert kept == (result.best_accuracy if keep == "best" else result.last_accuracy)


def test_stops_when_the_loss_is_not_a_number(tiny_model, tiny_data):
    objective = Components(tiny_model(), lambda e: {"labels": e, "odd": e / 0 - e / 0})
    with pytest.raises(TrainingDiverged, match="`odd` became nan in epoch 1 of 2") as caught:
        fit(objective, tiny_data, FitContext(), TrainingConfig(epochs=2, **QUICK))
    assert "learning_rate" in caught.value.hint


def test_stops_when_a_component_is_zero_for_an_epoch(tiny_model, tiny_data):
    objective = Components(tiny_model(), lambda e: {"labels": e, "hints": e * 0})
    with pytest.raises(TrainingDiverged, match=r"`hints` was exactly zero over all of epoch 1"):
        fit(objective, tiny_data, FitContext(), TrainingConfig(epochs=2, **QUICK))


def test_records_the_mean_of_each_component_over_the_items(tiny_model, tiny_data):
    seen = []

    class Counting(nn.Module):
        def __init__(self, student):
            super().__init__()
            self.student = student

        def forward(self, batch):
            x = batch.x
            seen.append(len(x))
            value = self.student(x).sum() * 0
            return {"ones": value + 1.0, "sizes": value + float(len(x))}

    options = {**QUICK, "batch_size": 36, "epochs": 1}
    record = fit(
        Counting(tiny_model()), tiny_data, FitContext(), TrainingConfig(**options)
    ).history[0]
    assert sorted(seen) == [24, 36, 36]
    expected = (24 * 24 + 2 * 36 * 36) / 96
    assert record.losses == {"ones": 1.0, "sizes": pytest.approx(expected)}
    assert record.loss == pytest.approx(1 + expected)


def test_bf16_is_close_to_fp32_and_channels_last_to_neither(tiny_model, tiny_data):
    losses = {}
    for precision in ("fp32", "bf16"):
        for channels_last in (True, False):
            options = {**QUICK, "precision": precision, "channels_last": channels_last}
            model = tiny_model()
            result = fit(
                Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=1, **options)
            )
            losses[precision, channels_last] = result.history[0].loss
            assert all(p.is_contiguous() for p in model.parameters())
    assert losses["fp32", True] == pytest.approx(losses["fp32", False], rel=1e-4)
    assert losses["bf16", True] == pytest.approx(losses["fp32", True], rel=0.05)
    assert losses["bf16", True] != losses["fp32", True], "autocast was on"


def test_clips_the_gradients(tiny_model, tiny_data):
    def distance(**options):
        model, start = tiny_model(), tiny_model()
        options = {**QUICK, "momentum": 0.0, "weight_decay": 0.0, "keep": "last", **options}
        fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=1, **options))
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return sum(((a - b) ** 2).sum() for a, b in pairs).sqrt().item()

    # Six steps, each at most learning rate x norm long.
    assert distance(clip_norm=0.01) <= 6 * 0.05 * 0.01 * 1.001 < distance()


def test_without_a_validation_part_the_last_epoch_is_kept(tiny_model, tiny_data):
    data = replace(tiny_data, validation=Split(x=tiny_data.test.x[:0], y=tiny_data.test.y[:0]))
    result = fit(Supervised(tiny_model()), data, FitContext(), TrainingConfig(epochs=2, **QUICK))
    assert result.best_epoch == 2
    assert isnan(result.last_accuracy)


class Plain(nn.Module):
    """A network without batch norm."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, 3, stride=2), nn.Linear(6 * 25, 4)

    def forward(self, x):
        return self.last(self.first(x).relu().flatten(1))


class WithClips(Plain):
    """Takes images, and holds a weight of five axes, which no layout of images fits."""

    def __init__(self):
        super().__init__()
        self.clips = nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x):
        return super().forward(self.clips(x[:, :, None])[:, :, 0])


def test_a_weight_of_five_axes_trains_in_the_layout_of_images(tiny_data):
    torch.manual_seed(0)
    model = WithClips()
    before = model.clips.weight.detach().clone()
    fit(
        Supervised(model),
        tiny_data,
        FitContext(),
        TrainingConfig(channels_last=True, **{**QUICK, "epochs": 2}),
    )
    assert not torch.equal(model.clips.weight, before)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "ema": 0.9, "optimizer": "adamw"}])
def test_a_step_in_parts_is_the_step(options, tiny_data):
    data = replace(tiny_data, augment=("random_crop",))
    options = {**QUICK, "learning_rate": 0.01, "batch_size": 36, "epochs": 3, **options}
    trained = {}
    for accumulate in (1, 5):
        torch.manual_seed(0)
        model, callback = Plain(), Counter()
        context = FitContext(callback=callback)
        result = fit(
            Supervised(model), data, context, TrainingConfig(accumulate=accumulate, **options)
        )
        trained[accumulate] = (model.state_dict(), result.history)
        assert callback.images == 3 * [36, 36, 24], "told once a step, of all its items"
    weights, history = trained[1]
    other_weights, other_history = trained[5]
    for key, value in weights.items():
        assert torch.allclose(value, other_weights[key], rtol=0, atol=1e-5), key
    for one, other in zip(history, other_history, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-5)
        assert one.learning_rate == other.learning_rate


class Counter(NullCallback):
    def __init__(self):
        self.images = []

    def stepped(self, images):
        self.images.append(images)


class Reads(TorchFunctionMode):
    """Counts the values that the host reads; on a GPU it would wait for each."""

    NAMES = frozenset({"item", "tolist", "__bool__", "__float__", "__int__", "numpy"})

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in self.NAMES
        return function(*args, **(kwargs or {}))


def test_the_host_reads_as_much_of_many_steps_as_of_few(tiny_data):
    options = {**QUICK, "epochs": 2, "clip_norm": 0.5, "ema": 0.9}
    found = []
    for batch_size in (48, 6):
        with Reads() as reads:
            fit(
                Supervised(Plain()),
                tiny_data,
                FitContext(),
                TrainingConfig(**{**options, "batch_size": batch_size}),
            )
        found.append(reads.count)
    assert found[0] == found[1] > 0
