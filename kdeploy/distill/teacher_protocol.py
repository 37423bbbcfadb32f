"""Teacher signals: where what a teacher says comes from, live or out of a file.

An objective asks for a batch and never knows who answers: a model, a cache, several teachers, an
earlier generation, a file run by ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from kdeploy.training.contract import Batch
from kdeploy.training.views import View


class TeacherOutput(NamedTuple):
    """What a teacher says of a batch; constants, no gradient reaches them."""

    logits: Any
    """One tensor; of a model that returns several, a mapping from their names."""
    features: dict[str, Tensor]
    """By the path that was asked for."""


@runtime_checkable
class TeacherProtocol(Protocol):
    """Whoever answers for the teacher."""

    fingerprint: str
    """Of all that decides the answers: a checkpoint of another teacher is not resumed."""
    models: Sequence[nn.Module]
    """The models that are asked, which the student must not be one of; a file has none."""

    is_repeatable: bool
    """Whether it always says the same of the same input."""

    def __call__(self, batch: Batch, paths: Sequence[str]) -> TeacherOutput:
        """Return the logits and the outputs of the layers at `paths`."""
        ...

    def run_on(self, batch: Batch, features: Mapping[str, Tensor]) -> Any:
        """Return the answer where layers return these tensors; gradients reach them.

        Raises:
            ModelError: there is no model that could be run on from its layers.
        """
        ...

    def prepare(self, view: View, paths: Sequence[str]) -> None:
        """Hear which countable view of the training part the next epoch shows."""
        ...

    def compile(self) -> None:
        """Make further calls faster, where that is possible."""
        ...

    def apply(self, function: Callable[..., Any], *, recurse: bool) -> None:
        """Apply to the models what `nn.Module._apply` applies to the student: device, layout."""
        ...
