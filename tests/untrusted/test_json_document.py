"""JSON that anyone may have written: one kind of error for every fault."""

import pytest

from kdeploy.errors import DataError
from kdeploy.untrusted.json_document import DEEPEST, json_file, json_text


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 100_000])
def test_refuses_what_lies_too_deep(depth):
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(ValueError, match="in one another"):
            json_text(text)


def test_reads_what_is_not_too_deep():
    assert json_text("[" * DEEPEST + "]" * DEEPEST)
    assert json_text(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\x00", b'{"a": ' + b"9" * 5000 + b"}", b"\0", b'["\\uD800"]']
)
def test_names_the_file_that_is_no_json(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"summary\.json is not JSON"):
        json_file(path)


def test_reads_a_pair_of_escapes_as_the_sign_that_it_is():
    assert json_text(r'["\ud83d\ude00"]') == ["\N{GRINNING FACE}"]
