"""The summary for CI: short, with what failed first."""

from __future__ import annotations

from kdeploy.gate import Verdict, parse_gates
from kdeploy.report.run import comparison
from kdeploy.report.summary import github_summary, write_summary


def test_says_first_whether_it_passed(demo):
    assert github_summary(comparison([demo])).startswith("## demo\n")
    broken = github_summary(comparison([demo], gates=parse_gates(["size: <= 1B"])))
    assert broken.startswith("## FAILED: demo\n")
    assert "**FAILED** | `size: <= 1B` | int8, onnxruntime_cpu" in broken


def test_has_gates_that_were_judged_elsewhere(demo):
    verdict = Verdict(gate="latency.p50: 5x", value=1.0, passed=True, reason="10.00x")
    text = github_summary(comparison([demo]), [verdict])
    assert text.startswith("## passed: demo\n")
    assert "| passed | latency.p50: 5x | 10.00x |" in text


def test_is_appended_where_github_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert write_summary("x") is None
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    assert write_summary("after\n") == file
    assert file.read_text() == "before\nafter\n"
