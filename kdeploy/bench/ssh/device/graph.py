"""Count the operators of an ONNX file without the library `onnx`, which no device has.

Reads the wire format of Protocol Buffers, as far as operators go, and steps over the rest: weights
are not read. Sources: https://protobuf.dev/programming-guides/encoding, and `onnx.proto`, whose
field numbers stand below.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Union

MODEL_GRAPH = 7
GRAPH_NODE = 1
NODE_OPERATOR, NODE_ATTRIBUTE = 4, 5
ATTRIBUTE_GRAPHS = (6, 11)
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Buffer = Union[memoryview, mmap.mmap]  # noqa: UP007 - Python 3.9


def operators_of(path: Path) -> dict[str, int]:
    """Return how often each operator stands in the file's graph and the graphs inside its nodes.

    Raises:
        ValueError: it is no ONNX file, or cut off.
    """
    counts: Counter[str] = Counter()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for number, start, end in _fields(data, 0, len(data)):
                if number == MODEL_GRAPH:
                    _count(data, start, end, counts)
        except IndexError:
            raise ValueError(f"{path} is not a whole ONNX file") from None
    return dict(sorted(counts.items()))


def _count(data: Buffer, start: int, end: int, counts: Counter[str]) -> None:
    """Count the nodes of the graph between two offsets."""
    for number, node_start, node_end in _fields(data, start, end):
        if number != GRAPH_NODE:
            continue
        for part, part_start, part_end in _fields(data, node_start, node_end):
            if part == NODE_OPERATOR:
                counts[bytes(data[part_start:part_end]).decode()] += 1
            elif part == NODE_ATTRIBUTE:
                for kind, graph_start, graph_end in _fields(data, part_start, part_end):
                    if kind in ATTRIBUTE_GRAPHS:
                        _count(data, graph_start, graph_end, counts)


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each field that holds bytes, and where they begin and end."""
    while start < end:
        tag, start = _varint(data, start)
        number, wire = tag >> 3, tag & 7
        if wire == BYTES:
            size, start = _varint(data, start)
            if start + size > end:
                raise IndexError("a field longer than what it is in")
            yield number, start, start + size
            start += size
        elif wire == VARINT:
            _, start = _varint(data, start)
        elif wire in (FIXED64, FIXED32):
            start += 8 if wire == FIXED64 else 4
        else:
            raise IndexError(f"wire type {wire}")


def _varint(data: Buffer, start: int) -> tuple[int, int]:
    """Return the number that starts there, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
