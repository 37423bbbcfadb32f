"""The data of a stored artefact: found again, divided as before, or told to be others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from kdeploy.data.data_files import TOKENIZER, files_of, found_again, with_tokenizer
from kdeploy.data.load import DataReference
from kdeploy.errors import ArtifactCorrupt, FileMissing
from kdeploy.pipeline.session import Session
from kdeploy.store.artifact import Artifact
from kdeploy.store.moved_paths import went_along
from kdeploy.store.transformers_models import tokenizer_source
from kdeploy.untrusted.named_path import named_path


def data_of(artifact: Artifact) -> DataReference | None:
    """Return the data that an artefact was made with, None for one that knows none.

    Raises:
        FileMissing: they are neither where they were nor where they lay seen from the artefact.
    """
    facts = artifact.manifest.get("data") or {}
    reference = _with_kept_tokenizer(_reference_of(artifact), artifact)
    if reference is None or not facts.get("folder_from_here"):
        return reference
    now = (artifact.folder.resolve() / str(facts["folder_from_here"])).resolve()
    try:
        found, missing = found_again(reference, now)
    except (TypeError, ValueError, AttributeError) as error:
        raise _corrupt(artifact, error) from None
    if missing:
        moved = went_along(missing[0], was=reference.folder, now=now)
        raise FileMissing(
            f"`{artifact.label}` ({artifact.folder}) was made with data in {missing[0]}, and there "
            f"is no such file, nor {moved}, where it would be if it had moved along",
            hint=f"say where they are now: `--data {_written(reference)}`",
        )
    return found


def _with_kept_tokenizer(
    reference: DataReference | None, artifact: Artifact
) -> DataReference | None:
    """Return the data with the artefact's own tokenizer where the one they name is gone."""
    named = reference.parameters.get(TOKENIZER) if reference is not None else None
    if reference is None or named is None or named_path(named, reference.folder).exists():
        return reference
    unnamed = replace(reference, parameters={**reference.parameters, TOKENIZER: None})
    own = tokenizer_source(str(artifact.folder), Path())
    return with_tokenizer(unnamed, own) if own is not None else reference


def split_as_before(data: DataReference, artifact: Artifact) -> DataReference:
    """Return data that somebody named anew, divided as an artefact's own were."""
    before = _reference_of(artifact)
    if before is None:
        return data
    whole = DataReference(name=data.name)
    # What somebody named beside the data wins over how the artefact's were divided.
    is_plain = data.validation_fraction == whole.validation_fraction and not data.augment
    return replace(
        data,
        seed=before.seed,
        validation_fraction=before.validation_fraction if is_plain else data.validation_fraction,
        augment=before.augment if is_plain else data.augment,
        task=before.task if data.task == whole.task else data.task,
        normalize=before.normalize or data.normalize,
    )


def say_of_other_data(session: Session, artifacts: Sequence[Artifact]) -> None:
    """Say where the data are not those that an artefact was made with."""
    for artifact in artifacts:
        known = (artifact.manifest.get("data") or {}).get("fingerprint")
        if known and session.data is not None and session.data.fingerprint != known:
            session.listener.message(
                f"the data are not those that `{artifact.label}` was made with: their contents or "
                "their preprocessing differ"
            )


def _reference_of(artifact: Artifact) -> DataReference | None:
    """Return the data as the manifest has them."""
    known = (artifact.manifest.get("data") or {}).get("reference")
    try:
        return DataReference.from_dict(known) if known else None
    except (KeyError, TypeError) as error:
        raise _corrupt(artifact, error) from None


def _corrupt(artifact: Artifact, error: Exception) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"artefact {artifact.folder} names data that cannot be: {error!r}",
        hint=f"remove it, and run again what made it: rm -r {quote(str(artifact.folder))}",
    )


def _written(reference: DataReference) -> str:
    """Return data as `--data` names them, with PATH for each file."""
    keys = [key for key, file in files_of(reference).items() if key != "name"]
    options = ",".join(f"{key}=PATH" for key in keys)
    name = "PATH.py:" + reference.name.rpartition(":")[2] if ":" in reference.name else ""
    return f"{name or reference.name}{f':{options}' if options else ''}"
