"""CRD against numpy, its banks and its constants."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.losses.crd import CRD
from kdeploy.errors import ModelError
from tests.distill.formulas import unit

FACTS = TaskFacts(num_classes=5, num_items=20)
ROWS = torch.tensor([3, 17, 0, 9])
OPTIONS = {"dimensions": 6, "negatives": 8}


@pytest.fixture
def crd():
    return CRD((4, 5, 3, 3), (4, 7), FACTS, **OPTIONS)


def step(crd, *, seed=0, rows=ROWS):
    torch.manual_seed(seed)
    student, teacher = torch.randn(len(rows), 5, 3, 3), torch.randn(len(rows), 7)
    labels = torch.zeros(len(rows), dtype=torch.int64)
    return crd(student, teacher, Batch(student, labels, rows)), (student, teacher)


def embedded(crd, features):
    """Return the student's and the teacher's vectors (2, batch, dimensions)."""
    both = features[0].mean((2, 3)), features[1]
    layers = [[p.detach().double().numpy() for p in m.parameters()] for m in crd.projections]
    return np.stack(
        [unit(f.double().numpy() @ w.T + b) for f, (w, b) in zip(both, layers, strict=True)]
    )


def formula(vectors, banks, noise, *, temperature=0.07):
    """Return the paper's noise-contrastive loss of both sides, with Z from this batch."""
    sides, items, constants = [], banks.shape[1], []
    for own, bank in ((vectors[0], banks[1]), (vectors[1], banks[0])):
        scores = np.concatenate([(own * bank[ROWS])[:, None].sum(2), own @ bank[noise].T], axis=1)
        potentials = np.exp(scores / temperature)
        constants.append(potentials.mean())
        p = potentials / (items * potentials.mean())
        h = p / (p + len(noise) / items)
        sides.append(-(np.log(h[:, 0]) + np.log(1 - h[:, 1:]).sum(1)).mean())
    return sum(sides), constants


def test_is_the_formula(crd):
    banks = crd.banks.double().numpy().copy()
    found, features = step(crd)
    torch.manual_seed(0)
    for f in features:
        torch.randn(f.shape)
    noise = torch.randint(20, (8,)).numpy()
    expected, constants = formula(embedded(crd, features), banks, noise)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert crd.normalizers.tolist() == pytest.approx(constants, rel=1e-4)


def test_the_batch_s_rows_move_by_the_momentum_and_no_others(crd):
    before = crd.banks.clone()
    _, features = step(crd)
    expected = before.double().numpy()
    expected[:, ROWS] = unit(0.5 * expected[:, ROWS] + 0.5 * embedded(crd, features))
    assert np.allclose(crd.banks, expected, atol=1e-5)
    rest = [row for row in range(20) if row not in ROWS.tolist()]
    assert torch.equal(crd.banks[:, rest], before[:, rest])


def test_the_banks_hold_vectors_of_length_one_from_the_start(crd):
    assert torch.allclose(crd.banks.norm(dim=2), torch.ones(2, 20))
    for seed in range(3):
        step(crd, seed=seed)
    assert torch.allclose(crd.banks.norm(dim=2), torch.ones(2, 20))


def test_the_constants_are_fixed_by_the_first_batch(crd):
    assert crd.normalizers.tolist() == [0, 0]
    step(crd, seed=0)
    fixed = crd.normalizers.clone()
    step(crd, seed=1, rows=ROWS + 1)
    assert (fixed > 0).all()
    assert torch.equal(crd.normalizers, fixed)


def test_from_its_state_it_goes_on_the_same(crd):
    step(crd, seed=0)
    other = CRD((4, 5, 3, 3), (4, 7), FACTS, **OPTIONS)
    assert step(copy.deepcopy(other), seed=1)[0] != step(copy.deepcopy(crd), seed=1)[0]
    other.load_state_dict(crd.state_dict())
    for seed in (1, 2):
        assert torch.equal(step(crd, seed=seed)[0], step(other, seed=seed)[0])
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in crd.state_dict().items())


def test_in_eval_mode_it_remembers_nothing(crd):
    before = copy.deepcopy(crd.state_dict())
    value, _ = step(crd.eval())
    assert value.isfinite()
    assert all(torch.equal(v, before[k]) for k, v in crd.state_dict().items())


def test_both_projections_learn_and_the_banks_do_not(crd):
    step(crd)[0].backward()
    assert all(p.grad.any() for p in crd.parameters())
    assert {name.split(".")[0] for name, _ in crd.named_parameters()} == {"projections"}
    assert not crd.banks.requires_grad


def test_learning_it_finds_the_teacher_s_own_vector():
    torch.manual_seed(0)
    crd = CRD((20, 7), (20, 7), FACTS, dimensions=6)
    features = torch.randn(20, 7)
    batch = Batch(features, torch.zeros(20), torch.arange(20))
    values = []
    for _ in range(40):
        values.append(crd(features, features, batch))
        gradients = torch.autograd.grad(values[-1], list(crd.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(crd.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    assert values[-1] < 0.8 * values[0]
    student, teacher = crd.banks
    assert ((student @ teacher.T).argmax(1) == torch.arange(20)).float().mean() > 0.9


def test_has_fewer_negatives_than_items():
    assert CRD((4, 5), (4, 7), FACTS).num_negatives == 19


def test_refuses_a_single_item():
    with pytest.raises(ModelError, match="contrasts an item with others, found 1"):
        CRD((4, 5), (4, 7), TaskFacts(num_classes=2, num_items=1))
