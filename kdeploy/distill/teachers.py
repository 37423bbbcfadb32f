"""Several teachers that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.teacher_protocol import TeacherOutput, TeacherProtocol
from kdeploy.errors import ModelError
from kdeploy.training.contract import Batch
from kdeploy.training.views import View


class Ensemble:
    """The weighted mean of what its members say, or one of them at random for each batch.

    The mean is of probabilities, at temperature 1, and its logarithm are the logits: a loss that
    softens them softens the mean. Features are those of the first member. What is remembered is
    what each member says, so that another ensemble of the same members asks nobody again.

    Args:
        members: At least one; all for the same classes.
        weights: Of the mean, one for each member, adding up to 1.
        how: The `mean`, or a `random` member a batch, drawn from torch's global generator.
    """

    def __init__(
        self,
        members: Sequence[TeacherProtocol],
        weights: Sequence[float],
        *,
        how: Literal["mean", "random"] = "mean",
    ) -> None:
        self.members = tuple(members)
        self.weights = tuple(weights)
        self.how = how
        self.models: Sequence[nn.Module] = [m for member in members for m in member.models]
        self.is_repeatable = how == "mean" and all(m.is_repeatable for m in members)
        said = "\n".join([how, repr(self.weights), *(m.fingerprint for m in members)])
        self.fingerprint = sha256(said.encode()).hexdigest()

    def __call__(self, batch: Batch, paths: Sequence[str]) -> TeacherOutput:
        """Return the logits and the first member's features at the paths.

        Raises:
            ModelError: features of a random member are asked for.
        """
        first, *others = self.members
        if self.how == "random":
            self._check_no_features(paths)
            chosen = int(torch.randint(len(self.members), ()))
            return self.members[chosen](batch, paths)
        known = first(batch, paths)
        logits = [known.logits, *(member(batch, ()).logits for member in others)]
        return TeacherOutput(log_of_mean(logits, self.weights), known.features)

    def run_on(self, batch: Batch, features: Mapping[str, Tensor]) -> Any:
        """Return the first member's answer where its layers return these tensors."""
        return self.members[0].run_on(batch, features)

    def prepare(self, view: View, paths: Sequence[str]) -> None:
        """Let every member answer on the view, where it remembers."""
        for place, member in enumerate(self.members):
            # Features are the first member's alone, so the others' caches need not hold any.
            member.prepare(view, () if place else paths)

    def compile(self) -> None:
        for member in self.members:
            member.compile()

    def apply(self, function: Callable[..., Any], *, recurse: bool) -> None:
        for member in self.members:
            member.apply(function, recurse=recurse)

    def _check_no_features(self, paths: Sequence[str]) -> None:
        if paths:
            raise ModelError(
                f"a random teacher a step has no features to learn from, and `{paths[0]}` is one",
                hint="use losses on logits, or `how: mean`: its features are the first teacher's",
            )


def log_of_mean(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the logarithm of the weighted mean of the probabilities, (..., classes), float32.

    Args:
        logits: One tensor a model, all of one shape.
        weights: One a model, > 0, adding up to 1.
    """
    logs = torch.stack([functional.log_softmax(one.float(), dim=-1) for one in logits])
    factors = torch.tensor(weights, device=logs.device).log()
    return torch.logsumexp(logs + factors.reshape(-1, *[1] * (logs.ndim - 1)), dim=0)
