"""Texts from sequences of frames by connectionist temporal classification: reading, speech.

Graves et al., ICML 2006.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.contract import Dataset, Parts
from kdeploy.errors import DataError, ModelError
from kdeploy.tasks import usual
from kdeploy.tasks.contract import (
    Answer,
    Predictions,
    Task,
    TensorAnswer,
    described,
    judged_as,
    metrics_for,
    one_output,
    task,
)
from kdeploy.tasks.decoding.ctc import FILLER, decoded, text_of
from kdeploy.tasks.number_targets import read_each

if TYPE_CHECKING:
    from torch import Tensor

NO_TEXT = -2
"""In the first place of a text whose frames are no numbers."""


@task(metric="ctc.cer", scores="whole texts", loss="ctc_kd", without=("horizontal_flip",))
class Ctc:
    """Logits (N, frames, characters + blank); targets are texts, or places in the alphabet.

    Places (N, length) count from 0 without the blank and are filled up with -1.
    """

    name: str

    def __init__(self, *, alphabet: str = "", blank: Literal["first", "last"] = "first") -> None:
        """Keep what the recipe says.

        Args:
            alphabet: The characters in the order of the model's outputs, without the blank; has to
                be given.
            blank: Where the output stands that means none of them.
        """
        self.alphabet, self.blank = alphabet, blank
        self._frames = 0

    def read_targets(self, parts: Parts, *, where: str) -> Parts:
        twice = sorted({c for c in self.alphabet if self.alphabet.count(c) > 1})
        if twice or not self.alphabet:
            raise DataError(
                f"{where}: the alphabet has `{twice[0]}` twice"
                if twice
                else f"{where}: the task has no alphabet",
                hint="`task: {ctc: {alphabet: ...}}` names each character once",
            )
        read = read_each(parts, self._places, where=where)
        # A repeated character needs a blank between: as many frames more.
        texts = [s.y for _, s in read.named() if s.y.ndim == 2]
        # Checked once at the first answer: a text without enough frames has an infinite loss.
        self._frames = max((int(_frames(y).max(initial=0)) for y in texts), default=0)
        return read

    def to_dict(self) -> dict[str, Any]:
        return described(self, {"alphabet": self.alphabet, "blank": self._blank})

    def check_answer(self, answer: Any, data: Dataset, *, who: str) -> None:
        shape = tuple(one_output(answer, who=who).shape)
        count, wanted = len(data.train.x[:2]), len(self.alphabet) + 1
        if len(shape) != 3 or shape[0] != count or shape[2] != wanted:
            raise ModelError(
                f"{who} returns {shape}; ctc expects logits ({count}, frames, {wanted}): "
                f"{wanted - 1} characters and a blank",
                hint="items come first, then frames: `x.transpose(0, 1)` of a recurrent layer that "
                "has them the other way; the alphabet is a key of `task: {ctc: ...}`",
            )
        if shape[1] < self._frames:
            raise ModelError(
                f"{who} returns {shape[1]} frames, and the longest text needs {self._frames}: one "
                "for each character, and one between equal ones",
                hint="pool less along the text, or leave out longer texts",
            )

    def label_loss(
        self, answer: TensorAnswer, targets: Tensor, *, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the CTC loss, of each text by its length, the mean over texts."""
        import torch
        from torch.nn import functional

        logs = one_output(answer).float().log_softmax(-1).transpose(0, 1)
        lengths = (targets >= 0).sum(dim=1)
        # Places at and above the blank's move by one.
        true = torch.where(targets >= self._blank, targets + 1, targets).clamp(min=0)
        frames = torch.full_like(lengths, logs.shape[0])
        found: Tensor = functional.ctc_loss(logs, true, frames, lengths, blank=self._blank)
        return found

    distillable = usual.the_output
    logit_targets = usual.targets_as_they_are
    rows = usual.as_distillable
    right = usual.no_share

    def predictions(self, answer: Answer, targets: NDArray[Any] | None) -> Predictions:
        """Return the places that were read, (N, frames) int32, filled up with -1."""
        logits = np.asarray(one_output(answer))
        found: Predictions = decoded(logits, self._blank)
        # max of a row is NaN where any is.
        found[~np.isfinite(logits.max(axis=-1)).all(axis=1), 0] = NO_TEXT
        return found

    def expected(self, targets: NDArray[Any]) -> Predictions:
        return targets

    log_likelihoods = usual.no_likelihoods

    def metrics(
        self,
        predictions: Predictions,
        expected: Predictions,
        log_likelihoods: NDArray[np.float64] | None = None,
    ) -> dict[str, float]:
        return self._compared(self, predictions, expected)

    def agreement(self, predictions: Predictions, taught: Predictions) -> dict[str, float]:
        return self._compared(self, predictions, taught, family="agreement")

    def unreadable(self, predictions: Predictions, *, what: str = "items") -> str | None:
        bad = np.flatnonzero(predictions[:, 0] == NO_TEXT)
        if not len(bad):
            return None
        return (
            f"the frames of {len(bad)} of {len(predictions)} {what} are NaN or infinite, which is "
            f"no text (the first, counted from 0: {bad[0]})"
        )

    def item_scores(self, predictions: Predictions, expected: Predictions) -> NDArray[np.bool_]:
        """Return whether each text is read without an error."""
        sides = [[text_of(row, self.alphabet) for row in side] for side in (predictions, expected)]
        return np.array([one == other for one, other in zip(*sides, strict=True)], bool)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return the share of characters that is right: 1 - CER, at the least 0."""
        return max(0.0, 1 - metrics["ctc.cer"])

    @property
    def _blank(self) -> int:
        return 0 if self.blank == "first" else len(self.alphabet)

    def _compared(
        self, known: Task, one: Predictions, other: Predictions, *, family: str = ""
    ) -> dict[str, float]:
        if self.unreadable(one) is not None or self.unreadable(other) is not None:
            return {}
        sides = [[text_of(row, self.alphabet) for row in side] for side in (one, other)]
        return {n: m(*sides) for n, m in metrics_for(judged_as(known), family=family).items()}

    def _places(self, y: NDArray[Any], where: str) -> tuple[NDArray[np.int64], str]:
        if y.dtype.kind == "U" and y.ndim == 1:
            return self._spelled(y, where)
        if y.dtype.kind not in "iu" or y.ndim != 2:
            raise DataError(
                f"{where}: targets are {y.dtype} of shape {tuple(y.shape)}; ctc takes texts (N,) "
                "or places in the alphabet (N, length)",
                hint=f"fill shorter texts up with {FILLER}: the blank is not among the places",
            )
        wrong = np.asarray((y < FILLER) | (y >= len(self.alphabet)))
        if wrong.any():
            item, place = np.argwhere(wrong)[0]
            raise DataError(
                f"{where}: {y[item, place]} at item {item}, place {place} is none of the "
                f"{len(self.alphabet)} characters of the alphabet",
                hint=f"places count from 0 without the blank; {FILLER} fills shorter texts up",
            )
        ended = np.cumsum(y < 0, axis=1) > 0
        holes = (ended & (y >= 0)).any(axis=1)
        empty = np.asarray((y < 0).all(axis=1))
        if holes.any() or empty.any():
            item = int(np.argmax(holes | empty))
            raise DataError(
                f"{where}: the text at item {item} is "
                + ("empty" if empty[item] else f"interrupted by {FILLER}"),
                hint=f"each text has a character; {FILLER} stands after its end alone",
            )
        return y.astype(np.int64), ""

    def _spelled(self, y: NDArray[Any], where: str) -> tuple[NDArray[np.int64], str]:
        place = {character: number for number, character in enumerate(self.alphabet)}
        made = np.full((len(y), max(map(len, y), default=0)), FILLER, np.int64)
        for item, text in enumerate(map(str, y)):
            unknown = [c for c in text if c not in place]
            if unknown or not text:
                raise DataError(
                    f"{where}: the text at item {item} "
                    + (f"has `{unknown[0]}`, which is not in the alphabet" if text else "is empty"),
                    hint="add it to `alphabet`, or leave that item out; one spelling a character: "
                    "`unicodedata.normalize('NFC', text)`",
                )
            made[item, : len(text)] = [place[c] for c in text]
        return made, f"{where}: {len(y)} texts are taken as places in the alphabet"


def _frames(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many frames each text needs at least."""
    repeats = ((y[:, 1:] == y[:, :-1]) & (y[:, 1:] >= 0)).sum(axis=1)
    return np.asarray((y >= 0).sum(axis=1) + repeats)
