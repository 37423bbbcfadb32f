"""Codes stand for real numbers, and a file that begins otherwise is none of LiteRT."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import FileMissing, ModelError
from kdeploy.runtimes.litert_codes import check_beginning, decoded, encoded

CODED = {"quantization": (0.5, 3), "dtype": np.int8}


def test_codes_are_rounded_to_even_and_kept_in_their_range():
    real = np.array([0.0, 0.25, 0.75, 1e6, -1e6], np.float32)
    codes = encoded(real, CODED)
    assert codes.dtype == np.int8
    assert codes.tolist() == [3, 3, 5, 127, -128]
    np.testing.assert_allclose(decoded(codes, CODED), [0, 0, 1, 62, -65.5])


@pytest.mark.parametrize("scale", [0.5, 0.0])
def test_what_is_no_code_stays_as_it_is(scale):
    kind = np.float32 if scale else np.int8
    array = np.array([1, 2], kind)
    detail = {"quantization": (scale, 0), "dtype": kind}
    assert encoded(array, detail) is decoded(array, detail) is array


def test_what_is_no_file_of_litert_is_refused(tmp_path):
    (tmp_path / "good.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    check_beginning(tmp_path / "good.tflite")
    (tmp_path / "other.tflite").write_bytes(b"\x1c\0\0\0NONE")
    with pytest.raises(ModelError, match="begins otherwise") as caught:
        check_beginning(tmp_path / "other.tflite")
    assert "export it again" in caught.value.hint
    with pytest.raises(FileMissing) as missing:
        check_beginning(tmp_path / "none.tflite")
    assert "kdeploy export litert" in missing.value.hint
