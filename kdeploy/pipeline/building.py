"""Models as a recipe names them: fresh under a seed, with given weights, or out of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdeploy.errors import UnknownName
from kdeploy.onnx_graph.checks import content_sha256, copy_file
from kdeploy.onnx_graph.input_fitting import Declared, fitted_file, parse_inputs
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.pipeline.onnx_trial import check_runs
from kdeploy.pipeline.weight_files import weights_sha256
from kdeploy.pipeline.weights import load_weights
from kdeploy.store.artifact import Artifact, file_sha256, find_artifact
from kdeploy.store.model_io import load_model
from kdeploy.store.references import ModelReference, build_model, names_model, source_sha256
from kdeploy.system.temporary import temporary_folder
from kdeploy.untrusted.named_path import named_path

if TYPE_CHECKING:
    from torch import nn

    from kdeploy.preprocessing import Preprocessing


def fresh_model(reference: ModelReference, seed: int) -> nn.Module:
    """Return the model as initialised under the seed, without disturbing other randomness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(reference)


def onnx_path(reference: ModelReference) -> Path | None:
    """Return the file of an `onnx:FILE` reference, None for a torch model."""
    library, _, name = reference.build.partition(":")
    return named_path(name, reference.folder) if library == "onnx" else None


def teacher_model(reference: ModelReference, form: Preprocessing | None = None) -> nn.Module:
    """Return a model that is only asked: a torch model, or a file run by ONNX Runtime.

    Args:
        reference: What it is.
        form: Of the data that a file is fitted to; None leaves it as it is.
    """
    if onnx_path(reference) is None:
        return build_model(reference)
    return file_model(reference, form)[0]


def file_model(
    reference: ModelReference, form: Preprocessing | None
) -> tuple[OnnxModel, Sequence[str]]:
    """Return the model of an `onnx:FILE` reference, and what was done to fit it to the data."""
    file = onnx_path(reference)
    assert file is not None, f"{reference.build} is no file"
    given = declared_inputs(reference)
    check_runs(file)
    if form is None:
        return OnnxModel(file), ()
    with temporary_folder("fitted") as folder:
        fitted = folder / "model.onnx"
        say = fitted_file(file, fitted, form, given)
        if not say:
            return OnnxModel(file), ()
        return OnnxModel.written_by(lambda path: copy_file(fitted, path)), say


def declared_inputs(reference: ModelReference) -> dict[str, Declared]:
    """Return what a reference to a file says of its inputs: `args: {input: x=1,3,64,64}`.

    Raises:
        RecipeError: it says something else, or in another form.
    """
    given = dict(reference.args)
    texts = given.pop("input", ())
    if given:
        raise UnknownName.among("argument", next(iter(given)), ["input"], where=reference.build)
    listed = texts if isinstance(texts, list | tuple) else [texts]
    return parse_inputs(listed, where=f"the input of `{reference.build}`")


def model_of_teacher(artifact: Artifact) -> nn.Module:
    """Return the teacher of an artefact, of torch or of ONNX."""
    return OnnxModel(artifact.file) if artifact.kind == "onnx" else load_model(artifact)


def auxiliary_model(
    entry: Mapping[str, Any],
    seed: int,
    stores: Sequence[Path] = (),
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Return a further model of a scheme: an artefact, given weights, or fresh under the seed.

    Args:
        entry: `build`, `args` and `weights`; files are absolute.
        seed: Of the first weights.
        stores: Where ids of artefacts are looked for first.
        say: Told what was done so that given weights fit.
    """
    known = find_artifact(entry["build"], stores)
    if known is not None:
        return model_of_teacher(known)
    reference = ModelReference(build=entry["build"], args=entry["args"])
    if onnx_path(reference) is not None:
        return teacher_model(reference)
    model = fresh_model(reference, seed)
    if not entry["weights"]:
        return model
    loaded = load_weights(model, Path(entry["weights"]))
    for sentence in loaded.messages if say is not None else ():
        say(f"the weights {Path(entry['weights']).name}: {sentence}")  # type: ignore[misc]
    return loaded.model


def auxiliary_models(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the further models in a scheme's parameters, each with its place for messages."""
    if names_model(value):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from auxiliary_models(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from auxiliary_models(inner, f"{where}[{index}]")


def without_folders(value: Any) -> Any:
    """Return parameters with the names of files only: the same files elsewhere are the same."""
    if isinstance(value, Mapping):
        value = {**value, "build": Path(value["build"])} if names_model(value) else value
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(inner) for inner in value]
    return value.name if isinstance(value, Path) else value


def contents_sha256(value: Any, stores: Sequence[Path] = ()) -> str:
    """Return the digest of all models, files and folders that parameters name; "" for none."""
    digests = list(_digests(value, stores))
    return sha256("\n".join(digests).encode()).hexdigest() if digests else ""


def _digests(value: Any, stores: Sequence[Path]) -> Iterator[str]:
    if names_model(value):
        known = find_artifact(value["build"], stores)
        reference = ModelReference(build=value["build"], args=value["args"])
        file = onnx_path(reference)
        yield known.id if known else content_sha256(file) if file else source_sha256(reference)
        yield from [weights_sha256(Path(value["weights"]))] if value["weights"] else []
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _digests(inner, stores)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _digests(inner, stores)
    elif isinstance(value, Path):
        files = sorted(p for p in value.rglob("*") if p.is_file()) if value.is_dir() else [value]
        for file in files:
            # Names below the folder, not where it lies: a copy elsewhere is the same.
            yield f"{file.relative_to(value).as_posix()} {file_sha256(file)}"
