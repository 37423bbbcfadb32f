"""Items of several inputs: arrays named as the parameters of `forward`, and what makes them inputs.

Floats and bytes are normalised each by their own mean and std; integers (token ids, masks of
attention, positions) are given as they are, as int64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import DataError, UnknownName
from kdeploy.named_arrays import NamedArrays, by_name
from kdeploy.preprocessing import Preprocessing

BYTE_SCALE = 1 / 255  # uint8 to 0..1
FLOATS, INTEGERS = ("uint8", "float32"), ("int32", "int64")
PerInput = Any
"""By the name of the input; checked."""


def preprocessing_of_inputs(
    arrays: Mapping[str, NDArray[Any]],
    *,
    where: str,
    scale: PerInput = None,
    mean: PerInput = None,
    std: PerInput = None,
    vocabulary: PerInput = None,
) -> Preprocessing:
    """Return how items of several named arrays become what a model takes.

    Args:
        arrays: Of the training part, by name, (N, ...) each.
        where: Begins messages.
        scale: By name, what a float or byte input is multiplied by; left out, 1, of bytes 1/255.
        mean: By name, one number or one a channel.
        std: The same.
        vocabulary: By name, of integers, how many values there are; left out, up to the largest.

    Raises:
        DataError: an array is of a type that no model takes, or an option has no names.
        UnknownName: an option names an input that is not there.
    """
    options = {"scale": scale, "mean": mean, "std": std, "vocabulary": vocabulary}
    for option, values in options.items():
        _check_option(option, values, arrays, where)
    return Preprocessing(
        shape=(),
        inputs={
            name: _one(
                array,
                f"{where}, `{name}`",
                **{option: (values or {}).get(name) for option, values in options.items()},
            )
            for name, array in arrays.items()
        },
    )


def named_arrays(arrays: Mapping[str, NDArray[Any]], *, where: str) -> NamedArrays:
    """Return arrays as the items of several inputs.

    Raises:
        DataError: they have no first axis, or not all as many items.
    """
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(lengths) < len(arrays):
        single = next(name for name in arrays if name not in lengths)
        raise DataError(
            f"{where}: `{single}` is a single number",
            hint="the first axis of every input is the item: give one for each",
        )
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{count} of `{name}`" for name, count in lengths.items())
        raise DataError(
            f"{where}: inputs have different numbers of items: {told}",
            hint="every array has one entry an item, in the same order",
        )
    return NamedArrays(dict(arrays))


def check_input_names(x: Any, known: Preprocessing, place: str) -> None:
    """Refuse items whose inputs are others than the training part's.

    Raises:
        UnknownName: there is one more.
        DataError: one is missing; or one part has several inputs, and another one.
    """
    found = [name for name, _ in by_name(x)]
    wanted = list(known.inputs) or [""]
    if sorted(found) == sorted(wanted):
        return
    if found == [""] or wanted == [""]:
        one, several = (found, wanted) if wanted == [""] else (wanted, found)
        del one
        raise DataError(
            f"{place}: one part has a single input, another {_listed(several)}",
            hint="give all parts the same inputs, by the same names",
        )
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{place}: the input `{missing[0]}` is missing, found {_listed(found)}",
            hint="give all parts the inputs of train, by the same names",
        )
    extra = next(name for name in found if name not in wanted)
    raise UnknownName.among("input", extra, wanted, where=place)


def _one(
    array: NDArray[Any], where: str, *, scale: Any, mean: Any, std: Any, vocabulary: Any
) -> Preprocessing:
    shape, kind = tuple(array.shape[1:]), array.dtype.name
    if kind in INTEGERS:
        if mean is not None or std is not None or scale is not None:
            raise DataError(
                f"{where} holds integers, which have no scale, mean or std",
                hint="leave it out of them; or store the input as float32",
            )
        largest = max((int(p.max()) for p in _pieces(array) if p.size), default=0)
        return Preprocessing(shape=shape, dtype="int64", vocabulary=int(vocabulary or largest + 1))
    if kind not in FLOATS:
        raise DataError(
            f"{where} is {kind} of shape {tuple(array.shape)}; an input is uint8 or float32, or "
            "int32 or int64",
            hint=f"`{where.rpartition('`')[0].rpartition('`')[2]}.astype('float32')`, of ids and "
            "masks `.astype('int64')`",
        )
    if vocabulary is not None:
        raise DataError(
            f"{where} is {kind}, which has no vocabulary", hint="leave it out of `vocabulary`"
        )
    return Preprocessing(
        shape=shape,
        scale=float(scale if scale is not None else BYTE_SCALE if kind == "uint8" else 1.0),
        mean=_numbers(mean, 0.0),
        std=_numbers(std, 1.0),
    )


def _pieces(array: NDArray[Any]) -> list[NDArray[Any]]:
    from kdeploy.data.rows import pieces

    return [piece for _, piece in pieces(array)]


def _check_option(option: str, values: Any, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    if values is None:
        return
    if not isinstance(values, Mapping):
        raise DataError(
            f"{where}: `{option}` is {values!r:.40}, and items have the inputs {_listed(arrays)}",
            hint=f"say of which: `{option}: {{{next(iter(arrays))}: ...}}`",
        )
    unknown = [str(name) for name in values if name not in arrays]
    if unknown:
        raise UnknownName.among("input", unknown[0], arrays, where=f"{where}, `{option}`")


def _numbers(values: Any, default: float) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(default if values is None else values))


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names)
