"""The JSON: whole, and in stored units."""

from __future__ import annotations

import json

from kdeploy.gate import parse_gates
from kdeploy.measurement import read
from kdeploy.report.run import comparison, render


def test_has_the_verdict_the_best_the_changes_and_every_record(demo, records_of, write_run):
    old = write_run(records_of("int8", p50=5e-5, profile="cpu"), name="old")
    drawn = comparison([demo], gates=parse_gates(["size: <= 1KB"]), against=old)
    said = json.loads(render(drawn, "json"))
    assert said["passed"] is True
    assert (said["best"][0]["label"], said["best"][0]["values"]["latency.p50"]) == ("int8", 1e-4)
    p50 = next(c for c in said["against"]["changes"] if c["metric"] == "latency.p50")
    assert (p50["before"], p50["now"], p50["verdict"]) == (5e-5, 1e-4, "worse")
    assert said["measurements"] == [record.to_dict() for record in read(demo)]
    assert "Test CPU <4 cores>" in said["machines"]["0123456789ab"]["cpu"]
