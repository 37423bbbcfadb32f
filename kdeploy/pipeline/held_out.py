"""Whether a model may have been trained on the validation items, and what is said of that.

A validation part that was held out of train is unknown to models trained here on the rest. Weights
from elsewhere may have seen it: then their accuracy on it is too high, and so is every loss
against them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdeploy.artifact import Artifact
from kdeploy.data.contract import NOT_COUNTED, Split
from kdeploy.flags import FLAGS
from kdeploy.pipeline.session import Session
from kdeploy.training import accuracy

if TYPE_CHECKING:
    from torch import nn

SEEN = "validation_seen"
"""The flag, and key of a score: the model itself may have been trained on the items."""
SEEN_BEFORE = "validation_seen_before"
"""Key of a score: the model that it was made of, or learned from, may have been."""
WORDS = "may have been trained on these items"
LEAST_SKILL = 0.1
"""Of what lies between always answering the most frequent class and being always right."""


def may_have_seen(session: Session, model: Artifact) -> bool:
    """Return whether the validation part may have been among the items a model was trained on."""
    data, reference = session.data, session.reference
    if data is None or reference is None or data.is_validation_given:
        return False
    if not data.validation.is_labelled:
        return False
    if model.scores.get(SEEN):
        return True
    made = model.manifest.get("data") or {}
    split = made.get("reference") or {}
    return (
        made.get("fingerprint") != data.fingerprint
        or split.get("seed") != reference.seed
        or split.get("validation_fraction") != reference.validation_fraction
    )


def marks_of_given(session: Session) -> dict[str, bool]:
    """Return the marks for the scores of a model that came with its weights."""
    data = session.data
    is_apart = data is not None and (data.is_validation_given or not data.validation.is_labelled)
    return {} if is_apart else {SEEN: True}


def scores_on_validation(session: Session, model: nn.Module) -> dict[str, float]:
    """Return the accuracy on the validation part; nothing where that has no labels."""
    data = session.data
    if data is None or not data.validation.is_labelled:
        return {}
    return {"validation_accuracy": accuracy(model, data.validation, data.preprocessing)}


def shown(value: float, *, is_seen: bool) -> str:
    """Return an accuracy for people, with a mark where it says little."""
    return f"{value:.2%} ({WORDS})" if is_seen else f"{value:.2%}"


def say_of_start(session: Session, model: Artifact) -> None:
    """Tell where the first model's validation accuracy says little, and where it knows little."""
    if may_have_seen(session, model):
        flag = FLAGS[SEEN]
        session.audience.said(f"{model.label}: {flag.meaning}; {flag.remedy}")
    found = model.scores.get("validation_accuracy")
    if session.data is not None and found is not None:
        doubt = _doubt(float(found), session.data.validation)
        if doubt:
            session.audience.said(f"{model.label}: {doubt}")


def _doubt(value: float, validation: Split) -> str:
    """Return a sentence on a model that is hardly better than a guess, else ""."""
    counted = validation.y[validation.y != NOT_COUNTED]
    if not len(counted):
        return ""
    frequent = float(np.bincount(counted).max() / len(counted))
    if not np.isfinite(value) or value - frequent >= LEAST_SKILL * (1 - frequent):
        return ""
    return (
        f"right on {value:.2%} of {len(counted)} validation labels, where the most frequent "
        f"class alone makes {frequent:.2%}: are its weights trained, the labels those of this "
        "data, and are they classes?"
    )
