"""What a kind of dynamic model is: a function that writes the parts, small ones first.

`@dynamic(paper=)` marks it, in a file of its name in `kinds/`. It is given what was exported and a
path `NAME.dynamic`; it writes `NAME.part-0.onnx`, ... beside it and returns what each of them is.
Temperatures and thresholds are none of its business: `calibration.py` chooses them for all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdeploy.errors import ModelError
from kdeploy.registration import Decorated, register

dynamic: Callable[..., Callable[[Decorated], Decorated]] = partial(register, "dynamic")


def _no_models(model: str, layers: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    del layers
    raise ModelError(
        f"{model} is a file, and exits are made of the network that was trained with them",
        hint="name its artefact, e.g. `runs/x/artifacts/ID`",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicContext:
    """What a kind may be made of."""

    files: Mapping[str, Path]
    """ONNX files by the names of their models."""
    with_exits: Callable[[str, tuple[str, ...]], tuple[Path, tuple[str, ...]]] = _no_models
    """Return the ONNX file of a model whose outputs are the logits of the exits at these layers
    (none: of all), its own at last; and the layers."""
