"""Techniques are found by reading files; their signatures are their configuration."""

from __future__ import annotations

import re
import sys
from typing import Annotated, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdeploy import registry
from kdeploy.errors import RecipeError, UnknownName
from kdeploy.registry import FOLDERS, find, model_of, techniques, validate

SOURCE = '''"""Halve all weights.

A paper, 2020.
"""

import a_library_that_does_not_exist
from kdeploy.compress.contract import compressor


def check(model): ...


@compressor(paper="arXiv:1", before={"int8_ptq"}, ensures=check)
def halve(
    model,
    context,
    *,
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5,
    mode: Literal["l1", "l2"] = "l1",
    layers: list[str] | None = None,
    rounds: int,
):
    """Return it halved.

    Args:
        ratio: How much of each weight
            stays; no unit.
        mode: The norm.

    Returns:
        nothing: at all.
    """
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of one technique and of files that are none."""
    root = tmp_path / "kdeploy"
    (root / "compress" / "compressors").mkdir(parents=True)
    (root / "compress" / "compressors" / "halve_weights.py").write_text(SOURCE)
    (root / "compress" / "compressors" / "contract.py").write_text("def compressor(f): return f\n")
    (root / "compress" / "compressors" / "norms.py").write_text(
        "@cached\ndef norm(): '@compressor'\n"
    )
    monkeypatch.setattr(registry, "ROOT", root)
    registry._scan.cache_clear()
    yield root
    registry._scan.cache_clear()


@pytest.fixture
def halve(folder):
    return find("compressor", "halve_weights")


def test_reads_a_technique_without_importing_it(halve):
    assert (halve.name, halve.function) == ("halve_weights", "halve")
    assert halve.module == "kdeploy.compress.compressors.halve_weights"
    assert halve.summary == "Halve all weights"
    assert "a_library_that_does_not_exist" not in sys.modules


def test_facts_are_the_keywords_of_the_decorator(halve):
    assert halve.facts == {"paper": "arXiv:1", "before": {"int8_ptq"}, "ensures": None}


def test_parameters_are_the_keywords_of_the_signature(halve):
    named = {p.name: p for p in halve.parameters}
    assert list(named) == ["ratio", "mode", "layers", "rounds"]
    assert named["ratio"].default == 0.5
    assert named["ratio"].doc == "How much of each weight stays; no unit."
    assert named["mode"].doc == "The norm."
    assert named["rounds"].is_required
    assert not named["layers"].is_required
    assert named["layers"].doc == ""


def test_annotations_become_types(halve):
    types = {p.name: p.type() for p in halve.parameters}
    assert types["ratio"].__origin__ is float
    assert isinstance(types["ratio"], type(Annotated[float, 0]))
    assert get_args(types["mode"]) == ("l1", "l2")
    assert types["layers"] == list[str] | None


def test_only_decorated_functions_are_techniques(folder):
    assert list(techniques("compressor")) == ["halve_weights"]
    assert techniques("loss") == {}


def test_the_name_of_a_conversion_is_its_target(folder):
    (folder / "export" / "exporters").mkdir(parents=True)
    source = '"""Write it."""\n@exporter(source="torch", target="onnx")\ndef write(model): ...\n'
    (folder / "export" / "exporters" / "onnx_from_torch.py").write_text(source)
    assert list(techniques("exporter")) == ["onnx"]


def test_a_class_has_the_keywords_of_its_constructor(folder):
    (folder / "runtimes").mkdir()
    source = (
        '"""Run it."""\n@runtime(formats={"onnx"}, device="cpu")\nclass Runs:\n'
        '    """Runs.\n\n    Args:\n        threads: How many.\n    """\n'
        "    def __init__(self, *, threads: int | None = None) -> None: ...\n"
    )
    (folder / "runtimes" / "runs.py").write_text(source)
    [threads] = find("runtime", "runs").parameters
    assert (threads.name, threads.default, threads.doc) == ("threads", None, "How many.")


def test_a_technique_is_found_by_a_name_that_it_had(folder):
    path = folder / "compress" / "compressors" / "halve_weights.py"
    path.write_text(SOURCE.replace("(paper=", '(former_names=("half",), paper='))
    assert find("compressor", "half").name == "halve_weights"
    assert "half" not in registry.techniques("compressor")


def test_an_unknown_technique_is_answered_with_the_nearest(folder):
    with pytest.raises(UnknownName, match="no compressor `halve_weight` in compress") as caught:
        find("compressor", "halve_weight", where="compress")
    assert "did you mean `halve_weights`" in caught.value.hint


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="kind of technique `compresor`") as caught:
        techniques("compresor")
    assert "did you mean `compressor`" in caught.value.hint


def test_values_are_checked_and_defaults_filled_in(halve):
    resolved = validate(halve.parameters, {"rounds": 3, "ratio": 1}, where="compress.halve")
    assert resolved == {"ratio": 1.0, "mode": "l1", "layers": None, "rounds": 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"compress\.halve\.rounds: field required"),
        ({"rounds": "many"}, r"compress\.halve\.rounds: .* integer.*found `'many'`"),
        ({"rounds": 1, "ratio": 0}, r"compress\.halve\.ratio: .*greater than 0.*found `0`"),
        ({"rounds": 1, "mode": "l3"}, r"compress\.halve\.mode: .*'l1' or 'l2'.*found `'l3'`"),
        ({"rounds": 1, "layers": [1]}, r"compress\.halve\.layers\.0: .*string"),
        ([1], r"compress\.halve: expected keys and values, found `\[1\]`"),
        ("fast", r"compress\.halve: expected keys and values, found `'fast'`"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(halve, given, message):
    with pytest.raises(RecipeError, match=message) as caught:
        validate(halve.parameters, given, where="compress.halve")
    assert caught.value.hint


def test_the_hint_on_a_wrong_value_is_the_parameter_s_documentation(halve):
    with pytest.raises(RecipeError) as caught:
        validate(halve.parameters, {"rounds": 1, "ratio": 7}, where="compress.halve")
    assert caught.value.hint == "How much of each weight stays; no unit."


def test_an_unknown_key_is_answered_with_the_nearest(halve):
    with pytest.raises(UnknownName, match=r"no key `ration` in compress\.halve") as caught:
        validate(halve.parameters, {"ration": 0.5}, where="compress.halve")
    assert "did you mean `ratio`" in caught.value.hint


@given(st.floats(allow_nan=True))
def test_bounds_hold_for_every_number(ratio):
    parameters = registry._parameters(registry.ast.parse(SOURCE).body[-1])
    given = {"rounds": 1, "ratio": ratio}
    if 0 < ratio <= 1:
        assert validate(parameters, given, where="here")["ratio"] == ratio
    else:
        with pytest.raises(RecipeError):
            validate(parameters, given, where="here")


def test_the_model_of_a_signature_has_its_schema(halve):
    schema = model_of(halve.parameters).model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["rounds"]
    assert schema["properties"]["ratio"]["default"] == 0.5
    assert schema["properties"]["mode"]["enum"] == ["l1", "l2"]


def test_what_is_resolved_is_not_looked_at_again(halve, monkeypatch):
    resolved = validate(halve.parameters, {"rounds": 3}, where="compress.halve")
    monkeypatch.setattr(registry, "check", None)
    assert validate(halve.parameters, resolved, where="compress.halve") is resolved


@pytest.mark.parametrize("kind", FOLDERS)
def test_loading_gives_the_decorated_object(kind):
    for technique in techniques(kind).values():
        loaded = technique.load()
        assert loaded.kind == kind
        assert set(loaded.facts) == set(technique.facts)


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("loss", ["loss"]),
        ("losses", ["loss"]),
        ("schemes", ["scheme"]),
        ("data", ["dataset", "task"]),
        ("compress", ["compressor"]),
        ("distill", ["loss", "scheme"]),
    ],
)
def test_a_kind_is_known_by_its_plural_and_by_its_key_in_a_recipe(word, kinds):
    assert registry.kinds_of(word) == kinds


def test_every_technique_section_of_a_recipe_names_kinds():
    from kdeploy.recipe.sections import RecipeSection

    about_techniques = {"data", "distill", "compress", "export", "bench", "gates"}
    assert about_techniques <= set(RecipeSection.model_fields)
    for key in about_techniques:
        assert set(registry.kinds_of(key)) <= set(registry.FOLDERS)


def test_every_technique_stands_in_the_room_of_its_kind():
    decorated = re.compile(rf"^@({'|'.join(FOLDERS)})\b", re.MULTILINE)
    outside = {}
    for path in registry.ROOT.rglob("*.py"):
        for kind in set(decorated.findall(path.read_text())):
            if path.parent != registry.ROOT / FOLDERS[kind]:
                outside[str(path)] = kind
    assert outside == {}
