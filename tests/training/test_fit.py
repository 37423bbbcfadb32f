"""The training loop: it learns, resumes bit for bit, stops with a reason, keeps what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.data.contract import Dataset, Preprocessing, Split
from kdeploy.errors import InputError, ModelError, TrainingDiverged
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import Batch, FitContext, NullCallback, Supervised, accuracy, fit

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}


class Recorder(NullCallback):
    """Notes what it is told, and interrupts after a number of steps."""

    def __init__(self, *, interrupt_after=None):
        self.told, self.steps, self.interrupt_after = [], 0, interrupt_after

    def started(self, name, epochs, steps, done_epochs):
        self.told.append(("started", name, epochs, steps, done_epochs))

    def stepped(self, images):
        self.steps += 1
        if self.steps == self.interrupt_after:
            raise KeyboardInterrupt

    def epoch_ended(self, record):
        self.told.append(("epoch", record.epoch))

    def ended(self):
        self.told.append(("ended",))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def augmented(tiny_data):
    return replace(tiny_data, augment=("random_crop",))


def with_dropout(tiny_model):
    net = tiny_model()
    net.depthwise = nn.Sequential(net.depthwise, nn.Dropout(0.2))
    return net


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_learns(tiny_model, tiny_data):
    model = tiny_model()
    before = accuracy(model, tiny_data.test, tiny_data.preprocessing)
    result = fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=12, **QUICK))
    after = accuracy(model, tiny_data.test, tiny_data.preprocessing)
    assert after >= 0.9 > before
    assert result.history[-1].loss < result.history[0].loss / 2
    assert [r.epoch for r in result.history] == list(range(1, 13))


@pytest.mark.parametrize("steps", [1, 7, 14])
@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "optimizer": "adamw", "keep": "last"}])
def test_an_interrupted_training_ends_in_the_same_weights(
    steps, options, tiny_model, augmented, tmp_path
):
    settings = {**QUICK, "epochs": 3, **options}
    straight = with_dropout(tiny_model)
    expected = fit(Supervised(straight), augmented, FitContext(seed=3), TrainingConfig(**settings))

    interrupted = FitContext(seed=3, work=tmp_path, callback=Recorder(interrupt_after=steps))
    with pytest.raises(KeyboardInterrupt):
        fit(
            Supervised(with_dropout(tiny_model)), augmented, interrupted, TrainingConfig(**settings)
        )
    resumed, callback = with_dropout(tiny_model), Recorder()
    torch.rand(5)  # the global generator is elsewhere in another process
    context = FitContext(seed=3, work=tmp_path, callback=callback)
    result = fit(Supervised(resumed), augmented, context, TrainingConfig(**settings))

    assert same(straight, resumed)
    assert [r.losses for r in result.history] == [r.losses for r in expected.history]
    assert (result.best_epoch, result.best_accuracy) == (
        expected.best_epoch,
        expected.best_accuracy,
    )
    assert callback.told[0] == ("started", "train", 3, 6, steps // 6)


def test_a_finished_training_is_not_repeated(tiny_model, tiny_data, tmp_path):
    model, again, callback = tiny_model(), tiny_model(), Recorder()
    first = fit(
        Supervised(model), tiny_data, FitContext(work=tmp_path), TrainingConfig(epochs=2, **QUICK)
    )
    context = FitContext(work=tmp_path, callback=callback)
    second = fit(Supervised(again), tiny_data, context, TrainingConfig(epochs=2, **QUICK))
    assert callback.steps == 0
    assert second == first
    assert same(model, again)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"settings": {"learning_rate": 0.01}},
        {"data": {"fingerprint": "others"}},
        {"model_seed": 1},
    ],
)
def test_the_checkpoint_of_another_training_is_not_resumed(
    change, tiny_model, tiny_data, tmp_path, caplog
):
    fit(
        Supervised(tiny_model()),
        tiny_data,
        FitContext(work=tmp_path),
        TrainingConfig(epochs=1, **QUICK),
    )
    callback = Recorder()
    fit(
        Supervised(tiny_model(seed=change.get("model_seed", 0))),
        replace(tiny_data, **change.get("data", {})),
        FitContext(work=tmp_path, callback=callback, seed=change.get("seed", 0)),
        TrainingConfig(epochs=1, **{**QUICK, **change.get("settings", {})}),
    )
    assert callback.steps == 6
    assert "other settings" in caplog.text


def test_leaves_the_global_random_numbers_alone(tiny_model, tiny_data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = tiny_model()
    torch.manual_seed(5)
    fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=1, **QUICK))
    assert torch.equal(torch.rand(3), expected)


def test_no_epochs_change_nothing(tiny_model, tiny_data):
    model, before = tiny_model(), tiny_model()
    result = fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=0))
    assert same(model, before)
    assert result.history == ()
    validation = accuracy(model, tiny_data.validation, tiny_data.preprocessing)
    assert result.best_accuracy == result.last_accuracy == validation
    assert result.best_epoch == 0


def test_stops_when_it_diverges(tiny_model, tiny_data):
    callback = Recorder()
    context = FitContext(callback=callback)
    with pytest.raises(TrainingDiverged):
        fit(
            Supervised(tiny_model()),
            tiny_data,
            context,
            TrainingConfig(epochs=9, learning_rate=1e20),
        )
    assert callback.told[-1] == ("ended",)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_signals_train_in_every_layout_and_precision(precision):
    rng = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = (rng.normal(size=(64, 3, 20)) + y[:, None, None]).astype(np.float32)
    split = Split(x=x, y=y)
    data = Dataset(
        name="signals",
        train=split,
        validation=split,
        test=split,
        preprocessing=Preprocessing(shape=(3, 20), classes=("a", "b")),
        fingerprint="signals",
    )
    pool = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten())
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), pool, nn.Linear(8, 2))
    options = {**QUICK, "precision": precision, "channels_last": True, "epochs": 4}
    result = fit(Supervised(model), data, FitContext(), TrainingConfig(**options))
    assert result.last_accuracy > 0.9
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_tells_the_watcher_all_in_order(tiny_model, tiny_data):
    callback = Recorder()
    context = FitContext(name="teacher", callback=callback)
    fit(Supervised(tiny_model()), tiny_data, context, TrainingConfig(epochs=2, **QUICK))
    assert callback.told == [
        ("started", "teacher", 2, 6, 0),
        ("epoch", 1),
        ("epoch", 2),
        ("ended",),
    ]
    assert callback.steps == 12


def test_refuses_a_student_with_another_class_count(tiny_model, tiny_data):
    with pytest.raises(ModelError, match="the student has 7 classes, edges has 4"):
        fit(Supervised(tiny_model(classes=7)), tiny_data, FitContext(), TrainingConfig(epochs=1))


def test_refuses_a_model_for_other_items(tiny_model, tiny_data):
    with pytest.raises(ModelError, match=r"cannot run on items of shape \(1, 12, 12\)"):
        fit(Supervised(tiny_model(channels=3)), tiny_data, FitContext(), TrainingConfig(epochs=1))


def test_refuses_a_model_without_anything_to_train(tiny_model, tiny_data):
    model = tiny_model().requires_grad_(False)
    with pytest.raises(ModelError, match="nothing to train"):
        fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=1))


def test_refuses_a_device_that_does_not_exist(tiny_model, tiny_data):
    with pytest.raises(InputError, match="no device `abacus`"):
        fit(
            Supervised(tiny_model()),
            tiny_data,
            FitContext(device="abacus"),
            TrainingConfig(epochs=1),
        )


def test_label_smoothing_is_that_of_the_formula():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    batch = Batch(x=logits, labels=torch.tensor([0]), rows=torch.tensor([0]))
    loss = Supervised(nn.Identity(), 0.3)(batch)["labels"]
    log_p = logits.numpy() - np.log(np.exp(logits.numpy()).sum())
    assert loss.item() == pytest.approx(-(0.8 * log_p[0, 0] + 0.1 * log_p[0, 1:].sum()), rel=1e-6)


class _WithAuxiliary(nn.Module):
    def __init__(self, model, *, has_auxiliary):
        super().__init__()
        self.model, self.has_auxiliary = model, has_auxiliary

    def forward(self, x):
        y = self.model(x)
        return (y, 0 * y) if self.training and self.has_auxiliary else y


def test_of_auxiliary_outputs_the_first_is_learned_from(tiny_model, tiny_data):
    trained = []
    for has_auxiliary in (False, True):
        model = _WithAuxiliary(tiny_model(), has_auxiliary=has_auxiliary)
        fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=1, batch_size=16))
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
