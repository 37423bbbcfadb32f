import json

import pytest

from kdeploy.store.model_io import load_model


def test_a_function_that_loads_its_weights_needs_no_file(kdeploy, tmp_path):
    (tmp_path / "build.py").write_text(
        "import torch\n"
        "def net():\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))\n"
        "    model(torch.zeros(1, 1, 16, 16))\n"
        "    torch.nn.init.constant_(model[1].weight, 0.25)\n"
        "    return model\n"
    )
    answer = kdeploy(
        "compress", "unstructured", f"{tmp_path}/build.py:net", "--as-built", "--data", "digits",
        "--no-spare", "--sparsity", 0.5, "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    manifest = json.loads(answer.out)
    weight = load_model(tmp_path / "out" / "artifacts" / manifest["id"])[1].weight
    assert set(weight.unique().tolist()) == {0.0, 0.25}
    assert manifest["facts"]["sparsity"] == pytest.approx(0.5)
    assert manifest["facts"]["size"] == 4 * (2560 + 10)
