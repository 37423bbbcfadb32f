"""`kdeploy.compress`: a smaller model by one technique."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.api import session
from kdeploy.api.models import Model, source_of
from kdeploy.pipeline.single import compress_one
from kdeploy.recipe.resolve import step


def compress(
    model: Any,
    technique: str,
    *,
    data: Any = None,
    recover: Mapping[str, Any] | None = None,
    max_drop: str | None = None,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Model:
    """Return the model after one compression step; the one that is given stays as it is.

    Args:
        model: An nn.Module, what another step returned, a reference, an artefact, or for INT8 an
            ONNX file.
        technique: A compressor of `kdeploy list compressor`.
        data: What it calibrates, ranks and recovers on; left out, what the model was made with.
        recover: Distilled fine-tuning after the step: `{"epochs": 2}`.
        max_drop: The validation accuracy that it may cost, e.g. "0.5pp".
        out: The folder for the result; left out, one that goes with the process.
        weights: Of a reference: safetensors, or a state dict (`.pt`, `.pth`).
        args: Of a reference: keyword arguments of its function.
        parameters: The technique's own.
    """
    beside = {"recover": recover, "max_drop": max_drop}
    given = {**parameters, **{key: value for key, value in beside.items() if value is not None}}
    parsed = step({technique: given}, "compress")
    source = source_of(model, data=data, weights=weights, args=args)
    made = compress_one(source, parsed, session.place(out), session.listener())
    return Model(artifact=made)
