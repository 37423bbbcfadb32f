from __future__ import annotations

import pytest

from kdeploy.runtimes.state import beginning, carried
from kdeploy.tensor_info import TensorInfo


def tensor(name, *shape, dtype="float32"):
    return TensorInfo(name=name, shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "after"),
    [("state", "stateN"), ("h", "hn"), ("c", "c_out"), ("cache", "new_cache"), ("h", "next_h")],
)
def test_an_output_named_after_an_input_is_its_next_value(name, after):
    inputs = [tensor("x", "batch", 4), tensor(name, 2, "batch", 8)]
    assert carried(inputs, [tensor("y", "batch"), tensor(after, 2, "batch", 8)]) == {name: after}


@pytest.mark.parametrize(
    "output", [tensor("other", 2, 8), tensor("hn", 2, 9), tensor("hn", 2, 8, dtype="int64")]
)
def test_another_name_size_or_type_is_none(output):
    assert carried([tensor("x", 1, 4), tensor("h", 2, 8)], [output]) == {}


def test_a_file_of_states_alone_has_none():
    assert carried([tensor("x", 1, 4)], [tensor("x_out", 1, 4)]) == {}


def test_a_stream_begins_with_zeros():
    (state,) = beginning([tensor("h", 2, "batch", 8)], {"h": "hn"}).values()
    assert (state.shape, state.any()) == ((2, 1, 8), False)
