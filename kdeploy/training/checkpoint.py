"""Checkpoints of a training: written whole or not at all, read without executing anything."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdeploy.data.contract import Dataset
from kdeploy.errors import Unavailable
from kdeploy.training.contract import FitContext, Objective
from kdeploy.training.defaults import Settled
from kdeploy.training.processes import ALONE, Processes

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
logger = logging.getLogger(__name__)


def save(state: Mapping[str, Any], folder: Path, *, fingerprint: str) -> None:
    """Write `state` (tensors and plain values) as the last checkpoint, keep the one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    # In memory first, so that a full disk is an OSError and not torch's own failure.
    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, **state}, buffer)
    temporary = folder / f"{LAST}.part"
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(FileNotFoundError):
        # Two renames: whatever moment a kill comes at, one of the two files is whole.
        (folder / LAST).replace(folder / PREVIOUS)
    temporary.replace(folder / LAST)


def load(folder: Path, *, fingerprint: str, processes: Processes = ALONE) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole and of the same settings; None without one.

    Raises:
        Unavailable: the first process finds another one.
    """
    state = _newest(folder, fingerprint)
    epochs = len(state["history"]) if state and processes.count > 1 else 0
    if epochs != processes.from_first(epochs):
        raise Unavailable(
            f"process {processes.rank} finds a checkpoint of {epochs} epochs in {folder}, "
            "the first process another",
            hint="let `--out` be a folder that all machines share",
        )
    return state


def _newest(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    for path in (folder / LAST, folder / PREVIOUS):
        state = _read(path)
        if state is not None and state.pop("fingerprint", None) == fingerprint:
            return state
        if state is not None:
            logger.warning("%s is of a training with other settings: not resumed", path)
    return None


def facts_of(
    objective: Objective, data: Dataset, context: FitContext, settings: Settled
) -> dict[str, Any]:
    """Return what, beside weights, device and precision, decides the result of a training."""
    return {
        "settings": settings.training_identity(),
        "look": repr(context.look),
        "seed": context.seed,
        "objective": getattr(objective, "fingerprint", type(objective).__qualname__),
        "data": data.fingerprint,
        "augment": data.augment,
        "preprocessing": data.preprocessing.to_dict(),
        "constraints": [constraint.fingerprint for constraint in context.constraints],
    }


def fingerprint_of(facts: Mapping[str, Any], model: nn.Module) -> str:
    """Return the digest of all that decides a training: its settings and the first weights."""
    digest = sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
            # As bytes: numpy has no bfloat16, and -0.0 is not 0.0.
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        # `weights_only`: a checkpoint is data, and runs no code when it is read.
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        logger.warning("%s cannot be read, it is passed over: %s", path, error)
        return None
    return state if isinstance(state, dict) else None
