"""A run is used elsewhere: its folder moved, its parent renamed, the working directory another."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdeploy.cli.main import main
from kdeploy.errors import FileMissing
from kdeploy.pipeline.artifact_data import data_of, split_as_before
from kdeploy.pipeline.run import run
from kdeploy.recipe.data_text import data_section
from kdeploy.recipe.read import load
from kdeploy.recipe.resolve import data_reference
from kdeploy.store.artifact import open_artifact
from kdeploy.store.model_io import load_model
from tests.conftest import TINY_BUILD

TRAIN = {"epochs": 1, "batch_size": 32}
RECIPE = {
    "seed": 3,
    "data": {"name": "arrays", "train": "d/train.npz", "test": "d/test.npz"},
    "teacher": {"build": "my nets/build.py:net", "train": TRAIN},
    "student": {"build": "my nets/build.py:net", "args": {"width": 6}},
    "distill": TRAIN,
    "compress": [{"prune_channels": {"ratio": 0.3}}],
    "bench": {"minimum_seconds": 0.05, "minimum_count": 10, "threads": [1]},
    "gates": ["accuracy.top1: -100pp"],
    "package": {},
}
FILES = {
    "my nets/build.py": """
from pieces.layers import same

def net(*, width=8, classes=4):
    from plain import net
    model = net(width=width, classes=classes)
    model.head = same(model.head)
    return model
""",
    "my nets/pieces/layers.py": "def same(layer):\n    return layer\n",
    "my nets/plain.py": TINY_BUILD.read_text(),
    "d/mine.py": """
from parts import read

def load(folder, *, other="none"):
    return read(folder)
""",
    "d/parts.py": """
from pathlib import Path
import numpy as np

def read(folder):
    parts = {name: np.load(Path(folder) / f"{name}.npz") for name in ("train", "test")}
    return {f"{key}_{name}": part[key] for name, part in parts.items() for key in "xy"}
""",
}


def written(folder, tiny_data, **changes):
    """Write a project whose recipe names everything by relative paths."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(folder / f"d/{name}.npz", x=part.x, y=part.y)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory, tiny_data):
    """Return a project that was run in its own folder; only to be copied."""
    folder = written(tmp_path_factory.mktemp("original"), tiny_data)
    with contextlib.chdir(folder):
        run(load(Path("recipe.yaml")), Path("run"))
    return folder


@pytest.fixture
def moved(original, tmp_path, monkeypatch):
    """Return the project in another place, and gone from its own; the cwd is a third one."""
    there, away = tmp_path / "renamed" / "deeper", original.with_name("away")
    shutil.copytree(original, there)
    original.rename(away)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield there
    away.rename(original)


def kdeploy(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def artifact_of(project, stage):
    stages = json.loads((project / "run/summary.json").read_text())["stages"]
    identity = next(s["artifact"] for s in stages if s["stage"] == stage)
    return project / "run/artifacts" / identity


@pytest.mark.parametrize(
    "command",
    [
        ("compress", "int8_ptq", "--calibration-batches", 1, "--batch-size", 16),
        ("export", "onnx"),
        ("bench", "--seconds", 0.05, "--threads", 1),
        ("package",),
    ],
    ids=lambda command: command[0],
)
def test_every_verb_takes_an_artefact_whose_parent_was_renamed(command, moved, capsys):
    name, *flags = command
    at = 1 if name in ("compress", "export") else 0
    artifact = artifact_of(moved, "distill")
    code = kdeploy(name, *flags[:at], artifact, *flags[at:], "--out", "o")
    assert code == 0, capsys.readouterr().err
    assert (Path("o") / {"package": "manifest.json"}.get(name, "log.jsonl")).is_file()


def test_a_run_folder_alone_may_move(original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(original / "run", tmp_path / "elsewhere")
    artifact = open_artifact(
        tmp_path / "elsewhere/artifacts" / artifact_of(original, "distill").name
    )
    assert data_of(artifact).folder == original.resolve()
    assert isinstance(load_model(artifact), torch.nn.Module)
    assert kdeploy("run", "elsewhere/recipe.yaml", "--out", "elsewhere", "--until", "distill") == 0
    assert all_cached(tmp_path / "elsewhere")


def all_cached(out):
    stages = json.loads((out / "summary.json").read_text())["stages"]
    return bool(stages) and all(stage["cached"] for stage in stages)


@pytest.mark.parametrize("recipe", ["recipe.yaml", "run/recipe.yaml"])
def test_a_moved_run_is_all_found_again_by_either_recipe(recipe, moved, capsys):
    before = json.loads((moved / "run/summary.json").read_text())
    assert kdeploy("run", moved / recipe, "--out", moved / "run") == 0, capsys.readouterr().err
    assert all_cached(moved / "run")
    after = json.loads((moved / "run/summary.json").read_text())
    assert [s["artifact"] for s in after["stages"]] == [s["artifact"] for s in before["stages"]]


def test_what_moved_twice_is_told_with_both_places(moved, tmp_path, capsys):
    run_folder = (moved / "run").rename(tmp_path / "alone")
    shutil.rmtree(moved)
    artifact = open_artifact(run_folder / "artifacts" / artifact_of_alone(run_folder))
    was = artifact.manifest["data"]["reference"]["folder"]
    with pytest.raises(FileMissing) as caught:
        data_of(artifact)
    assert f"{was}/d/train.npz" in caught.value.message
    assert str(tmp_path / "d/train.npz") in caught.value.message
    assert caught.value.hint.endswith("`--data arrays:train=PATH,test=PATH`")
    assert kdeploy("run", run_folder / "recipe.yaml", "--out", run_folder) == 2
    said = capsys.readouterr().err
    assert f"data.train: there is no {was}/d/train.npz" in said
    assert str(tmp_path / "d/train.npz") in said


def artifact_of_alone(run_folder):
    stages = json.loads((run_folder / "summary.json").read_text())["stages"]
    return next(s["artifact"] for s in stages if s["stage"] == "distill")


def test_data_named_anew_are_divided_as_before_and_give_the_same_steps(moved, tmp_path, capsys):
    artifact = open_artifact(artifact_of(moved, "distill"))
    (moved / "d").rename(tmp_path / "data")
    text = "arrays:train=../data/train.npz,test=../data/test.npz"
    named = data_reference(data_section(text), Path(), 0)
    assert split_as_before(named, artifact).seed == 3
    steps = ("prune_channels", artifact.folder, "--ratio", 0.3, "--data")
    assert kdeploy("compress", *steps, text, "--out", "o") == 0, capsys.readouterr().err
    assert Path("o/artifacts", artifact_of(moved, "compress").name).is_dir()
    assert "not those" not in Path("o/log.jsonl").read_text()
    np.savez(
        tmp_path / "other.npz",
        x=np.zeros((8, 1, 12, 12), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None],
        y=np.arange(8) % 4,
    )
    other = "{name: arrays, train: ../data/train.npz, test: ../other.npz}"
    assert kdeploy("compress", *steps, other, "--out", "p") == 0, capsys.readouterr().err
    assert "the data are not those that `student` was made with" in Path("p/log.jsonl").read_text()


def test_an_artefact_needs_no_build_file_any_more(moved):
    shutil.rmtree(moved / "my nets")
    model = load_model(artifact_of(moved, "distill"))
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 4)


def test_a_function_of_ones_own_is_found_again_with_what_it_imports_and_reads(
    tmp_path, tiny_data, monkeypatch
):
    data = {"name": "d/mine.py:load", "folder": "./d", "other": "d"}
    written(tmp_path / "a", tiny_data, data=data)
    monkeypatch.chdir(tmp_path / "a")
    first = run(load(Path("recipe.yaml")), Path("run"), until="teacher").teacher
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    for recipe in ("b/recipe.yaml", "b/run/recipe.yaml"):
        again = run(load(Path(recipe)), Path("b/run"), until="teacher")
        assert again.teacher.id == first.id
        assert all_cached(tmp_path / "b/run")
    found = data_of(open_artifact(tmp_path / "b/run/artifacts" / first.id))
    assert found.folder == tmp_path / "b"
    assert found.name == "d/mine.py:load"


def test_a_recipe_names_an_artefact_from_its_own_folder(moved, tmp_path):
    teacher = artifact_of(moved, "teacher")
    for reference in (f"run/artifacts/{teacher.name}", f"../deeper/run/artifacts/{teacher.name}"):
        recipe = {**RECIPE, "teacher": {"build": reference}}
        (moved / "second.yaml").write_text(yaml.safe_dump(recipe))
        result = run(load(moved / "second.yaml"), tmp_path / "second", until="teacher")
        assert result.teacher.id == teacher.name
    # As resolved it names the place, and holds from anywhere.
    resolved = load(tmp_path / "second/recipe.yaml")
    assert resolved.teacher.reference.build == str(teacher)


def test_a_folder_called_as_data_or_a_library_is_no_path(tmp_path, tiny_data, monkeypatch):
    written(tmp_path, tiny_data)
    for name in ("arrays", "timm"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    run(load(Path("recipe.yaml")), Path("run"), until="teacher")
    assert load(tmp_path / "run/recipe.yaml").data.name == "arrays"


def test_a_module_is_the_same_by_either_recipe_and_keeps_its_package(
    tmp_path, tiny_data, monkeypatch
):
    teacher = {"build": "nets.build:net", "train": TRAIN}
    written(tmp_path / "a", tiny_data, teacher=teacher)
    (tmp_path / "a/nets").mkdir()
    (tmp_path / "a/nets/build.py").write_text("from .plain import net\n")
    (tmp_path / "a/nets/plain.py").write_text(TINY_BUILD.read_text())
    monkeypatch.chdir(tmp_path)
    first = run(load(Path("a/recipe.yaml")), Path("a/run"), until="teacher").teacher
    (tmp_path / "a").rename(tmp_path / "b")
    for recipe in ("b/recipe.yaml", "b/run/recipe.yaml"):
        assert run(load(Path(recipe)), Path("b/run"), until="teacher").teacher.id == first.id
        assert all_cached(tmp_path / "b/run")
    shutil.rmtree(tmp_path / "b/nets")
    model = load_model(tmp_path / "b/run/artifacts" / first.id)
    assert model(torch.rand(2, 1, 12, 12)).shape == (2, 4)


def test_an_id_in_a_recipe_is_a_place_as_resolved(tmp_path, tiny_data, monkeypatch):
    written(tmp_path / "a", tiny_data)
    monkeypatch.chdir(tmp_path / "a")
    first = run(load(Path("recipe.yaml")), Path("runs/one"), until="teacher").teacher
    peer = {"build": first.id}
    recipe = {
        **RECIPE,
        "teacher": {"build": first.id},
        "distill": {**TRAIN, "scheme": {"ensemble": {"teachers": [peer]}}},
    }
    Path("second.yaml").write_text(yaml.safe_dump(recipe))
    second = run(load(Path("second.yaml")), Path("two"), until="distill").student
    monkeypatch.chdir(tmp_path)
    for name in ("a/second.yaml", "a/two/recipe.yaml"):
        assert run(load(Path(name)), Path("a/two"), until="distill").student.id == second.id
        assert all_cached(tmp_path / "a/two")


def test_weights_that_a_function_reads_itself_count_by_contents(tmp_path, tiny_data, monkeypatch):
    written(tmp_path, tiny_data, teacher={"build": "own.py:net", "train": {"epochs": 0}})
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nimport torch\nimport plain\n"
        "def net():\n    model = plain.net()\n"
        "    model.load_state_dict(torch.load(Path(__file__).with_name('w.pt')))\n"
        "    return model\n"
    )
    (tmp_path / "plain.py").write_text(TINY_BUILD.read_text())
    monkeypatch.chdir(tmp_path)
    ids = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        names: dict = {}
        exec(TINY_BUILD.read_text(), names)
        torch.save(names["net"]().state_dict(), "w.pt")
        ids.append(run(load(Path("recipe.yaml")), Path("run"), until="teacher").teacher.id)
    assert ids[0] == ids[2] != ids[1]


def test_every_verb_takes_data_with_parameters(moved, capsys):
    text = "arrays:train=../renamed/deeper/d/train.npz,test=../renamed/deeper/d/test.npz"
    build = moved / "my nets/build.py:net"
    file = moved / "run/exports/student.onnx"
    verbs = [
        ("export", "onnx", build, "--as-built"),
        ("bench", file, "--seconds", 0.05, "--threads", 1),
        ("package", f"onnx:{file}"),
        ("distill", "--teacher", build, "--student", build, "--epochs", 0),
    ]
    for verb in verbs:
        code = kdeploy(*verb, "--data", text, "--out", f"out-{verb[0]}")
        assert code == 0, capsys.readouterr().err
    with Path("out-distill/recipe.yaml").open() as resolved:
        assert yaml.safe_load(resolved)["data"]["test"] == str(moved.resolve() / "d/test.npz")
    assert kdeploy("export", "onnx", build, "--as-built", "--data", "arrays:train=x.npz") == 2
    assert "test" in capsys.readouterr().err
