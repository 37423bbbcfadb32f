"""`kdeploy.distill`: a student from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdeploy.api import session
from kdeploy.api.data import section_of, task_section
from kdeploy.api.models import Model, build_of
from kdeploy.errors import RecipeError
from kdeploy.pipeline.run import run
from kdeploy.recipe.resolve import parse
from kdeploy.store import live_models


def distill(
    student: Any,
    *,
    teacher: Any,
    data: Any,
    out: str | Path | None = None,
    seed: int = 0,
    teacher_weights: str | Path | None = None,
    teacher_args: Mapping[str, Any] | None = None,
    teacher_train: Mapping[str, Any] | None = None,
    student_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Model:
    """Return the student, trained to know what the teacher knows; both modules stay as they are.

    Args:
        student: An nn.Module, which goes on from its weights, or a reference.
        teacher: An nn.Module, a reference, an artefact, an ONNX file.
        data: A `Data`, a recipe's `data:`, a Dataset or DataLoader, or arrays.
        out: The folder for the results; left out, one that goes with the process.
        seed: Of the order, the augmentation and, of a reference, the first weights.
        teacher_weights: Of a reference: safetensors, or a state dict (`.pt`, `.pth`).
        teacher_args: Of a reference: keyword arguments of its function.
        teacher_train: Of a reference without weights: how it is trained first.
        student_args: Of a reference: keyword arguments of its function.
        options: `losses`, `scheme`, `label_weight`, `epochs`, `learning_rate` and all others of
            `distill:` in a recipe.

    Raises:
        InputError: of the kind that fits; nothing was trained.
    """
    beside = {"weights": teacher_weights and str(teacher_weights), "train": teacher_train}
    recipe = parse(
        {
            "name": "distill",
            "seed": seed,
            "data": section_of(data),
            **task_section(data),
            "teacher": teacher_section(teacher, teacher_args, beside),
            "student": student_section(student, student_args),
            "distill": options,
        },
        folder=Path(),
    )
    result = run(recipe, session.place(out), until="distill", listener=session.listener())
    assert result.student is not None, "a recipe with a student makes one"
    return Model(artifact=result.student)


def teacher_section(
    teacher: Any, args: Mapping[str, Any] | None, beside: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a recipe's `teacher:`; a module is taken as it is, without training."""
    build = build_of(teacher)
    given = {"args": dict(args or {}) or None, **beside}
    if live_models.is_live(build):
        given["train"] = {"epochs": 0}
    return {"build": build, **{key: value for key, value in given.items() if value}}


def student_section(student: Any, args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a recipe's `student:`; what is no reference goes on from its weights."""
    if isinstance(student, Model):
        student = student.module
    if isinstance(student, nn.Module) and args:
        raise RecipeError(
            "`student_args` are for a reference, and the student is a module",
            hint="leave them out",
        )
    section: dict[str, Any] = {"build": build_of(student)}
    return {**section, "args": dict(args)} if args else section
