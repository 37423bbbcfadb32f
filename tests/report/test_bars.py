"""The bars: a panel a batch size, a group a runtime and machine."""

from __future__ import annotations

import pytest

from kdeploy.report.bars import panels_of
from kdeploy.report.run import comparison


def test_a_panel_shares_a_scale_and_a_runtime_its_colour(records_of, write_run):
    both = {"batch_sizes": (1, 8), "runtimes": ("x", "y")}
    panels = panels_of(
        comparison([write_run([*records_of("a", **both), *records_of("b", **both)])])
    )
    assert [panel.heading for panel in panels] == ["batch 1", "batch 8"]
    assert [group.heading for group in panels[0].groups] == ["x, 1 thread", "y, 1 thread"]
    assert [[bar.series for bar in group.bars] for group in panels[0].groups] == [[0, 0], [1, 1]]
    assert panels[1].high == pytest.approx(8 * 1.01 * 1e3)


def test_what_was_not_measured_has_no_bar(demo):
    bars = [bar for p in panels_of(comparison([demo])) for g in p.groups for bar in g.bars]
    assert len(bars) == 5
