"""A machine's fingerprint as people read it: one line a fact, the telling ones first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kdeploy.units import format_quantity

# Where a key of the fingerprint is no good header; other keys are shown as they are.
NAMES = {
    "cpu": "processor",
    "cores": "cores allowed",
    "instruction_sets": "instruction sets",
    "ram_bytes": "memory",
    "is_virtual": "virtual machine",
    "emulated_on": "emulated on",
    "load": "load (1 min)",
    "gpu": "GPU",
    "os": "system",
    "python": "Python",
    "versions": "libraries",
}


def machine_facts(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return name and text of each fact that is known."""
    return [
        [NAMES.get(key, key.replace("_", " ")), _text(key, value)]
        for key, value in facts.items()
        if key != "id" and value not in (None, "", [], {})
    ]


def machine_name(machine: str, facts: Mapping[str, Any]) -> str:
    """Return processor, accelerator and id in one line."""
    parts = [str(facts[key]) for key in ("cpu", "gpu") if facts.get(key)]
    name = _with_emulation(" + ".join(parts), facts)
    return f"{name} ({machine})" if name and machine else name or machine or "unnamed machine"


def short_names(machines: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a name for each machine's id that fits a table: its accelerator, else processor."""
    names = {
        machine: _with_emulation(
            str(facts.get("gpu") or _model(facts) or machine or "unnamed machine"), facts
        )
        for machine, facts in machines.items()
    }
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        machine: f"{name} ({machine[:4]})" if name in twice and machine else name
        for machine, name in names.items()
    }


def _with_emulation(name: str, facts: Mapping[str, Any]) -> str:
    """Return the name with the word that no table of an emulated processor may leave out."""
    return f"{name}, emulated" if facts.get("emulated_on") else name


def _model(facts: Mapping[str, Any]) -> str:
    """Return the processor without marks and clock: `Intel Core i7-8700T`."""
    text = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*", " ", str(facts.get("cpu") or ""))
    return " ".join(text.split())


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(name, content)}" for name, content in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(key, item) for item in value)
    if key.endswith("_bytes") and isinstance(value, int | float):
        return format_quantity(value, "B")
    return f"{value:.2f}" if isinstance(value, float) else str(value)
