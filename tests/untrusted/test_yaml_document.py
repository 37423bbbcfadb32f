"""YAML that anyone may have written is bounded, plain, and says where it is wrong."""

import pytest

from kdeploy.errors import RecipeError
from kdeploy.untrusted.yaml_document import MOST_BYTES, MOST_NODES, yaml_file, yaml_text


def test_reads_plain_values_and_merges():
    text = "base: &b {x: 1, y: [a, null, 2.5, true]}\nown: {<<: *b, x: 2}"
    base = {"x": 1, "y": ["a", None, 2.5, True]}
    assert yaml_text(text, where="it") == {"base": base, "own": {**base, "x": 2}}


def test_dates_and_keys_are_text():
    assert yaml_text("d: 2001-99-99\n1: a\ntrue: b\n~: c", where="it") == {
        "d": "2001-99-99",
        "1": "a",
        "true": "b",
        "~": "c",
    }


def test_what_an_alias_repeats_is_no_shared_object():
    found = yaml_text("a: &x {w: [1]}\nb: *x", where="it")
    found["a"]["w"].append(2)
    assert found["b"] == {"w": [1]}


def test_counts_aliases_as_what_they_repeat():
    ten = f"a: &a [{','.join('x' * 10)}]\nb: &b [{','.join(['*a'] * 10)}]\n"
    assert len(yaml_text(ten, where="it")["b"]) == 10
    hundred = f"{ten}c: [{','.join(['*b'] * (MOST_NODES // 100))}]"
    with pytest.raises(RecipeError, match="aliases counted"):
        yaml_text(hundred, where="it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "itself"),
        ("a: 1\na: 2", "twice"),
        ("[a]: 1", "line 1, column 1"),
        ("x: 1\ny: !!int abc", "`abc` is no int.*line 2"),
        ("a: " + "9" * 5000, "64 bits"),
        (f"a: {2**63}", "64 bits"),
        ("a: .inf", "finite"),
        ("a: 1.0e+999", "finite"),
        ("a: !!set {b}", "no meaning"),
        ("a: " + "[" * 3000, "in one another"),
        ("a: 1\n---\nb: 1", "single document"),
        ("a: [", "not YAML"),
    ],
)
def test_names_what_is_wrong(text, message):
    with pytest.raises(RecipeError, match=f"(?s){message}") as caught:
        yaml_text(text, where="it")
    assert caught.value.hint
    assert len(str(caught.value)) < 1000


def test_reads_no_more_of_a_file_than_its_bound(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(RecipeError, match="longer than 256 KiB"):
        yaml_file(path)
    path.write_bytes("a: ü".encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8: byte 3 is 252"):
        yaml_file(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert yaml_file(path) == {"a": 1}
