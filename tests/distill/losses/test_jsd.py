"""The generalised divergence against numpy, its limits, and batches that the student wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.losses.jsd import Jsd, generalized
from kdeploy.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden" / "jsd.json"
FACTS = TaskFacts(num_classes=5, num_items=32)
LOGITS = arrays(np.float64, (6, 5), elements=st.floats(-8, 8, width=32))
BETAS = st.floats(0.01, 0.99)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def formula(student, teacher, beta, temperature=1.0):
    """Return equation 1 of the paper, its P the teacher and its Q the student."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    m = beta * p + (1 - beta) * q
    return temperature**2 * (beta * kl(p, m) + (1 - beta) * kl(q, m)).mean()


def drawn(seed, *shape, dtype=np.float64):
    random = np.random.RandomState(seed)
    return tuple(2 * random.standard_normal(shape).astype(dtype) for _ in range(2))


def divergence(student, teacher, beta):
    return generalized(torch.as_tensor(student), torch.as_tensor(teacher), beta=beta).item()


def built(shape=(6, 5), **options):
    return Jsd(torch.Size(shape), torch.Size(shape), FACTS, **options)


def batch_of(x, labels):
    return Batch(x=x, labels=labels, rows=torch.arange(len(x)), view=3, progress=0.5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_is_the_formula(beta, temperature):
    student, teacher = drawn(0, 6, 5)
    loss = built(beta=beta, temperature=temperature)
    batch = batch_of(torch.zeros(6), torch.arange(6) % 5)
    found = loss(*map(torch.from_numpy, (student, teacher)), batch).item()
    assert found == pytest.approx(formula(student, teacher, beta, temperature), rel=1e-9)


def test_at_the_ends_it_is_the_divergence_of_one_from_the_other():
    student, teacher = drawn(1, 6, 5)
    p, q = softmax(teacher), softmax(student)
    assert divergence(student, teacher, 0.0) == pytest.approx(kl(p, q).mean(), rel=1e-9)
    assert divergence(student, teacher, 1.0) == pytest.approx(kl(q, p).mean(), rel=1e-9)


def test_towards_the_ends_it_is_that_divergence_scaled():
    student, teacher = drawn(2, 6, 5)
    for small in (1e-4, 1e-6):
        forward, reverse = (divergence(student, teacher, b) for b in (small, 1 - small))
        ends = [divergence(student, teacher, b) for b in (0.0, 1.0)]
        assert forward / small == pytest.approx(ends[0], rel=100 * small)
        assert reverse / small == pytest.approx(ends[1], rel=100 * small)


@given(student=LOGITS, teacher=LOGITS, beta=BETAS)
def test_exchanging_the_networks_is_exchanging_the_ends(student, teacher, beta):
    exchanged = divergence(teacher, student, 1 - beta)
    assert divergence(student, teacher, beta) == pytest.approx(exchanged, rel=1e-6, abs=1e-12)


@given(student=LOGITS, teacher=LOGITS)
def test_half_way_it_is_symmetric(student, teacher):
    exchanged = divergence(teacher, student, 0.5)
    assert divergence(student, teacher, 0.5) == pytest.approx(exchanged, rel=1e-9, abs=1e-15)


@given(student=LOGITS, teacher=LOGITS, beta=BETAS)
def test_lies_between_zero_and_the_entropy_of_beta(student, teacher, beta):
    most = -beta * np.log(beta) - (1 - beta) * np.log(1 - beta)
    assert -1e-12 <= divergence(student, teacher, beta) <= most


@given(logits=LOGITS, shift=st.floats(-5, 5), beta=st.floats(0, 1))
def test_is_zero_at_equal_logits_and_a_constant_more(logits, shift, beta):
    assert abs(divergence(logits + shift, logits, beta)) < 1e-12


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_tokens_without_a_label_do_not_count(beta):
    student, teacher = drawn(3, 2, 3, 5, dtype=np.float32)
    labels = torch.tensor([[-100, 1, 2], [0, -100, -100]])
    counts = labels.numpy() != -100
    loss = built((2, 3, 5), beta=beta)
    batch = batch_of(torch.zeros(2, 3, dtype=torch.int64), labels)
    found = loss(*map(torch.from_numpy, (student, teacher)), batch).item()
    assert found == pytest.approx(divergence(student[counts], teacher[counts], beta), rel=1e-6)


def test_a_batch_without_any_label_teaches_nothing():
    student = torch.randn(2, 3, 5, requires_grad=True)
    labels = torch.full((2, 3), -100)
    found = built((2, 3, 5))(student, torch.randn(2, 3, 5), batch_of(labels, labels))
    found.backward()
    assert found.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_gradient_hardly_depends_on_a_high_temperature(beta):
    teacher = torch.from_numpy(drawn(4, 6, 5)[1])
    gradients = []
    for temperature in (50.0, 500.0):
        student = torch.from_numpy(drawn(4, 6, 5)[0]).requires_grad_()
        loss = built(beta=beta, temperature=temperature)
        loss(student, teacher, batch_of(torch.zeros(6), torch.arange(6) % 5)).backward()
        gradients.append(student.grad)
    assert torch.allclose(*gradients, rtol=0.1, atol=0.1 * gradients[0].abs().mean().item())


def test_keeps_its_value():
    random = np.random.RandomState(0)
    student, teacher = (
        torch.from_numpy(random.standard_normal((8, 5)).astype(np.float32)) for _ in range(2)
    )
    found = built((8, 5))(student, teacher, batch_of(torch.zeros(8), torch.arange(8) % 5)).item()
    assert found == pytest.approx(json.loads(GOLDEN.read_text())["value"], rel=1e-5)


def test_refuses_other_vocabularies_and_names_both_sizes():
    shapes = torch.Size((2, 3, 151936)), torch.Size((2, 3, 152064))
    with pytest.raises(ModelError, match="the student has 151936, the teacher 152064") as caught:
        Jsd(*shapes, FACTS)
    assert "same vocabulary" in caught.value.hint


def test_refuses_logits_for_other_positions():
    with pytest.raises(ModelError, match=r"shape \(2, 3, 5\), the teacher's \(2, 4, 5\)"):
        Jsd(torch.Size((2, 3, 5)), torch.Size((2, 4, 5)), FACTS)


class CountsUp(nn.Module):
    """Is sure that a token is followed by the next number; notes how it was run."""

    def __init__(self, vocabulary=7, certainty=200.0):
        super().__init__()
        self.frozen = nn.Dropout(0.5).eval()
        self.weight = nn.Parameter(certainty * torch.eye(vocabulary).roll(1, 1))
        self.runs = []

    def forward(self, ids):
        self.runs.append((self.training, self.frozen.training, torch.is_grad_enabled()))
        return self.frozen(self.weight)[ids]


X = torch.tensor([[1, 2, 0, 0, 0, 0], [5, 5, 5, 5, 5, 5]])
WRITTEN = [[1, 2, 3, 4, 5, 6], [5, 5, 6, 0, 1, 2]]
PROPOSED = {"on_policy": 1.0, "prompt_tokens": 2}


def proposed(student, seed=0, *, x=X, **options):
    torch.manual_seed(seed)
    loss = built((*x.shape, 7), **(PROPOSED | options))
    return loss.propose(student, batch_of(x, x.roll(-1, 1)))


def test_a_proposal_keeps_the_prompt_and_goes_on_as_the_student_would():
    x = X.clone()
    assert proposed(CountsUp(), x=x).x.tolist() == WRITTEN
    assert torch.equal(x, X)


def test_a_proposal_counts_the_predictions_of_written_tokens_alone():
    batch = proposed(CountsUp())
    assert batch.labels.tolist() == [[-100, 3, 4, 5, 6, -100], [-100, 6, 0, 1, 2, -100]]


def test_a_proposal_is_a_view_that_was_never_seen():
    batch = proposed(CountsUp())
    assert (batch.view, batch.progress, batch.rows.tolist()) == (-1, 0.5, [0, 1])


def test_a_proposal_is_deterministic_under_a_seed():
    unsure = CountsUp(certainty=0.5)
    drawn = [proposed(unsure, seed).x for seed in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_student_writes_in_eval_mode_without_gradient_and_is_left_as_it_was():
    student = CountsUp().train()
    student.frozen.eval()
    batch = proposed(student)
    assert set(student.runs) == {(False, False, False)}
    assert (student.training, student.frozen.training) == (True, False)
    assert not batch.x.requires_grad


def test_a_student_that_fails_is_left_as_it_was():
    class Fails(nn.Module):
        def forward(self, ids):
            raise RuntimeError(f"no {tuple(ids.shape)}")

    student = Fails().train()
    with pytest.raises(RuntimeError, match="no"):
        proposed(student)
    assert student.training


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_from_the_softened_distribution(temperature):
    student = CountsUp(certainty=1.5)
    x = torch.zeros(3000, 3, dtype=torch.int64)
    batch = proposed(student, x=x, sampling_temperature=temperature)
    likely = np.exp(1.5 / temperature)
    share = (batch.x[:, 2] == 1).double().mean().item()
    assert share == pytest.approx(likely / (likely + 6), abs=0.03)


def test_proposes_as_often_as_asked():
    student, batch = CountsUp(), batch_of(X, X.roll(-1, 1))
    loss = built((2, 6, 7), on_policy=0.3, prompt_tokens=5)
    kept = [loss.propose(student, batch) is batch for _ in range(600)]
    assert np.mean(kept) == pytest.approx(0.7, abs=0.06)


def test_without_on_policy_nothing_is_drawn():
    batch, before = batch_of(X, X), torch.get_rng_state()
    assert built((2, 6, 7)).propose(CountsUp(), batch) is batch
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 7)], ids=["a prompt too long", "no text"])
def test_refuses_to_write_where_nothing_can_follow(shape):
    with pytest.raises(ModelError, match="nothing to continue after 6 tokens") as caught:
        built(shape, on_policy=0.5, prompt_tokens=6)
    assert "prompt_tokens" in caught.value.hint
