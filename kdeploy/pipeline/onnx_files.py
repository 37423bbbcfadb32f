"""Models that are ONNX files: taken into the store, and compressed as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.onnx_graph import operators
from kdeploy.onnx_graph.checks import content_sha256, copy_file, file_bytes, read_onnx
from kdeploy.onnx_graph.facts import count_parameters
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.pipeline.building import declared_inputs, file_model, onnx_path
from kdeploy.pipeline.held_out import scores_of_given
from kdeploy.pipeline.session import Made, Session
from kdeploy.store.artifact import ONNX, Artifact
from kdeploy.store.references import ModelReference


def import_file(session: Session, reference: ModelReference) -> Artifact:
    """Return the artefact of a file that somebody else made, fitted to the session's data."""
    file = onnx_path(reference)
    assert file is not None, f"{reference.build} is no file"
    given = declared_inputs(reference)

    def make(work: Path) -> Made:
        del work  # nothing to go on from
        form = session.data.preprocessing if session.data is not None else None
        model, messages = file_model(reference, form)
        for sentence in messages:
            session.listener.message(f"{file.name}: {sentence}")
        return made_file(model, scores_of_given(session, model))

    return session.step(
        kind="onnx",
        stage="teacher",
        technique="onnx",
        label="teacher",
        make=make,
        source=" ".join([content_sha256(file), *(f"{n}={d.shape}" for n, d in given.items())]),
    )


def made_file(
    model: OnnxModel, scores: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> Made:
    """Return a file as something the session stores."""

    def write(folder: Path) -> Mapping[str, Any]:
        copy_file(model.path, folder / ONNX)
        return {}

    facts = {"parameters": count_parameters(model.path), "macs": None}
    return Made(
        write=write, facts={**facts, "size": file_bytes(model.path), **(more or {})}, scores=scores
    )


def is_quantized(path: Path) -> bool:
    """Return whether a file computes on integers."""
    return operators.is_quantized(node.op_type for node in read_onnx(path).graph.node)
