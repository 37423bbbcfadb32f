"""What the style guide says that ruff cannot: sizes of files and functions, names of files."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [p for folder in ("kdeploy", "models") for p in sorted((ROOT / folder).rglob("*.py"))]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
NAMES_WITHOUT_AN_IDEA = {"utils", "helpers", "common", "misc", "util", "helper"}


def named(path):
    return path.relative_to(ROOT).as_posix()


def test_there_are_sources_to_look_at():
    assert len(SOURCES) > 50


def test_a_file_is_read_in_one_go():
    lengths = {named(p): len(p.read_text().splitlines()) for p in SOURCES}
    assert {n: found for n, found in lengths.items() if found > MOST_LINES} == {}


def test_a_function_is_seen_at_once():
    functions = {
        (named(path), node.name): lines_of_code(node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {f: n for f, n in functions.items() if n > MOST_LINES_OF_A_FUNCTION} == {}


def lines_of_code(function):
    """Count from the first statement: a signature and its documentation may be long."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


def test_a_file_is_named_after_its_idea():
    assert [named(p) for p in SOURCES if p.stem in NAMES_WITHOUT_AN_IDEA] == []


def test_a_module_says_what_it_is_in_a_sentence():
    docs = {named(p): ast.get_docstring(ast.parse(p.read_text())) or "" for p in SOURCES}
    firsts = {name: doc.split("\n")[0] for name, doc in docs.items()}
    assert {n: first for n, first in firsts.items() if not first.endswith((".", ":", "?"))} == {}


def test_the_changelog_says_each_thing_once():
    # Branches that are joined may bring the same line twice.
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    entries = [line for line in lines if line.startswith("- ")]
    assert sorted({line for line in entries if entries.count(line) > 1}) == []
