"""Data from a function of the user's own: `path.py:function`.

It returns `kdeploy.data.contract.Parts`, or a dictionary with `x_train`, `y_train`, `x_test` and
`y_test`, and if wanted `x_validation` and `y_validation`, `x_unlabelled` (to calibrate INT8 on),
`classes` (names or their number), `scale`, `mean`, `std`, `resize`, `vocabulary` (of token ids),
`licence` and `source`. In place of arrays, `train`, `test` and `validation` may be torch's data
sets or loaders.

An `x_...` that is a dictionary of arrays is several inputs, named as the parameters of `forward`;
`scale`, `mean`, `std` and `vocabulary` are then dictionaries by the same names.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdeploy.data.check import TOKEN_TYPES
from kdeploy.data.contract import AsGiven, Parts, Preprocessing, Split
from kdeploy.data.lazy_items import LazyItems
from kdeploy.data.several_inputs import named_arrays, preprocessing_of_inputs
from kdeploy.data.torch_data import with_arrays
from kdeploy.errors import DataError, FileMissing, InputError, UnknownName
from kdeploy.named_arrays import NamedArrays
from kdeploy.untrusted.named_path import named_path
from kdeploy.untrusted.user_code import mark_as_users, users_code

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
VALIDATION = ("x_validation", "y_validation")
UNLABELLED = "x_unlabelled"
OPTIONS = ("classes", "scale", "mean", "std", "resize", "vocabulary", "licence", "source")
_RETURNS = (
    f"return a dictionary with {', '.join(ARRAYS)}, numpy arrays, or `train` and `test`, "
    "torch data sets, and, if wanted, "
    f"{', '.join((*VALIDATION, UNLABELLED, *OPTIONS))}"
)


def is_own_function(name: str) -> bool:
    """Return whether a data name means a function in a file."""
    return ".py:" in name


def parts_of(name: str, parameters: Mapping[str, Any], *, folder: Path) -> Parts:
    """Return what the function returned, as parts.

    Raises:
        FileMissing: there is no such file.
        UnknownName: the file has no such function, or the function no such parameter.
        DataError: the file or the function failed, or returned something else.
    """
    # Not at the top: a process that measures other data need not know how models are built.
    from kdeploy.store.references import importing_from

    home = named_path(name.rpartition(":")[0], folder).resolve().parent
    with importing_from(home):
        function = _callable(name, folder)
        check_parameters(function, parameters, f"data `{name}`")
        files = {key: str(file) for key, file in named_files(parameters, folder).items()}
        with _failing(name):
            returned = function(**{**parameters, **files})
    if isinstance(returned, Parts):
        return returned
    if isinstance(returned, Mapping):
        opened, notes = with_arrays(returned, where=f"data `{name}`")
        parts = _parts(opened, name)
        return replace(parts, notes=(*parts.notes, *notes))
    raise DataError(f"data `{name}` returned {type(returned).__name__}", hint=_RETURNS)


def named_files(parameters: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Return the parameters that name a file or folder, by key; the function gets them absolute.

    A text does if it is an absolute path, or looks like a path of something in the folder.
    """
    texts = {key: value for key, value in parameters.items() if isinstance(value, str) and value}
    return {
        key: place
        for key, text in texts.items()
        if (place := _place(text, folder)) is not None
        and (Path(text).is_absolute() or (("/" in text or place.suffix) and place.exists()))
    }


def _place(text: str, folder: Path) -> Path | None:
    """Return the path that a text would be; None where no file can be called so."""
    try:
        return named_path(text, folder)
    except InputError:
        return None


def attribute_of(name: str, folder: Path, *, kind: str = "function") -> Any:
    """Return what `path.py:NAME` names, of a file that is executed.

    Raises:
        FileMissing: there is no such file.
        UnknownName: the file has no such function or class.
        DataError: the file failed.
    """
    # Not at the top: a process that measures other data need not know how models are built.
    from kdeploy.store.references import importing_from

    home = named_path(name.rpartition(":")[0], folder).resolve().parent
    with importing_from(home):
        return _callable(name, folder, kind)


def _callable(name: str, folder: Path, kind: str = "function") -> Callable[..., Any]:
    file, _, attribute = name.rpartition(":")
    path = named_path(file, folder)
    if not path.is_file():
        raise FileMissing(f"there is no file {path}", hint=f"name it as `path.py:{kind}`")
    specification = importlib.util.spec_from_file_location(f"kdeploy_data_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise DataError(f"{path} is not a Python file", hint=f"name it as `path.py:{kind}`")
    module = importlib.util.module_from_spec(specification)
    mark_as_users(path, kind=DataError)
    with _failing(str(path)):
        specification.loader.exec_module(module)
    function = getattr(module, attribute, None)
    if not callable(function):
        is_kind = inspect.isfunction if kind == "function" else inspect.isclass
        own = [n for n, v in vars(module).items() if is_kind(v)]
        raise UnknownName.among(kind, attribute, own, where=str(path))
    return function  # type: ignore[no-any-return]


def check_parameters(function: Callable[..., Any], given: Mapping[str, Any], where: str) -> None:
    """Raise an error unless the function, or class, can be called with these keywords."""
    signature = inspect.signature(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = [key for key in given if key not in signature.parameters]
    if unknown and not takes_any:
        raise UnknownName.among("key", unknown[0], signature.parameters, where=where)
    try:
        # Before the call: a TypeError from inside of it would look the same.
        signature.bind(**given)
    except TypeError as error:
        raise DataError(
            f"{where}: {error}", hint=f"give it as a key of `{where.split()[0]}:`"
        ) from None


def _parts(returned: Mapping[str, Any], name: str) -> Parts:
    known = (*ARRAYS, *VALIDATION, UNLABELLED, *OPTIONS)
    returned = {key: _items(value, f"data `{name}`, {key}") for key, value in returned.items()}
    for key in returned:
        if key not in known:
            raise UnknownName.among("key", str(key), known, where=f"data `{name}`")
    needed = (*ARRAYS, *VALIDATION) if set(VALIDATION) & returned.keys() else ARRAYS
    for key in (*needed, *({UNLABELLED} & returned.keys())):
        if not isinstance(returned.get(key), np.ndarray | LazyItems | NamedArrays):
            found = type(returned[key]).__name__ if key in returned else "nothing"
            raise DataError(
                f"data `{name}`: `{key}` must be an array, found {found}", hint=_RETURNS
            )
    x = returned["x_train"]
    parts = [key.removeprefix("x_") for key in needed if key.startswith("x_")]
    places = {part: f"data `{name}`, y_{part}" for part in parts}
    option = partial(_option, returned, name)
    splits = {
        part: Split(x=returned[f"x_{part}"], y=returned[f"y_{part}"], targets_origin=place)
        for part, place in places.items()
    }
    return Parts(
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        unlabelled=returned.get(UNLABELLED),
        preprocessing=_preprocessing(option, x)
        if not isinstance(x, NamedArrays)
        else preprocessing_of_inputs(
            x.arrays,
            where=f"data `{name}`, x_train",
            **{key: returned.get(key) for key in ("scale", "mean", "std", "vocabulary")},
        ),
        licence=str(returned.get("licence", "")),
        source=str(returned.get("source", name)),
        as_given=AsGiven(classes=option("classes", _plain, None)),
    )


def _option(
    returned: Mapping[str, Any], name: str, key: str, convert: Callable[[Any], Any], default: Any
) -> Any:
    """Return an option as what it has to be, or raise DataError with what it is."""
    value = returned.get(key, default)
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"data `{name}`: `{key}` is {value!r:.60}", hint=f"{_RETURNS}; mend `{key}`"
        ) from None


def _items(value: Any, where: str) -> Any:
    """Return a dictionary of arrays as the items of several inputs; all else as it is."""
    if not isinstance(value, Mapping) or ", x_" not in where:
        return value
    strange = [key for key, one in value.items() if not isinstance(one, np.ndarray | LazyItems)]
    if strange or not value:
        found = (
            f"`{strange[0]}` is {type(value[strange[0]]).__name__}" if strange else "it is empty"
        )
        raise DataError(
            f"{where}: a dictionary of inputs, and {found}",
            hint="give a numpy array for each parameter of `forward`, by its name",
        )
    return named_arrays(value, where=where)


def _plain(classes: Any) -> Any:
    """Return names or a number as YAML has them, of an array, a tuple or a number of numpy's."""
    return None if classes is None else np.asarray(classes).tolist()


def _preprocessing(
    option: Callable[[str, Callable[[Any], Any], Any], Any],
    x: NDArray[Any],
) -> Preprocessing:
    is_tokens = x.ndim == 2 and x.dtype in TOKEN_TYPES
    return Preprocessing(
        shape=tuple(x.shape[1:]),
        scale=option("scale", float, 1 / 255 if x.dtype == np.uint8 else 1.0),
        mean=option("mean", _numbers, 0.0),
        std=option("std", _numbers, 1.0),
        resize=option("resize", str, ""),
        dtype="int64" if is_tokens else "float32",
        vocabulary=option("vocabulary", int, x.max(initial=0) + 1) if is_tokens else 0,
    )


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(value))


def _failing(what: str) -> AbstractContextManager[None]:
    return users_code(f"{what} failed", kind=DataError, hint="mend that line of it")
