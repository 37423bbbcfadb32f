"""Every test that asks for `technique` runs over the registry of its module's `KINDS`."""

from __future__ import annotations

from kdeploy.registry import techniques


def pytest_generate_tests(metafunc):
    if "technique" in metafunc.fixturenames:
        found = [t for kind in metafunc.module.KINDS for t in techniques(kind).values()]
        names = [f"{t.kind}-{t.name}" for t in found]
        metafunc.parametrize("technique", found, ids=names)
