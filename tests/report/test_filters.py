"""The filters: only what differs, and where each row stands."""

from __future__ import annotations

from kdeploy.report.filters import OF_PLACE, filters_of
from kdeploy.report.run import comparison


def test_an_axis_for_what_differs_and_the_load_of_the_headline(records_of, write_run):
    both = {"batch_sizes": (16, 2), "runtimes": ("x", "y")}
    drawn = comparison([write_run([*records_of("teacher", **both), *records_of("s", **both)])])
    filters = filters_of(drawn)
    assert {axis.name: axis.options for axis in filters.axes} == {
        "artefact": ("teacher", "s"),
        "runtime": ("x", "y"),
        "batch size": ("2", "16"),
    }
    assert [axis.initial for axis in filters.axes] == [None, None, 1]
    row = next(r for r in drawn.rows if (r.label, r.runtime, r.batch_size) == ("s", "y", 2))
    assert filters.of(row) == "1 1 0"
    assert filters.of(row, OF_PLACE) == "1 1 -"
