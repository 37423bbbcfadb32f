"""What people see of a command: tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdeploy.errors import Unavailable
from kdeploy.progress.screen import Screen, write

if TYPE_CHECKING:
    from kdeploy.gate import Verdict
    from kdeploy.report.comparison import Comparison

# Not in the terminal's table either: that most machines have no counter of energy, and that a short
# run has no p99, stands in the report.
REPORTED_ONLY = frozenset({"energy", "latency.p99"})


def out(*, is_json: bool) -> Screen:
    """Return the screen for answers: stdout, or stderr where stdout belongs to JSON.

    In a terminal it has the terminal's width; in a file lines may be as long as they are.
    """
    return Screen(stderr=is_json, width=None if sys.stdout.isatty() else 160)


def show_comparison(
    screen: Screen, comparison: Comparison, verdicts: Sequence[Verdict] = ()
) -> None:
    """Print the comparison with the baseline, and the gates."""
    from kdeploy.report.table import brief_rows, skipped_rows

    screen.print()
    screen.table(*brief_rows(comparison))
    for label, place, what, reason in skipped_rows(comparison):
        if what in REPORTED_ONLY:
            continue
        screen.print(f"skipped: {label} on {place}: {reason}")
    if verdicts:
        rows = [[v.gate, v.label, "pass" if v.passed else "FAIL", v.reason] for v in verdicts]
        screen.print()
        screen.table(["gate", "", "", ""], rows)


def show_nothing_measured(reasons: Sequence[str]) -> int:
    """Say on stderr why nothing was measured; return the exit code: something is missing here."""
    screen = Screen(stderr=True)
    screen.print("Unavailable: nothing was measured:")
    for reason in reasons:
        screen.print(f"  {reason}")
    screen.print("\nhint: `kdeploy doctor` says what runs on this machine; name such a runtime")
    return Unavailable.exit_code


def show_decisions(screen: Screen, comparison: Comparison) -> None:
    """Print what changed against another version, and the gates that were asked for."""
    from kdeploy.report.decisions import MOST_GATES, change_sentence, gate_rows

    if comparison.against:
        screen.print(change_sentence(comparison.against))
    judged = gate_rows(comparison)
    rows = [[gate, "pass" if ok else "FAIL", *texts] for ok, gate, *texts in judged[:MOST_GATES]]
    if rows:
        screen.table(["gate", "", "where", "measured"], rows)


def show_summary(
    comparison: Comparison, verdicts: Sequence[Verdict] = (), *, is_json: bool
) -> None:
    """Hand the markdown for CI to GitHub Actions, or print it where that is not running."""
    from kdeploy.report.summary import github_summary, write_summary

    text = github_summary(comparison, verdicts)
    path = write_summary(text)
    if path is None:
        write(text, stderr=is_json)
    else:
        out(is_json=is_json).print(f"appended to {path}")


def show_checks(screen: Screen, checks: Sequence[Mapping[str, Any]]) -> None:
    """Print what verifying a bundle found."""
    rows = [
        [str(c["check"]), "pass" if c["passed"] else "FAIL", str(c.get("reason") or "")]
        for c in checks
    ]
    screen.table(["check", "", ""], rows)
