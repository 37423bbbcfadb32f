from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.shared.dry_run import on_the_processor
from kdeploy.kernels.int8_kernels import (
    CUBLASLT,
    CUSPARSELT,
    choose_kernels,
    layer_rows,
    sparse_counts,
)
from kdeploy.kernels.int8_layers import Epilogue, IntegerLayer
from kdeploy.kernels.windows import Window


def integer_layer(outputs, *, is_sparse=True, has_relu=False):
    weight = torch.randint(1, 9, (outputs, 32), dtype=torch.int8)
    if is_sparse:
        weight[:, ::2] = 0
    epilogue = Epilogue(has_relu=has_relu, code_scale=1.0)
    return IntegerLayer(weight, torch.ones(outputs), None, window=Window(), epilogue=epilogue)


@pytest.fixture
def measured():
    """Return a clock for which the sparse kernel is the fastest, and what it was asked for."""
    asked = []

    def clock(calls):
        asked.append(list(calls))
        return {name: 1e-3 / (index + 1) for index, name in enumerate(calls)}

    return clock, asked


def test_layers_that_are_alike_are_measured_once(measured):
    clock, asked = measured
    alike = [integer_layer(32) for _ in range(3)]
    model = nn.Sequential(*alike, integer_layer(32, has_relu=True), integer_layer(64))
    x = torch.randint(-9, 9, (4, 32), dtype=torch.int8)
    expected = model(x)
    with on_the_processor():
        choose_kernels(model, clock)
        assert torch.equal(model(x), expected)
    assert asked == [[CUBLASLT, CUSPARSELT]] * 3  # the first three, with ReLU, and the wider one
    assert {row["kernel"] for row in layer_rows(model)} == {f"int8 {CUSPARSELT}"}
    assert sparse_counts(model) == (5, 5)


def test_dense_weights_have_no_sparse_kernel(measured):
    clock, asked = measured
    model = nn.Sequential(integer_layer(32, is_sparse=False))
    with on_the_processor():
        choose_kernels(model, clock)
        model(torch.ones(4, 32, dtype=torch.int8))
    assert asked == []
    assert sparse_counts(model) == (0, 0)
