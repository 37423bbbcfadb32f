"""Whether the teacher helped: the student beside the same one that learned without it.

What a student was like on the way lies beside its weights; the control is trained up to there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.control import TeacherEffect, effect_of
from kdeploy.pipeline.building import fresh_model
from kdeploy.pipeline.models import data_of, fit_context, reference_facts
from kdeploy.pipeline.needed_labels import reads_labels
from kdeploy.pipeline.session import Made, Session
from kdeploy.pipeline.storing import EARLY_LOOK
from kdeploy.store.artifact import Artifact
from kdeploy.store.model_io import load_model
from kdeploy.store.references import ModelReference, source_sha256
from kdeploy.tasks.contract import facts_of, judged_as, task_of
from kdeploy.training.defaults import Settled
from kdeploy.training.early_look import EarlyLook, Seen
from kdeploy.training.fit import Supervised, fit
from kdeploy.training.predict import item_scores

TEACHERS_SCORE = "teacher_validation_accuracy"


def teacher_effect(
    session: Session,
    reference: ModelReference,
    config: DistillConfig,
    student: Artifact,
    baseline: Artifact | None,
) -> TeacherEffect | None:
    """Return what the teacher did for a student, and tell it; None where nothing can be compared.

    Args:
        session: Of the student.
        reference: What the student was built by.
        config: How it was taught.
        student: As it was stored.
        baseline: The same, trained to the end without the teacher; None: a control is made.
    """
    data = data_of(session)
    file = student.folder / EARLY_LOOK
    if config.baseline is False or not data.validation.is_labelled or not file.is_file():
        return None
    known = json.loads(file.read_text())
    own = Seen.from_dict(known)
    if baseline is not None:
        pair = [item_scores(load_model(model), data, "cpu") for model in (student, baseline)]
        after = own.of_steps
    else:
        other = _seen_of_control(session, reference, student, known)
        pair, after = [own.scores, other.scores], own.after_steps
    effect = effect_of(
        *pair,
        after_steps=after,
        of_steps=own.of_steps,
        teacher_accuracy=float(student.manifest["scores"][TEACHERS_SCORE]),
        are_weights_given=config.are_weights_given,
        reads_labels=reads_labels(config),
        scores=str(facts_of(judged_as(task_of(data)))["scores"]),
    )
    session.listener.message(effect.sentence)
    return effect


def _seen_of_control(
    session: Session, reference: ModelReference, student: Artifact, known: Mapping[str, Any]
) -> Seen:
    """Return what is seen of a student without a teacher, after as many steps as its twin's."""
    after = int(known["after_steps"])

    def make(work: Path) -> Made:
        objective = Supervised(fresh_model(reference, session.seed), task=task_of(data_of(session)))
        look = EarlyLook(fraction=0.0, fewest_steps=after, ends=True)
        context = fit_context(session, work, "train the control", look=look)
        settled = Settled.model_validate(known["training"])
        seen = fit(objective, data_of(session), context, settled).seen
        assert seen is not None, "a training that is looked at"

        def write(folder: Path) -> Mapping[str, Any]:
            (folder / EARLY_LOOK).write_text(json.dumps(seen.to_dict()))
            return {}

        return Made(write=write)

    made = session.step(
        kind="measurements",
        stage="distill",
        technique="control",
        label=f"{student.label} without a teacher",
        make=make,
        parameters={
            "model": reference_facts(reference),
            "after_steps": after,
            "training": known["training"],
        },
        source=source_sha256(reference),
    )
    return Seen.from_dict(json.loads((made.folder / EARLY_LOOK).read_text()))
