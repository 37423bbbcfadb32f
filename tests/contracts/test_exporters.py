"""What every exporter writes: a file that another program runs, with the same answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy import registry
from kdeploy.errors import KdeployError
from kdeploy.export.run import export
from kdeploy.runtimes.files import SUFFIXES
from kdeploy.runtimes.run import formats_of, open_runtime

KINDS = ("exporter",)


@pytest.fixture
def exported(technique, tiny_model, tiny_data, tmp_path):
    """Return the model and what the export of it says; skip where the target cannot be built."""
    runtime = technique.facts["runtime"]
    reason = registry.find("runtime", runtime).load().unavailable()
    if reason is not None:
        pytest.skip(reason)
    model = tiny_model()
    path = tmp_path / f"model{technique.facts['suffix']}"
    return model, export(model, technique.name, {}, tiny_data, path), runtime


def test_says_where_it_starts_and_ends(technique):
    assert set(technique.facts["source"]) <= {"torch", "onnx"}
    assert technique.facts["suffix"] in SUFFIXES
    assert SUFFIXES[technique.facts["suffix"]] in formats_of(technique.facts["runtime"])


def test_says_what_it_wrote(technique, exported):
    _, result, _ = exported
    assert result.path.is_file()
    assert result.size_bytes == sum(f.stat().st_size for f in result.path.parent.iterdir())
    assert 0 <= result.max_abs < 1e-3
    assert result.cosine > 0.9999
    assert result.agreement == 1.0
    assert result.runtime == technique.facts["runtime"]


def test_the_file_answers_as_the_model_at_any_batch_size(technique, exported, tiny_data):
    model, result, runtime = exported
    opened = open_runtime(runtime, result.path, threads=1)
    for count in (1, 3, 32):
        x = tiny_data.preprocessing.apply(tiny_data.validation.x[:count])
        with torch.no_grad():
            expected = model(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(opened.infer(x), expected, rtol=1e-3, atol=1e-4)
    opened.close()


def test_an_unknown_option_is_refused_before_anything_is_written(
    technique, tiny_model, tiny_data, tmp_path
):
    with pytest.raises(KdeployError) as caught:
        export(tiny_model(), technique.name, {"no_such_key": 1}, tiny_data, tmp_path / "out.onnx")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []
