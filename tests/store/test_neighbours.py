"""What a build.py imports from beside it: found unexecuted, kept with copies, part of ids."""

from __future__ import annotations

import pytest
import torch

from kdeploy.store.model_io import rebuild, save_model
from kdeploy.store.neighbours import neighbours
from kdeploy.store.references import ModelReference, build_model, source_sha256

FILES = {
    "build.py": "import torch\nfrom blocks import layer\nimport package.deep as deep\n"
    "def net(*, width=3):\n    from late import SCALE\n"
    "    return torch.nn.Sequential(layer(width), deep.last(width), torch.nn.Flatten(SCALE))\n",
    "blocks.py": "from torch import nn\ndef layer(width):\n    return nn.Linear(4, width)\n",
    "late.py": "SCALE = 1\n",
    "package/__init__.py": "",
    "package/deep.py": "from . import inner\nfrom .inner import make\n"
    "def last(width):\n    return make(width)\n",
    "package/inner.py": "from torch import nn\ndef make(width):\n    return nn.Linear(width, 2)\n",
    "other.py": "raise RuntimeError('nobody imports this')\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_text(text)
    return tmp_path / "a"


def test_all_that_is_imported_from_beside_is_found_and_nothing_else(folder):
    found = neighbours((folder / "build.py").read_text(), [folder])
    assert list(found) == [n for n in sorted(FILES) if n not in ("build.py", "other.py")]
    assert neighbours("import torch, numpy.linalg\nfrom . import x", [folder]) == {}
    assert neighbours("def (", [folder]) == {}


@pytest.mark.parametrize("build", ["build.py:net", "build:net"])
def test_a_change_in_a_helper_is_another_source_and_its_place_is_not(build, folder, tmp_path):
    reference = ModelReference(build=build, folder=folder)
    before = source_sha256(reference)
    folder.rename(tmp_path / "b")
    moved = ModelReference(build=build, folder=tmp_path / "b")
    assert source_sha256(moved) == before
    (tmp_path / "b/other.py").write_text("# not imported\n")
    assert source_sha256(moved) == before
    (tmp_path / "b/package/inner.py").write_text(FILES["package/inner.py"] + "\n")
    assert source_sha256(moved) != before


@pytest.mark.parametrize("build", ["build.py:net", "build:net"])
def test_a_stored_model_keeps_its_helpers(build, folder, tmp_path):
    reference = ModelReference(build=build, folder=folder)
    model = build_model(reference).eval()
    (tmp_path / "kept").mkdir()
    facts = save_model(tmp_path / "kept", model, reference)
    for file in folder.rglob("*.py"):
        file.unlink()
    (folder / "blocks.py").write_text("raise RuntimeError('not the one it was made with')\n")
    (tmp_path / "kept").rename(tmp_path / "elsewhere")
    again = rebuild(tmp_path / "elsewhere", facts, None)
    x = torch.rand(5, 4)
    assert torch.equal(again(x), model(x))


def test_a_copy_finds_the_files_that_its_original_has_beside_it(tmp_path):
    folder, kept = tmp_path / "a", tmp_path / "kept"
    folder.mkdir()
    kept.mkdir()
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "w.pt")
    (folder / "build.py").write_text(
        "from pathlib import Path\nimport torch\ndef net():\n    model = torch.nn.Linear(2, 2)\n"
        "    model.load_state_dict(torch.load(Path(__file__).with_name('w.pt')))\n"
        "    return model\n"
    )
    reference = ModelReference(build="build.py:net", folder=folder)
    model = build_model(reference)
    facts = save_model(kept, model, reference)
    assert torch.equal(rebuild(kept, facts, None).weight, model.weight)
    # Both went along to another place.
    (tmp_path / "there").mkdir()
    for moved in (folder, kept):
        moved.rename(tmp_path / "there" / moved.name)
    assert torch.equal(rebuild(tmp_path / "there/kept", facts, None).weight, model.weight)
