from __future__ import annotations

import importlib.util

import pytest

from kdeploy.runtimes.tensorrt import Tensorrt


def test_without_a_driver_it_says_so_and_touches_nothing(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert "NVIDIA driver" in (Tensorrt.unavailable() or "")


def test_a_missing_library_names_its_extra(monkeypatch):
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("tensorrt is installed")
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)
    assert "kdeploy[tensorrt]" in (Tensorrt.unavailable() or "")
