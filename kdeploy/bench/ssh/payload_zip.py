"""What is copied to a device besides the files: a zip of the sources that measure there."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import kdeploy

PACKAGE = Path(kdeploy.__file__).parent
# All that the modules of `device` import: what times, counts and prepares, here and there alike.
SHARED = (
    "__init__.py",
    "classes.py",
    "errors.py",
    "flags.py",
    "machine.py",
    "named_arrays.py",
    "preprocessing.py",
    "bench/__init__.py",
    "bench/batches.py",
    "bench/client.py",
    "bench/energy.py",
    "bench/measure.py",
    "bench/memory.py",
    "bench/nvml.py",
    "bench/ssh/__init__.py",
    "compress/__init__.py",
    "distill/__init__.py",
    "export/__init__.py",
    "package/__init__.py",
    "report/__init__.py",
    "runtimes/__init__.py",
    "runtimes/onnx_options.py",
    "system/__init__.py",
    "system/machine_turns.py",
    "system/process_end.py",
)
# The runtimes beside ONNX Runtime, as they run here; a device needs Python 3.10 for them.
RUNTIMES = (
    "onnx_graph/__init__.py",
    "onnx_graph/checks.py",
    "onnx_graph/fields.py",
    "onnx_graph/sparse_weights.py",
    "onnx_graph/wire.py",
    "quantization/__init__.py",
    "quantization/suppress_warnings.py",
    "registration.py",
    "runtimes/contract.py",
    "runtimes/executorch.py",
    "runtimes/litert.py",
    "runtimes/litert_codes.py",
    "runtimes/openvino.py",
    "runtimes/openvino_state.py",
    "runtimes/pte_ends.py",
    "system/temporary.py",
    "tensor_info.py",
    "untrusted/__init__.py",
    "untrusted/git_pointer.py",
)
DEVICE = PACKAGE / "bench" / "ssh" / "device"
MAIN = "from kdeploy.bench.ssh.device.commands import main\n\nmain()\n"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@cache
def runner() -> bytes:
    """Return the zip; the same sources give the same bytes."""
    sources = [PACKAGE / name for name in (*SHARED, *RUNTIMES)] + sorted(DEVICE.glob("*.py"))
    texts = {f"kdeploy/{s.relative_to(PACKAGE).as_posix()}": s.read_text() for s in sources}
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**texts, "__main__.py": MAIN}.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), text, zipfile.ZIP_DEFLATED)
    return whole.getvalue()


def boot() -> bytes:
    """Return the source that receives the zip."""
    return (DEVICE / "boot.py").read_bytes()
