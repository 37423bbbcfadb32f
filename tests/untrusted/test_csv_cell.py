"""A text in a csv is text for a spreadsheet too; numbers stay numbers."""

import pytest

from kdeploy.untrusted.csv_cell import csv_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\n=1", "  =1"])
def test_a_text_that_begins_like_a_formula_has_an_apostrophe(text):
    assert csv_cell(text) == f"'{text}"
    assert csv_cell(csv_cell(text)) == csv_cell(text)


@pytest.mark.parametrize("value", [-1, -0.5, float("-inf"), None, True, "a=1", "", "résumé -"])
def test_numbers_and_other_texts_stay_as_they_are(value):
    assert csv_cell(value) is value


def test_control_characters_are_spelt_out():
    assert csv_cell("\r=1\x1b[31m") == "\\r=1\\x1b[31m"
