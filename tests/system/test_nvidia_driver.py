from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdeploy.system import nvidia_driver


def missing(name):
    raise OSError(name)


def answering(version, *, status=0):
    def ask(pointer):
        pointer._obj.value = version
        return status

    return lambda name: SimpleNamespace(cuDriverGetVersion=ask)


def test_a_missing_driver_is_named_with_its_library(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", missing)
    assert "libcuda.so.1" in nvidia_driver.without_driver()
    assert nvidia_driver.without_gpu() == nvidia_driver.without_driver()
    assert nvidia_driver.cuda_major() is None


def test_a_torch_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no GPU" in nvidia_driver.without_gpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert nvidia_driver.without_gpu() is None


@pytest.mark.parametrize(
    ("driver", "major"),
    [(answering(13020), 13), (answering(12090), 12), (answering(0, status=999), None)],
)
def test_the_driver_says_which_cuda_it_runs(monkeypatch, driver, major):
    monkeypatch.setattr("ctypes.CDLL", driver)
    assert nvidia_driver.cuda_major() == major
