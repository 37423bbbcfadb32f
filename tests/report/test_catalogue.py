"""The catalogue says what the registry knows, and the page in docs/ is that text."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdeploy.registry import FOLDERS, Parameter, Technique, techniques
from kdeploy.report.catalogue import TITLES, catalogue

PAGE = Path(__file__).parents[2] / "docs" / "catalogue.md"
ALL = [t for kind in FOLDERS for t in techniques(kind).values()]


def technique(**fields):
    given = {"kind": "loss", "name": "kd", "summary": "Distil", "doc": "Distil.\n\nHow it works."}
    rest = {"module": "kdeploy.x", "function": "kd", "parameters": (), "path": Path("kd.py")}
    return Technique(**{**given, **rest, **fields})


def test_the_page_in_docs_is_fresh():
    assert PAGE.read_text() == catalogue(ALL) + "\n", "hint: make docs"


def test_every_kind_has_a_title():
    assert set(TITLES) == set(FOLDERS)


@pytest.mark.parametrize("found", ALL, ids=lambda t: f"{t.kind}-{t.name}")
def test_names_every_technique_and_parameter(found):
    page = catalogue([found])
    assert f"### {found.name}\n" in page
    assert found.summary in page
    for p in found.parameters:
        assert f"| `{p.name}` |" in page
        assert p.doc.replace("|", "\\|") in page


def test_kinds_come_in_the_order_of_the_registry():
    page = catalogue([technique(kind="metric"), technique(kind="loss")])
    assert page.index(TITLES["loss"]) < page.index(TITLES["metric"])


def test_links_a_paper_and_shows_facts():
    page = catalogue([technique(facts={"paper": "arXiv:1503.02531", "before": {"b", "a"}})])
    assert "[arXiv:1503.02531](https://arxiv.org/abs/1503.02531)" in page
    assert "before: `a, b`" in page


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        ("float", "float"),
        ("float | None", "float or None"),
        ("Literal['l1', 'l2']", "`l1` or `l2`"),
        ("Annotated[float, Field(gt=0, le=1)]", "float > 0, ≤ 1"),
        ("Annotated[int, Field(multiple_of=8)] | None", "int a multiple of 8 or None"),
        ("tuple[Annotated[float, Field(gt=0)], ...]", "list of float > 0"),
        ("tuple[AuxiliaryModel, ...]", "list of `{build, args, weights}`"),
        ("dict[str, float | int]", "dict[str, float \\| int]"),
    ],
)
def test_types_are_shown_as_people_read_them(annotation, shown):
    parameter = Parameter(name="clip", annotation=annotation, default=None, doc="a|b")
    page = catalogue([technique(parameters=(parameter,))])
    assert page.endswith(f"| `clip` | {shown} | `None` | a\\|b |")


def test_a_parameter_without_default_is_required():
    parameter = Parameter(name="root", annotation="Path", doc="The folder.")
    assert "| `root` | Path | required | The folder. |" in catalogue(
        [technique(parameters=(parameter,))]
    )
