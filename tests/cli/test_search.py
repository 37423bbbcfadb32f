import sys

import numpy as np
import pytest
import yaml


@pytest.fixture
def recipe(tmp_path, tiny_build, tiny_data):
    """Return a recipe with a space, beside its data."""
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    document = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 1, "batch_size": 32}},
        "student": {"build": "build.py:net", "args": {"width": 4}},
        "distill": {"epochs": 1},
        "search": {"space": {"student.args.width": {"choice": [2, 4]}}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "recipe.yaml"


def test_a_missing_recipe_is_the_users_mistake(kdeploy, tmp_path):
    answer = kdeploy("search", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "there is no recipe" in answer.err


def test_a_wrong_space_is_told_before_anything_is_written(kdeploy, recipe, tmp_path):
    space = 'search.space={"student.args.width": {"choise": [2, 4]}}'
    answer = kdeploy("search", recipe, "--out", tmp_path / "out", "--set", space)
    assert answer.code == 2
    assert "search.space.student.args.width" in answer.err
    assert "hint:" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("library", "given"), [("optuna", []), ("ray", ["--ray", "auto"])])
def test_without_a_library_the_hint_is_its_command_and_nothing_is_written(
    kdeploy, recipe, tmp_path, monkeypatch, library, given
):
    monkeypatch.setitem(sys.modules, library, None)
    answer = kdeploy("search", recipe, "--out", tmp_path / "out", *given)
    assert answer.code == 3
    assert "pip install" in answer.err
    assert not (tmp_path / "out").exists()


def test_no_exported_file_that_the_runtime_opens_is_refused(kdeploy, recipe, tmp_path):
    pytest.importorskip("optuna", reason="pip install 'kdeploy[search]'")
    answer = kdeploy(
        "search", recipe, "--out", tmp_path / "out", "--set", "bench.runtimes=[torch_eager]"
    )
    assert answer.code == 2
    assert "torch_eager" in answer.err


def test_run_does_without_what_is_for_search(recipe):
    from kdeploy.recipe.read import load, to_yaml

    assert "search" not in yaml.safe_load(to_yaml(load(recipe)))
