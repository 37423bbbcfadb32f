"""Every test that asks for `technique` runs over the registry of its module's `KINDS`.

`@pytest.mark.only(when=predicate)` leaves out the techniques that the test is not about.
"""

from __future__ import annotations

from kdeploy.registry import techniques


def pytest_generate_tests(metafunc):
    if "technique" in metafunc.fixturenames:
        found = [t for kind in metafunc.module.KINDS for t in techniques(kind).values()]
        marker = metafunc.definition.get_closest_marker("only")
        found = [t for t in found if marker is None or marker.kwargs["when"](t)]
        names = [f"{t.kind}-{t.name}" for t in found]
        metafunc.parametrize("technique", found, ids=names)
