"""The import-linter contract that techniques stand alone, for whatever the registry finds.

A technique imports its stage's contract and the layers below: never, not even through other
files, another technique of its stage. And nothing of a stage names a technique: the registry
finds them, so that no list is edited when one is added.
"""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output

from kdeploy.registry import FOLDERS, techniques


class TechniquesContract(Contract):
    """Read by import-linter as `type = "techniques"`; it has no options."""

    type_name = "techniques"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        broken = [chain for stage in _stages() for chain in _broken(graph, stage)]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for chain in check.metadata["broken"]:
            output.print_error(" -> ".join(chain))
            output.new_line()


def _stages() -> dict[str, set[str]]:
    """Return the modules of techniques by the folder of kdeploy that they are in."""
    stages: dict[str, set[str]] = {}
    for kind, folder in FOLDERS.items():
        found = {t.module for t in techniques(kind).values()}
        stages.setdefault(f"kdeploy.{folder.split('/')[0]}", set()).update(found)
    return stages


def _broken(graph: ImportGraph, stage: str) -> list[tuple[str, ...]]:
    own = _stages()[stage]
    others = {m for m in graph.modules if m.startswith(f"{stage}.")} - own
    chains = []
    for technique in sorted(own):
        for importer in sorted((own - {technique}) | others):
            chain = graph.find_shortest_chain(importer=importer, imported=technique)
            if chain and not set(chain[1:-1]) & own:
                chains.append(chain)
    return chains
