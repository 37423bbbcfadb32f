from __future__ import annotations

import pytest

from kdeploy.bench import energy, nvml
from kdeploy.bench.energy import Meter
from kdeploy.errors import Unavailable


def _zone(root, name, label, microjoules, limit=1_000_000_000):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    _zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    _zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    _zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    _zone(tmp_path, "intel-rapl:2", "psys", 1_000_000)
    meter = Meter("cpu", powercap=tmp_path)
    _zone(tmp_path, "intel-rapl:0", "package-0", 6_000_000)
    _zone(tmp_path, "intel-rapl:1", "package-1", 7_500_000)
    _zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    assert meter.joules() == pytest.approx(1.5)
    assert meter.joules() == 0.0


def test_a_counter_that_started_again_is_followed(tmp_path):
    _zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    meter = Meter("cpu", powercap=tmp_path)
    _zone(tmp_path, "intel-rapl:0", "package-0", 500_000)
    assert meter.joules() == pytest.approx(1.5)


def test_without_a_counter_the_reason_is_told(tmp_path):
    with pytest.raises(Unavailable, match="no energy counter"):
        Meter("cpu", powercap=tmp_path)


def test_a_counter_that_may_not_be_read_says_how_it_may(tmp_path, monkeypatch):
    _zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(Unavailable, match="cannot be read") as caught:
        Meter("cpu", powercap=tmp_path)
    assert "chmod a+r" in caught.value.hint


def test_a_gpu_is_asked_itself(monkeypatch, tmp_path):
    answers = iter([10.0, 14.0])
    monkeypatch.setattr(nvml, "energy_joules", lambda: next(answers))
    assert Meter("cuda", powercap=tmp_path).joules() == pytest.approx(4.0)
    assert energy.WINDOW_SECONDS >= 2.0
