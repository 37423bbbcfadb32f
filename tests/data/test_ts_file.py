from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.ts_file import read_ts
from kdeploy.errors import DataError

HEADER = "# of two channels\n@problemName Walks\n@classLabel true slow fast\n\n@data\n"


def read(text):
    return read_ts(text.splitlines(), where="Walks_TRAIN.ts")


def test_reads_channels_values_and_classes():
    found = read(HEADER + "1,2.5,-3:4,5,6:fast\n7,8,9:1e1,11,12: slow \n")
    expected = [[[1, 2.5, -3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]
    np.testing.assert_array_equal(found.x, np.array(expected, np.float32))
    assert found.x.dtype == np.float32
    assert found.labels == ("fast", "slow")
    assert found.classes == ("slow", "fast")


def test_comments_stand_anywhere_and_keys_in_any_case():
    found = read("@ClassLabel TRUE a b\n%% note\n@DATA\n% another\n1,2:a\n\n3,4:b\n")
    assert found.x.shape == (2, 1, 2)


def test_a_missing_value_is_not_a_number():
    assert np.isnan(read(HEADER + "1,?,3:slow").x[0, 0, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,2:slow\n1,2,3:fast", "have 2 to 3 values"),
        (HEADER + "1,2:slow\n1,2:3,4:fast", "series of 1 to 2 channels"),
        (HEADER + "1,two:slow", "could not convert string to float"),
        (HEADER + "1,2:middling", "does not list the class middling"),
        (HEADER, "no series"),
        ("@targetlabel true\n@data\n1,2:0.5", "no `@classLabel true"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_the_file(text, message):
    with pytest.raises(DataError, match=message) as caught:
        read(text)
    assert "Walks_TRAIN.ts" in caught.value.message
    assert caught.value.hint
