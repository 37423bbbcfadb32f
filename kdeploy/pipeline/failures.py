"""Failures at the end of a run: kept, so that all else is measured and told, and raised then."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdeploy.errors import ArtifactCorrupt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What could not be made of which model, and why."""

    stage: str
    technique: str
    label: str
    error: Exception

    @property
    def reason(self) -> str:
        """Return it in a sentence."""
        reason = getattr(self.error, "message", None) or str(self.error)
        return f"{self.stage} `{self.technique}` of {self.label} failed: {reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return what `summary.json` says of it."""
        return {
            "stage": self.stage,
            "technique": self.technique,
            "label": self.label,
            "error": type(self.error).__name__,
            "reason": self.reason,
            "hint": getattr(self.error, "hint", None),
        }


@contextmanager
def kept_for_later(
    failures: list[Failure], stage: str, technique: str, label: str
) -> Iterator[None]:
    """Add an error of the block to `failures` in place of raising it.

    Raises:
        ArtifactCorrupt: the store is damaged, so that what is left is not to be trusted either.
    """
    try:
        yield
    except ArtifactCorrupt:
        raise
    except Exception as error:  # an exporter's library may raise anything
        failure = Failure(stage=stage, technique=technique, label=label, error=error)
        log.warning("%s; the run goes on with the rest", failure.reason)
        failures.append(failure)
