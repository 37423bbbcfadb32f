"""The task that targets are for, found by its name: a registered one, or `path.py:Task`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from kdeploy import registry
from kdeploy.data.contract import TargetReader, TaskReference
from kdeploy.data.own_function import attribute_of, check_parameters
from kdeploy.errors import RecipeError


def named_task(reference: TaskReference, *, folder: Path = Path()) -> TargetReader:
    """Return a new task, which belongs to one dataset.

    Args:
        reference: Its name and parameters.
        folder: Where a relative `path.py:Task` starts.

    Raises:
        UnknownName: there is no task of that name, or it has no such parameter.
        RecipeError: a parameter of the wrong type or out of range, or a class that is no task.
    """
    name = reference.name
    if ".py:" not in name:
        technique = registry.find("task", name, where="task")
        given = registry.validate(technique.parameters, reference.parameters, where=f"task.{name}")
        return cast("TargetReader", technique.load()(**given))
    found = attribute_of(name, folder, kind="class")
    if not isinstance(found, type):
        raise RecipeError(
            f"task: `{name}` is {type(found).__name__}, not a class",
            hint="name a class that has the methods of `kdeploy.tasks.contract.Task`",
        )
    check_parameters(found, reference.parameters, f"task `{name}`")
    made = found(**reference.parameters)
    missing = [n for n in _methods() if not hasattr(made, n)]
    if missing:
        raise RecipeError(
            f"task `{name}` has no `{missing[0]}`"
            + (f", nor {len(missing) - 1} other methods of a task" if missing[1:] else ""),
            hint="write what `kdeploy.tasks.contract.Task` lists; docs/tasks.md has an example",
        )
    made.name = name
    return cast("TargetReader", made)


def _methods() -> list[str]:
    """Return the names of what every task can do."""
    # By name, as the registry imports techniques: tasks stand above data.
    protocol = import_module("kdeploy.tasks.contract").Task
    return [name for name in vars(protocol) if not name.startswith("_")]
