"""Modules of this process: found again as they were, and refused in any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.errors import ModelError
from kdeploy.store import live_models
from kdeploy.store.references import ModelReference, build_model, source_sha256


class Scaled(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.factor = factor

    def forward(self, x):
        return self.factor * self.linear(x)


def test_a_copy_comes_back_as_the_module_was():
    module = Scaled()
    build = live_models.keep(module)
    expected = module(torch.ones(1, 3))
    with torch.no_grad():
        module.linear.weight.zero_()
    assert torch.equal(build_model(ModelReference(build=build))(torch.ones(1, 3)), expected)


def test_equal_modules_have_one_name_and_others_another():
    module = Scaled()
    build = live_models.keep(module)
    assert live_models.keep(module) == build
    module.factor = 3.0
    other = live_models.keep(module)
    assert other != build
    digests = {source_sha256(ModelReference(build=name)) for name in (build, other)}
    assert len(digests) == 2


def test_another_process_is_told_what_to_do():
    with pytest.raises(ModelError, match="only that session knows its code") as caught:
        build_model(ModelReference(build="live:Net-0123456789ab"))
    assert "build.py:function" in caught.value.hint


def test_what_cannot_be_copied_is_told():
    module = Scaled()
    module.cached = module.linear.weight * 2
    with pytest.raises(ModelError, match="cannot be copied") as caught:
        live_models.keep(module)
    assert "detach" in caught.value.hint
