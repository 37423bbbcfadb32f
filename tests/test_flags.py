"""The vocabulary of doubts."""

from __future__ import annotations

import pytest

from kdeploy.flags import FLAGS


@pytest.mark.parametrize("name", FLAGS)
def test_every_doubt_says_what_it_means_and_what_to_do(name):
    flag = FLAGS[name]
    assert name.isidentifier()
    assert name == name.lower()
    assert len(flag.meaning) > 20
    assert len(flag.remedy) > 20
    assert not flag.meaning.endswith(".")
    assert not flag.remedy.endswith(".")
