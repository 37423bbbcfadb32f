"""Errors say what was found and the way out, and carry their exit code."""

from __future__ import annotations

import inspect

import pytest

from kdeploy import errors
from kdeploy.errors import KdeployError, MissingDependency, UnknownName

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, KdeployError)]


def test_the_hint_follows_the_message_after_an_empty_line():
    assert str(KdeployError("it broke", hint="mend it")) == "it broke\n\nhint: mend it"
    assert str(KdeployError("it broke")) == "it broke"


@pytest.mark.parametrize(
    ("name", "code"),
    [("InputError", 2), ("ParityFailed", 1), ("GateFailed", 1), ("MissingDependency", 3)],
)
def test_exit_codes_are_those_of_the_contract(name, code):
    assert getattr(errors, name).exit_code == code


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_class_stands_in_the_tree_under_its_parent(error):
    lines = (errors.__doc__ or "").splitlines()
    place = {c.__name__: _line_of(lines, c.__name__) for c in CLASSES}
    assert error is KdeployError or place[error.__base__.__name__] < place[error.__name__]


def _line_of(lines, name):
    return next(number for number, line in enumerate(lines) if name in line.split())


def test_an_unknown_name_is_answered_with_the_nearest_and_all_valid_ones():
    error = UnknownName.among("loss", "hint", ["kd", "hints"], where="distill.losses")
    assert error.message == "there is no loss `hint` in distill.losses"
    assert error.hint == "did you mean `hints`? valid: `hints`, `kd`"


def test_a_name_like_no_other_is_answered_with_all_valid_ones():
    assert UnknownName.among("loss", "zzz", ["kd"]).hint == "valid: `kd`"
    assert UnknownName.among("loss", "zzz", []).hint == "valid: none"


def test_a_missing_library_is_answered_with_its_pip_command():
    error = MissingDependency.named("yaml", needed_for="a recipe", pip="pyyaml")
    assert "a recipe needs the library `yaml`" in error.message
    assert error.hint == "pip install pyyaml"
    assert MissingDependency.named("timm", needed_for="it").hint == "pip install timm"


def test_of_long_values_words_and_texts_the_middle_is_left_out():
    error = KdeployError(f"found `{'x ' * 50_000}`, not a number", hint="y" * 100_000)
    assert error.message.startswith("found `x x ")
    assert error.message.endswith("`, not a number")
    assert "(100000 characters)" in error.message
    assert len(error.message) < 300
    assert len(error.hint) < 600
    assert len(str(KdeployError("a b\n" * 50_000))) < 6100
    assert str(error) == f"{error.message}\n\nhint: {error.hint}"


def test_control_characters_and_broken_unicode_are_spelt_out():
    message = KdeployError("a\x1b[31mred\x00 \u202eback \ud800 ü\n\ttab").message
    assert message == "a\\x1b[31mred\\x00 \\u202eback \\ud800 ü\n\ttab"
