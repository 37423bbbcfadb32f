"""What every exporter writes: a file that another program runs, with the same answers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy import registry
from kdeploy.errors import KdeployError
from kdeploy.export.run import export
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.files import suffixes
from kdeploy.runtimes.run import formats_of, open_runtime

KINDS = ("exporter",)


def network(tiny_model):
    """Return a network that every exporter takes: with something that can be fused in it."""
    torch.manual_seed(0)
    more = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    return nn.Sequential(tiny_model(), more).eval()


def tolerance(technique):
    """Return what an output may be off by, relatively: float16 has eleven bits."""
    return 1e-2 if technique.facts.get("rounds_to_half") is True else 1e-3


@pytest.fixture(scope="module")
def written(tiny_model, tiny_data, tmp_path_factory):
    """Return a function that writes the network by an exporter, once; see `exported`."""

    @cache
    def write(name, suffix):
        model = network(tiny_model)
        path = tmp_path_factory.mktemp(name) / f"model{suffix}"
        return model, export(model, name, {}, tiny_data, path)

    return write


@pytest.fixture
def exported(technique, written):
    """Return the model and what the export of it says; skip where the target cannot be built."""
    if "of" in technique.facts:
        pytest.skip(f"takes a {technique.facts['of']} alone: tests/export/exporters has some")
    reason = registry.find("runtime", technique.facts["runtime"]).load().unavailable()
    if reason is not None:
        pytest.skip(reason)
    return written(technique.name, technique.facts["suffix"])


def test_says_where_it_starts_and_ends(technique):
    assert set(technique.facts["source"]) <= {"torch", "onnx"}
    assert technique.facts["suffix"] in suffixes()
    assert suffixes()[technique.facts["suffix"]] in formats_of(technique.facts["runtime"])


def test_says_what_it_wrote(technique, exported):
    _, result = exported
    assert result.path.is_file()
    assert result.size_bytes == sum(f.stat().st_size for f in result.path.parent.iterdir())
    assert 0 <= result.max_abs < tolerance(technique)
    assert result.cosine > 0.9999
    assert result.agreement == 1.0
    assert result.runtime == technique.facts["runtime"]


def test_the_file_answers_as_the_model_at_any_batch_size(technique, exported, tiny_data):
    model, result = exported
    opened = open_runtime(result.runtime, result.path, threads=1)
    for count in (1, 3, 32):
        x = tiny_data.preprocessing.apply(tiny_data.validation.x[:count])
        with torch.no_grad():
            expected = model(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(
            first(opened.infer(x)), expected, rtol=tolerance(technique), atol=tolerance(technique)
        )
    opened.close()


def test_an_unknown_option_is_refused_before_anything_is_written(
    technique, tiny_model, tiny_data, tmp_path
):
    with pytest.raises(KdeployError) as caught:
        export(tiny_model(), technique.name, {"no_such_key": 1}, tiny_data, tmp_path / "out.onnx")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []
