"""Models of this process: a module that nobody can rebuild from a file is found again by its name.

A copy is kept as long as the process lives. What is stored of such a model names it, and another
process is told what to do.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from typing import TYPE_CHECKING

from kdeploy.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

PLACE = "live"
HOW_TO_STORE = (
    "put its class into a file with a function that makes it, and name that (`build.py:function`, "
    "with `weights=` of `torch.save(module.state_dict(), FILE)`); an exported file needs no code"
)
_MODELS: dict[str, nn.Module] = {}


def keep(module: nn.Module) -> str:
    """Return the reference of a copy of the module as it is now; equal ones have the same.

    Raises:
        ModelError: it cannot be copied.
    """
    name = f"{type(module).__name__}-{_sha256(module)[:12]}"
    if name not in _MODELS:
        try:
            _MODELS[name] = copy.deepcopy(module).cpu()
        except Exception as error:
            raise ModelError(
                f"the {type(module).__name__} cannot be copied: {error}",
                hint="keep no tensors on it that were computed from weights; `.detach()` them",
            ) from error
    return f"{PLACE}:{name}"


def is_live(build: str) -> bool:
    """Return whether a reference names a model of a process."""
    return build.startswith(f"{PLACE}:")


def copy_of(name: str) -> nn.Module:
    """Return a copy of the module as it was kept.

    Raises:
        ModelError: another process has, or had it.
    """
    if name not in _MODELS:
        raise ModelError(
            f"`{name}` was a module of a Python session, and only that session knows its code",
            hint=HOW_TO_STORE,
        )
    return copy.deepcopy(_MODELS[name])


def _sha256(module: nn.Module) -> str:
    """Return the digest of code, structure and tensors."""
    import torch

    digest = hashlib.sha256(repr(module).encode())
    for kind in sorted({type(part) for part in module.modules()}, key=lambda kind: kind.__name__):
        if not kind.__module__.startswith("torch."):
            digest.update(_code_of(kind))
    for path, part in module.named_modules():
        digest.update(f"{path} {_plain_attributes(part)}".encode())
    for name, tensor in module.state_dict(keep_vars=True).items():
        whole = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
        if whole.numel():
            digest.update(whole.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain_attributes(module: nn.Module) -> list[str]:
    """Return what a module remembers beside its tensors, as text or by which object it is."""
    own = {name: value for name, value in vars(module).items() if name[0] != "_"}
    simple = (bool, int, float, str, bytes, tuple, type(None))
    return [
        f"{name}={value!r}" if isinstance(value, simple) else f"{name}@{id(value)}"
        for name, value in sorted(own.items())
        if name != "training"
    ]


def _code_of(kind: type) -> bytes:
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):  # typed at a prompt
        functions = (value for value in vars(kind).values() if inspect.isfunction(value))
        return b"".join(function.__code__.co_code for function in functions)
