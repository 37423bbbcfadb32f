"""Compiled calls give what the model gives, and only where that is asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.training import compilation
from kdeploy.training.compilation import BREAK_EVEN_ITEMS, CompiledCall, shall_compile


@pytest.fixture
def stand_in(monkeypatch):
    """Count what is compiled, without a compiler."""
    compiled = []

    def fake(model, **options):
        def run(x):
            compiled.append((tuple(x.shape), options["options"]))
            return model(x)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    return compiled


def test_is_the_model_until_it_is_compiled(stand_in):
    call = CompiledCall(nn.Linear(3, 2))
    call(torch.rand(4, 3))
    assert stand_in == []
    call.compile()
    call(torch.rand(4, 3))
    assert stand_in == [((4, 3), {})]


def test_a_smaller_last_batch_and_hooked_layers_run_as_they_are(stand_in):
    call = CompiledCall(nn.Linear(3, 2))
    call.compile(is_frozen=True)
    for size, is_hooked in ((4, False), (2, False), (4, True)):
        assert call(torch.rand(size, 3), is_hooked=is_hooked).shape == (size, 2)
    assert stand_in == [((4, 3), {"freezing": True})]


@pytest.mark.parametrize(
    ("asked", "items", "expected"),
    [
        ("on", 1, True),
        ("off", 10 * BREAK_EVEN_ITEMS, False),
        ("auto", BREAK_EVEN_ITEMS - 1, False),
        ("auto", BREAK_EVEN_ITEMS, True),
    ],
)
def test_short_trainings_are_not_compiled(asked, items, expected, monkeypatch):
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert shall_compile(asked, items=items) is expected


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert shall_compile("on", items=1) is False
    assert "no C++ compiler" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_compiled_for_real_gives_the_same_numbers():
    if not any(map(compilation.shutil.which, compilation.COMPILERS)):
        pytest.skip("this machine has no C++ compiler")
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x, call = torch.rand(8, 6), CompiledCall(model)
    with torch.inference_mode():
        expected = call(x)
        call.compile(is_frozen=True)
        assert torch.allclose(call(x), expected, atol=1e-5)
