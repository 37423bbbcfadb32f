from __future__ import annotations

import pytest
import torch

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.distill.correctness import WeightOfWrong, weighed, weights_of
from kdeploy.distill.losses.kd import kd


def test_rows_that_the_teacher_gets_wrong_are_weighed_down():
    teacher = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]])
    labels = torch.tensor([0, 0, NOT_COUNTED, 2])
    assert weights_of(teacher, labels, of_wrong=0.25).tolist() == [1, 0.25, 1, 0.25]


def test_tokens_are_rows_too():
    teacher = torch.eye(3).expand(2, 3, 3)
    labels = torch.tensor([[0, 1, 0], [0, NOT_COUNTED, 2]])
    assert weights_of(teacher, labels, of_wrong=0.0).tolist() == [[1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("labels", [torch.full((2, 3), 1 / 3), torch.zeros(2, 3).long()])
def test_without_a_class_for_each_row_nothing_is_right_or_wrong(labels):
    assert weights_of(torch.rand(2, 3), labels, of_wrong=0.0) is None
    logits = torch.rand(2, 3)
    assert weighed(logits, None) is logits


def test_the_gradient_is_that_of_the_weighted_mean_of_the_items_losses():
    torch.manual_seed(0)
    logits, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    labels, weights = torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 0.0, 0.5, 1.0])
    kd(weighed(logits, weights), teacher, labels).backward()
    found, logits.grad = logits.grad.clone(), None
    each = [kd(logits[i : i + 1], teacher[i : i + 1], labels[i : i + 1]) for i in range(4)]
    (torch.stack(each) * weights).mean().backward()
    torch.testing.assert_close(found, logits.grad)
    assert found[1].abs().max() == 0


@pytest.mark.parametrize("size", [(4, 6), (2, 3)])
def test_of_maps_each_pixel_counts_and_of_a_cell_the_share_of_its_pixels(size):
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 3, *size, requires_grad=True), torch.randn(2, 3, 4, 6)
    labels = teacher.argmax(1)
    labels[:, :2] = (labels[:, :2] + 1) % 3  # the teacher is wrong in the upper half
    labels[0, 0, 0] = NOT_COUNTED
    weights = weights_of(teacher.movedim(1, -1), labels, of_wrong=0.0)
    assert (weights[0, 0, 0], weights[:, 2:].min(), weights.sum()) == (1, 1, 25)
    weighed(logits, weights).sum().backward()
    assert logits.grad[:, :, size[0] // 2 :].min() == 1
    share = 1 / (4 * 6 // (size[0] * size[1]))
    assert logits.grad[0, :, 0, 0].tolist() == [share] * 3
    assert logits.grad[1, :, : size[0] // 2].max() == 0


@pytest.mark.parametrize(
    ("student_accuracy", "weight"), [(0.0, 1.0), (0.725, 0.5), (0.76, 0.0), (0.9, 0.0)]
)
def test_errors_of_a_teacher_count_as_far_as_it_is_ahead(student_accuracy, weight):
    of_wrong = WeightOfWrong(teacher_accuracy=0.8)
    of_wrong.validated(student_accuracy)
    assert of_wrong.at(0.6) == pytest.approx(weight)
    assert of_wrong.at(0.4) == 0
    resumed = WeightOfWrong(teacher_accuracy=0.8)
    resumed.load_state_dict(of_wrong.state_dict())
    assert resumed.at(0.6) == of_wrong.at(0.6)


def test_a_weight_that_is_given_stays():
    of_wrong = WeightOfWrong(0.25)
    of_wrong.validated(1.0)
    assert of_wrong.at(0.0) == of_wrong.at(1.0) == 0.25
