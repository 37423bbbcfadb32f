"""Channel shuffles: channels seen as a table of rows x columns, and transposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch_pruning.ops import OPTYPE

from kdeploy.pruning.operations import operation, shape_given, shape_made


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """Channels seen as a table of rows x columns, and transposed."""

    node: Any
    """Its channels are numbered after the shuffle, those of its inputs before."""
    rows: int
    columns: int
    steps: tuple[Any, ...] = ()
    """The nodes that make the table, turn it and undo it; none of torch's own shuffle."""

    def after(self, index: int) -> list[int]:
        """Return where a channel goes."""
        return [index % self.columns * self.rows + index // self.columns]

    def before(self, index: int) -> list[int]:
        """Return where a channel comes from."""
        return [index % self.rows * self.columns + index // self.rows]

    def partner(self, index: int) -> int:
        """Return the first of the channels, numbered after the shuffle, that go together.

        The number of groups stays when channels go: one channel of each group must go at once.
        Which side of the table is the groups is not recorded; they are the smaller number.
        """
        row, column = index % self.rows, index // self.rows
        return column * self.rows if self.rows <= self.columns else row


def find_shuffles(nodes: Sequence[Any]) -> list[Shuffle]:
    """Return the channel shuffles of a graph."""
    found = [_shuffle_at(node) for node in nodes]
    return [shuffle for shuffle in found if shuffle is not None]


def _shuffle_at(node: Any) -> Shuffle | None:
    if node.type != OPTYPE.ELEMENTWISE:
        return None
    if operation(node) == "ChannelShuffle":
        groups = int(node.grad_fn._saved_groups)
        return Shuffle(node=node, rows=groups, columns=shape_made(node)[1] // groups)
    if operation(node) not in ("Transpose", "Permute") or not node.inputs:
        return None
    first, last = node.inputs[0], node
    steps = [first]
    while last.outputs and (last is node or operation(last) == "Clone"):
        steps.append(last)
        last = last.outputs[0]
    if first.type != OPTYPE.RESHAPE or last.type != OPTYPE.RESHAPE:
        return None
    given, table, turned = shape_given(first), shape_made(first), shape_made(node)
    is_turned = turned[1:3] == (table[2:3] + table[1:2]) and turned[3:] == table[3:]
    if given != shape_made(last) or len(table) != len(given) + 1 or not is_turned:
        return None
    return Shuffle(node=node, rows=table[1], columns=table[2], steps=(*steps, last))
