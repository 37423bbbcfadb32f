"""Which layers a loss on features compares where a recipe names none.

Losses that compare items take the classifiers' inputs. All others take the last map of each size
that the outputs have, so of a detector the last features of each stride, or, where outputs are no
maps, of each size that both networks have. Maps that are outputs themselves are not features.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kdeploy.distill.classifier_inputs import classifier, is_file, no_layers_of_a_file
from kdeploy.distill.feature_hooks import INPUT
from kdeploy.distill.loss_specs import LossSpec
from kdeploy.errors import ModelError
from kdeploy.torch_module.named_inputs import call

Size = tuple[int, ...]


def with_layers(
    loss_specs: Sequence[LossSpec], student: nn.Module, teacher: nn.Module | None, example: Any
) -> tuple[tuple[LossSpec, ...], list[str]]:
    """Return the specs with layers where none were named, and a sentence for each choice.

    Args:
        loss_specs: What is learned.
        student: Learns.
        teacher: Is asked; None for a file.
        example: Preprocessed items.

    Raises:
        ModelError: what is to be compared is not plain.
    """
    wanting = [loss_spec for loss_spec in loss_specs if loss_spec.wants_layers]
    if not wanting:
        return tuple(loss_specs), []
    if teacher is None or is_file(teacher):
        raise no_layers_of_a_file("teacher")
    if is_file(student):
        raise no_layers_of_a_file("student")
    chosen: dict[str, dict[str, str]] = {}
    said = []
    runs = _Run.of(student, example), _Run.of(teacher, example)
    # A detector's or segmenter's classifier sees maps: items are then compared by features.
    of_vectors = all(run.has_vectors for run in runs)
    items = [spec for spec in wanting if spec.of_items and of_vectors]
    maps = [spec for spec in wanting if spec not in items]
    if items:
        own, other = (
            f"{classifier(model, example, role=role)}{INPUT}"
            for role, model in (("student", student), ("teacher", teacher))
        )
        chosen |= {spec.name: {own: other} for spec in items}
        said.append(f"{_names(items)} the classifier's input is compared: `{own}: {other}`")
    if maps:
        layers = _last_maps(*runs)
        chosen |= {spec.name: layers for spec in maps}
        pairs = ", ".join(f"`{own}: {other}`" for own, other in layers.items())
        said.append(f"{_names(maps)} the last features of each size are compared: {pairs}")
    filled = (
        replace(spec, layers=chosen[spec.name]) if spec.name in chosen else spec
        for spec in loss_specs
    )
    return tuple(filled), said


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one forward pass made."""

    maps: dict[Size, str]
    """The last layer that made features of each size, without batch and channels."""
    outputs: tuple[Tensor, ...]

    @property
    def has_vectors(self) -> bool:
        """Whether the model answers with one vector an item, or one a token."""
        return len(self.outputs) == 1 and self.outputs[0].ndim < 4

    @classmethod
    def of(cls, model: nn.Module, example: Any) -> _Run:
        """Run the model once in eval mode, and leave it as it was."""
        made: list[tuple[str, Tensor]] = []

        def watched(path: str) -> Any:
            def record(module: nn.Module, inputs: Any, output: Any) -> None:
                del module, inputs
                if isinstance(output, Tensor) and output.ndim >= 4:
                    made.append((path, output))

            return record

        was_training = model.training
        model.eval()
        try:
            with ExitStack() as hooks, torch.no_grad():
                for path, module in model.named_modules():
                    if path and next(module.children(), None) is None:
                        hooks.enter_context(module.register_forward_hook(watched(path)))
                outputs = tuple(
                    leaf
                    for leaf in pytree.tree_leaves(call(model, example))
                    if isinstance(leaf, Tensor)
                )
        finally:
            model.train(was_training)
        return cls(maps=_features(made, outputs), outputs=outputs)


def _features(made: Sequence[tuple[str, Tensor]], outputs: Sequence[Tensor]) -> dict[Size, str]:
    """Return the last layer of each size that runs once and makes no output."""
    paths = [path for path, _ in made]
    # A view of an output, as a reshape makes it, is the output.
    storages = {output.untyped_storage().data_ptr() for output in outputs}
    forms = {tuple(output.shape[1:]) for output in outputs if output.ndim >= 4}
    widths = {form[0] for form in forms}
    last: dict[Size, str] = {}
    for number, (path, value) in enumerate(made):
        # Logits that are enlarged afterwards: the last map of all, as wide as the outputs. One of
        # an output's very form becomes it, by an activation or a factor.
        is_logits = number == len(made) - 1 and value.shape[1] in widths
        becomes_output = tuple(value.shape[1:]) in forms
        is_output = value.untyped_storage().data_ptr() in storages
        if not (is_output or is_logits or becomes_output) and paths.count(path) == 1:
            last[tuple(value.shape[2:])] = path
    return last


def _last_maps(student: _Run, teacher: _Run) -> dict[str, str]:
    wanted = {tuple(output.shape[2:]) for output in student.outputs if output.ndim >= 4}
    shared = [size for size in student.maps if size in teacher.maps]
    chosen = [size for size in shared if size in wanted]
    if not chosen and wanted and student.maps and teacher.maps:
        # No shared size is one of the outputs': the last of each, which losses bring to one size.
        return {next(reversed(student.maps.values())): next(reversed(teacher.maps.values()))}
    layers = {student.maps[size]: teacher.maps[size] for size in chosen or shared if max(size) > 1}
    if not layers:
        raise ModelError(
            f"the student and the teacher have no feature maps of one size: {_sizes(student)} and "
            f"{_sizes(teacher)}",
            hint='name what is compared: `layers: {"STUDENT.PATH": "TEACHER.PATH"}`, modules as '
            "`model.named_modules()` gives them",
        )
    return layers


def _sizes(run: _Run) -> str:
    return ", ".join("x".join(map(str, size)) for size in run.maps) or "none"


def _names(specs: Sequence[LossSpec]) -> str:
    return f"{', '.join(f'`{spec.name}`' for spec in specs)}: no `layers` named, so"
