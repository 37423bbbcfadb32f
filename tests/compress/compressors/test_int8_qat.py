from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from kdeploy.compress.compressors.int8_qat import int8_qat
from kdeploy.compress.contract import CompressContext
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError, OrderError
from kdeploy.quantization.fake_quant import FakeQuantized
from kdeploy.quantization.pt2e import QuantizedModel
from kdeploy.store.model_io import load_model
from kdeploy.training.fit import FitContext, NullCallback
from tests.tiny.compressing import Trainer

REAL_CASE = """
from dataclasses import replace
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.compressors.int8_qat import int8_qat
from kdeploy.data.contract import Split
from kdeploy.data.load import DataReference, load
from kdeploy.distill.run import distill
from kdeploy.store.references import ModelReference, build_model
from kdeploy.distill.config import DistillConfig
from kdeploy.training.fit import FitContext
data = load(DataReference(name="digits"))
data = replace(data, train=Split(x=data.train.x[:123], y=data.train.y[:123]))
arguments = {"width": 8, "depth": 1}
model = build_model(ModelReference(build="models/digits/build.py:resnet", args=arguments)).eval()
def train(student, teacher, asked_for):
    result = distill(student, teacher, data, FitContext(), DistillConfig(epochs=1))
    print(result.fit.arithmetic.threads, result.fit.arithmetic.channels_last)
int8_qat(model, CompressContext(data=data, seed=0, train=train), epochs=1)
"""


@pytest.fixture
def context(tiny_data):
    return CompressContext(data=tiny_data, seed=3, train=Trainer(tiny_data))


def test_the_student_of_the_training_is_what_is_deployed(tiny_model, context, store_model):
    model, seen = tiny_model(), []

    def train(student, teacher, asked_for):
        assert isinstance(student, FakeQuantized)
        assert teacher is model
        context.train(student, teacher, asked_for)
        seen.append(student)

    taught = CompressContext(data=context.data, seed=3, train=train)
    small = int8_qat(model, taught)
    x = torch.from_numpy(context.data.preprocessing.apply(context.data.validation.x))
    with torch.no_grad():
        torch.testing.assert_close(small(x), seen[0](x), rtol=1e-5, atol=1e-5)
        assert torch.equal(load_model(store_model(small))(x), small(x))
    assert small.weight_scales.keys() == {n for n in small.weight_scales if n.endswith("weight")}
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in small.base.modules())


def test_scales_and_weights_are_learned(tiny_model, context):
    small = int8_qat(tiny_model(), context)
    untaught = CompressContext(data=context.data, seed=3, train=lambda *a, **k: None)
    start = int8_qat(tiny_model(), untaught)
    assert start.ranges != small.ranges
    assert start.ranges.keys() == small.ranges.keys()
    assert start.weight_scales != small.weight_scales


class Interrupted(NullCallback):
    """Ends the training after its first epoch."""

    def epoch_ended(self, record):
        raise KeyboardInterrupt


def test_the_training_loop_resumes_averages_and_casts_it(tiny_model, tiny_data, tmp_path):
    def trained(folder, callback):
        def train(student, teacher, asked_for):
            context = FitContext(work=tmp_path / folder, device="cpu", callback=callback)
            training = {"epochs": 2, "learning_rate": 1e-3, "ema": 0.9, "precision": "bf16"}
            distill(student, teacher, tiny_data, context, DistillConfig(**training))

        return int8_qat(tiny_model(), CompressContext(data=tiny_data, seed=3, train=train))

    undisturbed = trained("one", NullCallback())
    with pytest.raises(KeyboardInterrupt):
        trained("two", Interrupted())
    resumed = trained("two", NullCallback())
    assert resumed.state() == undisturbed.state()
    x = torch.from_numpy(tiny_data.preprocessing.apply(tiny_data.validation.x))
    assert torch.equal(resumed(x), undisturbed(x))


def test_zeros_stay_zeros(tiny_model, context):
    model = tiny_model()
    [weight] = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    zeros = weight.detach().abs() < weight.detach().abs().median()
    with torch.no_grad():
        weight[zeros] = 0
    small = int8_qat(model, context)
    [learned] = [m.weight for m in small.base.modules() if isinstance(m, torch.nn.Linear)]
    assert torch.equal(learned == 0, zeros)
    assert not torch.equal(learned, weight)


def test_without_a_training_the_hint_says_how_to_ask_for_one(tiny_model, tiny_data):
    with pytest.raises(ModelError, match="quantization-aware") as caught:
        int8_qat(tiny_model(), CompressContext(data=tiny_data))
    assert "recover" in caught.value.hint


def test_a_quantized_model_is_refused(tiny_model, context):
    small = int8_qat(tiny_model(), context)
    with pytest.raises(OrderError, match="quantized already"):
        int8_qat(small, context)


def test_layers_that_a_pattern_names_stay_float_and_are_listed(tiny_model, context):
    model = tiny_model()
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    small = int8_qat(model, context, ignore=(names[-1],), sensitivity=True)
    assert isinstance(small, QuantizedModel)
    assert small.float_layers == names[-1:]
    assert context.report["float_layers"] == [{"layer": names[-1], "reason": "`ignore`"}]
    assert names[-1] not in {row["layer"] for row in context.report["sensitivity"]}
    json.dumps(context.report, allow_nan=False)


def test_a_narrow_residual_network_is_trained_on_two_threads():
    two = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    done = subprocess.run(
        [sys.executable, "-c", REAL_CASE],
        capture_output=True,
        text=True,
        env={**os.environ, **two, "OMP_WAIT_POLICY": "passive"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The convolutions of a fake-quantized model are its own, so it is laid out as a whole.
    has_fault = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert done.stdout.split() == ["2", str(not has_fault)]
