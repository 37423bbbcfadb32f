"""Pointers in the place of files, in the words of git-lfs and git-annex."""

import pytest

from kdeploy.data.array_files import members_of
from kdeploy.errors import DataError, ModelError
from kdeploy.onnx_graph.checks import read_onnx
from kdeploy.pipeline.weight_files import read_weights
from kdeploy.untrusted.git_pointer import refuse_pointer

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 1234\n"
ANNEX = "/annex/objects/SHA256E-s1234--" + 64 * "0" + ".npz\n"


@pytest.mark.parametrize(("text", "command"), [(LFS, "git lfs pull"), (ANNEX, "git annex get")])
@pytest.mark.parametrize(
    ("read", "name", "error"),
    [
        (read_weights, "net.safetensors", ModelError),
        (read_weights, "net.pt", ModelError),
        (read_onnx, "net.onnx", ModelError),
        (members_of, "train.npz", DataError),
    ],
)
def test_a_file_that_was_not_fetched_has_the_command_that_does(
    read, name, error, text, command, tmp_path
):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match="is not the file itself") as caught:
        read(tmp_path / name)
    assert command in caught.value.hint
    assert name in caught.value.hint


def test_other_files_pass(tmp_path):
    for content in (b"", b"PK\x03\x04", LFS.encode() + bytes(5000)):
        (tmp_path / "file").write_bytes(content)
        refuse_pointer(tmp_path / "file", ModelError)
    refuse_pointer(tmp_path / "none", ModelError)
