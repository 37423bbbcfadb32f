"""comparison() and render(): which folders, which baseline, which format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdeploy.errors import DataError, FileMissing, InputError, UnknownName
from kdeploy.report.run import comparison, format_of, render


def test_the_default_baseline_is_the_teacher_else_the_first_label(records_of, write_run):
    first, second = records_of("big"), records_of("small")
    assert comparison([write_run([*first, *second])]).baseline == "big"
    named = write_run([*first, *records_of("teacher")], name="named")
    assert comparison([named]).baseline == "teacher"


@pytest.mark.parametrize("baseline", ["student", "id-student"])
def test_a_baseline_is_named_by_label_or_id(demo, baseline):
    found = comparison([demo], baseline=baseline)
    assert found.rows[0].label == "student"
    assert {row.label for row in found.rows if row.is_baseline} == {"student"}


def test_an_unknown_baseline_names_the_nearest(demo):
    with pytest.raises(UnknownName, match="did you mean `teacher`"):
        comparison([demo], baseline="teachr")


def test_no_folder_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="nothing to report"):
        comparison([])
    with pytest.raises(FileMissing):
        comparison([tmp_path])


def test_a_file_that_is_cut_off_is_an_error_with_its_name(demo):
    (demo / "summary.json").write_text('{"packaged": ')
    with pytest.raises(DataError, match=r"summary\.json"):
        comparison([demo])


def test_a_folder_of_runs_is_the_runs_in_it_and_not_what_is_inside_them(
    demo, records_of, write_run
):
    write_run(records_of("teacher"), name="demo/artifacts/inside")
    write_run(records_of("teacher"), name="other")
    assert [run.name for run in comparison([demo.parent]).runs] == ["demo", "other"]


def test_a_folder_may_know_several_machines(records_of, write_run):
    folder = write_run([*records_of("teacher"), *records_of("teacher", machine="m2")])
    (folder / "machines").mkdir()
    (folder / "machines" / "m2.json").write_text('{"id": "m2", "cpu": "Board"}')
    machines = comparison([folder]).machines
    assert machines == {"0123456789ab": {}, "m2": {"id": "m2", "cpu": "Board"}}


def test_a_folder_and_its_file_are_one_run(demo):
    once = comparison([demo])
    twice = comparison([demo, demo / ".." / demo.name])
    assert len(once.runs) == len(twice.runs) == 1
    assert comparison([demo / "measurements.jsonl"]).rows == once.rows


def test_machines_merge_and_show_a_column_only_when_there_are_several(records_of, write_run):
    from kdeploy.report.table import table_rows

    here = write_run([*records_of("teacher"), *records_of("student")], name="here")
    there = write_run(
        [*records_of("teacher", machine="m2"), *records_of("student", machine="m2", p50=5e-4)],
        name="there",
    )
    assert "machine" not in table_rows(comparison([here]))[0]
    both = comparison([here, there])
    assert "machine" in table_rows(both)[0]
    assert [row.machine for row in both.rows].count("m2") == 2
    ratios = {r.machine: r.values["latency.p50"].ratio for r in both.rows if r.label == "student"}
    assert ratios["m2"].times == pytest.approx(2.0)
    assert ratios["0123456789ab"].times == pytest.approx(1.0)


@pytest.mark.parametrize("form", ["markdown", "html", "csv", "json"])
def test_measurements_alone_are_enough(records_of, write_run, form):
    folder = write_run([*records_of("teacher", accuracy=None), *records_of("student")])
    assert "student" in render(comparison([folder]), form)


@pytest.mark.parametrize("form", ["markdown", "html", "csv", "json"])
def test_no_measurement_at_all_is_no_crash(write_run, form):
    assert render(comparison([write_run([])]), form)


def test_an_unknown_format_is_an_error(demo):
    with pytest.raises(UnknownName, match="markdown"):
        render(comparison([demo]), "markdwn")


def test_the_format_follows_from_the_name_of_the_file():
    assert format_of(Path("a/report.md")) == "markdown"
    assert format_of(Path("REPORT.HTML")) == "html"
    with pytest.raises(UnknownName, match=r"\.md"):
        format_of(Path("report.pdf"))


def test_draws_every_format_where_neither_torch_nor_pandas_can_be_imported(demo):
    code = f"""
import sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "pandas", "onnxruntime", "plotly"}}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
from kdeploy.report.run import comparison, render
drawn = comparison([Path({str(demo)!r})])
print(all("int8" in render(drawn, form) for form in ("markdown", "html", "csv", "json")))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.stdout.strip() == "True", done.stderr
