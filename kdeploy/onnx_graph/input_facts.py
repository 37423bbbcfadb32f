"""What files that are no ONNX say of their input: OpenVINO's `.xml` and torch.export's `.pt2`.

Sources: OpenVINO's IR (https://docs.openvino.ai, "OpenVINO IR format"); torch's
`torch/_export/serde/schema.yaml`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kdeploy.errors import ModelError
from kdeploy.onnx_graph.facts import OPEN

_FLOAT = 7  # torch's number for float32 in an archive


def item_shape(path: Path, form: str) -> tuple[int, ...]:
    """Return the shape of one input item, without the batch; OPEN for a size that is not fixed.

    Raises:
        ModelError: the file cannot be read, or does not take floats.
    """
    try:
        shape, is_float = READERS[form](path)
    except (ElementTree.ParseError, zipfile.BadZipFile, LookupError, ValueError) as error:
        raise ModelError(
            f"{path} does not say what it takes ({error})", hint="export it again"
        ) from error
    if not is_float or not shape:
        raise ModelError(
            f"{path} takes no items of floats, and nothing else says what it takes",
            hint="name the data to measure it on (`--data`)",
        )
    return shape


def _openvino(path: Path) -> tuple[tuple[int, ...], bool]:
    facts = ElementTree.parse(path).find(".//layer[@type='Parameter']/data")
    if facts is None:
        raise LookupError("it has no input")
    _, *sizes = facts.attrib["shape"].split(",")
    shape = tuple(int(size) if size.isdigit() else OPEN for size in sizes)
    return shape, facts.attrib["element_type"] == "f32"


def _torch_export(path: Path) -> tuple[tuple[int, ...], bool]:
    with zipfile.ZipFile(path) as archive:
        [name] = [n for n in archive.namelist() if "/models/" in n]
        graph = json.loads(archive.read(name))["graph_module"]["graph"]
    known: Mapping[str, Any] = graph["tensor_values"][graph["inputs"][-1]["as_tensor"]["name"]]
    shape = tuple(int(size.get("as_int", OPEN)) for size in known["sizes"][1:])
    return shape, known["dtype"] == _FLOAT


READERS: Mapping[str, Callable[[Path], tuple[tuple[int, ...], bool]]] = {
    "openvino": _openvino,
    "torch_export": _torch_export,
}
