"""Describe how a compressed model differs from a fresh one, so that it can be rebuilt.

`difference` compares the two and returns edits in plain JSON; `replay` applies them to a fresh
model, which then takes the compressed model's tensors. Nothing is imported or executed on the
way: an edit may set plain values and tensor shapes, and put in layers of `layer_json.ALLOWED`.

An edit is `{"path": module, verb: value}`:
    replace     a layer `{"type", "arguments"}` put there, None for an empty place
    remove      the module is taken away
    same_as     the module is the one at another path
    attributes  plain values (in_channels, num_heads, ...) that changed
    tensors     parameters and buffers that changed shape, type or owner, came or went
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.store.layer_json import construct_layer, describe_layer, is_plain, to_json, to_tuples
from kdeploy.torch_module.reparametrized import is_computed, let_go

Edit = dict[str, Any]
# What every module has, such as `_parameters`: told in other ways, or of no meaning.
_INTERNAL = frozenset(vars(nn.Module()))
_MISFITS = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError)


def difference(fresh: nn.Module, model: nn.Module) -> list[Edit]:
    """Return the edits that turn `fresh` into a model that takes `model`'s tensors.

    Both models are left as they are; the edits come in the order of the modules.

    Raises:
        ModelError: the change cannot be told by edits, such as a layer that is not on the list.
    """
    let_go(fresh)
    twin, wanted = _Root(copy.deepcopy(fresh)), _Root(model)
    edits: list[Edit] = []
    # Lazy: each edit is applied before the next one is looked for.
    for edit in itertools.chain(_module_edits(twin, wanted), _tie_edits(twin, wanted)):
        edits.append(edit)
        _apply(twin, edit)
    _check_same(twin, wanted)
    return edits


def replay(
    fresh: nn.Module, edits: Sequence[Mapping[str, Any]], *, most_elements: int | None = None
) -> nn.Module:
    """Apply the edits to `fresh` and return it, ready for the tensors.

    Args:
        fresh: The model of the build reference.
        edits: As `difference` returned them.
        most_elements: That a tensor of the file can have; None for any number.

    Raises:
        ModelError: an edit names a layer that is not on the list, or does not fit the model.
    """
    root = _Root(fresh)
    for edit in edits:
        try:
            if most_elements is not None and _num_elements(edit) > most_elements:
                raise ValueError(f"it asks for more than {most_elements} elements")
            _apply(root, edit)
        except (*_MISFITS, MemoryError) as error:
            shown = repr(dict(edit))
            raise ModelError(
                f"the edit {shown if len(shown) < 300 else shown[:297] + '...'} does not fit the "
                f"model: {error!r}",
                hint="the build.py differs from the one the edits were recorded with",
            ) from error
    return root.model


def _num_elements(edit: Mapping[str, Any]) -> int:
    """Return how many elements the tensors of an edit have, before any is made."""
    shapes = [spec.get("shape") for spec in (edit.get("tensors") or {}).values() if spec]
    made = sum(int(math.prod(shape)) for shape in shapes if shape)
    layer = edit.get("replace")
    if not layer:
        return made
    with torch.device("meta"):  # shapes without memory
        twin = construct_layer(layer)
    return made + sum(int(tensor.numel()) for tensor in twin.state_dict().values())


class _Root(nn.Module):
    """Hold a model, so that the model itself has a place where it can be replaced."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def existing(self, path: str) -> nn.Module:
        """Return the module at a path, which must be there."""
        return self.get_submodule(f"model.{path}".rstrip("."))

    def at(self, path: str) -> nn.Module | None:
        """Return the module at a path, None for an empty or missing place."""
        parent, name = self._place(path)
        return parent._modules.get(name)

    def put(self, path: str, module: nn.Module | None) -> None:
        parent, name = self._place(path)
        if module is None:
            parent.register_module(name, None)
        else:
            setattr(parent, name, module)  # takes the place of a plain `None` as well

    def remove(self, path: str) -> None:
        parent, name = self._place(path)
        delattr(parent, name)

    def _place(self, path: str) -> tuple[nn.Module, str]:
        parent, _, name = f"model.{path}".rstrip(".").rpartition(".")
        return self.get_submodule(parent), name


def _module_edits(twin: _Root, wanted: _Root) -> Iterator[Edit]:
    """Yield the edits of modules, depth first; `twin` has taken each when the next is asked for."""
    owners: dict[nn.Module, str] = {}

    def visit(path: str, module: nn.Module) -> Iterator[Edit]:
        first = owners.setdefault(module, path)
        if first != path:
            if twin.at(path) is not twin.at(first):
                yield {"path": path, "same_as": first}
            return
        # By name: the class is another object when build.py is read again.
        if _type_name(twin.at(path)) != _type_name(module):
            yield {"path": path, "replace": describe_layer(path, module)}
        found = twin.existing(path)
        yield from _content_edits(path, found, module)
        for name in [name for name in found._modules if name not in module._modules]:
            yield {"path": _join(path, name), "remove": True}
        for name, child in module._modules.items():
            if child is not None:
                yield from visit(_join(path, name), child)
            elif found._modules.get(name, found) is not None:
                yield {"path": _join(path, name), "replace": None}

    return visit("", wanted.model)


def _content_edits(path: str, found: nn.Module, wanted: nn.Module) -> Iterator[Edit]:
    olds = {name: value for name, value in vars(found).items() if name not in _INTERNAL}
    attributes = {
        name: to_json(value)
        for name, value in vars(wanted).items()
        # A changed type counts: 1 is not True, and a tuple not a list.
        if name in olds and is_plain(value) and repr(olds[name]) != repr(value)
    }
    if attributes:
        yield {"path": path, "attributes": attributes}
    old, new = _tensors(found), _tensors(wanted)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        yield {"path": path, "tensors": {name: new.get(name) for name in names}}


def _tie_edits(twin: _Root, wanted: _Root) -> Iterator[Edit]:
    """Yield the edits that make the same names share a tensor as in `wanted`."""
    owners, twin_owners = _owners(wanted.model), _owners(twin.model)
    for full, owner in owners.items():
        if twin_owners.get(full) != owner:
            path, _, name = full.rpartition(".")
            own = _tensors(wanted.existing(path))[name]
            yield {"path": path, "tensors": {name: own if owner == full else {"same_as": owner}}}


def _owners(model: nn.Module) -> dict[str, str]:
    """Return for each tensor's name the first name of that same tensor."""
    first: dict[Tensor, str] = {}
    names: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                names[_join(path, name)] = first.setdefault(tensor, _join(path, name))
    return names


def _check_same(twin: _Root, wanted: _Root) -> None:
    """Raise when the edits do not lead to the model: better now than on loading."""
    found, expected = _layout(twin.model), _layout(wanted.model)
    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    if names or list(found) != list(expected):
        raise ModelError(
            f"an artefact cannot tell how `{(names or ['the order of modules'])[0]}` changed",
            hint="keep the modules' names and order; put in layers of torch.nn only",
        )


def _layout(model: nn.Module) -> dict[str, Any]:
    """Return types and tensors by module, in order, and at last which names share a tensor."""
    named = model.named_modules(remove_duplicate=False)
    modules = {path: (_type_name(module), _tensors(module)) for path, module in named}
    return {**modules, "the sharing of tensors": _owners(model)}


def _tensors(module: nn.Module) -> dict[str, Any]:
    """Return what a module's own parameters and buffers are like, values aside."""
    return {
        name: {
            "kind": kind,
            "shape": None if tensor is None else list(tensor.shape),
            "dtype": None if tensor is None else str(tensor.dtype).removeprefix("torch."),
        }
        for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers))
        for name, tensor in tensors.items()
        if name not in module._non_persistent_buffers_set
    }


def _apply(root: _Root, edit: Mapping[str, Any]) -> None:
    (verb,) = edit.keys() - {"path"}
    _VERBS[verb](root, edit["path"], edit[verb])


def _set_attributes(root: _Root, path: str, values: Mapping[str, Any]) -> None:
    module = root.existing(path)
    for name, value in values.items():
        # A file may not add attributes, nor reach what runs the module.
        if name in _INTERNAL or name not in vars(module):
            raise KeyError(name)
        # JSON has no tuples: what was a list in the fresh model stays one.
        keeps_list = isinstance(getattr(module, name), list)
        setattr(module, name, value if keeps_list else to_tuples(value))


def _set_tensors(root: _Root, path: str, specs: Mapping[str, Any]) -> None:
    module = root.existing(path)
    for name, spec in specs.items():
        if spec is None:
            delattr(module, name)
        elif "same_as" in spec:
            owner, _, key = spec["same_as"].rpartition(".")
            setattr(module, name, getattr(root.existing(owner), key))
        else:
            _set_tensor(module, name, spec)


def _set_tensor(module: nn.Module, name: str, spec: Mapping[str, Any]) -> None:
    is_parameter, tensor = spec["kind"] == "parameter", None
    if spec["shape"] is not None:
        tensor = torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"]))
        tensor = nn.Parameter(tensor, tensor.is_floating_point()) if is_parameter else tensor
    if name not in (module._parameters if is_parameter else module._buffers):
        # A buffer that became a parameter, or the other way round.
        if hasattr(module, name):
            delattr(module, name)
        (module.register_parameter if is_parameter else module.register_buffer)(name, None)
    setattr(module, name, tensor)  # not the dictionary: recurrent layers keep a second list


def _type_name(module: nn.Module | None) -> str:
    # A build.py is a module of a different name each time it is read from another place.
    kind = type(module)
    home = "build.py" if kind.__module__.startswith("kdeploy_build_") else kind.__module__
    computed = " with computed weights" if module is not None and is_computed(module) else ""
    return f"{home}.{kind.__qualname__}{computed}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_VERBS: Mapping[str, Callable[[_Root, str, Any], None]] = {
    "replace": lambda root, path, layer: root.put(path, layer and construct_layer(layer)),
    "remove": lambda root, path, _: root.remove(path),
    "same_as": lambda root, path, owner: root.put(path, root.existing(owner)),
    "attributes": _set_attributes,
    "tensors": _set_tensors,
}
