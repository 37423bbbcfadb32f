"""The files of a teacher's answers: float16, one row an item and view, filled a block at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import log, prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdeploy.training.views import BLOCK
from kdeploy.units import format_quantity

DONE = "done"
NEVER = -40.0
"""The logit of a class that was not drawn, beside at least 0: a chance of 4e-18."""
BLOCKS_AT_ONCE = 64
"""Marked as known together, after the disk has them."""


class TooLarge(Exception):
    """The answers do not fit the budget, or not into float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLogits:
    """What is kept of logits: all, the `top_k` largest and the rest, or drawn classes.

    Drawn classes stand for the distribution that they are drawn from: the gradient of a divergence
    at temperature 1 is right on average, whatever the tail is (Anshumann et al., ACL 2025,
    arXiv:2503.16870).
    """

    top_k: int | None = None
    samples: int | None = None

    def told(self) -> str:
        """Return what tells one way from another."""
        return f"{self.samples} draws" if self.samples else f"{self.top_k or 'all'} logits"


ALL_LOGITS = KeptLogits()


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """One output: its shape for one item, and what is kept of it."""

    shape: tuple[int, ...]
    kept: KeptLogits = ALL_LOGITS

    @property
    def top_k(self) -> int | None:
        return self.kept.top_k

    @property
    def width(self) -> int:
        """Return how many float16 numbers stand for one item."""
        if self.kept.samples is not None:
            return prod(self.shape[:-1]) * 2 * self.kept.samples  # each an int32
        if self.top_k is None:
            return prod(self.shape)
        # Values, their classes as two halves of 16 bits, and the logarithm of the others' sum.
        return prod(self.shape[:-1]) * (3 * self.top_k + 1)

    def packed(self, answer: Tensor, seed: int = 0) -> NDArray[np.float16]:
        """Return an output (items, *shape) as rows (items, width).

        Args:
            answer: The output.
            seed: Of what is drawn.

        Raises:
            TooLarge: a number is beyond float16.
        """
        answer = answer.float()
        if self.kept.samples is not None:
            drawn = _drawn(answer, self.kept.samples, seed)
            return drawn.to(torch.int32).numpy().view(np.float16).reshape(len(answer), -1)
        if self.top_k is None:
            return _halves(answer.flatten(1))
        values, classes = answer.topk(self.top_k, dim=-1)
        # -inf adds nothing to the sum of exponentials: what is kept is left out of it.
        rest = answer.scatter(-1, classes, float("-inf")).logsumexp(-1, keepdim=True)
        # float16 holds whole numbers to 2048 only; the bits of an int32 are two of its numbers.
        numbers = classes.to(torch.int32).cpu().numpy().view(np.float16)
        rows = [_halves(values), numbers, _halves(rest)]
        return np.concatenate(rows, axis=-1).reshape(len(answer), -1)

    def unpacked(self, rows: NDArray[np.float16], device: torch.device) -> Tensor:
        """Return rows (items, width) as the output (items, *shape), float32.

        Of drawn classes it is the logarithm of their shares.
        """
        if self.kept.samples is not None:
            numbers = np.ascontiguousarray(rows).view(np.int32)
            shape = (len(rows), *self.shape[:-1], self.kept.samples)
            classes = torch.from_numpy(numbers).long().reshape(shape)
            counts = torch.zeros(len(rows), *self.shape)
            counts.scatter_add_(-1, classes, torch.ones(shape))
            return counts.log().clamp_(min=NEVER).to(device, non_blocking=True)
        if self.top_k is None:
            whole = torch.from_numpy(rows).to(device, non_blocking=True).float()
            return whole.reshape(len(rows), *self.shape)
        k = self.top_k
        rows = rows.reshape(len(rows), *self.shape[:-1], 3 * k + 1)
        values, rest = (
            torch.from_numpy(np.ascontiguousarray(r)) for r in (rows[..., :k], rows[..., -1:])
        )
        classes = torch.from_numpy(np.ascontiguousarray(rows[..., k:-1]).view(np.int32)).long()
        # All others alike: they share what is left.
        others = rest.float() - log(self.shape[-1] - k)
        full = others.expand(*values.shape[:-1], self.shape[-1]).clone()
        return full.scatter_(-1, classes, values.float()).to(device, non_blocking=True)


class TeacherCache:
    """All outputs of one teacher on all views of one training part, in one folder.

    Raises:
        TooLarge: they do not fit the budget.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        forms: Sequence[CacheLayout],
        *,
        views: int,
        items: int,
        budget_bytes: float,
    ) -> None:
        self.folder, self.forms = folder, tuple(forms)
        self.items = items
        self.num_blocks = -(-items // BLOCK)
        size_bytes = 2 * views * items * sum(form.width for form in forms)  # two bytes a float16
        if size_bytes > budget_bytes:
            raise TooLarge(
                f"its answers on {views} views of {items} items take "
                f"{format_quantity(size_bytes, 'B')}, the budget is "
                f"{format_quantity(budget_bytes, 'B')} (`cache_budget`)"
            )
        _make_room(folder, budget_bytes - size_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        for index, form in enumerate(forms):
            _sized(self._file(index), 2 * views * items * form.width)
        _sized(folder / DONE, views * self.num_blocks)
        # The folder's time is when it was last asked for: `_make_room` removes the oldest.
        os.utime(folder)
        # Plain arrays over the maps: every row of a `memmap` would be made one again.
        self._tables = [
            np.asarray(np.memmap(self._file(i), np.float16, "r", shape=(views, items, form.width)))
            for i, form in enumerate(forms)
        ]

    def is_complete(self, view: int) -> bool:
        """Return whether all items of a view are known."""
        return all(self._done(view))

    def read(self, view: int, rows: Tensor, device: torch.device) -> list[Tensor]:
        """Return the outputs for some items of a view."""
        places = rows.numpy()
        return [
            form.unpacked(table[view, places], device)
            for form, table in zip(self.forms, self._tables, strict=True)
        ]

    @contextmanager
    def writing(self, view: int) -> Iterator[_Writer]:
        """Yield what writes blocks of a view; known is a block only once the disk has it."""
        with ExitStack() as opened:
            files = [
                opened.enter_context(self._file(i).open("r+b")) for i in range(len(self.forms))
            ]
            done = opened.enter_context((self.folder / DONE).open("r+b"))
            writer = _Writer(self, view, files, done)
            yield writer
            writer.flush()

    def _file(self, index: int) -> Path:
        return self.folder / f"{index}.float16"

    def _done(self, view: int) -> bytes:
        with (self.folder / DONE).open("rb") as file:
            file.seek(view * self.num_blocks)
            return file.read(self.num_blocks)


class _Writer:
    """Writes blocks by `write`, not through a memory map: a full disk is then an OSError."""

    def __init__(
        self, answers: TeacherCache, view: int, files: Sequence[BinaryIO], done: BinaryIO
    ) -> None:
        self.answers, self.view = answers, view
        self.files, self.done = files, done
        self.known = bytearray(answers._done(view))
        self.fresh: list[int] = []

    def has(self, place: slice) -> bool:
        return bool(self.known[place.start // BLOCK])

    def __call__(self, place: slice, outputs: Sequence[Tensor]) -> None:
        """Write the outputs for a whole block."""
        self.part(place, outputs)
        self.whole(place)

    def part(self, place: slice, outputs: Sequence[Tensor]) -> None:
        """Write the outputs for some items of a block, which is whole when `whole` says so."""
        seed = self.view * self.answers.items + place.start
        for form, file, output in zip(self.answers.forms, self.files, outputs, strict=True):
            rows = form.packed(output, seed)
            file.seek(2 * form.width * (self.view * self.answers.items + place.start))
            file.write(rows.tobytes())

    def whole(self, place: slice) -> None:
        """Mark a block of which all items were written."""
        self.fresh.append(place.start // BLOCK)
        if len(self.fresh) == BLOCKS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Let the disk have the blocks, then say that they are known."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())
        for block in self.fresh:
            self.done.seek(self.view * self.answers.num_blocks + block)
            self.done.write(b"\1")
        self.done.flush()
        self.fresh.clear()


def _drawn(logits: Tensor, count: int, seed: int) -> Tensor:
    """Return classes (..., count) drawn from logits (..., classes), on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    chances = logits.cpu().flatten(0, -2).softmax(-1)
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
    return drawn.reshape(*logits.shape[:-1], count)


def _halves(values: Tensor) -> NDArray[np.float16]:
    halves = values.half()
    if not torch.equal(halves.isfinite(), values.isfinite()):
        raise TooLarge("it says numbers beyond the range of float16")
    return halves.cpu().numpy()


def _sized(path: Path, size_bytes: int) -> None:
    """Make a file of zeros that takes no room yet; one that is there keeps what it holds."""
    with path.open("ab") as file:
        file.truncate(size_bytes)


def _make_room(folder: Path, left_bytes: float) -> None:
    """Remove the answers that were not asked for longest, until the others fit."""
    others: list[Any] = []
    if folder.parent.is_dir():
        # TeacherCache and nothing else: whoever named the folder may keep other things in it.
        others = [f for f in folder.parent.iterdir() if (f / DONE).is_file() and f != folder]
    sizes = {f: sum(file.stat().st_size for file in f.iterdir()) for f in others}
    for oldest in sorted(others, key=lambda f: f.stat().st_mtime):
        if sum(sizes.values()) <= left_bytes:
            return
        shutil.rmtree(oldest, ignore_errors=True)
        del sizes[oldest]
