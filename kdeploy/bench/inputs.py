"""The batches that are timed: real test items where data are named, else seeded noise.

Several batches take turns, because a single one stays in the caches as no real input does. They
are few, because they count in the peak memory of the process. Of a dynamic model, whose time
depends on the item, they are as many as `POOL_BYTES` hold, in the order of the test part. Where
sizes are swept, images are resampled to the nearest pixel, signals and texts cut off or repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.bench.model_under_test import ModelUnderTest
from kdeploy.data.load import DataReference, load
from kdeploy.errors import ModelError
from kdeploy.named_arrays import by_name, in_memory, repeated
from kdeploy.onnx_graph.facts import OPEN, item_shape, takes_integers
from kdeploy.onnx_graph.input_fitting import input_dtype, is_declared
from kdeploy.preprocessing import Inputs, Preprocessing
from kdeploy.runtimes.files import FOLDER, inputs_of, outputs_of
from kdeploy.runtimes.made_inputs import made_inputs, takes_rows
from kdeploy.runtimes.state import carried
from kdeploy.store.artifact import open_artifact
from kdeploy.store.model_io import preprocessing_of
from kdeploy.tensor_info import TensorInfo

POOL_BATCHES = 16  # different ones in turn, so that no cache holds a single input
POOL_BYTES = 4 * 2**20
_SEED = 0
_VALUES = {"uint8": 256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The shape of an item, whether items are real, and what a worker must know of several inputs.

    Of several inputs the shape is that of the first.
    """

    shape: tuple[int, ...]
    is_real: bool
    inputs: tuple[Mapping[str, Any], ...] = ()
    """Of each input of a file that takes several, `name` and `rows`; see `batches.py`."""
    state: tuple[Mapping[str, Any], ...] = ()
    """Of each input that an output is fed back to: `input`, `output`, `shape`, `dtype`."""


def write_pool(
    model: ModelUnderTest,
    data: DataReference | None,
    *,
    batch_size: int,
    size: tuple[int, ...] = (),
    file: Path,
) -> Pool:
    """Write the batches, preprocessed, one after the other.

    Args:
        model: What takes them; without data it says itself what they are like.
        data: Whose test items they are; None: seeded noise.
        batch_size: The file holds a multiple of it.
        size: Height and width, or length, to bring the items to; one number for both; () for none.
        file: The file of the batches: npy for one input, npz for several.
    """
    known = ends_of(model)
    is_dynamic = model.format == "dynamic"
    if is_dynamic and data is None:
        raise ModelError(
            f"{model.label} decides by its input how much it computes, and noise says nothing of "
            "real items",
            hint="name the data to measure it on (`--data`)",
        )
    several = _by_name(model, data, batch_size)
    if several is not None:
        return _write_named(several, known, size=size, is_real=data is not None, file=file)
    if len(known.inputs) > 1:
        return _write_several(known, data, batch_size=batch_size, size=size, file=file)
    most = None if is_dynamic else POOL_BATCHES
    pool = _noise(model, batch_size, size) if data is None else _real(data, batch_size, size, most)
    with file.open("wb") as opened:
        np.save(opened, pool)
    return Pool(shape=pool.shape[1:], is_real=data is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What a file takes, and which of it is a state that it gives itself."""

    inputs: tuple[TensorInfo, ...] = ()
    state: Mapping[str, str] = field(default_factory=dict)
    """From the input to the output that is fed back to it."""

    @property
    def given(self) -> list[TensorInfo]:
        return [info for info in self.inputs if info.name not in self.state]


def ends_of(model: ModelUnderTest) -> Ends:
    """Return what a file says of its inputs, nothing where only opening it would tell."""
    if model.format == FOLDER:
        return Ends()
    try:
        inputs = inputs_of(model.path, model.format) or ()
        outputs = outputs_of(model.path, model.format) or ()
    except ModelError:  # who opens it says better what is wrong
        return Ends()
    return Ends(inputs=inputs, state=carried(inputs, outputs))


def _by_name(
    model: ModelUnderTest, data: DataReference | None, batch_size: int
) -> dict[str, NDArray[Any]] | None:
    """Return the inputs, where the data or the model itself know several by name; else None."""
    if data is None and model.format != FOLDER:
        return None
    known = load(data).preprocessing if data is not None else _preprocessing(model)
    if not known.inputs:
        return None
    numbers = sum(math.prod(one.shape) for one in known.inputs.values())
    count = _count((numbers,), batch_size)
    if data is None:
        return dict(by_name(known.random(count, np.random.default_rng(_SEED))))
    stored = in_memory(load(data).test.x[:count])
    return dict(by_name(known.apply(repeated(stored, count))))


def _write_named(
    arrays: Mapping[str, NDArray[Any]],
    ends: Ends,
    *,
    size: Sequence[int],
    is_real: bool,
    file: Path,
) -> Pool:
    """Write the inputs that data have by name, in the types that the file takes.

    Raises:
        ModelError: the file has other inputs, or a size is to be swept that they do not share.
    """
    if size:
        arrays = _of_length(arrays, size)
    infos = {info.name: info for info in ends.given}
    if infos and set(infos) != set(arrays):
        raise ModelError(
            f"the data have the inputs {_listed(arrays)}, and the file takes {_listed(infos)}",
            hint="call the arrays of the data as the inputs of the file",
        )
    typed = {n: x.astype(infos[n].dtype) if n in infos else x for n, x in arrays.items()}
    with file.open("wb") as opened:
        np.savez(opened, *typed.values())
    return Pool(
        shape=next(iter(typed.values())).shape[1:],
        is_real=is_real,
        inputs=tuple({"name": name, "rows": True} for name in typed),
        state=_state(ends),
    )


def _state(ends: Ends) -> tuple[Mapping[str, Any], ...]:
    infos = {info.name: info for info in ends.inputs}
    return tuple(
        {"input": n, "output": o, "shape": list(infos[n].shape), "dtype": infos[n].dtype}
        for n, o in ends.state.items()
    )


def _of_length(arrays: Mapping[str, NDArray[Any]], size: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Return inputs of tokens, as ids and their mask are, at another length that all have."""
    shapes = {array.shape[1:] for array in arrays.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1 or len(size) != 1:
        _refuse_size(", ".join(arrays))
    return {name: _brought_to(array, tuple(size)) for name, array in arrays.items()}


def _refuse_size(inputs: str) -> None:
    raise ModelError(
        f"a size cannot be swept of a file that takes {inputs}",
        hint="name the sizes of its inputs: `--input NAME=1,3,224,224`",
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _write_several(
    ends: Ends,
    data: DataReference | None,
    *,
    batch_size: int,
    size: Sequence[int],
    file: Path,
) -> Pool:
    """Write an array for each input: items of data where one fits them, noise for all others."""
    if size:
        _refuse_size(", ".join(map(str, ends.inputs)))
    rows = [info for info in ends.given if takes_rows(info)]
    numbers = sum(math.prod(n for n in info.shape[1:] if isinstance(n, int)) for info in rows)
    count = _count((max(1, numbers),), batch_size) if rows else 1
    arrays = made_inputs(ends.given, count, np.random.default_rng(_SEED))
    if data is not None:
        arrays.update(_items_of(data, ends.given, batch_size, count))
    with file.open("wb") as opened:
        np.savez(opened, *arrays.values())
    first = next(iter(arrays.values()))
    infos = {info.name: info for info in ends.inputs}
    return Pool(
        shape=first.shape[1:] if takes_rows(ends.given[0]) else first.shape,
        is_real=data is not None,
        inputs=tuple({"name": n, "rows": takes_rows(infos[n])} for n in arrays),
        state=_state(ends),
    )


def _items_of(
    reference: DataReference, inputs: Sequence[TensorInfo], batch_size: int, count: int
) -> dict[str, NDArray[Any]]:
    """Return items of the data for the one input that they fit."""
    taken = input_of_items(inputs, load(reference).preprocessing.shape)
    items = _real(reference, batch_size, ())
    return {taken.name: np.resize(items, (count, *items.shape[1:])).astype(taken.dtype)}


def input_of_items(inputs: Sequence[TensorInfo], shape: Sequence[int]) -> TensorInfo:
    """Return the input that takes items of this shape.

    Raises:
        ModelError: none does.
    """
    for info in inputs:
        if takes_rows(info) and _fits(info.shape[1:], shape):
            return info
    raise ModelError(
        f"the data have items of shape {list(shape)}, which no input takes: "
        f"{', '.join(map(str, inputs))}",
        hint="leave `--data` out: inputs are made up then",
    )


def _fits(wanted: Sequence[int | str], shape: Sequence[int]) -> bool:
    return len(wanted) == len(shape) and all(
        isinstance(n, str) or n == size for n, size in zip(wanted, shape, strict=True)
    )


def _real(
    reference: DataReference, batch_size: int, size: Sequence[int], most: int | None = POOL_BATCHES
) -> Inputs:
    """Return test items in their order, at most so many batches; None: as many as there are."""
    data = load(reference)
    shape = _sized(data.preprocessing.shape, size)
    count = _count(shape, batch_size, -(-len(data.test) // batch_size) if most is None else most)
    stored = np.asarray(data.test.x[:count])
    known = data.preprocessing.apply(np.resize(stored, (count, *stored.shape[1:])))
    return _brought_to(known, shape)


def _noise(model: ModelUnderTest, batch_size: int, size: Sequence[int]) -> Inputs:
    known = _preprocessing(model)
    known = replace(known, shape=_sized(known.shape, size))
    if OPEN in known.shape:
        raise ModelError(
            f"{model.label} leaves the size of its input open: {list(known.shape)}",
            hint="name its sizes (`--size 128`, or `--input NAME=1,3,224,224`), or the data to "
            "measure it on (`--data`)",
        )
    generator = np.random.default_rng(_SEED)
    count = _count(known.shape, batch_size)
    if model.format == "onnx" and np.dtype(dtype := input_dtype(model.path)).kind in "iu":
        # Of ids, the first two: any vocabulary has them. Bytes are what images are made of.
        return generator.integers(_VALUES.get(dtype, 2), size=(count, *known.shape), dtype=dtype)
    return known.random(count, generator)


def _sized(shape: tuple[int, ...], size: Sequence[int]) -> tuple[int, ...]:
    """Return the shape with other extents: all but the channels, or the tokens."""
    if not size:
        return shape
    extents = shape[-1:] if len(shape) < 3 else shape[1:]
    if len(size) not in (1, len(extents)):
        raise ModelError(
            f"a size of {len(size)} numbers ({'x'.join(map(str, size))}) does not fit items of"
            f" shape {list(shape)}",
            hint=f"name one number, or {len(extents)}",
        )
    wanted = tuple(size) * len(extents) if len(size) == 1 else tuple(size)
    return (*shape[: len(shape) - len(extents)], *wanted)


def _brought_to(items: Inputs, shape: tuple[int, ...]) -> Inputs:
    for axis, extent in enumerate(shape, start=1):
        had = items.shape[axis]
        if had != extent:
            steps = np.arange(extent)
            is_image = len(shape) > 2
            # Nearest pixel: no interpolation, whose smooth values would be easier to compute on.
            items = items.take(steps * had // extent if is_image else steps % had, axis=axis)
    return items


def _count(shape: tuple[int, ...], batch_size: int, most: int = POOL_BATCHES) -> int:
    batch_bytes = batch_size * math.prod(shape) * 4  # float32
    return batch_size * max(2, min(most, POOL_BYTES // batch_bytes))


def _preprocessing(model: ModelUnderTest) -> Preprocessing:
    """Return what the model itself says of its input: the shape, and the kind of numbers."""
    if model.format == "onnx":
        if takes_integers(model.path) and not is_declared(model.path):
            raise ModelError(
                f"{model.label} takes token ids, and nothing says how many there are",
                hint="name the data to measure it on (`--data`), or measure it on the first two "
                "ids: `--input NAME=1,128`",
            )
        return Preprocessing(shape=item_shape(model.path))
    inputs = inputs_of(model.path, model.format)
    if inputs is not None:
        return Preprocessing(shape=_item(model.path, inputs))
    if model.format == "torch" and (known := preprocessing_of(open_artifact(model.path))):
        return known
    raise ModelError(
        f"nothing says how large the input of {model.label} is",
        hint="name the data to measure it on (`--data`)",
    )


def _item(path: Path, inputs: Sequence[TensorInfo]) -> tuple[int, ...]:
    """Return the shape of an item of a file that takes one tensor of floats."""
    if len(inputs) != 1 or inputs[0].dtype != "float32" or len(inputs[0].shape) < 2:
        raise ModelError(
            f"{path} takes no items of floats, and nothing else says what it takes",
            hint="name the data to measure it on (`--data`)",
        )
    return tuple(n if isinstance(n, int) else OPEN for n in inputs[0].shape[1:])
