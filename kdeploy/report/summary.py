"""A short markdown for CI: the verdict, broken gates, the best of each device, what changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kdeploy.gate import Verdict
from kdeploy.report.comparison import Comparison
from kdeploy.report.markup import decisions, escaped, left_out, section, table
from kdeploy.report.pareto import shortened
from kdeploy.report.table import brief_rows
from kdeploy.report.wording import title, verdict_sentence

VARIABLE = "GITHUB_STEP_SUMMARY"
MOST_ROWS = 40


def github_summary(comparison: Comparison, verdicts: Sequence[Verdict] = ()) -> str:
    """Return the summary; `verdicts` are gates that were judged elsewhere."""
    shown = shortened(comparison, MOST_ROWS)
    gates = [["passed" if v.passed else "FAILED", v.gate, v.reason] for v in verdicts]
    passed = comparison.passed and all(v.passed for v in verdicts)
    asked = bool(verdicts) or comparison.has_gates
    state = f"{'passed' if passed else 'FAILED'}: " if asked else ""
    rows = table(*brief_rows(shown))
    sections = [
        f"## {state}{escaped(title(comparison))}",
        escaped(verdict_sentence(comparison)),
        section("Gates", ["", "gate", "measured"], gates),
        *decisions(comparison),
        f"<details><summary>Measurements</summary>\n\n{rows}\n\n</details>",
        left_out(shown),
    ]
    return "\n\n".join(part for part in sections if part) + "\n"


def write_summary(text: str) -> Path | None:
    """Append to the file that GitHub Actions shows on the run's page; None outside of it."""
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    path = Path(name)
    with path.open("a") as file:
        file.write(text)
    return path
