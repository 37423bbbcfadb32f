"""Heat maps: learn where the teacher sees each keypoint, also those that no label shows.

Fast pose distillation: Zhang, Zhu, Ye, CVPR 2019, arXiv:1811.05419.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from kdeploy.distill.contract import loss
from kdeploy.distill.feature_maps import resized


@loss(paper="arXiv:1811.05419", needs="logits", tasks=("keypoint_heatmaps",))
def heatmap_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared error of the maps, of all keypoints and positions.

    The teacher's map teaches absent and hidden keypoints too. A map of another size is
    interpolated to the student's. The paper weighs it and the labels' error by 0.5 each.

    Args:
        student: Maps (batch, keypoints, height, width).
        teacher: Maps (batch, keypoints, height, width).
        labels: Not used: it needs none.
    """
    del labels
    other = teacher.detach()
    return functional.mse_loss(
        student, resized(other, student.shape[2:]) if student.ndim > 2 else other
    )
