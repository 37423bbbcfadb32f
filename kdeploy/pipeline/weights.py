"""Given weights put into a model: names without what wrappers add, tied tensors, and what is said.

Nothing is taken or left out silently: `Loaded.messages` names each liberty, and what does
not fit is told by name, both shapes and the nearest name on the other side.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdeploy.errors import ModelError
from kdeploy.pipeline.weight_files import StoredTensors, read_weights

if TYPE_CHECKING:
    from torch import nn

WRAPPER_PREFIXES = ("module.", "model.")
"""What DataParallel and DDP, and Lightning put in front; the one taken where several fit."""
WRAPPER_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile and others put before and between the parts of a name."""
COUNTER = "num_batches_tracked"
BOOKKEEPING = (COUNTER, "n_averaged", "total_ops", "total_params", "position_ids")
"""Of averaging, profilers and counters: no layer computes with them."""
DIGITS = "0123456789"
MOST_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with its weights, and what was done so that they fit."""

    model: nn.Module
    messages: tuple[str, ...]


def load_weights(model: nn.Module, file: Path) -> Loaded:
    """Put the tensors of a file into the model.

    Raises:
        FileMissing: there is no such file.
        ModelError: it holds no tensors by name, or their names and shapes do not fit.
    """
    stored = read_weights(file)
    expected = model.state_dict()
    names, messages = _names(stored, expected.keys())
    tensors = {own: stored.tensors[name] for name, own in names.items()}
    messages += _fill_tied(tensors, expected, file)
    left_out = [own for own in tensors if own not in expected and _may_be_left_out(own, model)]
    messages += [f"left out {_listed(left_out)}: the model has no such part"] if left_out else []
    _check_values(tensors, expected, file)
    absent = [n for n in expected if n not in tensors and n.rpartition(".")[2] == COUNTER]
    messages += [f"the file lacks {_listed(absent)}, which count from 0"] if absent else []
    messages += _types_said(tensors, expected)
    # Not strict: modules may take older names of their own, e.g. `weight_g` of weight norm.
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    result = model.load_state_dict(kept, strict=False)
    missing = [n for n in result.missing_keys if n not in absent]
    if missing or result.unexpected_keys:
        raise _unfit(tensors, expected, missing, file)
    return Loaded(model=model.eval(), messages=(*stored.messages, *messages))


def _names(stored: StoredTensors, known: Set[str]) -> tuple[dict[str, str], list[str]]:
    """Return the model's names of the file's tensors, and what was taken off or put in front."""
    bare = {n: n if n in known else _without_wrappers(n) for n in stored.tensors}
    parts = sorted({part for n in bare if bare[n] != n for part in _wrapper_parts(n)})
    messages = [f"took {_listed([f'{part}.' for part in parts])} off the names"] if parts else []
    bare, wrappers = _without_wrapper_prefixes(bare, known)
    prefix, is_added = _prefix(list(bare.values()), known, stored.file)
    taken = wrappers + prefix * (not is_added)
    messages += [f"took the prefix `{taken}` off the names"] if taken else []
    if not prefix:
        return bare, messages
    if is_added:
        messages.append(f"put `{prefix}` in front of the names, as the model has it")
        return {n: prefix + b for n, b in bare.items()}, messages
    kept = {n: b.removeprefix(prefix) for n, b in bare.items() if b.startswith(prefix)}
    others = [n for n in bare if n not in kept]
    messages += [f"left out {_listed(others)}, not under `{taken}`"] if others else []
    return kept, messages


def _without_wrapper_prefixes(
    names: Mapping[str, str], known: Set[str]
) -> tuple[dict[str, str], str]:
    """Return the names without wrappers' prefixes that all of them have, and none in the model."""
    bare, taken = dict(names), ""
    while prefix := next((p for p in WRAPPER_PREFIXES if _have(bare.values(), p)), ""):
        if any(name.startswith(prefix) for name in known):
            break
        bare = {n: b.removeprefix(prefix) for n, b in bare.items()}
        taken += prefix
    return bare, taken


def _have(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _prefix(names: Sequence[str], known: Set[str], file: Path) -> tuple[str, bool]:
    """Return what stands before the names that the model knows, and whether it is to be added."""
    own = sum(name in known for name in names)
    if own == len(known):
        return "", False
    given = set(names)
    fits = {(p, False): sum(p + name in given for name in known) for p in _prefixes(names)}
    fits |= {(p, True): sum(p + name in known for name in names) for p in _prefixes(known)}
    most = max(fits.values(), default=0)
    # A few names agree by chance in any two networks.
    if most <= own or 2 * most < len(known):
        return "", False
    # Several prefixes may fit as well: of a model and its running average, or of two towers.
    best = [prefix for prefix, count in fits.items() if count == most]
    first, *others = sorted(best, key=lambda found: not found[0].startswith(WRAPPER_PREFIXES))
    if others and not first[0].startswith(WRAPPER_PREFIXES):
        listed = _listed([prefix for prefix, _ in best])
        raise ModelError(
            f"{file} holds the names of the model under {listed}, and does not say which is meant",
            hint="save the tensors of one of them: `torch.save(network.state_dict(), FILE)`",
        )
    return first


def _prefixes(names: Iterable[str], most_parts: int = 4) -> Iterator[str]:
    """Return the beginnings of the names, of up to so many parts, in their order."""
    parts = [name.split(".") for name in names]
    found = (p[:count] for p in parts for count in range(1, min(len(p), most_parts + 1)))
    return iter(dict.fromkeys(".".join(p) + "." for p in found))


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPER_PARTS)


def _wrapper_parts(name: str) -> set[str]:
    return set(name.split(".")) & set(WRAPPER_PARTS)


def _fill_tied(tensors: dict[str, Tensor], expected: Mapping[str, Tensor], file: Path) -> list[str]:
    """Give a name without a tensor that of the name it shares one with; say so."""
    groups: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name, tensor in expected.items():
        # Tied are tensors of one memory, shape and stride: a view of a part has its own values.
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        # Empty tensors all have the address 0.
        groups.setdefault(key, []).extend([name] * bool(tensor.numel()))
    messages = []
    for group in groups.values():
        present = [name for name in group if name in tensors]
        first = present[0] if present else ""
        for name in group if present else []:
            if name not in tensors:
                tensors[name] = tensors[first]
                messages.append(f"`{name}` is tied to `{first}`, under which the file has it")
            elif not _are_equal(tensors[first], tensors[name]):
                raise ModelError(
                    f"{file}: `{first}` and `{name}` are one tensor in the model, and two that "
                    "differ in the file",
                    hint="let `build` make a network whose layers have tensors of their own",
                )
    return messages


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (
        one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    )


def _may_be_left_out(name: str, model: nn.Module) -> bool:
    """Tell whether a name is bookkeeping, or of a part that the model has nothing like.

    A further block of a kind that the model has (`layer4`, `blocks.3`) belongs to a deeper one.
    """
    if name.rpartition(".")[2] in BOOKKEEPING:
        return True
    first, _, rest = name.partition(".")
    kinds = {child.rstrip(DIGITS) for child, _ in model.named_children()}
    return bool(rest) and first.rstrip(DIGITS) not in kinds


def _check_values(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: Path
) -> None:
    for name, wanted in expected.items():
        found = tensors.get(name)
        if found is None:
            continue
        if found.is_meta:
            raise _refused(name, found, wanted, file, "is on the device `meta`, without values")
        if found.layout is not torch.strided or found.is_quantized:
            raise _refused(name, found, wanted, file, "is sparse or quantized")
        if found.shape != wanted.shape:
            raise _unfit(tensors, expected, [n for n in expected if n not in tensors], file)
        if wanted.is_floating_point() and not found.is_floating_point():
            raise _refused(name, found, wanted, file, f"holds {_type(found)}")
        if wanted.is_floating_point() and bool(torch.isnan(found).any()):
            count = int(torch.isnan(found).sum())
            raise _refused(name, found, wanted, file, f"has {count} values that are no numbers")


def _refused(name: str, found: Tensor, wanted: Tensor, file: Path, what: str) -> ModelError:
    return ModelError(
        f"the weights {file} cannot be used: `{name}` {tuple(found.shape)} {what}, the model has "
        f"{_type(wanted)}",
        hint="save the tensors of the float model: `torch.save(model.state_dict(), FILE)`",
    )


def _types_said(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return a sentence for each type of number that becomes another one."""
    changed = Counter(
        (_type(tensors[name]), _type(wanted))
        for name, wanted in expected.items()
        if name in tensors and wanted.is_floating_point() and tensors[name].dtype != wanted.dtype
    )
    return [f"{count} tensors of {a} became {b}" for (a, b), count in changed.items()]


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _unfit(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    missing: Sequence[str],
    file: Path,
) -> ModelError:
    """Return the error that lists what does not fit, with the nearest names and both shapes."""
    wrong = [n for n in expected if n in tensors and tensors[n].shape != expected[n].shape]
    unknown = [n for n in tensors if n not in expected]
    lines = [f"`{n}` is {_shape(tensors[n])}, the model has {_shape(expected[n])}" for n in wrong]
    for name in missing:
        near = _nearest(name, expected[name], {n: tensors[n] for n in unknown})
        beside = f"; nearest in the file: `{near}` {_shape(tensors[near])}" if near else ""
        lines.append(f"`{name}` {_shape(expected[name])} is missing{beside}")
    lines += [f"`{name}` {_shape(tensors[name])} is not in the model" for name in unknown]
    more = f"\n  and {len(lines) - MOST_SHOWN} more" if len(lines) > MOST_SHOWN else ""
    return ModelError(
        f"the weights {file} do not fit the model: of its {len(expected)} tensors {len(missing)} "
        f"are missing and {len(wrong)} of another shape; {len(unknown)} are unknown\n  "
        + "\n  ".join(lines[:MOST_SHOWN])
        + more,
        hint=_unfit_hint(tensors, expected, missing, wrong, unknown),
    )


def _unfit_hint(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    missing: Sequence[str],
    wrong: Sequence[str],
    unknown: Sequence[str],
) -> str:
    """Return what to change, named after what was found."""
    owners = {name.rpartition(".")[0] for name in wrong}
    shapes = [
        [t[n].shape for n in names if t[n].dim()]
        for t, names in ((tensors, unknown), (expected, missing))
    ]
    if missing and not wrong and shapes[0] == shapes[1]:
        return f"the shapes agree one by one: rename `{unknown[0]}` to `{missing[0]}` and so on"
    if not wrong and not any(name in tensors for name in expected):
        return "no name agrees: these are weights of another network than `build` makes"
    if missing or unknown:
        where, names = ("file", unknown) if unknown else ("model", missing)
        parts = sorted({_depth(n) for n in names})
        return f"only the {where} has {_listed(parts)}: `build` and `args` make another network"
    if len(owners) == 1:
        name = wrong[0]
        return (
            f"only `{owners.pop()}` differs: the weights are for {tensors[name].shape[0]} outputs, "
            f"the model has {expected[name].shape[0]}; see which of `args` sets that number"
        )
    name = wrong[0]
    return (
        f"names agree and {len(wrong)} shapes do not: the model is built with other sizes; see "
        f"which of `args` makes `{name}` {_shape(expected[name])} into {_shape(tensors[name])}"
    )


def _depth(name: str) -> str:
    """Return the part of a name that a network of another depth lacks: up to its last number."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1]) if numbers else parts[0]


def _nearest(name: str, wanted: Tensor, others: Mapping[str, Tensor]) -> str | None:
    same = [n for n, tensor in others.items() if tensor.shape == wanted.shape]
    # Of the same shape a vague likeness is enough, of another it has to be a clear one.
    near = difflib.get_close_matches(name, same, n=1, cutoff=0.3)
    near = near or difflib.get_close_matches(name, list(others), n=1, cutoff=0.6) or same[:1]
    return near[0] if near else None


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _listed(names: Sequence[str], most: int = MOST_SHOWN) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more
