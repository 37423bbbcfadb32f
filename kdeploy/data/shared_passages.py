"""Passages that several documents share, by hashes of their runs of characters.

A document that repeats another is no test of what was learned from that one: Lee et al., ACL 2022,
arXiv:2107.06499. Hashes of runs are kept by their own value (Broder, 1997), so equal passages are
found wherever they stand, and a corpus needs a fraction of its size.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

RUN = 128
"""Bytes of a passage, without white space: about 25 words of English."""
KEPT = 8
"""One hash of so many is kept, chosen by its value."""
SHARED = 0.5
"""Two documents belong together where so much of the shorter one stands in the other."""
MOST_OWNERS = 32
"""What stands in more documents than these is a heading or a licence, and links nothing."""
AT_ONCE = 2**22
"""Runs that are hashed in one go, which takes 40 bytes each."""
BASE, MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd; of splitmix64 and of Widynski
INVERSE = pow(BASE, -1, 2**64)

Hashes = NDArray[np.uint64]


def passages(text: str) -> Hashes:
    """Return the kept hashes of a text's runs, each once; of a short text that of the whole."""
    read = np.frombuffer(text.encode(errors="replace"), np.uint8)
    letters = read[read > ord(" ")]
    if len(letters) < RUN:
        return np.array([zlib.crc32(letters.tobytes())], np.uint64)[: len(letters)]
    starts = range(0, len(letters) - RUN + 1, AT_ONCE)
    return np.unique(np.concatenate([_kept(letters[s : s + AT_ONCE + RUN - 1]) for s in starts]))


def _kept(letters: NDArray[np.uint8]) -> Hashes:
    """Return those hashes of all runs of some bytes that are kept."""
    powers = _powers(BASE, len(letters))
    sums = np.concatenate(([np.uint64(0)], np.cumsum(letters * powers, dtype=np.uint64)))
    count = len(letters) - RUN + 1
    rolled = (sums[RUN:] - sums[:-RUN]) * _powers(INVERSE, count)
    mixed = (rolled ^ (rolled >> np.uint64(32))) * np.uint64(MIX)
    mixed ^= mixed >> np.uint64(32)
    chosen: Hashes = mixed[mixed % np.uint64(KEPT) == 0]
    return chosen


def repeated(texts: Iterable[str], known: Iterable[str]) -> float:
    """Return the share of the texts' passages that stand in known texts too, 0 to 1."""
    asked, others = _joined(texts), _joined(known)
    return float(np.isin(asked, others).mean()) if len(asked) else 0.0


def groups(texts: Sequence[str]) -> list[int]:
    """Return for each text the place of the first one that it belongs together with, or its own.

    Texts belong together that share passages, and those that one of them shares passages with.
    """
    found = [passages(text) for text in texts]
    first = list(range(len(texts)))
    for (one, other), count in _pairs(found).items():
        if count >= SHARED * min(len(found[one]), len(found[other])):
            heads = sorted((_head(first, one), _head(first, other)))
            first[heads[1]] = heads[0]
    return [_head(first, place) for place in range(len(texts))]


def _pairs(found: Sequence[Hashes]) -> Counter[tuple[int, int]]:
    """Return how many passages two texts share, by their places, where they share any."""
    hashes = np.concatenate(found) if found else np.zeros(0, np.uint64)
    owners = np.repeat(np.arange(len(found)), [len(some) for some in found])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    starts = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] + np.uint64(1)))
    counts = np.diff(starts, append=len(hashes))
    counted: Counter[tuple[int, int]] = Counter()
    for count in range(2, MOST_OWNERS + 1):
        first, second = np.triu_indices(count, 1)
        alike = owners[starts[counts == count, None] + np.arange(count)]
        pairs = alike[:, first] * len(found) + alike[:, second]
        for pair, number in zip(*np.unique(pairs, return_counts=True), strict=True):
            counted[divmod(int(pair), len(found))] += int(number)
    return counted


def _head(first: list[int], place: int) -> int:
    while first[place] != place:
        place = first[place]
    return place


def _joined(texts: Iterable[str]) -> Hashes:
    found = [passages(text) for text in texts]
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _powers(base: int, count: int) -> Hashes:
    """Return the powers 0 to count - 1 of a base, modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
