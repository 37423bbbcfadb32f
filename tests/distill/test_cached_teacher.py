"""The cached teacher: the live teacher's own words, exactly, for the right item and view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.distill import cached_teacher
from kdeploy.distill.cached_teacher import CachedTeacher
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.run import distill
from kdeploy.distill.teacher import Teacher
from kdeploy.distill.teacher_cache import KeptLogits
from kdeploy.training.batches import TrainingBatches
from kdeploy.training.fit import FitContext, NullCallback
from tests.tiny.language import VOCABULARY, text_data

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32", "views": 2, "epochs": 4}
PATHS = ("blocks.1", "pool")


class Counting(Teacher):
    """A live teacher that counts the items it was asked for."""

    asked = 0

    def __call__(self, batch, paths):
        self.asked += len(batch.x)
        return super().__call__(batch, paths)


@pytest.fixture
def data(tiny_data):
    return replace(tiny_data, augment=("random_crop", "horizontal_flip"))


@pytest.fixture
def live(tiny_model):
    return Counting(tiny_model(seed=7, width=12))


@pytest.fixture
def paths(live):
    names = [name for name, _ in live.model.named_modules()]
    return tuple(path for path in ("blocks.0", "blocks.1") if path in names)


def batches_of(data, *, seed=0, batch_size=32, views=2):
    return TrainingBatches(
        data,
        batch_size=batch_size,
        device=torch.device("cpu"),
        channels_last=False,
        views=views,
    )


def answered(teacher, data, paths, *, epochs=2, seed=0):
    """Return what the teacher says in each epoch, by view and row."""
    batches, said = batches_of(data), {}
    for epoch in range(epochs):
        view = batches.view(epoch, seed=seed, passed=lambda done, items: None)
        teacher.prepare(view, paths)
        for batch in batches.epoch([seed, epoch], view):
            known = teacher(batch, paths)
            for place, row in enumerate(batch.rows.tolist()):
                values = [known.logits[place], *(known.features[p][place] for p in paths)]
                said[batch.view, row] = (batch.x[place], values)
    return said


def test_says_what_the_live_teacher_says_of_that_very_view(live, data, paths, tmp_path):
    cached = CachedTeacher(live, tmp_path, budget_bytes=1e9)
    said = answered(cached, data, paths)
    assert len(said) == 2 * 96
    assert len(paths) == 2
    with torch.no_grad():
        for x, values in list(said.values())[::17]:
            expected = live.model(x[None])[0]
            assert torch.allclose(values[0], expected, rtol=2e-3, atol=2e-3)
            assert values[0].dtype == torch.float32


def test_asks_once_for_each_view_of_each_item(live, data, paths, tmp_path):
    answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), data, paths, epochs=6)
    example = 64  # the piece that shows the shapes
    assert live.asked == 2 * 96 + example


def test_another_training_asks_no_more(live, data, paths, tmp_path):
    first = answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), data, paths)
    live.asked = 0
    second = answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), data, paths, seed=3)
    assert live.asked <= 96
    assert all(
        torch.equal(a, b)
        for key in first
        for a, b in zip(first[key][1], second[key][1], strict=True)
    )


def test_a_changed_teacher_data_or_view_is_asked_anew(live, tiny_model, data, tmp_path):
    cached = CachedTeacher(live, tmp_path, budget_bytes=1e9)
    answered(cached, data, ())
    other = Counting(tiny_model(seed=8, width=12))
    answered(CachedTeacher(other, tmp_path, budget_bytes=1e9), data, ())
    assert other.asked > 2 * 96
    live.asked = 0
    changed = replace(data, augment=("horizontal_flip",))
    answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), changed, ())
    assert live.asked > 2 * 96
    assert len(list(tmp_path.iterdir())) == 3


def test_half_a_view_is_completed_and_not_asked_again(live, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("kdeploy.training.views.BLOCK", 32)
    for module in ("kdeploy.distill.teacher_cache",):
        monkeypatch.setattr(f"{module}.BLOCK", 32)
        monkeypatch.setattr(f"{module}.BLOCKS_AT_ONCE", 1)
    batches = batches_of(tiny_data)
    cached = CachedTeacher(live, tmp_path, budget_bytes=1e9)

    def interrupted(done, items):
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached.prepare(batches.view(0, seed=0, passed=interrupted), ())
    live.asked = 0
    again = CachedTeacher(live, tmp_path, budget_bytes=1e9)
    again.prepare(batches.view(0, seed=0, passed=lambda done, items: None), ())
    assert live.asked == 32 + 32, "the block that shows the shapes, and the one that was missing"


@pytest.mark.parametrize("budget", [100, 1e4])
def test_what_does_not_fit_the_budget_is_asked_live(budget, live, data, paths, tmp_path, caplog):
    said = answered(CachedTeacher(live, tmp_path, budget_bytes=budget), data, paths)
    assert "asked live on every batch" in caplog.text
    assert len(said) == 2 * 96
    assert not list(tmp_path.rglob("*.float16"))


def test_a_full_disk_is_no_error_but_a_live_teacher(live, data, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cached = CachedTeacher(live, tmp_path / "file", budget_bytes=1e9)
    assert len(answered(cached, data, ())) == 2 * 96
    assert "asked live on every batch" in caplog.text


def test_answers_that_were_not_asked_for_longest_make_room(live, tiny_model, data, tmp_path):
    answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), data, ())
    size = 2 * 2 * 96 * 4
    answered(CachedTeacher(Teacher(tiny_model(seed=9)), tmp_path, budget_bytes=size), data, ())
    assert len(list(tmp_path.iterdir())) == 1


def test_top_k_keeps_the_largest_and_the_sum_of_the_others(live, tiny_model, data, tmp_path):
    wide = Teacher(tiny_model(seed=7, width=12, classes=9))
    data = replace(data, preprocessing=replace(data.preprocessing, classes=tuple("abcdefghi")))
    said = answered(
        CachedTeacher(wide, tmp_path, budget_bytes=1e9, kept=KeptLogits(top_k=3)), data, ()
    )
    for x, (logits,) in list(said.values())[::13]:
        with torch.no_grad():
            expected = wide.model(x[None])[0].softmax(0)
        found = logits.softmax(0)
        top = expected.topk(3).indices
        assert torch.allclose(found[top], expected[top], atol=2e-3)
        assert found.sum().item() == pytest.approx(1.0, abs=1e-5)
        rest = np.setdiff1d(np.arange(9), top.numpy())
        assert torch.allclose(found[rest], found[rest].mean().expand(6), atol=1e-6)


class InterruptedAt(NullCallback):
    def __init__(self, step):
        self.left = step

    def stepped(self, images):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [3, 8, 15])
def test_a_distillation_interrupted_anywhere_ends_in_the_same_weights(
    step, tiny_model, data, tmp_path
):
    teacher = tiny_model(seed=7, width=12)
    hints = {"hints": {"layers": {"blocks.1": "blocks.1"}, "weight": 0.1}}

    def run(work, callback):
        context = FitContext(seed=3, work=work / "fit", cache=work / "cache", callback=callback)
        losses = [{"kd": {"weight": {"adaptive": {"start": 1.0, "patience": 1}}}}, hints]
        return distill(
            tiny_model(seed=2), teacher, data, context, DistillConfig(losses=losses, **QUICK)
        ).model

    whole = run(tmp_path / "whole", NullCallback())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", InterruptedAt(step))
    again = run(tmp_path / "cut", NullCallback())
    pairs = zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class Sized(Teacher):
    """A live teacher that notes how many items it was asked for at once."""

    def __call__(self, batch, paths):
        self.sizes = [*getattr(self, "sizes", []), len(batch.x)]
        return super().__call__(batch, paths)


def test_a_large_vocabulary_is_asked_for_and_kept_a_few_items_at_once(tmp_path, monkeypatch):
    data = text_data(tokens=12, items=20)
    torch.manual_seed(0)
    live = Sized(torch.nn.Embedding(VOCABULARY, VOCABULARY))
    monkeypatch.setattr(cached_teacher, "MOST_NUMBERS", 3 * 12 * VOCABULARY)
    said = answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), data, (), epochs=1)
    assert max(live.sizes) == 3
    assert len(said) == 20
    for x, (logits,) in said.values():
        assert torch.equal(logits, live.model(x).detach().half().float())
    live.sizes.clear()
    answered(CachedTeacher(live, tmp_path, budget_bytes=1e9), data, (), epochs=1)
    assert sum(live.sizes) == 1 + 3  # what shows the shapes
