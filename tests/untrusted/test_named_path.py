"""A path that somebody wrote: refused in a sentence where no file can have such a name."""

from pathlib import Path

import pytest

from kdeploy.errors import InputError
from kdeploy.untrusted.named_path import named_path


def test_starts_at_the_folder_unless_it_is_absolute(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert named_path("a/b", Path("/x")) == Path("/x/a/b")
    assert named_path("/a", Path("/x")) == Path("/a")
    assert named_path("~/a", Path("/x")) == Path("/home/me/a")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\0b", "zero byte"),
        ("x" * 256, "256 bytes"),
        ("/".join("y" * 3000), "5999 bytes, 1 in one"),
        ("~nobody-of-that-name/a", "nobody"),
        ("\ud800", "no character"),
    ],
)
def test_refuses_names_that_no_file_can_have(text, why):
    with pytest.raises(InputError, match=why):
        named_path(text)
