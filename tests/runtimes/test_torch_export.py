from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.export.exporters.torch_export_from_torch import torch_export_from_torch
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.torch_export import TorchExport


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def file(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "m.pt2"
    torch_export_from_torch(tiny_model(), torch.zeros(2, 1, 12, 12), path)
    return path


def opened(path):
    runtime = TorchExport(threads=1)
    runtime.open(path)
    return runtime


def test_proves_which_operators_it_calls(file):
    proof = opened(file).proof_of_use()
    assert proof.operators["aten.conv2d"] == 7
    assert proof.eligible == 8
    assert proof.settings == {"threads": 1}


def test_a_wrong_shape_is_named(file):
    with pytest.raises(ModelError, match=r"\[1, 5, 12, 12\]"):
        first(opened(file).infer(np.zeros((1, 5, 12, 12), np.float32)))


def test_an_archive_that_was_cut_off_is_one_error(file, tmp_path):
    path = tmp_path / "cut.pt2"
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(path, "w") as cut:
        for name in whole.namelist():
            if not name.endswith("weight_3"):
                cut.writestr(name, whole.read(name))
    with pytest.raises(ModelError, match="cannot load") as caught:
        opened(path)
    assert "with this version of torch" in caught.value.hint
