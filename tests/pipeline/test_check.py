"""What a model that does not fit the data is told: by what was found."""

import numpy as np
import pytest
from torch import nn

from kdeploy.data.load import DataReference, load
from kdeploy.errors import ModelError
from kdeploy.pipeline.check import check_model

Y = np.arange(24) % 3


def network(*, channels=1, outputs=3):
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, outputs),
    )


@pytest.fixture
def data(tmp_path):
    """Return a function that loads 24 random items of a shape."""

    def make(*shape):
        x = np.random.default_rng(0).integers(0, 256, (24, *shape), dtype=np.uint8)
        for part in ("train", "test"):
            np.savez(tmp_path / f"{part}.npz", x=x, y=Y)
        parameters = {"train": "train.npz", "test": "test.npz"}
        return load(DataReference(name="arrays", parameters=parameters, folder=tmp_path))

    return make


@pytest.mark.parametrize(
    ("shape", "channels", "says", "never"),
    [
        ((9, 9, 1), 1, "x.transpose(0, 3, 1, 2)", "x[:, None]"),
        ((12, 9, 3), 3, "x.transpose(0, 3, 1, 2)", "x[:, None]"),
        ((9, 9), 1, "x[:, None]", "transpose"),
        ((3, 9, 9), 1, "`teacher.args` (input channels", "transpose"),
    ],
)
def test_items_in_another_layout_are_told_with_what_brings_them_right(
    data, shape, channels, says, never
):
    with pytest.raises(ModelError, match="teacher cannot run on items of shape") as caught:
        check_model(network(channels=channels), data(*shape), "teacher")
    assert says in caught.value.hint
    assert never not in caught.value.hint


def test_the_transpose_of_the_hint_makes_items_that_the_model_takes(data):
    shape = np.zeros((24, 12, 9, 3)).transpose(0, 3, 1, 2).shape[1:]
    check_model(network(channels=3), data(*shape), "teacher")


@pytest.mark.parametrize(
    ("outputs", "role", "says", "never"),
    [
        (1, "teacher", "task: regression", "num_classes"),
        (2, "student", "`student.args`, e.g. `num_classes: 3`", "data.classes"),
        (7, "model", "`data.classes: 7`", "model.args"),
    ],
)
def test_another_number_of_classes_is_told_with_both_ways_out(data, outputs, role, says, never):
    with pytest.raises(
        ModelError, match=rf"has {outputs} classes, arrays has 3: labels 0\.\.2"
    ) as e:
        check_model(network(outputs=outputs), data(1, 9, 9), role)
    assert says in e.value.hint
    assert never not in e.value.hint
