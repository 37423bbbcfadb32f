"""Data on the command line: three forms of one section."""

from __future__ import annotations

import pytest

from kdeploy.errors import RecipeError
from kdeploy.recipe.data_text import data_section

ARRAYS = {"name": "arrays", "train": "x.npz", "test": "y.npz"}


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("digits", {"name": "digits"}),
        ("digits:size=32", {"name": "digits", "size": 32}),
        ("arrays:train=x.npz,test=y.npz", ARRAYS),
        ("arrays: train=x.npz, test = y.npz", ARRAYS),
        ("{name: arrays, train: x.npz, test: y.npz}", ARRAYS),
        ("name: arrays, train: x.npz, test: y.npz", ARRAYS),
        ("mine/data.py:load", {"name": "mine/data.py:load"}),
        (
            "mine/data.py:load:count=20,parts=[a,b],folder=my files",
            {"name": "mine/data.py:load", "count": 20, "parts": ["a", "b"], "folder": "my files"},
        ),
        (
            "digits:augment=[random_crop, horizontal_flip],validation_fraction=0.2",
            {
                "name": "digits",
                "augment": ["random_crop", "horizontal_flip"],
                "validation_fraction": 0.2,
            },
        ),
    ],
)
def test_each_form_is_the_section_of_a_recipe(text, section):
    assert data_section(text) == section


@pytest.mark.parametrize(
    "text", ["", "digits:size", "{train: x.npz}", "{digits}", "name: [a]", "arrays:x.npz,y.npz"]
)
def test_a_text_of_no_form_is_refused_with_the_forms(text):
    with pytest.raises(RecipeError, match="--data") as caught:
        data_section(text)
    assert "arrays:train=x.npz,test=y.npz" in caught.value.hint
