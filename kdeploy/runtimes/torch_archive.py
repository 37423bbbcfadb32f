"""Is a `.pt2` archive plain data? Loading a pickle runs whatever code its author put there.

torch 2.13 reads tensors as bytes, but unpickles objects where the archive has some, and example
inputs that are no tensors. Source: `torch/export/pt2_archive/_package.py`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

from kdeploy.errors import ModelError

# All that `torch.export.save` writes of a graph of tensors, below the archive's own folder.
PLAIN = re.compile(
    r"models/\w+\.json|data/(weights|constants)/((weight|tensor)_\d+|\w+_config\.json)"
    r"|data/sample_inputs/\w+\.pt|extra/.+|archive_format|archive_version|byteorder|\.data/\w+"
)


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
        return not any(entry["use_pickle"] for entry in entries)
    return not inside.endswith(".pt") or _holds_tensors(archive.read(name))


def _holds_tensors(content: bytes) -> bool:
    """Return whether torch reads it without running code; what is empty it does not read."""
    import pickle

    import torch

    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return False
    return True
