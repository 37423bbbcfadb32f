"""Compare what a model computes here with what was recorded when it was packaged."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]
Arrays = dict[str, Any]
Verdict = tuple[Any, ...]
"""The check, whether it passed, why, and where there are any the value and its bound."""
ERRORS = {
    "golden.max_abs": "largest difference",
    "golden.rms": "root mean square of the difference",
}


def arrays(path: Path) -> list[Any]:
    """Return the arrays of an .npz file, in its order."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[name] for name in stored.files]


def checks(folder: Path, manifest: Json, answers: list[Arrays]) -> list[Verdict]:
    """Return the checks of the answers to the recorded items."""
    recorded = arrays(folder / "golden" / "outputs.npz")
    tolerance = json.loads((folder / "golden" / "tolerance.json").read_bytes())
    told = [tolerance, *tolerance.get("further", [])]
    values = manifest["outputs"][0]["values"]
    worst: dict[str, tuple[float, float]] = {}
    of_classes = []
    for port, expected, one in zip(manifest["outputs"], recorded, told):  # noqa: B905 - Python 3.9
        wrong = _wrongly_derived(expected, one, values if one is tolerance else "")
        if wrong:
            return [wrong]
        given = [np.asarray(answer[port["name"]]) for answer in answers]
        wrong = _of_another_shape(port, given)
        if wrong:
            return [wrong]
        found = _as_recorded(given, expected)
        check, error, bound = _error(found, expected, one)
        before, allowed = worst.get(check, (0.0, 1.0))
        if error / bound >= before / allowed:
            worst[check] = (error, bound)
        if one is tolerance and values:
            of_classes.append(_of_classes(found, expected, tolerance["top1_items"]))
    about = f"to the outputs of {len(recorded[0])} items"
    judged = [
        (check, worst[check][0] <= worst[check][1], f"{what} {about}", *worst[check])
        for check, what in ERRORS.items()
        if check in worst
    ]
    return [*judged, *of_classes, *_of_decoded(manifest, answers, recorded, tolerance)]


def _error(found: Any, expected: Any, tolerance: Json) -> tuple[str, float, float]:
    """Return the check of an output with its value and bound; infinity of what is no number."""
    check = "golden.rms" if "rms_atol" in tolerance else "golden.max_abs"
    bound = tolerance["rms_atol" if "rms_atol" in tolerance else "atol"]
    if found is None:
        return check, float("inf"), bound
    # Of integers and truths the difference is one of numbers.
    away = np.abs(found.astype(np.float64) - expected)
    if check == "golden.rms":
        error = float(np.sqrt(np.square(away).mean()))
    else:
        error = float(away.max(initial=0))
    return check, error if np.isfinite(error) else float("inf"), bound


def _of_decoded(
    manifest: Json, answers: list[Arrays], recorded: list[Any], tolerance: Json
) -> list[Verdict]:
    """Return the check of what the task reads in the outputs, where it says how to compare it."""
    if not Path(__file__).with_name("decode.py").is_file():
        return []
    decode: Any = importlib.import_module("kdeploy_bundle.decode")
    if not hasattr(decode, "disagreement"):
        return []
    names = [port["name"] for port in manifest["outputs"]]
    count = len(recorded[0])
    for item, answer in enumerate(answers[:count]):
        expected = {name: x[item : item + 1] for name, x in zip(names, recorded)}  # noqa: B905
        if np.shape(answer[names[0]]) != expected[names[0]].shape:
            return [("golden.decoded", False, f"item {item}: the answer has another shape")]
        wrong = decode.disagreement(answer, expected, manifest["task"], tolerance["atol"])
        if wrong is None:
            return []
        if wrong:
            return [("golden.decoded", False, f"item {item}: {wrong}")]
    return [("golden.decoded", True, f"what is read in {count} items is as recorded")]


def _of_another_shape(port: Json, answers: list[Any]) -> Any:
    """Return the check that fails where the file gives a shape that the manifest does not name."""
    named = [1 if size == "batch" else size for size in port["shape"]]
    for item, answer in enumerate(answers):
        sizes = zip(named, answer.shape)  # noqa: B905 - Python 3.9
        if len(named) != answer.ndim or any(a != b and not isinstance(a, str) for a, b in sizes):
            about = f"item {item}: `{port['name']}` has shape {answer.shape}"
            return "golden.shape", False, f"{about}, the manifest says {port['shape']}"
    return None


def _as_recorded(answers: list[Any], expected: Any) -> Any:
    """Return what the calls gave as it is recorded; None where it is of another shape."""
    arrays = answers[: len(expected)]
    if any(array.size != expected[0].size for array in arrays):
        return None
    return np.stack(arrays).reshape(expected.shape)


def _wrongly_derived(expected: Any, tolerance: Json, values: str) -> Any:
    """Return the check that fails where the tolerance is not that of the recorded outputs."""
    if expected.dtype.kind == "f" and not np.isfinite(expected).all():
        return "golden.max_abs", False, "the recorded outputs are no finite numbers"
    # In float32 the mean of outputs that hardly vary is further off than they are from it.
    std = float(expected.std(dtype=np.float64))
    holds = np.isclose(std, tolerance["output_std"], rtol=1e-3)
    if values and holds:
        rows = expected.reshape(-1, expected.shape[-1])
        lead = np.diff(np.sort(rows, axis=1)[:, -2:], axis=1)[:, 0]
        # All but near ties.
        holds = tolerance["top1_items"] == np.flatnonzero(lead > tolerance["atol"]).tolist()
    if not holds:
        wrong = "golden/tolerance.json does not follow from the recorded outputs"
        return "golden.tolerance", False, wrong
    sums_to_one = values and (expected >= 0).all() and np.allclose(expected.sum(-1), 1, atol=1e-3)
    if values and values != ("probabilities" if sums_to_one else "logits"):
        wrong = f"outputs.0.values is {values!r}, which the recorded outputs are not"
        return "golden.values", False, wrong
    return None


def _of_classes(found: Any, expected: Any, items: list[int]) -> Verdict:
    if found is None:
        return ("golden.top1", False, "items with their class", 0, len(items))
    classes = [x.reshape(-1, x.shape[-1]).argmax(1) for x in (found, expected)]
    agree = int((classes[0][items] == classes[1][items]).sum())
    same = agree == len(items)
    return ("golden.top1", same, "items with their class", agree, len(items))
