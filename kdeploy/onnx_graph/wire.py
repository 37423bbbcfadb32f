"""Look at the bytes of an ONNX file before a parser does: how much memory they would become.

Two bytes are an empty node, and 200 bytes in memory; 100 MB of packed zeros are 800 MB of integers.
So the fields are counted on the file itself, which is mapped and not read, by the message types of
ONNX. Text that is no UTF-8 is found too: protocol buffers hand it out as bytes.

Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from functools import cache
from pathlib import Path
from typing import Any

MOST_FIELDS = 1_000_000  # a network of 10 000 nodes has 200 000
MOST_PACKED_BYTES = 64 * 2**20  # integers of one byte take up to 8 in memory
DEEPEST = 90  # messages within messages; protocol buffers refuse 100
_MESSAGE, _STRING = 11, 9
_INTEGERS = frozenset({3, 4, 5, 13, 14, 17, 18})  # of variable length
_VARINT, _EIGHT, _BLOCK, _FOUR = 0, 1, 2, 5


class Malformed(ValueError):
    """Says what of the file is not as in any ONNX file."""


def check_wire(path: Path) -> None:
    """Raise `Malformed` unless the file is a sequence of ONNX's fields that memory can hold."""
    from onnx import ModelProto

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = _Walk(data)
        walk.message(0, len(data), ModelProto.DESCRIPTOR, 0)


class _Walk:
    """Goes through messages and keeps count."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._num_fields = 0
        self._packed_bytes = 0

    def message(self, start: int, end: int, descriptor: Any, depth: int) -> None:
        fields = _fields(descriptor)
        while start < end:
            self._num_fields += 1
            if self._num_fields > MOST_FIELDS:
                raise Malformed(f"it has more than {MOST_FIELDS} fields")
            key, start = self._varint(start, end)
            number, kind = key >> 3, key & 7  # field number and wire type
            if not number:
                raise Malformed("its bytes are no fields")
            if kind == _VARINT:
                start = self._varint(start, end)[1]
            elif kind in (_EIGHT, _FOUR):
                start += 8 if kind == _EIGHT else 4
            elif kind == _BLOCK:
                length, start = self._varint(start, end)
                if start + length > end:
                    raise Malformed("it is cut off")
                if number in fields:
                    self._block(start, start + length, *fields[number], depth)
                start += length
            else:
                raise Malformed("its bytes are no fields")
        if start > end:
            raise Malformed("it is cut off")

    def _block(self, start: int, end: int, name: str, kind: int, inner: Any, depth: int) -> None:
        if kind == _MESSAGE:
            if depth >= DEEPEST:
                raise Malformed(f"its graphs lie in one another, more than {DEEPEST} messages deep")
            self.message(start, end, inner, depth + 1)
        elif kind == _STRING:
            try:
                text = self._data[start:end].decode()
            except UnicodeDecodeError:
                raise Malformed(f"a `{name}` in it is no text (UTF-8)") from None
            if "\0" in text:
                raise Malformed(f"a `{name}` in it has a character of value 0")
        elif kind in _INTEGERS:
            self._packed_bytes += end - start
            if self._packed_bytes > MOST_PACKED_BYTES:
                raise Malformed(f"it has more than {MOST_PACKED_BYTES} bytes of packed integers")

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value, shift = 0, 0
        while start < end and shift < 70:  # a 64-bit integer takes ten bytes of seven bits
            byte = self._data[start]
            start += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, start
            shift += 7
        raise Malformed("it is cut off")


@cache
def _fields(descriptor: Any) -> dict[int, tuple[str, int, Any]]:
    return {f.number: (f.name, f.type, f.message_type) for f in descriptor.fields}
