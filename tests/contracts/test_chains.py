"""Every compressor with every exporter: refused before any work by their facts, or it succeeds."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from kdeploy.compress.contract import CompressContext
from kdeploy.compress.run import compress
from kdeploy.errors import ModelError
from kdeploy.export.run import export
from kdeploy.registry import find, techniques
from tests.tiny.compressing import Trainer, stopwatch

EXPORTERS = sorted(n for n, t in techniques("exporter").items() if "of" not in t.facts)
MADE = {t.facts["makes"] for t in techniques("compressor").values() if "makes" in t.facts}
STEPS = sorted(n for n, t in techniques("compressor").items() if t.facts.get("takes") != "decoder")
NEEDED = {t.facts["needs"] for t in techniques("runtime").values() if "needs" in t.facts}


@pytest.fixture(scope="module")
def compressed(tiny_model, tiny_data):
    """Return a function that compresses a network in which something can be fused, once."""
    context = CompressContext(data=tiny_data, seed=3, train=Trainer(tiny_data), stopwatch=stopwatch)

    @cache
    def make(name):
        torch.manual_seed(0)
        more = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        return compress(nn.Sequential(tiny_model(), more).eval(), name, {}, context)

    return make


def test_facts_of_techniques_meet():
    for name in EXPORTERS:
        assert set(find("exporter", name).facts.get("refuses") or ()) <= MADE
    assert NEEDED <= MADE


@pytest.mark.parametrize("target", EXPORTERS)
@pytest.mark.parametrize("step", STEPS)
def test_a_pair_is_refused_ahead_or_succeeds(step, target, compressed, tiny_data, tmp_path):
    exporter = find("exporter", target)
    reason = find("runtime", exporter.facts["runtime"]).load().unavailable()
    if reason is not None:
        pytest.skip(reason)
    path = tmp_path / f"model{exporter.facts['suffix']}"
    if find("compressor", step).facts.get("makes") in (exporter.facts.get("refuses") or ()):
        with pytest.raises(ModelError):
            export(compressed(step), target, {}, tiny_data, path)
        return
    assert export(compressed(step), target, {}, tiny_data, path).path.is_file()
