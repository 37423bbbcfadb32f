"""Training and distillation of models of several inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.errors import ModelError, RecipeError
from kdeploy.training.batches import TrainingBatches
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, Supervised, accuracy, fit
from tests.tiny.two_inputs import masked, masked_items, pictured, pictured_items

CPU = torch.device("cpu")
QUICK = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "precision": "fp32"}


def data_of(folder, items, **options):
    for part, count in (("train", 192), ("test", 64)):
        np.savez(folder / f"{part}.npz", **items(count, seed=count))
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    return load(DataReference(name="arrays", parameters=files, **options))


@pytest.fixture
def pictures(tmp_path):
    return data_of(tmp_path, pictured_items)


@pytest.mark.parametrize(
    ("items", "build"),
    [(pictured_items, pictured), (masked_items, masked)],
    ids=["image and vector", "ids and mask"],
)
def test_several_inputs_are_learned(tmp_path, items, build):
    data = data_of(tmp_path, items)
    torch.manual_seed(0)
    model = build(16)
    config = TrainingConfig(**{**QUICK, "epochs": 12})
    fit(Supervised(model), data, FitContext(device="cpu"), config)
    assert accuracy(model, data.test, data.preprocessing) > 0.75


@pytest.mark.parametrize(
    ("items", "build"),
    [(pictured_items, pictured), (masked_items, masked)],
    ids=["image and vector", "ids and mask"],
)
def test_what_is_tried_beforehand_gets_them_by_name(tmp_path, items, build):
    # In bf16 each step is tried in another process first: one that fails puts a layer in float32.
    config = TrainingConfig(**{**QUICK, "precision": "bf16", "epochs": 1})
    found = fit(Supervised(build(16)), data_of(tmp_path, items), FitContext(device="cpu"), config)
    assert not [why for why in found.arithmetic.because if "Error" in why]


def test_batches_keep_the_inputs_of_an_item_together(pictures):
    made = list(TrainingBatches(pictures, batch_size=50, device=CPU, channels_last=True).epoch([0]))
    rows = torch.cat([batch.rows for batch in made])
    expected = pictures.preprocessing.apply(pictures.train.x[rows.numpy()])
    for name, array in expected.arrays.items():
        found = torch.cat([batch.x.tensors[name] for batch in made])
        np.testing.assert_allclose(found.numpy(), array, atol=1e-6)
    assert made[0].x.tensors["image"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("views", [0, 2], ids=["anew", "countable views"])
def test_the_only_image_is_augmented_and_the_other_inputs_stay(tmp_path, views):
    data = data_of(tmp_path, pictured_items, augment=("horizontal_flip",))
    batches = TrainingBatches(data, batch_size=96, device=CPU, channels_last=False, views=views)
    view = batches.view(0, seed=0, passed=lambda done, items: None)
    batch = next(batches.epoch([0], view))
    expected = data.preprocessing.apply(data.train.x[batch.rows.numpy()]).arrays
    torch.testing.assert_close(batch.x.tensors["vector"], torch.from_numpy(expected["vector"]))
    image = torch.from_numpy(expected["image"])
    is_same = (batch.x.tensors["image"] == image).flatten(1).all(1)
    assert 0.2 < float(is_same.float().mean()) < 0.8
    torch.testing.assert_close(batch.x.tensors["image"][~is_same], image[~is_same].flip(-1))


def test_a_student_learns_from_outputs_and_layers(pictures):
    torch.manual_seed(0)
    teacher, student = pictured(16).eval(), pictured(4)
    losses = [{"kd": {}}, {"hints": {"layers": {"conv2": "conv2"}}}, {"rkd": {}}]
    config = DistillConfig(**QUICK, losses=losses)
    result = distill(student, teacher, pictures, FitContext(device="cpu"), config)
    first, last = (result.fit.history[epoch].losses for epoch in (0, -1))
    assert {"labels", "kd", "hints", "rkd"} <= set(last)
    assert last["hints"] < first["hints"]


def test_kept_answers_are_those_of_the_live_teacher(pictures, tmp_path):
    found = []
    for budget in ("0GB", "1GB"):
        torch.manual_seed(0)
        teacher, student = pictured(16).eval(), pictured(4)
        config = DistillConfig(**QUICK, losses=[{"kd": {}}], cache_budget=budget)
        context = FitContext(device="cpu", cache=tmp_path / f"cache{budget}")
        found.append(distill(student, teacher, pictures, context, config))
    assert not (tmp_path / "cache0GB").exists()
    assert any((tmp_path / "cache1GB").iterdir())
    one, other = (result.fit.history[-1].losses["kd"] for result in found)
    assert one == pytest.approx(other, rel=0.02)


def test_a_mean_of_the_teacher_is_refused_where_nobody_says_of_which_input(pictures):
    config = DistillConfig(**QUICK, losses=[{"kd": {}}])
    own = {"mean": [0.5], "std": [0.2]}
    with pytest.raises(RecipeError, match="do not say of which"):
        distill(pictured(4), pictured(4), pictures, FitContext(), config, teacher_normalization=own)


def test_a_part_without_items_has_no_score(pictures):
    nothing = replace(pictures.test, x=pictures.test.x[:0], y=pictures.test.y[:0])
    assert np.isnan(accuracy(pictured(4), nothing, pictures.preprocessing))


def test_exits_are_refused_in_words(pictures):
    scheme = {"self_exits": {"exits": ["conv1"]}}
    config = DistillConfig(**QUICK, losses=[{"kd": {}}], scheme=scheme)
    with pytest.raises(ModelError, match="a model with exits takes one"):
        distill(pictured(4), pictured(8).eval(), pictures, FitContext(device="cpu"), config)
