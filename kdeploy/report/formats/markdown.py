"""Markdown for a repository, an issue or the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kdeploy.errors import shown
from kdeploy.report.comparison import Comparison
from kdeploy.report.contract import report_format
from kdeploy.report.devices import place_rows
from kdeploy.report.kernels import HEADERS as KERNELS
from kdeploy.report.kernels import proofs
from kdeploy.report.machine_facts import machine_facts, machine_name
from kdeploy.report.markup import code, decisions, escaped, left_out, section, table
from kdeploy.report.next_tokens import EXAMPLE_HEADERS, differing, meaning
from kdeploy.report.next_tokens import HEADERS as TOKEN_HEADERS
from kdeploy.report.next_tokens import TITLE as TOKENS
from kdeploy.report.pareto import shortened
from kdeploy.report.seeds import HEADERS, TITLE, seed_rows
from kdeploy.report.step_table import StepTable
from kdeploy.report.steps import step_rows
from kdeploy.report.table import doubt_rows, doubts_everywhere, skipped_rows, table_rows
from kdeploy.report.wording import (
    NOTHING,
    gate_reason,
    state_sentence,
    title,
    verdict_sentence,
)

STEP_COLUMNS = {
    "step": "step",
    "settings": "settings",
    "parameters": "parameters",
    "macs": "MACs",
    "size": "size",
    "sparsity": "sparsity",
    "accuracy": "validation accuracy",
    "time": "time",
}
MOST_ROWS = 60  # of what a step says


@report_format(suffix=".md")
def markdown(comparison: Comparison) -> str:
    """Return the whole report: verdict, table, gates, doubts, lineages, machines, commands."""
    shown = shortened(comparison)
    headers, rows = table_rows(shown)
    sections = [
        f"# {escaped(title(comparison))}",
        f"**{escaped(verdict_sentence(comparison))}**",
        escaped(state_sentence(comparison)),
        *decisions(comparison),
        table(headers, rows),
        left_out(shown),
        "Ratios in round brackets are times better than the baseline in the same configuration, "
        "accuracies differ in percentage points, square brackets are 95 % intervals, "
        "n counts samples." + _everywhere(comparison),
        section("By device and runtime", *place_rows(shown)),
        _tokens(comparison),
        _kernels(shown),
        section(TITLE, HEADERS, seed_rows(comparison)),
        _gates(comparison),
        _skipped(shown),
        _doubts(comparison),
        _lineages(shown),
        _machines(comparison),
        _commands(comparison),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _kernels(comparison: Comparison) -> str:
    return section("Which kernels ran", KERNELS, [proof.texts for proof in proofs(comparison)])


def _tokens(comparison: Comparison) -> str:
    """Return where language models differ from their teacher, "" where none was compared so."""
    files = differing(comparison)
    if not files:
        return ""
    found = [section(TOKENS, TOKEN_HEADERS, [file.texts for file in files])]
    found.append(escaped(meaning(comparison)))
    for file in files:
        if file.examples:
            found.append(f"**{escaped(file.title)}**: {escaped(file.note)}")
            found.append(table(EXAMPLE_HEADERS, file.example_rows))
    return "\n\n".join(found)


def _everywhere(comparison: Comparison) -> str:
    names = ", ".join(sorted(doubts_everywhere(comparison)))
    return f" Doubts about every measured row: {escaped(names)}." if names else ""


def _gates(comparison: Comparison) -> str:
    rows = [
        ["passed" if gate.passed else "**FAILED**", code(gate.gate), escaped(gate_reason(gate))]
        for run in comparison.runs
        for gate in run.gates
    ]
    return section("Gates", ["", "gate", "measured"], rows, escape=False)


def _skipped(comparison: Comparison) -> str:
    rows = [[*row[:3], f"skipped: {row[3]}"] for row in skipped_rows(comparison)]
    return section("Not measured", ["artefact", "where", "what", "reason"], rows)


def _doubts(comparison: Comparison) -> str:
    # The texts of flags are ours, and their backticks are meant.
    rows = [[escaped(name), *texts] for name, *texts in doubt_rows(comparison)]
    headers = ["doubt", "where", "what it means", "what to do"]
    return section("Doubts", headers, rows, escape=False)


def _lineages(comparison: Comparison) -> str:
    found = []
    for lineage in comparison.lineages:
        steps = step_rows(lineage.steps)
        keys = [key for key in STEP_COLUMNS if key != "sparsity" or _is_any(steps, key)]
        rows = [[step[key] for key in keys] for step in steps]
        history = table([STEP_COLUMNS[key] for key in keys], rows)
        found.append(f"### {escaped(lineage.label)}\n\n{history}")
        # What earlier steps said stands with their own artefacts.
        found += [_step_table(topic_table) for topic_table in steps[-1]["said"]] if steps else []
    return "\n\n".join(["## How each artefact came to be", *found]) if found else ""


def _is_any(steps: Sequence[dict[str, Any]], key: str) -> bool:
    return any(step[key] != NOTHING for step in steps)


def _step_table(topic_table: StepTable) -> str:
    headers = topic_table.headers or ["" for _ in topic_table.rows[0]]
    shown = table(headers, topic_table.rows[:MOST_ROWS])
    left = len(topic_table.rows) - MOST_ROWS
    more = f"\n\n{left} more rows: `kdeploy show` prints them." if left > 0 else ""
    return f"**{escaped(topic_table.topic)}**\n\n{shown}{more}"


def _machines(comparison: Comparison) -> str:
    found = []
    for machine, facts in comparison.machines.items():
        rows = machine_facts(facts)
        name = f"### {escaped(machine_name(machine, facts))}"
        page = comparison.pages.get(machine)
        name += f"\n\n[The page of this device]({page})" if page else ""
        text = table(["", ""], rows) if rows else "No fingerprint of this machine was kept."
        found.append(f"{name}\n\n{text}")
    return "\n\n".join(["## Machines", *found]) if found else ""


def _commands(comparison: Comparison) -> str:
    lines = dict.fromkeys(run.command for run in comparison.runs if run.command)
    text = "\n".join(shown(" ".join(line.splitlines())) for line in lines)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"## Repeat it\n\n{fence}sh\n{text}\n{fence}" if lines else ""
