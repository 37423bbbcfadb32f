"""Where a model's likeliest next tokens are others than the teacher's, and how far it diverges.

Both answers to a few windows are compared while they are at hand, in float64, some tokens at a
time; of each token one number stays, and of the part a few examples. A difference is a near tie
where the teacher itself hardly preferred its own: its margin is the probability of its likeliest
token, less that of its second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.classes import NO_CLASS, classes_of
from kdeploy.errors import ModelError
from kdeploy.tasks.class_logits import log_probabilities, row_blocks

MOST_EXAMPLES = 12
TOKENS_BEFORE = 12
"""Of the text before an example."""
NEAR_TIE = 0.1
"""Margin of the teacher, a difference of probabilities, below which either token would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferingToken:
    """One place of the text, where the file prefers another token than the teacher."""

    window: int
    place: int
    """Of the last token that was given, counted from 0; the one after it is meant."""
    before: tuple[int, ...]
    """The last ids that were given, the newest last."""
    label: int
    """The id that the text goes on with, `NOT_COUNTED` where nobody says."""
    teacher_token: int
    teacher_probability: float
    """That the teacher gives its own choice; beside it, what the file gives that choice."""
    teacher_probability_here: float
    token: int
    probability: float
    """That the file gives its own choice."""

    @property
    def fall(self) -> float:
        """Return by how much the probability of the teacher's choice fell."""
        return self.teacher_probability - self.teacher_probability_here


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """What a comparison with the teacher found on a part."""

    num_tokens: int
    num_differing: int
    num_near_ties: int
    """Of those that differ."""
    examples: tuple[DifferingToken, ...]
    """Where the probability of the teacher's choice fell most, that one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """What was asked: ids (windows, tokens), and of each token that counts where it stands."""

    first: int
    """Place of the first window in the part."""
    ids: NDArray[Any]
    windows: NDArray[np.int64]
    """(N,), counted from the first of these."""
    places: NDArray[np.int64]
    labels: NDArray[np.int64]


class NextTokenComparison:
    """Gathers what differs, a few windows at a time."""

    def __init__(self) -> None:
        self._divergences: list[NDArray[np.float64]] = []
        self._num_differing = self._num_near_ties = 0
        self._examples: list[DifferingToken] = []

    @property
    def divergences(self) -> NDArray[np.float64]:
        """Return the KL divergence of each token from the teacher's, (N,) in nats."""
        return np.concatenate([np.zeros(0), *self._divergences])

    @property
    def found(self) -> NextTokens:
        """Return what differs so far."""
        return NextTokens(
            num_tokens=sum(map(len, self._divergences)),
            num_differing=self._num_differing,
            num_near_ties=self._num_near_ties,
            examples=tuple(self._examples),
        )

    def add(self, taught: NDArray[Any], own: NDArray[Any], asked: Windows) -> None:
        """Compare the logits (N, vocabulary) of both for the same tokens.

        Raises:
            ModelError: they are not of the same tokens.
        """
        if taught.shape != own.shape:
            raise ModelError(
                f"the teacher answers {list(taught.shape)}, the file {list(own.shape)}: logits "
                "(tokens, vocabulary) of other tokens cannot be compared",
                hint="compare models of one tokenizer and one size of the vocabulary",
            )
        for rows in row_blocks(own.shape):
            self._add(np.asarray(taught[rows]), own[rows], rows.start, asked)

    def _add(self, taught: NDArray[Any], own: NDArray[Any], first: int, asked: Windows) -> None:
        theirs, ours = classes_of(taught), classes_of(own)
        with np.errstate(invalid="ignore"):  # rows of no numbers diverge by NaN, which is told
            known, here = log_probabilities(taught), log_probabilities(own)
            self._divergences.append(_divergences(known, here))
        differs = np.flatnonzero((theirs != ours) & (theirs != NO_CLASS) & (ours != NO_CLASS))
        if not len(differs):
            return
        two = np.exp(np.partition(known[differs], -2, axis=1)[:, -2:])
        self._num_differing += len(differs)
        self._num_near_ties += int((two[:, 1] - two[:, 0] < NEAR_TIE).sum())
        before, after = (np.exp(side[differs, theirs[differs]]) for side in (known, here))
        # The earlier of equals, so that the order of blocks does not matter.
        for n in np.argsort(after - before, kind="stable")[:MOST_EXAMPLES]:
            row = int(differs[n])
            window, place = int(asked.windows[first + row]), int(asked.places[first + row])
            example = DifferingToken(
                window=asked.first + window,
                place=place,
                before=_before(asked.ids[window], place),
                label=int(asked.labels[first + row]),
                teacher_token=int(theirs[row]),
                teacher_probability=float(before[n]),
                teacher_probability_here=float(after[n]),
                token=int(ours[row]),
                probability=float(np.exp(here[row, ours[row]])),
            )
            self._examples.append(example)
        self._examples = _furthest(self._examples)


def _divergences(taught: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of p (ln p - ln q) over each row of ln p and ln q, (N,)."""
    weights = np.exp(taught)
    # What the teacher rules out adds nothing, whatever the other gives it: 0 ln 0 is 0.
    gaps = np.where(weights > 0, taught - own, 0.0)
    found: NDArray[np.float64] = (weights * gaps).sum(axis=1)
    return found


def _before(ids: NDArray[Any], place: int) -> tuple[int, ...]:
    return tuple(int(one) for one in ids[max(0, place + 1 - TOKENS_BEFORE) : place + 1])


def _furthest(examples: Iterable[DifferingToken]) -> list[DifferingToken]:
    return sorted(examples, key=lambda one: (-one.fall, one.window, one.place))[:MOST_EXAMPLES]
