"""What the style guide says that ruff cannot: sizes of files and functions, names of files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("kdeploy", "models") for p in sorted((ROOT / folder).rglob("*.py"))]
MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 50
# The bundle's runner is one file, so that it runs where nothing but numpy and a runtime is.
LONGER = {"kdeploy/package/runner/python/run.py": 400}
NAMES_WITHOUT_AN_IDEA = {"utils", "helpers", "common", "misc", "util", "helper"}


def named(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_is_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= LONGER.get(named(path), MOST_LINES)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_function_is_seen_at_once(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    lengths = {f.name: lines_of_code(f) for f in functions}
    assert {n: lines for n, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def lines_of_code(function):
    """Count from the first statement: a signature and its documentation may be long."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_is_named_after_its_idea(path):
    assert path.stem not in NAMES_WITHOUT_AN_IDEA


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_module_says_what_it_is(path):
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
    assert first.endswith((".", ":", "?")), f"a sentence that says what {path.name} is"
