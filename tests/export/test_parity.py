from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError, ParityFailed
from kdeploy.export.parity import (
    BATCH_SIZES,
    FLOAT_BOUND,
    Parity,
    check_parity,
    inputs,
    measure_parity,
)
from kdeploy.tasks.segmentation import Segmentation


@pytest.fixture
def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def runs(model, change=lambda y: y):
    def run(x):
        with torch.no_grad():
            return change(model(torch.from_numpy(x)).numpy())

    return run


def test_inputs_are_real_and_random_at_each_batch_size(data):
    items = data((3, 4))
    batches = list(inputs(items))
    assert [len(b) for b in batches] == [n for n in BATCH_SIZES for _ in range(2)]
    np.testing.assert_array_equal(batches[0], items.validation.x[:1])
    # No real item comes twice while there are others.
    np.testing.assert_array_equal(batches[2], items.validation.x[1:4])


def test_few_items_are_repeated_up_to_the_largest_batch(data):
    assert [len(b) for b in inputs(data((3, 4), count=2))][::2] == list(BATCH_SIZES)


def test_equal_outputs_have_parity(model, data):
    parity = measure_parity(model, runs(model), data((3, 4)))
    assert (parity.max_abs, parity.agreement, parity.required_tolerance) == (0, 1, 0)
    assert parity.cosine == pytest.approx(1)
    assert parity.bound == FLOAT_BOUND
    check_parity(parity, name="m.onnx")


def test_the_error_is_the_largest_in_output_standard_deviations(model, data):
    items = data((3, 4))

    def change(y):
        y = y.copy()
        if len(y) == 3:
            y[1, 2] += 0.25
        return y

    parity = measure_parity(model, runs(model, change), items)
    assert parity.required_tolerance == pytest.approx(0.25, abs=1e-6)
    with torch.no_grad():
        stds = [model(torch.from_numpy(x)).numpy().std() for x in inputs(items) if len(x) == 3]
    assert parity.max_abs == pytest.approx(0.25 / min(stds), rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * 1.01,
        lambda y: y[:, ::-1],
        lambda y: y[:, :4],
        lambda y: y * np.nan,
        lambda y: y + 0.01,
    ],
    ids=["scaled", "permuted", "cut", "not finite", "shifted"],
)
def test_a_file_that_computes_something_else_fails_with_what_it_would_need(model, data, change):
    parity = measure_parity(model, runs(model, change), data((3, 4)))
    with pytest.raises(ParityFailed, match="would need a tolerance of") as caught:
        check_parity(parity, name="m.onnx")
    assert caught.value.exit_code == 1


def test_an_int8_file_may_be_as_far_off_as_rounding_is(model, data):
    rounded = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    rounded.load_state_dict({k: (v * 32).round() / 32 for k, v in model.state_dict().items()})
    items = data((3, 4))
    # The float model is exactly one distance away from the rounded one, twice as far is too far.
    near = measure_parity(rounded, runs(model), items, base=model)
    assert near.max_abs == pytest.approx(near.bound / 2)
    check_parity(near, name="m.onnx")
    far = measure_parity(
        rounded,
        lambda x: runs(rounded)(x) + 3 * (runs(model)(x) - runs(rounded)(x)),
        items,
        base=model,
    )
    with pytest.raises(ParityFailed):
        check_parity(far, name="m.onnx")


class Clipped(nn.Module):
    """Computes on codes that end at 1.5, as those of an INT8 model end at what it has seen."""

    def __init__(self, float_model):
        super().__init__()
        self.float_model = float_model

    def forward(self, x):
        return self.float_model(x.clamp(-1.5, 1.5))


def test_what_noise_may_do_is_not_allowed_on_real_inputs(model, data):
    items = data((3, 4))
    seen = np.random.default_rng(0).uniform(-1.4, 1.4, items.validation.x.shape)
    items = replace(items, validation=replace(items.validation, x=seen.astype(np.float32)))
    clipped = Clipped(model)

    def off(x):
        y = runs(clipped)(x)
        return y + 0.2 * y.std() * (np.abs(x).max() < 1.5)

    check_parity(measure_parity(clipped, runs(clipped), items, base=model), name="m.onnx")
    noise = measure_parity(clipped, runs(model), items, base=model)
    assert noise.max_abs > 0.2
    check_parity(noise, name="m.onnx")
    wrong = measure_parity(clipped, off, items, base=model)
    assert wrong.max_abs == pytest.approx(0.2, rel=0.01)
    with pytest.raises(ParityFailed):
        check_parity(wrong, name="m.onnx")


class Cancelling(nn.Module):
    """Loses most digits of its sums, as deep networks with random weights do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("large", torch.tensor(1e5))

    def forward(self, x):
        return (x.flatten(1) + self.large) - self.large


def test_a_network_that_amplifies_the_order_of_its_sums_is_its_own_yardstick(data):
    def rounded_otherwise(x):
        exact = Cancelling().double()(torch.from_numpy(x).double())
        return exact.float().numpy()

    parity = measure_parity(Cancelling(), rounded_otherwise, data((3, 4)))
    assert FLOAT_BOUND < parity.max_abs <= parity.bound < 0.1
    check_parity(parity, name="m.onnx")
    wrong = measure_parity(Cancelling(), lambda x: 1.2 * rounded_otherwise(x), data((3, 4)))
    with pytest.raises(ParityFailed):
        check_parity(wrong, name="m.onnx")


class Steps(nn.Module):
    """A network of three layers, and the same as a file in half precision would compute it."""

    def __init__(self, *, is_half=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 5)])
        self.is_half = is_half

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.tanh(self.rounded(layer(self.rounded(x))))
        return x

    def rounded(self, x):
        return x.half().float() if self.is_half else x


def half_precision():
    model = Steps(is_half=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    return model


def test_a_half_file_may_be_as_far_off_as_float16_is(data):
    items = data((3, 4))
    parity = measure_parity(Steps(), runs(half_precision()), items, is_half=True)
    assert 1e-4 < parity.max_abs <= parity.bound < 0.05
    check_parity(parity, name="m.onnx")
    wrong = measure_parity(Steps(), runs(Steps(), lambda y: 1.05 * y), items, is_half=True)
    with pytest.raises(ParityFailed):
        check_parity(wrong, name="m.onnx")


class Logarithm(nn.Module):
    """Has no number for what is negative, as half of the noise is."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(x.flatten(1)) + torch.log(x[:, :1, 0])


def test_where_the_model_answers_no_number_the_file_has_to_as_well(data):
    model, items = Logarithm(), data((3, 4))
    parity = measure_parity(model, runs(model), items)
    assert (parity.max_abs, parity.agreement) == (0, 1)
    check_parity(parity, name="m.onnx")
    filled = measure_parity(model, runs(model, np.nan_to_num), items)
    assert filled.max_abs == float("inf")


def test_a_file_that_answers_no_number_agrees_with_nobody(model, data):
    parity = measure_parity(model, runs(model, lambda y: y * float("nan")), data((3, 4)))
    assert (parity.max_abs, parity.agreement) == (float("inf"), 0.0)


def test_a_model_that_answers_nothing_is_no_measure(data):
    broken = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    nn.init.constant_(broken[1].bias, float("nan"))
    with pytest.raises(ModelError, match="to every input of the parity gate"):
        measure_parity(broken, runs(broken), data((3, 4)))


def test_messages_speak_of_an_agreement_only_where_there_is_one():
    known = {"max_abs": 9.0, "cosine": 0.5, "agreement": 0.25, "bound": 1e-3}
    parity = Parity(**known, required_tolerance=1.0)
    with pytest.raises(ParityFailed, match=r"agreement\.top1 25\.00 %; it would"):
        check_parity(parity, name="file")
    with pytest.raises(ParityFailed) as caught:
        check_parity(replace(parity, agreement=None), name="file")
    assert "agreement" not in caught.value.message


def test_agreement_is_that_of_the_task(data):
    items = data((3, 8, 8))
    items = replace(items, task=Segmentation())
    items.task._size = (8, 8)
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 1).eval()
    parity = measure_parity(model, runs(model), items)
    assert (parity.agreement_metric, parity.agreement) == ("agreement.miou", 1.0)
    # Classes that change places in pairs: no pixel keeps its own.
    swapped = measure_parity(model, runs(model, lambda y: y[:, [1, 0, 3, 2]]), items)
    assert swapped.agreement == 0.0
    assert "agreement.miou 0.00 %" in swapped.agreement_words
    other = measure_parity(model, runs(model, lambda y: y[:, :, :, :, None]), items)
    assert (other.agreement, other.agreement_words) == (None, "")


def test_outputs_that_hardly_vary_may_round_their_last_digits(data):
    class NearlyConstant(nn.Sequential):
        def forward(self, x):
            return -4.6 + 1e-6 * super().forward(x)

    model, items = NearlyConstant(nn.Flatten(), nn.Linear(12, 5)), data((3, 4))
    one_step = np.spacing(np.float32(4.6))
    assert measure_parity(model, runs(model, lambda y: y + 4 * one_step), items).passed
    # Beyond what float32 rounds it is a fault all the same.
    assert not measure_parity(model, runs(model, lambda y: y * 1.0001), items).passed
