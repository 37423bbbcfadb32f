"""Drop blocks of a model one by one, each time the one without which the answers change least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdeploy.compress.blocks import Block, drop, find_blocks, is_inside
from kdeploy.errors import ModelError
from kdeploy.tasks.contract import Task, is_of_classes
from kdeploy.torch_module.model_outputs import named
from kdeploy.torch_module.named_inputs import call
from kdeploy.torch_module.named_outputs import named_outputs
from kdeploy.untrusted.user_code import described

NOTHING = 1e-9  # nats, or units of cost; smaller differences are none
LEAST_VARIANCE = 1e-12  # of an output that is the same for all items
Cost = Callable[[nn.Module], float]


class Dropping:
    """A model that loses blocks, one at a time."""

    def __init__(
        self,
        model: nn.Module,
        items: Sequence[Tensor],
        *,
        task: Task,
        spared: Collection[str],
        only_layers: bool,
    ) -> None:
        self._model, self._items, self._task = model, items, task
        self._answers = [self._answer(x) for x in items]
        self._now = 0.0
        self.blocks = find_blocks(model, items[0][:2])
        for block in self.blocks:
            if block.name in spared:
                block.reason = "`ignore` names it"
        if only_layers:
            _keep_to_layers(self.open())
        if not self.open():
            raise ModelError(
                f"drop_layers found no block that can go; of {len(self.blocks)} none takes one "
                "tensor, runs once, and gives back one of the same shape, or is a list's member",
                hint="narrow the model by `prune_channels` instead",
            )

    def open(self) -> list[Block]:
        """Return the blocks that are there and may go."""
        return [block for block in self.blocks if not block.is_dropped and not block.reason]

    def drop_least(self, cost: Cost = lambda model: 0.0) -> bool:
        """Drop the block that changes the answers least; False when none can go.

        Args:
            cost: Of a model: if blocks save some, it is least change for each part of it.
        """
        whole = cost(self._model)
        prices = {}
        for block in self.open():
            put_back = drop(self._model, block)
            try:
                block.divergence = self._divergence()
                # Below rounding all are alike: then the dearest goes.
                change = max(block.divergence - self._now, NOTHING)
                prices[block] = change / max(whole - cost(self._model), NOTHING)
            except Exception as error:  # whatever a model's code raises
                block.reason = f"the model cannot run without it: {described(error)}"
            put_back()
        if not prices:
            return False
        self._drop(min(prices, key=prices.__getitem__))
        return True

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

    def _drop(self, block: Block) -> None:
        drop(self._model, block)
        block.is_dropped, self._now = True, block.divergence or 0.0
        for other in self.open():
            if is_inside(other, block):
                other.reason = f"went with `{block.name}`"

    def _answer(self, x: Tensor) -> Any:
        with torch.no_grad():
            return named(call(self._model, x))

    def _divergence(self) -> float:
        """Return the mean divergence of the answers from those of the whole model.

        Raises:
            ValueError: the answers have another shape.
        """
        pairs = zip(self._items, self._answers, strict=True)
        change = _divergence if is_of_classes(self._task.name) else _error
        sums = [change(self._answer(x), answer, self._task) for x, answer in pairs]
        return float(sum(sums) / sum(len(x) for x in self._items))


NO_TARGETS = torch.zeros(0, dtype=torch.int64)


def _divergence(found: Any, expected: Any, task: Task) -> Tensor:
    """Return KL(expected || found) of logits of classes, summed over items."""
    found, expected = (task.rows(answer, NO_TARGETS)[0].float() for answer in (found, expected))
    _check_shapes(found, expected)
    log_found, log_expected = F.log_softmax(found, -1), F.log_softmax(expected, -1)
    total = F.kl_div(log_found, log_expected, reduction="sum", log_target=True)
    # The mean over the tokens or positions of an item, the sum over items.
    mean: Tensor = total / max(1, found[0].numel() // found.shape[-1])
    return mean


def _error(found: Any, expected: Any, task: Task) -> Tensor:
    """Return the squared error over the variance, the mean over outputs, times the items."""
    del task
    shares = []
    own, whole = (named_outputs(answer) for answer in (found, expected))
    for name, other in whole.items():
        _check_shapes(own[name], other)
        noise = F.mse_loss(own[name].float(), other.float())
        shares.append(noise / other.float().var(correction=0).clamp(min=LEAST_VARIANCE))
    return torch.stack(shares).mean() * len(next(iter(whole.values())))


def _check_shapes(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ValueError(f"it answers {tuple(found.shape)}, not {tuple(expected.shape)}")


def _keep_to_layers(blocks: Sequence[Block]) -> None:
    layers = [block for block in blocks if block.is_layer]
    for block in blocks:
        if not block.is_layer or any(is_inside(block, other) for other in layers):
            block.reason = "is no layer of its own"
