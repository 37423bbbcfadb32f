"""How ONNX Runtime is told to run on a processor: the same here and on a device.

Imports nothing, so that it can be copied to where there is no kdeploy.
"""

from __future__ import annotations

from typing import Any


def cpu_options(onnxruntime: Any, *, threads: int) -> Any:
    """Return session options: all optimisations, `threads` in an operator, no parallel branches."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options
