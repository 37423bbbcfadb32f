from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from kdeploy.data.idx import read_idx
from kdeploy.errors import DataError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 3, 4) + VALUES.tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["images-idx3-ubyte", "images-idx3-ubyte.gz"])
def test_reads_shape_and_values(tmp_path, name):
    result = read_idx(write(tmp_path / name, CONTENT), axes=3)
    np.testing.assert_array_equal(result, VALUES)
    assert result.flags.writeable


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (CONTENT[:9], "not an IDX file"),
        (b"\x89PNG" + CONTENT[4:], "begins with 89 50 4e 47"),
        (bytes([0, 0, 13, 3]) + CONTENT[4:], "not an IDX file of bytes"),
        (bytes([0, 0, 8, 1]) + CONTENT[4:], "with 3 axes: it begins with 00 00 08 01"),
        (CONTENT[:-1], "should hold 24 values .* found 23"),
        (CONTENT + b"\0", "should hold 24 values .* found 25"),
    ],
)
def test_refuses_what_is_not_such_a_file(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, axes=3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 9, 12, 25, -9, -1])
def test_refuses_a_truncated_gzip_file(tmp_path, kept):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(CONTENT)[:kept])
    with pytest.raises(DataError, match=r"images\.gz"):
        read_idx(path, axes=3)


@pytest.mark.parametrize("position", range(0, 60, 3))
def test_refuses_or_survives_a_changed_byte(tmp_path, position):
    stored = bytearray(gzip.compress(CONTENT, mtime=0))
    stored[position % len(stored)] ^= 0xFF
    path = tmp_path / "images.gz"
    path.write_bytes(bytes(stored))
    try:
        outcome = read_idx(path, axes=3)
    except DataError as error:
        outcome = str(error)
    # A byte of gzip's header may say nothing about the contents; then they are as they were.
    assert "images.gz" in outcome if isinstance(outcome, str) else np.array_equal(outcome, VALUES)
