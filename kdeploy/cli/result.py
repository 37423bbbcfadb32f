"""What a command returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """The JSON document of a command, and the exit code when a gate failed."""

    document: Any
    exit_code: int = field(default=0, kw_only=True)
