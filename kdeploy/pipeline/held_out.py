"""Whether a model may have been trained on the validation items, and what is said of that.

A validation part that was held out of train is unknown to models trained here on the rest. Weights
from elsewhere may have seen it: then their accuracy on it is too high, and so is every loss
against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from kdeploy.data.contract import NOT_COUNTED, Dataset, Split
from kdeploy.flags import FLAGS
from kdeploy.pipeline.building import auxiliary_models
from kdeploy.pipeline.session import Session
from kdeploy.store.artifact import Artifact, find_artifact
from kdeploy.tasks.contract import has_class_rows, task_of
from kdeploy.torch_module.model_outputs import in_eval
from kdeploy.torch_module.named_inputs import call
from kdeploy.training.batches import batches_in_order
from kdeploy.training.fit import accuracy

if TYPE_CHECKING:
    from torch import nn

SEEN = "validation_seen"
"""The flag, and key of a score: the model itself may have been trained on the items."""
SEEN_BEFORE = "validation_seen_before"
"""Key of a score: the model that it was made of, or learned from, may have been."""
WORDS = "may have been trained on these items"
MOST_ITEMS, BATCH_SIZE = 1024, 64  # items are enough to tell logits from other quantities
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
        # Another seed or fraction divides the same items otherwise: some of ours were in its train.
        made.get("fingerprint") != data.fingerprint
        or split.get("seed") != reference.seed
        or split.get("validation_fraction") != reference.validation_fraction
    )


def marks_of_given(session: Session) -> dict[str, bool]:
    """Return the marks for the scores of a model that came with its weights."""
    data = session.data
    is_apart = data is not None and (data.is_validation_given or not data.validation.is_labelled)
    return {} if is_apart else {SEEN: True}


def further_may_have_seen(session: Session, parameters: Mapping[str, Any]) -> bool:
    """Return whether a further model in a scheme's parameters comes with weights from elsewhere."""
    entries = [entry for _, entry in auxiliary_models(parameters, "scheme")]
    is_given = any(
        entry.get("weights") or entry["build"].startswith("onnx:") or find_artifact(entry["build"])
        for entry in entries
    )
    return is_given and bool(marks_of_given(session))


def scores_of_given(session: Session, model: nn.Module) -> dict[str, Any]:
    """Return the scores of a model that came with its weights, its cross-entropy among them."""
    scores = {**scores_on_validation(session, model), **marks_of_given(session)}
    if session.data is None or "validation_accuracy" not in scores:
        return scores
    if not has_class_rows(task_of(session.data).name):
        return scores
    return {**scores, "validation_cross_entropy": _cross_entropy(model, session.data)}


def scores_on_validation(session: Session, model: nn.Module) -> dict[str, float]:
    """Return the accuracy on the validation part; nothing where that has no labels."""
    data = session.data
    if data is None or not data.validation.is_labelled:
        return {}
    found = accuracy(model, data.validation, data.preprocessing, task=task_of(data))
    return {"validation_accuracy": found}


def shown(value: float, *, is_seen: bool) -> str:
    """Return an accuracy for people, with a mark where it says little."""
    return f"{value:.2%} ({WORDS})" if is_seen else f"{value:.2%}"


def say_of_start(session: Session, model: Artifact, *, judges: bool = True) -> None:
    """Tell where the first model's validation accuracy says little, and where it knows little.

    Args:
        session: Whose audience is told.
        model: The teacher, or what a single stage starts from.
        judges: Whether its scores are those of the items as it wants them.
    """
    if may_have_seen(session, model):
        flag = FLAGS[SEEN]
        session.listener.message(f"{model.label}: {flag.meaning}; {flag.remedy}")
    data = session.data
    if data is None or not has_class_rows(task_of(data).name):
        return
    if "validation_accuracy" in model.scores and judges:
        doubt = _doubt(model.scores, data.validation)
        if doubt:
            session.listener.message(f"{model.label}: {doubt}")


def _doubt(scores: Mapping[str, Any], validation: Split) -> str:
    """Return a sentence on a model that is hardly better than a guess, else ""."""
    counted = validation.y[validation.y != NOT_COUNTED]
    value = float(scores["validation_accuracy"])
    if not len(counted) or not np.isfinite(value):
        return ""
    shares = np.bincount(counted) / len(counted)
    frequent = float(shares.max())
    if value - frequent < LEAST_SKILL * (1 - frequent):
        return (
            f"right on {value:.2%} of {len(counted)} validation labels, where the most frequent "
            f"class alone makes {frequent:.2%}: are its weights trained, the labels those of this "
            "data, and are they classes?"
        )
    found = float(scores.get("validation_cross_entropy", 0.0))
    known = float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    if not found > known:
        return ""
    return (
        f"right on {value:.2%} of {len(counted)} validation labels, but its cross-entropy is "
        f"{found:.3g} nats, where the frequencies of the classes alone make {known:.3g}: are its "
        "outputs logits of these classes, or quantities (regression), which top-1 says nothing of?"
    )


def _cross_entropy(model: nn.Module, data: Dataset) -> float:
    """Return the mean over the first validation labels, in nats."""
    part, place = data.validation, torch.device("cpu")
    y = torch.from_numpy(np.array(part.y[:MOST_ITEMS]))
    x = part.x[:MOST_ITEMS]
    size = data.preprocessing.at_once(BATCH_SIZE)
    batches = batches_in_order(x, data.preprocessing, batch_size=size, device=place)
    total = torch.zeros(())
    with in_eval(model), torch.no_grad():
        for batch, labels in zip(batches, torch.split(y, size), strict=True):
            rows = call(model, batch).float().flatten(0, -2)
            total += functional.cross_entropy(
                rows, labels.flatten(), ignore_index=NOT_COUNTED, reduction="sum"
            )
    return float(total / (y != NOT_COUNTED).sum())
