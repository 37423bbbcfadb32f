"""The tables of what ran: of layers where a runtime tells them, else of operators."""

from __future__ import annotations

import json

from kdeploy.report.executed import MOST_ROWS, executed_tables
from kdeploy.report.run import comparison, render

ORT = {
    "label": "int8",
    "profile": "cpu",
    "runtime": "onnxruntime_cpu",
    "provider": "CPUExecutionProvider",
    "operators": {"QGemm": 1, "QLinearConv": 5},
    "layers": [],
}
OPENVINO = {
    "label": "int8",
    "profile": "",
    "runtime": "openvino",
    "provider": "CPU",
    "operators": {},
    "layers": [{"name": "conv1", "kernel": "brgconv_i8"}, {"name": "fc", "why": "2 < 4 & more"}],
}


def told(folder, *proofs):
    (folder / "proofs.json").write_text(json.dumps(proofs))
    return comparison([folder])


def test_operators_are_counted_the_most_frequent_first(demo):
    (table,) = executed_tables(told(demo, ORT))
    assert table.title == "int8 (profile cpu) in onnxruntime_cpu"
    assert table.note == "CPUExecutionProvider; 2 kinds of operators"
    assert table.rows == (("QLinearConv", "5"), ("QGemm", "1"))


def test_layers_go_before_operators_and_stand_in_the_page(demo):
    drawn = told(demo, OPENVINO)
    (table,) = executed_tables(drawn)
    assert table.headers == ("name", "kernel", "why")
    assert table.rows == (("conv1", "brgconv_i8", ""), ("fc", "", "2 < 4 & more"))
    page = render(drawn, "html")
    assert "What ran, operator by operator" in page
    assert "2 &lt; 4 &amp; more" in page


def test_a_long_table_is_cut_and_says_so(demo):
    many = [{"name": f"layer{i}"} for i in range(MOST_ROWS + 5)]
    (table,) = executed_tables(told(demo, {**OPENVINO, "layers": many}))
    assert len(table.rows) == MOST_ROWS
    assert table.note.endswith(f"{MOST_ROWS + 5} layers, {MOST_ROWS} of them here")


def test_a_run_without_proofs_has_no_tables(demo):
    assert executed_tables(comparison([demo])) == []
