import json
import os
import sys

import pytest
import torch
from torch import nn

from kdeploy.training import kernel_calls
from kdeploy.training.arithmetic import Layers
from kdeploy.training.kernel_calls import recorded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux")


class Objective(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, x):
        return self.student(x).sum()


def record_of(student, step, *, is_cast=False):
    objective = Objective(student)
    return recorded(lambda: [lambda: step(objective)], Layers(objective), is_cast=is_cast)


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_it_names_each_call_with_its_layer_types_and_layout():
    x = torch.zeros(5, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    record = record_of(small(), lambda objective: objective(x), is_cast=True)
    calls = [(json.loads(text), layer) for text, layer in record.calls]
    assert [(call["name"], layer) for call, layer in calls] == [
        ("aten::convolution", "0"),
        ("aten::native_batch_norm", "1"),
        ("aten::addmm", "3"),
    ]
    first = calls[0][0]["args"]
    assert first[0]["tensor"] == [[5, 3, 3, 3], [27, 1, 9, 3], "bfloat16", False]
    assert first[1]["tensor"][2:] == ["bfloat16", True]


def test_nothing_of_it_is_left_here():
    student = small()
    before, random = student.state_dict()["1.running_mean"].clone(), torch.random.get_rng_state()
    seen = []

    def step(objective):
        seen.append("in the other process")
        torch.rand(3)
        objective(torch.ones(5, 3, 3, 3))

    assert len(record_of(student, step).calls) == 3
    assert seen == []
    assert torch.equal(student[1].running_mean, before)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_process_that_dies_is_named_by_its_signal():
    record = record_of(small(), lambda objective: os.abort())
    assert record.died == "SIGABRT"


def test_a_process_that_does_not_answer_is_ended(monkeypatch):
    monkeypatch.setattr(kernel_calls, "PATIENCE_SECONDS", 0.3)
    record = record_of(small(), lambda objective: __import__("time").sleep(60))
    assert record.died == "no answer"


def test_an_error_is_told_with_the_layer_that_it_came_from():
    record = record_of(small(), lambda objective: objective(torch.zeros(5, 2, 3, 3)))
    assert record.layer == "0"
    assert record.error.startswith("RuntimeError: ")


def test_what_fails_before_the_steps_is_left_for_the_training_to_tell():
    def broken():
        raise ValueError("no data")

    objective = Objective(small())
    record = recorded(broken, Layers(objective), is_cast=False)
    assert (record.calls, record.error, record.died) == ((), "", "")
