"""Did the teacher help? The same student learns without it for a while, and both are compared.

The control begins with the same weights and sees the same items in the same order at the same
rates, from labels alone, and ends after a part of the steps; the student was looked at after as
many. With `baseline: true` both are trained to the end.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.distill.paired import PairedDifference, paired_difference
from kdeploy.training.early_look import EarlyLook

LOOK = EarlyLook(fraction=0.08, fewest_steps=30)
"""When a student is looked at: what the control costs, and how sure the answer is."""

Verdict = Literal["helped", "no difference", "hurt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherEffect:
    """What the teacher did for the student."""

    difference: PairedDifference
    """Of the student, less the control, on the same validation items."""
    after_steps: int
    of_steps: int
    control_accuracy: float
    """The mean of its scores, then."""
    teacher_accuracy: float
    are_weights_given: bool = False
    """Whether the recipe weighs losses and labels itself."""
    reads_labels: bool = True
    """Whether the student learned from labels too, as the control did."""
    scores: str = ""
    """What the scores of items are shares of, in words; empty: items that are right."""

    @property
    def verdict(self) -> Verdict:
        """Which of the three it was: none, where the interval holds 0."""
        if self.difference.is_above:
            return "helped"
        return "hurt" if self.difference.is_below else "no difference"

    @property
    def sentence(self) -> str:
        """Say it, with the interval, and what to do about it."""
        found = self.difference
        unit = f"pp of {self.scores}" if self.scores else "pp"
        points = (
            f"{100 * found.value:+.1f} {unit} ({100 * found.low:+.1f} to {100 * found.high:+.1f}"
        )
        is_whole = self.after_steps == self.of_steps
        when = "trained to the end" if is_whole else f"after {self.after_steps} of {self.of_steps}"
        when = when if is_whole else f"{when} steps"
        where = f"{points}, 95 %; {found.n} validation items, {when})"
        if self.verdict == "helped":
            return f"the teacher helped by {where}"
        if self.verdict == "hurt":
            return f"the teacher hurt by {where}: {self._remedy}"
        further = "" if is_whole else "; `distill.baseline: true` compares both at the end"
        return f"the teacher made no difference that shows: {where}{further}"

    @property
    def _remedy(self) -> str:
        # Elsewhere the mean over items is not what the teacher's score is.
        if not self.scores and self.teacher_accuracy <= self.control_accuracy:
            return (
                f"it is right on {self.teacher_accuracy:.1%} of them, the student without it on "
                f"{self.control_accuracy:.1%}; train the teacher longer, name a better one, or "
                "train the student alone"
            )
        if not self.reads_labels:
            return (
                "the student read no labels, and these were compared with: where items have "
                "labels, leave `scheme: unlabelled` out"
            )
        if self.are_weights_given:
            return (
                "leave `weight` and `label_weight` out, so that the teacher's part is balanced "
                "with the labels'"
            )
        return "lower its part, e.g. `label_weight: 1` and `losses: [{kd: {weight: 0.2}}]`"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them, with verdict and sentence."""
        return {**asdict(self), "verdict": self.verdict, "sentence": self.sentence}


def effect_of(
    student: NDArray[Any],
    control: NDArray[Any],
    *,
    after_steps: int,
    of_steps: int,
    teacher_accuracy: float,
    are_weights_given: bool = False,
    reads_labels: bool = True,
    scores: str = "",
) -> TeacherEffect:
    """Return what the teacher did, by the scores of both on the same validation items.

    Args:
        student: Scores (N,), as `Task.item_scores` has them.
        control: Those of the student without a teacher.
        after_steps: Both were looked at.
        of_steps: The whole training.
        teacher_accuracy: The task's score of the teacher on the same items.
        are_weights_given: Whether the recipe weighs losses and labels itself.
        reads_labels: Whether the student learned from labels too.
        scores: What scores are shares of, in words; empty: items that are right.
    """
    return TeacherEffect(
        difference=paired_difference(student, control),
        after_steps=after_steps,
        of_steps=of_steps,
        control_accuracy=float(control.mean()) if control.size else 0.0,
        teacher_accuracy=teacher_accuracy,
        are_weights_given=are_weights_given,
        reads_labels=reads_labels,
        scores=scores,
    )


def too_weak(teacher_accuracy: float, labels: NDArray[np.int64]) -> str | None:
    """Return a sentence where a teacher is hardly better than the commonest class alone.

    Args:
        teacher_accuracy: On the validation part.
        labels: Of the validation items that count.
    """
    if not labels.size:
        return None
    commonest = float(np.bincount(labels).max()) / labels.size
    error = (commonest * (1 - commonest) / labels.size) ** 0.5  # standard error of a fraction
    if teacher_accuracy > commonest + 2 * error:
        return None
    return (
        f"the teacher is too weak to help: it is right on {teacher_accuracy:.1%} of the validation "
        f"items, and the commonest class alone would be on {commonest:.1%}"
    )
