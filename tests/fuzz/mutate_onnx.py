"""ONNX files in which anyone can write anything: bytes, fields of every kind, sizes, bombs."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # noqa: F401 - imported once, before a child is forked for every mutant
import torch._dynamo
from onnx import TensorProto, helper

from kdeploy.errors import KdeployError
from kdeploy.onnx_graph.checks import content_sha256, copy_file, file_bytes, read_onnx
from kdeploy.onnx_graph.facts import count_parameters, item_shape, takes_integers
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.onnx_graph.sparse_weights import num_two_four_of_file
from kdeploy.package.bundles.onnx import Onnx
from kdeploy.package.runner.python import limits
from kdeploy.pipeline import onnx_trial
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.run import named, open_runtime
from tests.fuzz.bases import bases
from tests.fuzz.harness import apart
from tests.fuzz.values import damaged

NUMBERS = (0, 1, -1, 3, 7, 100, 2**20, 2**31 - 1, -(2**31))
LARGE = (*NUMBERS, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
TEXTS = (
    "", " ", "x", "image", "logits", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero",
    "outside.data", "x" * 5000, "[/red]", "\x1b[31m", "a/b", "-1", "abc", "9" * 30, "ai.onnx",
    "com.microsoft", "Loop", "Conv", "ConstantOfShape", "Expand", "Range", "Tile", "RandomNormal",
)  # fmt: skip
BOMBS = (
    "ConstantOfShape",
    "Expand",
    "Tile",
    "Range",
    "RandomNormal",
    "computed",
    "nodes",
    "packed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """The bytes of a file, and whether one with its tensors lies beside it."""

    content: bytes

    def write(self, folder: Path) -> Path:
        """Write it, with the data of the base beside it, and return its path."""
        shutil.copy(bases() / "onnx" / "outside.data", folder / "outside.data")
        (folder / "m.onnx").write_bytes(self.content)
        return folder / "m.onnx"


def mutants(seed: int, count: int) -> Iterator[tuple[str, File]]:
    """Yield files by what was done to them."""
    named("onnxruntime_cpu")  # imports once what opens a file
    chance = random.Random(seed)
    for number in range(count):
        way = chance.choice((_bytes, _field, _field, _field, _field, _bomb))
        about, content = way(chance)
        yield f"{way.__name__[1:]} {seed}.{number}: {about}", File(content=content)


def read(file: File) -> None:
    """Try a file as commands do before they use it; then ask every reader."""
    path = file.write(Path.cwd())
    megabytes = onnx_trial._megabytes(path)
    try:
        answer = apart(lambda: onnx_trial.attempt(path, megabytes))
    except limits.Ended as ended:
        raise onnx_trial._refused(path, str(ended), megabytes) from None
    onnx_trial.judge(path, answer, megabytes)
    errors = [error for reader in READERS if (error := _refusal(reader, path)) is not None]
    if errors:
        raise errors[0]


def _refusal(reader: Any, path: Path) -> KdeployError | None:
    try:
        reader(path)
    except KdeployError as error:
        return error
    return None


def _opened(path: Path) -> None:
    runtime = open_runtime("onnxruntime_cpu", path, threads=1)
    shape = item_shape(path)
    if 0 < np.prod(shape) < 10**6:
        first(runtime.infer(np.zeros((1, *shape), np.float32)))
    runtime.proof_of_use()


def _asked(path: Path) -> None:
    model = OnnxModel(path)
    shape = item_shape(path)
    if 0 < np.prod(shape) < 10**6:
        model(torch.zeros(2, *shape))


def _copied(path: Path) -> None:
    (path.parent / "copy").mkdir()
    copy_file(path, path.parent / "copy" / "n.onnx")
    read_onnx(path.parent / "copy" / "n.onnx")


READERS = (
    read_onnx, Onnx.facts_of, count_parameters, item_shape, takes_integers, content_sha256,
    file_bytes, num_two_four_of_file, _copied, _asked, _opened,
)  # fmt: skip


@lru_cache
def _models() -> tuple[bytes, ...]:
    return tuple(p.read_bytes() for p in sorted((bases() / "onnx").glob("*.onnx")))


def _bytes(chance: random.Random) -> tuple[str, bytes]:
    return "bytes", damaged(chance, chance.choice(_models()))


def _field(chance: random.Random) -> tuple[str, bytes]:
    """Change one to three fields, anywhere in the tree of messages."""
    model = onnx.ModelProto.FromString(chance.choice(_models()))
    about = [_changed(chance, model) for _ in range(chance.choice([1, 1, 2, 3]))]
    return ", ".join(about), model.SerializeToString()


def _changed(chance: random.Random, model: Any) -> str:
    message = chance.choice(list(_messages(model)))
    field = chance.choice(list(message.DESCRIPTOR.fields))
    name = f"{message.DESCRIPTOR.name}.{field.name}"
    is_many = field.is_repeated
    value = getattr(message, field.name)
    if field.type == field.TYPE_MESSAGE:
        _change_message(chance, message, field.name, value, is_many)
        return name
    new = _value(chance, field)
    if not is_many:
        setattr(message, field.name, new) if chance.random() < 0.8 else message.ClearField(
            field.name
        )
    elif value and chance.random() < 0.6:
        value[chance.randrange(len(value))] = new
    elif value and chance.random() < 0.5:
        del value[chance.randrange(len(value))]
    else:
        value.append(new)
    return name


def _change_message(chance: Any, message: Any, name: str, value: Any, is_many: bool) -> None:
    if not is_many:
        if message.HasField(name):
            message.ClearField(name)
        else:
            value.SetInParent()
    elif value and chance.random() < 0.4:
        del value[chance.randrange(len(value))]
    elif value and chance.random() < 0.6:
        value.append(chance.choice(list(value)))
    else:
        value.add()


def _value(chance: random.Random, field: Any) -> Any:
    if field.type == field.TYPE_STRING:
        return chance.choice(TEXTS)
    if field.type == field.TYPE_BYTES:
        return chance.choice([b"", b"\0", b"\xff" * 8, b"x" * 10_000])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return chance.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])
    if field.type == field.TYPE_ENUM:
        return chance.choice([v.number for v in field.enum_type.values])
    if field.type == field.TYPE_UINT64:
        return chance.choice([0, 1, 2**40, 2**64 - 1])
    return chance.choice(NUMBERS if field.type == field.TYPE_INT32 else LARGE)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


def _bomb(chance: random.Random) -> tuple[str, bytes]:
    """Ask for much with few bytes."""
    kind, size = chance.choice(BOMBS), chance.choice([2**28 - 1, 2**29, 2**31, 2**34, 2**40, 2**62])
    if kind == "nodes":
        body = b"\x0a\x00" * chance.choice([10**5, 2 * 10**6])
        return kind, b"\x08\x0a\x3a" + _varint(len(body)) + body
    if kind == "packed":
        zeros = b"\0" * 80_000_000
        tensor = b"\x10\x07\x3a" + _varint(len(zeros)) + zeros
        graph = b"\x2a" + _varint(len(tensor)) + tensor
        return kind, b"\x08\x0a\x3a" + _varint(len(graph)) + graph
    return f"{kind} {size}", _asking(kind, size).SerializeToString()


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _asking(kind: str, size: int) -> Any:
    """Return a network that adds the sum of a tensor of that size to its input."""
    stored = [helper.make_tensor("size", TensorProto.INT64, [1], [size])]
    stored += [helper.make_tensor("none", TensorProto.INT64, [1], [0])]
    stored += [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])]
    stored += [helper.make_tensor("start", TensorProto.INT64, [], [0])]
    stored += [helper.make_tensor("end", TensorProto.INT64, [], [size])]
    stored += [helper.make_tensor("step", TensorProto.INT64, [], [1])]
    nodes = [helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0)]
    made = {
        "ConstantOfShape": helper.make_node("ConstantOfShape", ["size"], ["huge"]),
        "Expand": helper.make_node("Expand", ["one", "size"], ["huge"]),
        "Tile": helper.make_node("Tile", ["one", "size"], ["huge"]),
        "RandomNormal": helper.make_node("RandomNormal", [], ["huge"], shape=[size]),
    }
    if kind == "Range":
        nodes.append(helper.make_node("Range", ["start", "end", "step"], ["whole"]))
        nodes.append(helper.make_node("Cast", ["whole"], ["huge"], to=TensorProto.FLOAT))
    elif kind == "computed":
        nodes.append(helper.make_node("Cast", ["sum"], ["whole"], to=TensorProto.INT64))
        nodes.append(helper.make_node("Mul", ["whole", "none"], ["nothing"]))
        nodes.append(helper.make_node("Add", ["size", "nothing"], ["asked"]))
        nodes.append(helper.make_node("ConstantOfShape", ["asked"], ["huge"]))
    else:
        nodes.append(made[kind])
    nodes.append(helper.make_node("ReduceSum", ["huge"], ["total"], keepdims=0))
    nodes.append(helper.make_node("Add", ["image", "total"], ["logits"]))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
        for name in ("image", "logits")
    ]
    graph = helper.make_graph(nodes, "bomb", ports[:1], ports[1:], stored)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
