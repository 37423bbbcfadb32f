"""What a runner says of its answers to the recorded items."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdeploy.package.runner.python import golden


@pytest.mark.parametrize("broken", ["first", "second"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("is_by_rms", [False, True])
def test_no_output_hides_that_another_is_no_number(tmp_path, broken, value, is_by_rms):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(3, 4)) for name in ("first", "second")}
    told = [{"atol": 0.1, "output_std": x.std()} for x in arrays.values()]
    if is_by_rms:
        told[0]["rms_atol"] = 0.1
    (tmp_path / "golden").mkdir()
    np.savez(tmp_path / "golden/outputs.npz", *arrays.values())
    (tmp_path / "golden/tolerance.json").write_text(json.dumps({**told[0], "further": told[1:]}))
    ports = [{"name": name, "values": "", "shape": ["batch", 4]} for name in arrays]
    answers = [{name: x[[row]] for name, x in arrays.items()} for row in range(3)]

    def fails():
        checks = golden.checks(tmp_path, {"outputs": ports, "task": {}}, answers)
        return [check for check, passed, *_ in checks if not passed]

    assert not fails()
    answers[1][broken] = np.full((1, 4), value)
    assert len(fails()) == 1


def test_outputs_that_hardly_vary_follow_from_themselves(tmp_path):
    outputs = np.float32(-4.6) + np.zeros((3, 40_000), np.float32)
    outputs[:, ::2] += np.float32(5e-7)
    (tmp_path / "golden").mkdir()
    np.savez(tmp_path / "golden/outputs.npz", outputs=outputs)
    told = {"atol": 4.6e-6, "output_std": float(outputs.astype(np.float64).std())}
    (tmp_path / "golden/tolerance.json").write_text(json.dumps(told))
    manifest = {"outputs": [{"name": "a", "values": "", "shape": ["batch", 40_000]}], "task": {}}
    [[check, passed, *_]] = golden.checks(tmp_path, manifest, [{"a": row[None]} for row in outputs])
    assert (check, passed) == ("golden.max_abs", True)
