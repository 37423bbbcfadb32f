"""Exits: the file of one network, cut behind its exits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdeploy.distill.exits import ExitAnswers, attach_exits
from kdeploy.dynamic.contract import DynamicContext
from kdeploy.dynamic.kinds.exits import exits
from kdeploy.errors import ModelError, UnknownName
from kdeploy.export.exporters.onnx_from_torch import onnx_from_torch
from kdeploy.runtimes.dynamic_file import DynamicFile, write_dynamic
from kdeploy.runtimes.run import open_runtime

EXAMPLE = torch.randn(2, 5)


@pytest.fixture
def network():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    attach_exits(model, ["1", "3"], EXAMPLE, num_classes=3)
    return model.eval()


@pytest.fixture
def context(network, tmp_path):
    def with_exits(name, layers):
        answers = ExitAnswers(network, layers)
        path = tmp_path / "whole.onnx"
        onnx_from_torch(answers, EXAMPLE, path)
        return path, answers.paths

    return DynamicContext(files={}, with_exits=with_exits)


def test_parts_answer_as_the_network_and_its_exits(context, network, tmp_path):
    path = tmp_path / "made.dynamic"
    parts = exits(context, path)
    assert [part.label for part in parts] == ["1", "3", "student"]
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = ExitAnswers(network)(x)
    sure = [logits.softmax(1).amax(1) for logits in answers]
    limits = [
        float(scores.quantile(share)) for scores, share in zip(sure, (0.7, 0.5), strict=False)
    ]
    asked = [
        type(part)(
            label=part.label,
            sha256=part.sha256,
            takes=part.takes,
            logits=part.logits,
            threshold=limit,
        )
        for part, limit in zip(parts, [*limits, None], strict=True)
    ]
    write_dynamic(DynamicFile(kind="exits", parts=tuple(asked)), path)
    session = open_runtime("onnxruntime_cpu", path, threads=1)
    found = session.infer(x.numpy())["output.0"]
    by = np.full(40, 2)
    by[(sure[1] >= limits[1]).numpy()] = 1
    by[(sure[0] >= limits[0]).numpy()] = 0
    assert len(set(by)) == 3
    np.testing.assert_array_equal(session.is_early, by < 2)
    wanted = torch.stack([answers[part][row] for row, part in enumerate(by)])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_some_of_the_exits_are_enough(context, tmp_path):
    parts = exits(context, tmp_path / "made.dynamic", layers=("3",))
    assert [part.label for part in parts] == ["3", "student"]


def test_a_layer_without_an_exit_is_refused(context, tmp_path):
    with pytest.raises(UnknownName, match="no exit `2`"):
        exits(context, tmp_path / "made.dynamic", layers=("2",))


def test_a_file_has_no_exits(tmp_path):
    with pytest.raises(ModelError, match="is a file"):
        exits(DynamicContext(files={}), tmp_path / "made.dynamic")
