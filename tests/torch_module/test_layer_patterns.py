import pytest

from kdeploy.errors import UnknownName
from kdeploy.torch_module.layer_patterns import matching

NAMES = ("stem.0", "stem.1", "blocks.0", "head")


def test_names_and_patterns_mean_layers_in_their_order():
    assert matching(NAMES, ("head", "stem.*"), where="x") == ["stem.0", "stem.1", "head"]
    assert matching(NAMES, (), where="x") == []


def test_a_pattern_that_means_nothing_names_the_nearest_and_the_place():
    with pytest.raises(UnknownName, match=r"`haed` in two_four\.ignore") as caught:
        matching(NAMES, ("stem.*", "haed"), where="two_four.ignore")
    assert "did you mean `head`" in caught.value.hint
