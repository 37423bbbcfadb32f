"""Samples in tar files: members of one name side by side, found once, read where they lie."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError, FileMissing

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_FORM = "a sample is members of one name, side by side: `0001.jpg`, `0001.cls`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where a member's bytes lie."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes; other readers of the file are not disturbed."""
        content = os.pread(_opened(self.shard, os.getpid()), self.size, self.offset)
        if len(content) < self.size:
            raise DataError(f"{self.shard} ends early", hint="write or copy this shard anew")
        return content


@dataclass(slots=True, kw_only=True)
class Sample:
    """One sample: its members by their ending, without the dot."""

    name: str
    shard: Path
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.shard}: `{self.name}`"


def shards_of(pattern: Path) -> list[Path]:
    """Return the files that a pattern means: `{000..099}` counts, `{a,b}` lists, `*` matches.

    Raises:
        FileMissing: one is not there, or none matches.
    """
    text = str(pattern)
    found = [Path(one) for one in _expanded(text)]
    if "*" in text:
        found = sorted(match for one in found for match in one.parent.glob(one.name))
        if not found:
            raise FileMissing(f"no file matches {pattern}", hint="mend the pattern, or quote it")
    for path in found:
        if not path.is_file():
            raise FileMissing(f"there is no shard {path}", hint=f"it is one of {pattern}")
    return found


def samples_in(shards: Sequence[Path]) -> Iterator[Sample]:
    """Yield the samples of all shards, in their order.

    Raises:
        DataError: a shard is no tar file, or is compressed; or a member is there twice.
    """
    for shard in shards:
        current: Sample | None = None
        for name, member in _members(shard):
            stem, _, ending = name.rpartition("/")[2].partition(".")
            full = f"{name.rpartition('/')[0]}/{stem}".lstrip("/")
            if current is None or current.name != full:
                if current is not None:
                    yield current
                current = Sample(name=full, shard=shard)
            if ending in current.members:
                raise DataError(f"{current.where} has two members `.{ending}`", hint=_FORM)
            current.members[ending.lower()] = member
        if current is None:
            raise DataError(f"{shard} holds no samples", hint=_FORM)
        yield current


def array_of(content: bytes, where: str) -> NDArray[np.generic]:
    """Return the array of a .npy member; objects, which would be unpickled, are refused."""
    try:
        found: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{where}: the .npy is no array of numbers: {error}", hint="write it with numpy.save"
        ) from None
    return found


def _members(shard: Path) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.isfile():
                    yield info.name, Member(shard=shard, offset=info.offset_data, size=info.size)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
    except tarfile.TarError as error:
        raise DataError(
            f"{shard} is no plain tar file: {error}",
            hint="compressed shards are read from front to back only: `gunzip` them",
        ) from None


def _expanded(text: str) -> list[str]:
    parts = [""]
    last = 0
    for found in _RANGE.finditer(text):
        first, final, listed = found.groups()
        if listed is not None:
            choices = listed.split(",")
        else:
            choices = [str(n).zfill(len(first)) for n in range(int(first), int(final) + 1)]
        parts = [f"{a}{text[last : found.start()]}{b}" for a, b in product(parts, choices)]
        last = found.end()
    return [f"{part}{text[last:]}" for part in parts]


@cache
def _opened(shard: Path, process: int) -> int:
    """Return a descriptor that stays open: one for each shard and process."""
    del process
    return os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
