"""What each layer costs, where a compression measured it: the tables of all artefacts together."""

from __future__ import annotations

from kdeploy.report.comparison import Comparison
from kdeploy.report.step_table import StepTable, said_by

TOPIC = "sensitivity"


def layer_tables(comparison: Comparison) -> list[tuple[str, StepTable]]:
    """Return the table of each step that has one, under its label; a shared step has it once."""
    found: dict[str, tuple[str, StepTable]] = {}
    for lineage in comparison.lineages:
        for step in lineage.steps:
            for said in said_by(step.facts):
                if said.topic == TOPIC:
                    found.setdefault(step.id, (step.label or lineage.label, said))
    return list(found.values())
