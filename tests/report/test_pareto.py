"""The front, and which rows of too many are kept."""

from __future__ import annotations

from kdeploy.report.pareto import front, shortened
from kdeploy.report.run import comparison


def test_the_front_has_what_nothing_beats(records_of, write_run):
    points = {"teacher": (4, 0.9), "a": (2, 0.8), "b": (3, 0.7), "c": (1, 0.6), "d": (2, 0.75)}
    records = [
        r for name, (p50, top1) in points.items() for r in records_of(name, p50=p50, accuracy=top1)
    ]
    rows = comparison([write_run(records)]).rows
    assert [row.label for row in front(rows)] == ["c", "a", "teacher"]


def test_few_rows_are_left_as_they_are(demo):
    drawn = comparison([demo])
    assert shortened(drawn) is drawn


def test_of_many_rows_each_cell_keeps_its_best(records_of, write_run):
    cells = {"batch_sizes": (1, 8), "runtimes": ("x", "y")}
    records = [*records_of("teacher", **cells)]
    for i in range(8):
        records += records_of(f"m{i}", p50=1e-4 * (i + 1), accuracy=0.5, **cells)
    drawn = comparison([write_run(records)])
    kept = shortened(drawn, 9)
    assert (len(kept.rows), kept.num_left_out) == (9, 27)
    assert drawn.headline in kept.rows
    for cell in {row.configuration for row in drawn.rows}:
        labels = [row.label for row in kept.rows if row.configuration == cell]
        assert {"m0", "teacher"} <= set(labels)
