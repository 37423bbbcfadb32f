"""The tables of layers: one a step that measured them, wherever its artefact is used."""

from __future__ import annotations

from kdeploy.report.layers import layer_tables
from kdeploy.report.run import comparison, render


def test_a_step_of_two_lineages_has_its_table_once(demo, write_lineage, records_of):
    said = {"sensitivity": [{"layer": "conv1", "drop_fraction": 0.021, "sqnr_db": 31.5}]}
    first = {"id": "id-student", "label": "student", "facts": {"report": said}}
    write_lineage(demo, [first])
    (demo / "artifacts" / "id-int8" / "manifest.json").unlink()
    (demo / "artifacts" / "id-int8").rmdir()
    write_lineage(demo, [first, {"id": "id-int8", "label": "int8"}])
    drawn = comparison([demo])
    ((label, table),) = layer_tables(drawn)
    assert (label, table.rows) == ("student", (("conv1", "2.10 %", "31.5"),))
    text = render(drawn, "html")
    assert text.count("conv1") == 1
    assert "What each layer costs alone" in text
