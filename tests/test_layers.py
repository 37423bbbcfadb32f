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
    """Return all sources but those in `places`, as test parameters."""
    chosen = [p for p in SOURCES if not _is_in(p.relative_to(ROOT).as_posix(), places)]
    return [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in chosen]


def _is_in(name, places):
    return any(name == place or name.startswith(f"{place}/") for place in places)


def called(path):
    return [ast.unparse(n.func) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]


def imported(path):
    froms = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom)]
    return {f"{n.module}.{alias.name}" for n in froms for alias in n.names}


@pytest.mark.parametrize("path", outside(*TALKS))
def test_only_the_command_line_prints_and_exits(path):
    talking = {"print", "rich.print", "sys.exit", "exit", "quit", "os._exit", "input"}
    assert talking.intersection(called(path)) == set()
    raised = [ast.unparse(n) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Raise)]
    assert not [r for r in raised if "SystemExit" in r]


@pytest.mark.parametrize("path", outside(*STORES))
def test_only_the_pipeline_stores(path):
    storing = {"kdeploy.artifact.Store", "kdeploy.payload.save_model"}
    assert storing.intersection(imported(path)) == set()


@pytest.mark.parametrize("path", outside())
def test_nothing_unpickles(path):
    calls = [ast.unparse(n) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)]
    pickles = re.compile(r"(pickle|dill|cloudpickle|joblib|shelve|marshal)\.(load|open|Unpickler)")
    assert not [c for c in calls if pickles.match(c)]
    assert not [c for c in calls if c.startswith("torch.load(") and "weights_only=True" not in c]
    assert not [c for c in calls if "allow_pickle=True" in c]


@pytest.mark.parametrize("path", outside())
def test_nothing_names_a_model_of_the_models_folder(path):
    models = [p.name for p in (ROOT.parent / "models").glob("*") if p.is_dir()]
    source = path.read_text()
    assert not [name for name in models if f"models/{name}" in source]


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
