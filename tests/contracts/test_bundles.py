"""What every kind of bundle does: ships a file of its format, and opens it without kdeploy."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from kdeploy.package.kinds import formats, kind_of, runner_files
from kdeploy.registry import find
from kdeploy.runtimes.files import formats as file_formats

KINDS = ("bundle",)


def test_ships_formats_that_a_runtime_opens(technique):
    shipped = set(technique.facts["formats"])
    assert shipped
    assert shipped <= file_formats() & formats()
    assert shipped <= set(find("runtime", technique.facts["runtime"]).facts["formats"])


def test_says_the_licence_of_each_library(technique):
    libraries = technique.facts["libraries"]
    assert libraries
    assert all(re.fullmatch(r"\w+", name) and text for name, text in libraries.items())


def test_is_found_by_the_format_of_a_file(technique):
    for form in technique.facts["formats"]:
        assert kind_of(form) is technique.load()


def test_its_session_needs_numpy_and_its_libraries_alone(technique):
    (form, *_) = technique.facts["formats"]
    source = runner_files(form)["runner/python/session.py"]
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    allowed = {"numpy", *technique.facts["libraries"], *sys.stdlib_module_names}
    assert imported <= allowed
    space = {}
    exec(compile(source, "session.py", "exec"), space)
    assert space["LIBRARIES"] == tuple(technique.facts["libraries"])
    assert callable(space["open_model"])


def test_refuses_a_file_that_is_none(technique, tmp_path):
    from kdeploy.errors import KdeployError

    (tmp_path / "model.none").write_bytes(b"no model")
    with pytest.raises(KdeployError) as caught:
        technique.load().facts_of(tmp_path / "model.none")
    assert caught.value.hint
