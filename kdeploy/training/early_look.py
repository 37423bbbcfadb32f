"""An early look at a training: how good the model is on each validation item after some steps.

It looks at the average of the weights so far, not at the weights: half-way, at a high rate, these
jump about, and the average is what falling rates would bring them to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kdeploy.training.average import WeightAverage

FRACTION_KEPT = 1.0
"""The decay of the average, which then is the one that rises with the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyLook:
    """When a training is looked at."""

    fraction: float
    """Of its steps."""
    fewest_steps: int = 0
    """But not before these, where it has so many."""
    ends: bool = False
    """Whether the training is over then; its rates are those of the whole all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look came to."""

    after_steps: int
    of_steps: int
    scores: NDArray[Any]
    """Of the average on each validation item or token (N,), as `Task.item_scores` has them."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them: of bools eight to a byte, two digits to a byte."""
        steps = {"after_steps": self.after_steps, "of_steps": self.of_steps}
        if self.scores.dtype != bool:
            return {**steps, "scores": self.scores.tolist()}
        right = np.packbits(self.scores).tobytes().hex()
        return {**steps, "items": int(self.scores.size), "right": right}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Seen:
        """Return what `to_dict` wrote."""
        if "scores" in fields:
            scores = np.array(fields["scores"], np.float64)
        else:
            packed = np.frombuffer(bytes.fromhex(fields["right"]), np.uint8)
            scores = np.unpackbits(packed, count=fields["items"]).astype(bool)
        return cls(after_steps=fields["after_steps"], of_steps=fields["of_steps"], scores=scores)


class Looking:
    """Follows a training up to the step that it looks after.

    Args:
        look: When.
        student: Whose weights are averaged.
        steps: Of the whole training.
        score: Says how good the student, as it is then, is on each item.
    """

    def __init__(
        self,
        look: EarlyLook,
        student: nn.Module,
        *,
        steps: int,
        score: Callable[[], NDArray[Any]],
    ) -> None:
        self.after_steps = min(max(round(look.fraction * steps), look.fewest_steps, 1), steps)
        self.ends = look.ends
        self.of_steps = steps
        self.average = WeightAverage(student, decay=FRACTION_KEPT)
        self.seen: Seen | None = None
        self._score = score

    @classmethod
    def of(
        cls,
        look: EarlyLook | None,
        student: nn.Module,
        *,
        steps: int,
        score: Callable[[], NDArray[Any]],
    ) -> Looking | None:
        """Return what follows a training of so many steps; None where nobody wants to look."""
        return cls(look, student, steps=steps, score=score) if look and steps else None

    @property
    def is_over(self) -> bool:
        """Whether the training ends here."""
        return self.ends and self.seen is not None

    def after_step(self, step: int) -> None:
        """Take in the weights after a step, counted from 0, and look if it is the one."""
        if self.seen is not None:
            return
        self.average.update()
        if step + 1 >= self.after_steps:
            with self.average.applied():
                scores = self._score()
            self.seen = Seen(after_steps=self.after_steps, of_steps=self.of_steps, scores=scores)

    def state_dict(self) -> dict[str, Any]:
        return {
            "average": self.average.state_dict() if self.seen is None else None,
            "seen": self.seen.to_dict() if self.seen else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.seen = Seen.from_dict(state["seen"]) if state["seen"] else None
