"""The C++ runner, built once for all tests, with the sanitizers that find wrong memory."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import filelock

from kdeploy.package.kinds import native_files

NEEDED = ("cmake", "make", "g++")
SANITIZED = ("-DSANITIZE=ON", "-DCMAKE_BUILD_TYPE=None")
# What ONNX Runtime keeps until the end is no leak; a pointer that a hostile file moved is found.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}


def missing() -> str:
    """Return what hinders a build here; "" if nothing does."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    return f"apt-get install {' '.join(absent)} libpng-dev libjpeg-dev" if absent else ""


def program(options: tuple[str, ...] = SANITIZED) -> Path:
    """Return the program of the present sources, built now or before."""
    files = native_files("cpp")
    text = repr((sorted(files.items()), options)).encode()
    folder = Path(tempfile.gettempdir()) / f"kdeploy-cpp-{hashlib.sha256(text).hexdigest()[:16]}"
    with filelock.FileLock(f"{folder}.lock"):
        built = folder / "build" / "bundle_runner"
        if not built.is_file():
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            library = f"-DONNXRUNTIME={_library()}"
            _run("cmake", "-S", folder / "runner/cpp", "-B", folder / "build", library, *options)
            _run("cmake", "--build", folder / "build")
    return built


def _library() -> Path:
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return next((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))


def _run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
