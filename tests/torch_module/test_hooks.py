import pytest
import torch
from torch import nn

from kdeploy.torch_module.hooks import hooked


def test_hooks_are_gone_afterwards_also_after_an_error():
    model, calls = nn.Sequential(nn.Identity(), nn.Linear(2, 1)), []
    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for m in model]
    with pytest.raises(RuntimeError, match="shapes"), hooked(handles):
        model(torch.ones(1, 3))
    model(torch.ones(1, 2))
    assert len(calls) == 1
    assert not any(m._forward_hooks for m in model)
