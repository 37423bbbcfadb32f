"""The table that terminal, markdown and page share."""

from __future__ import annotations

from kdeploy.measurement import Measurement
from kdeploy.report.comparison import LineageStep
from kdeploy.report.run import comparison
from kdeploy.report.steps import step_rows
from kdeploy.report.table import brief_rows, doubt_rows, skipped_rows, table_rows


def cells(folder, label, **where):
    headers, rows = table_rows(comparison([folder]))
    found = [
        row for row in rows if row[0].startswith(label) and all(w in row[1] for w in where.values())
    ]
    return dict(zip(headers, found[0], strict=True))


def test_absolute_values_stand_beside_ratios_intervals_and_counts(demo):
    row = cells(demo, "int8")
    assert row["artefact"] == "int8 (packaged, profile cpu)"
    assert row["runs on"] == "onnxruntime_cpu, batch 1, 1 thread"
    assert row["top-1 accuracy"] == "87.00 % [n 360] (-3.00 pp)"
    assert row["p50 latency"] == "100 µs [99.0 to 101 µs, n 2000]"
    assert row["speed-up (p50)"] == "10.0x [9.80x to 10.2x] (faster)"
    assert row["size"] == "50 B (20.0x)"
    assert row["parameters"] == "20 (5.00x)"


def test_the_baseline_is_marked_and_has_no_ratios(demo):
    row = cells(demo, "teacher")
    assert row["artefact"] == "teacher (baseline)"
    assert row["size"] == "1000 B"
    assert row["speed-up (p50)"] == "1.00x (baseline)"


def test_a_skipped_cell_shows_its_reason_in_place_of_the_time(demo):
    row = cells(demo, "int8", runtime="openvino")
    assert row["p50 latency"] == "skipped: killed by signal 9 <after 600 s>"
    assert row["speed-up (p50)"] == "-"
    assert skipped_rows(comparison([demo])) == [
        ("int8", "openvino, batch 1, 1 thread", "everything", "killed by signal 9 <after 600 s>")
    ]


def test_columns_without_a_number_are_left_out(records_of, write_run):
    headers, rows = table_rows(comparison([write_run(records_of("teacher", accuracy=None))]))
    assert "top-1 accuracy" not in headers
    assert "peak memory" not in headers
    assert all(len(row) == len(headers) for row in rows)


def test_two_runs_on_one_machine_are_told_apart(records_of, write_run):
    folders = [write_run(records_of("teacher"), name=name) for name in ("monday", "tuesday")]
    headers, rows = table_rows(comparison(folders))
    assert [row[headers.index("run")] for row in rows] == ["monday", "tuesday"]


def test_a_doubt_on_all_rows_is_said_once(records_of, write_run):
    records = records_of("teacher", flags=("virtual_machine",))
    records += records_of("student", flags=("virtual_machine", "unstable"))
    found = comparison([write_run(records)])
    headers, rows = table_rows(found)
    assert [row[headers.index("doubts")] for row in rows] == ["-", "unstable"]
    where = {name: which for name, which, _, _ in doubt_rows(found)}
    assert where == {"unstable": "1 of 2 rows", "virtual_machine": "all measured rows"}


def test_a_doubt_on_the_p99_alone_names_it(records_of, write_run):
    headers, (row,) = table_rows(comparison([write_run(records_of("teacher", n=20))]))
    assert row[headers.index("doubts")] == "few_samples (p99)"


def test_doubts_come_with_meaning_and_remedy(records_of, write_run):
    found = comparison([write_run(records_of("teacher", flags=("throttled", "from_the_future")))])
    texts = {name: (meaning, remedy) for name, _, meaning, remedy in doubt_rows(found)}
    assert "clock was lowered" in texts["throttled"][0]
    assert texts["from_the_future"][1] == "update kdeploy"


def test_steps_show_the_change_of_each():
    first = LineageStep(id="a", facts={"parameters": 1000}, scores={"validation_accuracy": 0.95})
    second = LineageStep(
        id="b",
        stage="compress",
        technique="prune_channels",
        facts={"parameters": 250},
        scores={"validation_accuracy": 0.94},
        is_cached=True,
    )
    before, after = step_rows([first, second])
    assert (before["parameters"], before["accuracy"]) == ("1 K", "95.00 %")
    assert after["step"] == "compress: prune_channels"
    assert (after["parameters"], after["accuracy"]) == ("250 (-75.0 %)", "94.00 % (-1.00 pp)")
    assert (after["macs"], after["time"]) == ("-", "cached")


def test_what_is_skipped_for_one_reason_is_said_once(write_run):
    cells = [(label, batch) for label in ("teacher", "student") for batch in (1, 8)]
    records = [
        Measurement(
            artifact=label,
            label=label,
            metric="latency.p50",
            value=None,
            runtime="tensorrt",
            batch_size=batch,
            skipped="no driver",
        )
        for label, batch in cells
    ]
    found = comparison([write_run(records)])
    assert len(found.rows) == 4
    assert skipped_rows(found) == [
        ("teacher, student", "tensorrt, batch 1; tensorrt, batch 8", "everything", "no driver")
    ]


def test_several_files_of_one_model_are_told_apart_and_each_has_its_own_speed(
    records_of, write_run
):
    records = [
        *records_of("teacher", p50=1e-3, profile="cpu"),
        *records_of("teacher", p50=2e-3, profile="onnx_fp16"),
        *records_of("student", p50=1e-4, profile="cpu"),
        *records_of("student", p50=5e-4, profile="onnx_fp16"),
    ]
    parity = Measurement(
        artifact="id-student", label="student", metric="parity.cosine", value=1.0,
        runtime="openvino", profile="openvino",
    )  # fmt: skip
    summary = {"packaged": "id-student", "packaged_profile": "cpu"}
    headers, rows = brief_rows(comparison([write_run([*records, parity], summary=summary)]))
    named = [dict(zip(headers, row, strict=True)) for row in rows]
    assert [(row["artefact"], row["speed-up"]) for row in named] == [
        ("teacher cpu", "1.00x"),
        ("teacher onnx_fp16", "0.50x"),
        ("student cpu (packaged)", "10.0x"),
        ("student onnx_fp16", "2.00x"),
    ]


def test_an_earlier_run_marks_the_files_of_the_packaged_model(records_of, write_run):
    records = [*records_of("teacher"), *records_of("student", profile="cpu")]
    folder = write_run(records, summary={"packaged": "id-student"})
    assert [row.label for row in comparison([folder]).rows if row.is_packaged] == ["student"]
