"""What schemes warn of, without what the machine's kernels cannot do."""

from __future__ import annotations

import logging

import pytest


def said_of_schemes(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what `kdeploy.distill` has logged."""
    return [record for record in caplog.records if record.name.startswith("kdeploy.distill")]
