"""Before any work: does a model answer logits, or probabilities that a loss would squash again?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.tasks.contract import is_of_classes
from kdeploy.torch_module.model_faults import returned_at
from kdeploy.torch_module.model_outputs import in_eval
from kdeploy.torch_module.named_inputs import call

SIGMOIDS = ("SigmoidBackward", "HardsigmoidBackward")
PASSED_ON = ("ViewBackward", "ReshapeAliasBackward", "UnsafeViewBackward", "SqueezeBackward")
"""Of torch's graph of a result: the operators, and what only shapes their result."""
OF_LABELS = ("multi_label", "segmentation")
"""Tasks beside those of classes whose losses take logits."""


def takes_logits(task: str) -> bool:
    """Tell whether the losses of a task squash what a model answers."""
    return is_of_classes(task) or task in OF_LABELS


def check_logits(model: nn.Module, x: Tensor, answer: Tensor, who: str) -> None:
    """Refuse probabilities from a model that is learned from, or learns.

    Args:
        model: Whose answer it is.
        x: The batch that it was asked.
        answer: (batch, classes), (batch, classes, height, width) or (batch, tokens, classes).
        who: Begins the messages, e.g. "the teacher".

    Raises:
        ModelError: the answer comes out of a softmax or a sigmoid.
    """
    if not answer.is_floating_point() or not bool(((answer >= 0) & (answer <= 1)).all()):
        return
    if _are_shares(answer):
        what, loss = "each row is positive and adds up to 1", "softmax"
    elif _is_sigmoid(model, x):
        what, loss = "each is what a sigmoid gives", "sigmoid"
    else:
        return
    is_file = isinstance(model, OnnxModel)
    place = model.path.name if isinstance(model, OnnxModel) else returned_at(model, x)
    raise ModelError(
        f"{who} returns probabilities, not logits ({place or 'its last layer'}): {what}, and the"
        " losses here squash logits themselves",
        hint=f"leave the {loss} out: return what goes into it"
        + (", e.g. export the model again without it" if is_file else ""),
    )


def _are_shares(answer: Tensor) -> bool:
    """Tell whether the values of each item's classes, last or after the batch, add up to 1."""
    axes = {1, answer.ndim - 1} - {0}
    sums = [answer.float().sum(axis) for axis in axes if answer.shape[axis] > 1]
    return any(torch.allclose(total, torch.ones_like(total), atol=1e-4) for total in sums)


def _is_sigmoid(model: nn.Module, x: Tensor) -> bool:
    if isinstance(model, OnnxModel):
        return _last_operator(model.path) in ("Sigmoid", "HardSigmoid")
    with in_eval(model), torch.enable_grad():
        answer = call(model, x.clone())
    made = answer.grad_fn if isinstance(answer, Tensor) else None
    while made is not None and made.name().startswith(PASSED_ON):
        made = made.next_functions[0][0]
    return made is not None and made.name().startswith(SIGMOIDS)


def _last_operator(path: Path) -> str:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return makers.get(graph.output[0].name, "") if graph.output else ""
