"""Tensors by name out of the files that people keep weights in; nothing in them is executed.

Safetensors, also in several files with an index, and what `torch.save` wrote: a state dict, or a
checkpoint that has one among its entries. A pickled module is refused: loading it runs code.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdeploy.errors import FileMissing, ModelError
from kdeploy.store.artifact import file_sha256
from kdeploy.untrusted.git_pointer import refuse_pointer
from kdeploy.untrusted.json_document import json_text

INDEX_ENDING = ".index.json"
STATE_DICT_NAMES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params")
"""Entries of a checkpoint that are its model's; averaged ones are taken where there is no other."""
AVERAGED_NAMES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
MOST_NESTED = 3  # as `{"state": {"model": {"state_dict": ...}}}`
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_SYSTEMS = ("Posix", "Windows", "PurePosix", "PureWindows")
_HARMLESS: list[Any] = [
    argparse.Namespace,  # what timm and many training scripts keep beside the tensors
    np.dtype,
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    *((PurePath, f"pathlib.{local}{kind}Path") for local in ("", "_local.") for kind in _SYSTEMS),
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]
_OF_ARRAYS = (".multiarray._reconstruct", ".numeric._frombuffer")
_PICKLED = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensors:
    """What a file holds."""

    file: Path
    tensors: Mapping[str, Tensor]
    messages: tuple[str, ...] = ()
    """What was chosen on the way, a sentence each."""


def read_weights(file: Path) -> StoredTensors:
    """Return the tensors of a file.

    Raises:
        FileMissing: the file, or one that it names, is not there.
        ModelError: it holds no tensors by name, or what only executing it would give.
    """
    if not file.is_file():
        raise FileMissing(f"there is no file of weights {file}", hint="check the path")
    refuse_pointer(file, ModelError)
    with file.open("rb") as opened:
        head = opened.read(16)
    if file.name.endswith(INDEX_ENDING):
        return _from_index(file)
    if head[8:9] == b"{":
        return _from_safetensors(file)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _from_torch(file)
    raise ModelError(
        f"{file} is neither safetensors nor a file of `torch.save`: it begins with {head!r}",
        hint="save tensors by name, e.g. `torch.save(model.state_dict(), FILE)`",
    )


def weights_sha256(file: Path) -> str:
    """Return the digest of a file and of those that it names."""
    files = [file, *(_parts(file) if file.name.endswith(INDEX_ENDING) else ())]
    digests = [file_sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else sha256("\n".join(digests).encode()).hexdigest()


def _from_safetensors(file: Path) -> StoredTensors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            notes = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is not a safetensors file: {error}",
            hint="write it again: `safetensors.torch.save_model(model, FILE)`",
        ) from None
    # `save_model` keeps one of several names of a tensor, and notes the others.
    tied = {name: tensors[kept] for name, kept in notes.items() if kept in tensors}
    return StoredTensors(file=file, tensors={**tied, **tensors})


def _from_index(file: Path) -> StoredTensors:
    parts = [read_weights(path) for path in _parts(file)]
    return StoredTensors(
        file=file,
        tensors={name: tensor for part in parts for name, tensor in part.tensors.items()},
        messages=(f"read {len(parts)} files that {file.name} names",),
    )


def _parts(file: Path) -> list[Path]:
    try:
        names = sorted(set(json_text(file.read_bytes())["weight_map"].values()))
        parts = [file.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{file} is no index of files of weights: {error!r}",
            hint="it has `weight_map: {name of the tensor: file beside it}`",
        ) from None
    for part in parts:
        if not part.is_file():
            raise FileMissing(f"{file} names {part.name}, and there is no {part}", hint="copy it")
    return parts


def _from_torch(file: Path) -> StoredTensors:
    entry, messages = _loaded(file), []
    for _ in range(MOST_NESTED):
        if not isinstance(entry, Mapping) or not entry or _is_state_dict(entry):
            break
        name = _entry_name(entry, file)
        others = [key for key in _state_dicts(entry) if key != name]
        messages.append(
            f"took the entry `{name}`" + (f" and left out {_listed(others)}" if others else "")
        )
        entry = entry[name]
    if not isinstance(entry, Mapping) or not _is_state_dict(entry):
        raise ModelError(
            f"{file} holds a {type(entry).__name__}, and no tensors by name",
            hint="save tensors by name: `torch.save(model.state_dict(), FILE)`",
        )
    tensors = {name: value.detach() for name, value in entry.items() if isinstance(value, Tensor)}
    return StoredTensors(file=file, tensors=tensors, messages=tuple(messages))


def _loaded(file: Path) -> Any:
    _refuse_other_zip(file)
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an old file has an old format is no fault of it
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes the reader raises whatever it stumbles over
        text = str(error)
        found = _PICKLED.search(text)
        if found is None and "weights_only" not in text:
            raise ModelError(
                f"{file} cannot be read: {text.splitlines()[0] if text else error!r}",
                hint="save it again: `torch.save(model.state_dict(), FILE)`",
            ) from None
        if found is not None and found[1].endswith(_OF_ARRAYS):
            raise ModelError(
                f"{file} holds NumPy arrays, and only tensors are read: loading others runs code",
                hint=f"where you trust the file, convert it once:\n{_array_conversion(file)}",
            ) from None
        what = f"a pickled `{found[1]}`" if found else "more than tensors"
        raise ModelError(
            f"{file} holds {what}: only tensors are read, for loading it would run code",
            hint=f"where you trust the file, convert it once:\n{_conversion(file)}",
        ) from None


def _refuse_other_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, RuntimeError):
        return  # no zip, or a damaged one, of which torch will say so
    if any(name.endswith(".npy") for name in names):
        raise ModelError(
            f"{file} holds NumPy arrays ({', '.join(names[:3])}), not what `torch.save` wrote",
            hint="`torch.save({k: torch.from_numpy(v) for k, v in numpy.load(FILE).items()}, FILE)`"
            " with the names of the model's tensors",
        )
    if any("/code/" in name for name in names):
        raise ModelError(
            f"{file} is a TorchScript program, not tensors by name",
            hint=f"convert it once:\n{_conversion(file, load='torch.jit.load(%r)')}",
        )


def _conversion(file: Path, load: str = "torch.load(%r, weights_only=False)") -> str:
    """Return the two lines that make tensors by name of a file that has to be trusted."""
    made = str(file.with_name(f"{file.stem}-tensors.pt"))
    return (
        f"    import torch; model = {load % str(file)}\n"
        f"    torch.save(model.state_dict(), {made!r})"
        "  # of a checkpoint: torch.save(model['model'], ...)"
    )


def _array_conversion(file: Path) -> str:
    made = str(file.with_name(f"{file.stem}-tensors.pt"))
    return (
        f"    import torch; arrays = torch.load({str(file)!r}, weights_only=False)\n"
        f"    torch.save({{name: torch.as_tensor(a) for name, a in arrays.items()}}, {made!r})"
    )


def _is_state_dict(entry: Mapping[Any, Any]) -> bool:
    """Tell whether the entries are tensors; a few others (`_extra_state`) may stand among them."""
    num_tensors = sum(isinstance(value, Tensor) for value in entry.values())
    return num_tensors > 0 and 2 * num_tensors > len(entry) and all(map(_is_name, entry))


def _is_name(key: Any) -> bool:
    return isinstance(key, str)


def _state_dicts(entry: Mapping[Any, Any], depth: int = MOST_NESTED) -> list[str]:
    """Return the keys under which tensors by name stand, at once or deeper."""
    return [
        key
        for key, value in entry.items()
        if isinstance(key, str)
        and isinstance(value, Mapping)
        and (_is_state_dict(value) or (depth > 1 and _state_dicts(value, depth - 1)))
    ]


def _entry_name(checkpoint: Mapping[Any, Any], file: Path) -> str:
    found = _state_dicts(checkpoint)
    for name in (*STATE_DICT_NAMES, *AVERAGED_NAMES):
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    listed = _listed([str(key) for key in checkpoint])
    raise ModelError(
        f"{file} is a checkpoint with the entries {listed}, "
        + ("and none has tensors by name" if not found else f"and {_listed(found)} have tensors"),
        hint="save the one that is meant: `torch.save(torch.load(FILE)['NAME'], OTHER)`",
    )


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{name}`" for name in names[:most]) + more
