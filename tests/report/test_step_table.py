from __future__ import annotations

from kdeploy.report.run import comparison, render
from kdeploy.report.step_table import layer_tables, tables_of_step


def said(**report):
    return tables_of_step({"report": report})


def test_rows_of_keys_are_a_table_with_units_from_the_keys():
    [table] = said(
        kept_dense=[
            {"layer": "conv1", "latency_seconds": 0.0012, "is_used": True},
            {"layer": "fc", "reason": "3 inputs"},
        ]
    )
    assert table.topic == "kept dense"
    assert table.headers == ("layer", "latency", "is used", "reason")
    assert table.rows == (("conv1", "1.20 ms", "yes", "-"), ("fc", "-", "-", "3 inputs"))


def test_keys_with_values_and_single_values_have_no_headers():
    pairs, line = said(size={"before_bytes": 2048, "ratio": 0.51234567}, weights="7 bits")
    assert pairs.headers == ()
    assert pairs.rows == (("before", "2 KiB"), ("ratio", "0.5123"))
    assert line.rows == (("weights", "7 bits"),)


def test_a_topic_gives_its_unit_to_keys_without_one():
    [sizes] = said(compressed_bytes={"before": 4096, "by": "zlib"})
    assert (sizes.topic, sizes.rows) == ("compressed", (("before", "4 KiB"), ("by", "zlib")))


def test_nothing_said_is_no_table():
    assert said(declined=[], replaced={}) == []
    assert tables_of_step({"parameters": 3}) == []


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
