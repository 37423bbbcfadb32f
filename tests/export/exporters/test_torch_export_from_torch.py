from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch

from kdeploy.errors import ModelError
from kdeploy.export.exporters.torch_export_from_torch import torch_export_from_torch
from kdeploy.export.run import export
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import open_runtime


def test_holds_no_pickle_and_runs_at_any_batch_size(network, tmp_path):
    model, items = network("shuffling")
    result = export(model, "torch_export", {}, items, tmp_path / "m.pt2")
    with zipfile.ZipFile(result.path) as archive:
        contents = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert contents["data/sample_inputs/model.pt"] == b""
    # What pickles of protocol 2 and later begin with.
    assert not [n for n, c in contents.items() if c.startswith(b"\x80") or c.startswith(b"PK")]
    opened = open_runtime("torch_export", result.path, threads=1)
    x = items.validation.x[:7]
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(first(opened.infer(x)), expected, rtol=1e-4, atol=1e-5)
    opened.close()


def test_a_quantized_model_is_refused(int8, tmp_path):
    model, items = int8("squeezing")
    example = torch.from_numpy(items.validation.x[:2])
    with pytest.raises(ModelError, match="takes a float model") as caught:
        torch_export_from_torch(model, example, tmp_path / "m.pt2")
    assert "`openvino`" in caught.value.hint
