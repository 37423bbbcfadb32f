"""2:4 sparse layers: half of the weights are stored and multiplied, where that is faster.

A convolution runs as a product of its columns with the rows of its weights, the groups of four
along the input channels. cuSPARSELt takes FP16 and BF16 whose inner and outer sizes are multiples
of 16, int8 of 32. Mishra et al., 2021, arXiv:2104.08378; torch.sparse's semi-structured tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.kernels.fastest import Clock, Fastest, Found
from kdeploy.kernels.int8_layers import IntegerLayer, finished
from kdeploy.kernels.windows import (
    as_given,
    channels_last,
    columns,
    positions_of,
    rows_of,
    window_of_layer,
)

DENSE, SPARSE = "dense", "sparse"
MULTIPLES = {torch.float16: 16, torch.bfloat16: 16, torch.int8: 32}
# Of the positions: the rows of columns are padded to a multiple that all types take.
POSITIONS = 32
Product = Callable[[Tensor, Tensor | None], Tensor]
"""(positions, inner) columns and the bias to (positions, outputs)."""


def packed(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two kept values of each four of (outputs, inner), and their places in it.

    The places ascend; groups with fewer than two that are not zero keep zeros too.
    """
    fours = rows.view(len(rows), -1, 4)
    assert int(fours.count_nonzero(-1).max()) <= 2, "more than two of four weights are not zero"
    # A stable sort puts nonzero values first and keeps their order: the metadata must ascend.
    places = (
        (fours != 0).byte().argsort(stable=True, dim=-1, descending=True)[..., :2].sort(-1).values
    )
    return fours.gather(-1, places).flatten(1), places.to(torch.uint8).flatten(1)


def unpacked(values: Tensor, places: Tensor) -> Tensor:
    """Return the dense rows (outputs, inner) that `packed` was given."""
    pairs = values.view(len(values), -1, 2)
    fours = pairs.new_zeros(*pairs.shape[:2], 4)
    return fours.scatter(-1, places.long().view(pairs.shape), pairs).flatten(1)


class ReferenceProduct:
    """The packed weights, unpacked and multiplied by torch: exact, on any device, never faster."""

    def __init__(self, rows: Tensor) -> None:
        self._values, self._places = packed(rows)

    def __call__(self, read: Tensor, bias: Tensor | None) -> Tensor:
        """Return (positions, outputs)."""
        return functional.linear(read, unpacked(self._values, self._places), bias)


class CuSparseLtProduct:
    """cuSPARSELt's product, with the algorithm that it finds fastest for each shape."""

    def __init__(self, rows: Tensor, out_type: torch.dtype | None = None) -> None:
        self._compressed = torch._cslt_compress(rows)
        self._out_type = out_type
        self._algorithms: dict[int, tuple[int, int, int]] = {}

    def __call__(self, read: Tensor, bias: Tensor | None) -> Tensor:
        """Return (positions, outputs)."""
        num_read = len(read)
        more = -num_read % POSITIONS
        # By its address alone it is read: columns may be a view in which positions overlap.
        seen = (functional.pad(read, (0, 0, 0, more)) if more else read.contiguous()).t()
        # cuSPARSELt searches for one shape: another may want another algorithm.
        if num_read not in self._algorithms:
            self._algorithms[num_read] = self._found(seen, bias)
        algorithm, split_k, split_k_mode = self._algorithms[num_read]
        product = torch._cslt_sparse_mm(
            *(self._compressed, seen, bias),
            out_dtype=self._out_type,
            transpose_result=True,
            alg_id=algorithm,
            split_k=split_k,
            split_k_mode=split_k_mode,
        )
        return product[:num_read]

    def _found(self, seen: Tensor, bias: Tensor | None) -> tuple[int, int, int]:
        """Return the algorithm, in how many parts it splits the inner size, and how it adds them.

        `torch._cslt_sparse_mm_search` is deprecated and forgets the last two.
        """
        library: Any = torch._C
        *best, _ = library._cusparselt.mm_search(
            self._compressed, seen, bias, None, self._out_type, True
        )
        algorithm, split_k, split_k_mode = best
        return algorithm, split_k, split_k_mode


class SparseLayer(nn.Module):
    """A linear layer or convolution that runs sparse where that is faster than as it was."""

    def __init__(
        self, dense: nn.Module, product: Product, clock: Clock, found: Found | None = None
    ) -> None:
        super().__init__()
        window = window_of_layer(dense)
        assert window is not None, f"{type(dense).__name__} has no window"
        self.dense, self.window, self.product = dense, window, product
        self.fastest = Fastest({DENSE: self._dense, SPARSE: self._sparse}, clock, found)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the dense layer returns, up to the order of its sums."""
        output: Tensor = self.fastest(x)
        return output

    # Modules such as torch's own TransformerEncoderLayer look at the parameters of their parts.
    @property
    def weight(self) -> Tensor:
        """Return the dense layer's weight."""
        weight = self.dense.weight
        assert isinstance(weight, Tensor), "a layer with a weight"
        return weight

    @property
    def bias(self) -> Tensor | None:
        """Return the dense layer's bias."""
        return self.dense._parameters["bias"]

    def _dense(self, x: Tensor) -> Tensor:
        output: Tensor = self.dense(x)
        return output

    def _sparse(self, x: Tensor) -> Tensor:
        num_positions = positions_of(self.weight)
        images = channels_last(x, num_positions)
        product = self.product(columns(images, self.window), self.bias)
        outputs = product.view(len(images), *self.window.outputs(images.shape[1:3]), -1)
        return as_given(outputs, x, num_positions)


class SparseIntMm:
    """cuSPARSELt's int8 product as a kernel of an integer layer."""

    def __init__(self, layer: IntegerLayer) -> None:
        self._layer = layer
        self._product = CuSparseLtProduct(layer.rows, torch.int32)

    def __call__(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return the layer's output (batch, height, width, outputs)."""
        sums = self._product(columns(x, self._layer.window), None)
        return finished(sums, x, self._layer, skip)


def why_dense(rows: Tensor) -> str | None:
    """Return why no sparse kernel takes the rows (outputs, inner) of a layer, None if one does."""
    multiple = MULTIPLES.get(rows.dtype)
    if multiple is None:
        return f"no sparse kernel for {rows.dtype}"
    odd = [
        f"{size} {what}"
        for size, what in zip(rows.shape, ("outputs", "inputs x positions"), strict=True)
        if size % multiple
    ]
    if odd:
        return f"{' and '.join(odd)}, no multiple of {multiple}"
    return None if is_two_four(rows) else "its weights are not 2:4"


def is_two_four(rows: Tensor) -> bool:
    """Tell whether of each four in a row at most two are not zero."""
    if rows.shape[1] % 4:
        return False
    return bool((rows.view(len(rows), -1, 4).count_nonzero(-1) <= 2).all())


def with_sparse_layers(
    model: nn.Module, pack: Callable[[Tensor], Product], clock: Clock
) -> dict[str, str]:
    """Put a sparse layer in the place of each layer that a sparse kernel takes.

    Layers that are alike are measured once.

    Args:
        model: Is changed; in evaluation mode, in the type that it runs in.
        pack: Makes the product of a layer's rows.
        clock: Measures both ways.

    Returns:
        Why each other convolution and linear layer stays dense.
    """
    kept: dict[str, str] = {}
    found: defaultdict[Hashable, Found] = defaultdict(dict)
    for name, layer in list(model.named_modules()):
        weight = layer._parameters.get("weight")
        if weight is None or not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        window = window_of_layer(layer)
        if window is None:
            kept[name] = "grouped, or a kind of layer without a sparse kernel"
            continue
        rows = rows_of(weight.detach())
        # Four in a row must be four channels of one position.
        reason = why_dense(rows) or ("" if weight.shape[1] % 4 == 0 else "inputs not in fours")
        if reason:
            kept[name] = reason
        else:
            alike = found[tuple(weight.shape), window, layer.bias is None]
            model.set_submodule(name, SparseLayer(layer, pack(rows), clock, alike))
    return kept


def sparse_layers(model: nn.Module) -> dict[str, SparseLayer]:
    """Return the layers that may run sparse, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, SparseLayer)}


def layer_rows(model: nn.Module, kept: Mapping[str, str]) -> list[dict[str, str]]:
    """Return for each layer what it ran as, and the times or the reason that decided."""
    rows = [
        {"name": name, "kernel": layer.fastest.name or "not called", "why": layer.fastest.why()}
        for name, layer in sparse_layers(model).items()
    ]
    return rows + [{"name": name, "kernel": DENSE, "why": why} for name, why in kept.items()]
