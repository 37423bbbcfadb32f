"""A given teacher may know the validation items: every comparison with it says so, or is gone."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdeploy.cli.show import show_artifact
from kdeploy.errors import GateFailed
from kdeploy.pipeline import steps
from kdeploy.pipeline.log import NullListener
from kdeploy.store.artifact import open_artifact
from kdeploy.store.model_io import load_model

WORDS = "may have been trained on these items"
RECOVERED = {"prune_channels": {"ratio": 0.3, "recover": {"epochs": 1, "batch_size": 16}}}


class Listener(NullListener):
    def __init__(self):
        self.heard = []

    def message(self, text):
        self.heard.append(text)


@pytest.fixture
def weights(project, run_project):
    """Return the override that gives the teacher its weights."""
    teacher = run_project(until="teacher", out="taught").teacher
    save_file(load_model(teacher).state_dict(), project / "teacher.safetensors")
    return ["teacher.weights=teacher.safetensors", "teacher.train={}"]


@pytest.fixture
def apart(project, tiny_data):
    """Return the overrides that name a validation part."""
    part = tiny_data.validation
    np.savez(project / "validation.npz", x=part.x, y=part.y)
    recipe = (project / "recipe.yaml").read_text().replace("  validation_fraction: 0.25\n", "")
    (project / "recipe.yaml").write_text(recipe)
    return ["data.validation=validation.npz"]


def go(run_project, *overrides, compress=(), until="compress", out="run"):
    listener = Listener()
    given = [*overrides, f"compress={json.dumps(list(compress))}"]
    return run_project(*given, until=until, out=out, listener=listener), listener.heard


def accuracies(heard):
    return [text for text in heard if text.startswith("validation accuracy:")]


def test_a_teacher_that_was_trained_here_is_compared_with(run_project):
    result, heard = go(run_project, compress=[RECOVERED])
    assert not any(WORDS in text or "no measure" in text for text in heard)
    assert "validation_seen" not in str([m.manifest["lineage"] for m in result.models])


def test_a_given_teacher_is_marked_wherever_it_is_compared_with(run_project, weights, capsys):
    result, heard = go(run_project, *weights, compress=[RECOVERED], until="bench")
    assert any("`validation:` in `data:`" in text for text in heard)
    learned, pruned = accuracies(heard)
    assert f"({WORDS}), student best" in learned
    assert WORDS not in pruned, "the student is new"
    teacher, student, _ = (open_artifact(m.folder) for m in result.models)
    assert teacher.scores["validation_seen"]
    assert student.scores["validation_seen_before"]
    assert "validation_seen" not in student.scores
    show_artifact(student, is_json=False)
    shown = capsys.readouterr().out
    assert " % *" in shown.replace("%*", "% *")
    assert "may have been trained on the validation items" in " ".join(shown.split())
    page = (result.out / "report.md").read_text()
    assert WORDS in page


def test_what_is_made_of_a_given_teacher_is_marked_too(run_project, weights):
    without = ["student=null", "distill=null"]
    result, heard = go(run_project, *weights, *without, compress=[RECOVERED])
    [line] = accuracies(heard)
    assert f"no measure: the model before {WORDS}" in line
    assert result.models[-1].scores["validation_seen"]


def test_with_a_validation_part_of_its_own_nothing_is_marked(run_project, weights, apart):
    result, heard = go(run_project, *weights, *apart, compress=[RECOVERED])
    assert len(accuracies(heard)) == 2
    assert not any(WORDS in text or "no measure" in text for text in heard)
    assert "validation_seen" not in str([m.manifest["lineage"] for m in result.models])


def test_an_artefact_of_another_split_may_have_seen_the_items(run_project, project):
    teacher = run_project(until="teacher", out="taught").teacher
    here = [f"teacher.build={teacher.folder}", "teacher.args={}", "teacher.train={}"]
    same, _ = go(run_project, *here)
    assert "validation_seen_before" not in same.models[1].scores
    other, heard = go(run_project, *here, "data.validation_fraction=0.3", out="other")
    assert other.models[1].scores["validation_seen_before"]
    assert WORDS in accuracies(heard)[0]


def test_a_drop_against_a_given_teacher_names_the_part_to_give(run_project, weights, monkeypatch):
    found = iter([0.99, 0.88])
    monkeypatch.setattr(steps, "accuracy", lambda *a, **_: next(found))
    step = {"prune_channels": {"ratio": 0.3, "max_drop": "2pp"}}
    with pytest.raises(GateFailed, match=r"lost 11\.00 pp") as caught:
        go(run_project, *weights, "student=null", "distill=null", compress=[step])
    assert "`validation:` in `data:`" in caught.value.hint


def test_a_teacher_that_guesses_is_told(run_project):
    _, heard = go(run_project, "teacher.train.epochs=0", until="teacher")
    [doubt] = [text for text in heard if "most frequent class alone makes" in text]
    assert "are they classes?" in doubt


REGRESSOR = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        # The quantity itself, and its bound: the larger of both is a class by accident.
        mean = x.mean((1, 2, 3), keepdim=False)
        return 40 * self.scale * torch.stack([0 * mean, mean], 1)

def two():
    return Two()
"""


def test_a_regression_dressed_as_classes_is_told_by_its_cross_entropy(project, run_project):
    rng = np.random.default_rng(0)
    y = np.arange(96) % 2
    x = rng.normal(size=(96, 1, 8, 8)).astype(np.float32)
    x += (np.where(rng.random(96) < 0.75, y, 1 - y) - 0.5)[:, None, None, None]
    for part in ("train", "test"):
        np.savez(project / f"{part}.npz", x=x, y=y)
        x = x + np.float32(0.01)
    (project / "build.py").write_text(REGRESSOR)
    save_file({"scale": torch.ones(1)}, project / "teacher.safetensors")
    given = ["teacher.weights=teacher.safetensors", "teacher.train={}", "teacher.args={}"]
    names = ["teacher.build=build.py:two", "student=null", "distill=null"]
    _, heard = go(run_project, *given, *names, until="teacher")
    [doubt] = [text for text in heard if "cross-entropy" in text]
    assert "0.693" in doubt
    assert "quantities (regression)" in doubt


def test_further_teachers_with_weights_are_marked(run_project, weights):
    entry = {"build": "build.py:net", "args": {"width": 8}, "weights": "teacher.safetensors"}
    scheme = json.dumps({"ensemble": {"teachers": [entry]}})
    _, heard = go(run_project, f"distill.scheme={scheme}", until="distill")
    further = [text for text in accuracies(heard) if "student best" not in text]
    assert further
    assert all(WORDS in text for text in further)
