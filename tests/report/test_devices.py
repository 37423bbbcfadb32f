"""One artefact on every device, the fastest first."""

from __future__ import annotations

from kdeploy.gate import parse_gates
from kdeploy.measurement import Measurement
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


def two_places(records_of, write_run, *more, flags=()):
    records = [
        *records_of("teacher", p50=1e-3),
        *records_of("student", p50=1e-4, runtimes=("onnxruntime_cpu", "openvino")),
    ]
    arm = records_of("student", p50=1e-9, machine="arm", flags=flags)
    return [
        write_run([*records, *more]),
        write_run(arm, name="arm", machine={"id": "arm", "cpu": "Cortex", "emulated_on": "x86"}),
    ]


def column(drawn, header):
    headers, rows = place_rows(drawn)
    return [(row[1], row[headers.index(header)]) for row in rows if row[0].startswith("student")]


def test_the_winner_of_each_device_within_the_gates_is_marked(records_of, write_run):
    folders = two_places(records_of, write_run)
    gates = parse_gates(["accuracy.top1: >= 0.5"])
    found = column(comparison(folders, gates=gates), "best here")
    assert sorted(mark for _, mark in found) == ["-", "best", "best"]
    unfit = column(comparison(folders, gates=parse_gates(["size: <= 1B"])), "best here")
    assert {mark for _, mark in unfit} == {"-", "nearest"}


def test_an_emulated_device_has_no_speed_and_never_wins_by_it(records_of, write_run):
    drawn = comparison(two_places(records_of, write_run, flags=("emulated_processor",)))
    headers, rows = place_rows(drawn)
    last = dict(zip(headers, rows[-1], strict=True))
    assert last["device"] == "Cortex, emulated"
    assert "emulator's" in last["p50 latency"]
    assert "1.0 ns" not in str(rows)
    assert last["top-1 accuracy"].startswith("90")
    assert (last["best here"], last["speed-up (p50)"]) == ("-", "-")
    assert not [choice for choice in drawn.best if choice.row.machine == "arm"]
    judged = comparison(
        two_places(records_of, write_run, flags=("emulated_processor",)),
        gates=parse_gates(["latency.p50: <= 1s"]),
    )
    (choice,) = [choice for choice in judged.best if choice.row.machine == "arm"]
    assert not choice.passed


def test_energy_is_a_number_or_says_why_there_is_none(records_of, write_run):
    cell = {"artifact": "id-student", "label": "student", "device": "cpu", "batch_size": 1}
    cell |= {"threads": 1, "metric": "energy", "machine": "0123456789ab"}
    known = Measurement(runtime="onnxruntime_cpu", value=2e-3, **cell)
    reason = "energy is not measurable here: the kernel shows no counter"
    unknown = Measurement(runtime="openvino", value=None, skipped=reason, **cell)
    found = column(comparison(two_places(records_of, write_run, known, unknown)), "energy")
    assert sorted(text for _, text in found) == [
        "2 mJ/item",
        "not measured",
        "not readable: the kernel shows no counter",
    ]
