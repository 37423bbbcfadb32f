"""Is a `.pt2` archive plain data? Loading a pickle runs whatever code its author put there.

torch 2.13 reads tensors as bytes, but unpickles objects where the archive has some, and example
inputs that are no tensors. Source: `torch/export/pt2_archive/_package.py`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdeploy.errors import ModelError
from kdeploy.runtimes.contract import unreadable
from kdeploy.tensor_info import TensorInfo

# All that `torch.export.save` writes of a graph of tensors, below the archive's own folder.
PLAIN = re.compile(
    r"models/\w+\.json|data/(weights|constants)/((weight|tensor)_\d+|\w+_config\.json)"
    r"|data/sample_inputs/\w+\.pt|extra/.+|archive_format|archive_version|byteorder|\.data/\w+"
)

# torch's numbers for types of numbers in an archive: `torch/_export/serde/schema.py`, ScalarType.
DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64"},
    **{6: "float16", 7: "float32", 8: "float64", 12: "bool", 13: "bfloat16"},
}


def inputs_of(path: Path) -> tuple[TensorInfo, ...]:
    """Return what the graph of an archive says of its inputs.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = [n for n in archive.namelist() if "/models/" in n]
            module = json.loads(archive.read(name))["graph_module"]
        given = [
            spec["user_input"]["arg"]["as_tensor"]["name"]
            for spec in module["signature"]["input_specs"]
            if "user_input" in spec and "as_tensor" in spec["user_input"]["arg"]
        ]
        return tuple(_tensor(name, module["graph"]["tensor_values"][name]) for name in given)
    except (zipfile.BadZipFile, LookupError, ValueError, TypeError) as error:
        raise unreadable(path, error) from error


def _tensor(name: str, told: Mapping[str, Any]) -> TensorInfo:
    sizes = (s.get("as_int", s.get("as_expr", {}).get("expr_str", "?")) for s in told["sizes"])
    return TensorInfo(name=name, shape=tuple(sizes), dtype=DTYPES.get(told["dtype"], "other"))


def check_archive(path: Path) -> None:
    """Raise unless the file is an archive that holds a graph and tensors, and nothing to run.

    Raises:
        ModelError: it is none, or it holds pickles or compiled code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            suspicious = [name for name in names if not _is_plain(archive, name)]
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
        raise ModelError(
            f"cannot open {path}: it is no archive of torch.export ({error})",
            hint="make one by `kdeploy export torch_export`",
        ) from error
    if suspicious:
        raise ModelError(
            f"{path} is not opened: loading `{suspicious[0]}` in it would run code",
            hint="export the model again: `kdeploy export torch_export` writes tensors alone",
        )


def _is_plain(archive: zipfile.ZipFile, name: str) -> bool:
    inside = name.partition("/")[2]
    if not PLAIN.fullmatch(inside):
        return False
    if inside.endswith("_config.json"):
        entries = json.loads(archive.read(name))["config"].values()
        # One flag for each weight: torch then calls `torch.load` with pickles allowed.
        return not any(entry["use_pickle"] for entry in entries)
    return not inside.endswith(".pt") or _holds_tensors(archive.read(name))


def _holds_tensors(content: bytes) -> bool:
    """Return whether torch reads it without running code; what is empty it does not read."""
    import pickle

    import torch

    try:
        if content:
            # With an unpickler that knows tensors alone: what refuses it would run code.
            torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return False
    return True
