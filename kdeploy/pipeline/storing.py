"""Store a torch model: what was written is loaded back at once and compared with the live model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import ModelError
from kdeploy.pipeline.session import Made
from kdeploy.quantization.contract import is_wrapped
from kdeploy.store.model_io import rebuild, save_model
from kdeploy.store.references import ModelReference
from kdeploy.torch_module.model_outputs import in_eval, joined, named
from kdeploy.torch_module.named_inputs import call, tensors_of
from kdeploy.torch_module.outside_state import different
from kdeploy.training.fit import FitResult

EARLY_LOOK = "early_look.json"
ITEMS = 8  # that a stored model must answer as the one in memory
TOLERANCE = 1e-3
"""Of the largest output."""
CODES_TOLERANCE = 0.1
"""Of one that computes on integers: a last bit may round a code, and those behind it, otherwise."""


def store_model(
    folder: Path, model: nn.Module, reference: ModelReference, data: Dataset
) -> dict[str, Any]:
    """Write a model's payload, compare what it brings back, and return its manifest entry.

    Raises:
        ModelError: the model that is loaded back answers differently.
    """
    facts = save_model(folder, model, reference)
    loaded = rebuild(folder, facts, data.preprocessing)
    part = data.validation if len(data.validation) else data.train
    x = tensors_of(data.preprocessing.apply(part.x[: data.preprocessing.at_once(ITEMS)]))
    with in_eval(model), torch.no_grad():
        expected, found = (joined(named(call(m, x.clone()))).double() for m in (model, loaded))
    is_alike = torch.equal(found.isfinite(), expected.isfinite())
    expected, found = expected.nan_to_num(), found.nan_to_num()
    moved = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    tolerance = CODES_TOLERANCE if is_wrapped(model) else TOLERANCE
    if moved > tolerance * largest or not is_alike:
        raise _not_the_same(model, loaded, moved, largest)
    return facts


def _not_the_same(model: nn.Module, loaded: nn.Module, moved: float, largest: float) -> ModelError:
    names = [f"`{value.name}`" for value in different(model, loaded)[:3]]
    because = f": {', '.join(names)} is not in its state_dict" if names else ""
    return ModelError(
        f"the model that was stored is not the one that was made: loaded back, its outputs differ"
        f" by up to {moved:.3g} (largest output {largest:.3g}){because}; nothing was stored",
        hint='keep all that forward needs in parameters or `register_buffer("name", tensor)`,'
        " and let the build function make the same structure each time",
    )


def with_early_look(made: Made, result: FitResult) -> Made:
    """Keep, beside what was made, what was seen of it on the way, and how its training went."""
    if result.seen is None:
        return made
    known = {**result.seen.to_dict(), "training": result.settings.training()}

    def write(folder: Path) -> Mapping[str, Any]:
        entries = made.write(folder)
        (folder / EARLY_LOOK).write_text(json.dumps(known))
        return entries

    return replace(made, write=write)
