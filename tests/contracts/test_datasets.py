"""What every dataset gives: labelled items in one shape, or an error that says what to do."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.data.load import DataReference, load
from kdeploy.errors import KdeployError, Unavailable

KINDS = ("dataset",)


def must_be_told(technique):
    return any(p.is_required for p in technique.parameters)


def comes_with_defaults(technique):
    return not must_be_told(technique)


@pytest.fixture
def data(technique):
    """Return the data with defaults; skip where they are not on this machine."""
    try:
        return load(DataReference(name=technique.name))
    except Unavailable as error:
        pytest.skip(f"{error.message}; {error.hint}")


@pytest.mark.only(when=comes_with_defaults)
def test_items_have_the_shape_that_preprocessing_says(technique, data):
    for part in (data.train, data.validation, data.test):
        assert len(part) > 0
        assert part.x.shape == (len(part), *data.preprocessing.shape)
        is_tokens = data.preprocessing.is_tokens
        assert part.x.dtype in ((np.int32, np.int64) if is_tokens else (np.uint8, np.float32))
        assert part.y.dtype == np.int64
    assert data.preprocessing.apply(data.test.x[:2]).dtype == data.preprocessing.dtype


@pytest.mark.only(when=comes_with_defaults)
def test_every_class_is_there_and_no_other(technique, data):
    for part in (data.train, data.test):
        found = set(np.unique(part.y)) - {NOT_COUNTED}
        # Of tokens, a rare one may be missing.
        assert found <= set(range(data.num_classes))
        assert len(found) > 0.8 * data.num_classes
        assert part.y.ndim == 2 or len(found) == data.num_classes


@pytest.mark.only(when=comes_with_defaults)
def test_inputs_are_centred_and_scaled(technique, data):
    if data.preprocessing.is_tokens:
        assert data.train.x.max() < data.preprocessing.vocabulary
        return
    x = data.preprocessing.apply(data.train.x[:1000])
    assert abs(x.mean()) < 0.5
    assert 0.5 < x.std() < 2


@pytest.mark.only(when=comes_with_defaults)
def test_the_test_part_shares_no_item_with_the_others(technique, data):
    def items(part):
        return {np.asarray(x).tobytes() for x in part.x[: len(part)]}

    # A few drawings of so few pixels may be equal by chance; a leak would be many.
    shared = items(data.test) & (items(data.train) | items(data.validation))
    assert len(shared) < 0.01 * len(data.test)


@pytest.mark.only(when=comes_with_defaults)
def test_says_where_it_comes_from(technique, data):
    assert data.source
    assert data.licence
    assert len(data.fingerprint) >= 12


@pytest.mark.only(when=must_be_told)
def test_a_wrong_place_is_answered_with_a_hint(technique, tmp_path):
    required = [p.name for p in technique.parameters if p.is_required]
    given = {name: str(tmp_path / "nothing.npz") for name in required}
    with pytest.raises(KdeployError, match="nothing") as caught:
        load(DataReference(name=technique.name, parameters=given))
    assert caught.value.hint
    assert caught.value.exit_code == 2
