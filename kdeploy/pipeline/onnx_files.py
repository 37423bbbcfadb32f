"""Models that are ONNX files: taken into the store, and compressed as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.artifact import ONNX, Artifact
from kdeploy.bench.onnx_facts import count_parameters
from kdeploy.onnx_checks import content_sha256, copy_file, file_bytes
from kdeploy.onnx_model import OnnxModel
from kdeploy.pipeline.held_out import scores_of_given
from kdeploy.pipeline.session import Made, Session


def import_file(session: Session, file: Path) -> Artifact:
    """Return the artefact of a file that somebody else made."""

    def make(work: Path) -> Made:
        del work  # nothing to go on from
        return made_file(OnnxModel(file), scores_of_given(session, OnnxModel(file)))

    return session.step(
        kind="onnx",
        stage="teacher",
        technique="onnx",
        label="teacher",
        make=make,
        source=content_sha256(file),
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
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return any(node.op_type == "DequantizeLinear" for node in nodes)
