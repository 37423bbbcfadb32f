"""Wrong input through the command line: code 2, one message, a hint, nothing written."""

import numpy as np
import pytest
import yaml
from PIL import Image

DATA = {"name": "arrays", "train": "train.npz", "test": "test.npz"}
TEACHER = {"build": "build.py:net", "train": {"epochs": 0}}
STUDENT = {"student": {"build": "build.py:net"}, "distill": {"epochs": 1}}


@pytest.fixture
def folder(tmp_path, tiny_build, tiny_data):
    """Return a folder with data and a build.py; nothing else is in it before a run."""
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    labels = tiny_data.train.y.copy()
    labels[5] = -1
    np.savez(tmp_path / "labels.npz", x=tiny_data.train.x, y=labels)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            Image.new("L", (12, 12)).save(tmp_path / "images" / part / name / "1.png")
    (tmp_path / "images" / "train" / "cat" / "broken.png").write_bytes(b"\x89PNG no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.safetensors").write_bytes(b"no tensors")
    return tmp_path


IMAGES = {"name": "image_folder", "size": [12, 12], "channels": 1}
CASES = {
    "an unknown key": ({"seeds": 1}, "seeds"),
    "a wrong type": ({"seed": "one"}, "seed"),
    "a missing file": ({"data": {**DATA, "train": "none.npz"}}, "none.npz"),
    "a missing build file": ({"teacher": {"build": "model.py:net"}}, "model.py"),
    "an unknown technique": ({"compress": [{"prune": {}}]}, "prune_channels"),
    "an unknown runtime": ({"bench": {"runtimes": ["onnx"]}}, "onnxruntime_cpu"),
    "a wrong order": ({"compress": [{"int8_ptq": {}}, {"prune_channels": {}}]}, "after"),
    "weights that are none": (
        {"teacher": {**TEACHER, "weights": "weights.safetensors"}},
        "weights.safetensors",
    ),
    "a label out of range": ({"data": {**DATA, "train": "labels.npz"}}, "-1"),
    "an empty folder": ({"data": {**IMAGES, "train": "empty", "test": "empty"}}, "empty"),
    "a corrupt image": (
        {"data": {**IMAGES, "train": "images/train", "test": "images/test"}},
        "broken.png",
    ),
    "another class count": (
        {**STUDENT, "student": {"build": "build.py:net", "args": {"classes": 7}}},
        "7",
    ),
    "another class count of the teacher": (
        {"teacher": {**TEACHER, "args": {"classes": 3}}},
        "3",
    ),
    "an unknown argument": ({"teacher": {**TEACHER, "args": {"widht": 3}}}, "widht"),
    "an unknown layer": (
        {**STUDENT, "distill": {"losses": [{"hints": {"layers": {"blocks.9": "blocks.1"}}}]}},
        "blocks.9",
    ),
    "a gate without sense": ({"gates": ["latency.p50: quick"]}, "latency.p50"),
}


@pytest.mark.parametrize("case", CASES)
def test_is_refused_with_nothing_written(kdeploy, folder, case):
    sections, named = CASES[case]
    recipe = {"data": DATA, "teacher": TEACHER, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    answer = kdeploy("run", folder / "recipe.yaml", "--out", folder / "run")
    assert answer.code == 2, answer.err
    assert named in answer.err
    assert answer.err.count("hint:") == 1
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert not (folder / "run").exists()


@pytest.mark.parametrize("text", ["data: [", "just words", "data: {name: a, name: b}", "\x00"])
def test_a_recipe_that_is_not_yaml_is_refused(kdeploy, folder, text):
    (folder / "recipe.yaml").write_text(text)
    answer = kdeploy("run", folder / "recipe.yaml", "--out", folder / "run")
    assert answer.code == 2, answer.err
    assert "recipe.yaml" in answer.err
    assert "hint:" in answer.err
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "text", ["", "[1]", "3", "~", "[" * 3000, "a: &a [*a]", "!!int x", "\x1b["]
)
def test_arguments_that_are_no_keys_and_values_are_refused_or_none(kdeploy, folder, text):
    given = ["build.py:net", "--as-built", "--args", text, "--out", folder / "o"]
    answer = kdeploy("compress", "prune_channels", *given)
    assert answer.code == 2
    assert answer.err.count("hint:") == 1
    assert len(answer.err) < 1000
    assert not (folder / "o").exists()
