from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.shared.dry_run import on_the_processor
from kdeploy.compress.compressors.two_four import two_four
from kdeploy.compress.contract import CompressContext
from kdeploy.kernels.int8_layers import Epilogue, IntegerLayer
from kdeploy.kernels.sparse_layers import (
    POSITIONS,
    CuSparseLtProduct,
    ReferenceProduct,
    SparseIntMm,
    layer_rows,
    packed,
    sparse_layers,
    unpacked,
    why_dense,
    with_sparse_layers,
)
from kdeploy.kernels.windows import Window


def random_rows(outputs, inner, dtype=torch.float32):
    """Return rows of which two of each four are zero, at random places."""
    order = torch.rand(outputs, inner // 4, 4).argsort(-1)
    values = torch.randint(1, 100, (outputs, inner // 4, 4)) * (order < 2)
    return values.flatten(1).to(dtype)


def clock(winner):
    """Return a clock for which one of the two ways is faster."""
    times = {"dense": 2e-3, "sparse": 1e-3 if winner == "sparse" else 3e-3}
    return lambda calls: {name: times[name] for name in calls}


def test_packing_keeps_half_of_the_values_and_gives_them_back():
    rows = random_rows(16, 32)
    rows[0, :8] = 0
    values, places = packed(rows)
    assert values.shape == places.shape == (16, 16)
    assert int(places.max()) <= 3
    assert (places.view(16, -1, 2).diff() > 0).all(), "places ascend within their four"
    assert torch.equal(unpacked(values, places), rows)


def test_three_of_four_cannot_be_packed():
    rows = random_rows(16, 32)
    rows[3, 4:7] = 1
    with pytest.raises(AssertionError, match="more than two of four"):
        packed(rows)


def test_each_layer_without_a_sparse_kernel_says_why():
    assert why_dense(random_rows(16, 32, torch.float16)) is None
    assert "no multiple of 32" in why_dense(random_rows(16, 32, torch.int8))
    assert "24 inputs x positions" in why_dense(random_rows(16, 24, torch.bfloat16))
    assert "not 2:4" in why_dense(torch.ones(16, 16, dtype=torch.float16))
    assert "no sparse kernel" in why_dense(random_rows(16, 32))


class Mixed(nn.Module):
    """Pointwise, strided 3x3, grouped, too narrow, and linear."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.point = nn.Conv2d(16, 32, 1)
        self.wide = nn.Conv2d(32, 16, 3, stride=2, padding=1, dilation=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.head = nn.Linear(16, 16)

    def forward(self, x):
        x = torch.relu(self.point(torch.relu(self.stem(x))))
        return self.head(self.grouped(torch.relu(self.wide(x))).mean((2, 3)))


@pytest.mark.parametrize("winner", ["sparse", "dense"])
@torch.no_grad()
def test_sparse_layers_compute_what_the_dense_ones_do_and_the_slower_way_is_left(winner, tiny_data):
    model = two_four(Mixed().eval(), CompressContext(data=tiny_data)).to(torch.bfloat16)
    x = torch.randn(2, 3, 9, 7).to(torch.bfloat16)
    expected = model(x).float()
    kept = with_sparse_layers(model, ReferenceProduct, clock(winner))
    assert set(kept) == {"stem", "grouped"}
    assert set(sparse_layers(model)) == {"point", "wide", "head"}
    torch.testing.assert_close(model(x).float(), expected, rtol=0.02, atol=0.02)
    rows = {row["name"]: row for row in layer_rows(model, kept)}
    assert rows["wide"]["kernel"] == winner
    assert "sparse" in rows["wide"]["why"]
    assert "dense 2 ms" in rows["wide"]["why"]
    assert (rows["stem"]["kernel"], rows["stem"]["why"]) == ("dense", kept["stem"])


def test_sparse_integer_products_are_exact():
    codes = random_rows(32, 64, torch.int8)
    layer = IntegerLayer(
        codes, torch.full((32,), 1e-3), None, window=Window(), epilogue=Epilogue(code_scale=0.5)
    )
    x = torch.randint(-128, 128, (5, 64), dtype=torch.int8)
    expected = layer(x)
    with on_the_processor():
        layer.product = SparseIntMm(layer)
        assert torch.equal(layer(x), expected)


def test_cusparselt_searches_once_a_shape_and_keeps_all_that_it_found(monkeypatch):
    searched, multiplied = [], []

    def mm_search(compressed, seen, bias, alpha, out_type, is_transposed):
        searched.append((seen.shape, out_type, is_transposed))
        return 7, 2, 1, 99  # the algorithm, the split, its mode, and how many algorithms there are

    def multiply(compressed, seen, bias, **how):
        assert seen.t().is_contiguous()
        multiplied.append(how)
        return (compressed.int() @ seen.int()).t()

    monkeypatch.setattr(
        torch._C, "_cusparselt", SimpleNamespace(mm_search=mm_search), raising=False
    )
    monkeypatch.setattr(torch, "_cslt_compress", lambda rows: rows)
    monkeypatch.setattr(torch, "_cslt_sparse_mm", multiply)
    rows = random_rows(32, 64, torch.int8)
    product = CuSparseLtProduct(rows, torch.int32)
    overlapping = torch.randint(-9, 9, (64 + 8 * POSITIONS,), dtype=torch.int8)
    reads = [torch.randint(-9, 9, (count, 64), dtype=torch.int8) for count in (5, 5)]
    for read in (*reads, overlapping.as_strided((POSITIONS, 64), (8, 1))):
        assert torch.equal(product(read, None), read.int() @ rows.int().t())
    assert searched == [((64, POSITIONS), torch.int32, True)] * 2  # for 5 positions and for all
    wanted = {"alg_id": 7, "split_k": 2, "split_k_mode": 1, "transpose_result": True}
    assert multiplied == [{**wanted, "out_dtype": torch.int32}] * 3


def test_layers_that_are_alike_are_measured_once():
    asked = []

    def counting(calls):
        asked.append(list(calls))
        return clock("sparse")(calls)

    layers = [nn.Linear(32, 32) for _ in range(3)]
    for layer in layers:
        layer.weight.data = random_rows(32, 32)
    model = nn.Sequential(*layers).to(torch.bfloat16).requires_grad_(False)
    x = torch.ones(2, 32, dtype=torch.bfloat16)
    expected = model(x)
    assert with_sparse_layers(model, ReferenceProduct, counting) == {}
    assert torch.equal(model(x), expected)
    assert len(asked) == 1
    assert [row["kernel"] for row in layer_rows(model, {})] == ["sparse"] * 3
