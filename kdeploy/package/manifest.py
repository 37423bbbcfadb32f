"""The manifest of a bundle: what the file is, takes, gives, cost and must keep to.

The dataclasses say what is written and read; what each value may be stands in the table of rules
that travels with the runner (`runner/python/rules.py`), and holds on the device too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from kdeploy.errors import ArtifactCorrupt
from kdeploy.package.runner.python.reading import MOST_TEXT_BYTES, Refused, json_object
from kdeploy.package.runner.python.rules import document

SCHEMA_VERSION, FIRST_VERSION = 2, 1
"""Written is the first that can say it: a bundle as of old is read by an older kdeploy too."""
MANIFEST = "manifest.json"
Layout = Literal["NCTHW", "NCHW", "NHWC", "NCL", "NC", "NT"]
Values = Literal["logits", "probabilities", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """The file that the device runs."""

    file: str
    format: str
    sha256: str
    size: int
    """Of the file and of all that belongs to it, in bytes."""
    profile: str
    is_quantized: bool
    opset: int | None = None
    """Of an ONNX file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPreprocessing:
    """How stored numbers become one input of several: `(x * scale - mean) / std`.

    Integers go in as they are, each below `vocabulary`.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    vocabulary: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the file; the axis of the batch is called "batch" where it is open."""

    name: str
    shape: tuple[int | str, ...]
    type: str
    values: Values = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPort(Port):
    """An input of the file, and how it is made of what is stored."""

    preprocessing: InputPreprocessing | None = None
    """Of an input beside others; None: it is given as the file takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """An output that is fed back as an input of the next call; zeros before the first."""

    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPreprocessing:
    """How an item becomes an input: opaque and resized (images), then `(x * scale - mean) / std`.

    Token ids (layout "NT", `dtype` "int64") go in as they are, each below `vocabulary`.
    """

    layout: Layout
    shape: tuple[int, ...]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["", "bilinear", "letterbox"]
    classes: tuple[str, ...]
    dtype: Literal["float32", "int64"] = "float32"
    vocabulary: int = 0
    background: tuple[int, ...] = ()
    """Red, green and blue that transparent pixels are laid on; (): the data had none."""
    folded: bool = False
    """Whether the file does all but the background by itself: it takes bytes of pixels (layout
    "NHWC"), of any size where `resize` is not empty. `shape` is what it makes of them."""

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """Return the shape of pixels that a folded file takes; 0 for any size."""
        channels, height, width = self.shape
        return (0, 0, channels) if self.resize else (height, width, channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A gate as an absolute bound, judged on the device or on a recorded value."""

    gate: str
    metric: str
    is_upper: bool
    bound: float
    unit: str
    judged: Literal["device", "recorded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """The licence of a part: an SPDX identifier or its first line, and where the text stands."""

    part: str
    identifier: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that `manifest.json` says."""

    schema_version: int
    kind: Literal["bundle"]
    name: str
    created: str
    kdeploy: str
    artifact: str
    model: ModelFile
    inputs: tuple[InputPort, ...]
    outputs: tuple[Port, ...]
    preprocessing: StoredPreprocessing | None
    """How the one input is made of an item; None: inputs are given as the file takes them."""
    classes: tuple[str, ...]
    accuracy: Mapping[str, Any]
    recorded: Mapping[str, float]
    budgets: tuple[Budget, ...]
    chosen_because: str
    licences: tuple[Licence, ...]
    machine: Mapping[str, Any]
    made_with: Mapping[str, str]
    lineage: tuple[Mapping[str, Any], ...]
    state: tuple[State, ...] = ()
    release: int = 0
    """Counts up from one bundle of its maker to the next; 0: it has no number."""
    task: Mapping[str, Any] = field(default_factory=dict)
    """What outputs mean, as the task tells it; empty where they are classes."""

    dynamic: Mapping[str, Any] = field(default_factory=dict)
    """Of a dynamic model what its file says, and the part that answered each golden item."""

    @property
    def version(self) -> int:
        """Return the first version of the schema that can say all this."""
        is_plain = len(self.inputs) == len(self.outputs) == 1 and self.model.format == "onnx"
        has_classes = self.preprocessing is not None and self.outputs[0].values != ""
        is_plain = is_plain and not (self.preprocessing and self.preprocessing.folded)
        return FIRST_VERSION if is_plain and has_classes else SCHEMA_VERSION


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.json`."""
    fields = {**asdict(manifest), "schema_version": manifest.version}
    form = manifest.preprocessing
    if form is not None and form.layout != "NT":  # as before there were tokens
        del fields["preprocessing"]["dtype"], fields["preprocessing"]["vocabulary"]
    if form is not None and not form.background:
        del fields["preprocessing"]["background"]
    if form is not None and not form.folded:
        del fields["preprocessing"]["folded"]
    for table, key in (
        *((port, "preprocessing") for port in fields["inputs"]),
        (fields, "state"),
        (fields, "task"),
        (fields, "release"),
        (fields, "dynamic"),
        (fields, "preprocessing"),
        (fields["model"], "opset"),
    ):
        if not table[key]:
            del table[key]
    text = json.dumps(fields, indent=2, allow_nan=False, default=str)
    (folder / MANIFEST).write_text(text + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Return the checked manifest of a bundle.

    Raises:
        ArtifactCorrupt: it is not of the schema, or of a later one.
    """
    from pydantic import ValidationError

    try:
        _refuse_later(json_object(folder, MANIFEST))
        fields = {"preprocessing": None, **document(folder, MANIFEST)}
        found: Manifest = _adapter().validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _not_a_manifest(f"{place}: {first['msg'].lower()}") from None
    except (Refused, OSError, ValueError) as error:
        raise _not_a_manifest(str(error)) from None
    return found


@lru_cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def is_bundle(folder: Path) -> bool:
    """Return whether a folder has a bundle's manifest, of whatever version."""
    path = folder / MANIFEST
    is_small = path.is_file() and path.stat().st_size <= MOST_TEXT_BYTES
    return is_small and is_manifest_of_bundle(path.read_bytes())


def is_manifest_of_bundle(text: bytes) -> bool:
    """Return whether this is a bundle's manifest, of whatever version."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("kind") == "bundle"


def _refuse_later(fields: Any) -> None:
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactCorrupt(
            f"the bundle has schema_version {version}; this kdeploy reads up to {SCHEMA_VERSION}",
            hint="pip install --upgrade kdeploy",
        )


def _not_a_manifest(reason: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"{MANIFEST} does not describe a bundle: {reason}",
        hint="make the bundle again with `kdeploy package`",
    )
