"""Runs on disk, as `kdeploy run` leaves them, made of a few hand-written numbers."""

from __future__ import annotations

import json

import pytest

from benchmarks.shared.chromium import opened, program
from kdeploy.measurement import Measurement, write

MACHINE = {"id": "0123456789ab", "cpu": "Test CPU <4 cores>", "cores": 2, "ram_bytes": 2**34}


@pytest.fixture
def records_of():
    """Return a function that makes the records of one subject in some cells."""

    def make(
        label,
        *,
        p50=1e-3,
        spread=0.01,
        accuracy=0.9,
        size=1000,
        parameters=100,
        n=2000,
        profile="",
        runtimes=("onnxruntime_cpu",),
        batch_sizes=(1,),
        machine=MACHINE["id"],
        flags=(),
        artifact=None,
    ):
        subject = {"artifact": artifact or f"id-{label}", "label": label, "profile": profile}
        subject["machine"] = machine
        found = [
            Measurement(metric="size", value=size, **subject),
            Measurement(metric="parameters", value=parameters, **subject),
        ]
        for runtime in runtimes:
            place = {**subject, "runtime": runtime, "device": "cpu"}
            if accuracy is not None:
                found.append(Measurement(metric="accuracy.top1", value=accuracy, n=360, **place))
            for batch_size in batch_sizes:
                cell = {**place, "batch_size": batch_size, "threads": 1, "n": n, "flags": flags}
                time = p50 * batch_size
                bounds = {"low": time * (1 - spread), "high": time * (1 + spread)}
                found += [
                    Measurement(metric="latency.p50", value=time, **bounds, **cell),
                    Measurement(metric="latency.p99", value=2 * time, **cell),
                ]
        return found

    return make


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes a run's folder; `files` are JSON by name, dots as `_`."""

    def make(records, *, name="demo", machine=None, summary=None, comparisons=None, recipe=None):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        write(records, folder / "measurements.jsonl")
        contents = {"machine": machine, "summary": summary, "comparisons": comparisons}
        for stem, content in contents.items():
            if content is not None:
                (folder / f"{stem}.json").write_text(json.dumps(content))
        if recipe is not None:
            (folder / "recipe.yaml").write_text(recipe)
        return folder

    return make


@pytest.fixture
def write_lineage():
    """Return a function that writes the manifest of an artefact with its lineage."""

    def make(folder, steps):
        place = folder / "artifacts" / steps[-1]["id"]
        place.mkdir(parents=True)
        manifest = {"id": steps[-1]["id"], "label": steps[-1]["label"], "lineage": steps}
        (place / "manifest.json").write_text(json.dumps(manifest))

    return make


@pytest.fixture
def demo(records_of, write_run, write_lineage):
    """Return a whole run: teacher, student, the packaged INT8 file, one cell that crashed."""
    two = {"runtimes": ("onnxruntime_cpu", "openvino")}
    records = [
        *records_of("student", p50=2e-4, accuracy=0.88, size=200, parameters=20, **two),
        *records_of("teacher", p50=1e-3, accuracy=0.90, size=1000, parameters=100, **two),
        *records_of("int8", p50=1e-4, accuracy=0.87, size=50, parameters=20, profile="cpu"),
        Measurement(
            artifact="id-int8",
            label="int8",
            profile="cpu",
            runtime="openvino",
            device="cpu",
            batch_size=1,
            threads=1,
            metric="latency.p50",
            value=None,
            skipped="killed by signal 9 <after 600 s>",
        ),
    ]
    gates = [
        {"gate": "latency.p50: 5x", "value": 1e-4, "passed": True, "reason": "10.00x"},
        {"gate": "energy: <= 1mJ", "value": None, "passed": True},
        {"gate": "bundle: checksums", "value": None, "passed": True, "reason": "9 files"},
    ]
    summary = {"packaged": "id-int8", "chosen_because": "it is the smallest", "gates": gates}
    summary["stages"] = [{"artifact": "id-int8", "wall_time_s": 12.5, "cached": False}]
    folder = write_run(
        records, machine=MACHINE, summary=summary, recipe="name: demo\ngates: ['size: <= 1KB']\n"
    )
    first = {"id": "id-teacher", "label": "teacher", "stage": "train", "technique": "fit"}
    first |= {"facts": {"parameters": 100}, "scores": {"validation_accuracy": 0.95}}
    last = {"id": "id-int8", "label": "int8", "stage": "compress", "technique": "int8_ptq"}
    last |= {"parameters": {"observer": "mse", "recover": {"epochs": 5}}}
    last |= {"facts": {"parameters": 20}, "scores": {"validation_accuracy": 0.94}}
    write_lineage(folder, [first])
    write_lineage(folder, [first, last])
    return folder


@pytest.fixture(scope="module")
def page():
    """Return a page of a headless browser."""
    if program() is None:
        pytest.skip("no chromium on this machine")
    with opened() as page:
        yield page
