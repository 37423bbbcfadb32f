"""Models of a Python session: what may stand for a model, and what a step returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from kdeploy.api import session
from kdeploy.api.data import reference_of
from kdeploy.errors import InputError, ModelError
from kdeploy.pipeline.building import model_of_teacher, onnx_path, teacher_model
from kdeploy.pipeline.single import Source
from kdeploy.pipeline.weights import load_weights
from kdeploy.runtimes.files import files_of
from kdeploy.store import live_models
from kdeploy.store.artifact import Artifact, find_artifact
from kdeploy.store.references import ModelReference

if TYPE_CHECKING:
    from kdeploy.onnx_graph.model import OnnxModel

FORMS = (
    "give an nn.Module, what a function of kdeploy returned, a reference such as "
    "`build.py:function`, an artefact's folder or id, or an ONNX file"
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that a step made, stored as an artefact."""

    artifact: Artifact

    @cached_property
    def module(self) -> nn.Module:
        """The model itself, on the CPU, in eval mode; of an ONNX file a module that runs it."""
        return model_of_teacher(self.artifact)

    @property
    def id(self) -> str:
        """Return the artefact's id: of the same step the same, from the command line too."""
        return self.artifact.id

    @property
    def folder(self) -> Path:
        """Return where the artefact lies; without `out` it goes with the process."""
        return self.artifact.folder

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is known of the model: parameters, multiplications, bytes."""
        return dict(self.artifact.manifest.get("facts", {}))

    @property
    def scores(self) -> dict[str, Any]:
        """Return how the step went: accuracies on the validation part, as fractions."""
        return dict(self.artifact.manifest.get("scores", {}))

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.facts.items() if isinstance(v, int | float)}
        shown |= {k: v for k, v in self.scores.items() if isinstance(v, int | float)}
        listed = ", ".join(f"{key}={value:.6g}" for key, value in shown.items())
        return f"Model({self.artifact.label} {self.id}: {listed})"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that was exported: it computes what the model does."""

    artifact: Artifact
    path: Path
    """For people: where it was asked for, else in the artefact."""

    @property
    def id(self) -> str:
        """Return the artefact's id."""
        return self.artifact.id

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the file and of what belongs to it."""
        return sum(file.stat().st_size for file in files_of(self.path))

    @property
    def parity(self) -> dict[str, Any]:
        """Return how far the file is from its model, over all inputs that were tried."""
        return dict(self.artifact.manifest.get("facts", {}))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"File({str(self.path)!r}, {self.size_bytes} bytes)"


def source_of(
    model: Any,
    *,
    data: Any = None,
    weights: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
) -> Source:
    """Return what a stage starts from, of a model in any form.

    Raises:
        InputError: it is none.
    """
    build = build_of(model)
    return Source(
        reference=build,
        weights=None if weights is None else Path(weights),
        # A live module has weights already: it is not initialised or trained once more.
        as_built=live_models.is_live(build) and weights is None,
        args=dict(args or {}),
        data=reference_of(data),
    )


def build_of(model: Any) -> str:
    """Return the reference by which this process finds a model of any form."""
    if isinstance(model, Model | File):
        return str(model.artifact.folder)
    if isinstance(model, Artifact):
        return str(model.folder)
    if isinstance(model, nn.Module):
        return live_models.keep(model)
    if isinstance(model, str | Path):
        text = str(model)
        is_file = text.endswith(".onnx") and not text.startswith("onnx:")
        return f"onnx:{text}" if is_file else text
    raise InputError(f"a {type(model).__name__} stands for no model", hint=FORMS)


def load(
    model: str | Path | Model | File,
    *,
    weights: str | Path | None = None,
    args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a model as a module in eval mode, on the CPU.

    Args:
        model: An artefact (folder or id), a reference such as `build.py:function`, or an ONNX file.
        weights: For a reference: safetensors, or a state dict of `torch.save` (`.pt`, `.pth`).
        args: For a reference: keyword arguments of its function.

    Raises:
        FileMissing: there is no such artefact or file.
        ModelError: it cannot be built, or the weights do not fit; a pickled module is refused.
    """
    build = build_of(model)
    known = find_artifact(build, [session.folder() / "artifacts"])
    if known is not None:
        if weights is not None or args:
            raise ModelError(
                f"`{build}` is an artefact, which has its model and weights",
                hint="leave `weights` and `args` out",
            )
        return model_of_teacher(known).eval()
    reference = ModelReference(build=build, args=dict(args or {}))
    made: nn.Module | OnnxModel = teacher_model(reference)
    if weights is not None and onnx_path(reference) is None:
        made = load_weights(made, Path(weights)).model
    return made.eval()
