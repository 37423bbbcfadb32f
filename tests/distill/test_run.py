"""distill(): a student learns from a teacher, and what does not fit is refused before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdeploy.data.contract import Split
from kdeploy.distill.config import DistillConfig
from kdeploy.distill.contract import Batch, SchemeContext, TaskFacts
from kdeploy.distill.loss_specs import checked_weight, loss_specs_of
from kdeploy.distill.objective import DistillObjective
from kdeploy.distill.run import distill
from kdeploy.distill.teacher import Teacher
from kdeploy.errors import ModelError, RecipeError, UnknownName
from kdeploy.training.config import TrainingConfig
from kdeploy.training.fit import FitContext, NullCallback, Supervised, accuracy, fit, predict

QUICK = {"batch_size": 16, "learning_rate": 0.05, "precision": "fp32"}
HINTS = {"hints": {"layers": {"blocks.1": "blocks.1"}, "weight": 0.1}}


class Interrupting(NullCallback):
    def __init__(self, steps):
        self.left = steps

    def stepped(self, images):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def teacher(tiny_model, tiny_data):
    model = tiny_model(seed=1, width=12)
    fit(Supervised(model), tiny_data, FitContext(), TrainingConfig(epochs=10, **QUICK))
    return model


@pytest.fixture
def student(tiny_model):
    return tiny_model(seed=2, width=4)


def test_the_student_learns_without_labels(student, teacher, tiny_data):
    unlabelled = Split(x=tiny_data.train.x, y=np.zeros_like(tiny_data.train.y))
    data = replace(tiny_data, train=unlabelled)
    before = accuracy(student, tiny_data.test, tiny_data.preprocessing)
    result = distill(
        student,
        teacher,
        data,
        FitContext(),
        DistillConfig(
            losses=[{"kd": {"temperature": 2.0}}], label_weight=0.0, **{**QUICK, "epochs": 30}
        ),
    )
    assert result.model is student
    x, preprocessing = tiny_data.test.x, tiny_data.preprocessing
    agreement = (predict(student, x, preprocessing) == predict(teacher, x, preprocessing)).mean()
    assert agreement > 0.8 > before
    assert result.teacher_accuracy == accuracy(teacher, tiny_data.validation, preprocessing) > 0.8
    assert list(result.fit.history[0].losses) == ["kd"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_with_weights_of_its_own_may_begin_later(optimizer, student, teacher, tiny_data):
    ((_, keys),) = HINTS.items()
    later = {"linear": {"start": 0.0, "end": 0.5, "since": 0.4}}
    options = {**QUICK, "optimizer": optimizer, "learning_rate": 0.01, "epochs": 3}
    losses = [{"kd": {}}, {"hints": {**keys, "weight": later}}]
    result = distill(
        student, teacher, tiny_data, FitContext(), DistillConfig(losses=losses, **options)
    )
    learned = [record.losses["hints"] for record in result.fit.history]
    assert learned[0] == 0 < learned[1] < learned[2]


def test_an_interrupted_distillation_ends_in_the_same_weights(
    student, teacher, tiny_model, tiny_data, tmp_path
):
    options = {"losses": [{"kd": {}}, HINTS], **QUICK, "epochs": 3}
    distill(student, teacher, tiny_data, FitContext(seed=4), DistillConfig(**options))
    context = FitContext(seed=4, work=tmp_path, callback=Interrupting(8))
    with pytest.raises(KeyboardInterrupt):
        distill(tiny_model(seed=2, width=4), teacher, tiny_data, context, DistillConfig(**options))
    torch.rand(3)
    resumed = tiny_model(seed=2, width=4)
    distill(
        resumed, teacher, tiny_data, FitContext(seed=4, work=tmp_path), DistillConfig(**options)
    )
    pairs = zip(student.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_teacher_with_another_normalisation_is_asked_in_it(student, teacher, tiny_data):
    own = {"mean": list(tiny_data.preprocessing.mean), "std": list(tiny_data.preprocessing.std)}
    other = replace(
        tiny_data, preprocessing=replace(tiny_data.preprocessing, mean=(0.9,), std=(0.05,))
    )
    options = {**QUICK, "epochs": 0}
    told = distill(
        student, teacher, other, FitContext(), DistillConfig(**options), teacher_normalization=own
    )
    untold = distill(student, teacher, other, FitContext(), DistillConfig(**options))
    expected = accuracy(teacher, tiny_data.validation, tiny_data.preprocessing)
    assert told.teacher_accuracy == expected > untold.teacher_accuracy


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((7, 4), "the student has 7 classes, edges has 4"),
        ((4, 5), "the teacher has 5 classes, edges has 4"),
        ((6, 6), "the student has 6 classes, edges has 4"),
    ],
)
def test_refuses_class_counts_that_differ(classes, message, tiny_model, tiny_data):
    models = [tiny_model(classes=c) for c in classes]
    with pytest.raises(ModelError, match=message) as caught:
        distill(*models, tiny_data, FitContext(), DistillConfig(**{"epochs": 1}))
    assert "4 outputs" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "ofline"}, "no scheme `ofline`"),
        ({"scheme": {"offline": {"speed": 1}}}, "no key `speed` in distill.scheme.offline"),
        ({"losses": [{"kdd": {}}]}, "no loss `kdd`"),
    ],
)
def test_refuses_names_that_do_not_exist(options, message, student, teacher, tiny_data):
    with pytest.raises(UnknownName, match=message):
        distill(student, teacher, tiny_data, FitContext(), DistillConfig(**options))


def test_the_teacher_sees_the_very_mix_that_the_student_sees(student, teacher, tiny_data):
    seen = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        model.register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].append(inputs[0].clone())
        )
    data = replace(tiny_data, augment=("horizontal_flip", "mixup"))
    training = {**QUICK, "epochs": 1, "views": 2}
    distill(student, teacher, data, FitContext(), DistillConfig(**training))
    shown = [x for x in seen["student"] if any(torch.equal(x, y) for y in seen["teacher"])]
    assert len(shown) >= len(tiny_data.train) // QUICK["batch_size"]


def test_losses_that_need_true_labels_refuse_a_mix(student, teacher, tiny_data):
    data = replace(tiny_data, augment=("mixup",))
    with pytest.raises(RecipeError, match="`dkd` needs one true class") as caught:
        distill(student, teacher, data, FitContext(), DistillConfig(losses=[{"dkd": {}}], **QUICK))
    assert "leave `mixup` out" in caught.value.hint


def test_a_scheme_can_train_in_several_stages_side_by_side(
    student, teacher, tiny_model, tiny_data, tmp_path
):
    names = []

    class Names(NullCallback):
        def started(self, name, epochs, steps, done_epochs):
            names.append(name)

    fitting = FitContext(work=tmp_path, name="distil", callback=Names())
    weight = checked_weight(0.1, where="label_weight")
    training = TrainingConfig(**QUICK, epochs=1)
    context = SchemeContext(data=tiny_data, fit=fitting, training=training, label_weight=weight)
    two = Batch(x=torch.rand(2, 1, 12, 12), labels=torch.arange(2), rows=torch.arange(2))
    assistant = tiny_model(seed=3, width=8)
    for stage, (learns, knows) in {
        "assistant": (assistant, teacher),
        "student": (student, assistant),
    }.items():
        objective = DistillObjective(
            learns,
            Teacher(knows),
            loss_specs_of(DistillConfig(losses=[{"kd": {}}]).losses),
            label_weight=weight,
            example=two,
            facts=TaskFacts(num_classes=4, num_items=96),
        )
        context.train(objective, name=stage)
    assert names == ["distil: assistant", "distil: student"]
    assert len(context.results) == 2
    assert (tmp_path / "assistant" / "last.ckpt").exists()
    assert (tmp_path / "student" / "last.ckpt").exists()
