"""`kdeploy doctor`: what runs on this machine, and why the rest does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdeploy.cli.options import Debug, Json
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    pass


def doctor(json: Json = False, debug: Debug = False) -> Result:
    """Show this machine, which runtimes run on it, and what the others lack."""
    from kdeploy.cli.output import out as console
    from kdeploy.machine import doubts_of_packages
    from kdeploy.runtimes.run import states, this_machine

    machine = this_machine().to_dict()
    runtimes, doubts = states(), doubts_of_packages()
    screen = console(is_json=json)
    facts = [[k.replace("_", " "), _text(v)] for k, v in machine.items()]
    screen.table(["machine", ""], facts)
    rows = [[n, "ready" if why is None else f"unavailable: {why}"] for n, why in runtimes.items()]
    screen.print()
    screen.table(["runtime", "state"], rows)
    for doubt in doubts:
        screen.print()
        screen.print(doubt)
    return Result({"machine": machine, "runtimes": runtimes, "doubts": doubts})


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
