"""What the providers of ONNX Runtime for NVIDIA's GPUs need, and how a session for them is set."""

from __future__ import annotations

import importlib.util
from typing import Any

from kdeploy.system.nvidia_driver import without_gpu

INSTALL = "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"


def without_provider(provider: str) -> str | None:
    """Return why a provider cannot run here, with the remedy; None when it may.

    ONNX Runtime lists the providers that it was built with, whether or not their libraries are
    here: opening a file is the proof.
    """
    reason = without_gpu()
    if reason is not None:
        return reason
    if importlib.util.find_spec("onnxruntime") is None:
        return "the library `onnxruntime` is not installed: pip install onnxruntime-gpu"
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime has no {provider}: {INSTALL}"
    return None


def gpu_options(threads: int) -> Any:
    """Return the options of a session whose operators run on the GPU, each of them or none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Without it an operator that the GPU lacks runs on the processor, and nobody is told.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options
