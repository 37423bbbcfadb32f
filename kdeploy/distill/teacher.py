"""The live teacher: always in eval mode, never trained, never in a state, its own normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.data.contract import Preprocessing
from kdeploy.distill.feature_hooks import features_of, replaced
from kdeploy.distill.teacher_protocol import TeacherOutput
from kdeploy.errors import RecipeError
from kdeploy.torch_module.finite import check_answers
from kdeploy.torch_module.model_outputs import named
from kdeploy.torch_module.named_inputs import call
from kdeploy.torch_module.named_outputs import named_outputs
from kdeploy.training.checkpoint import fingerprint_of
from kdeploy.training.compilation import CompiledCall
from kdeploy.training.contract import Batch
from kdeploy.training.views import View


class Teacher:
    """A frozen model that answers on the student's batches.

    Not an `nn.Module`: an objective that holds it does not count it among its parameters, does not
    save it, and cannot put it into training mode.
    """

    def __init__(self, model: nn.Module, renormalize: Renormalizer | None = None) -> None:
        self.model = model
        self.models: Sequence[nn.Module] = (model,)
        self.is_repeatable = True
        self.renormalize = renormalize
        own = renormalize.facts if renormalize else ""
        self.fingerprint = fingerprint_of({"normalization": own}, model)
        self._call = CompiledCall(model)

    def __call__(self, batch: Batch, paths: Sequence[str]) -> TeacherOutput:
        """Return the logits and the features at the paths."""
        # Every time: whoever else holds the model may have called `train()`; so dropout is off too.
        self.model.eval()
        with torch.inference_mode():
            x = self.renormalize(batch.x) if self.renormalize else batch.x
            with features_of(self.model, paths, role="teacher") as features:
                logits = self._call(x, is_hooked=bool(paths))
        if x.device.type == "cpu":  # elsewhere a look would wait for the device; the loss tells
            numbers = batch.rows
            check_answers(self.model, x, logits, name="teacher", part="training", numbers=numbers)
        # Copies, because a tensor of inference mode cannot take part in a gradient.
        return TeacherOutput(
            _copied(logits), {path: value.clone() for path, value in features.items()}
        )

    def run_on(self, batch: Batch, features: Mapping[str, Tensor]) -> Any:
        """Return the answer where layers return these tensors; gradients reach them alone."""
        self.model.eval()
        learns = [p for p in self.model.parameters() if p.requires_grad]
        try:
            for parameter in learns:
                parameter.requires_grad_(False)
            x = self.renormalize(batch.x) if self.renormalize else batch.x
            with replaced(self.model, features, role="teacher"):
                return named(call(self.model, x))
        finally:  # whoever trains this model elsewhere goes on
            for parameter in learns:
                parameter.requires_grad_(True)

    def prepare(self, view: View, paths: Sequence[str]) -> None: ...

    def compile(self) -> None:
        self._call.compile(is_frozen=True)

    def apply(self, function: Callable[..., Any], *, recurse: bool) -> None:
        # The frozen model is no submodule, so `to` of the objective does not reach it.
        self.model._apply(function, recurse)  # type: ignore[no-untyped-call]


def _copied(answer: Any) -> Any:
    """Return an answer with its own memory, of several tensors by their names."""
    if isinstance(answer, Tensor):
        return answer.clone()
    return {name: tensor.clone() for name, tensor in named_outputs(answer).items()}


class Renormalizer:
    """Turns inputs normalised for the student into inputs normalised for the teacher."""

    def __init__(self, student: Preprocessing, teacher: Preprocessing) -> None:
        per_channel = (-1, *(1 for _ in student.shape[1:]))
        own, other = (
            (torch.tensor(p.mean).reshape(per_channel), torch.tensor(p.std).reshape(per_channel))
            for p in (student, teacher)
        )
        # (x * own std + own mean - other mean) / other std, as one multiplication and one addition.
        self.factor = own[1] / other[1]
        self.offset = (own[0] - other[0]) / other[1]
        self.facts = f"{student.mean} {student.std} -> {teacher.mean} {teacher.std}"

    def __call__(self, x: Tensor) -> Tensor:
        if self.factor.device != x.device:
            self.factor, self.offset = self.factor.to(x.device), self.offset.to(x.device)
        return x * self.factor + self.offset


def teacher_preprocessing(
    student: Preprocessing, normalization: Mapping[str, Sequence[float]] | None
) -> Preprocessing:
    """Return the data's preprocessing with the teacher's own mean and standard deviation.

    Raises:
        RecipeError: not a mean and a positive standard deviation for each channel.
    """
    if not normalization:
        return student
    if student.inputs:
        raise RecipeError(
            f"the teacher has a `mean` and a `std`, and items have the inputs "
            f"{student.told_shape()}: they do not say of which",
            hint="give `data.mean` and `data.std` by input, as the teacher was trained",
        )
    if student.is_tokens:
        raise RecipeError(
            "the teacher has a `mean` and a `std`, and the data are token ids: no numbers "
            "to normalise",
            hint="leave `teacher.mean` and `teacher.std` out",
        )
    keys = {"mean", "std"}
    widths = (1, student.shape[0])
    if set(normalization) != keys or any(len(normalization[k]) not in widths for k in keys):
        raise RecipeError(
            f"the teacher's normalisation is {dict(normalization)!r}; expected `mean` and `std` "
            f"with one value for each of {student.shape[0]} channels",
            hint="e.g. `mean: [0.5], std: [0.25]`, of values after the data's scale",
        )
    if min(normalization["std"]) <= 0:
        raise RecipeError("the teacher's `std` has a value <= 0", hint="give positive values")
    mean, std = (tuple(map(float, normalization[k])) for k in ("mean", "std"))
    return replace(student, mean=mean, std=std)
