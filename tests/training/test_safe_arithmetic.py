import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from kdeploy.training import kernel_check, safe_arithmetic
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, NullCallback, Supervised, fit
from kdeploy.training.kernel_check import Finding, _Memory

REAL_CASE = """
import sys, torch
from kdeploy.data.load import DataReference, load
from kdeploy.store.references import ModelReference, build_model
from kdeploy.training.fit import FitContext, Supervised, TrainingConfig, fit
model = build_model(ModelReference(build="models/digits/build.py:resnet", args={"width": 8}))
data = load(DataReference(name="digits", parameters={"size": 16}))
result = fit(Supervised(model), data, FitContext(), TrainingConfig(epochs=1))
print(result.arithmetic.threads, *result.arithmetic.contiguous_layers)
"""


@pytest.fixture(autouse=True)
def _forgotten(tmp_path, monkeypatch):
    memory = _Memory(tmp_path / "kernels.json")
    monkeypatch.setattr(kernel_check, "_memory", lambda: memory)


class Resizing(nn.Module):
    """Made smaller with a filter that torch does not have in bf16."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.resize = Resize()
        self.head = nn.Linear(8 * 36, 4)

    def forward(self, x):
        return self.head(self.resize(self.conv(x)).flatten(1))


class Resize(nn.Module):
    def forward(self, x):
        return functional.interpolate(x, size=(6, 6), mode="bilinear", antialias=True)


class Residual(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        first = nn.Conv2d(1, width, 3, padding=1)
        self.stem = nn.Sequential(first, nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Conv2d(width, 16, 1, stride=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.shortcut(self.stem(x)).mean((2, 3)))


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_the_real_case_on_two_threads_trains_to_its_end():
    two = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    environment = {**os.environ, **two, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-c", REAL_CASE],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    threads, *layers = done.stdout.split()
    assert threads == "2"
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert layers == ["2.0.shortcut.0"]
        assert "`2.0.shortcut.0` keeps the plain layout" in done.stderr


def test_a_resize_that_bf16_lacks_computes_in_float32_alone_and_says_so(tiny_data, caplog):
    with caplog.at_level(logging.WARNING):
        result = fit(
            Supervised(Resizing()),
            tiny_data,
            FitContext(),
            TrainingConfig(epochs=2, precision="bf16"),
        )
    assert result.arithmetic.precision == "bf16"
    assert result.arithmetic.float32_layers == ("resize",)
    (line,) = result.arithmetic.because
    assert line.startswith("`resize` computes in float32: ")
    assert "BFloat16" in line
    assert sum(line in record.message for record in caplog.records) == 1
    assert result.history[-1].loss < result.history[0].loss * 1.01


def test_a_resize_in_the_model_itself_takes_the_whole_training_to_float32(tiny_data):
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(288, 4))

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            x = self.net[0](x)
            x = functional.interpolate(x, size=(6, 6), mode="bilinear", antialias=True)
            return self.net[2](self.net[1](x))

    result = fit(
        Supervised(Whole()), tiny_data, FitContext(), TrainingConfig(epochs=1, precision="bf16")
    )
    assert result.arithmetic.precision == "fp32"
    assert result.arithmetic.channels_last
    assert "the model and with it all layers compute in float32" in result.arithmetic.because[0]


def test_trying_changes_nothing(tiny_data, monkeypatch):
    """Not weights, statistics or random numbers: what is trained is what was trained before."""
    ends = []
    for is_tried in (True, False):
        if not is_tried:
            monkeypatch.setattr(safe_arithmetic, "can_record", lambda device: False)
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(800, 4)
        )
        before = torch.random.get_rng_state()
        fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=2, precision="fp32"))
        assert torch.equal(torch.random.get_rng_state(), before)
        ends.append(state_of(model))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_all_batch_sizes_to_come_are_tried(tiny_data, monkeypatch):
    seen = []

    def remember(calls, *, threads):
        seen.extend(text for text, _ in calls)
        return [], 0

    monkeypatch.setattr(safe_arithmetic, "findings", remember)
    model = Residual(width=16)  # narrower, two threads would die of it: nothing is looked for here
    fit(
        Supervised(model),
        tiny_data,
        FitContext(),
        TrainingConfig(epochs=1, batch_size=40, accumulate=3),
    )
    # 96 items: batches of 40, 40, 16, in three parts each; 32 to validate, without a gradient.
    sizes = {int(t.split('"tensor": [[')[1].split(",")[0]) for t in seen if "convolution" in t}
    assert sizes == {14, 13, 6, 5, 32}


def test_only_the_layer_that_is_bad_keeps_the_plain_layout(tiny_data, monkeypatch):
    def find(calls, *, threads):
        strided = [(json.loads(text), layer) for text, layer in calls if layer == "shortcut"]
        bad = [
            Finding(call=call, layer=layer, message="is bad")
            for call, layer in strided
            if call["args"][0]["tensor"][1][1] == 1
        ]
        return bad, 0

    monkeypatch.setattr(safe_arithmetic, "findings", find)
    model, strides = Residual(), {}
    for name in ("stem.1", "shortcut"):
        layer = model.get_submodule(name)
        # Before what the training adds: the weights, and what the layer answers.
        layer.register_forward_hook(
            lambda module, args, output, name=name: strides.update(
                {name: (module.weight.stride(), output.stride()[1])}
            )
        )
    context = FitContext()
    result = fit(
        Supervised(model),
        tiny_data,
        context,
        TrainingConfig(epochs=1, batch_size=30, precision="fp32"),
    )
    assert result.arithmetic.contiguous_layers == ("shortcut",)
    assert result.arithmetic.channels_last
    assert strides["shortcut"] == ((8, 1, 1, 1), 36)
    assert strides["stem.1"][1] == 1
    assert not model.shortcut._forward_pre_hooks


def test_a_forward_pass_that_dies_leads_to_the_plain_settings(tiny_data, monkeypatch):
    class Dying(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))

        def forward(self, x):
            if x.is_contiguous(memory_format=torch.channels_last) and os.getpid() != home:
                os.abort()
            return self.net(x)

    home = os.getpid()
    monkeypatch.setattr(safe_arithmetic, "ROUNDS", 2)
    result = fit(
        Supervised(Dying()), tiny_data, FitContext(), TrainingConfig(epochs=1, precision="bf16")
    )
    assert result.arithmetic.is_plain
    assert "SIGABRT" in result.arithmetic.because[0]


def test_an_error_of_the_model_itself_is_not_taken_for_one_of_precision(tiny_data):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))

        def forward(self, x):
            if self.training:
                raise ValueError("only in training")
            return self.net(x)

    with pytest.raises(ValueError, match="only in training"):
        fit(
            Supervised(Failing()),
            tiny_data,
            FitContext(),
            TrainingConfig(epochs=1, precision="bf16"),
        )


def test_a_resumed_training_computes_as_it_began(tiny_data, tmp_path, monkeypatch):
    class Stopping(NullCallback):
        def epoch_ended(self, record):
            if record.epoch == 1:
                raise KeyboardInterrupt

    def train(callback):
        torch.manual_seed(0)
        context = FitContext(work=tmp_path, callback=callback)
        return fit(
            Supervised(Resizing()), tiny_data, context, TrainingConfig(epochs=2, precision="bf16")
        )

    with pytest.raises(KeyboardInterrupt):
        train(Stopping())
    # Nothing is found any more, and what the beginning settled on holds all the same.
    monkeypatch.setattr(safe_arithmetic, "can_record", lambda device: False)
    assert train(NullCallback()).arithmetic.float32_layers == ("resize",)
