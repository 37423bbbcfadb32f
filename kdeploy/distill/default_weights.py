"""The losses and weights of a distillation where a recipe leaves some of them out.

Where it says nothing, they are the ones that helped every student of a panel of pairs
(`benchmarks/suites/distillation_defaults.py`). Where it names losses and no weights, these follow
from the gradients while the student learns (`gradient_balance`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kdeploy import registry
from kdeploy.tasks.contract import facts_of, is_classification

DEFAULT_LOSSES: tuple[dict[str, dict[str, float]], ...] = (
    {"dist": {"temperature": 2.0, "weight": 1.0}},
)
"""A correlation does not ask for the scale of the teacher's logits, which a short training has no
time to reach: `kd` at any temperature hurt students of few steps or of a weak teacher."""
OF_TWO_CLASSES: Mapping[str, float] = MappingProxyType({"temperature": 2.0, "weight": 1.0})
"""The keys of a divergence. Of two classes the correlation over an item's classes is 1 or -1
whatever they are, and that over a batch says nothing of the threshold between them: items were in
order, and half of them wrong."""
DEFAULT_LABEL_WEIGHT = 1.0
"""Beside the default losses."""
BESIDE_ANSWERS = 0.1
"""Of the labels beside losses on outputs, which tell the classes too; the papers' usual weight."""
BESIDE_FEATURES = 1.0
"""Of the labels beside losses that tell no class: without them nobody else would."""


def usual_losses(task: str, *, are_two: bool = False) -> tuple[Mapping[str, Any], ...]:
    """Return the losses, with weights, of a recipe that says nothing; none where they have none.

    Args:
        task: Its name.
        are_two: Whether there are two classes.
    """
    facts, is_of_items = facts_of(task), is_classification(task)
    if not is_of_items and not facts["taught"]:
        return ()
    if are_two:
        return ({str(facts["loss"]): dict(OF_TWO_CLASSES)},)
    return DEFAULT_LOSSES if is_of_items else (facts["taught"],)


def with_all_weights(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of a recipe with every weight, if it gives any; else as it is.

    Args:
        given: Keys as people wrote them, not checked yet: what cannot be is left as it is.
    """
    if given.get("losses") is None and given.get("label_weight") is None:
        chosen = {"losses": list(DEFAULT_LOSSES), "label_weight": DEFAULT_LABEL_WEIGHT}
        # Both or neither: the default losses were chosen beside labels of this weight.
        return {**given, **chosen}
    losses = given.get("losses", list(DEFAULT_LOSSES))
    entries = list(losses) if isinstance(losses, list | tuple) else []
    weighted = [name for entry in entries for name, keys in _keys(entry).items() if _weight(keys)]
    label_weight = given.get("label_weight")
    if label_weight is None and not weighted:
        return dict(given)
    if label_weight is None:
        tells = any(map(_tells_classes, weighted))
        label_weight = BESIDE_ANSWERS if tells else BESIDE_FEATURES
    filled = [_filled(entry) for entry in entries]
    return {**given, "label_weight": label_weight, "losses": filled if entries else losses}


def _keys(entry: Any) -> Mapping[str, Any]:
    if isinstance(entry, str):
        return {entry: {}}
    return entry if isinstance(entry, Mapping) else {}


def _weight(keys: Any) -> bool:
    return isinstance(keys, Mapping) and keys.get("weight") is not None


def _filled(entry: Any) -> Any:
    if not isinstance(entry, str | Mapping):
        return entry
    return {
        name: {**(keys or {}), "weight": 1.0}
        if isinstance(keys or {}, Mapping) and not _weight(keys)
        else keys
        for name, keys in _keys(entry).items()
    }


def _tells_classes(name: str) -> bool:
    known = registry.techniques("loss").get(name)
    return known is not None and known.facts.get("needs", "logits") == "logits"
