"""One artefact on every device, the fastest first."""

from __future__ import annotations

from kdeploy.report.devices import place_rows, places
from kdeploy.report.run import comparison


def test_an_artefact_beside_itself_in_other_places(records_of, write_run):
    folders = [
        write_run(
            [*records_of("teacher", machine=m, p50=p50), *records_of("student", machine=m)],
            name=m,
            machine={"id": m, "cpu": f"Intel(R) Core(TM) {m} CPU @ 2.40GHz"},
        )
        for m, p50 in (("i5", 2e-3), ("i7", 1e-3))
    ]
    drawn = comparison(folders)
    assert [group.heading for group in places(drawn)] == ["teacher, batch 1", "student, batch 1"]
    headers, rows = place_rows(drawn)
    assert headers[:4] == ["artefact", "runs on", "device", "precision"]
    assert [row[2] for row in rows[:2]] == ["Intel Core i7", "Intel Core i5"]


def test_one_place_is_no_comparison(records_of, write_run):
    assert places(comparison([write_run(records_of("teacher"))])) == []


def test_precision_is_what_the_runtime_was_asked_for(records_of, write_run):
    runtimes = ("torch_cuda:precision=fp16,cuda_graph=true", "torch_cuda")
    _, rows = place_rows(comparison([write_run(records_of("net", runtimes=runtimes))]))
    assert {row[2] for row in rows} == {"FP16", "-"}
