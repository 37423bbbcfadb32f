"""Fully sharded data parallelism: each process holds a part of every weight.

Zhao et al. 2023, arXiv:2304.11277, by `torch.distributed.fsdp.fully_shard`
(https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). The weights of a block are
gathered when it computes, forward and backward, and freed after it; its gradients are averaged into
parts, and the optimizer has averages of these parts alone. A frozen teacher is no part of what is
trained: every process has all of it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from kdeploy.data.contract import Dataset
from kdeploy.errors import InputError, ModelError, RecipeError
from kdeploy.training.contract import FitContext
from kdeploy.training.gradient_checkpointing import called_blocks
from kdeploy.training.processes import Processes, torchrun
from kdeploy.training.states import is_divided

logger = logging.getLogger(__name__)


class Sharding:
    """The parameters of an objective, divided among the processes until `undo`.

    The student is called by itself too, so it is divided like a module of its own; what its blocks
    do not have is gathered all through a step.

    Args:
        objective: On the CPU; what of it is divided is on the device then.
        data: Shows which blocks the student calls.
        device: Of this process.
        processes: More than one.
    """

    def __init__(
        self, objective: nn.Module, data: Dataset, *, device: torch.device, processes: Processes
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        student = objective.get_submodule("student")
        found = called_blocks(student, data)
        blocks = _apart(found, student, objective)
        if not blocks and processes.is_first:
            logger.warning(
                "`%s` has no repeated blocks: while it computes each process holds all weights",
                type(student).__name__,
            )
        self._mesh = init_device_mesh(device.type, (processes.count,))
        self._objective = objective
        self._classes = {module: type(module) for module in objective.modules()}
        self._parameters = [
            (module, name, parameter)
            for module in objective.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        before = _attributes(objective)
        for block in blocks:
            self._divide(block, is_freed=True)
        self._divide(student, is_freed=False)
        if objective is not student:
            self._divide(objective, is_freed=False)
        self._prepare()
        self._added = _added(before, _attributes(objective))
        self._handles = _keeping_rows(objective)

    @torch.no_grad()
    def undo(self) -> None:
        """Give every process all weights, on the CPU, in the modules as they were.

        All processes do this together; the parameters are the same objects as before.
        """
        for handle in self._handles:
            handle.remove()
        for module in self._divided_modules():
            module.reshard()
        gathered: set[int] = set()
        for module, name, original in self._parameters:
            if id(original) not in gathered:
                now: Any = module._parameters[name]
                assert is_divided(now), f"`{name}` is whole"
                original.data = now.full_tensor().cpu()
                gathered.add(id(original))
        for module, known in self._classes.items():
            module.__class__ = known
            _forget(module, self._added[module])
        for module, name, original in self._parameters:
            # Not into the dictionary: recurrent layers keep a list of their weights beside it.
            setattr(module, name, original)

    def _divide(self, module: nn.Module, *, is_freed: bool) -> None:
        from torch.distributed.fsdp import fully_shard

        held = [p for p in module.parameters() if not is_divided(p)]
        for parameter in held:
            # Images in channels_last have weights that torch cannot divide in that order.
            parameter.data = parameter.data.contiguous()
        fully_shard(module, mesh=self._mesh, reshard_after_forward=is_freed)
        for parameter in held:
            # Kept for `undo`, without the memory of the whole.
            parameter.data = parameter.data.new_empty(0)

    def _prepare(self) -> None:
        """Let all hooks be there, some of which torch sets at the first use."""
        for module in self._divided_modules():
            module.unshard()
            module.reshard()

    def _divided_modules(self) -> list[Any]:
        from torch.distributed.fsdp import FSDPModule

        return [m for m in self._objective.modules() if isinstance(m, FSDPModule)]


def check_shardable(objective: nn.Module, context: FitContext, processes: Processes) -> None:
    """Refuse to divide what cannot be.

    Raises:
        InputError: one process.
        RecipeError: a constraint that needs all weights at once.
        ModelError: parameters that torch cannot divide.
    """
    if processes.count == 1:
        raise InputError(
            "`fully_shard` divides the weights among processes, and this training has one",
            hint=f"start several by `{torchrun(2, 1)}`, or leave it out",
        )
    for constraint in context.constraints:
        if not getattr(constraint, "is_elementwise", False):
            raise RecipeError(
                "`fully_shard` leaves each process a part of the weights, and this training looks "
                f"at all of them after each step: {constraint.fingerprint}",
                hint="leave `fully_shard` out",
            )
    for name, parameter in objective.named_parameters():
        if not parameter.ndim:
            raise ModelError(
                f"`fully_shard` divides parameters along their first axis, and `{name}` has none",
                hint="give it the shape (1,) in the build function, or leave `fully_shard` out",
            )
    types = sorted({str(p.dtype) for p in objective.parameters() if p.requires_grad})
    if len(types) > 1:
        raise ModelError(
            f"`fully_shard` gathers parameters of one type, and these are {' and '.join(types)}",
            hint="build the model in one of them, or leave `fully_shard` out",
        )


def _apart(
    blocks: Mapping[str, nn.Module], student: nn.Module, objective: nn.Module
) -> list[nn.Module]:
    """Return the blocks none of whose parameters is used elsewhere too."""
    users: dict[int, set[str]] = defaultdict(set)
    for path, module in student.named_modules(remove_duplicate=False):
        user = next((name for name in blocks if f"{path}.".startswith(f"{name}.")), "")
        for parameter in module._parameters.values():
            users[id(parameter)].add(user)
    own = set(student.modules())
    for module in objective.modules():
        for parameter in () if module in own else module._parameters.values():
            users[id(parameter)].add("")
    return [
        block
        for name, block in blocks.items()
        if all(users[id(parameter)] == {name} for parameter in block.parameters())
    ]


def _keeping_rows(objective: nn.Module) -> list[RemovableHandle]:
    """Let `Batch.rows` stay on the CPU, from where torch takes all that a divided module gets."""
    kept: list[torch.Tensor] = []

    def take(module: nn.Module, args: tuple[Any, ...]) -> None:
        del module
        kept.append(args[0].rows)

    def put_back(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        return (args[0]._replace(rows=kept.pop()), *args[1:])

    return [
        objective.register_forward_pre_hook(take, prepend=True),
        objective.register_forward_pre_hook(put_back),
    ]


def _attributes(model: nn.Module) -> dict[nn.Module, dict[str, frozenset[Any]]]:
    """Return of each module the names of its attributes, and the keys of its hooks."""
    return {
        module: {
            name: frozenset(value if "_hooks" in name and isinstance(value, dict) else ())
            for name, value in vars(module).items()
        }
        for module in model.modules()
    }


def _added(
    before: Mapping[nn.Module, Mapping[str, frozenset[Any]]],
    after: Mapping[nn.Module, Mapping[str, frozenset[Any]]],
) -> dict[nn.Module, dict[str, frozenset[Any] | None]]:
    """Return of each module the new keys of its hooks by name; None: the attribute is new."""
    return {
        module: {
            name: keys - before[module][name] if name in before[module] else None
            for name, keys in found.items()
            if keys != before[module].get(name)
        }
        for module, found in after.items()
    }


def _forget(module: nn.Module, added: Mapping[str, frozenset[Any] | None]) -> None:
    """Take out of a module what dividing it had put there."""
    # torch has no undoing, and would not divide the module a second time.
    from torch.distributed._composable_state import _module_state_mapping

    _module_state_mapping.pop(module, None)
    for name, keys in added.items():
        if keys is None:
            del vars(module)[name]
            continue
        for key in keys:
            vars(module)[name].pop(key, None)
