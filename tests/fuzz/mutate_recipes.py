"""Recipes that nobody meant: one valid recipe, changed at random in its values or in its text.

`mutants(seed, count)` gives them with the name of what was done; `read` takes one of them: it
returns, or raises a KdeployError. Anything else that happens is a fault of kdeploy.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from kdeploy.recipe.read import load, to_yaml
from tests.fuzz.places import places_of

VALID = """\
name: fuzzed
seeds: [0, 1]
data: {name: digits, size: 16, validation_fraction: 0.1, augment: [random_crop]}
teacher:
  build: build.py:net
  weights: teacher.safetensors
  args: {width: 8, layers: [1, 2], names: {a: b}}
  train: {epochs: 3, learning_rate: 0.1, clip_norm: null, channels_last: true}
student: {build: build.py:net, args: {width: 4}}
distill:
  scheme: {offline: {}}
  epochs: 2
  label_weight: {linear: {start: 0.9, end: 0.1}}
  cache_budget: 1GB
  losses:
    - {kd: {temperature: 4.0, weight: 0.9, standardize: true}}
    - {hints: {weight: 1.0, layers: {"1": "1"}}}
compress:
  - prune_channels: {target: {macs: 0.5}, importance: l1, recover: {epochs: 1}}
  - int8_qat: {epochs: 3, profile: cpu, max_drop: 1.0pp}
export:
  - onnx: {profile: cpu}
bench:
  runtimes: [torch_eager, onnxruntime_cpu]
  batch_sizes: [1, 8]
  threads: [1, null]
  scenarios: [single_stream, server]
  latency_limit: 15ms
  sizes: [16, 16x16]
gates: ["accuracy.top1: -1.0pp", "latency.p50: <= 2ms", "size: 3x", "size: +5%"]
package: {budgets: ["peak_memory: <= 128MB"]}
"""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.5, 1e-320, 1e308,
    float("inf"), float("-inf"), float("nan"), "", " ", "x", "a:b", "build.py:net", "../..", "/",
    "~", "~nobody", "\0", "a\0b", "\ud800", "\x1b[31m", "[/red]", "x" * 300, "x" * 5000,
    "/".join("y" * 3000), "9" * 5000, "1e999ms", "inf", "nan", "-1", "1e400", "onnx:", ":", "::",
    "torchvision:", "timm:", "onnx:x.onnx", "transformers:x", "2001-99-99", "latency.p50: <= 1e999",
    "latency.p50" + " " * 199, "x" * 150 + "x" * 150, "16x" * 50, "²", "٣", [], [None], [[]], [1],
    ["x"], ["x"] * 3000, {}, {"x": 1}, {"": 1}, {"x": {}}, {"x": None}, {"epochs": None},
    {"offline": 1}, {"kd": []}, {"linear": 3}, {"linear": {"start": "x"}}, [{"kd": {}, "mse": {}}],
    {"macs": "much"}, {"build": 1}, {"name": 1},
)  # fmt: skip

SIGNS = tuple(b"|{|[|&a |*a |!!int |? |\0|- |<<: |: |'".split(b"|"))

DOCUMENTS: dict[str, bytes] = {
    "nested aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (new, new, b",".join([b"*%c" % old] * 9))
        for old, new in zip(b"abcdefgh", b"bcdefghi", strict=True)
    ),
    "nested merges": b"a: &a {k: 1, l: 2}\n"
    + b"".join(
        b"%c: &%c {<<: [%s]}\n" % (new, new, b",".join([b"*%c" % old] * 9))
        for old, new in zip(b"abcdefgh", b"bcdefghi", strict=True)
    ),
    "an alias of itself": b"data: &a [*a]",
    "a merge of itself": b"data: &a {<<: *a}",
    "a date that is none": b"name: 2001-99-99",
    "a wrong number": b"seed: !!int abc",
    "an empty number": b"seed: !!int ''",
    "many digits": b"seed: " + b"9" * 5000,
    "many hexadecimal digits": b"seed: 0x" + b"f" * 100_000,
    "many sexagesimal digits": b"seed: " + b"1:" * 100_000 + b"1",
    "a list as key": b"[a]: 1",
    "a mapping as key": b"? {a: 1}\n: 2",
    "a null as key": b"~: 1",
    "numbers as keys": b"1: 1\n2.5: 1\ntrue: 1",
    "a key twice": b"seed: 1\nseed: 2",
    "a merge": b"data: &d {name: digits}\nteacher: {<<: *d}",
    "a merge of a number": b"teacher: {<<: 3}",
    "deep lists": b"data: " + b"[" * 3000,
    "deep lists, closed": b"data: " + b"[" * 3000 + b"]" * 3000,
    "deep lines": b"- " * 3000 + b"a",
    "deep mappings": b"".join(b" " * i + b"a:\n" for i in range(600)),
    "deep questions": b"? " * 3000,
    "a zero byte": b"name: a\0b",
    "an escaped zero byte": b'teacher: {build: "a\\0b:net"}\ndata: {name: digits}',
    "an escaped surrogate": b'name: "\\ud800"',
    "a byte-order mark": b"\xef\xbb\xbf" + VALID.encode(),
    "UTF-16": VALID.encode("utf-16"),
    "Latin-1": b"name: M\xfcller",
    "a tab": b"data:\n\tname: digits",
    "infinity": b"distill: {label_weight: .inf}",
    "not a number": b"distill: {label_weight: .nan}",
    "a set": b"data: !!set {digits}",
    "an ordered map": b"data: !!omap [name: digits]",
    "a binary": b"name: !!binary aGk=",
    "a timestamp": b"name: !!timestamp 2001-01-01",
    "a wrong boolean": b"name: !!bool abc",
    "a Python object": b"name: !!python/object/apply:os.getpid []",
    "a long tag": b"name: !" + b"x" * 5000 + b" 1",
    "an equals sign": b"name: =",
    "two documents": b"name: a\n---\nname: b",
    "nothing": b"",
    "spaces": b" " * 100_000,
    "one long value": b"name: " + b"x" * 100_000,
    "one long value at a wrong place": b"data: " + b"x" * 100_000,
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(20_000)),
    "a megabyte": b"#" * 1024 * 1024,
    "noise": bytes(range(256)) * 20,
}  # fmt: skip


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` documents by name: the known ones first, then changes at random."""
    for number, (name, document) in enumerate(DOCUMENTS.items()):
        if number == count:
            return
        yield name, document
    chance = random.Random(seed)
    for number in range(count - len(DOCUMENTS)):
        change = chance.choice((_value, _value, _value, _key, _moved, _bytes, _lines))
        yield f"{change.__name__[1:]} {seed}.{number}", change(chance)


def read(document: bytes) -> None:
    """Read a recipe as `kdeploy run` does; what was accepted reads back as the same recipe."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(document)
        path.with_name("teacher.safetensors").touch()
        resolved = to_yaml(load(path))
        path.write_text(resolved, encoding="utf-8")
        again = to_yaml(load(path))
    assert again == resolved, "a resolved recipe reads back as another one"


def _value(chance: random.Random) -> bytes:
    given, places = _places()
    holder, key = chance.choice(places)
    holder[key] = copy.deepcopy(chance.choice(VALUES))
    return _written(given)


def _key(chance: random.Random) -> bytes:
    given, places = _places()
    holder, key = chance.choice([p for p in places if isinstance(p[0], dict)])
    new = chance.choice(("x", "", "~", 1, 1.5, True, None, "x" * 5000, key + "s", key[:-1], "\0"))
    holder[new] = holder.pop(key)
    return _written(given)


def _moved(chance: random.Random) -> bytes:
    """Put what stands at one place at another, or nothing there."""
    given, places = _places()
    holder, key = chance.choice(places)
    other, name = chance.choice(places)
    if chance.random() < 0.3:
        del holder[key]
    else:
        holder[key] = copy.deepcopy(other[name])
    return _written(given)


def _bytes(chance: random.Random) -> bytes:
    text = bytearray(VALID.encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        cut = chance.choice((0, 0, 1, chance.randint(1, 30)))
        text[at : at + cut] = chance.choice((*SIGNS, bytes([chance.randrange(256)])))
    return bytes(text)


def _lines(chance: random.Random) -> bytes:
    lines = VALID.splitlines()
    at, other = (chance.randrange(len(lines)) for _ in range(2))
    what = chance.choice(("swap", "double", "indent", "cut"))
    if what == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif what == "double":
        lines.insert(other, lines[at])
    elif what == "indent":
        lines[at] = " " * chance.randint(1, 4) + lines[at]
    else:
        lines = lines[:at]
    return "\n".join(lines).encode()


def _places() -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """Return the valid recipe as values, and every place in it: a container and a key of it."""
    given = yaml.safe_load(VALID)
    return given, places_of(given)


def _written(given: Any) -> bytes:
    return yaml.safe_dump(given, allow_unicode=False).encode("utf-8", "surrogatepass")
