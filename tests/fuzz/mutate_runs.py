"""Folders of runs that were damaged: one file of a whole run, changed at random.

`mutants(seed, count)` gives `FILE\\0CONTENT` with the name of what was done; `read` puts it into a
folder and draws all reports: they are drawn, or a KdeployError names the file.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kdeploy.measurement import METRICS, Measurement
from kdeploy.report.run import comparison, render
from tests.fuzz.places import places_of

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**19, 10**400, 1e308, -1e-320, float("inf"), float("nan"), "", "x",
    "\0", "\ud800", "\x1b[31m", "[/red]", "x" * 5000, "latency.p50", [], [None], [[]], ["x"], [1],
    {}, {"x": 1}, {"x": None}, {"x": {}}, [{}], [{"x": []}], {"report": {"x_bytes": "y"}},
    {"accuracy": []}, {"accuracy": [1]}, {"": [1, "x"]},
)  # fmt: skip
NOISE = (
    b"",
    b"\0",
    b"{",
    b"]" * 9,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"\xff\xfe",
    b"\n\n",
)


def files() -> dict[str, bytes]:
    """Return the files of a whole run."""
    step = {"id": "a" * 12, "label": "int8", "stage": "compress", "technique": "int8_ptq"}
    step |= {"parameters": {"profile": "cpu"}, "scores": {"validation_accuracy": 0.9}}
    report = {"kept": [{"layer": "a", "size_bytes": 3}], "sensitivity": {"a": 0.5}}
    report |= {"int4_weights": [{"layer": "a", "bits": 4, "output_error": "0.1", "why": ""}]}
    step |= {"facts": {"parameters": 10, "macs": 20, "size": 30, "sparsity": 0.5, "report": report}}
    pair = {"label": "int8", "baseline": "teacher", "runtime": "onnxruntime_cpu", "batch_size": 1}
    pair |= {"threads": 1, "metric": "latency.p50", "ratio": 2.0, "low": 1.9, "high": 2.1}
    contents = {
        "machine.json": {"id": "m", "cpu": "c", "ram_bytes": 2**30, "load": 0.5, "versions": {}},
        "machines/n.json": {"id": "n", "gpu": "g"},
        "summary.json": {
            "stages": [{"artifact": "a" * 12, "wall_time_s": 3.0, "cached": False}],
            "gates": [{"gate": "size: <= 1KB", "value": 30, "passed": True, "reason": "30 B"}],
            "packaged": "a" * 12,
            "chosen_because": "it is small",
            "cell": {"runtime": "onnxruntime_cpu"},
            "seeds": {"student": {"accuracy": [0.9, 0.8]}, "baseline": {"accuracy": [0.7, 0.6]}},
        },
        "comparisons.json": [pair],
        "proofs.json": [
            {"label": "int8", "runtime": "onnxruntime_cpu", "operators": {"Conv": 3}},
            {"label": "teacher", "runtime": "openvino", "layers": [{"name": "a", "type": "b"}]},
        ],
        "next_tokens.json": [
            {
                **{"label": "int8", "runtime": "onnxruntime_cpu", "tokens": 9, "differing": 2},
                **{"near_ties": 1, "near_tie_margin": 0.1, "divergence_nats": 0.5},
                "examples": [
                    {
                        **{"before": "a", "teacher_token": "b", "token": "c", "text_token": "d"},
                        **{"teacher_probability": 0.6, "teacher_probability_here": 0.4},
                        "probability": 0.5,
                    }
                ],
            },
        ],
        f"artifacts/{'a' * 12}/manifest.json": {**step, "lineage": [step, step]},
    }
    written = {name: json.dumps(content).encode() for name, content in contents.items()}
    recipe = b"name: run\ngates: ['size: <= 1KB']\n"
    return written | {"measurements.jsonl": _records(), "recipe.yaml": recipe}


def mutants(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` changes of one file, by name."""
    chance = random.Random(seed)
    whole = files()
    for number in range(count):
        file = chance.choice([*whole, "measurements.jsonl", "summary.json"])
        change = chance.choice((_noise, _cut, _value, _value, _value))
        changed = change(whole[file], chance)
        yield f"{change.__name__[1:]} {file} {seed}.{number}", file.encode() + b"\0" + changed


def read(mutant: bytes) -> None:
    """Draw every report of the run that has the changed file."""
    file, _, content = mutant.partition(b"\0")
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, whole in (files() | {file.decode(): content}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(whole)
        drawn = comparison([folder])
        for form in ("markdown", "html", "csv", "json"):
            render(drawn, form).encode()


def _records() -> bytes:
    place = {"runtime": "onnxruntime_cpu", "device": "cpu", "batch_size": 1, "threads": 1}
    lines = [
        Measurement(artifact=label, label=label, metric=metric, value=0.5, low=0.4, high=0.6, n=9,
                    machine="m", flags=("unstable",), **place)
        for label in ("teacher", "int8")
        for metric in METRICS
    ]  # fmt: skip
    skipped = Measurement(
        artifact="a" * 12, label="int8", metric="latency.p50", value=None, skipped="crashed",
        runtime="openvino",
    )  # fmt: skip
    return "".join(record.to_json() + "\n" for record in [*lines, skipped]).encode()


def _noise(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + chance.choice(NOISE) + content[at + chance.choice((0, 1, 9)) :]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _value(content: bytes, chance: random.Random) -> bytes:
    """Put another value at a place of the JSON, or of one line of it; YAML is cut."""
    lines = content.splitlines()
    at = chance.randrange(len(lines))
    try:
        found = json.loads(lines[at])
    except ValueError:
        return _cut(content, chance)
    holder, key = chance.choice(places_of(found))
    if chance.random() < 0.2:
        del holder[key]
    else:
        holder[key] = copy.deepcopy(chance.choice(VALUES))
    lines[at] = json.dumps(found).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)
