"""Early exits: heads on inner layers of a model, and inference that stops at the first sure one.

The heads are layers of `torch.nn` inside the model, under `exit_heads`, named by the layer that
each reads. The model's own forward does not run them, so it is exported, measured and compressed
as if they were not there, and stored with them: `Exits(load_model(artifact))` has them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from kdeploy.distill.feature_hooks import features_of, modules_at
from kdeploy.errors import ModelError, UnknownName
from kdeploy.torch_module.complexity import count_parameters
from kdeploy.torch_module.named_inputs import call

HEADS = "exit_heads"
# A name of a module cannot have a dot in it.
DOT = "/"
POOLS = {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d}


def attach_exits(
    model: nn.Module, paths: Sequence[str], example: Tensor, *, num_classes: int
) -> None:
    """Put a head, global pooling and a linear layer, on each of the layers at the paths.

    Outputs of three dimensions are (batch, channels, length) where the items are signals, else
    (batch, tokens, channels), of which the mean over tokens is taken.

    Args:
        model: Is changed: it gets the module `exit_heads`.
        paths: Of the layers, in the order of the forward pass.
        example: A batch of preprocessed items.
        num_classes: Outputs of each head.

    Raises:
        UnknownName: there is no such layer.
        ModelError: a layer's output is not one that a head can read.
    """
    modules_at(model, paths, role="student")
    was_training = model.training
    model.eval()
    with torch.no_grad(), features_of(model, paths, role="student") as features:
        call(model, example)
    model.train(was_training)
    # A layer that passes on what it gets: a model that is an `nn.Sequential` runs all it holds.
    heads = nn.Identity()
    for path in paths:
        shape = features[path].shape if path in features else ()
        heads.add_module(path.replace(".", DOT), _head(path, shape, example.ndim, num_classes))
    setattr(model, HEADS, heads)


def count_without_exits(model: nn.Module) -> int:
    """Return the number of parameters of the model itself, which alone are exported."""
    heads = getattr(model, HEADS, None)
    return count_parameters(model) - (count_parameters(heads) if heads is not None else 0)


class Exits(nn.Module):
    """A model with its exits: `forward` gives the last logits, `exits` those of every exit.

    Args:
        model: One that `attach_exits` has given heads.

    Raises:
        ModelError: it has no heads, or its layers were changed after they were put on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        heads = getattr(model, HEADS, None)
        if not isinstance(heads, nn.Identity):
            raise ModelError(
                f"this {type(model).__name__} has no exits",
                hint="train it by the scheme `self_exits`, e.g. `exits: [layer1, layer2]`",
            )
        self.model = model
        self.heads = {name.replace(DOT, "."): head for name, head in heads.named_children()}

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's own logits (batch, classes)."""
        logits: Tensor = call(self.model, x)
        return logits

    def exits(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of every exit in their order, the model's own at last."""
        with features_of(self.model, list(self.heads), role="student") as features:
            logits = call(self.model, x)
        return (*self.answers(features), logits)

    def answers(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return the logits of the heads for the outputs of their layers."""
        return [self._answer(path, head, features[path]) for path, head in self.heads.items()]

    @torch.no_grad()
    def early(self, x: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
        """Return logits (batch, classes), and for each item at which exit it left, from 0.

        An item leaves at the first exit whose largest probability is at least the threshold; what
        is left runs to the end. A batch goes on as long as one of its items does: time is saved
        where the whole batch has left, so items are best asked one by one or in small batches.

        Args:
            x: Preprocessed items (batch, *shape).
            threshold: Of the largest probability; above 1 nothing leaves early.
        """
        last = len(self.heads)
        left = torch.full((len(x),), last, dtype=torch.int64, device=x.device)
        answers: list[Tensor] = []

        def look(place: int, logits: Tensor) -> None:
            logits = logits.float()
            stays = left == last  # no exit was sure yet; the last one takes all that come to it
            # An item that has left keeps the logits of its exit.
            answers[:] = [torch.where(stays[:, None], logits, *answers)] if answers else [logits]
            left[stays & (logits.softmax(1).amax(1) >= threshold)] = place
            if place < last and not bool((left == last).any()):
                raise _AllLeft

        def reader(place: int, path: str) -> Callable[..., None]:
            head = self.heads[path]
            return lambda module, inputs, out: look(place, self._answer(path, head, out))

        with ExitStack() as hooks, suppress(_AllLeft):
            modules = modules_at(self.model, list(self.heads), role="student")
            for place, (path, module) in enumerate(modules.items()):
                hooks.enter_context(module.register_forward_hook(reader(place, path)))
            look(last, call(self.model, x))
        return answers[0], left

    def _answer(self, path: str, head: nn.Module, features: Tensor) -> Tensor:
        try:
            logits: Tensor = head(features)
        except RuntimeError as error:
            raise ModelError(
                f"the exit at `{path}` does not fit its layer any more: {error}",
                hint="the model was compressed after its exits were trained; distil it again",
            ) from error
        return logits.mean(1) if logits.ndim == 3 else logits


class ExitAnswers(nn.Module):
    """A model whose answers are those of its exits, its own at last: what is exported.

    Args:
        model: One with exits.
        paths: Of the layers whose exits count, in the order of the forward pass; none: of all.

    Raises:
        UnknownName: a layer has no exit.
        ModelError: the model has none.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str] = ()) -> None:
        super().__init__()
        self.exits = Exits(model)
        for path in paths:
            if path not in self.exits.heads:
                raise UnknownName.among("exit", path, self.exits.heads, where="the model")
        self.paths = tuple(paths) or tuple(self.exits.heads)
        self.train(model.training)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits (batch, classes), of each exit and of the model itself."""
        *early, last = self.exits.exits(x)
        known = dict(zip(self.exits.heads, early, strict=True))
        return (*(known[path] for path in self.paths), last)


class _AllLeft(Exception):
    """Every item of a batch has left; the rest of the model need not run."""


def _head(path: str, shape: Sequence[int], rank: int, num_classes: int) -> nn.Module:
    """Return the head for an output of this shape, of a model whose input has this rank."""
    if len(shape) == 2 or (len(shape) == 3 and rank != 3):
        return nn.Linear(shape[-1], num_classes)
    if len(shape) in POOLS:
        linear = nn.Linear(shape[1], num_classes)
        return nn.Sequential(POOLS[len(shape)](1), nn.Flatten(), linear)
    raise ModelError(
        f"the layer `{path}` of the student gives {tuple(shape) or 'nothing'}: no exit can read it",
        hint="name layers that run in the forward pass and give features of 2 to 5 dimensions",
    )
