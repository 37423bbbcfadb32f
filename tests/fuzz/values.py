"""Values that nobody expects at a place, and changes of JSON and of bytes at random places."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**40, 2**63 - 1, -(2**63), 10**30, 10**400, 0.0, -0.5,
    1e-320, 1e308, float("inf"), float("-inf"), float("nan"), "", " ", "x", "..", "/etc/shadow",
    "../../etc/passwd", "a\0b", "\ud800", "\x1b[31m", "[/red]", "x" * 5000, "9" * 5000, "batch",
    "NaN", [], [None], [[]], [1], ["x"], [-1], [2**40, 2**40], ["x"] * 3000, [0, 0], {}, {"x": 1},
    {"": None}, {"path": 1}, [{}], [[[[[[[[1]]]]]]]],
)  # fmt: skip


def places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a JSON document."""
    inner = document.items() if isinstance(document, dict) else ()
    inner = enumerate(document) if isinstance(document, list) else inner
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(chance: random.Random, document: Any) -> tuple[Any, str]:
    """Return a copy with one value changed, taken away, moved or added; and its dotted place."""
    whole = copy.deepcopy(document)
    where = chance.choice(list(places(whole)))
    holder = whole
    for key in where[:-1]:
        holder = holder[key]
    last = where[-1]
    dotted = ".".join(str(key) for key in where)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[last]
    elif kind == 1:
        holder[last] = copy.deepcopy(_at(chance.choice(list(places(document))), document))
    elif kind == 2 and isinstance(holder[last], int | float):
        holder[last] = holder[last] * chance.choice([-1, 0.5, 10, 1e3, 1e300]) + chance.choice(
            [0, 1]
        )
    elif kind == 3 and isinstance(holder[last], str) and holder[last]:
        at = chance.randrange(len(holder[last]))
        holder[last] = holder[last][:at] + chance.choice("0/\\.: -") + holder[last][at + 1 :]
    else:
        holder[last] = copy.deepcopy(chance.choice(VALUES))
    return whole, dotted


def _at(where: tuple[Any, ...], document: Any) -> Any:
    for key in where:
        document = document[key]
    return document


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Return bytes of which some were changed, taken out, put in, doubled or cut off."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at = chance.randrange(len(data) or 1)
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif kind == 2:
            data[at:at] = chance.randbytes(chance.choice([1, 2, 16]))
        elif kind == 3:
            del data[at : at + chance.choice([1, 2, 16, 200])]
        elif kind == 4:
            data[at:at] = data[at : at + chance.choice([4, 32, 256])]
        else:
            del data[chance.randrange(len(data) // 2, len(data) + 1) :]
    return bytes(data)
