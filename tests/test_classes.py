"""A row of no numbers names no class, whatever `argmax` says."""

from __future__ import annotations

import numpy as np
import pytest

from kdeploy.classes import NO_CLASS, classes_of, not_finite
from kdeploy.registry import ROOT

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.1, 0.7, 0.2], 1),
        ([NAN, NAN, NAN], NO_CLASS),
        ([0.1, NAN, 0.9], NO_CLASS),
        ([0.1, INF, 0.2], NO_CLASS),
        ([-INF, -INF, -INF], NO_CLASS),
        ([-INF, 0.3, -INF], 1),  # classes that are ruled out, and one that is not
    ],
)
def test_a_class_is_the_largest_of_numbers(row, expected):
    logits = np.array([[0.0, 0.0, 1.0], row], np.float32)
    assert classes_of(logits).tolist() == [2, expected]


def test_tokens_have_a_class_each():
    logits = np.zeros((2, 3, 4), np.float32)
    logits[1, 2] = NAN
    found = classes_of(logits)
    assert found.shape == (2, 3)
    assert np.argwhere(found == NO_CLASS).tolist() == [[1, 2]]


def test_the_reason_counts_them_and_names_the_first():
    assert not_finite(np.array([0, 1, 2])) is None
    reason = not_finite(np.array([0, NO_CLASS, 2, NO_CLASS]), what="test items")
    assert "2 of 4 test items" in reason
    assert reason.endswith("counted from 0: 1)")


# Where an `argmax` reads something else than a model's answer, or a check stands beside it.
KNOWN = {
    "classes.py": "here",
    "data/class_targets.py": "labels that people gave",
    "data/labels.py": "as there",
    "export/disagreement.py": "of gaps between two answers",
    "tasks/image_precision.py": "of overlaps of boxes",
    "tasks/usual.py": "in validation, beside a count of rows without a class",
    "tasks/segmentation.py": "of masks that people gave",
    "tasks/ctc.py": "of targets that people gave",
    "tasks/decoding/segmentation.py": "beside a mark for pixels of no numbers",
    "tasks/decoding/detection.py": "behind a check of all cells",
    "tasks/decoding/keypoint_heatmaps.py": "places, beside the height of the peak",
    "tasks/decoding/ctc.py": "behind a check of all frames",
    "tasks/decoding/tokens.py": "on a device, of a file that passed its golden test",
    "metrics/contract.py": "the nearest of vectors that were checked",
    "quantization/sensitivity.py": "behind a check of all rows",
    "package/runner/python/golden.py": "golden outputs, which are finite",
    "quantization/block_rounding.py": "the largest of weights, which are finite",
    "runtimes/torch_stream.py": "the token that greedy decoding goes on with, for its time",
    "runtimes/openvino_state.py": "as there",
    "runtimes/llama_cpp.py": "as there",
}


def test_no_other_file_takes_the_first_class_for_an_answer():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if "argmax("
        in "".join(
            line.split("#")[0] for line in path.read_text().splitlines() if "hint=" not in line
        )
    }
    assert found <= set(KNOWN), "read classes with `kdeploy.classes.classes_of`"
