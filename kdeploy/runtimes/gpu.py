"""Whether torch can compute on an NVIDIA GPU here; imports torch only to ask it."""

from __future__ import annotations

import importlib.util


def why_no_gpu() -> str | None:
    """Return why torch cannot compute on a GPU of this machine, with the remedy; None if it can."""
    if importlib.util.find_spec("torch") is None:
        return "the library `torch` is not installed: pip install torch"
    import torch

    if torch.version.cuda is None:
        return (
            f"this torch ({torch.__version__}) was built without CUDA: install its CUDA build, "
            "see https://pytorch.org"
        )
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU: is the driver installed, and is a GPU visible?"
    return None
