"""The networks and the clips of models/voice_activity."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeploy.data.own_function import attribute_of
from kdeploy.errors import MissingDependency, Unavailable
from kdeploy.recipe.read import load
from kdeploy.store.references import ModelReference, build_model

FOLDER = Path(__file__).parents[2] / "models" / "voice_activity"
FRAME, WINDOW, HIDDEN = 512, 576, 128


def built(name, **args):
    reference = ModelReference(build=f"build.py:{name}", args=args, folder=FOLDER)
    return build_model(reference).eval()


def clip(frames):
    rng = np.random.default_rng(0)
    return (0.1 * rng.normal(size=(2, 1, FRAME * frames))).astype(np.float32)


def test_the_student_has_the_number_of_parameters_of_its_card_and_answers_each_frame():
    model = built("student")
    assert sum(p.numel() for p in model.parameters()) == 17_729
    assert "17 729" in (FOLDER / "card.md").read_text()
    assert model(torch.from_numpy(clip(5))).shape == (2, 5)


@pytest.mark.parametrize("name", ["Silero", "Student"])
def test_a_frame_is_answered_before_the_next_is_heard(name):
    torch.manual_seed(0)
    kind = attribute_of(f"build.py:{name}", FOLDER, kind="class")
    model = (kind() if name == "Silero" else kind(8, 8)).eval()
    heard = torch.from_numpy(clip(6))
    later = heard.clone()
    later[..., 4 * FRAME :] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(heard)[:, :4], model(later)[:, :4])


def test_the_teacher_is_the_file_of_the_package_frame_by_frame_with_its_state():
    ort = pytest.importorskip("onnxruntime")
    try:
        model = built("silero")
    except Unavailable as error:
        pytest.skip(str(error))
    file = attribute_of("build.py:weights_file", FOLDER)().with_name("silero_vad_16k_op15.onnx")
    session = ort.InferenceSession(str(file))
    sound = clip(8)[:1]
    padded = np.pad(sound[:, 0], ((0, 0), (64, 0)))
    state, found = np.zeros((2, 1, HIDDEN), np.float32), []
    for start in range(0, 8 * FRAME, FRAME):
        given = {"input": padded[:, start : start + WINDOW], "state": state}
        answer, state = session.run(None, {**given, "sr": np.array(16_000, np.int64)})
        found.append(answer[0, 0])
    with torch.no_grad():
        own = torch.sigmoid(model(torch.from_numpy(sound)))[0]
    np.testing.assert_allclose(own.numpy(), found, atol=1e-4)


def test_without_the_package_its_pip_command_is_told(monkeypatch):
    weights_file = attribute_of("build.py:weights_file", FOLDER)
    monkeypatch.setitem(weights_file.__globals__, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        weights_file()
    assert "silero-vad==6.2.3" in caught.value.hint


def test_labels_say_where_the_speech_is_whatever_the_noise(monkeypatch):
    clips = attribute_of("speech.py:clips", FOLDER)
    time = np.arange(20 * FRAME) / 16_000
    spoken = [np.sin(2 * np.pi * 300 * time).astype(np.float32) * 1.4]
    monkeypatch.setitem(clips.__globals__, "_utterances", lambda part: spoken)
    made, again = (clips(train=6, test=4, frames=60) for _ in range(2))
    assert made["x_train"].shape == (6, 1, 60 * FRAME)
    assert made["y_train"].shape == (6, 60)
    assert np.array_equal(made["x_test"], again["x_test"])
    assert set(np.unique(made["y_train"])) == {0, 1}
    assert np.abs(made["x_train"]).max() < 10


def test_a_missing_program_is_told_with_its_command(monkeypatch):
    clips = attribute_of("speech.py:clips", FOLDER)
    monkeypatch.setattr(sys.modules["shutil"], "which", lambda name: None)
    with pytest.raises(Unavailable) as caught:
        clips(train=1, test=1)
    assert caught.value.hint == "apt-get install espeak-ng flite"


def test_the_recipe_resolves():
    recipe = load(FOLDER / "recipe.yaml")
    assert recipe.data.task.name == "multi_label"
    assert recipe.distill.scheme_name == "unlabelled"
