"""A dynamic model in ONNX Runtime: its parts in sessions of their own, and who answers what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import Answer, Array, Given, Proof, by_name
from kdeploy.runtimes.dynamic_file import dynamic_inputs, part_paths, read_dynamic
from kdeploy.runtimes.onnx_options import cpu_options
from kdeploy.runtimes.onnx_session import OnnxSession, Options


class DynamicSession:
    """All parts opened; a batch is decided row by row, and only what goes on is computed further.

    `answered_by` says after each `infer` which part gave each row.
    """

    def __init__(self, path: Path, options: Options, providers: Sequence[Any]) -> None:
        self.file = read_dynamic(path)
        self._path = path
        paths = part_paths(path, len(self.file.parts))
        self._sessions = [OnnxSession(part, options, providers) for part in paths]
        self.inputs = dynamic_inputs(path)
        self._names = [info.name for info in self.inputs]
        self._output = self.file.parts[0].logits
        self.answered_by: NDArray[np.int64] = np.zeros(0, np.int64)

    def infer(self, given: Given) -> Answer:
        """Return the logits by their name, each row from the part that answers it."""
        known = dict(by_name(given, self._names, self._path))
        rows: NDArray[np.int64] | None = None  # of the whole batch, that are still open
        answer: Array = np.zeros(0)
        by: NDArray[np.int64] = np.zeros(0, np.int64)
        for number, part in enumerate(self.file.parts):
            logits = self._ask(number, known)
            if rows is None:
                answer, by = logits, np.zeros(len(logits), np.int64)
            else:
                answer[rows], by[rows] = logits, number
            if part.threshold is None:
                break
            is_open = ~(scores(logits, part.temperature) >= part.threshold)
            if not is_open.any():
                break
            if not is_open.all():
                known = {name: values[is_open] for name, values in known.items()}
            rows = np.arange(len(logits))[is_open] if rows is None else rows[is_open]
        self.answered_by = by
        return {self._output: answer}

    @property
    def is_early(self) -> NDArray[np.bool_]:
        """Return for each row of the last `infer` whether it left before the last part."""
        return self.answered_by < len(self.file.parts) - 1

    def infer_all(self, given: Given) -> list[Array]:
        """Return the logits of every part for every row."""
        known = dict(by_name(given, self._names, self._path))
        return [self._ask(number, known) for number in range(len(self.file.parts))]

    def proof_of_use(self) -> Proof:
        """Return what all parts together run as."""
        proofs = [session.proof_of_use() for session in self._sessions]
        operators: Counter[str] = Counter()
        for proof in proofs:
            operators.update(proof.operators)
        return Proof(
            provider=proofs[0].provider,
            eligible=sum(p.eligible for p in proofs),
            integer=sum(p.integer for p in proofs),
            is_quantized=any(p.is_quantized for p in proofs),
            sparse_eligible=sum(p.sparse_eligible for p in proofs),
            operators=dict(operators),
            settings={**proofs[0].settings, "thresholds": [p.threshold for p in self.file.parts]},
        )

    def _ask(self, number: int, known: dict[str, Array]) -> Array:
        """Return the logits of a part; all that it gives is known from then on."""
        part = self.file.parts[number]
        missing = [name for name in part.takes.values() if name not in known]
        if missing:
            raise ModelError(
                f"part {number} of {self._path} takes `{missing[0]}`, which no earlier part gives",
                hint="make it again: `kdeploy dynamic`",
            )
        given = self._sessions[number].infer({own: known[of] for own, of in part.takes.items()})
        known.update(given)
        logits = given.get(part.logits)
        if logits is None or logits.ndim != 2:
            raise ModelError(
                f"part {number} of {self._path} gives no logits (batch, classes) `{part.logits}`",
                hint="dynamic models are of classifiers of whole items",
            )
        return logits


def scores(logits: Array, temperature: float) -> Array:
    """Return the largest probability of each row of logits (batch, classes)."""
    largest = logits.max(axis=1, keepdims=True)
    return 1 / np.exp((logits - largest) / np.float32(temperature)).sum(axis=1)  # type: ignore[no-any-return]


def clear_rows(path: Path, inputs: Array, count: int) -> list[int]:
    """Return rows of inputs, about equally many a part, whose scores are far from the thresholds.

    Far is a factor of e in the odds; where no row of a part is so far, the farthest are taken.
    """
    import onnxruntime

    session = DynamicSession(
        path, lambda: cpu_options(onnxruntime, threads=1), ["CPUExecutionProvider"]
    )
    parts = session.file.parts
    by, far = np.full(len(inputs), len(parts) - 1), np.full(len(inputs), np.inf)
    for number, (part, logits) in reversed(
        list(enumerate(zip(parts[:-1], session.infer_all(inputs), strict=False)))
    ):
        apart = _log_odds(scores(logits, part.temperature)) - _log_odds(part.threshold or 0.0)
        leaves = apart >= 0
        by[leaves] = number
        far = np.where(leaves, np.abs(apart), np.minimum(far, np.abs(apart)))
    chosen: list[int] = []
    for number in range(len(parts)):
        rows = np.flatnonzero(by == number)
        clear = rows[far[rows] >= 1]
        ordered = clear if len(clear) else rows[np.argsort(-far[rows], kind="stable")]
        chosen += ordered[: -(-count // len(parts))].tolist()
    return sorted(chosen)[:count]


def _log_odds(share: Any) -> Array:
    clipped = np.clip(np.asarray(share, np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))
