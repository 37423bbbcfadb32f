"""JSON: verdict, best configurations, changes, gates, machines, and every record."""

from __future__ import annotations

import json as writer

from kdeploy.report.as_dict import document
from kdeploy.report.comparison import Comparison
from kdeploy.report.contract import report_format


@report_format(suffix=".json")
def json(comparison: Comparison) -> str:
    """Return one document; numbers are in the units that records are stored in."""
    return writer.dumps(document(comparison)) + "\n"
