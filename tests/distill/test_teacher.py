"""The teacher stays as it is, and sees inputs as it was trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from kdeploy.data.contract import Preprocessing
from kdeploy.distill.teacher import Renormalizer, Teacher, teacher_preprocessing
from kdeploy.errors import RecipeError
from kdeploy.training.contract import Batch

DATA = Preprocessing(shape=(3, 4, 4), scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def of(x):
    return Batch(x=x, labels=torch.zeros(len(x), dtype=torch.int64), rows=torch.arange(len(x)))


def test_answers_in_eval_mode_without_gradients(tiny_model):
    model = nn.Sequential(tiny_model(), nn.Dropout(0.5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(4, 1, 12, 12)
    teacher = Teacher(model)
    logits, features = teacher(of(x), ["0.stem"])
    assert torch.equal(logits, teacher(of(x), [])[0])
    assert not logits.requires_grad
    assert not features["0.stem"].requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("own", [{"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}])
def test_sees_inputs_in_its_own_normalisation(own):
    stored = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8).numpy()
    theirs = teacher_preprocessing(DATA, own)
    teacher = Teacher(nn.Identity(), Renormalizer(DATA, theirs))
    seen, _ = teacher(of(torch.from_numpy(DATA.apply(stored))), [])
    expected = replace(DATA, mean=tuple(own["mean"]), std=tuple(own["std"])).apply(stored)
    assert torch.allclose(seen, torch.from_numpy(expected), atol=1e-5)


def test_one_value_counts_for_all_channels():
    theirs = teacher_preprocessing(DATA, {"mean": [0.5], "std": [0.25]})
    renormalize = Renormalizer(DATA, theirs)
    assert renormalize(torch.zeros(1, 3, 4, 4)).flatten(2)[0, :, 0].tolist() == pytest.approx(
        [(m - 0.5) / 0.25 for m in DATA.mean]
    )


@pytest.mark.parametrize("none", [None, {}])
def test_without_its_own_it_sees_what_the_student_sees(none):
    assert teacher_preprocessing(DATA, none) is DATA


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [0.5, 0.5], "std": [1.0, 1.0]},
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.0]},
        {"mean": [0.5], "std": [1.0], "scale": [1.0]},
    ],
)
def test_refuses_a_normalisation_that_does_not_fit(wrong):
    with pytest.raises(RecipeError):
        teacher_preprocessing(DATA, wrong)


def test_token_ids_have_no_normalisation():
    ids = Preprocessing(shape=(3,), dtype="int64", vocabulary=9)
    assert teacher_preprocessing(ids, None) is ids
    with pytest.raises(RecipeError, match="token ids"):
        teacher_preprocessing(ids, {"mean": [0.5], "std": [0.5]})
