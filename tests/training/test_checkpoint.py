"""Checkpoints survive kills, cuts and full disks."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from torch import nn

from kdeploy.training.checkpoint import LAST, PREVIOUS, fingerprint_of, load, save


def test_reads_what_it_wrote(tmp_path):
    state = {"epoch": 3, "tensors": {"a": torch.arange(4.0)}, "history": [{"loss": 0.5}]}
    save(state, tmp_path / "work", fingerprint="f")
    found = load(tmp_path / "work", fingerprint="f")
    assert torch.equal(found["tensors"].pop("a"), torch.arange(4.0))
    assert found == {"epoch": 3, "tensors": {}, "history": [{"loss": 0.5}]}


def test_there_is_none_at_first(tmp_path):
    assert load(tmp_path, fingerprint="f") is None


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
def test_a_cut_checkpoint_is_passed_over_for_the_one_before(fraction, tmp_path, caplog):
    for epoch in (1, 2):
        save({"epoch": epoch, "weights": torch.zeros(1000)}, tmp_path, fingerprint="f")
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: int(len(whole) * fraction)])
    assert load(tmp_path, fingerprint="f")["epoch"] == 1
    assert f"{LAST} cannot be read" in caplog.text


def test_a_kill_between_the_two_renames_loses_one_epoch(tmp_path):
    for epoch in (1, 2):
        save({"epoch": epoch}, tmp_path, fingerprint="f")
    (tmp_path / LAST).replace(tmp_path / PREVIOUS)
    assert load(tmp_path, fingerprint="f")["epoch"] == 2


def test_one_of_other_settings_is_passed_over(tmp_path, caplog):
    save({"epoch": 1}, tmp_path, fingerprint="f")
    assert load(tmp_path, fingerprint="g") is None
    assert "other settings" in caplog.text


def test_nothing_is_executed_on_reading(tmp_path, caplog):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"fingerprint": "f", "evil": Evil()}, tmp_path / LAST)
    assert load(tmp_path, fingerprint="f") is None
    assert not (tmp_path / "executed").exists()
    assert "cannot be read" in caplog.text


def test_a_full_disk_leaves_the_last_one(tmp_path, monkeypatch):
    save({"epoch": 1}, tmp_path, fingerprint="f")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save({"epoch": 2}, tmp_path, fingerprint="f")
    assert load(tmp_path, fingerprint="f")["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [LAST]


def test_the_fingerprint_sees_settings_and_weights():
    def of(facts, *, seed=0, width=2):
        torch.manual_seed(seed)
        return fingerprint_of(facts, nn.Sequential(nn.Linear(width, 2), nn.BatchNorm1d(2)))

    one = of({"epochs": 1})
    assert one == of({"epochs": 1})
    assert len({one, of({"epochs": 2}), of({"epochs": 1}, seed=1), of({"epochs": 1}, width=3)}) == 4
