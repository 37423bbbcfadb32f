"""Drop blocks of a model one by one, each time the one without which the answers change least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdeploy.compress.blocks import Block, drop, find_blocks, is_inside, skipped
from kdeploy.errors import ModelError

ROUNDING = 1e-3  # of the outputs' spread: a dropped block and a skipped one compute the same
NOTHING = 1e-9  # nats, or units of cost; smaller differences are none
Saved = Callable[[nn.Module, nn.Module], float]


class Dropping:
    """A model that loses blocks, one at a time."""

    def __init__(
        self,
        model: nn.Module,
        items: Sequence[Tensor],
        *,
        ignore: tuple[str, ...],
        only_outermost: bool,
    ) -> None:
        self._model, self._items = model, items
        self._answers = [self._answer(x) for x in items]
        self._now = 0.0
        self.blocks = find_blocks(model, items[0][:2])
        for block in self.blocks:
            if any(fnmatchcase(block.name, pattern) for pattern in ignore):
                block.reason = "`ignore` names it"
        if only_outermost:
            able = self.open()
            for block in able:
                if any(is_inside(block, other) for other in able):
                    block.reason = "is inside of another one"
        if not self.open():
            raise ModelError(
                f"drop_layers found no block that can go; of {len(self.blocks)} none takes one "
                "tensor, runs once, and gives back one of the same shape",
                hint="narrow the model by `prune_channels` instead",
            )

    def open(self) -> list[Block]:
        """Return the blocks that are there and may go."""
        return [block for block in self.blocks if not block.is_dropped and not block.reason]

    def drop_least(self, saved: Saved = lambda model, module: 1.0) -> bool:
        """Drop the block that changes the answers least; False when none can go.

        Args:
            saved: What the model costs less without a module: least for each part of it.
        """
        prices = {}
        for block in self.open():
            with skipped(block.module):
                block.divergence = self._divergence()
            # Below rounding all are alike: then the dearest goes.
            change = max(block.divergence - self._now, NOTHING)
            prices[block] = change / max(saved(self._model, block.module), NOTHING)
        return any(self._went(block) for block in sorted(prices, key=prices.__getitem__))

    def rows(self) -> list[dict[str, Any]]:
        """Return what is told of each block."""
        return [
            {
                "layer": block.name,
                "divergence": block.divergence,
                "dropped": block.is_dropped,
                "reason": block.reason,
            }
            for block in self.blocks
        ]

    def _went(self, block: Block) -> bool:
        """Drop a block for good, unless the model computes something else without it."""
        with skipped(block.module):
            expected = self._answer(self._items[0])
        put_back = drop(self._model, block.module)
        try:
            found = self._answer(self._items[0])
            moved = float((found - expected).abs().max() / expected.std().clamp_min(1e-9))
            fault = "" if moved < ROUNDING else "the code around it counts its blocks"
        except Exception as error:  # whatever a model's code raises
            fault = f"the model cannot run without it: {error}"
        if fault:
            put_back()
            block.reason = fault
            return False
        self._now = block.divergence or 0.0
        block.is_dropped = True
        for other in self.open():
            if is_inside(other, block):
                other.reason = f"went with `{block.name}`"
        return True

    def _answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._model(x).float()  # type: ignore[no-any-return]

    def _divergence(self) -> float:
        """Return the mean divergence of the answers from those of the whole model."""
        pairs = zip(self._items, self._answers, strict=True)
        sums = [_divergence(self._answer(x), answer) for x, answer in pairs]
        return float(sum(sums) / sum(len(x) for x in self._items))


def _divergence(found: Tensor, expected: Tensor) -> Tensor:
    """Return KL(expected || found) of logits (batch, ..., classes), summed over items."""
    log_found, log_expected = F.log_softmax(found, -1), F.log_softmax(expected, -1)
    total = F.kl_div(log_found, log_expected, reduction="sum", log_target=True)
    return total / max(1, found[0].numel() // found.shape[-1])
