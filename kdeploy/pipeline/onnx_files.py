"""Models that are ONNX files: taken into the store, and compressed as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.artifact import ONNX, Artifact, file_sha256
from kdeploy.bench.onnx_facts import count_parameters, file_bytes
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.formats import check_takes_files
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset
from kdeploy.errors import RecipeError
from kdeploy.onnx_model import OnnxModel, copy_file
from kdeploy.pipeline.session import Made, Session
from kdeploy.recipe.resolve import Step
from kdeploy.training import accuracy


def import_file(session: Session, data: Dataset, file: Path) -> Artifact:
    """Return the artefact of a file that somebody else made."""

    def make(work: Path) -> Made:
        del work  # nothing to go on from
        right = accuracy(OnnxModel(file), data.validation, data.preprocessing)
        return _made(OnnxModel(file), {"validation_accuracy": right})

    return session.step(
        kind="onnx",
        stage="teacher",
        technique="onnx",
        label="teacher",
        make=make,
        source=file_sha256(file),
    )


def make_file_step(
    session: Session, data: Dataset, before: Artifact, step: Step, label: str
) -> Artifact:
    """Return the file after one compression step.

    Raises:
        RecipeError: the technique needs a torch model, or the step wants training after it.
    """
    check_takes_files(step.technique)
    if step.recover is not None:
        raise RecipeError(
            f"compress: {before.label} is an ONNX file, which cannot be trained",
            hint="leave `recover` out, or compress the model that the file was exported from",
        )

    def make(work: Path) -> Made:
        del work
        original = OnnxModel(before.onnx_file)
        context = CompressContext(data=data, seed=session.seed)
        model = compress(original, step.technique, step.parameters, context)
        assert isinstance(model, OnnxModel), f"`{step.technique}` made no file of a file"
        validation = data.validation
        scores = {
            "validation_accuracy_before": accuracy(original, validation, data.preprocessing),
            "validation_accuracy": accuracy(model, validation, data.preprocessing),
        }
        session.audience.said(
            f"validation accuracy: {scores['validation_accuracy_before']:.2%} before,"
            f" {scores['validation_accuracy']:.2%} after {step.technique}"
        )
        return _made(model, scores, {"is_quantized": _is_quantized(model.path)})

    return session.step(
        kind="onnx",
        stage="compress",
        technique=step.technique,
        label=label,
        make=make,
        parents=[before],
        parameters=step.parameters,
    )


def _made(
    model: OnnxModel, scores: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> Made:
    def write(folder: Path) -> Mapping[str, Any]:
        copy_file(model.path, folder / ONNX)
        return {}

    facts = {"parameters": count_parameters(model.path), "macs": None}
    return Made(
        write=write, facts={**facts, "size": file_bytes(model.path), **(more or {})}, scores=scores
    )


def _is_quantized(path: Path) -> bool:
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return any(node.op_type == "DequantizeLinear" for node in nodes)
