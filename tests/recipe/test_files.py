"""Files in a scheme's parameters become absolute, whatever form they are named in."""

from __future__ import annotations

import pytest

from kdeploy.recipe.files import placed


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ("nets/build.py:net", "{folder}/nets/build.py:net"),
        ("nets.build:net", "{folder}/nets.build:net"),
        ("artifact", "{folder}/artifact"),
        ("transformers:vit", "transformers:{folder}/vit"),
        ("timm:resnet18", "timm:resnet18"),
        ("0123456789ab", "0123456789ab"),
        ("missing.py:net", "missing.py:net"),
    ],
)
def test_a_build_is_absolute_where_it_is_here(build, expected, tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "build.py").touch()
    (tmp_path / "artifact").mkdir()
    given = {"models": ({"build": build, "args": {"path": "artifact"}, "weights": None},)}
    (found,) = placed(given, tmp_path, "scheme")["models"]
    assert found["build"] == expected.format(folder=tmp_path)
    assert found["args"] == {"path": "artifact"}
