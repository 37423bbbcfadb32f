"""The files of a teacher's answers: what was written is read, and what was not is not known."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.divergence import divergence
from kdeploy.distill.teacher_cache import CacheLayout, KeptLogits, TeacherCache, TooLarge

FORMS = [CacheLayout((5,)), CacheLayout((2, 3, 3))]
CPU = torch.device("cpu")
NEEDED = 2 * 2 * 300 * (5 + 18)


def answers(folder, forms=FORMS, *, items=300, budget_bytes=1e9):
    return TeacherCache(folder, forms, views=2, items=items, budget_bytes=budget_bytes)


def outputs(items=300):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((items, *form.shape), generator=generator) for form in FORMS]


def written(folder):
    made, values = answers(folder), outputs()
    with made.writing(1) as write:
        for place in (slice(0, 256), slice(256, 300)):
            write(place, [value[place] for value in values])
    return made, values


def test_reads_what_was_written_at_its_view_and_rows(tmp_path):
    made, values = written(tmp_path / "key")
    rows = torch.tensor([299, 0, 17])
    for found, expected in zip(made.read(1, rows, CPU), values, strict=True):
        assert torch.equal(found, expected[rows].half().float())
    assert made.is_complete(1)
    assert not made.is_complete(0)


def test_what_another_process_wrote_is_known(tmp_path):
    written(tmp_path / "key")
    assert answers(tmp_path / "key").is_complete(1)


def test_files_that_a_kill_left_empty_are_filled(tmp_path):
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "0.float16").touch()
    made, values = written(tmp_path / "key")
    (first, _) = made.read(1, torch.tensor([5]), CPU)
    assert torch.equal(first, values[0][5:6].half().float())


def test_refuses_what_does_not_fit_the_budget(tmp_path):
    with pytest.raises(TooLarge, match="cache_budget"):
        answers(tmp_path / "new", budget_bytes=NEEDED - 1)


def test_makes_room_among_answers_and_touches_nothing_else(tmp_path):
    answers(tmp_path / "old")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("precious")
    answers(tmp_path / "new", budget_bytes=NEEDED)
    assert {path.name for path in tmp_path.iterdir()} == {"holiday", "new"}


def test_refuses_numbers_beyond_float16(tmp_path):
    with pytest.raises(TooLarge, match="beyond the range"):
        FORMS[0].packed(torch.full((1, 5), 1e6))


@pytest.mark.parametrize("shape", [(70000,), (4, 9)])
def test_the_largest_logits_and_the_sum_of_the_others_stay(shape):
    form = CacheLayout(shape, KeptLogits(top_k=3))
    logits = torch.randn(2, *shape)
    found = form.unpacked(form.packed(logits), CPU)
    top = logits.topk(3, dim=-1)
    assert torch.equal(found.topk(3, dim=-1).indices, top.indices)
    assert torch.allclose(found.gather(-1, top.indices), top.values, atol=1e-2)
    assert torch.allclose(found.logsumexp(-1), logits.logsumexp(-1), atol=1e-2)


def test_drawn_classes_are_the_distribution_on_average_and_take_what_is_said():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -3.0]).expand(10_000, 1, 5)
    form = CacheLayout((1, 5), KeptLogits(samples=4))
    assert 2 * form.width == 4 * 4  # bytes a token
    answers = form.unpacked(form.packed(logits, seed=1), CPU)
    shares = answers.softmax(-1)[:, 0]
    torch.testing.assert_close((4 * shares).round(), 4 * shares, atol=1e-4, rtol=0)
    wanted = logits[0, 0].softmax(-1)
    error = (wanted * (1 - wanted) / (4 * len(logits))).sqrt()
    assert ((shares.mean(0) - wanted).abs() < 4 * error).all()


def test_what_is_drawn_follows_from_the_place_alone():
    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))
    form = CacheLayout((4, 50), KeptLogits(samples=6))
    one, same, other = (form.packed(logits, seed).view("int32") for seed in (5, 5, 6))
    assert (one == same).all()
    assert (one != other).any()


def test_the_gradient_of_drawn_answers_is_right_on_average():
    teacher = torch.tensor([[1.5, 0.0, -1.0, 0.5]])
    student = torch.tensor([[0.0, 1.0, 0.3, -1.0]], requires_grad=True)
    form = CacheLayout((4,), KeptLogits(samples=3))
    many = teacher.expand(20_000, 4)
    kept = form.unpacked(form.packed(many, seed=2), CPU)
    divergence(student.expand(len(kept), 4), kept).backward()
    drawn = student.grad.clone()
    student.grad = None
    divergence(student, teacher).backward()
    torch.testing.assert_close(drawn, student.grad, atol=0.01, rtol=0)
