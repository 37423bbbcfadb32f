"""The rules of the layers that are about what code does; `lint-imports` checks the imports."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import grimp
import pytest

import kdeploy
from kdeploy import registry
from tests.techniques_contract import TechniquesContract

ROOT = Path(kdeploy.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
# The bundle's runner is a program of its own; __main__ only calls the command line.
TALKS = ("cli", "cli.py", "__main__.py", "package/runner")
STORES = ("cli", "pipeline", "artifact.py", "payload.py")


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def outside(*places):
    """Return all sources by name but those in `places`."""
    named = {path.relative_to(ROOT).as_posix(): path for path in SOURCES}
    return {name: path for name, path in named.items() if not _is_in(name, places)}


def _is_in(name, places):
    return any(name == place or name.startswith(f"{place}/") for place in places)


def calls_of(path):
    return [ast.unparse(n) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]


def imported(path):
    statements = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom)]
    return {f"{n.module}.{alias.name}" for n in statements for alias in n.names}


def calling(pattern, *places):
    """Return the calls outside `places` that match, as (file, call)."""
    matches = re.compile(pattern)
    calls = [(name, c) for name, path in outside(*places).items() for c in calls_of(path)]
    return [(name, call) for name, call in calls if matches.match(call)]


def test_only_the_command_line_prints_and_exits():
    talking = r"(print|input|exit|quit|SystemExit|rich\.print|sys\.exit|os\._exit|typer\.echo)\("
    assert calling(talking, *TALKS) == []
    assert calling(talking) != [], "the pattern finds what the command line prints"


def test_only_the_pipeline_stores():
    storing = {"kdeploy.artifact.Store", "kdeploy.payload.save_model"}
    assert {n for n, path in outside(*STORES).items() if storing & imported(path)} == set()
    assert {n for n, path in outside().items() if storing & imported(path)} != set()


def test_nothing_unpickles():
    pickles = r"(pickle|dill|cloudpickle|joblib|shelve|marshal)\.(loads?|open|Unpickler)\("
    assert calling(pickles) == []
    loads = calling(r"torch\.load\(")
    assert [c for c in loads if "weights_only=True" not in c[1]] == []
    assert calling(r".*allow_pickle=True") == []


def test_nothing_names_a_model_of_the_models_folder():
    models = [p.name for p in (ROOT.parent / "models").glob("*") if p.is_dir()]
    sources = {name: path.read_text() for name, path in outside().items()}
    assert [(n, m) for n, text in sources.items() for m in models if f"models/{m}" in text] == []


@pytest.fixture
def graph(monkeypatch):
    """Two compressors and a file that both may use."""
    graph = grimp.ImportGraph()
    for name in ("one", "two", "norms", "contract", "run"):
        graph.add_module(f"kdeploy.compress.{name}")
    graph.add_import(importer="kdeploy.compress.one", imported="kdeploy.compress.contract")
    graph.add_import(importer="kdeploy.compress.one", imported="kdeploy.compress.norms")
    graph.add_import(importer="kdeploy.compress.two", imported="kdeploy.compress.norms")
    graph.add_import(importer="kdeploy.compress.run", imported="kdeploy.compress.contract")

    class Found:
        def __init__(self, name):
            self.module = f"kdeploy.compress.{name}"

    def found(kind):
        return {n: Found(n) for n in ("one", "two")} if kind == "compressor" else {}

    monkeypatch.setattr("tests.techniques_contract.techniques", found)
    return graph


def broken(graph):
    contract = TechniquesContract("techniques", session_options={}, contract_options={})
    return contract.check(graph, verbose=False).metadata["broken"]


def test_techniques_that_share_a_file_stand_alone(graph):
    assert broken(graph) == []


@pytest.mark.parametrize("importer", ["one", "run", "contract", "norms"])
def test_an_import_of_a_technique_within_its_stage_is_caught(graph, importer):
    chain = (f"kdeploy.compress.{importer}", "kdeploy.compress.two")
    graph.add_import(importer=chain[0], imported=chain[1])
    assert chain in broken(graph)


def test_every_folder_of_techniques_is_a_stage_of_the_package():
    assert all((ROOT / folder).is_dir() for folder in registry.FOLDERS.values())
