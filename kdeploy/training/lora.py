"""Low-rank adaptation: of each linear layer a small update is trained, the layer itself is not.

Hu et al. 2021, arXiv:2106.09685, section 4.1: W + (alpha / rank) B A with A (rank, inputs) drawn as
`nn.Linear` draws its weight and B (outputs, rank) zero, so that the model begins as it was. All
else is frozen: biases, norms, embeddings and the head. After the training the updates are added to
the weights, and the model has the tensors that it always had.

While it is trained, its state has no frozen parameter: checkpoints, averages and the best epoch
hold what is trained, and the buffers.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.quantization.contract import quantized_by
from kdeploy.quantization.trained_codes import TrainedCodes
from kdeploy.torch_module.hooks import hooked
from kdeploy.torch_module.layer_patterns import matching
from kdeploy.torch_module.model_outputs import answer_of
from kdeploy.training.config import LoraConfig
from kdeploy.training.contract import FitContext
from kdeploy.training.predict import two_items

A, B = "lora_a", "lora_b"
progress = logging.getLogger("kdeploy.progress")


@contextmanager
def adapted(
    model: nn.Module, lora: LoraConfig, data: Dataset, context: FitContext
) -> Iterator[None]:
    """Have updates trained inside the `with` instead of the model; they are in its weights then.

    After an error they are gone, and the weights are as they were.

    Args:
        model: What is trained.
        lora: Rank and scale of the updates, and of which layers they are.
        data: Shows which layers the model calls.
        context: Has the seed of A's first values.

    Raises:
        ModelError: the model has integer weights or zeros that have to stay, or no layer that an
            update could be of.
        UnknownName: a target that means no layer.
    """
    if context.constraints:
        raise ModelError(
            "`lora` changes every weight of a layer, and this training holds weights to something:"
            f" {context.constraints[0].fingerprint}",
            hint="leave `lora` out: all weights are trained then, and what is held stays",
        )
    layers = target_layers(model, lora.targets, data)
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = _begin(model, layers, lora, context.seed)
    try:
        _tell(model, layers)
        with hooked(handles):
            yield
        with torch.no_grad():
            for layer in layers.values():
                layer.weight.copy_(_merged(layer, lora.alpha / lora.rank))
    finally:
        for layer in layers.values():
            del layer._parameters[A], layer._parameters[B]
        for parameter in asked:
            parameter.requires_grad_(True)


def target_layers(
    model: nn.Module, targets: Sequence[str], data: Dataset
) -> Mapping[str, nn.Linear]:
    """Return by name the linear layers that get updates: those named, else all but the head.

    An update can be of a layer that the model calls, with a weight that is trained otherwise and
    that nothing else computes with.
    """
    codes = any(isinstance(module, TrainedCodes) for module in model.modules())
    if by := quantized_by(model) or ("int4_weights" if codes else ""):
        raise ModelError(
            f"`lora` adds updates to float weights, and the model is quantized (`{by}`)",
            hint=f"leave `lora` out, or recover with it before the step `{by}`",
        )
    usable, heads = _usable(model, data)
    if not usable:
        raise ModelError(
            f"`lora` trains updates of linear layers, and `{type(model).__name__}` calls none"
            " whose weight is its own and not frozen",
            hint="leave `lora` out: all weights are trained then",
        )
    names = [name for name in usable if name not in heads]
    if targets:
        names = matching(usable, targets, where="lora.targets")
    elif not names:
        raise ModelError(
            f"`lora` spares the head, and `{type(model).__name__}` has no other linear layer than"
            f" `{heads[0]}`",
            hint=f"name it, `lora: {{targets: [{heads[0]}]}}`, or leave `lora` out",
        )
    return {name: usable[name] for name in names}


def _usable(model: nn.Module, data: Dataset) -> tuple[dict[str, nn.Linear], list[str]]:
    """Return the layers that an update can be of, and which of them give the model's answer."""
    users = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _is_plain(module) and users[id(module.weight)] == 1
    }
    made: dict[nn.Module, Tensor] = {}
    keep = partial(_keep_output, made)
    with hooked([layer.register_forward_hook(keep) for layer in linear.values()]):
        answer = answer_of(model, two_items(model, data), role="the student", several=True)
    answers = [answer] if isinstance(answer, Tensor) else list(answer.values())
    # By memory: a view of what a layer returned is its answer all the same.
    places = {tensor.untyped_storage().data_ptr() for tensor in answers}
    called = {name: layer for name, layer in linear.items() if layer in made}
    heads = [n for n in called if made[called[n]].untyped_storage().data_ptr() in places]
    return called, heads


def _keep_output(
    made: dict[nn.Module, Tensor], layer: nn.Module, args: tuple[Any, ...], output: Tensor
) -> None:
    del args
    made[layer] = output


def _is_plain(layer: nn.Linear) -> bool:
    """Tell whether a layer computes as `nn.Linear` does, with a parameter that asks a gradient."""
    is_own = type(layer).forward is nn.Linear.forward and "forward" not in vars(layer)
    weight = layer._parameters.get("weight")
    return is_own and weight is not None and weight.requires_grad


def _begin(
    model: nn.Module, layers: Mapping[str, nn.Linear], lora: LoraConfig, seed: int
) -> list[RemovableHandle]:
    """Freeze the model and give the layers their updates; return the hooks that apply them."""
    frozen = dict(model.named_parameters(remove_duplicate=False))
    model.requires_grad_(False)
    # Of its own: whoever draws after this gets what they would get without it.
    random = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        first = torch.empty(lora.rank, layer.in_features)
        nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=random)
        layer.register_parameter(A, nn.Parameter(first.to(layer.weight)))
        zero = layer.weight.new_zeros(layer.out_features, lora.rank)
        layer.register_parameter(B, nn.Parameter(zero))
    add = partial(_with_update, scale=lora.alpha / lora.rank)
    return [
        *(layer.register_forward_hook(add, with_kwargs=True) for layer in layers.values()),
        model.register_state_dict_post_hook(partial(_leave_out, frozen)),  # type: ignore[no-untyped-call]
        model.register_load_state_dict_pre_hook(partial(_put_in, frozen)),  # type: ignore[no-untyped-call]
    ]


def _with_update(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor, *, scale: float
) -> Tensor:
    given: Tensor = args[0] if args else kwargs["input"]
    small = F.linear(given, layer.get_parameter(A)) * scale
    return output + F.linear(small, layer.get_parameter(B))


def _merged(layer: nn.Linear, scale: float) -> Tensor:
    """Return W + scale * B A, computed in float32 at least."""
    wide = torch.promote_types(layer.weight.dtype, torch.float32)
    update = layer.get_parameter(B).to(wide) @ layer.get_parameter(A).to(wide)
    return layer.weight.to(wide) + scale * update


def _leave_out(
    frozen: Mapping[str, nn.Parameter],
    model: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
) -> None:
    del model, metadata
    for name in frozen:
        state.pop(prefix + name, None)


def _put_in(
    frozen: Mapping[str, nn.Parameter],
    model: nn.Module,
    state: dict[str, Any],
    prefix: str,
    *further: Any,
) -> None:
    """Have a state, of which frozen parameters were left out, loaded as a whole one."""
    del further
    now = dict(model.named_parameters(remove_duplicate=False))
    for name in frozen:
        # As they are now: a training may have divided them among processes.
        state.setdefault(prefix + name, now[name])


def _tell(model: nn.Module, layers: Mapping[str, nn.Linear]) -> None:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    progress.info(
        "LoRA trains updates of %d linear layers: %d parameters, %d are frozen",
        len(layers),
        trained,
        total - trained,
    )
