"""Before any work: is a model a pure function of its input, and all that it knows in its state?

What is stored is the `state_dict`, and what is measured, exported and delivered is what a fresh
model computes with it. A model that draws random numbers, remembers, changes its input or keeps
values elsewhere would be another one there. A few forward passes of two items show it here.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.onnx_graph.model import OnnxModel
from kdeploy.store.structure import difference, replay
from kdeploy.torch_module.model_faults import (
    assigned_at,
    not_differentiable_at,
    random_at,
    random_state,
    returned_at,
    same,
    same_randomness,
)
from kdeploy.torch_module.model_outputs import changes_its_input, joined, outputs_of, told
from kdeploy.torch_module.named_inputs import call, tensors_of
from kdeploy.torch_module.named_outputs import named_outputs
from kdeploy.torch_module.outside_state import HeldValue, changed, different, outside_state
from kdeploy.training.compilation import first_output
from kdeploy.untrusted.user_code import described, is_memory, users_code

TOLERANCE = 1e-4
"""Of the largest output; the same computation differs by about 1e-6 of it."""
RANDOM_NODES = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)
ANOTHER_SEED = 20150309
FURTHER_SEEDS = (1, 2, 3)
SQUEEZED = (
    "`squeeze()` takes the axis of a batch of one away too: name the axis, `squeeze(1)` or"
    " `flatten(1)`"
)
logger = logging.getLogger(__name__)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Yield a list that takes what is said of models while the block runs, once each."""
    found: list[str] = []

    class Taking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in found:
                found.append(record.getMessage())

    handler, passed_on = Taking(), logger.propagate
    logger.addHandler(handler)
    # Taken, not heard twice: whoever takes them says them with more around.
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = passed_on


def check_pure(
    model: nn.Module,
    batches: tuple[Tensor, Tensor],
    answer: Tensor,
    who: str,
    *,
    again: Callable[[], nn.Module] | None = None,
    batch_sizes: Mapping[str, int] | None = None,
) -> None:
    """Refuse a model that is no function of its input alone, or that a store would not bring back.

    Args:
        model: Is used up: its statistics are not what they were.
        batches: Two batches of two real items; the first of both is the same.
        answer: What it answered to the first batch.
        who: Begins the messages, e.g. "the teacher".
        again: Makes the model once more, with other random numbers; None for one that is a file.
        batch_sizes: Of the trainings to come, by their keys in the recipe; None for a model that
            is only asked.

    Raises:
        ModelError: it names the line, layer or attribute to change.
    """
    pair, other = batches
    beside_another = outputs_of(model, other, role=who)
    if _differ(answer, outputs_of(model, pair, role=who)):
        raise _not_repeatable(model, pair, who)
    # The first item is the same in both batches, its neighbour is another, or there is none.
    depends = _differ(answer[:1], beside_another[:1])
    if not isinstance(model, OnnxModel):
        depends |= _differ(answer[:1], _alone(model, pair, answer, who))
    if depends:
        logger.warning("%s", _depends_on_neighbours(model, who))
    if isinstance(model, OnnxModel):
        return
    if batch_sizes is not None:
        _check_training(model, pair, answer, who, batch_sizes)
    if again is not None:
        _check_state(model, again, batches, who)


def two_batches(data: Dataset) -> tuple[Tensor, Tensor]:
    """Return two batches of two items, of which the first item is the same."""
    count = len(data.train)
    rows = np.array([0, count // 2, count - 1])
    items = tensors_of(data.preprocessing.apply(data.train.x[rows]))
    return items[[0, 1]], items[[0, 2]]


def _differ(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not torch.equal(one.isfinite(), other.isfinite()):
        return True
    # NaN and infinity stand at the same places, as was checked: only the others can differ.
    one, other = one.nan_to_num().double(), other.nan_to_num().double()
    largest = torch.cat([one.flatten(), other.flatten()]).abs().max()
    return bool((one - other).abs().max() > TOLERANCE * largest)


def _alone(model: nn.Module, pair: Tensor, answer: Tensor, who: str) -> Tensor:
    """Return the answer to the first item alone, as a device asks for it."""
    try:
        alone = outputs_of(model, pair[:1], role=who)
    except ModelError as error:
        raise ModelError(
            f"{error.message}; that was one item alone, as devices ask for it: two went well",
            hint=f"{SQUEEZED}; batch norm with running statistics takes one item",
        ) from error
    if alone.shape != answer[:1].shape:
        place = returned_at(model, pair)
        raise ModelError(
            f"{who} answers one item alone with the shape {tuple(alone.shape)}, and two with"
            f" {tuple(answer.shape)}{f' ({place})' if place else ''}",
            hint=f"{SQUEEZED}, and reshape with `x.shape[0]`",
        )
    return alone


def _not_repeatable(model: nn.Module, x: Tensor, who: str) -> ModelError:
    """Return the error for a model that answers the same question in two ways."""
    text = f"{who} answers the same input differently from call to call"
    if isinstance(model, OnnxModel):
        return ModelError(
            f"{text}: {model.path.name} {_random_nodes(model.path)}",
            hint="export it in eval mode, without noise and dropout",
        )
    if place := random_at(model, x):
        return ModelError(
            f"{text}: it draws random numbers in eval mode ({place})",
            hint="draw only `if self.training:`; `F.dropout(x, p, training=self.training)`"
            " for `F.dropout(x, p)`",
        )
    before = outside_state(model)
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    outputs_of(model, x, role=who)
    moved = changed(before, outside_state(model))
    buffers = [n for n, t in model.state_dict().items() if not same(t, tensors[n])]
    names = buffers + [value.name for value in moved]
    place = assigned_at(moved[0].owner, moved[0].attribute) if moved and not buffers else ""
    kept = (
        f"it changes `{'`, `'.join(names[:3])}` in each call"
        if names
        else ("it remembers earlier calls, or draws from a generator of its own")
    )
    kept += f" ({place})" if place else ""
    return ModelError(
        f"{text}: {kept}",
        hint="compute from the input alone; start states anew in each forward, e.g."
        " `h = x.new_zeros(...)`",
    )


def _random_nodes(path: Path) -> str:
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    found = [f"`{n.op_type}` ({n.name or n.output[0]})" for n in nodes if n.op_type in RANDOM_NODES]
    return f"draws random numbers in {', '.join(found[:3])}" if found else "is not repeatable"


def _depends_on_neighbours(model: nn.Module, who: str) -> str:
    norms = [
        f"`{name}` ({type(module).__name__})"
        for name, module in model.named_modules()
        if getattr(module, "track_running_stats", True) is False
        and "BatchNorm" in type(module).__name__
    ]
    why = f": {', '.join(norms[:3])} has no running statistics" if norms else ""
    hint = (
        "`track_running_stats=True`"
        if norms
        else "an attention layer without `batch_first=True`, or a mean over dimension 0, does that"
    )
    return (
        f"{who} answers an item by what else is in its batch{why}; batches of other sizes get other"
        f" accuracies; hint: {hint}"
    )


def _check_training(
    model: nn.Module, pair: Tensor, answer: Tensor, who: str, batch_sizes: Mapping[str, int]
) -> None:
    """Run once as in training, and say what is used of several outputs."""
    given = pair.clone()
    # Dropout may draw here; what it draws is not to change the training that follows.
    with same_randomness(ANOTHER_SEED), torch.enable_grad():
        with users_code(f"{who} cannot run in training mode", model=model):
            returned = call(model.train(), given)
        key = next((key for key, size in batch_sizes.items() if size == 1), None)
        if key is not None:
            with users_code(
                f"{who} cannot be trained with batches of one item",
                hint=f"set `{key}: 2` or more: batch norm needs two values a channel",
                model=model,
            ):
                call(model, pair[:1].clone())
    if not same(given, pair):
        raise changes_its_input(model, pair, role=who, when=" while it is trained")
    model.eval()
    first = first_output(returned)
    is_used_whole = first is returned
    with torch.no_grad():
        is_mapping = isinstance(first, Mapping) and isinstance(call(model, pair.clone()), Mapping)
    if is_mapping:
        first = joined(named_outputs(first))
    if not isinstance(first, Tensor) or first.shape != answer.shape:
        place = returned_at(model.train(), pair)
        model.eval()
        raise ModelError(
            f"{who} returns {told(returned)} in training mode{f' ({place})' if place else ''} and"
            f" {told(answer)} in eval mode",
            hint="return the logits, or a tuple that begins with them, in both",
        )
    _check_backward(model, first, pair, who)
    if not is_used_whole:
        logger.warning(
            "%s returns %s while training: the first is learned from, the others are not used",
            who,
            told(returned),
        )


def _check_backward(model: nn.Module, first: Tensor, x: Tensor, who: str) -> None:
    """Refuse what autograd refuses, such as a tensor that was overwritten before it was needed."""
    if not first.requires_grad:
        if any(parameter.requires_grad for parameter in model.parameters()):
            place = returned_at(model, x)
            raise ModelError(
                f"{who} cannot be trained: no gradient gets from its answer to its weights"
                f"{f' ({place})' if place else ''}",
                hint="leave `torch.no_grad()`, `.detach()`, `.data`, `.numpy()` and `argmax` out of"
                " forward",
            )
        return
    try:
        first.float().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if is_memory(error):
            raise
        place = not_differentiable_at(model, x)
        raise ModelError(
            f"{who} cannot be trained: {described(error)}{f' ({place})' if place else ''}",
            hint="compute a new tensor there: `x = x + y` for `x += y`, `inplace=False`",
        ) from error
    finally:
        model.zero_grad(set_to_none=True)


def _check_state(
    model: nn.Module, again: Callable[[], nn.Module], batches: tuple[Tensor, Tensor], who: str
) -> None:
    """Refuse values that a fresh model with the same `state_dict` does not have."""
    # Before the twin: it takes the woken weights with the `state_dict`.
    _wake(model)
    twins = _twins(model, again, who)
    pairs = ((twin, *_answers(model, twin, batches, who)) for twin in twins)
    unlike = next((found for found in pairs if _differ(*found[1:])), None)
    if unlike is None:
        return
    twin, one, other = unlike
    found = different(model, twin)
    moved = float((one - other).abs().max())
    text = (
        f"a second {who.removeprefix('the ')} with the same state_dict answers differently (by up"
        f" to {moved:.3g}): what was stored would not be what was trained"
    )
    if not found:
        raise ModelError(
            f"{text}; it depends on something that is not in the model",
            hint='keep all that forward needs in parameters or `register_buffer("name", tensor)`',
        )
    first = found[0]
    line = assigned_at(first.owner, first.attribute)
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    raise ModelError(
        f"{text}; `{first.name}`{others} is {first.kind} and not in the state_dict"
        f"{f' ({line})' if line else ''}",
        hint=_registered(first),
    )


def _twins(model: nn.Module, again: Callable[[], nn.Module], who: str) -> Iterator[nn.Module]:
    """Yield the model made once more with its `state_dict`, as a store brings it back.

    Where more than weights is drawn, a few times: a choice among few may fall on the same.

    Raises:
        ModelError: it does, now and then: what a store keeps of it depends on when it is made.
    """
    kinds, falls_on_the_same = [model], False
    for seed in (ANOTHER_SEED, *FURTHER_SEEDS):
        with same_randomness(seed):
            before = random_state()
            twin = again()
            has_drawn = before[1:] != random_state()[1:]  # torch draws the weights
        if has_drawn:
            is_known = any(not difference(twin, other) for other in kinds)
            falls_on_the_same |= is_known
            kinds += [] if is_known else [copy.deepcopy(twin)]
        # As a store keeps it: changed numbers and shapes are told beside the tensors.
        twin = replay(twin, difference(twin, model))
        twin.load_state_dict(model.state_dict())
        yield twin
        if not has_drawn:
            return
    if falls_on_the_same and len(kinds) > 1:
        raise ModelError(
            f"the build function of {who} makes one of a few models, by chance: another one would"
            " be loaded again",
            hint="take what is drawn as an argument, `args:` in the recipe, or draw it from a"
            " generator with a seed of its own: `random.Random(0)`",
        )


def _answers(
    model: nn.Module, twin: nn.Module, batches: tuple[Tensor, Tensor], who: str
) -> tuple[Tensor, Tensor]:
    """Return what a model and its twin answer to the first batch."""
    # The other batch first: what is kept from a first call is then not the same.
    outputs_of(twin, batches[1], role=who)
    return outputs_of(model, batches[0], role=who), outputs_of(twin, batches[0], role=who)


def _registered(value: HeldValue) -> str:
    attribute, is_array, kind = value.attribute, value.is_array, value.kind
    holder = vars(value.owner).get(attribute)
    layers = list(holder.values()) if isinstance(holder, dict) else holder
    if isinstance(layers, list | tuple) and any(isinstance(layer, nn.Module) for layer in layers):
        container = "ModuleDict" if isinstance(holder, dict) else "ModuleList"
        return (
            f"`self.{attribute} = nn.{container}(...)`: such layers are neither trained nor stored"
        )
    if "persistent" in kind:
        return f'`self.register_buffer("{attribute}", ...)` without `persistent=False`'
    if is_array:
        return (
            f'`self.register_buffer("{attribute}", ...)` in `__init__` for `self.{attribute} = ...`'
        )
    return (
        f'`self.register_buffer("{attribute}", torch.tensor(...))`, or take it as an argument of'
        " the build function (`args:`)"
    )


@torch.no_grad()
def _wake(model: nn.Module) -> None:
    """Fill weights of zeros: behind a last layer of zeros nothing could be seen."""
    with same_randomness(ANOTHER_SEED):
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=0.05)
