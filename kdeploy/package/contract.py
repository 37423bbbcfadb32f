"""What a kind of bundle is: the file that it ships, what that file says, what runs it on a device.

`@bundle(formats={"onnx"}, runtime="onnxruntime_cpu", libraries={"onnxruntime": "MIT, ..."})` marks
a class with the static methods of `BundleKind`, in a file of its name in `bundles/`. A kind with
`prompt_tokens` takes token ids, of which golden items have so many, and answers a prompt: its `Run`
has a method `answer(prompt, count)`. `runtime` runs
the file here; `libraries` are what a device needs, as it imports them, each with its licence.
`native="cpp"` adds the sources of a runner without Python, the folder of that name in `runner/`.

`open_model` travels with the bundle, as its source: it names nothing but what it imports itself and
what Python 3.9 and numpy have, and its annotations are of `typing.Any` and built-in types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from kdeploy.package.manifest import Port
from kdeploy.registration import register

bundle: Callable[..., Any] = partial(register, "bundle")
Run = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From arrays by the names of the inputs to arrays by the names of the outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file says of itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    is_quantized: bool
    opset: int | None = None
    """Of an ONNX file."""
    is_folded: bool = False
    """Whether it takes pixels as they are, and prepares them by itself."""
    dynamic: Mapping[str, Any] | None = None
    """Of a dynamic model: its parts, and when each of them may answer."""


class BundleKind(Protocol):
    """All that packaging and verifying ask of a kind."""

    @staticmethod
    def facts_of(path: Path) -> FileFacts:
        """Return what the file says; raise ModelError where no runner could run it."""
        ...

    @staticmethod
    def copy(path: Path, folder: Path) -> Path:
        """Copy the file as `model.SUFFIX`, what belongs to it as `model.*`; return the first."""
        ...

    @staticmethod
    def open_model(path: str, threads: int, is_plain: bool = False) -> Any:
        """Open the file; return a `Run`.

        Args:
            path: The file.
            threads: Of the processor.
            is_plain: Compute each operator by itself, unfused, where the library can: how far
                that is from its fastest way says what another processor may do.
        """
        ...
