"""The vocabulary of doubts."""

from __future__ import annotations

from pathlib import Path

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


def test_the_page_on_benchmarking_explains_every_doubt_in_the_same_words():
    page = (Path(__file__).parents[1] / "docs" / "benchmarking.md").read_text()
    rows = [f"| `{name}` | {f.meaning} | {f.remedy} |" for name, f in FLAGS.items()]
    assert [row for row in rows if row not in page] == []
