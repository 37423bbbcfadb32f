"""Heat maps: learn where the teacher sees each keypoint, also those that no label shows.

Fast pose distillation: Zhang, Zhu, Ye, CVPR 2019, arXiv:1811.05419.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from kdeploy.distill.contract import Batch, TaskFacts, loss
from kdeploy.distill.feature_maps import check_maps, resized


@loss(paper="arXiv:1811.05419", needs="logits", tasks=("keypoint_heatmaps",))
class HeatmapKd(nn.Module):
    """Mean squared error of the maps, of all keypoints and positions.

    The teacher's map teaches absent and hidden keypoints too. A map of another size is
    interpolated to the student's. The paper weighs it and the labels' error by 0.5 each.

    Args:
        student: Shape of the student's maps (batch, keypoints, height, width).
        teacher: Shape of the teacher's maps.
        facts: Not used.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], facts: TaskFacts) -> None:
        super().__init__()
        del facts
        check_maps(student, teacher, loss="heatmap_kd")

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch."""
        del batch
        return functional.mse_loss(student, resized(teacher.detach(), student.shape[2:]))
