"""What the files of a run say, and what follows when one of them is missing."""

from __future__ import annotations

import pytest

from kdeploy.errors import DataError
from kdeploy.report.run_folder import read_run


def test_reads_what_the_files_say(demo):
    run = read_run(demo)
    assert (run.name, run.machine, run.packaged) == ("demo", "0123456789ab", "id-int8")
    assert run.chosen_because == "it is the smallest"
    assert run.command == f"kdeploy run {demo}/recipe.yaml --out {demo}"


def test_a_gate_without_a_measurement_failed_whatever_the_file_says(demo):
    passed = {gate.gate: gate.passed for gate in read_run(demo).gates}
    assert passed["latency.p50: 5x"]
    assert not passed["energy: <= 1mJ"]


def test_a_gate_of_the_recipe_that_nobody_judged_failed(demo):
    gate = next(g for g in read_run(demo).gates if g.gate == "size: <= 1KB")
    assert not gate.passed
    assert "not judged" in gate.reason


def test_a_check_of_the_bundle_needs_no_number(demo):
    gates = {gate.gate: gate for gate in read_run(demo).gates}
    assert gates["bundle: checksums"].passed


def test_a_step_knows_its_time(demo):
    first, last = read_run(demo).lineages["id-int8"].steps
    assert last.wall_time_seconds == 12.5
    assert first.wall_time_seconds is None


def test_a_manifest_without_lineage_is_its_own_only_step(demo):
    manifest = demo / "artifacts" / "id-int8" / "manifest.json"
    manifest.write_text('{"id": "id-int8", "label": "int8", "stage": "compress"}')
    (step,) = read_run(demo).lineages["id-int8"].steps
    assert (step.id, step.stage) == ("id-int8", "compress")


def test_without_a_recipe_there_is_no_command_to_invent(records_of, write_run):
    run = read_run(write_run(records_of("teacher"), name="bare"))
    assert (run.name, run.command, run.gates) == ("bare", "", ())


def test_what_was_typed_is_how_to_repeat_it(records_of, write_run):
    folder = write_run(records_of("teacher"))
    (folder / "command.txt").write_text("kdeploy bench a.onnx\n")
    assert read_run(folder).command == "kdeploy bench a.onnx"


def test_a_pair_of_another_scenario_is_not_of_this_row(records_of, write_run):
    pair = {"label": "s", "baseline": "teacher", "runtime": "onnxruntime_cpu", "batch_size": 1}
    pair |= {"threads": 1, "metric": "latency.p50", "ratio": 7.0}
    pairs = [{**pair, "scenario": "server"}, {**pair, "ratio": 2.0}]
    run = read_run(write_run(records_of("s"), comparisons=pairs))
    assert [(p.scenario, p.ratio.times) for p in run.pairs] == [("server", 7.0), ("", 2.0)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("machine.json", "[1]"),
        ("comparisons.json", '[{"label": "a"}]'),
        ("comparisons.json", '[{"label": 1}]'),
        ("summary.json", '{"stages": [3]}'),
        ("summary.json", '{"gates": {"a": 1}}'),
        ("summary.json", '{"seeds": {"student": {"accuracy": []}}}'),
        ("summary.json", '{"packaged": ["a"]}'),
        ("proofs.json", '[{"label": "a", "runtime": "b", "operators": {"Conv": "x"}}]'),
        ("artifacts/id-int8/manifest.json", '{"lineage": [{"facts": {"macs": "x"}}]}'),
        ("machine.json", "[" * 100_000),
        ("machine.json", "\0"),
        ("recipe.yaml", "a: [1"),
        ("recipe.yaml", "a: &a [*a]"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(demo, name, content):
    (demo / name).write_text(content)
    with pytest.raises(DataError, match=name) as caught:
        read_run(demo)
    assert caught.value.hint
    assert len(str(caught.value)) < 1000
