"""Whose fault it is: exit codes of what users' code raises, and of our own faults."""

import json

import pytest
import yaml

from kdeploy.cli.main import INTERNAL


@pytest.fixture
def project(tmp_path, tiny_data):
    import numpy as np

    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    (tmp_path / "build.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    steps = 0\n"
        "    def forward(self, x):\n"
        "        Net.steps += self.training\n"
        "        assert Net.steps < 4, 'tired'\n"
        "        return super().forward(x)\n"
        "def net():\n"
        "    return Net(nn.Flatten(), nn.Linear(144, 4))\n"
    )
    recipe = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 2, "batch_size": 16}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def test_what_forward_raises_in_the_middle_of_a_training_is_the_users(project, kdeploy):
    answer = kdeploy("run", project / "recipe.yaml", "--out", project / "run", "--json")
    assert answer.code == 2
    error = json.loads(answer.out)["error"]
    assert error["kind"] == "ModelError"
    assert f"AssertionError: tired ({project / 'build.py'}:6, in forward" in error["message"]
    assert not list((project / "run").glob("kdeploy-error-*"))


@pytest.fixture
def broken(monkeypatch):
    """Break kdeploy itself."""
    monkeypatch.setattr("kdeploy.pipeline.run.make_teacher", None)


def test_a_fault_of_ours_has_its_own_code_and_a_file(project, kdeploy, broken, monkeypatch):
    monkeypatch.setenv("KDEPLOY_TEST_TOKEN", "of-the-environment")
    told = ("--set", "name=api_key=of-the-line", "--json")
    answer = kdeploy("run", project / "recipe.yaml", "--out", project / "run", *told)
    assert answer.code == INTERNAL == 70
    error = json.loads(answer.out)["error"]
    assert error["kind"] == "InternalError"
    assert error["exit_code"] == 70
    assert "TypeError: 'NoneType' object is not callable" in error["message"]
    (file,) = (project / "run").glob("kdeploy-error-*.txt")
    assert str(file) in error["hint"]
    text = file.read_text()
    for part in (f"recipe: {project / 'recipe.yaml'}", "--out", "Traceback", "in _run", '"torch":'):
        assert part in text
    assert "of-the" not in text
    assert "Traceback" not in answer.err


def test_without_a_folder_of_the_run_the_file_lies_in_the_cache(
    project, kdeploy, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("kdeploy.store.artifact.find_artifact", None)
    answer = kdeploy("show", project)
    assert answer.code == INTERNAL
    (file,) = (tmp_path / "cache/kdeploy/errors").iterdir()
    assert str(file) in answer.err
    assert "TypeError" in file.read_text()


def test_too_little_memory_is_no_fault_of_anybody(project, kdeploy, monkeypatch):
    def fail(*given, **named):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 TB")

    monkeypatch.setattr("kdeploy.pipeline.run._run", fail)
    answer = kdeploy("run", project / "recipe.yaml", "--out", project / "run")
    assert answer.code == 3
    assert "not enough memory" in answer.err


def test_what_a_build_file_prints_leaves_stdout_to_json(project, kdeploy):
    build = project / "build.py"
    build.write_text("print('read')\n" + build.read_text())
    answer = kdeploy(
        "run", project / "recipe.yaml", "--set", "teacher.train.epochs=0", "--until", "teacher",
        "--json", "--out", project / "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert set(json.loads(answer.out)) >= {"teacher", "stages"}
    assert "read" in answer.err
