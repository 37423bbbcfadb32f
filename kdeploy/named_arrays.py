"""Several arrays of one length by name: the items of a model of several inputs, stored or made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class NamedArrays:
    """Stands in for an array (N, ...) wherever rows of it are taken: `x[a:b]`, `x[rows]`, `len(x)`.

    A name is that of the parameter of `forward` that takes the array.
    """

    arrays: Mapping[str, NDArray[Any]]
    """Of one length, each (N, ...); may be mapped from a file."""

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, rows: Any) -> NamedArrays:
        return self.mapped(lambda array: array[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        text = f"arrays called {', '.join(self.arrays)} are no single array"
        raise TypeError(text)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self),)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def mapped(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> NamedArrays:
        """Return what a function makes of each array."""
        return NamedArrays({name: function(array) for name, array in self.arrays.items()})


def names_by_place(count: int) -> list[str]:
    """Return the names of inputs that are given in their order, without names."""
    return [f"input_{place}" for place in range(count)]


def by_name(x: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield each array with its name; an array alone is called ""."""
    yield from x.arrays.items() if isinstance(x, NamedArrays) else (("", x),)


def given(x: Any) -> Any:
    """Return inputs as a runtime takes them: an array, or a mapping by the names of the inputs."""
    return dict(x.arrays) if isinstance(x, NamedArrays) else x


def mapped(function: Callable[..., NDArray[Any]], x: Any) -> Any:
    """Return what a function makes of an array, or of each of several."""
    return x.mapped(function) if isinstance(x, NamedArrays) else function(x)


def in_memory(x: Any) -> Any:
    """Return an array, or several by name, read from wherever they lie."""
    return mapped(np.asarray, x)


def repeated(x: Any, count: int) -> Any:
    """Return so many items, from the first again where there are fewer."""
    return x[np.resize(np.arange(len(x)), count)]
