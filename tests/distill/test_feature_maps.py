"""Feature maps brought to one shape."""

from __future__ import annotations

import pytest
import torch

from kdeploy.distill.feature_maps import adapter, check_ranks, pooled_alike
from kdeploy.errors import ModelError


def test_each_dimension_takes_the_smaller_size():
    wide, high = torch.randn(2, 3, 4, 8), torch.randn(2, 5, 8, 4)
    small, other = pooled_alike(wide, high)
    assert torch.allclose(small, wide.reshape(2, 3, 4, 4, 2).mean(4), atol=1e-6)
    assert torch.allclose(other, high.reshape(2, 5, 4, 2, 4).mean(3), atol=1e-6)


def test_equal_sizes_are_left_alone():
    one, other = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    assert pooled_alike(one, other) == (one, other)


@pytest.mark.parametrize("size", [(), (9,), (6, 6)])
def test_an_adapter_projects_vectors_signals_and_images(size):
    student, teacher = torch.randn(4, 3, *size), torch.randn(4, 8, *size)
    project = adapter(student.shape, teacher.shape)
    projected = project(student)
    assert projected.shape == teacher.shape
    expected = torch.einsum("bc...,oc->bo...", student, project[0].weight.reshape(8, 3))
    assert torch.allclose(project[0](student), expected, atol=1e-5)
    assert isinstance(project[1], torch.nn.modules.batchnorm._BatchNorm)


@pytest.mark.parametrize(("student", "teacher"), [((2, 3), (2, 3, 4)), ((2,), (2,))])
def test_features_of_different_kinds_are_refused(student, teacher):
    with pytest.raises(ModelError, match="loss `hints`: the student's features have the shape"):
        check_ranks(student, teacher, where="loss `hints`")
