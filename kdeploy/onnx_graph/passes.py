"""Passes over a graph: each has a name, what it requires, and what holds after it.

A pass changes an `onnx_ir.Model` in place. `@graph_pass(requires=, ensures=)` makes one of a
function; each of the two returns what does not hold, or "". Whatever a pass does, the graph keeps
the names of its inputs and outputs. A failure names the pass and those that ran before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import onnx_ir as ir
from onnx import ModelProto
from onnx_ir.passes import common

from kdeploy.errors import GraphPassFailed, KdeployError

Check = Callable[[ir.Model], str]


def nothing(model: ir.Model) -> str:
    """Ask nothing of a graph."""
    del model
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPass:
    """A change of a graph; calling it changes the model that it is given."""

    name: str
    change: Callable[..., None]
    requires: Check = nothing
    ensures: Check = nothing

    def __call__(self, model: ir.Model) -> None:
        """Make the change alone, without its checks."""
        self.change(model)

    def with_parameters(self, **parameters: object) -> GraphPass:
        """Return the pass with values for the keywords of its function."""
        values = ", ".join(f"{name}={value}" for name, value in parameters.items())
        change = partial(self.change, **parameters)
        return replace(self, name=f"{self.name}({values})", change=change)


def graph_pass(
    *, requires: Check = nothing, ensures: Check = nothing
) -> Callable[[Callable[..., None]], GraphPass]:
    """Make a pass of a function that changes an `onnx_ir.Model`; its name is the function's."""

    def made(change: Callable[..., None]) -> GraphPass:
        name = change.__name__
        return GraphPass(name=name, change=change, requires=requires, ensures=ensures)

    return made


def rewritten(program: ModelProto, *passes: GraphPass) -> ModelProto:
    """Return the program after all passes, each behind the one before; the program stays.

    Raises:
        GraphPassFailed: a pass could not be made, or did not do what it promises.
    """
    model = ir.from_proto(program)
    run(model, *passes)
    written: ModelProto = ir.to_proto(model)
    return written


def run(model: ir.Model, *passes: GraphPass) -> None:
    """Change a model by all passes; see `rewritten`."""
    ends = _ends(model)
    before: list[str] = []
    for one in passes:
        _run(one, model, before)
        if _ends(model) != ends:
            raise _failed(one, before, f"it changed the ends of the graph: {_ends(model)}")
        before.append(one.name)


@graph_pass()
def sort(model: ir.Model) -> None:
    """Bring operators into an order in which each stands behind what it reads."""
    common.TopologicalSortPass()(model)


@graph_pass()
def drop_unused(model: ir.Model) -> None:
    """Remove operators and constants that nothing reads."""
    common.RemoveUnusedNodesPass()(model)


def _run(one: GraphPass, model: ir.Model, before: list[str]) -> None:
    missing = one.requires(model)
    if missing:
        raise _failed(one, before, f"it requires something else: {missing}")
    try:
        one(model)
    except KdeployError:
        raise
    except Exception as error:  # of a graph that the pass does not foresee, whatever it raises
        raise _failed(one, before, f"{type(error).__name__}: {error}") from error
    missing = one.ensures(model)
    if missing:
        raise _failed(one, before, f"it did not do what it promises: {missing}")


def _ends(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    return [v.name for v in model.graph.inputs], [v.name for v in model.graph.outputs]


def _failed(one: GraphPass, before: list[str], reason: str) -> GraphPassFailed:
    history = f"after {', '.join(before)}" if before else "as the first pass"
    return GraphPassFailed(
        f"the pass `{one.name}` over the ONNX graph failed {history}: {reason}",
        hint="no file was written; report it with the model, and try another target or profile",
    )
