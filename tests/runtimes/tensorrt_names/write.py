"""Write down which names TensorRT's real Python bindings have, without TensorRT.

    python tests/runtimes/tensorrt_names/write.py            # write <module>-<version>.json anew
    python tests/runtimes/tensorrt_names/write.py --check    # fail where they differ

The bindings are on PyPI as wheels of their own, the libraries under them are not. Importing needs
the libraries' names and their few functions, which are never called, so empty ones are compiled.
Needs pip with a network, a C compiler, and a Linux of x86-64.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
MODULES = ("tensorrt", "tensorrt_dispatch", "tensorrt_lean")
VERSIONS = ("10.16.1.11", "11.4.0.106")
# Of TensorRT's C++ libraries; the other undefined symbols are the C++ library's and Python's.
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "getNvOnnxParserVersion"),
    "initLibNvInferPlugins",
)
LIBRARIES = {
    "tensorrt": ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"),
    "tensorrt_dispatch": ("libnvinfer_dispatch",),
    "tensorrt_lean": ("libnvinfer_lean",),
}
# Runs in a process of its own: constructs nothing.
LIST = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
public = sorted(n for n in dir(module) if not n.startswith("_"))
kinds = {n: getattr(module, n) for n in public if isinstance(getattr(module, n), type)}
members = lambda kind: sorted(n for n in dir(kind) if not n.startswith("_"))
own = {n: k for n, k in kinds.items() if k.__module__.startswith("tensorrt")}
inner = {f"{n}.{i}": getattr(k, i) for n, k in own.items() for i in members(k)
         if isinstance(getattr(k, i), type)}
known = {**own, **inner}
print(json.dumps({"module": public, "classes": {n: members(k) for n, k in sorted(known.items())}}))
"""


def main() -> None:
    """Write or check the names of every module and version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    stale = []
    for version in VERSIONS:
        for module in MODULES:
            path = file_of(module, version)
            text = json.dumps(names(module, version), indent=0) + "\n"
            if not check:
                path.write_text(text)
            elif path.read_text() != text:
                stale.append(path.name)
            print(f"{module} {version}: {'read' if check else 'written'}")  # noqa: T201
    if stale:
        sys.exit(f"not what the bindings have: {', '.join(stale)}\nhint: run {__file__}")


def file_of(module: str, version: str) -> Path:
    """Return where the names of a module are."""
    return HERE / f"{module}-{'.'.join(version.split('.')[:2])}.json"


def names(module: str, version: str) -> dict:
    """Return the names of the module as its wheel has them."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        download(module, version, folder)
        compile_stubs(module, version.split(".")[0], folder / "stubs")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "stubs"), "PYTHONPATH": work}
        command = [sys.executable, "-c", LIST, f"{module}_bindings"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{module} {version} cannot be imported:\n{done.stderr}")
    return {"version": version, **json.loads(done.stdout)}


def download(module: str, version: str, folder: Path) -> None:
    """Unpack the wheel of the bindings into `folder`."""
    package = f"{module.replace('_', '-')}-cu13-bindings=={version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--dest", str(folder), package], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def compile_stubs(module: str, major: str, folder: Path) -> None:
    """Compile libraries of the right names, whose functions do nothing."""
    folder.mkdir()
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES[module]:
        name = f"{library}.so.{major}"
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([os.environ.get("CC", "cc"), *flags, str(source)], check=True)


if __name__ == "__main__":
    main()
