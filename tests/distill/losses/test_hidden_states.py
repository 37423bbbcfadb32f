"""Hidden states against numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.losses.hidden_states import HiddenStates
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "hidden_states.json"
FACTS = TaskFacts(num_classes=5, num_items=32)
IDS = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0], [5, 6, 7, 8]])


def states(seed, *shape):
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.standard_normal(shape).astype(np.float32))


def batch(x=IDS):
    return Batch(x=x, labels=torch.zeros(len(x), dtype=torch.int64), rows=torch.arange(len(x)))


def built(student, teacher, **options):
    return HiddenStates(student.shape, teacher.shape, FACTS, **options)


@pytest.mark.parametrize("positions", [(4,), ()], ids=["tokens", "vectors"])
def test_is_the_error_of_the_projected_states(positions):
    student, teacher = states(0, 3, *positions, 6), states(1, 3, *positions, 8)
    loss = built(student, teacher)
    weight = loss.projection.weight.detach().numpy()
    expected = ((student.numpy() @ weight.T - teacher.numpy()) ** 2).mean()
    assert loss(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-5)


def test_has_one_weight_and_no_bias():
    loss = built(states(0, 3, 4, 6), states(1, 3, 4, 8))
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {
        "projection.weight": (8, 6)
    }


def test_is_the_mean_over_real_tokens():
    student, teacher = states(0, 3, 4, 6), states(1, 3, 4, 8)
    loss = built(student, teacher, padding=0)
    errors = (student.numpy() @ loss.projection.weight.detach().numpy().T - teacher.numpy()) ** 2
    expected = np.concatenate([errors[0, :3], errors[1, :1], errors[2]]).mean()
    assert loss(student, teacher, batch()).item() == pytest.approx(expected, rel=1e-5)


def test_does_not_see_what_padding_holds():
    student, teacher = states(0, 3, 4, 6), states(1, 3, 4, 8)
    loss = built(student, teacher, padding=0)
    before = loss(student, teacher, batch()).item()
    student[IDS == 0], teacher[IDS == 0] = 1e6, -1e6
    assert loss(student, teacher, batch()).item() == before


def test_is_zero_where_the_map_is_found():
    student = states(0, 3, 4, 6)
    loss = built(student, states(1, 3, 4, 8))
    assert loss(student, loss.projection(student).detach(), batch()).item() == 0


def test_keeps_its_value():
    random = np.random.RandomState(0)
    student, teacher = (
        torch.from_numpy(random.standard_normal((8, 4, 24)).astype(np.float32)) for _ in range(2)
    )
    torch.manual_seed(0)
    found = built(student, teacher)(student, teacher, batch(torch.zeros(8))).item()
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["value"], rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((3, 6, 4, 4), (3, 8, 4, 4)), ((3, 4, 6), (3, 5, 8)), ((3, 6), (3, 4, 8))],
    ids=["maps", "other lengths", "a vector and tokens"],
)
def test_refuses_what_it_cannot_compare_and_names_both_shapes(student, teacher):
    with pytest.raises(ModelError, match="hidden_states compares") as caught:
        HiddenStates(torch.Size(student), torch.Size(teacher), FACTS)
    assert str(student) in caught.value.message
    assert str(teacher) in caught.value.message
    assert "hints" in caught.value.hint
