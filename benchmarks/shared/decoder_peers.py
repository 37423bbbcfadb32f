"""Other people's INT4 files of a language model, for kdeploy's own runtimes.

ONNX Runtime GenAI's builder, OpenVINO's weight compression (NNCF) and llama.cpp. The last two need
`pip install --no-deps nncf networkx pydot tabulate`, and `pip install llama-cpp-python`, which
takes minutes to build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from kdeploy.export.genai_builder import ALONE
from kdeploy.runtimes.onnxruntime_genai import CONFIG

LLAMA_FORMATS = {"Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "Q4_K_M": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}


def make_genai(source: Path, path: Path) -> None:
    """Write the builder's own INT4: round to nearest, block 32, symmetric.

    Args:
        source: A Hugging Face folder.
        path: The genai_config.json to be made.
    """
    partial = path.parent.with_name(f"{path.parent.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source)]
    ends = ["-o", str(partial), "-c", str(partial / "cache"), "-p", "int4", "-e", "cpu"]
    subprocess.run([*builder, *ends], env={**os.environ, **ALONE}, check=True, capture_output=True)
    shutil.rmtree(partial / "cache", ignore_errors=True)
    partial.replace(path.parent)
    assert path.name == CONFIG, "another name than the library's"


def make_nncf(model: Path, path: Path, *, group_size: int) -> None:
    """Write NNCF's INT4: symmetric, both ends INT8, as it does by default.

    Args:
        model: A float decoder of OpenVINO.
        path: The .xml to be made.
        group_size: Inputs that share a scale.
    """
    import nncf
    import openvino

    graph = openvino.Core().read_model(model)
    mode = nncf.CompressWeightsMode.INT4_SYM
    small = nncf.compress_weights(graph, mode=mode, ratio=1.0, group_size=group_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(small, path, compress_to_fp16=False)


def make_llama(source: Path, path: Path, form: str) -> None:
    """Write llama.cpp's file of a format, out of a GGUF that may be quantized already."""
    import llama_cpp

    path.parent.mkdir(parents=True, exist_ok=True)
    asked = llama_cpp.llama_model_quantize_default_params()
    asked.ftype, asked.allow_requantize = getattr(llama_cpp, LLAMA_FORMATS[form]), True
    partial = path.with_suffix(".partial")
    failed = llama_cpp.llama_model_quantize(bytes(source), bytes(partial), asked)
    assert not failed, f"llama.cpp could not write {path}"
    partial.replace(path)


def missing(peer: str) -> str:
    """Return why a peer is not measured here; "" where it is."""
    package, remedy = {
        "nncf": ("nncf", "pip install --no-deps nncf networkx pydot tabulate"),
        "llama.cpp": ("llama_cpp", "pip install llama-cpp-python"),
    }[peer]
    return "" if find_spec(package) else f"skipped: {package} is not installed ({remedy})"
