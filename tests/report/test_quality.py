"""Perplexity over decode rate and size: only where measured, each file at its place."""

from __future__ import annotations

import pytest

from kdeploy.measurement import Measurement
from kdeploy.report.quality import RADIUS, quality_plots
from kdeploy.report.run import comparison, render
from tests.report.conftest import MACHINE

FILES = {"teacher": (14.0, 40.0, 500e6), "int4": (15.0, 90.0, 100e6), "int8": (14.1, 70.0, 150e6)}


def records(label, quality, rate, size, *, lengths=("8", "32")):
    """Return what bench writes of one file, for prompts of two lengths."""
    file = {"artifact": f"id-{label}", "label": label, "machine": MACHINE["id"], "profile": "p"}
    place = {**file, "runtime": "onnxruntime_genai", "device": "cpu"}
    found = [
        Measurement(metric="size", value=size, **file),
        Measurement(metric="perplexity", value=quality, n=2040, **place),
        Measurement(metric="agreement.next_token", value=0.9, n=2040, **place),
    ]
    for shape in lengths if rate else ():
        asked = {"scenario": "generate", "input_shape": shape, "batch_size": 1, "threads": 1}
        asked |= {"low": 0.9 * rate, "high": 1.1 * rate, "n": 100}
        found.append(Measurement(metric="generate.decode_rate", value=rate, **asked, **place))
        asked |= {"low": None, "high": None}
        found.append(Measurement(metric="latency.p50", value=1 / rate, **asked, **place))
    return found


def plots(write_run, files=None, **options):
    measured = [r for label, f in (files or FILES).items() for r in records(label, *f, **options)]
    return quality_plots(comparison([write_run(measured)]))


def test_speed_has_a_mark_a_row_and_size_one_a_file(write_run):
    speed, size = plots(write_run)
    assert (speed.title, size.title) == ("Perplexity and speed", "Perplexity and size")
    assert (speed.better, size.better) == ("right", "left")
    assert len(speed.plot.marks) == 6
    assert len(size.plot.marks) == 3
    assert size.of_files
    assert {mark.radius for mark in size.plot.marks} == {RADIUS}


def test_faster_is_to_the_right_larger_too_and_a_lower_perplexity_further_down(write_run):
    speed, size = plots(write_run, lengths=("8",))
    at = {mark.measured.label: mark for mark in speed.plot.marks}
    assert at["teacher"].x < at["int8"].x < at["int4"].x
    assert at["teacher"].y > at["int8"].y > at["int4"].y
    at = {mark.measured.label: mark for mark in size.plot.marks}
    assert at["teacher"].x > at["int8"].x > at["int4"].x


def test_the_teacher_is_marked_and_every_file_named_once(write_run):
    speed, _ = plots(write_run)
    assert {m.measured.label for m in speed.plot.marks if m.is_baseline} == {"teacher"}
    assert sorted(m.label for m in speed.plot.marks if m.label) == sorted(FILES)
    first = speed.plot.marks[0]
    assert first.text == (
        "teacher (the baseline) on onnxruntime_genai, batch 1, 1 thread, 8, generate: "
        "perplexity 14, decodes 40 tokens/s"
    )
    assert first.x_low < first.x < first.x_high


@pytest.mark.parametrize("worst", [15.0, 15.001, 200.0, 1e5])
def test_all_marks_and_at_least_two_ticks_are_inside(write_run, worst):
    files = {"teacher": (14.9, 40.0, 5e8), "broken": (worst, 41.0, 4e8)}
    for drawn in plots(write_run, files):
        for mark in drawn.plot.marks:
            places = (mark.x, mark.x_low, mark.x_high, mark.y, mark.y_low, mark.y_high)
            assert all(0 <= place <= 100 for place in places)
        for ticks in (drawn.plot.x_ticks, drawn.plot.y_ticks):
            assert 2 <= len(ticks) <= 10
            assert len({tick.text for tick in ticks}) == len(ticks)


def test_without_a_decode_rate_there_is_the_size_alone(write_run):
    (size,) = plots(write_run, {"teacher": (14.0, 0.0, 5e8), "int4": (15.0, 0.0, 1e8)})
    assert size.title == "Perplexity and size"


def test_other_tasks_have_none_of_them(demo, write_run, records_of):
    assert quality_plots(comparison([demo])) == []
    others = [*records_of("teacher"), *records_of("student")]
    place = {"runtime": "onnxruntime_cpu", "machine": MACHINE["id"]}
    others += [
        Measurement(artifact=f"id-{n}", label=n, metric="perplexity", value=3.0, **place)
        for n in ("teacher", "student")
    ]
    assert quality_plots(comparison([write_run(others, name="tokens")])) == []


@pytest.mark.parametrize("width", [375, 1280])
def test_the_front_runs_along_the_better_side(page, write_run, tmp_path, width):
    measured = [r for label, f in FILES.items() for r in records(label, *f, lengths=("8",))]
    slow = records("slow", 14.5, 35.0, 600e6, lengths=("8",))
    file = tmp_path / "report.html"
    file.write_text(render(comparison([write_run([*measured, *slow])]), "html"))
    page.open(file, width=width)
    assert page.problems == []
    best = (
        "[...document.querySelectorAll('.quality')].map(area => [...area.querySelectorAll("
        "'.on-front')].map(m => m.dataset.text.split(' ')[0]).sort().join())"
    )
    assert page.run(best) == ["int4,int8,teacher"] * 2
    assert page.run("document.documentElement.scrollWidth") == width
