"""What holds for every technique of every kind, also for those of tomorrow."""

from __future__ import annotations

import ast
import re

import pytest

from kdeploy.errors import UnknownName
from kdeploy.registry import FOLDERS, ROOT, model_of, techniques, validate

KINDS = tuple(FOLDERS)
FROM_PAPERS = ("loss", "scheme", "compressor")
"""Kinds whose techniques name where they come from."""


def test_has_a_one_line_summary(technique):
    assert re.fullmatch(r"\S.{9,98}\S", technique.summary), technique.summary


def test_documents_every_parameter(technique):
    undocumented = [p.name for p in technique.parameters if not p.doc]
    assert not undocumented, f"no entry under `Args:` in {technique.path}"


def test_parameters_have_types_that_a_recipe_can_hold(technique):
    assert [p.name for p in technique.parameters if p.annotation == "Any"] == []
    assert "properties" in model_of(technique.parameters).model_json_schema()


def test_defaults_are_of_their_own_type(technique):
    required = {p.name for p in technique.parameters if p.is_required}
    if required:
        asks = technique.kind in ("dataset", "task")
        assert asks, "only data and what they mean may ask for what cannot be guessed"
        return
    resolved = validate(technique.parameters, {}, where=technique.name)
    defaults = {p.name: p.default for p in technique.parameters}
    assert validate(technique.parameters, defaults, where=technique.name) == resolved


def test_is_named_as_its_file(technique):
    stem = technique.path.stem
    names = {stem, "".join(part.title() for part in stem.split("_"))}
    assert technique.function.lower() in {n.lower() for n in names}


def test_is_the_only_technique_of_its_file(technique):
    tree = ast.parse(technique.path.read_text())
    decorators = [ast.unparse(d) for n in tree.body for d in getattr(n, "decorator_list", [])]
    own = [d for d in decorators if re.match(rf"{technique.kind}\b", d)]
    assert len(own) == 1


def test_refuses_an_unknown_parameter_and_names_the_nearest(technique):
    names = [p.name for p in technique.parameters]
    wrong = f"{names[0]}_" if names else "anything"
    with pytest.raises(UnknownName, match=f"there is no key `{wrong}`") as caught:
        validate(technique.parameters, {wrong: 1}, where=technique.name)
    assert (f"did you mean `{names[0]}`" if names else "valid: none") in caught.value.hint


@pytest.mark.parametrize(
    "sourced", [t for kind in FROM_PAPERS for t in techniques(kind).values()], ids=lambda t: t.name
)
def test_names_its_paper(sourced):
    assert re.match(r"arXiv:\d{4}\.\d{4,5}|https://|doi:", sourced.facts["paper"])


def test_loads_as_the_kind_it_says(technique):
    loaded = technique.load()
    assert loaded.kind == technique.kind
    assert {k: v for k, v in loaded.facts.items() if technique.facts[k] is not None} == {
        k: v for k, v in technique.facts.items() if v is not None
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_decorated_file_of_a_folder_is_found(kind):
    folder = ROOT / FOLDERS[kind]
    decorated = [p for p in folder.glob("*.py") if re.search(rf"^@{kind}\b", p.read_text(), re.M)]
    assert {t.path for t in techniques(kind).values()} == set(decorated)
