"""The objective: student and adapters learn, the teacher does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.correctness import WeightOfWrong
from kdeploy.distill.loss_specs import checked_weight, loss_specs_of
from kdeploy.distill.losses.attention import attention
from kdeploy.distill.losses.kd import kd
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.teacher import Teacher
from kdeploy.errors import ModelError, RecipeError, UnknownName

ALL = [
    {"kd": {"weight": 0.9}},
    {"hints": {"layers": {"blocks.0": "blocks.0", "blocks.1": "blocks.1"}}},
    {"attention": {"layers": {"blocks.0": "blocks.1"}, "weight": 10.0}},
]


@pytest.fixture
def teacher(tiny_model):
    return tiny_model(seed=1, width=12)


@pytest.fixture
def student(tiny_model):
    return tiny_model(seed=2, width=4)


@pytest.fixture
def batch():
    return Batch(x=torch.rand(6, 1, 12, 12), labels=torch.arange(6) % 4, rows=torch.arange(6))


@pytest.fixture
def build(student, teacher):
    """Return a function that makes the objective of the two tiny models."""

    def make(losses=ALL, *, student=student, teacher=teacher, label_weight=0.1, **options):
        return DistillObjective(
            student,
            Teacher(teacher),
            loss_specs_of(DistillConfig(losses=losses).losses),
            label_weight=checked_weight(label_weight, where="label_weight"),
            example=Batch(x=torch.rand(2, 1, 12, 12), labels=torch.arange(2), rows=torch.arange(2)),
            facts=TaskFacts(num_classes=4, num_items=6),
            **options,
        )

    return make


def test_the_components_are_the_weighted_losses(build, student, teacher, batch):
    x, labels, *_ = batch
    objective = build().eval()
    found = objective(batch)
    assert list(found) == ["labels", "kd", "hints", "attention"]
    with torch.no_grad():
        entropy = nn.functional.cross_entropy(student(x), labels)
        response = kd(student(x), teacher(x), labels)
        stem = nn.functional.relu
        shallow = student.blocks[0](stem(student.bn(student.stem(x))))
        deep = teacher.blocks(stem(teacher.bn(teacher.stem(x))))
        where = attention(shallow, deep, labels)
    assert found["labels"].item() == pytest.approx(0.1 * entropy.item(), rel=1e-5)
    assert found["kd"].item() == pytest.approx(0.9 * response.item(), rel=1e-4)
    assert found["attention"].item() == pytest.approx(10 * where.item(), rel=1e-4)


def test_hints_are_the_sum_over_adapted_pairs(build, student, teacher, batch):
    x = batch.x
    objective = build(ALL[1:2]).eval()
    with torch.no_grad():
        found = objective(batch)["hints"]
        own, other = (m.blocks[0](m.bn(m.stem(x)).relu()) for m in (student, teacher))
        first, second = objective.loss_bank.adapters.values()
        errors = [
            ((first(own) - other) ** 2).mean(),
            ((second(student.blocks[1](own)) - teacher.blocks[1](other)) ** 2).mean(),
        ]
    assert found.item() == pytest.approx(sum(errors).item(), rel=1e-4)


def test_the_optimizer_sees_student_and_adapters_and_never_the_teacher(build, student, teacher):
    objective = build()
    trained = {id(p) for p in objective.parameters()}
    adapters = {id(p) for p in objective.loss_bank.adapters.parameters()}
    assert len(objective.loss_bank.adapters) == 2
    assert trained == {id(p) for p in student.parameters()} | adapters
    assert not trained & {id(p) for p in teacher.parameters()}
    assert {k.split(".")[0] for k in objective.state_dict()} == {
        "student",
        "fading",
        "loss_bank",
        "of_wrong",
    }


def test_the_student_s_state_has_no_adapter(build, student, tiny_model):
    build()
    assert list(student.state_dict()) == list(tiny_model(seed=2, width=4).state_dict())


def test_gradients_reach_students_and_adapters_and_never_the_teacher(
    build, student, teacher, batch
):
    objective = build().train()
    sum(objective(batch).values()).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad.any() for p in objective.loss_bank.adapters.parameters() if p.ndim > 1)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_keeps_its_statistics_and_eval_mode(build, student, teacher, batch):
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    objective = build().train()
    teacher.train()  # someone else's hand
    objective(batch)
    assert student.training
    assert not any(m.training for m in teacher.modules())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_building_changes_neither_student_nor_its_mode(build, student, tiny_model):
    student.train()
    build()
    assert student.training
    before = tiny_model(seed=2, width=4).state_dict()
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_a_label_weight_of_zero_needs_no_labels(build, batch):
    unlabelled = batch._replace(labels=torch.full((6,), -1))
    assert list(build(label_weight=0.0)(unlabelled)) == ["kd", "hints", "attention"]


def test_where_all_weights_are_zero_the_gradient_is_too(build, student, batch):
    warm_up = {"warm_up": {"value": 1.0}}
    objective = build([{"kd": {"weight": warm_up}}], label_weight=0.0).train()
    components = objective(batch)
    sum(components.values()).backward()
    assert components["kd"] == 0
    assert not any(p.grad.any() for p in student.parameters())


def test_layouts_reach_the_teacher_too(build, teacher):
    build().to(memory_format=torch.channels_last)
    weight = teacher.blocks[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_under_autocast_losses_are_still_float32(build, batch):
    objective = build().eval()
    with torch.no_grad():
        exact = objective(batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = objective(batch)
    for name, value in found.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.1)


def test_the_fingerprint_sees_the_teacher_and_the_losses(build, student, tiny_model):
    one = build().fingerprint
    assert one == build().fingerprint
    others = [
        build(teacher=tiny_model(seed=9, width=12)),
        build(ALL[:2]),
        build(label_weight=0.2),
    ]
    assert one not in {other.fingerprint for other in others}


def test_refuses_nothing_to_learn(build):
    with pytest.raises(RecipeError, match="nothing to learn"):
        build([], label_weight=0.0)


def test_refuses_a_teacher_that_is_the_student(build, student):
    with pytest.raises(ModelError, match="one and the same object"):
        build(teacher=student)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ({"blocks.9": "blocks.0"}, UnknownName, "no layer `blocks.9` in the student"),
        ({"blocks.0": "blocks.9"}, UnknownName, "no layer `blocks.9` in the teacher"),
        ({"blocks.0": "head"}, ModelError, "layers `blocks.0`: `head`: the student's features"),
    ],
)
def test_refuses_layers_that_do_not_fit(layers, error, message, build):
    with pytest.raises(error, match=message):
        build([{"hints": {"layers": layers}}])


def test_refuses_a_layer_that_never_runs(build, student):
    student.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(ModelError, match="`unused` of the student does not run"):
        build([{"hints": {"layers": {"unused": "blocks.0"}}}])


def test_refuses_losses_that_cannot_be_computed(build, tiny_model):
    with pytest.raises(ModelError, match="the loss `kd` cannot be computed"):
        build([{"kd": {}}], teacher=tiny_model(classes=9))


def gradients(objective, components, name):
    """Return the norm of what a component asks of the student's parameters."""
    trained = [p for p in objective.student.parameters() if p.requires_grad]
    found = torch.autograd.grad(
        components[name], trained, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return float(torch.cat([g.flatten() for g in found]).norm())


@pytest.mark.parametrize("weight", [1e-4, 1e4])
@pytest.mark.parametrize(
    "loss",
    [{"attention": {"layers": {"blocks.0": "blocks.1"}}}, {"kd": {}}],
    ids=["attention", "kd"],
)
def test_a_balanced_loss_asks_for_about_as_much_as_the_labels(build, batch, loss, weight):
    ((name, keys),) = loss.items()
    objective = build(
        [{name: {**keys, "weight": weight}}], label_weight=1.0, balanced=(name,)
    ).train()
    components = objective(batch._replace(step=0))
    ratio = gradients(objective, components, name) / gradients(objective, components, "labels")
    assert ratio == pytest.approx(0.5 if weight < 1 else 2.0, rel=1e-3)
    again = objective(batch._replace(step=7))
    assert objective.balance.norms.gt(0).all()
    assert float(again[name].detach()) / float(components[name].detach()) == pytest.approx(1, rel=1)


def test_what_is_only_tried_is_not_looked_at(build, batch):
    objective = build([{"kd": {}}], label_weight=1.0, balanced=("kd",)).train()
    objective(batch)
    assert not objective.balance.norms.any()


def test_the_balance_is_part_of_the_state_and_without_labels_there_is_none(build, batch):
    objective = build([{"kd": {}}], label_weight=1.0, balanced=("kd",))
    assert "balance.norms" in objective.state_dict()
    assert build([{"kd": {}}], label_weight=0.0, balanced=("kd",)).balance is None


def test_items_that_the_teacher_gets_wrong_teach_nothing(build, teacher, batch):
    with torch.no_grad():
        right = teacher(batch.x).argmax(dim=1)
    labels = torch.where(torch.arange(6) < 3, right, (right + 1) % 4)
    objective = build([{"kd": {"weight": 1.0}}], of_wrong=WeightOfWrong(0.0)).eval()
    x = batch.x.clone().requires_grad_()
    objective(batch._replace(x=x, labels=labels))["kd"].backward()
    per_item = x.grad.flatten(1).abs().sum(dim=1)
    assert (per_item[:3] > 0).all()
    assert not per_item[3:].any()
