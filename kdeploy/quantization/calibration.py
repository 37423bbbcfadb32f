"""Calibration: run the float model once and keep what every later choice needs.

The ranges of any observer, the encoding of any profile, and the means that correct biases all
follow from one look at the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from kdeploy.errors import ModelError, NotCalibrated
from kdeploy.quantization.capture import capture
from kdeploy.quantization.observers import (
    PERCENTILE,
    RANGE_ESTIMATORS,
    Range,
    Statistics,
    percentile,
)
from kdeploy.quantization.placement import kind_of, place
from kdeploy.quantization.profiles import PROFILES
from kdeploy.quantization.rewrites import into_integer_operators
from kdeploy.system.interruption import stop_if_asked
from kdeploy.torch_module.named_inputs import in_graph_order

# Items that run at once: their tensors stay in the processor's cache.
PIECE_ITEMS = 4
# Means are those of the first items: they are known long before the ranges are.
MOST_MEAN_ROWS = 64


@dataclass(slots=True)
class Mean:
    """A running mean over the first dimension."""

    total: Tensor | None = None
    count: int = 0

    def see(self, rows: Tensor) -> None:
        # One by one: `rows.sum(0)` takes six times as long where channels are last.
        pieces = rows.unbind(0) if len(rows) <= PIECE_ITEMS else [rows.sum(0)]
        for piece in pieces:
            self.total = piece.clone() if self.total is None else self.total.add_(piece)
        self.count += len(rows)

    @property
    def value(self) -> Tensor:
        assert self.total is not None, "nothing was seen"
        return self.total / self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a model's tensors were like on the calibration data."""

    graph_module: GraphModule
    """The model's operators."""
    statistics: Mapping[str, Statistics]
    """Of every tensor that any profile quantizes, by its name."""
    input_means: Mapping[Node, Mean]
    """Of weighted operators: of a convolution the mean item, of a linear layer the mean row."""
    num_items: int

    def ranges(self, choice: str, *, percent: float = PERCENTILE) -> dict[str, Range]:
        """Return the range of each tensor.

        Args:
            choice: A name in `observers.RANGE_ESTIMATORS`.
            percent: What `percentile` covers.
        """
        if choice == "percentile":
            return {n: percentile(seen, percent=percent) for n, seen in self.statistics.items()}
        return {name: RANGE_ESTIMATORS[choice](seen) for name, seen in self.statistics.items()}

    def refreshed(self, model: nn.Module) -> GraphModule:
        """Return the graph with the parameters of the model as they are now."""
        given = dict(model.named_parameters(remove_duplicate=False))
        for name, parameter in self.graph_module.named_parameters():
            parameter.detach().copy_(given[name].detach())
        return self.graph_module


def calibrate(model: nn.Module, example: Tensor, batches: Iterable[Tensor]) -> Calibration:
    """Run `model` on the batches and return what its tensors were like.

    Args:
        model: The float model.
        example: Two rows of input, to trace the model with.
        batches: Preprocessed inputs.

    Raises:
        NotCalibrated: a tensor got no values.
        ModelError: a tensor had values that are not finite.
    """
    graph_module = into_integer_operators(capture(model, example))
    names: dict[Node, str] = {}
    # The union over profiles: one look at the data serves whichever file is written later.
    for profile in PROFILES.values():
        names.update(place(graph_module, profile).names)
    observer = _Observing(graph_module, names)
    num_items = 0
    with torch.no_grad(), _fast_layout(graph_module) as layout:
        for batch in batches:
            stop_if_asked()
            pieces = [batch[at : at + PIECE_ITEMS] for at in range(0, len(batch), PIECE_ITEMS)]
            for piece in pieces:
                given = (
                    t.contiguous(memory_format=layout) if t.dim() == 4 else t
                    for t in in_graph_order(graph_module, piece)
                )
                observer.run(*given, enable_io_processing=False)
            for seen in observer.statistics.values():
                seen.join(len(pieces))
            num_items += len(batch)
    unseen = [name for name, seen in observer.statistics.items() if not seen.extremes]
    if unseen:
        raise NotCalibrated(
            f"`{type(model).__name__}` cannot become INT8: {len(unseen)} of {len(names)} tensors "
            f"saw no data (first: `{unseen[0]}`)",
            hint="calibrate on more data, e.g. `calibration_batches: 32`",
        )
    return Calibration(
        graph_module=graph_module,
        statistics=observer.statistics,
        input_means=observer.input_means,
        num_items=num_items,
    )


@contextmanager
def _fast_layout(graph_module: GraphModule) -> Iterator[torch.memory_format]:
    """Let images be laid out with their channels last, which convolutions run fastest on."""
    tensors = (*graph_module.parameters(), *graph_module.buffers())
    is_flat = all(tensor.dim() <= 4 for tensor in tensors)
    layout = torch.channels_last if is_flat else torch.contiguous_format
    graph_module.to(memory_format=layout)  # type: ignore[call-overload]
    try:
        yield layout
    finally:
        graph_module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class _Observing(Interpreter):
    """Runs a graph and shows the values of its tensors to their statistics."""

    def __init__(self, graph_module: GraphModule, names: Mapping[Node, str]) -> None:
        super().__init__(graph_module)
        self.names = names
        self.statistics = {name: Statistics() for name in names.values()}
        nodes = graph_module.graph.nodes
        self.input_means = {n: Mean() for n in nodes if kind_of(n) in ("conv", "linear")}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.names and value.numel():
            statistics = self.statistics[self.names[n]]
            statistics.see(value)
            if not all(math.isfinite(extreme) for extreme in statistics.extremes[-1]):
                raise ModelError(
                    f"calibration: `{self.names[n]}` has values that are not finite",
                    hint="check the weights and the preprocessing of the data",
                )
        for reader in n.users:
            means = self.input_means.get(reader)
            if means is not None and reader.args[0] is n and means.count < MOST_MEAN_ROWS:
                is_linear = kind_of(reader) == "linear"
                means.see(value.flatten(0, -2) if is_linear else value)
        return value
