"""What a runtime is: something that opens a file, runs it, and proves what it ran.

A runtime is a class decorated with `@runtime(formats={...}, device=...)`. The one whose own format
it is says so: `suffixes={".xml": "openvino"}`, and `beside=(".bin",)` where its weights lie in a
file of the same name; methods of `KnowsFiles` tell more of such a file without opening it.
`libraries` are the distributions that it needs, for the fingerprint of a machine. The fact
`needs="int8"` or `"two_four"` says that it opens such artefacts alone, `opens_anything=True` that a
file need be no model, `rows=1` that a file is of one row.

Its module imports only what it needs inside its methods, so that it can be listed where the library
is missing. Its keyword-only parameters but `threads` are its options; whoever names it may give
them: `torch_cuda:precision=fp16`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kdeploy.errors import ModelError
from kdeploy.registration import register

if TYPE_CHECKING:
    from kdeploy.tensor_info import TensorInfo

runtime: Callable[..., Any] = partial(register, "runtime")
Array: TypeAlias = NDArray[Any]
Given: TypeAlias = "Array | Mapping[str, Array]"
"""What a file is given: an array for each input by its name, of one input the array alone."""
Answer: TypeAlias = "dict[str, Array]"
"""What a file returned: its outputs by name, in its order."""
Session = TypeVar("Session")
DYNAMIC = ".dynamic"
"""The suffix of a dynamic model: several files, of which the input decides how many are run."""


def first(answer: Answer) -> Array:
    """Return the first output, of most models the only one."""
    return next(iter(answer.values()))


def opened(session: Session | None) -> Session:
    """Return what a runtime's `open` has made: all that it answers comes after that."""
    assert session is not None, "a runtime was asked before open"
    return session


def by_name(given: Given, names: Sequence[str], path: Path) -> Mapping[str, Array]:
    """Return the arrays by the names of a file's inputs.

    Raises:
        ModelError: it takes others, or more than one.
    """
    if isinstance(given, np.ndarray):
        if len(names) == 1:
            return {names[0]: given}
        given = {"one array": given}
    if set(given) == set(names):
        return given
    found, wanted = (", ".join(f"`{name}`" for name in which) for which in (given, names))
    raise ModelError(
        f"{path} takes {wanted}, and was given {found}",
        hint="give an array for each input, by its name",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What really ran: of the operators that could run as integers, how many did."""

    provider: str
    eligible: int = 0
    integer: int = 0
    is_quantized: bool = False
    sparse_eligible: int = 0
    """Layers whose weights are 2:4 sparse: each could run in a sparse kernel."""
    sparse: int = 0
    """Of those, the ones that did."""
    four_bit: int = 0
    """Products on codes of 4 or 8 bits that ran in a kernel for them."""
    four_bit_eligible: int = 0
    """Products with a stored weight, in a file where some are codes."""
    elsewhere: int = 0
    """Operators that ran on another device or provider than the one asked for."""
    is_emulated: bool = False
    """Whether references stand in for kernels: the accuracy holds, the time does not."""
    arena_bytes: int | None = None
    """Working memory that the file asks of a device that hands it one block, once."""
    operators: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """What the runtime was told: threads, precision, spinning; kept beside the raw samples."""
    layers: list[dict[str, str]] = field(default_factory=list)
    """One row a layer where the runtime knows: its name, the kernel that it went to, and why."""

    @property
    def integer_kernels(self) -> float | None:
        """Return the fraction of eligible operators that ran as integers, None without any."""
        return self.integer / self.eligible if self.eligible else None


@runtime_checkable
class DeviceTimed(Protocol):
    """A runtime whose device has a clock of its own: the second of two times, never mixed."""

    def device_seconds(self) -> float:
        """Return how long the last `infer` took on the device, by its events: no copies."""
        ...


class KnowsFiles(Protocol):
    """What the runtime that a format is of may say of a file, each where it can.

    The library need not be installed: whoever measures, stores or packages a file asks this.
    """

    @staticmethod
    def files_of(path: Path) -> list[Path]:
        """Return the file and all that belongs to it, where that is not told by its name."""
        ...

    @staticmethod
    def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
        """Return what the file takes; raise ModelError where it cannot be read."""
        ...

    @staticmethod
    def outputs_of(path: Path) -> tuple[TensorInfo, ...]:
        """Return what the file gives: without it no state is seen that goes from call to call."""
        ...

    @staticmethod
    def parameters_of(path: Path) -> int:
        """Return how many numbers the file has learned."""
        ...


class Runtime(Protocol):
    """The life of a file in a runtime: open, infer many times, prove, close."""

    def __init__(self, *, threads: int | None = None) -> None:
        """Import the library, so that `open` is timed without it; None: all cores allowed."""
        ...

    @staticmethod
    def unavailable() -> str | None:
        """Return why it cannot run on this machine, with the remedy; None when it can."""
        ...

    def open(self, path: Path) -> None:
        """Load the file; raise `Unavailable` when another provider than asked would run it."""
        ...

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What the opened file takes."""
        ...

    def infer(self, given: Given) -> Answer:
        """Return all outputs by name, in the file's order.

        Args:
            given: An array for each input by its name, or the array alone where there is one.

        Raises:
            ModelError: it is not what the file takes.
        """
        ...

    def proof_of_use(self) -> Proof:
        """Return what the opened file really runs as."""
        ...

    def close(self) -> None:
        """Free what `open` took."""
        ...


def unreadable(path: Path, error: Exception) -> ModelError:
    """Return the error for a file that does not say what it takes."""
    return ModelError(f"{path} does not say what it takes ({error})", hint="export it again")
