"""Channel-wise distillation: look at the same places in each channel as the teacher.

Shu et al., ICCV 2021, arXiv:2011.13256.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from torch import Tensor, nn

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.divergence import divergence
from kdeploy.distill.feature_maps import check_maps, projection, resized

if TYPE_CHECKING:
    from pydantic import Field


@loss(paper="arXiv:2011.13256", needs="features")
class Cwd(nn.Module):
    """Divergence of each channel's softmax over its positions, not over classes.

    The mean over items and channels, multiplied by temperature**2. A student's map of another
    width goes through a trained 1x1 convolution, one of another size is interpolated. The value
    grows with neither height nor width, but a softmax over more positions is flatter: keep the
    temperature with the size. For logits of segmentation weight 5 is usual, for features up to 50.

    Args:
        student: Shape of the student's maps (batch, channels, height, width).
        teacher: Shape of the teacher's maps.
        facts: Not used.
        temperature: Softens the distributions over positions; > 0, no unit.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        facts: TaskFacts,
        *,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        super().__init__()
        del facts
        check_maps(student, teacher, loss="cwd")
        self.temperature = temperature
        self.projection = projection(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over items and channels."""
        del batch
        own = resized(self.projection(student), teacher.shape[2:])
        rows = own.flatten(2).flatten(0, 1), teacher.flatten(2).flatten(0, 1)
        return self.temperature**2 * divergence(*rows, temperature=self.temperature)
