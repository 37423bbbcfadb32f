"""Generalised Jensen-Shannon divergence, also on sequences that the student writes itself.

GKD: Agarwal et al., ICLR 2024, arXiv:2306.13649, equation 1 and algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdeploy.data.contract import NOT_COUNTED
from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.divergence import log_divergence, log_mixture
from kdeploy.distill.logits import log_probabilities, standardized
from kdeploy.distill.tokens import real_rows
from kdeploy.errors import ModelError
from kdeploy.torch_module.decoding import next_logits

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2306.13649", needs="logits")
class Jsd(nn.Module):
    """beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta) student.

    Mean over the items, or over the tokens with a label; multiplied by temperature**2 so that
    gradients keep size. Near beta 0 it is beta KL(teacher || student), near 1 it is (1 - beta)
    KL(student || teacher); at 0 and 1, where the formula vanishes, it is the KL itself.
    """

    def __init__(
        self,
        student: torch.Size,
        teacher: torch.Size,
        facts: TaskFacts,
        *,
        beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        standardize: bool = False,
        on_policy: Annotated[float, Field(ge=0, le=1)] = 0.0,
        prompt_tokens: Annotated[int, Field(gt=0)] = 16,
        sampling_temperature: Annotated[float, Field(gt=0)] = 0.9,
    ) -> None:
        """Check that both networks choose among the same classes.

        Args:
            student: Shape of the logits, (batch, classes) or (batch, tokens, vocabulary).
            teacher: The same shape.
            facts: Not used.
            beta: 0: KL(teacher || student), covers all that the teacher finds likely; 1:
                KL(student || teacher), settles on what is likeliest; between: bounded, both.
            temperature: Softens both distributions; > 0, no unit.
            standardize: Compare z-scores of the logits, so that the student need not match the
                teacher's scale.
            on_policy: Probability that the student continues a batch itself and learns how the
                teacher would have; for language models, 0.5 is usual. The labels do not apply to
                such a batch.
            prompt_tokens: Tokens of such a batch that stay as they are.
            sampling_temperature: Softens the student's distribution that the continuation is
                drawn from; > 0, no unit.
        """
        super().__init__()
        del facts
        _check_classes(student, teacher)
        if on_policy and (len(student) != 3 or prompt_tokens >= student[1]):
            raise ModelError(
                f"jsd: nothing to continue after {prompt_tokens} tokens: the student's logits "
                f"have the shape {tuple(student)}, not (batch, more tokens, vocabulary)",
                hint="lower `prompt_tokens`, or set `on_policy: 0.0` where x is no text",
            )
        self.beta = beta
        self.temperature = temperature
        self.standardize = standardize
        self.on_policy = on_policy
        self.prompt_tokens = prompt_tokens
        self.sampling_temperature = sampling_temperature

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over all rows whose label is not ignored."""
        own = real_rows(student, batch.labels)
        other = real_rows(teacher.detach(), batch.labels)
        if self.standardize:
            own, other = standardized(own, other)
        divergence = generalized(own / self.temperature, other / self.temperature, beta=self.beta)
        return self.temperature**2 * divergence

    def propose(self, student: nn.Module, batch: Batch) -> Batch:
        """Return the batch itself or, as often as `on_policy` says, one that the student wrote.

        Its labels are the student's own next tokens, ignored where the prompt gives them: they
        tell which positions count, and are no truth to learn. Draws from torch's generator.
        """
        if not self.on_policy or torch.rand(()) >= self.on_policy:
            return batch
        x = continued(student, batch.x, self.prompt_tokens, temperature=self.sampling_temperature)
        labels = torch.full_like(x, NOT_COUNTED)
        # Position i says token i + 1: the first token that the student wrote is said by the last of
        # the prompt, and nothing follows the last one.
        labels[:, self.prompt_tokens - 1 : -1] = x[:, self.prompt_tokens :]
        # View -1: what a teacher's cache holds of these rows is of other inputs.
        return batch._replace(x=x, labels=labels, view=-1)


def generalized(student: Tensor, teacher: Tensor, *, beta: float) -> Tensor:
    """Return the divergence of logits (rows, classes), mean over rows; 0 of no rows."""
    own, other = log_probabilities(student), log_probabilities(teacher)
    if beta == 0:
        return log_divergence(other, own)
    if beta == 1:
        return log_divergence(own, other)
    mixture = log_mixture(other, own, share=beta)
    return beta * log_divergence(other, mixture) + (1 - beta) * log_divergence(own, mixture)


@torch.no_grad()
def continued(model: nn.Module, x: Tensor, keep: int, *, temperature: float) -> Tensor:
    """Return ids (batch, tokens): the first `keep` of x, the others drawn from the model.

    The model runs in eval mode, once for each token; its modes come back as they were. A decoder of
    transformers reads each token once, and keeps its keys and values.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        ids = x[:, :keep]
        following = next_logits(model)
        while ids.shape[1] < x.shape[1]:
            probabilities = (following(ids).float() / temperature).softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probabilities, 1)], 1)
        return ids
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_classes(student: torch.Size, teacher: torch.Size) -> None:
    if student[-1] != teacher[-1]:
        raise ModelError(
            f"jsd compares classes one by one: the student has {student[-1]}, the teacher "
            f"{teacher[-1]}",
            hint="use networks with the same vocabulary; where one was only padded to a rounder "
            "size, cut its output layer to the real tokens",
        )
    if student != teacher:
        raise ModelError(
            f"jsd: the student's logits have the shape {tuple(student)}, the teacher's "
            f"{tuple(teacher)}",
            hint="use networks that answer for the same positions",
        )
