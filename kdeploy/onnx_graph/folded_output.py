"""What a task reads in outputs, as operators of an ONNX file: probabilities, boxes, own units.

The answer stays one that the task's decoder reads, so that the runners of a bundle tell the same of
it: the softmax of class scores and of the classes of each pixel, each at the size of the picture;
boxes (batch, candidates, 4) with probabilities; numbers in their own unit; vectors of length 1. All
of it is float, behind the last quantizer of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.folded_boxes import boxes_of
from kdeploy.onnx_graph.steps import Steps
from kdeploy.tasks.contract import has_class_rows

Named = Mapping[str, ir.Value]
PROBABILITIES = "probabilities"
LEAST_SCORE = 1e-5
"""Of a detection among rows of zeros, which only fill up."""


def fold_decoding(
    model: ir.Model, task: Mapping[str, Any], *, are_logits: bool = True, suppresses: bool = False
) -> Mapping[str, Any]:
    """Let the file decode its outputs; return the task as it reads the new ones.

    Args:
        model: Changed in place; outputs of a task that has nothing to fold stay as they are.
        task: As the task tells itself, see `Task.to_dict`; empty for classes.
        are_logits: Of class scores: whether they are no probabilities yet.
        suppresses: Of detections: leave the boxes alone that are no worse copy of another one.

    Raises:
        ModelError: suppression is asked for, and the file answers no boxes that can be read here.
    """
    graph, name = model.graph, str(task.get("name", ""))
    steps = Steps(graph, "decoding")
    if suppresses and (name != "detection" or task["parameters"]["head"]):
        raise ModelError(
            f"suppression folds into a detector, and this is `{name or 'classification'}`"
            + (" with a head of its own" if name == "detection" else ""),
            hint="leave `fold_suppression` (`--fold-suppression`) out",
        )
    if name == "detection" and not task["parameters"]["head"]:
        made = boxes_of(steps, _outputs(graph), task, suppresses=suppresses)
        _give(graph, steps, made)
        changed = _with(task, "parameters", scores=PROBABILITIES)
        least = max(task["parameters"]["score_threshold"], LEAST_SCORE)
        return _with(changed, "parameters", score_threshold=least) if suppresses else changed
    fold = _CLASSES if has_class_rows(name or "classification") else _FOLDS.get(name)
    if fold is None or (fold is _CLASSES and not are_logits):
        return task
    called, change = fold
    _give(graph, steps, {called: change(steps, graph.outputs[0], task)})
    if name == "multi_label":
        return _with(task, "found", are_probabilities=True)
    return _with(task, "parameters", standardize=False) if name == "regression" else task


def _outputs(graph: ir.Graph) -> Named:
    return {str(value.name): value for value in graph.outputs}


def _with(task: Mapping[str, Any], part: str, **values: Any) -> dict[str, Any]:
    return {**task, part: {**task[part], **values}}


def _give(graph: ir.Graph, steps: Steps, made: Named) -> None:
    """Put new outputs in the place of the old ones, which become inner tensors."""
    known = {value.name: value for value in graph.outputs}
    graph.outputs.clear()
    for name, value in made.items():
        if name in known:
            known[name].name = f"{name}_raw"
        value.name, value.dtype = name, ir.DataType.FLOAT
        graph.outputs.append(value)
    steps.put_last()


def _softmax(axis: int) -> Callable[..., ir.Value]:
    return lambda steps, output, task: steps.add("Softmax", output, axis=axis)


def _sigmoid(steps: Steps, output: ir.Value, task: Mapping[str, Any]) -> ir.Value:
    del task
    return steps.add("Sigmoid", output)


def _own_unit(steps: Steps, output: ir.Value, task: Mapping[str, Any]) -> ir.Value:
    if not task["parameters"]["standardize"]:
        return steps.add("Identity", output)
    mean, std = (np.asarray(task["found"][key], np.float32) for key in ("mean", "std"))
    return steps.add("Add", steps.add("Mul", output, std), mean)


def _unit_vectors(steps: Steps, output: ir.Value, task: Mapping[str, Any]) -> ir.Value:
    del task
    square = steps.add("Mul", output, output)
    length = steps.add("Sqrt", steps.add("ReduceSum", square, np.array([-1]), keepdims=1))
    return steps.add("Div", output, steps.add("Max", length, np.array([1e-12], np.float32)))


def _class_maps(steps: Steps, output: ir.Value, task: Mapping[str, Any]) -> ir.Value:
    """Return the probability of each class for each pixel of the picture."""
    shape = tuple(output.shape or ())
    if shape[2:] != tuple(task["found"]["size"]):
        batch = steps.add("Shape", output, start=0, end=2)
        size = np.array(task["found"]["size"], np.int64)
        output = steps.add(
            "Resize",
            output,
            None,
            None,
            steps.add("Concat", batch, size, axis=0),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
    if shape[1] == 1:  # one channel is a class beside none
        output = steps.add("Concat", steps.add("Sub", output, output), output, axis=1)
    return steps.add("Softmax", output, axis=1)


Fold = tuple[str, Callable[..., ir.Value]]
_CLASSES: Fold = (PROBABILITIES, _softmax(-1))
_FOLDS: Mapping[str, Fold] = {
    "ctc": (PROBABILITIES, _softmax(-1)),
    "tokens": (PROBABILITIES, _softmax(-1)),
    "segmentation": (PROBABILITIES, _class_maps),
    "multi_label": (PROBABILITIES, _sigmoid),
    "regression": ("values", _own_unit),
    "embedding": ("embedding", _unit_vectors),
}
"""By task: what the new output is called, and how it is made. Others stay as they are."""
