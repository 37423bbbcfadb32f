"""Every exporter and every CPU runtime over a zoo of differently built networks.

    python benchmarks/suites/export_zoo.py [NAME ...] [--out FILE] [--without torch_compile]

A network of `benchmarks/shared/small_zoo.py` at a time, float and INT8 (`int8_ptq`, `int8_dynamic`
for recurrent ones): each exporter writes its file behind the parity gate, and each runtime of the
processor that opens the file proves its kernels and is timed for a moment at batch 1, one thread.
Weights and inputs are noise: parity and kernels are what is measured; times are medians of a short
loop, beside other work they mean little. One line of JSON a (network, precision, exporter) goes to
the file, those that are there are skipped: delete a line to run it again. Ends with the table of
all lines as markdown, beside the file; exits 1 where a file failed the parity gate.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.shared.running import add_row, rows_of
from benchmarks.shared.small_zoo import ZOO, items, network
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset
from kdeploy.errors import KdeployError, ParityFailed
from kdeploy.export.run import export
from kdeploy.preprocessing import Inputs
from kdeploy.registry import techniques
from kdeploy.runtimes.contract import first
from kdeploy.runtimes.files import format_of
from kdeploy.runtimes.run import open_runtime, this_machine
from kdeploy.store.artifact import write_manifest
from kdeploy.store.model_io import save_model
from kdeploy.store.references import ModelReference

NUM_ITEMS = 32
# One way a row to write each kind of file; TensorRT's needs its GPU and is declined without.
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in techniques("exporter")},
    "openvino fp16": ("openvino", {"compress_to_fp16": True}),
}
TORCH = "none (torch)"
PRECISIONS = ("float", "int8")
VERSIONS = ("torch", "onnx", "onnxruntime", "openvino")
VARIANTS_OF_INT8 = (TORCH, *techniques("exporter"))
SECONDS, WARM_UP, FEWEST = 0.2, 5, 10


def main() -> int:
    """Run what has no line yet, and write the table."""
    arguments = _arguments()
    logging.disable(logging.WARNING)  # what each technique has to say stands in its row
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or ZOO:
        missing = [key for key in _keys(name) if not _is_done(arguments.out, key)]
        if missing:
            for row in _rows_of_network(name, missing, arguments.without):
                print(json.dumps(row), flush=True)
                add_row(arguments.out, row)
    rows = rows_of(arguments.out)
    arguments.out.with_suffix(".md").write_text(_table(rows))
    print(_table(rows))
    return 1 if any("ParityFailed" in row.get("declined", "") for row in rows) else 0


def _keys(name: str) -> Iterator[dict[str, str]]:
    for precision in PRECISIONS:
        for exporter in (TORCH, *VARIANTS) if precision == "float" else VARIANTS_OF_INT8:
            yield {"model": name, "precision": precision, "exporter": exporter}


def _is_done(path: Path, key: Mapping[str, str]) -> bool:
    return any(key.items() <= row.items() for row in rows_of(path))


def _rows_of_network(
    name: str, keys: Sequence[dict[str, str]], without: Sequence[str]
) -> Iterator[dict[str, Any]]:
    data = items(name, NUM_ITEMS)
    models: dict[str, nn.Module | str] = {}
    for key in keys:
        precision = key["precision"]
        if precision not in models:
            models[precision] = _model(name, precision, data)
        row: dict[str, Any] = {**key, "kind": ZOO[name].kind}
        model = models[precision]
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row |= (
                {"declined": model}
                if isinstance(model, str)
                else _file(row, model, data, Path(folder), without)
            )
        yield {**row, "seconds": round(time.perf_counter() - started, 2)}


def _model(name: str, precision: str, data: Dataset) -> nn.Module | str:
    """Return the network, or why it cannot be had in that precision."""
    model = network(name)
    if precision == "float":
        return model
    technique = "int8_dynamic" if ZOO[name].kind == "recurrent" else "int8_ptq"
    return _reason_or(lambda: compress(model, technique, {}, CompressContext(data=data)))


def _file(
    row: Mapping[str, Any], model: nn.Module, data: Dataset, folder: Path, without: Sequence[str]
) -> dict[str, Any]:
    """Return what one exporter made of a model, and what each runtime made of the file."""
    found: dict[str, Any] = {}
    if row["exporter"] == TORCH:
        path = _stored(row["model"], model, data, folder)
        if isinstance(path, str):
            return {"declined": path}
    else:
        name, parameters = VARIANTS[row["exporter"]]
        path = folder / f"model{techniques('exporter')[name].facts['suffix']}"
        result = _reason_or(lambda: export(model, name, parameters, data, path))
        if isinstance(result, str):
            return {"declined": result}
        found = {"max_abs": result.max_abs, "cosine": result.cosine, "size": result.size_bytes}
    batch = data.preprocessing.apply(data.validation.x[:1])
    runtimes = {
        runtime.name: _reason_or(lambda: _run(runtime.name, path, batch))  # noqa: B023
        for runtime in techniques("runtime").values()
        if format_of(path) in runtime.facts["formats"] and runtime.facts["device"] == "cpu"
        if runtime.name not in ("fake", *without)
    }
    return {**found, "runtimes": runtimes}


def _stored(name: str, model: nn.Module, data: Dataset, folder: Path) -> Path | str:
    """Return the folder of an artefact that holds the model, as torch's runtimes take it."""
    if getattr(model, "wrapper", None):
        return "torch would emulate INT8 in floating point"
    build = f"{network.__module__}:{network.__name__}"
    entry = save_model(folder, model, ModelReference(build=build, args={"name": name}))
    about = {"name": name, "preprocessing": data.preprocessing.to_dict()}
    manifest = {"id": name, "kind": "torch", "label": name, "model": entry, "data": about}
    write_manifest(folder, manifest)
    return folder


def _run(runtime: str, path: Path, batch: Inputs) -> dict[str, Any]:
    opened = open_runtime(runtime, path, threads=1)
    try:
        seconds = _times(lambda: first(opened.infer(batch)))
        proof = opened.proof_of_use()
    finally:
        opened.close()
    settings = {k: proof.settings[k] for k in ("graphs", "graph_breaks") if k in proof.settings}
    return {
        "p50_seconds": statistics.median(seconds),
        "integer": proof.integer,
        "eligible": proof.eligible,
        **settings,
    }


def _times(call: Callable[[], object]) -> list[float]:
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def _reason_or(make: Callable[[], Any]) -> Any:
    """Return what `make` returns, or the error in one line: it is the result then."""
    try:
        return make()
    except ParityFailed as error:
        return f"ParityFailed: {error.message}"
    except KdeployError as error:
        return error.message.splitlines()[0]
    except Exception as error:  # any fault of any library is the row's result
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    machine = this_machine()
    written = [row for row in rows if "runtimes" in row]
    failed = sum("ParityFailed" in row.get("declined", "") for row in rows)
    runtimes = list(dict.fromkeys(name for row in written for name in row["runtimes"]))
    versions = ", ".join(f"{k} {v}" for k, v in machine.versions.items() if k in VERSIONS)
    head = [
        f"# Export zoo: {len({r['model'] for r in rows})} networks, {len(written)} files, "
        f"{failed} failed the parity gate",
        "",
        f"{machine.cpu}, one thread; {versions}. Batch 1, medians of a short loop. Errors in "
        "standard deviations of the output; kernels: integer of those that could be.",
        "",
        "| network | kind | precision | exporter | largest error | cosine | KiB | "
        + " | ".join(f"{r}, ms (kernels)" for r in runtimes)
        + " |",
        "|---|---|---|---|---:|---:|---:|" + "---:|" * len(runtimes),
    ]
    lines = [_line(row, runtimes) for row in rows]
    return "\n".join([*head, *lines, "", f"Command: `python {_command()}`"]) + "\n"


def _command() -> str:
    return " ".join(["benchmarks/suites/export_zoo.py", *sys.argv[1:]])


def _line(row: Mapping[str, Any], runtimes: Sequence[str]) -> str:
    cells = [row["model"], row["kind"], row["precision"], row["exporter"]]
    if "declined" in row:
        cells += [f"declined: {row['declined']}".replace("|", "/"), *[""] * (len(runtimes) + 2)]
        return f"| {' | '.join(cells)} |"
    if "max_abs" in row:
        cells += [f"{row['max_abs']:.1e}", f"{row['cosine']:.6f}", f"{row['size'] / 1024:.0f}"]
    else:
        cells += ["", "", ""]
    cells += [_cell(row["runtimes"].get(name, ""), row["precision"]) for name in runtimes]
    return f"| {' | '.join(cells)} |"


def _cell(found: Mapping[str, Any] | str, precision: str) -> str:
    if isinstance(found, str):
        return found.replace("|", "/")
    text = f"{found['p50_seconds'] * 1e3:.3f}"
    if precision == "int8":
        text += f" ({found['integer']}/{found['eligible']})"
    if "graphs" in found:
        text += f" ({found['graphs']} graphs, {found['graph_breaks']} breaks)"
    return text


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *ZOO])
    parser.add_argument("--out", type=Path, default=Path("export_zoo.jsonl"))
    parser.add_argument("--without", nargs="*", default=[], metavar="RUNTIME", help="leave out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
