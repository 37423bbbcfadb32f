"""The payload of a torch artefact: build reference, structure and safetensors, and back.

Nothing executes on loading but the user's own `build.py`, of which the artefact keeps a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdeploy.artifact import Artifact, open_artifact
from kdeploy.errors import ModelError
from kdeploy.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from kdeploy.references import ModelReference

WEIGHTS = "model.safetensors"
BUILD = "build.py"


def save_model(folder: Path, model: nn.Module, reference: ModelReference) -> dict[str, Any]:
    """Write a model's payload; return the manifest's `model` entry that rebuilds it."""
    from safetensors.torch import save

    from kdeploy.references import build_model, source_sha256, source_text
    from kdeploy.structure import difference

    wrapper = getattr(model, "wrapper", None)
    base: nn.Module = model.base if wrapper else model  # type: ignore[assignment]
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in base.state_dict().items()}
    # As bytes through Python's own file, so that a full disk is an OSError with its number.
    (folder / WEIGHTS).write_bytes(save(tensors))
    text = source_text(reference)
    if text is not None:
        (folder / BUILD).write_text(text)
    return {
        "build": reference.build,
        "args": dict(reference.args),
        "folder": str(reference.folder.resolve()),
        "source_sha256": source_sha256(reference),
        "edits": difference(build_model(reference), base),
        "wrapper": {"name": wrapper, "state": model.state()} if wrapper else None,  # type: ignore[operator]
    }


def reference_of(artifact: Artifact) -> ModelReference:
    """Return the build reference of a torch artefact, reading the kept copy of build.py."""
    return _reference(artifact.folder, artifact.manifest["model"])


def _reference(folder: Path, facts: Mapping[str, Any]) -> ModelReference:
    from kdeploy.references import ModelReference

    kept = folder / BUILD
    return ModelReference(
        build=facts["build"],
        args=facts["args"],
        folder=Path(facts["folder"]),
        source_file=kept if kept.is_file() else None,
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
    data = artifact.manifest["data"]
    known = Preprocessing.from_dict(data["preprocessing"]) if data else None
    return rebuild(artifact.folder, artifact.manifest["model"], known)


def rebuild(
    folder: Path, facts: Mapping[str, Any], preprocessing: Preprocessing | None
) -> nn.Module:
    """Return the model that `save_model` wrote into a folder, in eval mode, on the CPU.

    Args:
        folder: Has the payload.
        facts: What `save_model` returned.
        preprocessing: Of the data, for a model with a wrapper.
    """
    import torch
    from safetensors.torch import load_file

    from kdeploy.references import build_model
    from kdeploy.registry import find
    from kdeploy.structure import replay

    model = replay(build_model(_reference(folder, facts)), facts["edits"])
    model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    model.eval()
    if facts["wrapper"]:
        assert preprocessing is not None, "a wrapped model was made with data"
        put_on = find("wrapper", facts["wrapper"]["name"]).load()
        example = torch.from_numpy(preprocessing.example(2))
        model = put_on(model, facts["wrapper"]["state"], example)
    return model
