"""Character error rate: edits that turn the texts into the true ones, by the length of those.

Over the whole set, by jiwer: the mean of the lines' own rates is another number. It may exceed 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdeploy.metrics.contract import check_texts, metric


@metric(name="ctc.cer", unit="fraction", better="lower", tasks=("ctc",))
def ctc_cer(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Return (substitutions + deletions + insertions) / length of `expected`."""
    import jiwer

    check_texts(predicted, expected)
    return float(jiwer.cer(list(expected), list(predicted)))
