import json
from dataclasses import dataclass

import numpy as np
import pytest
import yaml

from kdeploy.cli import main


@dataclass
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def kdeploy(capsys):
    """Return a function that runs a command in this process."""

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Answer(left.value.code, out, err)

    return run


@pytest.fixture
def project(tmp_path, tiny_build, tiny_data):
    """Return a folder with a recipe for a teacher that is quickly trained."""
    for name, part in (("train", tiny_data.train), ("test", tiny_data.test)):
        np.savez(tmp_path / f"{name}.npz", x=part.x, y=part.y)
    recipe = {
        "data": {"name": "arrays", "train": "train.npz", "test": "test.npz"},
        "teacher": {"build": "build.py:net", "train": {"epochs": 1, "batch_size": 32}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


@pytest.fixture
def teacher(project, kdeploy):
    """Return the folder of a trained artefact."""
    answer = kdeploy(
        "run", project / "recipe.yaml", "--until", "teacher", "--json", "--out", project / "t"
    )
    assert answer.code == 0, answer.err
    return project / "t" / "artifacts" / json.loads(answer.out)["teacher"]
