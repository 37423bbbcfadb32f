"""What the runtimes share that compute a torch artefact in floating point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError, Unavailable
from kdeploy.preprocessing import Inputs, Preprocessing
from kdeploy.store.artifact import Artifact, open_artifact

EXPORT = "`kdeploy export onnx`, then measure the file in onnxruntime_cpu or openvino"


def open_float(path: Path, runtime: str, *, hint: str = EXPORT) -> tuple[Any, Artifact]:
    """Return the model of an artefact in eval mode, and the artefact.

    Args:
        path: The artefact's folder.
        runtime: Who opens it.
        hint: What to do with a quantized one.

    Raises:
        Unavailable: it is quantized, and torch would only play that it computes integers.
    """
    from kdeploy.store.model_io import load_model

    artifact = open_artifact(path)
    if artifact.is_quantized:
        raise Unavailable(f"{runtime} would emulate the INT8 of {path} in float", hint=hint)
    return load_model(artifact).eval(), artifact


def preprocessing_of(artifact: Artifact) -> Preprocessing:
    """Return what the artefact's model takes.

    Raises:
        ModelError: the artefact was made without data.
    """
    from kdeploy.store.model_io import preprocessing_of as known_of

    known = known_of(artifact)
    if known is None:
        raise ModelError(
            f"{artifact.folder} does not say what its input looks like",
            hint="make it again with data, e.g. `--data digits`",
        )
    return known


def wrong_input(path: Path, batch: Inputs, error: BaseException) -> ModelError:
    """Return the error for a batch that torch could not compute."""
    reason = str(error).partition("\n")[0]
    return ModelError(
        f"{path} cannot run an input of shape {list(batch.shape)}: {reason}",
        hint="check the data's shape against the model's",
    )


def arrays_of(answer: Any) -> list[NDArray[np.float32]]:
    """Return the tensors of what a model returned, in the order of their names, as arrays."""
    from kdeploy.torch_module.named_outputs import named_outputs

    return [tensor.numpy() for tensor in named_outputs(answer).values()]


def count_layers(model: Any) -> int:
    """Return how many layers could run as integers, were they quantized."""
    import torch

    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    return sum(isinstance(module, kinds) for module in model.modules())
