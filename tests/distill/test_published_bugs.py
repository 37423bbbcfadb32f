"""Bugs that other projects published in losses and objectives, one test each that we have not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import Batch, TaskFacts
from kdeploy.distill.loss_specs import checked_weight, loss_specs_of
from kdeploy.distill.losses.dkd import dkd
from kdeploy.distill.losses.kd import kd
from kdeploy.distill.losses.nkd import nkd
from kdeploy.distill.losses.soft_labels import soft_labels
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.run import distill
from kdeploy.distill.teacher import Teacher
from kdeploy.errors import ModelError
from kdeploy.registry import techniques
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, fit

LABELS = torch.arange(6) % 4
LAYERS = {"layers": {"blocks.0": "blocks.0"}}
ATTENTION, HINTS, CRD = {"attention": LAYERS}, {"hints": LAYERS}, {"crd": LAYERS}


@pytest.fixture
def logits():
    return torch.randn(6, 5) * 2, torch.randn(6, 5) * 2


@pytest.fixture
def student(tiny_model):
    return tiny_model(seed=1, width=4)


@pytest.fixture
def teacher(tiny_model):
    return tiny_model(seed=2, width=8)


def objective_of(student, teacher, losses, *, label_weight=0.5):
    return DistillObjective(
        student,
        Teacher(teacher),
        loss_specs_of(DistillConfig(losses=losses).losses),
        label_weight=checked_weight(label_weight, where="label_weight"),
        example=Batch(x=torch.rand(2, 1, 12, 12), labels=torch.arange(2), rows=torch.arange(2)),
        facts=TaskFacts(num_classes=4, num_items=6),
    )


def components(objective, *, items=6, labels=LABELS, seed=0, progress=0.0):
    x = torch.rand(items, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    return objective(Batch(x, labels[:items], torch.arange(items), progress=progress))


# haitongli/knowledge-distillation-pytorch #2 and #48, yuanli2333/Teacher-free-KD #5 and #41,
# facebookresearch/deit #61, HikariTJU/LD #74, Intel Neural Compressor, TAKD: `kl_div` divides by
# the classes unless told otherwise. TinyBERT: `soft_cross_entropy` is a mean over batch x classes.
@pytest.mark.parametrize("loss", [kd, dkd, nkd, soft_labels])
def test_the_number_of_classes_does_not_divide_the_loss(loss, logits):
    unlikely = torch.full((6, 95), -60.0)
    wide = [torch.cat([z, unlikely], dim=1) for z in logits]
    few, many = (loss(*sides, LABELS, temperature=1.0).item() for sides in (logits, wide))
    assert many == pytest.approx(few, rel=1e-5)


# PaddleSlim, `_dkd_loss`: probabilities where `kl_div` wants their logarithms.
@pytest.mark.parametrize("loss", [kd, dkd])
def test_equal_logits_have_nothing_to_learn(loss, logits):
    student = logits[0].clone().requires_grad_()
    value = loss(student, logits[0], LABELS)
    value.backward()
    assert value.abs() < 1e-6
    assert student.grad.abs().max() < 1e-6


# MMRazor, DKD: `size_average=False` beside `reduction` makes it a sum over the batch.
@pytest.mark.parametrize("loss", [kd, dkd, nkd, soft_labels])
def test_a_batch_twice_as_large_does_not_learn_twice_as_fast(loss, logits):
    doubled = [torch.cat([z, z]) for z in logits]
    once, twice = loss(*logits, LABELS), loss(*doubled, LABELS.repeat(2))
    assert twice.item() == pytest.approx(once.item(), rel=1e-5)


# PaddleSlim, TextBrewer: no temperature**2, so a high temperature turns the teacher off.
@pytest.mark.parametrize("loss", [kd, dkd, soft_labels])
def test_a_high_temperature_does_not_turn_the_teacher_off(loss, logits):
    student, teacher = (z.double() for z in logits)
    norms = []
    for temperature in (50.0, 100.0):
        learns = student.clone().requires_grad_()
        loss(learns, teacher, LABELS, temperature=temperature).backward()
        norms.append(learns.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


# torchdistill, `KDLoss`: temperature**2 is dropped where alpha is 0 or None, or labels are missing.
def test_without_labels_the_teacher_s_part_is_the_same(student, teacher):
    alone = objective_of(student, teacher, [{"kd": {}}], label_weight=0.0).eval()
    beside = objective_of(student, teacher, [{"kd": {}}], label_weight=0.5).eval()
    unknown = torch.full((6,), -1)
    assert components(alone, labels=unknown)["kd"] == components(beside)["kd"]


# TRL, GKD: the temperature of the configuration does not reach the loss.
def test_the_recipe_s_temperature_reaches_the_loss(student, teacher):
    values = [
        components(objective_of(student, teacher, [{"kd": {"temperature": t}}]).eval())["kd"]
        for t in (1.0, 8.0)
    ]
    assert values[0].item() != pytest.approx(values[1].item(), rel=1e-2)


# megvii-research/mdistiller #60: of two classes the others are one, and DKD is 0 or infinite.
@pytest.mark.parametrize("loss", [dkd, nkd])
def test_two_classes_are_refused_where_others_are_compared(loss):
    with pytest.raises(ModelError, match="found 2 classes") as caught:
        loss(torch.randn(6, 2), torch.randn(6, 2), LABELS % 2)
    assert "use `kd`" in caught.value.hint


# TRL PR #6252: vocabularies of 151936 and 152064 end in an error that nobody understands.
def test_other_numbers_of_classes_are_refused_before_training(student, tiny_model):
    with pytest.raises(ModelError, match="`kd` cannot be computed for these two models"):
        objective_of(student, tiny_model(classes=7), [{"kd": {}}])


# MMRazor: only batch norm is put into eval mode, so the teacher answers through its dropout.
def test_the_teacher_answers_without_dropout(student, teacher):
    drops = nn.Sequential(teacher, nn.Dropout(0.5)).train()
    objective = objective_of(student, drops, [{"kd": {}}])
    objective.train()
    student.eval()
    drops.train()
    once, again = (components(objective)["kd"] for _ in range(2))
    assert torch.equal(once, again)


# TAKD: the teacher's forward pass is part of the graph.
def test_nothing_of_the_teacher_gets_a_gradient(student, teacher):
    objective = objective_of(student, teacher, [{"kd": {}}, ATTENTION, HINTS])
    sum(components(objective).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert not {id(p) for p in objective.parameters()} & {id(p) for p in teacher.parameters()}


class Wrapped(nn.Module):
    """Puts `module.` (DataParallel) or `_orig_mod.` (torch.compile) before all names."""

    def __init__(self, name, model):
        super().__init__()
        self.add_module(name, model)
        self.name = name

    def forward(self, x):
        return getattr(self, self.name)(x)


# danielsyahputra/yolo-distiller #13: wrapped, no layer has its name, and the loss is silently 0.
@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_wrapped_models_are_still_distilled(name, student, teacher):
    bare = components(objective_of(student, teacher, [ATTENTION]).eval())["attention"]
    wrapped = Wrapped(name, student), Wrapped(name, teacher)
    found = components(objective_of(*wrapped, [ATTENTION]).eval())["attention"]
    assert found > 0
    assert torch.equal(found, bare)


# torchdistill #132: hooks hold the last batch, and the next, smaller one does not fit to it.
def test_a_smaller_last_batch_is_compared_with_itself(student, teacher):
    objective = objective_of(student, teacher, [ATTENTION]).eval()
    components(objective)
    found = components(objective, items=3, seed=5)["attention"]
    fresh = objective_of(student, teacher, [ATTENTION]).eval()
    assert torch.equal(found, components(fresh, items=3, seed=5)["attention"])


# Intel Neural Compressor PR #445: hooks live as long as the model, until a tracer drops them.
def test_no_hook_is_left_on_either_model(student, teacher):
    components(objective_of(student, teacher, [ATTENTION, HINTS]))
    modules = [*student.modules(), *teacher.modules()]
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) == 0


# What timm's tasks hold student and projection in one module for: an optimizer that is given the
# student's parameters alone trains it against a random matrix.
def test_the_projection_of_hints_is_trained_with_the_student(student, teacher):
    objective = objective_of(student, teacher, [HINTS], label_weight=0.0)
    sum(components(objective).values()).backward()
    known = {id(p) for p in student.parameters()}
    projections = [p for p in objective.parameters() if id(p) not in known and p.ndim > 1]
    assert projections
    assert all(p.grad.any() for p in projections)


# MMRazor, `CRDLoss`: takes a `loss_weight` and ignores it.
@pytest.mark.parametrize("loss", [{"kd": {}}, ATTENTION, CRD])
def test_twice_the_weight_is_twice_the_component(loss, student, teacher):
    ((name, keys),) = loss.items()
    values = []
    for weight in (1.5, 3.0):
        torch.manual_seed(0)
        objective = objective_of(student, teacher, [{name: {**keys, "weight": weight}}]).eval()
        values.append(components(objective)[name].item())
    assert values[1] == pytest.approx(2 * values[0], rel=1e-5)


# The same, where a loss would take the weight for itself: here the objective multiplies, for all.
def test_no_loss_has_a_weight_of_its_own():
    own = {t.name: {p.name for p in t.parameters} for t in techniques("loss").values()}
    assert "crd" in own
    assert [name for name, names in own.items() if {"weight", "loss_weight"} & names] == []


# Sun et al., CVPR 2024: the labels' entropy is that of the logits as they are.
def test_only_what_is_compared_with_the_teacher_is_standardised(student, teacher):
    plain, standardized = (
        components(objective_of(student, teacher, [{"kd": {"standardize": s}}]).eval())
        for s in (False, True)
    )
    assert standardized["kd"] != plain["kd"]
    assert torch.equal(standardized["labels"], plain["labels"])


# torchdistill: set-up writes into the class, so a second distillation changes the first.
def test_a_second_objective_changes_nothing_of_the_first(student, teacher, tiny_model):
    first = objective_of(student, teacher, [{"kd": {}}, ATTENTION]).eval()
    before = components(first)
    objective_of(tiny_model(seed=7), tiny_model(seed=8), [{"kd": {"temperature": 1.0}}, HINTS])
    after = components(first)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


class Two(nn.Module):
    """Components named as nobody expects, each of a parameter of its own."""

    def __init__(self, student):
        super().__init__()
        self.student = student
        self.pulls = nn.ParameterDict({"odd": torch.ones(()), "1": torch.ones(())})

    def forward(self, batch):
        nothing = self.student(batch.x).sum() * 0
        return {name: nothing + pull**2 for name, pull in self.pulls.items()}


# MMRazor: a component is learned from only where its name contains "loss".
def test_every_component_is_learned_whatever_its_name(student, tiny_data):
    objective = Two(student)
    fit(objective, tiny_data, FitContext(), TrainingConfig(epochs=1, precision="fp32"))
    assert all(pull < 1 for pull in objective.pulls.values())


# MDistiller keeps the epoch that is best on the test part, and reports its accuracy there.
@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_test_part_is_not_even_looked_at(keep, student, teacher, tiny_data):
    context, unseen = FitContext(), replace(tiny_data, test=None)
    done = distill(student, teacher, unseen, context, DistillConfig(**{"epochs": 1, "keep": keep}))
    assert done.fit.kept == keep
    assert 0 <= done.fit.best_accuracy <= 1


# TextBrewer: a schedule's value between 0 and 1 takes the place of the weight instead of its scale.
def test_a_schedule_keeps_the_size_of_its_weight(student, teacher):
    warm_up = {"warm_up": {"value": 9.0, "until": 0.5}}
    plain, scheduled = (
        objective_of(student, teacher, [{"kd": {"weight": weight}}]).eval()
        for weight in (9.0, warm_up)
    )
    whole = components(plain)["kd"].item()
    found = [components(scheduled, progress=p)["kd"].item() for p in (0.25, 0.5, 1.0)]
    assert found == pytest.approx([whole / 2, whole, whole], rel=1e-5)


# RepDistiller cannot resume, TextBrewer saves weights alone: a bank would start again at random.
def test_a_checkpoint_holds_the_memory_of_a_loss(student, teacher):
    objective = objective_of(student, teacher, [CRD])
    memory = ("banks", "normalizers")
    before, after = {}, {}
    for state in (before, after):
        found = objective.state_dict().items()
        state.update({k: v.clone() for k, v in found if k.endswith(memory)})
        components(objective)
    assert len(before) == 2
    assert not any(torch.equal(before[k], after[k]) for k in before)
