"""The payload of a torch artefact: build reference, structure and safetensors, and back.

Nothing executes on loading but the user's own `build.py`, of which the artefact keeps a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from kdeploy.errors import ArtifactCorrupt, ModelError
from kdeploy.preprocessing import Preprocessing
from kdeploy.store.artifact import Artifact, open_artifact
from kdeploy.store.artifact_schema import MalformedManifest, model_facts
from kdeploy.store.moved_paths import from_here, lies_now
from kdeploy.store.transformers_models import CONFIG, WEIGHTS
from kdeploy.torch_module.named_inputs import tensors_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdeploy.store.references import ModelReference

BUILD = "build.py"
BESIDE = "beside"
"""The folder for copies of what build.py imports from beside it."""


def save_model(folder: Path, model: nn.Module, reference: ModelReference) -> dict[str, Any]:
    """Write a model's payload; return the manifest's `model` entry that rebuilds it."""
    from safetensors.torch import save

    from kdeploy.store.references import (
        build_model,
        description_of,
        source_sha256,
        source_text,
        sources_beside,
    )
    from kdeploy.store.structure import difference
    from kdeploy.store.transformers_models import keep_description
    from kdeploy.torch_module.transformers_outputs import library_module

    wrapper = getattr(model, "wrapper", None)
    base: nn.Module = model.base if wrapper else model  # type: ignore[assignment]
    library, description = library_module(base), description_of(reference)
    state, tied = _stored_once(base, library)
    # Cloned: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    # As bytes through Python's own file, so that a full disk is an OSError with its number.
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"} if library else None))
    if library is not None and description is not None:
        keep_description(library, description, folder)
        reference = replace(reference, description=folder)
    text = source_text(reference)
    if text is not None:
        (folder / BUILD).write_text(text)
    for name, file in sources_beside(reference).items():
        copy = folder / BESIDE / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return {
        "build": reference.build,
        "args": dict(reference.args),
        "folder": str(reference.folder.resolve()),
        "folder_from_here": from_here(reference.folder, folder),
        "source_sha256": source_sha256(reference),
        "edits": difference(build_model(reference), base),
        **({"tied": tied} if tied else {}),
        "wrapper": {"name": wrapper, "state": model.state()} if wrapper else None,  # type: ignore[operator]
    }


def _stored_once(
    model: nn.Module, library: nn.Module | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors to write, and of tied ones that are left out the name they share.

    Those of a Hugging Face model have the library's own names, which it reads again.
    """
    from kdeploy.torch_module.transformers_outputs import PREFIX

    state = model.state_dict()
    if library is None:
        return state, {}
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, tensor in state.items():
        owner = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
        if owner != name and tensor.numel():  # empty tensors all have the address 0
            tied[name] = owner
    return {k.removeprefix(PREFIX): state[k] for k in state if k not in tied}, tied


def reference_of(artifact: Artifact) -> ModelReference:
    """Return the build reference of a torch artefact, reading the kept copy of build.py."""
    return _reference(
        artifact.folder, _model_entry(artifact.folder, artifact.manifest.get("model"))
    )


def preprocessing_of(artifact: Artifact) -> Preprocessing | None:
    """Return how items become inputs of an artefact; None where it does not say.

    Raises:
        ArtifactCorrupt: it says what cannot be.
    """
    known = (artifact.manifest.get("data") or {}).get("preprocessing")
    try:
        return Preprocessing.from_dict(known) if known else None
    except TypeError as error:
        raise _corrupt(artifact.folder, f"data.preprocessing: {error}") from None


def _reference(folder: Path, facts: Mapping[str, Any]) -> ModelReference:
    from kdeploy.store.references import ModelReference

    kept, beside = folder / BUILD, folder / BESIDE
    return ModelReference(
        build=facts["build"],
        args=facts["args"],
        folder=lies_now(facts["folder"], facts.get("folder_from_here"), folder),
        source_file=kept if kept.is_file() else None,
        beside=beside if beside.is_dir() else None,
        description=folder if (folder / CONFIG).is_file() else None,
    )


def load_model(artifact: Artifact | Path) -> nn.Module:
    """Return the model of a torch artefact, in eval mode, on the CPU.

    Raises:
        ModelError: the artefact holds no torch model.
    """
    if isinstance(artifact, Path):
        artifact = open_artifact(artifact)
    if artifact.kind != "torch":
        raise ModelError(
            f"{artifact.folder} ({artifact.label}) is of kind `{artifact.kind}`, not a torch model",
            hint="name the artefact it was made from; `kdeploy show` prints the lineage",
        )
    return rebuild(artifact.folder, artifact.manifest.get("model"), preprocessing_of(artifact))


def rebuild(
    folder: Path, facts: Mapping[str, Any] | None, preprocessing: Preprocessing | None
) -> nn.Module:
    """Return the model that `save_model` wrote into a folder, in eval mode, on the CPU.

    Args:
        folder: Has the payload.
        facts: What `save_model` returned.
        preprocessing: Of the data, for a model with a wrapper.

    Raises:
        ArtifactCorrupt: facts, edits and weights do not fit together.
    """
    from safetensors import SafetensorError

    entry = _model_entry(folder, facts)
    foreign = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError)
    try:
        return _rebuilt(folder, entry, preprocessing)
    except (*foreign, SafetensorError, MemoryError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise _corrupt(folder, f"its model cannot be rebuilt: {first}") from error


def _rebuilt(
    folder: Path, facts: Mapping[str, Any], preprocessing: Preprocessing | None
) -> nn.Module:
    from safetensors.torch import load_file

    from kdeploy.registry import find
    from kdeploy.store.references import build_model
    from kdeploy.store.structure import replay
    from kdeploy.torch_module.transformers_outputs import PREFIX

    reference = _reference(folder, facts)
    fresh = build_model(reference)
    # No tensor has more elements than the file has bytes: the rest is refused before it is made.
    model = replay(fresh, facts["edits"], most_elements=(folder / WEIGHTS).stat().st_size)
    prefix = PREFIX if reference.description is not None else ""
    tensors = {prefix + name: tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors |= {name: tensors[owner] for name, owner in facts["tied"].items()}
    model.load_state_dict(tensors, strict=True)
    model.eval()
    if facts["wrapper"]:
        if preprocessing is None:
            raise ValueError("it has a wrapper, and names no data")
        put_on = find("wrapper", facts["wrapper"]["name"]).load()
        example = tensors_of(preprocessing.example(2))
        model = put_on(model, facts["wrapper"]["state"], example)
    return model


def _model_entry(folder: Path, facts: Any) -> Mapping[str, Any]:
    try:
        return model_facts(facts)
    except MalformedManifest as error:
        raise _corrupt(folder, str(error)) from None


def _corrupt(folder: Path, what: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"artefact {folder} cannot be used: {what}",
        hint=f"remove it, and run again what made it: rm -r {quote(str(folder))}",
    )
