"""The teacher that remembers: what it said of each item and view, kept in files.

The key is a digest of the teacher, the data, how its views are made, the layers asked for and the
arithmetic; never the item's number alone. A view is answered for in fixed blocks before its epoch
starts, so that an answer does not depend on the order of the training, nor on whether it was there
already: a resumed training, or one of another seed, reads the very same numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.distill.teacher_cache import (
    ALL_LOGITS,
    CacheLayout,
    KeptLogits,
    TeacherCache,
    TooLarge,
)
from kdeploy.distill.teacher_protocol import TeacherOutput, TeacherProtocol
from kdeploy.preprocessing import MOST_NUMBERS
from kdeploy.torch_module.finite import check_answers
from kdeploy.training.contract import Batch
from kdeploy.training.views import BLOCK, View

PIECE = 64
"""Items that a teacher on a CPU is asked for at once: features stay in the cores' caches."""
logger = logging.getLogger(__name__)


class SeveralOutputs(Exception):
    """Answers that are no single tensor are not kept."""


class CachedTeacher:
    """TeacherCache out of files where the batch is of a countable view, else as the live teacher.

    Args:
        live: Who is asked for what is not known yet.
        folder: Where the files lie; answers of other teachers may lie there too.
        budget_bytes: The folder is kept below it; features that do not fit are asked for live.
        kept: What is kept of logits.
    """

    def __init__(
        self,
        live: TeacherProtocol,
        folder: Path,
        *,
        budget_bytes: float,
        kept: KeptLogits = ALL_LOGITS,
    ) -> None:
        self.live = live
        self.folder = folder
        self.budget_bytes = budget_bytes
        self.kept = kept
        self.models: Sequence[nn.Module] = live.models
        # Rounded answers are other answers: a checkpoint of the live teacher is not resumed with
        # them.
        self.fingerprint = f"{live.fingerprint} as float16, {kept.told()}"
        self.is_repeatable = live.is_repeatable
        self._is_compiled = False
        self._answers: TeacherCache | None = None
        self._is_too_large = False
        self._most = BLOCK
        """Items whose answers are held at once."""

    def __call__(self, batch: Batch, paths: Sequence[str]) -> TeacherOutput:
        """Return the logits and the features at the paths."""
        if batch.view < 0 or self._answers is None:
            return self.live(batch, paths)
        logits, *features = self._answers.read(batch.view, batch.rows, batch.x.device)
        return TeacherOutput(logits, dict(zip(paths, features, strict=True)))

    def run_on(self, batch: Batch, features: Mapping[str, Tensor]) -> Any:
        """Return the live teacher's answer where its layers return these tensors."""
        return self.live.run_on(batch, features)

    def prepare(self, view: View, paths: Sequence[str]) -> None:
        """Answer for all items of the view that are not known yet."""
        if self._is_too_large:
            return
        try:
            if self._answers is None:
                self._answers = self._opened(view, paths)
            self._fill(self._answers, view, paths)
        except SeveralOutputs as error:
            logger.info("%s", error)
            self._answers, self._is_too_large = None, True
        except (TooLarge, OSError) as error:
            logger.warning("the teacher is asked live on every batch: %s", error)
            self._answers, self._is_too_large = None, True

    def compile(self) -> None:
        self._is_compiled = True
        self.live.compile()

    def apply(self, function: Callable[..., Any], *, recurse: bool) -> None:
        self.live.apply(function, recurse=recurse)

    def _opened(self, view: View, paths: Sequence[str]) -> TeacherCache:
        place, x = next(view.blocks())
        if not x.is_floating_point():  # of tokens: each may be answered with a whole vocabulary
            known = self._asked(x[:1], slice(place.start, place.start + 1), -1, paths)
            self._most = max(1, MOST_NUMBERS // sum(tensor.numel() for tensor in known))
        # A piece of the usual size: the teacher is compiled for the first size that it sees.
        tensors = self._asked(x[: self._size(x)], place, -1, paths)
        forms = [CacheLayout(tuple(t.shape[1:])) for t in tensors]
        # With all classes but one kept, the sum of the others is that one.
        if self.kept.samples or (self.kept.top_k or 0) in range(1, forms[0].shape[-1] - 1):
            forms[0] = CacheLayout(forms[0].shape, self.kept)
        key = self._key(view, paths, x.device.type)
        logger.info("the teacher's answers to an item: %d bytes", 2 * sum(f.width for f in forms))
        return TeacherCache(
            self.folder / key,
            forms,
            views=view.count,
            items=len(view.items),
            budget_bytes=self.budget_bytes,
        )

    def _fill(self, answers: TeacherCache, view: View, paths: Sequence[str]) -> None:
        if answers.is_complete(view.index):
            return
        with answers.writing(view.index) as write:
            for place, x in view.blocks():
                if not write.has(place):
                    for start in range(0, len(x), self._most):
                        stop = min(start + self._most, len(x))
                        part = slice(place.start + start, place.start + stop)
                        write.part(part, self._asked(x[start:stop], part, view.index, paths))
                    write.whole(place)
                view.passed(place.stop, len(view.items))

    def _asked(self, x: Tensor, place: slice, view: int, paths: Sequence[str]) -> list[Tensor]:
        """Return the live teacher's outputs for a block, asked a piece at a time."""
        size = self._size(x)
        pieces = []
        for start in range(0, len(x), size):
            part = slice(place.start + start, min(place.start + start + size, place.stop))
            asked = x[start : start + size]
            known = self.live(_batch(asked, part, view), paths)
            if not isinstance(known.logits, Tensor):
                raise SeveralOutputs("a teacher of several outputs is asked live on every batch")
            if x.device.type != "cpu":  # where the live one does not look
                model, numbers = self.models[0], torch.arange(part.start, part.stop)
                check_answers(
                    model, asked, known.logits, name="teacher", part="training", numbers=numbers
                )
            pieces.append([known.logits, *(known.features[path] for path in paths)])
        return [torch.cat(outputs) for outputs in zip(*pieces, strict=True)]

    def _size(self, x: Tensor) -> int:
        return min(PIECE if x.device.type == "cpu" else len(x), self._most)

    def _key(self, view: View, paths: Sequence[str], device: str) -> str:
        is_cast = torch.is_autocast_enabled(device)
        precision = torch.get_autocast_dtype(device) if is_cast else "float32"
        arithmetic = (
            device,
            precision,
            min(PIECE, self._most),
            self._is_compiled,
            torch.__version__,
        )
        facts = (self.fingerprint, view.fingerprint, *paths, *arithmetic)
        return sha256("\n".join(map(str, facts)).encode()).hexdigest()[:32]


def _batch(x: Tensor, place: slice, view: int) -> Batch:
    rows = torch.arange(place.start, place.stop)
    return Batch(x=x, labels=torch.zeros(0, dtype=torch.int64), rows=rows, view=view)
