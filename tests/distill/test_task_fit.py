from __future__ import annotations

import numpy as np
import pytest
import torch

from kdeploy import registry
from kdeploy.data.contract import TaskReference
from kdeploy.data.load import DataReference, load
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.correctness import WeightOfWrong
from kdeploy.distill.run import distill
from kdeploy.distill.task_fit import check_task
from kdeploy.errors import RecipeError
from kdeploy.tasks.contract import facts_of
from kdeploy.training.contract import FitContext
from tests.tiny.tasks import Dense, Vector, arrays_of

TRAINING = {"epochs": 1, "batch_size": 32, "learning_rate": 0.01, "precision": "fp32"}
ANY = {"offline", "assistants", "generations", "unlabelled"}
FITS = {
    **{name: {"offline"} | ANY for name in registry.techniques("task")},
    "classification": ANY | {"ensemble", "mutual", "self_exits", "elastic"},
    "tokens": ANY | {"ensemble", "mutual"},
    "language_modeling": ANY | {"ensemble", "mutual"},
    "segmentation": ANY | {"mutual"},
}


def config_of(task, **given):
    return DistillConfig(losses=[{facts_of(task)["loss"]: {}}], **TRAINING, **given)


@pytest.mark.parametrize("scheme", sorted(registry.techniques("scheme")))
@pytest.mark.parametrize("task", sorted(registry.techniques("task")))
def test_a_scheme_fits_the_task_or_is_refused_with_those_that_do(task, scheme):
    config = config_of(task, scheme=scheme)
    if scheme in FITS[task]:
        check_task(config, task)
        return
    with pytest.raises(RecipeError, match=f"the scheme `{scheme}` is for") as caught:
        check_task(config, task)
    assert "`offline`" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"wrong_weight": 0.5},
        {"cache_top_k": 2},
        {"cache_samples": 2},
        {"scheme": {"generations": {"ensemble_of_generations": True}}},
    ],
    ids=str,
)
def test_parameters_that_know_classes_only_are_refused_of_other_tasks(given):
    key = next((name for name in given if name != "scheme"), "ensemble_of_generations")
    check_task(config_of("tokens", **given), "tokens")
    for task in ("segmentation", "embedding", "regression", "path.py:Task"):
        if (task, key) == ("segmentation", "wrong_weight"):  # of each pixel
            check_task(config_of(task, **given), task)
            continue
        with pytest.raises(RecipeError, match=key) as caught:
            check_task(DistillConfig(losses=[], **given), task)
        assert f"leave `{key}` out" in caught.value.hint
    check_task(config_of("segmentation", wrong_weight=1), "segmentation")


def loaded(name, folder):
    own = arrays_of(name)
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", x=own[0], y=own[1])
    files = {part: str(folder / f"{part}.npz") for part in ("train", "test")}
    return load(DataReference(name="arrays", parameters=files, task=TaskReference(name=name)))


def test_a_teacher_of_vectors_is_right_or_wrong_about_no_item(tmp_path, monkeypatch):
    # Groups are counted from 0 to 7, the vectors have 4 numbers: to look up one fails.
    data = loaded("embedding", tmp_path)
    monkeypatch.setattr(WeightOfWrong, "at", lambda *_: 0.0)
    student, teacher = Vector(4, 4), Vector(8, 4)
    config = config_of("embedding")
    result = distill(student, teacher, data, FitContext(seed=0, device="cpu"), config)
    assert np.isfinite(result.fit.history[-1].loss)


def test_students_teach_each_other_masks(tmp_path):
    data = loaded("segmentation", tmp_path)
    torch.manual_seed(0)
    config = config_of("segmentation", scheme="mutual")
    result = distill(Dense(4, 3), Dense(8, 3), data, FitContext(seed=0, device="cpu"), config)
    assert np.isfinite(result.fit.history[0].loss)
