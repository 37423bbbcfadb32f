"""What the runtimes share that compute a torch artefact in floating point."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from kdeploy.errors import ModelError, Unavailable
from kdeploy.preprocessing import Preprocessing
from kdeploy.runtimes.contract import Answer, Given
from kdeploy.store.artifact import Artifact, open_artifact
from kdeploy.tensor_info import TensorInfo

INPUT = "input"
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


def inputs_of(model: Any, artifact: Artifact | None) -> tuple[TensorInfo, ...]:
    """Return what a model takes: of several inputs the arguments of `forward`, else `input`."""
    names = required_arguments(model)
    known = _preprocessing(artifact)
    if known is not None and known.inputs:
        return tuple(
            TensorInfo(name=name, shape=("batch", *one.shape), dtype=one.dtype)
            for name, one in known.inputs.items()
        )
    if len(names) < 2:
        shape = known.shape if known is not None else ("...",)
        dtype = known.dtype if known is not None else "float32"
        return (TensorInfo(name=INPUT, shape=("batch", *shape), dtype=dtype),)
    return tuple(TensorInfo(name=n, shape=("batch", "..."), dtype="float32") for n in names)


def _preprocessing(artifact: Artifact | None) -> Preprocessing | None:
    from kdeploy.store.model_io import preprocessing_of as known_of

    return None if artifact is None else known_of(artifact)


def required_arguments(model: Any) -> list[str]:
    """Return the arguments of a model's `forward` that have no default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = inspect.signature(model.forward).parameters.values()
    return [p.name for p in known if p.kind in kinds and p.default is p.empty]


def called(model: Any, given: Given) -> Any:
    """Return what a model answers to arrays: several by the arguments' names, one by its place."""
    import torch

    from kdeploy.torch_module.named_inputs import NamedTensors, call

    if isinstance(given, np.ndarray):
        return model(torch.from_numpy(given))
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in given.items()}
    if len(tensors) == 1:
        return model(next(iter(tensors.values())))
    return call(model, NamedTensors(tensors))


def answer_of(output: Any) -> Answer:
    """Return all arrays of what a model returned, by the names that an exported file has."""
    from kdeploy.torch_module.named_outputs import named_outputs

    return {name: tensor.numpy() for name, tensor in named_outputs(output).items()}


def wrong_input(path: Path, given: Given, error: BaseException) -> ModelError:
    """Return the error for arrays that torch could not compute."""
    arrays = [given] if isinstance(given, np.ndarray) else list(given.values())
    shapes = [list(array.shape) for array in arrays]
    told = f"an input of shape {shapes[0]}" if len(shapes) == 1 else f"inputs of shapes {shapes}"
    return ModelError(
        f"{path} cannot run {told}: {str(error).partition(chr(10))[0]}",
        hint="check the data's shape against the model's",
    )


def count_layers(model: Any) -> int:
    """Return how many layers could run as integers, were they quantized."""
    import torch

    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)
    return sum(isinstance(module, kinds) for module in model.modules())
