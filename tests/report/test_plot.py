"""Where the marks stand: log time, area by size, labels that do not cover each other."""

from __future__ import annotations

import math

import pytest

from kdeploy.report.plot import LARGEST_RADIUS, SMALLEST_RADIUS, plot_of
from kdeploy.report.run import comparison


def plot(folder):
    return plot_of(comparison([folder]))


def test_one_mark_a_row_with_accuracy_and_latency(demo):
    drawn = plot(demo)
    assert len(drawn.marks) == 5
    assert drawn.left_out == 1
    assert drawn.series == ("onnxruntime_cpu", "openvino")


def test_equal_factors_of_latency_are_equal_distances(records_of, write_run):
    records = [r for i in range(3) for r in records_of(f"m{i}", p50=1e-4 * 5**i, spread=0.0)]
    first, second, third = (mark.x for mark in plot(write_run(records)).marks)
    assert second - first == pytest.approx(third - second, abs=0.01)


def test_better_accuracy_is_further_up(records_of, write_run):
    records = [*records_of("teacher", accuracy=0.9), *records_of("student", accuracy=0.8)]
    teacher, student = plot(write_run(records)).marks
    assert teacher.y < student.y


def test_the_area_of_a_disc_is_the_size(records_of, write_run):
    sizes = {"teacher": 1000, "half": 500, "tiny": 1}
    records = [r for label, size in sizes.items() for r in records_of(label, size=size)]
    radii = [mark.radius for mark in plot(write_run(records)).marks]
    assert radii[0] == LARGEST_RADIUS
    assert (radii[1] / radii[0]) ** 2 == pytest.approx(0.5, rel=0.01)
    assert radii[2] == SMALLEST_RADIUS


@pytest.mark.parametrize("factor", [1.0, 1.001, 3.0, 1e3, 1e6])
def test_all_marks_and_at_least_two_ticks_are_inside(records_of, write_run, factor):
    records = [*records_of("teacher", p50=1e-5 * factor), *records_of("student", p50=1e-5)]
    drawn = plot(write_run(records))
    places = [(m.x_low, m.x, m.x_high, m.y_low, m.y, m.y_high) for m in drawn.marks]
    assert all(0 <= place <= 100 for mark in places for place in mark)
    assert all(mark.x_low <= mark.x <= mark.x_high for mark in drawn.marks)
    for ticks in (drawn.x_ticks, drawn.y_ticks):
        assert 2 <= len(ticks) <= 10
        assert len({tick.text for tick in ticks}) == len(ticks)
        assert all(0 <= tick.at <= 100 for tick in ticks)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_no_tick_is_outside_of_what_an_accuracy_can_be(records_of, write_run, accuracy):
    ticks = plot(write_run(records_of("teacher", accuracy=accuracy))).y_ticks
    assert all(0 <= float(tick.text.removesuffix(" %")) <= 100 for tick in ticks)


def test_labels_of_neighbours_do_not_cover_each_other(records_of, write_run):
    labels = ("teacher", "student-one", "student-two")
    records = [r for i, label in enumerate(labels) for r in records_of(label, p50=1e-3 + i * 1e-5)]
    marks = plot(write_run(records)).marks
    places = [(m.anchor, m.shift_x, m.shift_y) for m in marks]
    assert all(mark.label for mark in marks)
    assert len(set(places)) == len(places)


def test_only_the_cell_of_the_headline_is_labelled(demo):
    named = {(m.row, m.label) for m in plot(demo).marks if m.label}
    rows = comparison([demo]).rows
    assert {rows[row].runtime for row, _ in named} == {"onnxruntime_cpu"}


def test_nothing_to_draw_is_no_plot(records_of, write_run):
    assert plot(write_run(records_of("teacher", accuracy=None))) is None


def test_marks_say_what_they_are(demo):
    mark = next(m for m in plot(demo).marks if m.is_packaged)
    assert mark.text == (
        "int8 on onnxruntime_cpu, batch 1, 1 thread: accuracy 87.00 %, p50 100 µs, size 50 B"
    )
    assert not math.isnan(mark.x)
