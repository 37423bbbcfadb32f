"""Models as a recipe names them: fresh under a seed, with given weights, or out of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdeploy.artifact import Artifact, file_sha256, find_artifact
from kdeploy.errors import ModelError
from kdeploy.named_path import named_path
from kdeploy.onnx_checks import content_sha256
from kdeploy.onnx_model import OnnxModel
from kdeploy.payload import load_model
from kdeploy.references import ModelReference, build_model, source_sha256

if TYPE_CHECKING:
    from torch import nn


def fresh_model(reference: ModelReference, seed: int) -> nn.Module:
    """Return the model as initialised under the seed, without disturbing other randomness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(reference)


def onnx_path(reference: ModelReference) -> Path | None:
    """Return the file of an `onnx:FILE` reference, None for a torch model."""
    library, _, name = reference.build.partition(":")
    return named_path(name, reference.folder) if library == "onnx" else None


def teacher_model(reference: ModelReference) -> nn.Module:
    """Return a model that is only asked: a torch model, or a file run by ONNX Runtime."""
    file = onnx_path(reference)
    return OnnxModel(file) if file is not None else build_model(reference)


def model_of_teacher(artifact: Artifact) -> nn.Module:
    """Return the teacher of an artefact, of torch or of ONNX."""
    return OnnxModel(artifact.file) if artifact.kind == "onnx" else load_model(artifact)


def further_model(entry: Mapping[str, Any], seed: int, stores: Sequence[Path] = ()) -> nn.Module:
    """Return a further model of a scheme: an artefact, given weights, or fresh under the seed.

    Args:
        entry: `build`, `args` and `weights`; files are absolute.
        seed: Of the first weights.
        stores: Where ids of artefacts are looked for first.
    """
    known = find_artifact(entry["build"], stores)
    if known is not None:
        return model_of_teacher(known)
    reference = ModelReference(build=entry["build"], args=entry["args"])
    if onnx_path(reference) is not None:
        return teacher_model(reference)
    model = fresh_model(reference, seed)
    return load_weights(model, Path(entry["weights"])) if entry["weights"] else model


def further_models(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the further models in a scheme's parameters, each with its place for messages."""
    if isinstance(value, Mapping) and "build" in value:
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from further_models(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from further_models(inner, f"{where}[{index}]")


def without_folders(value: Any) -> Any:
    """Return parameters with the names of files only: the same files elsewhere are the same."""
    if isinstance(value, Mapping):
        value = {**value, "build": Path(value["build"])} if "build" in value else value
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in value]
    return value.name if isinstance(value, Path) else value


def contents_sha256(value: Any, stores: Sequence[Path] = ()) -> str:
    """Return the digest of all models, files and folders that parameters name; "" for none."""
    digests = list(_digests(value, stores))
    return sha256("\n".join(digests).encode()).hexdigest() if digests else ""


def load_weights(model: nn.Module, file: Path) -> nn.Module:
    """Return the model with the tensors of a safetensors file.

    Raises:
        ModelError: the file is no safetensors, or names and shapes do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is not a safetensors file: {error}",
            hint="convert once: safetensors.torch.save_file(model.state_dict(), FILE);"
            " pickled weights are not read, they can run code",
        ) from None
    _check_fit(model, tensors, file)
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def _digests(value: Any, stores: Sequence[Path]) -> Iterator[str]:
    if isinstance(value, Mapping) and "build" in value:
        known = find_artifact(value["build"], stores)
        reference = ModelReference(build=value["build"], args=value["args"])
        file = onnx_path(reference)
        yield known.id if known else content_sha256(file) if file else source_sha256(reference)
        yield from _digests(value["weights"], stores)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _digests(inner, stores)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _digests(inner, stores)
    elif isinstance(value, Path):
        files = sorted(p for p in value.rglob("*") if p.is_file()) if value.is_dir() else [value]
        for file in files:
            yield f"{file.relative_to(value).as_posix()} {file_sha256(file)}"


def _check_fit(model: nn.Module, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    expected = model.state_dict()
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(set(tensors) - set(expected))
    wrong = [
        f"`{k}` is {tuple(tensors[k].shape)}, the model has {tuple(expected[k].shape)}"
        for k in expected
        if k in tensors and tensors[k].shape != expected[k].shape
    ]
    problems = [f"`{name}` is missing" for name in missing[:1]] + wrong[:1]
    problems += [f"`{name}` is not in the model" for name in extra[:1]]
    if problems:
        raise ModelError(
            f"the weights {file} do not fit the model: {'; '.join(problems)}"
            f" ({len(missing)} missing, {len(wrong)} of another shape, {len(extra)} unknown)",
            hint="check `args`: width, depth and classes have to be those it was trained with",
        )
