"""The licences that travel with a bundle."""

from __future__ import annotations

import pytest

from kdeploy.errors import FileMissing, InputError
from kdeploy.package.licences import check_licences, write_licences


def test_identifiers_texts_and_files_are_written_with_the_runners(tmp_path):
    (tmp_path / "mine").write_text("My own licence\n\nDo what you like.")
    given = {"model": tmp_path / "mine", "data": "CC-BY-4.0", "weights": "Some terms\nof use\n"}
    entries = write_licences(tmp_path, given, {"library": "MIT"})
    assert [(e.part, e.identifier) for e in entries] == [
        ("model", "My own licence"),
        ("data", "CC-BY-4.0"),
        ("weights", "Some terms"),
        ("runner", "Apache-2.0"),
    ]
    third = (tmp_path / "LICENSES/THIRD_PARTY.md").read_text()
    assert "| library | MIT | running the model |" in third
    texts = {e.part: (tmp_path / e.file).read_text() for e in entries}
    assert "Do what you like." in texts["model"]
    assert "https://spdx.org/licenses/CC-BY-4.0.html" in texts["data"]
    assert texts["weights"] == "Some terms\nof use\n"
    assert "Apache License" in texts["runner"]


@pytest.mark.parametrize("part", ["../model", "a/b", "", ".hidden", "runner"])
def test_a_part_that_is_no_name_is_refused(part):
    with pytest.raises(InputError, match="cannot name a part"):
        check_licences({part: "MIT"})


def test_an_empty_or_absent_licence_is_refused(tmp_path):
    with pytest.raises(InputError, match="empty"):
        check_licences({"model": "  "})
    with pytest.raises(FileMissing, match="absent"):
        check_licences({"model": tmp_path / "absent"})


def test_the_datas_licence_comes_from_the_artefact(make_bundle, tmp_path):
    bundle = make_bundle(tmp_path / "bundle", licences={"model": "MIT"})
    assert "CC-BY-4.0" in (bundle / "LICENSES/data.txt").read_text()
    assert "MIT" in (bundle / "LICENSES/model.txt").read_text()
