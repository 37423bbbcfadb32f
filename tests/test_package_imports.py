"""What an import costs: torch and TensorRT are loaded by what computes, and by nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kdeploy

HEAVY = {"torch", "tensorrt", "onnxruntime", "openvino", "kornia", "lightning_fabric", "sklearn"}
LIGHT = {
    *["errors", "units", "flags", "registry", "measurement", "gate", "machine", "recipe"],
    *["data", "metrics", "report", "package", "runtimes", "bench.worker", "cli"],
}
"""Modules, and packages with all that is in them, that a device without torch can import."""
ROOT = Path(kdeploy.__file__).parent


def heavy_after(code):
    """Return which heavy libraries a fresh interpreter has loaded after running `code`."""
    ending = f"\nimport json, sys; print(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    done = subprocess.run(
        [sys.executable, "-c", code + ending],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def light_modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        inside = path.relative_to(ROOT).parts
        if "runner" not in inside and any(name == m or name.startswith(f"{m}.") for m in LIGHT):
            yield f"kdeploy.{name}"


def test_importing_kdeploy_loads_nothing_heavy():
    assert heavy_after("import kdeploy") == []


def test_light_modules_load_nothing_heavy():
    modules = list(light_modules())
    assert len(modules) > len(LIGHT)
    loaded = heavy_after("\n".join(f"import {m}" for m in modules))
    culprits = {m: heavy_after(f"import {m}") for m in modules} if loaded else {}
    assert loaded == [], {m: found for m, found in culprits.items() if found}


def test_listing_all_techniques_loads_nothing_heavy():
    code = "from kdeploy.registry import FOLDERS, techniques\nfor k in FOLDERS: techniques(k)"
    assert heavy_after(code) == []


COMMANDS = ["", "run", "distill", "compress", "export", "bench", "report", "package", "verify"]


@pytest.mark.parametrize("command", [*COMMANDS, "list", "show", "doctor", "init"])
def test_help_loads_nothing_heavy(command):
    arguments = ["kdeploy", *command.split(), "--help"]
    code = f"import sys; sys.argv = {arguments}\nfrom kdeploy.cli import main\n"
    assert heavy_after(f"{code}try: main()\nexcept SystemExit as end: assert not end.code") == []


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert kdeploy.__version__ == version("kdeploy")


def test_types_are_shipped():
    assert (ROOT / "py.typed").is_file()
