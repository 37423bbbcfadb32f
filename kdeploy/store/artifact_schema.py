"""What the manifest of an artefact must hold: each key with its type, and what stands for none.

The checksum of a manifest proves that it is whole, not who wrote it: whoever can change a key can
write the checksum anew. So all that is read from one has been looked at here before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

MOST_BYTES = 64 * 2**20  # the edits of a model of 10 000 layers are 4 MB
MOST_NUMBERS = 2**28  # of one item: a gibibyte of float32
ID = re.compile(r"[0-9a-f]{12}")
SHA256 = re.compile(r"[0-9a-f]{64}")

_TEXT, _INTEGER, _TABLE, _LIST = (str,), (int,), (dict,), (list,)
_NUMBER, _TABLE_OR_NONE = (int, float, type(None)), (dict, type(None))

# Key: its types, and the value where it is absent; "required" where it never is.
_MANIFEST: Mapping[str, tuple[tuple[type, ...], Any]] = {
    "id": (_TEXT, "required"),
    "kind": (_TEXT, "required"),
    "label": (_TEXT, "required"),
    "files": (_TABLE, "required"),
    "created": (_TEXT, "required"),
    "kdeploy": (_TEXT, "required"),
    "schema_version": (_INTEGER, "required"),
    "stage": (_TEXT, ""),
    "technique": (_TEXT, ""),
    "parameters": (_TABLE, {}),
    "parents": (_LIST, []),
    "facts": (_TABLE, {}),
    "scores": (_TABLE, {}),
    "lineage": (_LIST, []),
    "machine": (_TEXT, ""),
    "data": (_TABLE_OR_NONE, None),
}
_OPTIONAL = {"model": _TABLE, "file": _TEXT, "model_artifact": _TEXT}
_STEP: Mapping[str, tuple[tuple[type, ...], Any]] = {
    key: _MANIFEST[key] for key in ("stage", "technique", "parameters", "facts", "scores")
} | {"id": (_TEXT, ""), "label": (_TEXT, "")}
_FACTS = {
    **dict.fromkeys(("size", "opset", "parameters", "macs", "sparsity"), _NUMBER),
    **dict.fromkeys(("parity.max_abs", "parity.cosine"), _NUMBER),
    **dict.fromkeys(("parity.agreement", "parity.required_tolerance"), _NUMBER),
    "parity.agreement_metric": _TEXT,
    **dict.fromkeys(("validation_accuracy", "validation_accuracy_unrecovered"), _NUMBER),
    **dict.fromkeys(("is_quantized", "passed"), (bool,)),
    "parity.runtime": _TEXT,
    "report": _TABLE_OR_NONE,
    "checks": _LIST,
}
_DATA: Mapping[str, tuple[tuple[type, ...], Any]] = {
    "name": (_TEXT, ""),
    "fingerprint": (_TEXT, ""),
    "preprocessing": (_TABLE_OR_NONE, None),
    "reference": (_TABLE_OR_NONE, None),
}
# Of a list: what each of its members is.
_PREPROCESSING: Mapping[str, tuple[type, ...]] = {
    "shape": (list, int),
    "scale": (int, float),
    "mean": (list, int, float),
    "std": (list, int, float),
    "resize": (str,),
    "background": (list, int),
    "classes": (list, str),
    "dtype": (str,),
    "vocabulary": (int,),
}
_MODEL = {"build": _TEXT, "args": _TABLE, "folder": _TEXT, "edits": _LIST}


class MalformedManifest(ValueError):
    """Says which key holds what it must not."""


def completed(manifest: Any) -> dict[str, Any]:
    """Return a manifest with a value for every key that is read from one.

    Raises:
        Malformed: a key has another type, or a value that cannot be.
    """
    whole = _with_defaults(_table(manifest, "it"), _MANIFEST, "")
    for key, types in _OPTIONAL.items():
        if key in whole:
            _check(whole[key], types, key)
    if not ID.fullmatch(whole["id"]):
        raise MalformedManifest(f"id is {_shown(whole['id'])}, not 12 hexadecimal digits")
    for name, facts in whole["files"].items():
        _check_file(name, facts)
    named = whole.get("file")
    if named is not None and named not in whole["files"]:
        raise MalformedManifest(f"file is {_shown(named)}, which is not among its files")
    if "model_artifact" in whole and not ID.fullmatch(whole["model_artifact"]):
        raise MalformedManifest(f"model_artifact is {_shown(whole['model_artifact'])}, not an id")
    for parent in whole["parents"]:
        _check(parent, _TEXT, "parents")
    whole["lineage"] = [
        _step(step, f"lineage.{number}") for number, step in enumerate(whole["lineage"])
    ]
    _check_numbers(whole, "")
    if whole["data"] is not None:
        whole["data"] = _with_defaults(whole["data"], _DATA, "data.")
        _check_preprocessing(whole["data"]["preprocessing"])
    return whole


def model_facts(model: Any) -> Mapping[str, Any]:
    """Return the `model` entry of a torch artefact, which says how to rebuild it.

    Raises:
        Malformed: there is none, or a key has another type.
    """
    entry = _table(model, "model")
    for key, types in _MODEL.items():
        _check(entry.get(key), types, f"model.{key}")
    wrapper = entry.get("wrapper")
    if wrapper is not None:
        _check(_table(wrapper, "model.wrapper").get("name"), _TEXT, "model.wrapper.name")
        _check(wrapper.get("state"), _TABLE, "model.wrapper.state")
    for number, edit in enumerate(entry["edits"]):
        _check(_table(edit, f"model.edits.{number}").get("path"), _TEXT, "model.edits.path")
    for name, owner in _table(entry.get("tied", {}), "model.tied").items():
        _check(owner, _TEXT, f"model.tied.{name}")
    return {"wrapper": None, "tied": {}, **entry}


def _check_preprocessing(known: Mapping[str, Any] | None) -> None:
    if known is None:
        return
    for key, types in _PREPROCESSING.items():
        if key not in known:
            continue
        where = f"data.preprocessing.{key}"
        values = known[key] if types[0] is list else [known[key]]
        _check(known[key], types[:1] if types[0] is list else types, where)
        for value in values:
            _check(value, types[1:] if types[0] is list else types, where)
            if isinstance(value, int | float) and value < 0 and key != "mean":
                raise MalformedManifest(f"{where} is {_shown(known[key])}")
    if math.prod(known.get("shape", ())) > MOST_NUMBERS:
        raise MalformedManifest(f"data.preprocessing.shape is {_shown(known['shape'])}")


def _step(step: Any, where: str) -> dict[str, Any]:
    known = _with_defaults(_table(step, where), _STEP, f"{where}.")
    _check_numbers(known, f"{where}.")
    return known


def _check_numbers(step: Mapping[str, Any], where: str) -> None:
    for group in ("facts", "scores"):
        for key, value in step[group].items():
            if key in _FACTS:
                _check(value, _FACTS[key], f"{where}{group}.{key}")
    for check in step["facts"].get("checks", ()):
        _check(_table(check, f"{where}facts.checks").get("check"), _TEXT, f"{where}facts.checks")


def _with_defaults(
    found: Mapping[str, Any], known: Mapping[str, tuple[tuple[type, ...], Any]], where: str
) -> dict[str, Any]:
    whole = dict(found)
    for key, (types, default) in known.items():
        if key not in whole and default == "required":
            raise MalformedManifest(f"{where}{key} is missing")
        _check(whole.setdefault(key, default), types, f"{where}{key}")
    return whole


def _check_file(name: str, facts: Any) -> None:
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or ".." in parts or "\0" in name or len(name) > 4096:
        raise MalformedManifest(f"files has {_shown(name)}, a name that leaves the folder")
    digest = _table(facts, f"files.{name}").get("sha256")
    if not isinstance(digest, str) or not SHA256.fullmatch(digest):
        raise MalformedManifest(f"files.{name}.sha256 is {_shown(digest)}")
    _check(facts.get("size"), _INTEGER, f"files.{name}.size")
    if facts["size"] < 0:
        raise MalformedManifest(f"files.{name}.size is {facts['size']}")


def _table(value: Any, where: str) -> dict[str, Any]:
    _check(value, _TABLE, where)
    return dict(value)


def _check(value: Any, types: tuple[type, ...], where: str) -> None:
    # True is an int to Python, and no number to anybody else.
    fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if not fits:
        raise MalformedManifest(
            f"{where} is {_shown(value)}, not {' or '.join(t.__name__ for t in types)}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise MalformedManifest(f"{where} is {value}")
    if isinstance(value, int) and abs(value) > 2**63:
        raise MalformedManifest(f"{where} is a number of {value.bit_length()} bits")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
