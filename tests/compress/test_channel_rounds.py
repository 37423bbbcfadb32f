"""Pruning in rounds: training between and before them, targets that are measured, what is told."""

import dataclasses
import logging

import pytest
import torch
from torch import nn

from kdeploy.compress.compressors.prune_channels import prune_channels
from kdeploy.compress.contract import CompressContext, Timing
from kdeploy.errors import ModelError, UnknownName
from kdeploy.torch_module.complexity import count_macs
from tests.compress.compressors.test_prune_channels import Residual, context
from tests.pruning import attentions
from tests.tiny.compressing import Trainer

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Residual(64).eval()


class Recorder(Trainer):
    """A trainer that remembers what it was given."""

    def __init__(self, data):
        super().__init__(data)
        self.macs, self.given = [], []

    def __call__(self, model, teacher, training):
        self.macs.append(count_macs(model, EXAMPLE))
        held = [constraint.fingerprint for constraint in training.constraints]
        self.given.append((teacher, held, training.keep))
        super().__call__(model, teacher, training)


def trained(**given):
    plain = context()
    return dataclasses.replace(plain, train=Recorder(plain.data), **given)


def test_each_iteration_keeps_the_same_fraction_with_a_training_between(model):
    where = trained()
    small = prune_channels(model, where, target={"macs": 0.343}, iterations=3, round_to=1)
    assert where.train.names == ["iteration 1", "iteration 2"]
    whole = count_macs(model, EXAMPLE)
    fractions = [macs / whole for macs in (*where.train.macs, count_macs(small, EXAMPLE))]
    assert fractions == pytest.approx([0.7, 0.49, 0.343], rel=0.03)
    assert all(teacher is model and not held for teacher, held, _ in where.train.given)


def test_a_ratio_in_iterations_is_of_the_channels_at_first(model):
    where = trained()
    small = prune_channels(model, where, ratio=0.75, iterations=2, scope="local", round_to=1)
    assert (small.stem.out_channels, small.inner.out_channels) == (16, 16)
    once = prune_channels(model, context(), ratio=0.5, scope="local", round_to=1)
    assert where.train.macs == [count_macs(once, EXAMPLE)]


def test_the_limit_of_a_layer_holds_over_all_iterations(model):
    small = prune_channels(
        model, trained(), target={"macs": 0.05}, iterations=3, max_ratio=0.5, round_to=1
    )
    assert small.stem.out_channels == small.inner.out_channels == 32


def test_a_step_between_may_miss_its_aim_in_silence_the_last_may_not(model, caplog):
    caplog.set_level(logging.INFO)
    prune_channels(model, trained(), target={"macs": 0.05}, iterations=2, max_ratio=0.5)
    told = [r.levelname for r in caplog.records if "asked for" in r.message]
    assert told == ["INFO", "WARNING"]


def test_regularize_trains_before_with_the_group_lasso(model):
    where = trained()
    prune_channels(model, where, ratio=0.5, regularize=1e-4)
    assert where.train.names == ["sparse"]
    [(teacher, [fingerprint], keep)] = where.train.given
    assert teacher is model
    assert "group lasso 0.0001" in fingerprint
    assert keep == "last"
    assert where.train.macs == [count_macs(model, EXAMPLE)]


def test_regularize_empties_what_goes_together(model):
    where = trained()
    # Four steps at the learning rate 1e-3 take 0.4 off the root mean square of each group.
    small = prune_channels(model, where, ratio=0.25, regularize=100.0, round_to=1)
    assert float(small.inner.weight.detach().abs().max()) == 0.0
    assert float(model.inner.weight.detach().abs().max()) > 0.0


@pytest.mark.parametrize("given", [{"iterations": 2}, {"regularize": 1e-4}])
def test_without_training_those_that_train_say_so(model, given):
    with pytest.raises(ModelError, match="nothing says how"):
        prune_channels(model, context(), ratio=0.5, **given)


class Blocks:
    """A stopwatch on which convolutions cost by blocks of 16 channels."""

    def __init__(self):
        self.calls = []

    def __call__(self, models, example, timing):
        assert not any(module.training for model in models for module in model.modules())
        self.calls.append((timing.runtime, timing.batch_size, timing.threads))
        return [1e-5 + 1e-4 * sum(map(self._cost, model.modules())) for model in models]

    @staticmethod
    def _cost(module):
        if not isinstance(module, nn.Conv2d):
            return 0
        return -(-module.in_channels // 16) * -(-module.out_channels // 16)


def test_a_latency_is_measured_until_it_is_reached(model):
    where = dataclasses.replace(context(), stopwatch=Blocks())
    small = prune_channels(
        model, where, target={"latency": 0.5}, latency_batch_size=4, threads=2, scope="local"
    )
    whole, reached = where.stopwatch([model, small], EXAMPLE, Timing(runtime="", threads=1))
    rows = where.report["latency"]
    [chosen] = [row for row in rows if row["is_chosen"]]
    assert chosen["is_confirmed"]
    assert chosen["latency_seconds"] == reached
    assert where.report["latency_reached"] == {
        "asked_ratio": 0.5,
        "ratio": reached / whole,
        "latency_seconds": reached,
        "runtime": "onnxruntime_cpu",
        "batch_size": 4,
        "threads": 2,
    }
    assert chosen["latency_ratio"] == reached / whole <= 0.5
    assert chosen["macs_ratio"] == count_macs(small, EXAMPLE) / count_macs(model, EXAMPLE)
    assert chosen["channels_kept"] == small.stem.out_channels + small.inner.out_channels
    assert len(rows) == len(where.stopwatch.calls) - 1
    assert set(where.stopwatch.calls[:-1]) == {("onnxruntime_cpu", 4, 2)}
    assert count_macs(model, EXAMPLE) > count_macs(small, EXAMPLE)


def test_a_latency_out_of_reach_is_told_and_the_fastest_returned(model, caplog):
    where = dataclasses.replace(context(), stopwatch=Blocks())
    small = prune_channels(model, where, target={"latency": 0.1}, max_ratio=0.5)
    assert small.stem.out_channels == small.inner.out_channels == 32
    assert "of the latency; asked for 10.0 %" in caplog.text


def test_a_latency_needs_a_stopwatch_and_a_runtime_that_exists(model):
    with pytest.raises(ModelError, match="no stopwatch"):
        prune_channels(model, context(), target={"latency": 0.5})
    with pytest.raises(UnknownName, match="did you mean `onnxruntime_cpu`"):
        prune_channels(model, context(), target={"latency": 0.5}, runtime="onnxruntime_cpy")


def test_a_runtime_without_a_latency_to_reach_is_told(model, caplog):
    prune_channels(model, context(), ratio=0.5, threads=2)
    assert "no effect without `target: {latency: ...}`" in caplog.text


@pytest.mark.parametrize(("attention", "heads", "width"), [("heads", 2, 8), ("width", 3, 5)])
def test_heads_go_or_a_channel_of_every_head(attention, heads, width):
    model = attentions.make(attentions.Fused)
    where = context((16, attentions.STREAM))
    small = prune_channels(model, where, ratio=0.35, scope="local", attention=attention, round_to=1)
    assert (small.attention.num_heads, small.attention.head_dim) == (heads, width)
    assert small.attention.proj.in_features == heads * width


def test_layers_that_keep_all_are_told_with_the_reason(model):
    where: CompressContext = context()
    prune_channels(model, where, ratio=0.5, scope="local", ignore=("inner",))
    reasons = {row["layer"]: row["reason"] for row in where.report["kept_whole"]}
    assert reasons.keys() == {"inner", "head"}
    assert reasons["inner"] == "`ignore` names it"
