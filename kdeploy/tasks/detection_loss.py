"""The loss of detectors with their labels: which candidates learn which object, and how much.

Candidates are assigned by task alignment: Feng et al., ICCV 2021, arXiv:2108.07755. Classes learn
by cross-entropy with how well the assigned box fits, boxes by the generalised overlap
(arXiv:1902.09630), bins by the distribution focal loss (Li et al., arXiv:2006.04388).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kdeploy.tasks.box_overlap import generalized_overlap
from kdeploy.tasks.detection_heads import Detections

TOP_K = 10
SCORE_POWER = 0.5
OVERLAP_POWER = 6.0
BINS_WEIGHT = 0.5
TINY = 1e-9
LEAST_FIT = 0.05
"""An object that no box overlaps yet is learned so far, or it never would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What each candidate learns."""

    scores: Tensor
    """(N, K, C): targets of the classes, 0 for background."""
    boxes: Tensor
    """(N, K, 4): of the assigned object; of others without meaning."""
    is_object: Tensor
    """(N, K)."""
    is_counted: Tensor
    """(N, K): false inside a crowd, where nobody knows what is background."""


def detection_loss(found: Detections, truth: Tensor, *, box_weight: float) -> Tensor:
    """Return the loss of a batch, over the sum of the assigned targets (at least 1).

    Args:
        found: All candidates.
        truth: (N, objects, 5): boxes and class; -1 for none, below for a crowd.
        box_weight: Of the boxes, beside 1 for the classes.
    """
    logits, boxes = found.logits.float(), found.boxes.float()
    points = found.points
    if points is None:
        # Decoded boxes have no cells: their own centre stands for where they look.
        points = (boxes[..., :2] + boxes[..., 2:]).detach() / 2
    assigned = assign(boxes.detach(), logits.detach().sigmoid(), points, truth.float())
    weight = assigned.scores.sum(-1)
    total = weight.sum().clamp(min=1)
    entropy = functional.binary_cross_entropy_with_logits(logits, assigned.scores, reduction="none")
    loss = (entropy * assigned.is_counted[..., None]).sum() / total
    _, fit = generalized_overlap(boxes, assigned.boxes)
    loss = loss + box_weight * ((1 - fit) * weight).sum() / total
    if found.bins is not None:
        bins = _bin_entropy(found, assigned.boxes)
        loss = loss + BINS_WEIGHT * (bins * weight).sum() / total
    return loss


@torch.no_grad()
def assign(boxes: Tensor, scores: Tensor, points: Tensor, truth: Tensor) -> Assignment:
    """Return what candidates learn: each object is given to the few that align with it best.

    Args:
        boxes: (N, K, 4), as predicted.
        scores: (N, K, C), probabilities.
        points: (K, 2) or (N, K, 2); an object's candidates lie in it.
        truth: (N, objects, 5).
    """
    if not truth.shape[1]:
        # A batch without objects: `max` over none of them is an error.
        truth = truth.new_full((len(truth), 1, 5), -1)
    labels, corners = truth[..., 4].long(), truth[..., :4]
    is_real = labels >= 0
    inside = _inside(points, corners)  # (N, objects, K)
    overlap, _ = generalized_overlap(corners[:, :, None], boxes[:, None])
    wanted = labels.clamp(min=0)[..., None].expand(-1, -1, boxes.shape[1])
    certain = scores.transpose(1, 2).gather(1, wanted)
    is_candidate = (inside | _nearest(points, corners)) & is_real[..., None]
    # The paper's t = s**alpha * u**beta.
    aligned = (certain.clamp(min=TINY) ** SCORE_POWER) * overlap**OVERLAP_POWER
    # A candidate that does not overlap yet comes after all that do.
    aligned = torch.where(is_candidate, aligned.clamp(min=TINY), torch.zeros_like(aligned))
    best = aligned.topk(min(TOP_K, aligned.shape[-1]), dim=-1)
    chosen = torch.zeros_like(aligned).scatter(-1, best.indices, best.values) > 0
    # Wanted by several, a candidate goes to the object that it overlaps most.
    rank = torch.where(chosen, overlap + TINY, torch.zeros_like(overlap))
    top, owner = rank.max(dim=1)
    chosen &= torch.zeros_like(chosen).scatter(1, owner[:, None], top[:, None] > 0)
    aligned = torch.where(chosen, aligned, torch.zeros_like(aligned))
    fit = torch.where(chosen, overlap, torch.zeros_like(overlap)).amax(-1, keepdim=True)
    fit = fit.clamp(min=LEAST_FIT)
    # The best candidate of an object learns its overlap as score, the others in proportion.
    share = aligned / aligned.amax(-1, keepdim=True).clamp(min=TINY) * fit
    target = share.amax(dim=1)  # (N, K)
    is_object = chosen.any(dim=1)
    own = labels.clamp(min=0).gather(1, owner)
    classes = functional.one_hot(own, scores.shape[-1])
    crowd = (inside & (labels < -1)[..., None]).any(dim=1)
    return Assignment(
        scores=classes * (target * is_object)[..., None],
        boxes=corners.gather(1, owner[..., None].expand(-1, -1, 4)),
        is_object=is_object,
        is_counted=is_object | ~crowd,
    )


def _inside(points: Tensor, corners: Tensor) -> Tensor:
    """Return which points lie in which boxes, (N, objects, K)."""
    points = points[None] if points.ndim == 2 else points
    low = points[:, None] > corners[:, :, None, :2]
    high = points[:, None] < corners[:, :, None, 2:]
    return (low & high).all(-1)


def _nearest(points: Tensor, corners: Tensor) -> Tensor:
    """Return, of each box, which point is nearest to its centre: small boxes may hold none."""
    points = points[None] if points.ndim == 2 else points
    centres = (corners[..., :2] + corners[..., 2:]) / 2
    distance = (points[:, None] - centres[:, :, None]).square().sum(-1)
    return distance == distance.amin(-1, keepdim=True)


def _bin_entropy(found: Detections, boxes: Tensor) -> Tensor:
    """Return the cross-entropy of the two bins beside each distance, mean over edges (N, K)."""
    points, strides = found.points, found.strides
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
    count = found.bins.shape[-1]
    # Below the last bin, so that `low + 1` is a bin too.
    wanted = (distances / strides[:, None]).clamp(0, count - 1.01)
    low = wanted.long()
    share = wanted - low
    logs = functional.log_softmax(found.bins.float(), dim=-1)
    entropy: Tensor = -(
        logs.gather(-1, low[..., None])[..., 0] * (1 - share)
        + logs.gather(-1, low[..., None] + 1)[..., 0] * share
    )
    return entropy.mean(-1)
