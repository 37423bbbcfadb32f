"""Files of a stranger: refused by their size and kind, before they are opened or parsed."""

from __future__ import annotations

import io
import os
import tracemalloc

import numpy as np
import pytest

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.checksums import write_sums
from kdeploy.package.runner.python import reading
from kdeploy.package.verify import verify

MOST = 20 * 2**20  # bytes of Python's own that a refusal may take


@pytest.fixture
def small():
    """Fail the test when more than 20 MiB are taken on the way."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST, peak


def refused_by_both(bundle, runner, capsys, named):
    with pytest.raises(ArtifactCorrupt, match=named):
        verify(bundle)
    assert runner.main(["--self-test", "--bundle", str(bundle)]) == 1
    assert named in capsys.readouterr().out


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["SHA256SUMS", "manifest.json", "README.md", "LICENSES/data.txt"])
def test_a_text_of_a_gigabyte_is_refused_unread(bundle, runner, capsys, name):
    with (bundle / name).open("r+b") as file:
        file.truncate(2**30)  # takes no space on the disk
    refused_by_both(bundle, runner, capsys, f"{name} has {2**30} bytes, more than {2**20}")


@pytest.mark.usefixtures("small")
def test_a_file_of_newlines_is_refused_by_their_number(bundle, runner, capsys):
    (bundle / "SHA256SUMS").write_bytes(b"\n" * 2**20)
    refused_by_both(bundle, runner, capsys, "SHA256SUMS has more than 1000 lines")


@pytest.mark.usefixtures("small")
def test_a_model_beyond_two_gibibytes_is_refused_unread(bundle, runner, capsys):
    with (bundle / "model.onnx").open("r+b") as file:
        file.truncate(2**40)
    refused_by_both(bundle, runner, capsys, "more than 2147483648")


@pytest.mark.parametrize("name", ["SHA256SUMS", "manifest.json", "model.onnx", "new"])
def test_a_pipe_is_never_opened(bundle, runner, capsys, name):
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)
    refused_by_both(bundle, runner, capsys, f"{name} is a link or a device")


def test_a_link_out_of_the_bundle_is_never_opened(bundle, runner, capsys):
    (bundle / "SHA256SUMS").unlink()
    (bundle / "SHA256SUMS").symlink_to("/dev/zero")
    refused_by_both(bundle, runner, capsys, "SHA256SUMS is a link or a device")


def test_a_thousand_folders_are_refused_on_the_way(bundle, runner, capsys):
    for number in range(reading.MOST_FILES + 2):
        (bundle / f"d{number}").mkdir()
    refused_by_both(bundle, runner, capsys, "more files or folders than a bundle")


def header(shape, descr="<f4"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_the_header_of_an_array_is_what_numpy_reads():
    for array in (np.zeros((3, 4), np.float32), np.zeros(7, np.int64), np.ones((1, 2, 3), "u1")):
        file = io.BytesIO()
        np.save(file, array)
        start, shape, size = reading.npy_header(file.getvalue()[:10_000])
        assert (shape, size) == (array.shape, array.nbytes)
        assert start + size == len(file.getvalue())


@pytest.mark.parametrize(
    "head",
    [
        header((2**41, 2)),
        header((-1, 2)),
        header((1.5,)),
        header("(2, 3)"),
        header((2, 3), "|O"),
        header((2, 3), "<c8"),
        header((2, 3), [("a", "<f4")]),
        header((1,) * 40),
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x03\x00\xff\xff\xff\xff{",
        b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000,
        b"PK\x03\x04" * 10,
    ],
)
def test_a_header_that_no_array_has_is_one_error(head):
    with pytest.raises(ValueError, match=r"header|shape|holds|begin"):
        reading.npy_header(head)


def test_golden_arrays_of_a_tebibyte_are_refused_before_memory_is_taken(bundle, runner, capsys):
    import zipfile

    with zipfile.ZipFile(bundle / "golden/inputs.npz", "w") as archive:
        archive.writestr("inputs.npy", header((2**20, 2**20)) + b"abcd")
    write_sums(bundle)
    refused_by_both(bundle, runner, capsys, "does not fit its")


def test_an_input_that_declares_a_tebibyte_is_one_message(pristine, run_runner, tmp_path):
    (tmp_path / "huge.npy").write_bytes(header((2**30, 1, 8, 8)) + b"abcd")
    done = run_runner(pristine, tmp_path / "huge.npy")
    assert done.returncode == 2
    assert "its header asks for" in done.stderr
    assert "Traceback" not in done.stderr


def test_operators_are_found_without_reading_weights(tiny):
    found = list(reading.operators(tiny.path))
    assert found == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


@pytest.mark.parametrize("content", [b"", b"\x0a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 40])
def test_what_is_no_graph_has_no_operators_or_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    try:
        assert list(reading.operators(tmp_path / "m.onnx")) == []
    except reading.Refused as error:
        assert "ONNX" in str(error)  # noqa: PT017 - either is right


def test_a_graph_of_millions_of_empty_nodes_is_refused_in_seconds(tmp_path):
    nodes = b"\x0a\x00" * 1_100_000
    length = b"".join(
        bytes([(len(nodes) >> 7 * n & 127) | (128 if n < 3 else 0)]) for n in range(4)
    )
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + length + nodes)
    with pytest.raises(reading.Refused, match="more than 1000000 fields"):
        list(reading.operators(tmp_path / "m.onnx"))
