"""Agreement of texts: the character error rate with another model's texts as the truth."""

from __future__ import annotations

from collections.abc import Sequence

from kdeploy.metrics.contract import check_texts, metric


@metric(name="agreement.cer", unit="fraction", better="lower", tasks=("ctc",))
def agreement_cer(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Return (substitutions + deletions + insertions) / length of `expected`, over all texts."""
    import jiwer

    check_texts(predicted, expected)
    if not any(expected):
        return float(any(predicted))
    return float(jiwer.cer(list(expected), list(predicted)))
