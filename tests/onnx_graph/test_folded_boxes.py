"""A detector's boxes as operators, against the decoder in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.errors import ModelError
from kdeploy.tasks.decoding.detection import found_in
from tests.onnx_graph.test_folded_output import answers, item

SIZE = [64, 96]
CLASSES = ["cat", "dog", "cow"]


def task_of(scores="auto", head=""):
    parameters = {"scores": scores, "score_threshold": 0.3, "overlap": 0.5, "head": head}
    found = {"size": SIZE, "classes": CLASSES}
    return {"name": "detection", "parameters": parameters, "found": found}


def maps(bins=1, levels=((8, 12), (4, 6)), count=3):
    rng = np.random.default_rng(5)
    made = {}
    for level, size in enumerate(levels):
        boxes = rng.uniform(2, 25, (count, 4 * bins, *size)) if bins == 1 else None
        boxes = rng.standard_normal((count, 4 * bins, *size)) if boxes is None else boxes
        made[f"boxes.{level}"] = boxes.astype(np.float32)
        scores = rng.standard_normal((count, 3, *size)) * 2 - 1
        made[f"scores.{level}"] = scores.astype(np.float32)
    return made


def decoded(count=3, boxes=40):
    rng = np.random.default_rng(6)
    corner = rng.uniform(0, 50, (count, boxes, 2))
    made = np.concatenate([corner, corner + rng.uniform(4, 40, (count, boxes, 2))], -1)
    scores = rng.uniform(0, 1, (count, boxes, 3))
    return {"boxes": made.astype(np.float32), "scores": scores.astype(np.float32)}


RAW = {"distances": maps(), "bins": maps(bins=8), "decoded": decoded(), "many": maps(
    levels=((32, 48),)
)}  # fmt: skip


@pytest.mark.parametrize("suppresses", [False, True])
@pytest.mark.parametrize("kind", RAW)
def test_detections_are_those_that_python_reads(kind, suppresses):
    raw, task = RAW[kind], task_of()
    folded, read = answers(raw, task, suppresses=suppresses)
    assert list(folded) == ["boxes", "scores"]
    seen = 0
    for row in range(3):
        one, other = found_in(item(raw, row), task), found_in(item(folded, row), read)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-3)
        seen += len(one)
    assert seen > 20


def test_suppression_leaves_the_best_in_order_and_zeros():
    folded, _ = answers(RAW["decoded"], task_of(), suppresses=True)
    best = folded["scores"].max(-1)
    assert folded["boxes"].shape == (3, 40, 4)
    assert (np.diff(best, axis=1) <= 0).all()
    assert (folded["boxes"][best == 0] == 0).all()
    assert 0 < (best > 0).sum() < best.size


def test_rows_that_fill_up_are_no_detections_at_any_threshold():
    task = task_of()
    task["parameters"]["score_threshold"] = 0.0
    raw = decoded(count=1, boxes=30)
    folded, read = answers(raw, task, suppresses=True)
    assert len(found_in(folded, read)) == int((folded["scores"].max(-1) > 0).sum()) < 30


def test_logits_of_decoded_boxes_become_probabilities():
    raw = decoded()
    raw["scores"] = np.log(raw["scores"] / (1 - raw["scores"]))
    folded, read = answers(raw, task_of("logits"))
    np.testing.assert_allclose(folded["scores"], decoded()["scores"], rtol=1e-4, atol=1e-6)
    assert read["parameters"]["scores"] == "probabilities"


def test_a_head_of_ones_own_stays_as_it_is():
    task = task_of(head="head.py:Head")
    folded, read = answers(decoded(), task)
    np.testing.assert_array_equal(folded["boxes"], decoded()["boxes"])
    assert read == task
    with pytest.raises(ModelError, match="with a head of its own"):
        answers(decoded(), task, suppresses=True)
