"""Bundles of the tiny file with what an emitter writes for them."""

from __future__ import annotations

import pytest

from kdeploy.package.emission import emissions


@pytest.fixture
def emitted(make_bundle, tmp_path):
    """Return a function that packages the tiny file with one emitter, and returns its folder."""

    def make(emitter, parameters=None, **changes):
        chosen = emissions([{emitter: parameters or {}}], "emit")
        bundle = make_bundle(tmp_path / f"bundle-{emitter}", emitted=chosen, **changes)
        return bundle / "deploy" / emitter

    return make
