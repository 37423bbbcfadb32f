"""Read the files of a bundle that nobody vouches for: sizes first, then contents.

Nothing is opened that is no plain file, nothing is parsed before its bound. Standard library only,
Python 3.9; the runner beside this file reads with it, and `kdeploy verify` with kdeploy's own copy.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUMS, SIGNATURE, MODEL = "SHA256SUMS", "SHA256SUMS.sig", "model."
"""The sums; their signature, which no sum can cover; what the names of the model and of all that
belongs to it begin with."""
DEPLOY = "deploy/"
"""The folder of what a bundle brings for the place that it goes to, copies of the model too."""
ARRAYS = ("golden/inputs.npz", "golden/outputs.npz")
MOST_FILES = 1000  # a bundle has about 13
# An ONNX file with its data inside cannot be larger than protobuf's 2 GiB.
MOST_BYTES = 2**31
MOST_TEXT_BYTES = 2**20  # of every file but the model, its copies and the golden arrays
MOST_ARRAY_BYTES = 2**28
MOST_HEADER_BYTES = 10_000
MOST_FIELDS = 1_000_000  # of an ONNX file, tensors counted once
# What zipfile raises besides its own error; a place before the file's beginning is an OSError.
_FOREIGN = (ValueError, EOFError, OSError, NotImplementedError, RuntimeError, struct.error)


class Refused(Exception):
    """Says what is wrong with a bundle."""


def check_files(folder: Path) -> dict[str, str]:
    """Return the digest of each file after comparing all of them with SHA256SUMS."""
    sizes = plain_files(folder)
    if SUMS not in sizes:
        raise Refused(f"{SUMS} is missing")
    listed = _sums((folder / SUMS).read_bytes())
    for name in sorted((sizes.keys() - {SIGNATURE}) ^ {*listed, SUMS}):
        reason = "is missing" if name in listed else f"is not listed in {SUMS}"
        raise Refused(f"{name} {reason}")
    for name, expected in listed.items():
        if sha256(folder / name) != expected:
            raise Refused(f"{name} was changed: its checksum does not hold")
    return listed


def plain_files(folder: Path) -> dict[str, int]:
    """Return the size of each file, none of which has been opened."""
    sizes = {}
    for path in _walk(folder):
        name, found = path.relative_to(folder).as_posix(), path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{name} is a link or a device, not a file")
        sizes[name] = found.st_size
        if len(sizes) > MOST_FILES:
            raise Refused(f"it has more than {MOST_FILES} files")
    check_sizes(sizes)
    return sizes


def check_sizes(sizes: dict[str, int]) -> None:
    """Refuse files that are larger than any of a bundle."""
    for name, size in sizes.items():
        most = MOST_ARRAY_BYTES if name in ARRAYS else MOST_TEXT_BYTES
        if not name.startswith((MODEL, DEPLOY)) and size > most:
            raise Refused(f"{name} has {size} bytes, more than {most}")
    if sum(sizes.values()) > MOST_BYTES:
        raise Refused(f"its files have {sum(sizes.values())} bytes, more than {MOST_BYTES}")


def _walk(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield all that is no folder; folders too many or too deep are refused on the way."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number > MOST_FILES or depth > 20:
                raise Refused(f"{folder.name}/ has more files or folders than a bundle")
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), depth + 1)
            else:
                yield Path(entry.path)


def _sums(content: bytes) -> dict[str, str]:
    if content.count(b"\n") > MOST_FILES:
        raise Refused(f"{SUMS} has more than {MOST_FILES} lines")
    listed: dict[str, str] = {}
    for number, line in enumerate(content.decode(errors="replace").split("\n")[:-1], start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([^\\\n]+)", line)
        if match is None or match[2] in listed:
            raise Refused(f"line {number} of {SUMS} is not a checksum and a new name")
        listed[match[2]] = match[1]
    return listed


def sha256(path: Path) -> str:
    """Return the digest of a file, read in pieces."""
    import hashlib  # OpenSSL, 4 MB: the process that runs the model needs none

    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()


def json_object(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object of a file."""
    try:
        found = json.loads((folder / name).read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is no JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Refused(f"{name} is no JSON object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def array_shapes(path: Path, where: str) -> list[tuple[int, ...]]:
    """Return the shapes of the arrays of an .npz file in their order, whose bytes are all there."""
    shapes = []
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not 1 <= len(entries) <= MOST_FILES:
                raise ValueError(f"it holds {len(entries)} arrays")
            for entry in entries:
                # What is not packed cannot unpack to more than its size.
                if entry.compress_type != zipfile.ZIP_STORED or not entry.filename.endswith(".npy"):
                    raise ValueError("it must hold plain arrays")
                with archive.open(entry) as file:
                    start, shape, size = npy_header(file.read(MOST_HEADER_BYTES))
                if start + size != entry.file_size or entry.file_size > path.stat().st_size:
                    raise ValueError(f"{shape} does not fit its {entry.file_size} bytes")
                shapes.append(shape)
    except (zipfile.BadZipFile, *_FOREIGN) as error:
        raise Refused(f"{where} is no plain array file: {str(error)[:200]}") from None
    return shapes


def largest(path: Path, place: int) -> float:
    """Return the largest magnitude in an array of 32-bit floats of an .npz file; of others 0."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.infolist()[place]) as file:
        head = file.read(MOST_HEADER_BYTES)
        start, _, _ = npy_header(head)
        numbers = (head[start:] + file.read()) if b"'<f4'" in head[:start] else b""
    view = memoryview(numbers[: len(numbers) // 4 * 4]).cast("f")
    return max((abs(number) for number in view), default=0.0)


def npy_header(head: bytes) -> tuple[int, tuple[int, ...], int]:
    """Return where the data of an .npy file begin, the shape, and how many bytes that asks for.

    Raises:
        ValueError: it is no such file, or holds something else than numbers.
    """
    if head[:6] != b"\x93NUMPY" or len(head) < 12 or head[6] not in (1, 2, 3):
        raise ValueError("it does not begin as an .npy file")
    form, start = ("<H", 10) if head[6] == 1 else ("<I", 12)
    (length,) = struct.unpack_from(form, head, 8)
    if start + length > len(head):
        raise ValueError("its header is cut off, or longer than 10 kB")
    try:
        header = ast.literal_eval(head[start : start + length].decode("latin1").strip())
        kind, shape = re.fullmatch(r"[<>|=]?([biuf])(\d\d?)", header["descr"]), header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise ValueError("its header cannot be read, or it holds no plain numbers") from None
    if kind is None or not isinstance(shape, tuple):
        raise ValueError(f"it holds {str(header['descr'])[:60]}, no plain numbers")
    if not all(type(n) is int and 0 <= n <= 2**40 for n in shape) or len(shape) > 32:
        raise ValueError(f"its shape is {str(shape)[:60]}")
    return start + length, shape, math.prod(shape) * int(kind[2])


def operators(path: Path) -> Iterator[str]:
    """Yield the operator of each node of an ONNX file, without reading its weights.

    Protocol buffers: ModelProto.graph is field 7, GraphProto.node 1, NodeProto.op_type 4.
    """
    budget = iter(range(MOST_FIELDS))
    with path.open("rb") as file:
        for graph in _fields(file, (0, path.stat().st_size), 7, budget):
            for node in _fields(file, graph, 1, budget):
                for start, end in _fields(file, node, 4, budget):
                    file.seek(start)
                    yield file.read(min(100, end - start)).decode(errors="replace")


def _fields(
    file: Any, place: tuple[int, int], wanted: int, budget: Iterator[int]
) -> Iterator[tuple[int, int]]:
    """Yield the place of each length-delimited field of that number."""
    start, end = place
    while start < end:
        if next(budget, None) is None:
            raise Refused(f"model.onnx has more than {MOST_FIELDS} fields")
        file.seek(start)
        head = file.read(min(30, end - start))
        key, used = _varint(head, 0)
        if key & 7 == 0:
            start += _varint(head, used)[1]
        elif key & 7 in (1, 5):
            start += used + (8 if key & 7 == 1 else 4)
        elif key & 7 == 2:
            length, used = _varint(head, used)
            if start + used + length > end:
                raise Refused("model.onnx is not an ONNX file, or only the beginning of one")
            if key >> 3 == wanted:
                yield start + used, start + used + length
            start += used + length
        else:
            raise Refused("model.onnx is not an ONNX file, or only the beginning of one")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(10):
        if at >= len(data):
            break
        value |= (data[at] & 127) << 7 * shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise Refused("model.onnx is not an ONNX file, or only the beginning of one")
