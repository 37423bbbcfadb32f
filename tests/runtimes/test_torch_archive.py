from __future__ import annotations

import io
import json
import zipfile

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.export.exporters.torch_export_from_torch import torch_export_from_torch
from kdeploy.runtimes.torch_archive import check_archive, inputs_of


class Harmful:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def config(*, use_pickle):
    return json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": use_pickle}}})


@pytest.fixture
def archive(tmp_path):
    """Return a function that writes an archive with some members of its own."""

    def write(**members):
        path = tmp_path / "m.pt2"
        plain = {
            "archive_format": "pt2",
            "models/model.json": "{}",
            "data/weights/weight_0": bytes(16),
            "data/weights/model_weights_config.json": config(use_pickle=False),
            "data/sample_inputs/model.pt": b"",
            ".data/version": "1",
        }
        with zipfile.ZipFile(path, "w") as file:
            for name, content in {**plain, **members}.items():
                file.writestr(f"m/{name}", content)
        return path

    return write


def test_an_archive_of_tensors_is_opened(archive):
    check_archive(archive())
    check_archive(archive(**{"data/sample_inputs/model.pt": pickled(((torch.ones(2),), {}))}))


@pytest.mark.parametrize(
    "member",
    ["data/constants/custom_obj_0", "data/constants/model.pt", "data/aotinductor/model/a.so"],
)
def test_a_member_that_would_run_is_named(archive, member):
    with pytest.raises(ModelError, match=member) as caught:
        check_archive(archive(**{member: b"anything"}))
    assert "torch_export" in caught.value.hint


def test_weights_as_pickles_are_refused(archive):
    with pytest.raises(ModelError, match=r"model_weights_config\.json"):
        check_archive(
            archive(**{"data/weights/model_weights_config.json": config(use_pickle=True)})
        )


def test_example_inputs_that_are_no_tensors_are_refused_and_do_not_run(archive, tmp_path):
    harm = tmp_path / "harm"
    with pytest.raises(ModelError, match="sample_inputs"):
        check_archive(archive(**{"data/sample_inputs/model.pt": pickled(Harmful(harm))}))
    assert not harm.exists()


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_what_is_no_archive_is_one_error(tmp_path, content):
    path = tmp_path / "m.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"no archive of torch\.export"):
        check_archive(path)


def test_an_archive_says_what_it_takes_without_being_loaded(tmp_path):
    path = tmp_path / "own.pt2"
    torch_export_from_torch(nn.Linear(6, 2).eval(), torch.zeros(2, 6), path)
    (told,) = inputs_of(path)
    assert (told.shape[1:], told.dtype) == ((6,), "float32")
    assert isinstance(told.shape[0], str)


@pytest.mark.parametrize("content", [b"", b"PK"])
def test_a_broken_archive_is_one_error(tmp_path, content):
    (tmp_path / "m.pt2").write_bytes(content)
    with pytest.raises(ModelError, match="does not say what it takes"):
        inputs_of(tmp_path / "m.pt2")
