"""`import kdeploy`: what it names, what it costs, and that packages stay packages."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import kdeploy

NAMED = {
    "run", "distill", "compress", "export", "bench", "report", "package", "verify", "load",
    "Data", "Objective", "KdeployError",
}  # fmt: skip


def test_it_names_what_is_promised():
    assert set(kdeploy.__all__) == NAMED | {"__version__"}
    assert set(kdeploy.__all__) <= set(dir(kdeploy))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_each_name_can_be_called_and_says_what_it_does(name):
    found = getattr(kdeploy, name)
    assert callable(found)
    assert inspect.signature(found).parameters or name == "KdeployError"
    assert found.__doc__


@pytest.mark.parametrize("name", ["bench", "compress", "distill", "export", "package", "report"])
def test_a_function_is_also_the_package_of_its_name(name):
    assert getattr(kdeploy, name) is importlib.import_module(f"kdeploy.{name}")


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute `distil`"):
        kdeploy.distil  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    heavy = ("torch", "numpy", "pydantic", "yaml", "typer", "rich")
    code = f"import sys, kdeploy; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
