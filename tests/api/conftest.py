"""A folder of the session for each test module, as if it were a process of its own."""

from __future__ import annotations

import pytest

from kdeploy.api import session


@pytest.fixture(scope="module", autouse=True)
def _own_session(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    place = tmp_path_factory.mktemp("session")
    patch.setattr(session, "folder", lambda: place)
    yield
    patch.undo()
